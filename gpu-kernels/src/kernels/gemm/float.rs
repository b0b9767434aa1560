//! The kernel for 16-bit floats with many tokens, which the tensor cores bound.
//!
//! Both operands go through a ring of shared memory by asynchronous copies: these reach as many slabs
//! ahead as the ring has stages, which covers the latency of memory. From there they go to registers by
//! `ldmatrix`, a step of 16 `k` ahead of the products.

use cuda_std::{Global, Shared, SharedMemory, Thread, async_copy, math, mma};

use super::GemmParams;
use super::cta::{Part, Sums, add_splits, least, target_of};
use super::slab::{ROW_BYTES, ROW_CHUNKS, SLAB_K, STAGES, a_source, b_source, byte_of};
use super::tile::{CHUNK, STAGE_K};
use super::weights::Float;
use crate::kernels::gemv::Target;

/// Slabs of a stage as launches count them.
const SLABS: u32 = STAGE_K / SLAB_K;

/// One tile of `DOWN · 16 · M` tokens by `ACROSS · 8 · N` features, over one part of `k`. It takes
/// `DOWN · ACROSS` warps, each with `16 · M` tokens and `8 · N` features.
#[inline(always)]
pub fn gemm<W: Float, const DOWN: u32, const ACROSS: u32, const M: usize, const N: usize>(
    t: Thread,
    p: &GemmParams,
) {
    let (warp_tokens, warp_features) = (16 * M as u32, 8 * N as u32);
    let (tokens, features) = (DOWN * warp_tokens, ACROSS * warp_features);
    let part = Part::of(t, p, t.cta_id(), tokens, features);
    // First token and feature of a warp in the tile.
    let corner = |warp| ((warp % DOWN) * warp_tokens, (warp / DOWN) * warp_features);
    let (warp_token, warp_feature) = corner(t.warp());

    let scale = target_of(p, part.which).1;
    let shared: Shared<u8> =
        SharedMemory::dynamic(t).take(STAGES * (tokens + features) * ROW_BYTES);
    let ring = Ring { shared, bytes: (tokens + features) * ROW_BYTES };
    let mut copy = Copies::<DOWN, ACROSS, M, N>::new(t, p, &part);
    let lane =
        Lane { a: source(t, warp_token, a_source), b: source(t, tokens + warp_feature, b_source) };

    let mut sums = [[[0.0; 4]; N]; M];
    t.launch_next_kernel();
    // Weights are nobody's output: they may be on their way before the activations exist. They belong
    // to the first group.
    let ahead = copy;
    let mut slot = 0;
    while slot < STAGES - 1 {
        copy.weights(t, ring.slot(slot));
        copy.advance();
        slot += 1;
    }
    t.wait_for_previous_kernel();
    copy = ahead;
    let mut slot = 0;
    while slot < STAGES - 1 {
        copy.tokens(t, ring.slot(slot));
        async_copy::commit(t);
        copy.advance();
        slot += 1;
    }
    // The first slab is there; after the commit of another, the next.
    async_copy::wait::<{ STAGES - 2 }>(t);
    t.sync();

    // Slot that is filled next, and the one that is multiplied.
    let (mut fill, mut slot) = (STAGES - 1, 0);
    let mut even = load::<M, N>(t, ring.slot(0), lane.a, lane.b);
    let mut left = (part.end - part.first) * SLABS;
    while left > 0 {
        let stage = ring.slot(slot);
        let odd = load::<M, N>(t, stage, lane.a ^ SECOND_STEP, lane.b ^ SECOND_STEP);
        // All warps are done with this slot since the last barrier.
        copy.weights(t, ring.slot(fill));
        copy.tokens(t, ring.slot(fill));
        async_copy::commit(t);
        copy.advance();
        multiply::<W, M, N>(t, &mut sums, &even, scale);

        async_copy::wait::<{ STAGES - 2 }>(t);
        t.sync();
        fill = slot;
        slot = ring.after(slot);
        // Past the last slab come zeros, which are not multiplied.
        even = load::<M, N>(t, ring.slot(slot), lane.a, lane.b);
        multiply::<W, M, N>(t, &mut sums, &odd, scale);
        left -= 1;
    }
    // Nothing comes any more, but copies may not outlive the kernel.
    async_copy::wait::<0>(t);

    if p.splits > 1 && !add_splits(t, p, &mut sums) {
        return;
    }
    // Found again, so that nothing of it is kept in registers through the loop.
    let part = Part::of(t, p, t.opaque(t.cta_id()), tokens, features);
    let (warp_token, warp_feature) = corner(t.opaque(t.warp()));
    let (target, scale) = target_of(p, part.which);
    let first_token = part.first_token + warp_token;
    let first_feature = part.first_feature + warp_feature;
    store::<M, N>(t, p, &target, scale, first_token, first_feature, &sums);
}

/// The stages of shared memory.
struct Ring {
    shared: Shared<u8>,
    /// Of a stage.
    bytes: u32,
}

impl Ring {
    #[inline(always)]
    fn slot(&self, slot: u32) -> Shared<u8> {
        self.shared.at(slot * self.bytes)
    }
    #[inline(always)]
    fn after(&self, slot: u32) -> u32 {
        if slot == STAGES - 1 { 0 } else { slot + 1 }
    }
}

/// Bytes of a stage whose addresses a lane gives to `ldmatrix` in the first step of a slab.
struct Lane {
    a: u32,
    b: u32,
}
/// Turns them into those of the second step.
const SECOND_STEP: u32 = 32;

/// The lane's byte in the rows from `first` on.
#[inline(always)]
fn source(t: Thread, first: u32, source: impl Fn(u32, u32) -> (u32, u32)) -> u32 {
    let (row, chunk) = source(t.lane(), 0);
    first * ROW_BYTES + byte_of(row, chunk)
}

/// Operands of a step: `a` of each 16 tokens, `b` of each 8 features.
struct Operands<const M: usize, const N: usize> {
    a: [[u32; 4]; M],
    b: [[u32; 2]; N],
}

#[inline(always)]
fn load<const M: usize, const N: usize>(
    t: Thread,
    stage: Shared<u8>,
    a: u32,
    b: u32,
) -> Operands<M, N> {
    let mut operands = Operands { a: [[0; 4]; M], b: [[0; 2]; N] };
    let (a, b) = (stage.at(a), stage.at(b));
    unroll!(n of 4 < N / 2, {
        let [b0, b1, b2, b3] = mma::load_matrix_x4(t, b.at(n as u32 * 16 * ROW_BYTES));
        operands.b[2 * n] = [b0, b1];
        operands.b[2 * n + 1] = [b2, b3];
    });
    unroll!(m of 4 < M, {
        operands.a[m] = mma::load_matrix_x4(t, a.at(m as u32 * 16 * ROW_BYTES));
    });
    operands
}

#[inline(always)]
fn multiply<W: Float, const M: usize, const N: usize>(
    t: Thread,
    sums: &mut Sums<M, N>,
    x: &Operands<M, N>,
    scale: f32,
) {
    unroll!(n of 8 < N, {
        let b = x.b[n].map(|pair| W::to_halves(pair, scale));
        unroll!(m of 4 < M, { mma::f16(t, &mut sums[m][n], x.a[m], b) });
    });
}

/// A thread's part in copying slabs: a chunk of some rows of each operand.
#[derive(Clone, Copy)]
struct Copies<const DOWN: u32, const ACROSS: u32, const M: usize, const N: usize> {
    tokens: Rows,
    features: Rows,
    /// Byte of the thread's chunk in the first rows of a stage.
    to: u32,
    /// The thread's chunk of a row.
    chunk: u32,
    /// The first that is not copied: past the last, or of the next split.
    end: u32,
    /// Bytes of a row.
    stride: u32,
}

/// Rows of an operand from the thread's first on.
#[derive(Clone, Copy)]
struct Rows {
    from: Global<u8>,
    /// How many there are.
    count: u32,
}

impl<const DOWN: u32, const ACROSS: u32, const M: usize, const N: usize>
    Copies<DOWN, ACROSS, M, N>
{
    const TOKENS: u32 = DOWN * 16 * M as u32;
    const FEATURES: u32 = ACROSS * 8 * N as u32;
    /// Rows that the CTA copies at once: a multiple of 16.
    const AT_ONCE: u32 = DOWN * ACROSS * 32 / ROW_CHUNKS;

    #[inline(always)]
    fn new(t: Thread, p: &GemmParams, part: &Part) -> Self {
        let (row, chunk_of_slab) = (t.id() / ROW_CHUNKS, t.id() % ROW_CHUNKS);
        let w = target_of(p, part.which).0.weights;
        let chunks = w.cols.div_ceil(CHUNK);
        let chunk = part.first * (STAGE_K / CHUNK) + chunk_of_slab;
        let rows = |plane: Global<u8>, first: u32, rows: u32| Rows {
            from: plane
                .cast::<[u32; 4]>()
                .at(first as usize * chunks as usize + chunk as usize)
                .cast(),
            count: rows.saturating_sub(first),
        };
        Self {
            tokens: rows(p.x.half.cast(), part.first_token + row, p.tokens),
            features: rows(w.planes[0].cast(), part.first_feature + row, w.rows),
            to: byte_of(row, chunk_of_slab),
            chunk,
            end: least(chunks, part.end * (STAGE_K / CHUNK)),
            stride: chunks * 16,
        }
    }

    /// Starts copying the slab's tokens; zeros stand for what is past the ends.
    #[inline(always)]
    fn tokens(&self, t: Thread, stage: Shared<u8>) {
        self.rows(t, stage, self.tokens, Self::TOKENS);
    }

    /// Starts copying its features.
    #[inline(always)]
    fn weights(&self, t: Thread, stage: Shared<u8>) {
        self.rows(t, stage.at(Self::TOKENS * ROW_BYTES), self.features, Self::FEATURES);
    }

    #[inline(always)]
    fn rows(&self, t: Thread, to: Shared<u8>, rows: Rows, count: u32) {
        let inside = if self.chunk < self.end { rows.count } else { 0 };
        // Else the offsets of all rows are kept in registers through the loop.
        let stride = t.opaque(self.stride) as usize;
        unroll!(i of 8 < count / Self::AT_ONCE, {
            let row = i * Self::AT_ONCE;
            let bytes = if row < inside { 16 } else { 0 };
            let to = to.at(self.to + row * ROW_BYTES);
            async_copy::copy16(t, to, rows.from.at(row as usize * stride), bytes);
        });
    }

    /// On to the next slab.
    #[inline(always)]
    fn advance(&mut self) {
        self.tokens.from = self.tokens.from.at(ROW_BYTES as usize);
        self.features.from = self.features.from.at(ROW_BYTES as usize);
        self.chunk += ROW_CHUNKS;
    }
}

/// Scales the sums, adds the bias and writes what lies inside the output.
#[inline(always)]
fn store<const M: usize, const N: usize>(
    t: Thread,
    p: &GemmParams,
    target: &Target,
    weight_scale: f32,
    first_token: u32,
    first_feature: u32,
    sums: &Sums<M, N>,
) {
    let features = target.weights.rows;
    let unscale = math::div(1.0, weight_scale);
    let feature = first_feature + mma::d_col(t.lane(), 0);
    // Where rows start at 8 bytes, the pairs of a quad are 32 bytes, a sector.
    let in_pairs = target.stride.is_multiple_of(2) && target.y.address().is_multiple_of(8);
    let mut bias = [[0.0; 2]; N];
    unroll!(n of 8 < N, {
        unroll!(e of 2, {
            let feature = feature + 8 * n as u32 + e as u32;
            if feature < features && !target.bias.is_null() {
                bias[n][e] = target.bias.constant(feature as usize);
            }
        });
    });
    unroll!(m of 4 < M, {
        unroll!(half of 2, {
            let token = first_token + 16 * m as u32 + mma::d_row(t.lane(), 2 * half as u32);
            if token < p.tokens {
                let scale = p.x.row_scale.get(token as usize) * unscale;
                let out = target.y.at(token as usize * target.stride as usize + feature as usize);
                unroll!(n of 8 < N, {
                    let sum = sums[m][n];
                    let y = [
                        math::fma(sum[2 * half], scale, bias[n][0]),
                        math::fma(sum[2 * half + 1], scale, bias[n][1]),
                    ];
                    let inside = features.saturating_sub(feature + 8 * n as u32);
                    if inside >= 2 && in_pairs {
                        out.at(8 * n).cast().set(0, y);
                    } else {
                        if inside >= 1 {
                            out.set(8 * n, y[0]);
                        }
                        if inside >= 2 {
                            out.set(8 * n + 1, y[1]);
                        }
                    }
                });
            }
        });
    });
}
