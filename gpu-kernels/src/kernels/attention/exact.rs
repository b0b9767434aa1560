//! The plain definition in F32: one CTA a row and query head (or the few heads whose columns fill
//! blocks of 32), one pass over the keys with an online softmax. Source: Milakov & Gimelshein 2018.
//!
//! Everything is F32 with errors of a few units in the last place, so this is what exact mode runs
//! and what the fast kernels are compared to. It is not fast: each query head reads its keys anew.

use cuda_std::{GlobalMut, Launch, Shared, Thread, kernels, math};

use super::output::RowOut;
use super::{AttendParams, LOWEST, Row, Shape, heads_of_blocks, page_start};
use crate::kernels::step::PAGE_SIZE;

/// Threads of a CTA.
pub const THREADS: u32 = 128;
/// Greatest `head_dim`.
pub const MAX_HEAD_DIM: u32 = 512;

const WARPS: u32 = THREADS / 32;
/// Pairs of elements of a head that a lane sums.
const PAIRS: usize = MAX_HEAD_DIM as usize / 64;

kernels! {
    module "attention_exact";
    /// F32 keys and values.
    pub ATTN_EXACT_F32: attn_exact_f32(AttendParams), threads THREADS, ctas 4 => exact::<false>;
    /// f16 keys and values.
    pub ATTN_EXACT_F16: attn_exact_f16(AttendParams), threads THREADS, ctas 4 => exact::<true>;
}

/// Whether it works for a shape.
pub fn supports(shape: Shape) -> bool {
    shape.head_dim.is_multiple_of(8)
        && shape.head_dim <= MAX_HEAD_DIM
        && shape.heads.is_multiple_of(shape.kv_heads)
}

/// Launch for `rows` rows.
pub fn launch(shape: Shape, rows: u32) -> Launch {
    Launch::plane(shape.heads.div_ceil(heads_of_blocks(shape.head_dim)), rows, THREADS)
}

/// Shared memory of a CTA.
#[derive(Clone, Copy)]
struct Scratch {
    /// Query of the head, [head_dim].
    q: Shared<f32>,
    /// Sums of the warps, [WARPS, head_dim].
    acc: Shared<f32>,
    /// Greatest score and sum of the weights of each warp, [WARPS].
    stats: Shared<[f32; 2]>,
    /// Results of the heads, at most four of them beyond one of 512.
    result: Shared<f32>,
}

#[inline(always)]
fn exact<const F16: bool>(t: Thread, p: &AttendParams) {
    t.launch_next_kernel();
    let dim = p.kv.head_dim;
    let heads = heads_of_blocks(dim);
    let first_head = t.cta_id() * heads;
    let heads = if first_head + heads > p.heads { p.heads - first_head } else { heads };
    let row = p.first_row + t.cta_id_y();
    let keys = Row::of(p, row);
    if keys.end == 0 {
        return;
    }
    let scratch = Scratch {
        q: t.static_shared::<f32, { 4 * MAX_HEAD_DIM }>(),
        acc: t.static_shared::<f32, { 4 * MAX_HEAD_DIM * WARPS }>(),
        stats: t.static_shared::<[f32; 2], { 8 * WARPS }>(),
        result: t.static_shared::<f32, { 4 * 4 * MAX_HEAD_DIM }>(),
    };
    t.wait_for_previous_kernel();
    let mut head = 0;
    while head < heads {
        head_of_row::<F16>(t, p, &keys, row, first_head + head, head * dim, &scratch);
        head += 1;
    }
    t.sync();
    let out = RowOut { out: &p.out, cols: p.heads * dim, row };
    let mut col = 32 * t.warp();
    while col < heads * dim {
        let i = col + t.lane();
        let value = if i < heads * dim { scratch.result.get(i) } else { 0.0 };
        out.block(t, first_head * dim + col, value);
        col += 32 * WARPS;
    }
}

/// Two elements of the cache, by the index of the first over 2.
#[inline(always)]
fn two<const F16: bool>(pages: GlobalMut<u32>, i: usize) -> [f32; 2] {
    match F16 {
        true => math::unpack_f16(pages.get(i)),
        false => pages.cast::<[f32; 2]>().get(i),
    }
}

/// `e^x` for x ≤ 0; below e⁻⁸⁷ it no longer falls.
#[inline(always)]
fn weight(x: f32) -> f32 {
    math::exp(math::max(x, -87.0))
}

#[inline(always)]
fn head_of_row<const F16: bool>(
    t: Thread,
    p: &AttendParams,
    keys: &Row,
    row: u32,
    head: u32,
    result: u32,
    s: &Scratch,
) {
    let dim = p.kv.head_dim;
    let kv_head = head / (p.heads / p.kv.kv_heads);
    let from = (row as usize * p.heads as usize + head as usize) * dim as usize;
    let mut i = t.id();
    while i < dim {
        s.q.set(i, p.q.get(from + i as usize));
        i += THREADS;
    }
    t.sync();

    let lane = t.lane();
    let mut acc = [[0.0f32; 2]; PAIRS];
    let (mut greatest, mut total) = (LOWEST, 0.0f32);
    let mut page = keys.first / PAGE_SIZE + t.warp();
    while page * PAGE_SIZE < keys.end {
        let number = p.step.pages.get((keys.pages + page) as usize);
        let at = page_start(&p.kv, number, kv_head) / 2;
        // Lanes 0-15 have the even pairs of the page's keys, lanes 16-31 the odd ones.
        let slot = lane % PAGE_SIZE;
        let position = page * PAGE_SIZE + slot;
        let seen = position >= keys.first && position < keys.end;
        let mut dot = 0.0f32;
        if seen {
            let at = at + (slot * dim / 2) as usize;
            let mut sums = [0.0f32; 2];
            let mut i = lane / PAGE_SIZE;
            while i < dim / 2 {
                let k = two::<F16>(p.kv.k, at + i as usize);
                let q = s.q.cast::<[f32; 2]>().get(i);
                sums[0] = math::fma(q[0], k[0], sums[0]);
                sums[1] = math::fma(q[1], k[1], sums[1]);
                i += 2;
            }
            dot = sums[0] + sums[1];
        }
        dot += t.shuffle_xor(dot, PAGE_SIZE);
        let mut score = dot * p.scale;
        if p.softcap != 0.0 {
            score = p.softcap * math::tanh(math::div(score, p.softcap));
        }
        let before = greatest;
        greatest = math::max(before, t.warp_max(if seen { score } else { LOWEST }));
        let w = if seen { weight(score - greatest) } else { 0.0 };
        let mut sum = w;
        let mut mask = PAGE_SIZE / 2;
        while mask > 0 {
            sum += t.shuffle_xor(sum, mask);
            mask /= 2;
        }
        let shrink = weight(before - greatest);
        total = math::fma(total, shrink, sum);
        unroll!(i < PAIRS, 8, {
            acc[i] = acc[i].map(|a| a * shrink);
        });
        let mut slot = 0;
        while slot < PAGE_SIZE {
            let w = t.shuffle(w, slot);
            let position = page * PAGE_SIZE + slot;
            // Slots that the row does not see may hold anything.
            if position >= keys.first && position < keys.end {
                let at = at + (slot * dim / 2 + lane) as usize;
                unroll!(i < PAIRS, 8, {
                    if lane + 32 * (i as u32) < dim / 2 {
                        let v = two::<F16>(p.kv.v, at + 32 * i);
                        acc[i] = [math::fma(w, v[0], acc[i][0]), math::fma(w, v[1], acc[i][1])];
                    }
                });
            }
            slot += 1;
        }
        page += WARPS;
    }

    unroll!(i < PAIRS, 8, {
        let pair = lane + 32 * i as u32;
        if pair < dim / 2 {
            s.acc.cast::<[f32; 2]>().set(t.warp() * dim / 2 + pair, acc[i]);
        }
    });
    if lane == 0 {
        s.stats.set(t.warp(), [greatest, total]);
    }
    t.sync();
    combine(t, dim, result, s);
}

/// Puts the warps' sums together.
#[inline(always)]
fn combine(t: Thread, dim: u32, result: u32, s: &Scratch) {
    let mut greatest = LOWEST;
    let mut warp = 0;
    while warp < WARPS {
        greatest = math::max(greatest, s.stats.get(warp)[0]);
        warp += 1;
    }
    let mut i = t.id();
    while i < dim {
        let (mut sum, mut total) = (0.0, 0.0);
        let mut warp = 0;
        while warp < WARPS {
            let [m, l] = s.stats.get(warp);
            let w = weight(m - greatest);
            sum = math::fma(w, s.acc.get(warp * dim + i), sum);
            total = math::fma(w, l, total);
            warp += 1;
        }
        s.result.set(result + i, math::div(sum, total));
        i += THREADS;
    }
}
