//! What attention reads: queries and keys normed and rotated, keys and values stored in their pages.

use cuda_std::{Global, GlobalMut, Launch, Thread, kernels, math, params};

use super::{Shape, page_start};
use crate::kernels::step::{KvView, PAGE_SIZE, StepView};

/// Threads of a CTA of the kernels that norm heads: four heads. One row of 32 + 2 · 8 heads then
/// spreads over 12 multiprocessors, which is what decoding waits for.
pub const THREADS: u32 = 128;
/// Threads of a CTA of the kernels that norm whole rows.
pub const ROW_THREADS: u32 = 256;

params! {
    /// Parameters of the kernels that prepare attention.
    pub struct InputsParams {
        /// [rows, heads · head_dim], changed in place.
        pub q: GlobalMut<f32>,
        /// [rows, kv_heads · head_dim].
        pub k: Global<f32>,
        /// [rows, kv_heads · head_dim].
        pub v: Global<f32>,
        /// Norm weights of the queries, [head_dim], or [heads · head_dim] in the kernels that norm
        /// rows; null where they are not normed.
        pub q_norm: Global<f32>,
        /// The same for the keys.
        pub k_norm: Global<f32>,
        /// Of each row and pair, [rows, pairs].
        pub cos: Global<f32>,
        /// [rows, pairs].
        pub sin: Global<f32>,
        /// The rows and their sequences.
        pub step: StepView,
        /// Keys and values of the layer.
        pub kv: KvView,
        /// Rows of the step.
        pub rows: u32,
        /// Query heads.
        pub heads: u32,
        /// Pairs of a head that turn; elements beyond `2 · pairs` pass through.
        pub pairs: u32,
        /// Whether `(x[2i], x[2i + 1])` turn together (1) or `(x[i], x[i + pairs])` (0).
        pub interleaved: u32,
        /// Added to the mean square.
        pub eps: f32,
    }
}

kernels! {
    module "attention_inputs";
    /// Norms heads, rotates, stores f16; `head_dim` up to 128.
    pub QKV_ROPE_WRITE_F16: qkv_rope_write_f16(InputsParams),
        threads THREADS, ctas 8 => heads::<true, 2>;
    /// `head_dim` up to 512.
    pub QKV_ROPE_WRITE_F16_WIDE: qkv_rope_write_f16_wide(InputsParams),
        threads THREADS, ctas 4 => heads::<true, 8>;
    /// Stores F32; `head_dim` up to 512.
    pub QKV_ROPE_WRITE_F32: qkv_rope_write_f32(InputsParams),
        threads THREADS, ctas 4 => heads::<false, 8>;
    /// Norms whole rows (OLMo 2), stores f16.
    pub QKV_ROPE_WRITE_F16_ROW: qkv_rope_write_f16_row(InputsParams),
        threads ROW_THREADS, ctas 2 => rows::<true>;
    /// Norms whole rows, stores F32.
    pub QKV_ROPE_WRITE_F32_ROW: qkv_rope_write_f32_row(InputsParams),
        threads ROW_THREADS, ctas 2 => rows::<false>;
}

/// Whether the kernels that norm heads work for a shape; those that norm rows take any even
/// `head_dim`.
pub fn supports(shape: Shape) -> bool {
    shape.head_dim.is_multiple_of(2) && shape.head_dim <= 512
}

/// Launch of the kernels that norm heads or do not norm.
pub fn launch(shape: Shape, rows: u32) -> Launch {
    let warps = rows * (shape.heads + 2 * shape.kv_heads);
    Launch::linear(warps.div_ceil(THREADS / 32), THREADS)
}

/// Launch of the kernels that norm rows.
pub fn launch_rows(rows: u32) -> Launch {
    Launch::plane(rows, 3, ROW_THREADS)
}

/// Elements `i` and `j` of a head, which turn together or pass through.
#[derive(Clone, Copy)]
struct Pair {
    at: [u32; 2],
    /// Cosine and sine.
    turn: [f32; 2],
}

impl Pair {
    /// Pair `i` of `head_dim / 2`: the turning ones come first, then neighbours.
    #[inline(always)]
    fn of(p: &InputsParams, row: u32, i: u32) -> Self {
        if i >= p.pairs {
            return Self::straight(i);
        }
        let angle = row as usize * p.pairs as usize + i as usize;
        Pair {
            at: if p.interleaved == 0 { [i, i + p.pairs] } else { [2 * i, 2 * i + 1] },
            turn: [p.cos.constant(angle), p.sin.constant(angle)],
        }
    }

    /// Neighbours that pass through.
    #[inline(always)]
    fn straight(i: u32) -> Self {
        Pair { at: [2 * i, 2 * i + 1], turn: [1.0, 0.0] }
    }

    #[inline(always)]
    fn rotate(self, [a, b]: [f32; 2]) -> [f32; 2] {
        let [cos, sin] = self.turn;
        [math::fma(a, cos, -(b * sin)), math::fma(a, sin, b * cos)]
    }
}

/// First element of a row's slot in its page.
#[inline(always)]
fn slot(p: &InputsParams, row: u32, kv_head: u32) -> usize {
    let position = p.step.positions.get(row as usize);
    let [_, _, _, pages] = p.step.spans.get(p.step.row_span.get(row as usize) as usize);
    let page = p.step.pages.get((pages + position / PAGE_SIZE) as usize);
    page_start(&p.kv, page, kv_head) + ((position % PAGE_SIZE) * p.kv.head_dim) as usize
}

/// Stores two elements of a slot.
#[inline(always)]
fn store<const F16: bool>(pages: GlobalMut<u32>, slot: usize, at: [u32; 2], x: [f32; 2]) {
    if F16 {
        if at[1] == at[0] + 1 && at[0].is_multiple_of(2) {
            pages.set((slot + at[0] as usize) / 2, math::pack_f16(x[0], x[1]));
        } else {
            let pages = pages.cast::<cuda_std::f16>();
            pages.set(slot + at[0] as usize, math::to_f16(x[0]));
            pages.set(slot + at[1] as usize, math::to_f16(x[1]));
        }
    } else {
        let pages = pages.cast::<f32>();
        pages.set(slot + at[0] as usize, x[0]);
        pages.set(slot + at[1] as usize, x[1]);
    }
}

/// One warp a head, its lanes up to `PAIRS` pairs each. Keys and values come first: theirs is the
/// longer way.
#[inline(always)]
fn heads<const F16: bool, const PAIRS: usize>(t: Thread, p: &InputsParams) {
    t.launch_next_kernel();
    let units = p.heads + 2 * p.kv.kv_heads;
    let warp = t.cta_id() * (t.count() / 32) + t.warp();
    let row = warp / units;
    if row >= p.rows {
        return;
    }
    let unit = warp - row * units;
    let (is_k, is_v) = (unit < p.kv.kv_heads, unit >= p.kv.kv_heads && unit < 2 * p.kv.kv_heads);
    let dim = p.kv.head_dim;
    let (x, heads, head, norm) = if is_k {
        (p.k, p.kv.kv_heads, unit, p.k_norm)
    } else if is_v {
        (p.v, p.kv.kv_heads, unit - p.kv.kv_heads, Global::null())
    } else {
        (p.q.read(), p.heads, unit - 2 * p.kv.kv_heads, p.q_norm)
    };
    let start = (row as usize * heads as usize + head as usize) * dim as usize;

    // What no kernel writes is on its way before the wait.
    let slot = if is_k || is_v { slot(p, row, head) } else { 0 };
    let mut pairs = [Pair::straight(0); PAIRS];
    let mut weights = [[1.0f32; 2]; PAIRS];
    unroll!(i < PAIRS, 8, {
        let pair = t.lane() + 32 * i as u32;
        if pair < dim / 2 {
            pairs[i] = if is_v { Pair::straight(pair) } else { Pair::of(p, row, pair) };
            if !norm.is_null() {
                weights[i] = pairs[i].at.map(|at| norm.constant(at as usize));
            }
        }
    });
    t.wait_for_previous_kernel();

    let mut values = [[0.0f32; 2]; PAIRS];
    let mut sum = 0.0;
    unroll!(i < PAIRS, 8, {
        if t.lane() + 32 * (i as u32) < dim / 2 {
            values[i] = pairs[i].at.map(|at| x.get(start + at as usize));
            sum = math::fma(values[i][0], values[i][0], sum);
            sum = math::fma(values[i][1], values[i][1], sum);
        }
    });
    let scale = match norm.is_null() {
        true => 1.0,
        false => inverse_rms(t.warp_sum(sum), dim, p.eps),
    };
    unroll!(i < PAIRS, 8, {
        if t.lane() + 32 * (i as u32) < dim / 2 {
            let x = [values[i][0] * scale * weights[i][0], values[i][1] * scale * weights[i][1]];
            let (x, at) = (pairs[i].rotate(x), pairs[i].at);
            if is_k {
                store::<F16>(p.kv.k, slot, at, x);
            } else if is_v {
                store::<F16>(p.kv.v, slot, at, x);
            } else {
                p.q.set(start + at[0] as usize, x[0]);
                p.q.set(start + at[1] as usize, x[1]);
            }
        }
    });
}

/// `1 / sqrt(sum / n + eps)`.
#[inline(always)]
fn inverse_rms(sum: f32, n: u32, eps: f32) -> f32 {
    math::div(1.0, math::sqrt(math::div(sum, n as f32) + eps))
}

/// One CTA for the queries, keys or values of a row.
#[inline(always)]
fn rows<const F16: bool>(t: Thread, p: &InputsParams) {
    t.launch_next_kernel();
    let (row, which) = (t.cta_id(), t.cta_id_y());
    let dim = p.kv.head_dim;
    let (x, heads, norm) = match which {
        0 => (p.k, p.kv.kv_heads, p.k_norm),
        1 => (p.v, p.kv.kv_heads, Global::null()),
        _ => (p.q.read(), p.heads, p.q_norm),
    };
    let start = row as usize * (heads * dim) as usize;
    let slot = if which < 2 { slot(p, row, 0) } else { 0 };
    let scratch = t.static_shared::<f32, { ROW_THREADS / 32 * 4 }>();
    t.wait_for_previous_kernel();

    let mut scale = 1.0;
    if !norm.is_null() {
        let mut sum = 0.0;
        let mut i = t.id();
        while i < heads * dim {
            let a = x.get(start + i as usize);
            sum = math::fma(a, a, sum);
            i += t.count();
        }
        scale = inverse_rms(t.cta_sum(sum, scratch), heads * dim, p.eps);
    }
    let half = dim / 2;
    let mut i = t.id();
    while i < heads * half {
        let head = i / half;
        let pair = match which {
            1 => Pair::straight(i - head * half),
            _ => Pair::of(p, row, i - head * half),
        };
        let first = head * dim;
        let at = [first + pair.at[0], first + pair.at[1]];
        let mut values = [x.get(start + at[0] as usize), x.get(start + at[1] as usize)];
        if !norm.is_null() {
            values = [
                values[0] * scale * norm.constant(at[0] as usize),
                values[1] * scale * norm.constant(at[1] as usize),
            ];
        }
        let values = pair.rotate(values);
        let slot = slot + head as usize * (PAGE_SIZE * dim) as usize;
        match which {
            0 => store::<F16>(p.kv.k, slot, pair.at, values),
            1 => store::<F16>(p.kv.v, slot, pair.at, values),
            _ => {
                p.q.set(start + at[0] as usize, values[0]);
                p.q.set(start + at[1] as usize, values[1]);
            }
        }
        i += t.count();
    }
}
