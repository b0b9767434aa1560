//! Choosing tokens where the logits are: what the host's sampler chooses, from the same random number.
//!
//! Two launches for all rows of a step, each a CTA for [`PART`] logits of a row; the last CTA of a row
//! to finish takes the results of all together.
//!
//! ```text
//! scan   log-sum-exp of the model's logits; bias and penalties; the best token; is there one at all?
//! draw   rows that are not greedy: candidates, top-p, min-p, temperature, the draw
//! ```
//! [`COUNT`] keeps how often each token stands in a row's window, for the penalties.
//!
//! Candidates come in the host's order: best first after top-k or top-p, else by id. Weights are the
//! host's bit for bit ([`exp_nonpositive`]); their sums in F64 are added in another order, so a random
//! number within some 1e-15 of the border between two tokens may fall to the other.
//!
//! Not here: typical-p, XTC, top-n-sigma, DRY, Mirostat, dynamic temperature and the log-probabilities
//! of tokens that were not chosen. A row whose choice would need more than [`MAX_CANDIDATES`]
//! candidates is reported as [`NEEDS_HOST`].

mod cta;
mod draw;
mod exp;
mod row;
mod scan;
mod select;
#[cfg(test)]
mod tests;

use cuda_std::{Global, GlobalMut, Launch, Thread, kernels, params};

use draw::draw;
pub use exp::exp_nonpositive;
pub use row::{BiasError, SampleRow};
use scan::scan;

/// Logits that a CTA takes: 38 CTAs for a row of 152 thousand.
pub const PART: u32 = 4096;
/// Threads of a CTA.
pub const THREADS: u32 = 256;
/// Candidates that are sorted, at most: also the largest `top_k`.
pub const MAX_CANDIDATES: u32 = 1024;
/// Largest vocabulary: a part for each thread.
pub const MAX_VOCAB: u32 = PART * THREADS;

/// A token was chosen.
pub const CHOSEN: u32 = 0;
/// The logits hold NaN or +∞, or every token is excluded.
pub const NO_DISTRIBUTION: u32 = 1;
/// The host has to choose.
pub const NEEDS_HOST: u32 = 2;

params! {
    /// Parameters of [`SCAN`] and [`DRAW`].
    pub struct SampleParams {
        /// [rows, vocab], of the model.
        pub logits: Global<f32>,
        /// [rows, 4]: [`SampleRow::words`].
        pub rows: Global<[u32; 4]>,
        /// Token and F32 to add to its logit: those of each row together, each token once.
        pub bias: Global<[u32; 2]>,
        /// [slots, vocab]: how often a token stands in the window of a slot.
        pub counts: Global<u32>,
        /// Scratch [rows, vocab]: logits after bias and penalties, of rows that have any.
        pub adjusted: GlobalMut<f32>,
        /// Scratch [rows, parts].
        pub scanned: GlobalMut<[u32; 4]>,
        /// Scratch [rows].
        pub summary: GlobalMut<[u32; 4]>,
        /// Scratch [rows, parts].
        pub sums: GlobalMut<[u32; 4]>,
        /// Scratch [rows, parts, [`MAX_CANDIDATES`]]; not needed if no row sorts candidates.
        pub candidates: GlobalMut<[u32; 2]>,
        /// [rows], zeros before the first launch; left as zeros.
        pub tickets: GlobalMut<u32>,
        /// [rows]: token, [`CHOSEN`] or another, log-probability before bias and penalties, 0.
        pub out: GlobalMut<[u32; 4]>,
        /// Tokens, at most [`MAX_VOCAB`].
        pub vocab: u32,
    }
}
params! {
    /// Parameters of [`COUNT`].
    pub struct CountParams {
        /// [n]: slot, token, what to add (signed), 0.
        pub changes: Global<[u32; 4]>,
        /// [slots, vocab].
        pub counts: GlobalMut<u32>,
        /// Tokens; changes of others are passed over.
        pub vocab: u32,
        /// Changes.
        pub n: u32,
    }
}

kernels! {
    module "sample";
    /// Scans the logits of each row and chooses for greedy rows.
    pub SCAN: sample_scan_f32(SampleParams), threads THREADS, ctas 2 => scan;
    /// Chooses for the other rows; follows [`SCAN`].
    pub DRAW: sample_draw_f32(SampleParams), threads THREADS, ctas 2 => draw;
    /// Changes counts of tokens.
    pub COUNT: sample_count_u32(CountParams), threads THREADS, ctas 1 => count;
}

/// Parts of a row.
#[inline(always)]
pub const fn parts(vocab: u32) -> u32 {
    vocab.div_ceil(PART)
}
/// The launch of [`SCAN`] and of [`DRAW`].
pub const fn launch(rows: u32, vocab: u32) -> Launch {
    Launch::plane(parts(vocab), rows, THREADS)
}
/// The launch of [`COUNT`].
pub const fn count_launch(changes: u32) -> Launch {
    Launch::linear(changes.div_ceil(THREADS), THREADS)
}

#[inline(always)]
fn count(t: Thread, p: &CountParams) {
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let i = t.cta_id() * t.count() + t.id();
    if i < p.n {
        let [slot, token, change, _] = p.changes.get(i as usize);
        if token < p.vocab {
            let at = slot as usize * p.vocab as usize + token as usize;
            p.counts.atomic_add(at, change);
        }
    }
}

/// A number that orders as `x` does: `-0.0` below `0.0`, nothing is 0 but NaN.
#[inline(always)]
fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}
/// The `x` of [`ordered`].
#[inline(always)]
fn unordered(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 0 { !key } else { key & 0x7fff_ffff })
}
