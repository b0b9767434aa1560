//! The kernel whose weights go straight to registers: for quantized weights, which become halves there,
//! and for 16-bit floats with few tokens, which memory bounds.

use cuda_std::{Global, Shared, SharedMemory, Thread, async_copy, math, mma};

use super::GemmParams;
use super::cta::{self, Part, add_splits, least, target_of};
use super::tile::{
    CHUNK, LANE_ROWS, ROW_BYTES, STAGE_CHUNKS, STAGE_K, WARP_FEATURES, chunk_of, place,
};
use super::weights::Weights;
use crate::kernels::gemv::Target;

/// Sums of a lane: `[16 features][8 tokens][4]`.
type Sums<const N8: usize> = cta::Sums<2, N8>;

/// Tiles of 8 tokens that are loaded from shared memory together, one part ahead. With more, 128 tokens
/// need more than 255 registers.
const PART: u32 = 2;

/// Runs of a lane's rows.
type Runs<T> = [T; LANE_ROWS];

/// One tile of `8 · N8` tokens and 32 features a warp, over one part of `k`; `WARPS` is the least that
/// is launched.
///
/// Activations go through `STAGES` stages of shared memory by asynchronous copies. Weights go from
/// memory to the registers of the one warp that multiplies them, [`Weights::AHEAD`] blocks early, and
/// become halves there.
#[inline(always)]
pub fn gemm<W: Weights, const N8: usize, const WARPS: u32, const STAGES: u32>(
    t: Thread,
    p: &GemmParams,
) {
    let (tokens, features) = (8 * N8 as u32, t.count() / 32 * WARP_FEATURES);
    let Part { which, first_token, first_feature, first, end } =
        Part::of(t, p, t.cta_id(), tokens, features);
    let first_feature = first_feature + t.warp() * WARP_FEATURES;

    let mut sums = [[[0.0; 4]; N8]; 2];
    multiply::<W, N8, WARPS, STAGES>(
        t,
        p,
        which,
        first_token,
        first_feature,
        first,
        end,
        &mut sums,
    );
    if p.splits > 1 && !add_splits(t, p, &mut sums) {
        return;
    }
    // Looked up again, so that its addresses are not kept in registers through the loop.
    let (target, scale) = target_of(p, t.opaque(which));
    store::<N8>(t, p, &target, scale, first_token, first_feature, &sums);
}

/// Adds stages `first` to `end` of the product to `sums`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one body, split for reading")]
fn multiply<W: Weights, const N8: usize, const WARPS: u32, const STAGES: u32>(
    t: Thread,
    p: &GemmParams,
    which: u32,
    first_token: u32,
    first_feature: u32,
    first: u32,
    end: u32,
    sums: &mut Sums<N8>,
) {
    let blocks = STAGE_K / (4 * W::RUN);
    let parts = N8 / PART as usize;
    let (group, q) = (t.lane() / 4, t.lane() % 4);
    let rows = LaneRows { which, row: first_feature + group, q };
    let last_block = end * blocks;

    let load_at = if W::RUN == CHUNK {
        0
    } else if N8 == 16 {
        3
    } else {
        2
    };
    let scale = target_of(p, which).1;

    // Weights are nobody's output: they may be on their way before the activations exist.
    let first_raw = rows.load::<W, N8>(t, p, first * blocks);
    let mut raw = [
        first_raw,
        if W::AHEAD == 2 { rows.load::<W, N8>(t, p, first * blocks + 1) } else { first_raw },
    ];
    t.launch_next_kernel();
    t.wait_for_previous_kernel();

    let stage_bytes = 8 * N8 as u32 * ROW_BYTES;
    let shared: Shared<u8> = SharedMemory::dynamic(t).take(STAGES * stage_bytes);
    let copy = TokenCopy::<N8, WARPS>::new::<W>(t, p, first_token, end);
    let mut slot = 0;
    while slot < STAGES - 1 {
        copy.start(t, shared.at(slot * stage_bytes), first + slot);
        slot += 1;
    }

    // Slot that is filled next, and the one that is multiplied next.
    let (mut fill, mut slot) = (STAGES - 1, 0);
    let mut stage = first;
    while stage < end {
        wait_for_stage::<STAGES>(t);
        // All threads are done with the slot multiplied last: it is filled next.
        t.sync();
        copy.start(t, shared.at(fill * stage_bytes), stage + STAGES - 1);
        fill = if fill == STAGES - 1 { 0 } else { fill + 1 };
        let tokens = shared.at(slot * stage_bytes + group * ROW_BYTES);
        slot = if slot == STAGES - 1 { 0 } else { slot + 1 };

        // Of the lane's chunk for quarter `quarter`.
        let place = |quarter| {
            let (block, i) = (quarter * CHUNK / W::RUN, quarter % (W::RUN / CHUNK));
            tokens.at(place(W::RUN, group, chunk_of(W::RUN, block, again::<N8>(t, q), i)) * 16)
        };
        let mut x = load_tokens(place(0));
        let mut held = hold::<W>(&raw[0], scale, p.tables);
        unroll!(quarter of 4, {
            // Quarter of a block for runs of 32, block for runs of 8.
            let (block, i) = (quarter * CHUNK / W::RUN, quarter % (W::RUN / CHUNK));
            let at = block as usize % W::AHEAD;
            if i == 0 && quarter > 0 {
                held = hold::<W>(&raw[at], scale, p.tables);
            }
            // Most of a piece is used up: its registers take the next.
            let next = stage * blocks + block + W::AHEAD as u32;
            if i == load_at && next < last_block {
                raw[at] = rows.load::<W, N8>(t, p, next);
            }
            let i = i as usize;
            let a = [fragments::<W>(&held, 2 * i), fragments::<W>(&held, 2 * i + 1)];
            let chunks = place(quarter);
            unroll!(part of 8 < parts, {
                let now = x;
                if part + 1 < parts {
                    let next = (part as u32 + 1) * PART * 8 * ROW_BYTES;
                    x = load_tokens(chunks.at(next));
                } else if quarter < 3 {
                    x = load_tokens(place(quarter + 1));
                }
                // Nothing but a fence for ptxas: it would load all tokens at once, and spill.
                t.sync_warp();
                unroll!(j of 2, {
                    unroll!(n of 2, {
                        let b = [now[n][2 * j], now[n][2 * j + 1]];
                        mma::f16(t, &mut sums[0][2 * part + n], a[j][0], b);
                        mma::f16(t, &mut sums[1][2 * part + n], a[j][1], b);
                    });
                });
            });
        });
        stage += 1;
    }
    // Nothing comes any more, but copies may not outlive the kernel.
    async_copy::wait::<0>(t);
}

/// The lane's chunks of [`PART`] tiles of tokens.
#[inline(always)]
fn load_tokens(at: Shared<u8>) -> [[u32; 4]; PART as usize] {
    [at.cast().get(0), at.at(8 * ROW_BYTES).cast().get(0)]
}

/// The `a` words of step `j` for both tiles of features.
#[inline(always)]
fn fragments<W: Weights>(held: &Runs<W::Held>, j: usize) -> [[u32; 4]; 2] {
    let [r0, r8, r16, r24] = [
        W::halves(&held[0], j),
        W::halves(&held[1], j),
        W::halves(&held[2], j),
        W::halves(&held[3], j),
    ];
    [[r0[0], r8[0], r0[1], r8[1]], [r16[0], r24[0], r16[1], r24[1]]]
}

#[inline(always)]
fn hold<W: Weights>(raw: &Runs<W::Raw>, scale: f32, tables: Global<u32>) -> Runs<W::Held> {
    [
        W::hold(raw[0], scale, tables),
        W::hold(raw[1], scale, tables),
        W::hold(raw[2], scale, tables),
        W::hold(raw[3], scale, tables),
    ]
}

/// Waits until the oldest of `STAGES − 1` stages under way is there.
#[inline(always)]
fn wait_for_stage<const STAGES: u32>(t: Thread) {
    if STAGES == 2 {
        async_copy::wait::<0>(t);
    } else if STAGES == 3 {
        async_copy::wait::<1>(t);
    } else {
        async_copy::wait::<2>(t);
    }
}

/// The rows of weights that a lane loads.
#[derive(Clone, Copy)]
struct LaneRows {
    /// The matrix among the parameters.
    which: u32,
    /// The lane's first row; the others follow 8 apart.
    row: u32,
    q: u32,
}

impl LaneRows {
    /// The runs of block `block`. Runs past the end of a row are its last again: their activations are
    /// zeros. Rows past the last are the last again: finite or not, they only reach sums that are not
    /// stored.
    #[inline(always)]
    fn load<W: Weights, const N8: usize>(
        &self,
        t: Thread,
        p: &GemmParams,
        block: u32,
    ) -> Runs<W::Raw> {
        let w = target_of(p, again::<N8>(t, self.which)).0.weights;
        let runs = w.cols.div_ceil(W::RUN);
        let run = least(4 * block + self.q, runs - 1);
        let row = again::<N8>(t, self.row);
        let first = |i| least(row + i, w.rows - 1) * runs;
        [
            W::load(&w, first(0), run),
            W::load(&w, first(8), run),
            W::load(&w, first(16), run),
            W::load(&w, first(24), run),
        ]
    }
}

/// `value`, and what follows from it is computed anew in each turn of the loop: for 128 tokens there
/// are no registers to keep it.
#[inline(always)]
fn again<const N8: usize>(t: Thread, value: u32) -> u32 {
    if N8 == 16 { t.opaque(value) } else { value }
}

/// A thread's part in copying a stage of activations.
struct TokenCopy<const N8: usize, const WARPS: u32> {
    /// The thread's first token.
    from: Global<u8>,
    /// Place of the chunk in the first token of a stage.
    to: u32,
    chunk: u32,
    /// Chunks of a token, in all.
    chunks: u32,
    /// The first that is not copied: past the last, or of the next split.
    end: u32,
    /// Tokens from the thread's first on.
    tokens: u32,
}

impl<const N8: usize, const WARPS: u32> TokenCopy<N8, WARPS> {
    /// Tokens that so many warps copy at once; even.
    const AT_ONCE: u32 = WARPS * 32 / STAGE_CHUNKS;

    #[inline(always)]
    fn new<W: Weights>(t: Thread, p: &GemmParams, first_token: u32, end: u32) -> Self {
        let (row, chunk) = (t.id() / STAGE_CHUNKS, t.id() % STAGE_CHUNKS);
        let chunks = p.targets[0].weights.cols.div_ceil(CHUNK);
        let first = first_token + row;
        Self {
            from: p.x.half.cast::<[u32; 4]>().at(first as usize * chunks as usize).cast(),
            to: row * ROW_BYTES + place(W::RUN, row, chunk) * 16,
            chunk,
            chunks,
            end: least(chunks, end * STAGE_CHUNKS),
            tokens: p.tokens.saturating_sub(first),
        }
    }

    /// Starts the copies of stage `stage`, a group; zeros stand for what is past the ends.
    #[inline(always)]
    fn start(&self, t: Thread, slot: Shared<u8>, stage: u32) {
        let chunk = stage * STAGE_CHUNKS + self.chunk;
        // Else the offsets and conditions of all rows are kept in registers through the loop.
        let tokens = t.opaque(if chunk < self.end { self.tokens } else { 0 });
        let chunks = t.opaque(self.chunks);
        // Up to twice the warps need half as many turns.
        let at_once = t.count() / STAGE_CHUNKS;
        unroll!(i of 16 < 8 * N8 as u32 / Self::AT_ONCE, {
            let row = i * at_once;
            if row < 8 * N8 as u32 {
                let bytes = if row < tokens { 16 } else { 0 };
                async_copy::copy16(
                    t,
                    slot.at(self.to + row * ROW_BYTES),
                    self.from.at(((row * chunks + chunk) * 16) as usize),
                    bytes,
                );
            }
        });
        async_copy::commit(t);
    }
}

/// Scales the sums, adds the bias and writes what lies inside the output.
#[inline(always)]
fn store<const N8: usize>(
    t: Thread,
    p: &GemmParams,
    target: &Target,
    weight_scale: f32,
    first_token: u32,
    first_feature: u32,
    sums: &Sums<N8>,
) {
    let features = target.weights.rows;
    let unscale = math::div(1.0, weight_scale);
    let feature = first_feature + mma::d_row(t.lane(), 0);
    let mut bias = [0.0; LANE_ROWS];
    unroll!(i of 4, {
        let feature = feature + 8 * i as u32;
        if feature < features && !target.bias.is_null() {
            bias[i] = target.bias.constant(feature as usize);
        }
    });
    unroll!(n of 16 < N8, {
        unroll!(e of 2, {
            let token = first_token + 8 * n as u32 + mma::d_col(t.lane(), e);
            if token < p.tokens {
                let scale = p.x.row_scale.get(token as usize) * unscale;
                let out = target.y.at(token as usize * target.stride as usize + feature as usize);
                unroll!(i of 4, {
                    if feature + 8 * (i as u32) < features {
                        let sum = sums[i / 2][n][2 * (i % 2) + e as usize];
                        out.set(8 * i, math::fma(sum, scale, bias[i]));
                    }
                });
            }
        });
    });
}
