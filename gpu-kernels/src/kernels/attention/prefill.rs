//! Attention for spans of many rows: tiles of queries against tiles of 64 keys by matrix instructions
//! on f16, sums and softmax in F32.
//!
//! A CTA has `64 · TILES` rows of one query head, a warp `16 · TILES` of them. Queries stay in shared
//! memory; keys and values pass through it by asynchronous copies, values while the scores are
//! computed, the next keys during the softmax and the sums. Weights never leave the registers: the
//! accumulators of `q · kᵀ` are laid out as the operand of the next product. Source: Dao 2023,
//! FlashAttention-2, section 3.

#[cfg(not(target_arch = "nvptx64"))]
use cuda_std::Launch;
use cuda_std::{Global, Shared, SharedMemory, Thread, async_copy, kernels, math, mma};

use super::output::RowOut;
use super::{AttendParams, LOG2_E, LOWEST, Shape, SoftCap};
use crate::kernels::step::PAGE_SIZE;

/// Threads of a CTA: four warps, and each copies one of the four pages of a tile of keys.
pub const THREADS: u32 = 128;
/// Greatest `head_dim`.
pub const MAX_HEAD_DIM: u32 = 256;

/// Keys of a tile.
const KEYS: u32 = 64;
/// Rows of a tile of a matrix instruction in all warps.
const ROWS: u32 = 64;
/// Greatest half: queries beyond it would become infinite.
const GREATEST_HALF: f32 = 65504.0;

kernels! {
    module "attention_prefill";
    /// `head_dim` up to 32.
    pub ATTN_PREFILL_F16_D32: attn_prefill_f16_d32(AttendParams),
        threads THREADS, ctas 2 => prefill::<4, 2>;
    /// `head_dim` up to 64.
    pub ATTN_PREFILL_F16_D64: attn_prefill_f16_d64(AttendParams),
        threads THREADS, ctas 2 => prefill::<8, 2>;
    /// `head_dim` up to 96.
    pub ATTN_PREFILL_F16_D96: attn_prefill_f16_d96(AttendParams),
        threads THREADS, ctas 2 => prefill::<12, 2>;
    /// `head_dim` up to 128.
    pub ATTN_PREFILL_F16_D128: attn_prefill_f16_d128(AttendParams),
        threads THREADS, ctas 2 => prefill::<16, 2>;
    /// `head_dim` up to 128, 64 rows a CTA.
    pub ATTN_PREFILL_F16_D128_R64: attn_prefill_f16_d128_r64(AttendParams),
        threads THREADS, ctas 2 => prefill::<16, 1>;
    /// `head_dim` up to 256, 64 rows a CTA.
    pub ATTN_PREFILL_F16_D256: attn_prefill_f16_d256(AttendParams),
        threads THREADS, ctas 2 => prefill::<32, 1>;
}

/// Whether it works for a shape; `planes` says whether the integer form is to be written.
pub fn supports(shape: Shape, planes: bool) -> bool {
    shape.heads.is_multiple_of(shape.kv_heads)
        && shape.head_dim.is_multiple_of(8)
        && shape.head_dim <= MAX_HEAD_DIM
        && (!planes || shape.head_dim.is_multiple_of(32))
}

/// A kernel and its geometry.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// The kernel.
    pub entry: &'static cuda_std::Entry<AttendParams>,
    /// Eighths of a head's elements that it has room for.
    n8: u32,
    /// Rows of a CTA over 64.
    tiles: u32,
}

#[cfg(not(target_arch = "nvptx64"))]
impl Variant {
    /// The kernel for a shape. With `small`, for spans of up to 64 rows and for devices on which two
    /// CTAs of 64 KB do not fit a multiprocessor (sm_89, sm_120), one with fewer rows a CTA.
    pub fn of(shape: Shape, small: bool) -> Self {
        match shape.head_dim {
            0..=32 => Self { entry: &ATTN_PREFILL_F16_D32, n8: 4, tiles: 2 },
            33..=64 => Self { entry: &ATTN_PREFILL_F16_D64, n8: 8, tiles: 2 },
            65..=96 => Self { entry: &ATTN_PREFILL_F16_D96, n8: 12, tiles: 2 },
            97..=128 if small => Self { entry: &ATTN_PREFILL_F16_D128_R64, n8: 16, tiles: 1 },
            97..=128 => Self { entry: &ATTN_PREFILL_F16_D128, n8: 16, tiles: 2 },
            _ => Self { entry: &ATTN_PREFILL_F16_D256, n8: 32, tiles: 1 },
        }
    }

    /// Launch for `spans` spans, the longest of which has `rows` rows.
    pub fn launch(self, shape: Shape, spans: u32, rows: u32) -> Launch {
        let grid = [shape.heads, rows.div_ceil(ROWS * self.tiles), spans];
        let bytes = (ROWS * self.tiles + 2 * KEYS) * stride(self.n8) * 16;
        Launch { grid, threads: THREADS, shared_bytes: bytes }
    }
}

/// Pieces of 16 bytes from a row in shared memory to the next.
#[inline(always)]
const fn stride(n8: u32) -> u32 {
    n8.next_power_of_two()
}

/// By how much the pieces of a row are turned, as an exclusive or on their low bits. The eight rows of
/// a matrix are 128 bytes apart or more (64 in the narrowest), so each row has its piece in another
/// place and all banks take part.
#[inline(always)]
const fn turn(n8: u32, row: u32) -> u32 {
    if n8 >= 8 { row % 8 } else { row / 2 % 4 }
}
/// Pieces that are turned among each other.
#[inline(always)]
const fn turned(n8: u32) -> u32 {
    if n8 >= 8 { 8 } else { 4 }
}
/// Where piece `piece` of row `row` is, in pieces.
#[inline(always)]
const fn place(n8: u32, row: u32, piece: u32) -> u32 {
    row * stride(n8) + (piece ^ turn(n8, row))
}

/// Where a lane finds its rows of matrices. The places of pieces `0, 2, 4, 6` more than its own are
/// kept; rows and pieces further on are at fixed distances, which cost no register.
#[derive(Clone, Copy)]
struct Matrices([Shared<[u32; 4]>; 4]);

impl Matrices {
    /// For the lane's row and piece (0 or 1), of the first matrices.
    #[inline(always)]
    fn at(n8: u32, from: Shared<[u32; 4]>, row: u32, piece: u32) -> Self {
        Self([0, 2, 4, 6].map(|more| from.at(place(n8, row, (piece + more) % turned(n8)))))
    }
    /// Those `rows`, a multiple of 16, and `2 · pairs` pieces further on.
    #[inline(always)]
    fn get(&self, n8: u32, rows: u32, pairs: usize) -> Shared<[u32; 4]> {
        let kept = turned(n8) as usize / 2;
        self.0[pairs % kept].at(rows * stride(n8) + (pairs / kept * 2 * kept) as u32)
    }
}

/// The rows of a CTA and the keys they see.
#[derive(Clone, Copy)]
struct Tile {
    /// First row in the batch, and rows.
    row: u32,
    rows: u32,
    /// Position of the first row.
    position: u32,
    head: u32,
    /// Keys that any of the rows sees.
    first: u32,
    end: u32,
    /// First page of the sequence, pages in use.
    pages: u32,
    page_count: u32,
}

/// Copies keys or values to shared memory; a thread's pieces are of one page of the tile.
#[derive(Clone, Copy)]
struct Copier<const N8: usize> {
    /// Pieces of a page, and of a head.
    page_len: u32,
    pieces: u32,
    /// The thread's first piece: in its page, and how many of its head follow.
    offset: u32,
    left: u32,
    /// Slot of that piece in the tile, and where it is in shared memory.
    slot: u32,
    places: [u32; 2],
    /// Keys that are read.
    first: u32,
    end: u32,
}

impl<const N8: usize> Copier<N8> {
    #[inline(always)]
    fn new(t: Thread, p: &AttendParams, tile: &Tile) -> Self {
        let n8 = N8 as u32;
        let pieces = p.kv.head_dim / 8;
        let kv_head = tile.head / (p.heads / p.kv.kv_heads);
        // Eight lanes copy a piece of as many rows, which are turned differently.
        let (row, column) = (t.lane() % 8, t.lane() / 8);
        let slot = t.warp() * PAGE_SIZE + row;
        Self {
            page_len: p.kv.kv_heads * PAGE_SIZE * pieces,
            pieces,
            offset: (kv_head * PAGE_SIZE + row) * pieces + column,
            left: pieces.saturating_sub(column),
            slot,
            places: [0, 4].map(|more| place(n8, slot, (column + more) % turned(n8))),
            first: tile.first,
            end: tile.end,
        }
    }

    /// Starts the copies of the keys from `tile · KEYS` on. Those that no row sees become zeros, as do
    /// elements beyond the head: zeros in both products.
    #[inline(always)]
    fn start(self, t: Thread, from: Global<[u32; 4]>, to: Shared<[u32; 4]>, tile: u32, page: u32) {
        // 2³² pieces are 64 GiB of keys in a layer; a second word of the offset would be spilled.
        let from = from.at((page * self.page_len + self.offset) as usize);
        let key = tile * KEYS + self.slot;
        unroll!(i < N8 / 2, 16, {
            let (row, piece) = (8 * (i as u32 % 2), 4 * (i as u32 / 2));
            let key = key + row;
            let live = key >= self.first && key < self.end && piece < self.left;
            let from = from.at((row * self.pieces) as usize + piece as usize);
            let to = to.at(self.places[i / 2 % 2] + row * stride(N8 as u32) + piece / 8 * 8);
            async_copy::copy16(t, to, from, if live { 16 } else { 0 });
        });
    }
}

/// Running softmax of a warp's rows; a lane has two rows of each tile of sixteen.
struct Sums<const N8: usize, const TILES: usize> {
    acc: [[[f32; 4]; N8]; TILES],
    greatest: [[f32; 2]; TILES],
    /// The lane's part of the total weight.
    total: [[f32; 2]; TILES],
}

/// Scores of a warp's rows and the keys of a tile.
type Scores<const TILES: usize> = [[[f32; 4]; KEYS as usize / 8]; TILES];
/// Weights, as halves: an operand for each 16 keys.
type Weights<const TILES: usize> = [[[u32; 4]; KEYS as usize / 16]; TILES];

#[inline(always)]
fn prefill<const N8: usize, const TILES: usize>(t: Thread, p: &AttendParams) {
    t.launch_next_kernel();
    let Some(tile) = Tile::of(t, p, ROWS * TILES as u32) else { return };
    let n8 = N8 as u32;
    let mut memory = SharedMemory::dynamic(t);
    let q = memory.take::<[u32; 4]>(ROWS * TILES as u32 * stride(n8));
    let k = memory.take::<[u32; 4]>(KEYS * stride(n8));
    let v = memory.take::<[u32; 4]>(KEYS * stride(n8));

    let copier = Copier::<N8>::new(t, p, &tile);
    let (keys, values) = (p.kv.k.read().cast(), p.kv.v.read().cast());
    let page = |tile_of_keys: u32| {
        let page = tile_of_keys * (KEYS / PAGE_SIZE) + t.warp();
        let page = if page < tile.page_count { page } else { tile.page_count - 1 };
        p.step.pages.get((tile.pages + page) as usize)
    };
    let mut i = tile.first / KEYS;
    let end = tile.end.div_ceil(KEYS);
    let mut number = page(i);
    t.wait_for_previous_kernel();
    copier.start(t, keys, k, i, number);
    async_copy::commit(t);
    load_queries::<N8, TILES>(t, p, &tile, q);

    let mut sums = Sums::<N8, TILES> {
        acc: [[[0.0; 4]; N8]; TILES],
        greatest: [[LOWEST; 2]; TILES],
        total: [[0.0; 2]; TILES],
    };
    let lane = t.lane();
    let q_row = t.warp() * 16 * TILES as u32 + lane % 16;
    let q_matrices = Matrices::at(n8, q, q_row, lane / 16);
    // Keys 0-7 and 8-15, of each two of eight elements: words that go together are neighbours, or
    // each product would cost moves.
    let k_matrices = Matrices::at(n8, k, lane / 16 * 8 + lane % 8, lane / 8 % 2);
    // Keys 0-7 and 8-15 of eight elements, then of the next eight.
    let v_matrices = Matrices::at(n8, v, lane % 16, lane / 16);
    // Up to here every row sees every key, and from the other on too.
    let whole_end = tile.position + 1;
    let whole_first = tile.end.saturating_sub(p.window);
    while i < end {
        async_copy::wait::<0>(t);
        t.sync();
        copier.start(t, values, v, i, number);
        async_copy::commit(t);
        let mut scores = scores::<N8, TILES>(t, q_matrices, k_matrices);
        let more = i + 1 < end;
        if more {
            number = page(i + 1);
        }
        async_copy::wait::<0>(t);
        t.sync();
        if more {
            copier.start(t, keys, k, i + 1, number);
            async_copy::commit(t);
        }
        if p.softcap != 0.0 {
            let cap = SoftCap::new(p.softcap);
            unroll!(m < TILES, 2, {
                unroll!(n < 8, 8, {
                    scores[m][n] = scores[m][n].map(|s| cap.of(s));
                });
            });
        }
        if (i + 1) * KEYS > whole_end || i * KEYS < whole_first {
            mask::<TILES>(t, &mut scores, i * KEYS, tile.position, p.window);
        }
        let weights = sums.softmax(t, &scores);
        sums.add(t, &weights, v_matrices);
        i += 1;
    }
    // Asked again so that the loop need not keep it.
    if let Some(tile) = Tile::of(t, p, ROWS * TILES as u32) {
        sums.write(t, p, &tile, q.cast());
    }
}

impl Tile {
    /// The CTA's, if there is one. The last rows of a span, which see the most keys, come first.
    #[inline(always)]
    fn of(t: Thread, p: &AttendParams, len: u32) -> Option<Self> {
        let [first_row, rows, context_len, pages] =
            p.step.spans.get((p.first_span + t.cta_id_z()) as usize);
        let tiles = rows.div_ceil(len);
        if t.cta_id_y() >= tiles {
            return None;
        }
        let start = (tiles - 1 - t.cta_id_y()) * len;
        let position = context_len - rows + start;
        let rows = if rows - start < len { rows - start } else { len };
        Some(Tile {
            row: first_row + start,
            rows,
            position,
            head: t.cta_id(),
            first: (position + 1).saturating_sub(p.window),
            end: position + rows,
            pages,
            page_count: context_len.div_ceil(PAGE_SIZE),
        })
    }
}

/// Brings the queries into shared memory as halves, scaled so that weights are powers of two.
#[inline(always)]
fn load_queries<const N8: usize, const TILES: usize>(
    t: Thread,
    p: &AttendParams,
    tile: &Tile,
    to: Shared<[u32; 4]>,
) {
    let scale = if p.softcap == 0.0 { p.scale * LOG2_E } else { p.scale };
    let half = |x: f32| math::max(math::min(x * scale, GREATEST_HALF), -GREATEST_HALF);
    let from = p.q.cast::<[f32; 4]>();
    let mut i = 0;
    while i < N8 as u32 * TILES as u32 / 2 {
        let index = t.id() + THREADS * i;
        let (row, piece) = (index / N8 as u32, index % N8 as u32);
        let mut words = [0; 4];
        if row < tile.rows && piece < p.kv.head_dim / 8 {
            let at = (tile.row + row) as usize * p.heads as usize + tile.head as usize;
            let at = at * (p.kv.head_dim / 4) as usize + 2 * piece as usize;
            let (a, b) = (from.get(at), from.get(at + 1));
            words = [
                math::pack_f16(half(a[0]), half(a[1])),
                math::pack_f16(half(a[2]), half(a[3])),
                math::pack_f16(half(b[0]), half(b[1])),
                math::pack_f16(half(b[2]), half(b[3])),
            ];
        }
        to.set(place(N8 as u32, row, piece), words);
        i += 1;
    }
}

/// Queries times keys.
#[inline(always)]
fn scores<const N8: usize, const TILES: usize>(
    t: Thread,
    q: Matrices,
    k: Matrices,
) -> Scores<TILES> {
    let n8 = N8 as u32;
    let mut scores = [[[0.0f32; 4]; KEYS as usize / 8]; TILES];
    unroll!(step < N8 / 2, 16, {
        let mut a = [[0; 4]; TILES];
        unroll!(m < TILES, 2, {
            a[m] = mma::load_matrix_x4(t, q.get(n8, 16 * m as u32, step));
        });
        unroll!(n < KEYS as usize / 16, 4, {
            let b = mma::load_matrix_x4(t, k.get(n8, 16 * n as u32, step));
            unroll!(m < TILES, 2, {
                mma::f16(t, &mut scores[m][2 * n], a[m], [b[0], b[1]]);
                mma::f16(t, &mut scores[m][2 * n + 1], a[m], [b[2], b[3]]);
            });
        });
    });
    scores
}

/// Takes away the scores of keys that a row does not see; `key` is the first, `position` the CTA's
/// first row's.
#[inline(always)]
fn mask<const TILES: usize>(
    t: Thread,
    scores: &mut Scores<TILES>,
    key: u32,
    position: u32,
    window: u32,
) {
    let row = t.warp() * 16 * TILES as u32 + mma::d_row(t.lane(), 0);
    // How far the lane's first row is beyond its first key, and so for the others by constants.
    let beyond = (position + row) as i32 - (key + mma::d_col(t.lane(), 0)) as i32;
    const LONGEST: u32 = 1 << 30;
    let unseen = beyond - if window < LONGEST { window } else { LONGEST } as i32;
    unroll!(m < TILES, 2, {
        unroll!(half < 2, 2, {
            unroll!(n < 8, 8, {
                unroll!(i < 2, 2, {
                    let distance = (8 * n + i) as i32 - (16 * m + 8 * half) as i32;
                    if distance > beyond || distance <= unseen {
                        scores[m][n][2 * half + i] = f32::NEG_INFINITY;
                    }
                });
            });
        });
    });
}

impl<const N8: usize, const TILES: usize> Sums<N8, TILES> {
    /// Turns scores into weights relative to the greatest score up to now.
    #[inline(always)]
    fn softmax(&mut self, t: Thread, scores: &Scores<TILES>) -> Weights<TILES> {
        let mut weights = [[[0u32; 4]; KEYS as usize / 16]; TILES];
        let mut shrink = [[1.0f32; 2]; TILES];
        let mut grew = false;
        unroll!(m < TILES, 2, {
            unroll!(half < 2, 2, {
                let before = self.greatest[m][half];
                let mut greatest = before;
                unroll!(n < 8, 8, {
                    greatest = math::max(greatest, scores[m][n][2 * half]);
                    greatest = math::max(greatest, scores[m][n][2 * half + 1]);
                });
                greatest = math::max(greatest, t.shuffle_xor(greatest, 1));
                greatest = math::max(greatest, t.shuffle_xor(greatest, 2));
                grew |= greatest > before;
                shrink[m][half] = math::exp2(before - greatest);
                self.greatest[m][half] = greatest;
                let mut total = 0.0;
                unroll!(n < 8, 8, {
                    let a = math::exp2(scores[m][n][2 * half] - greatest);
                    let b = math::exp2(scores[m][n][2 * half + 1] - greatest);
                    total += a + b;
                    weights[m][n / 2][2 * (n % 2) + half] = math::pack_f16(a, b);
                });
                self.total[m][half] = math::fma(self.total[m][half], shrink[m][half], total);
            });
        });
        // After the first tiles the greatest score rarely changes.
        if t.ballot(grew) != 0 {
            unroll!(m < TILES, 2, {
                unroll!(n < N8, 32, {
                    let [a, b, c, d] = self.acc[m][n];
                    let [first, second] = shrink[m];
                    self.acc[m][n] = [a * first, b * first, c * second, d * second];
                });
            });
        }
        weights
    }

    /// Adds weights times values.
    #[inline(always)]
    fn add(&mut self, t: Thread, weights: &Weights<TILES>, v: Matrices) {
        unroll!(step < KEYS as usize / 16, 4, {
            unroll!(n < N8 / 2, 16, {
                let v = v.get(N8 as u32, 16 * step as u32, n);
                let b = mma::load_matrix_x4_transposed(t, v);
                unroll!(m < TILES, 2, {
                    mma::f16(t, &mut self.acc[m][2 * n], weights[m][step], [b[0], b[1]]);
                    mma::f16(t, &mut self.acc[m][2 * n + 1], weights[m][step], [b[2], b[3]]);
                });
            });
        });
    }

    /// Writes the rows; `memory` is the CTA's shared memory, of which nothing is needed any more.
    #[inline(always)]
    fn write(mut self, t: Thread, p: &AttendParams, tile: &Tile, memory: Shared<[f32; 2]>) {
        let out = &p.out;
        let dim = p.kv.head_dim;
        let cols = p.heads as usize * dim as usize;
        let first = t.warp() * 16 * TILES as u32;
        unroll!(m < TILES, 2, {
            unroll!(half < 2, 2, {
                let row = first + mma::d_row(t.lane(), 0) + 16 * m as u32 + 8 * half as u32;
                let live = row < tile.rows;
                let row = tile.row as usize + row as usize;
                let mut total = self.total[m][half];
                total += t.shuffle_xor(total, 1);
                total += t.shuffle_xor(total, 2);
                let inverse = math::reciprocal(total);
                let at = row * cols + (tile.head * dim + mma::d_col(t.lane(), 0)) as usize;
                unroll!(n < N8, 32, {
                    let acc = &mut self.acc[m][n];
                    let x = [acc[2 * half] * inverse, acc[2 * half + 1] * inverse];
                    (acc[2 * half], acc[2 * half + 1]) = (x[0], x[1]);
                    let at = at / 2 + 4 * n;
                    if live && 8 * (n as u32) < dim {
                        if !out.float.is_null() {
                            out.float.cast().set(at, x);
                        }
                        if !out.half.is_null() {
                            out.half.set(at, math::pack_f16(x[0], x[1]));
                        }
                    }
                });
                if live && !out.half.is_null() && tile.head == 0 && t.lane().is_multiple_of(4) {
                    out.row_scale.set(row, 1.0);
                }
            });
        });
        if out.high.is_null() {
            return;
        }
        // The integer form is for few rows: it takes the way of a whole warp a block.
        t.sync();
        let stride = 4 * N8 as u32;
        unroll!(m < TILES, 2, {
            unroll!(half < 2, 2, {
                let row = first + mma::d_row(t.lane(), 0) + 16 * m as u32 + 8 * half as u32;
                unroll!(n < N8, 32, {
                    let acc = &self.acc[m][n];
                    let at = row * stride + 4 * n as u32 + t.lane() % 4;
                    memory.set(at, [acc[2 * half], acc[2 * half + 1]]);
                });
            });
        });
        t.sync_warp();
        let mut row = first;
        while row < first + 16 * TILES as u32 && row < tile.rows {
            let to = RowOut { out, cols: p.heads * dim, row: tile.row + row };
            let mut col = 0;
            while col < dim {
                let x = memory.cast::<f32>().get(row * 2 * stride + col + t.lane());
                to.planes(t, tile.head * dim + col, x);
                col += 32;
            }
            row += 1;
        }
    }
}
