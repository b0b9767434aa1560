//! Attention over the paged key-value cache of one layer.
//!
//! | module | what | when |
//! |---|---|---|
//! | [`inputs`] | norms, rotates, stores keys and values in their pages | before any of the others |
//! | [`prefill`] | tiles of queries by matrix instructions, f16 | spans of many rows |
//! | [`decode`] | keys of a row split over CTAs, f16 keys, the rest as good as F32 | spans of few rows |
//! | [`exact`] | the plain definition in F32, f16 or F32 keys | exact mode; shapes the others leave out |
//!
//! All of them compute, for row `i` of a span at position `p = context_len − rows + i`, over the keys
//! in `(p − window, p]`, `Σ softmax(cap(scale · q · k)) · v` with `cap(s) = softcap · tanh(s / softcap)`.

use cuda_std::{Global, GlobalMut, Thread, math, params};

use super::operand::OperandOut;
use super::step::{KvView, PAGE_SIZE, StepView};

/// Runs the body with `$i` from 0 to below `$n`, which is at most the literal. LLVM leaves larger loops as
/// loops, and then keeps the arrays they index in local memory.
macro_rules! unroll {
    ($i:ident < $n:expr, 2, $body:block) => { unroll!(@ $i, $n, $body, 0 1) };
    ($i:ident < $n:expr, 4, $body:block) => { unroll!(@ $i, $n, $body, 0 1 2 3) };
    ($i:ident < $n:expr, 8, $body:block) => { unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7) };
    ($i:ident < $n:expr, 16, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($i:ident < $n:expr, 32, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
            16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31)
    };
    (@ $i:ident, $n:expr, $body:block, $($value:literal)*) => {
        $(if $value < $n {
            #[allow(unused_variables)]
            let $i: usize = $value;
            $body
        })*
    };
}

pub mod decode;
pub mod exact;
pub mod inputs;
mod output;
pub mod prefill;
#[cfg(test)]
mod tests;

params! {
    /// Parameters of the kernels that attend.
    pub struct AttendParams {
        /// [rows, heads · head_dim], rotated.
        pub q: Global<f32>,
        /// Keys and values of the layer.
        pub kv: KvView,
        /// The rows and their sequences.
        pub step: StepView,
        /// [rows, heads · head_dim]. The `row_scale` written is 1: a mean of halves is one.
        pub out: OperandOut,
        /// What the CTAs of a row hand to each other, `decode::workspace_bytes` of it; the others
        /// leave it alone.
        pub workspace: GlobalMut<f32>,
        /// `decode::counters` zeros; they are zeros again afterwards.
        pub counters: GlobalMut<u32>,
        /// First row to compute; of the kernels that take rows.
        pub first_row: u32,
        /// First span to compute; of the kernels that take spans.
        pub first_span: u32,
        /// Query heads.
        pub heads: u32,
        /// Multiplies `q · k`.
        pub scale: f32,
        /// Cap of the scores; 0 for none.
        pub softcap: f32,
        /// Keys that a row sees, itself included; `u32::MAX` for all.
        pub window: u32,
        /// Parts into which the keys of a row are split; of `decode`.
        pub splits: u32,
    }
}

/// What a layer's heads look like, for the functions that choose and launch kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
}

impl Shape {
    /// Query heads that share a key.
    pub const fn group(self) -> u32 {
        self.heads / self.kv_heads
    }
}

/// Below every score and above minus infinity, so that differences with it are numbers.
const LOWEST: f32 = -1e30;
/// `log2(e)`: weights are powers of two.
const LOG2_E: f32 = core::f32::consts::LOG2_E;

/// Scores capped, in powers of two.
#[derive(Clone, Copy)]
struct SoftCap {
    /// `cap · log2(e)`, and `2 · log2(e) / cap`.
    cap: f32,
    inverse: f32,
}

impl SoftCap {
    #[inline(always)]
    fn new(cap: f32) -> Self {
        Self { cap: cap * LOG2_E, inverse: 2.0 * LOG2_E * math::reciprocal(cap) }
    }
    /// `log2(e) · cap · tanh(score / cap)`. The error, 1e-7 of the cap, is far below that of f16 keys.
    #[inline(always)]
    fn of(self, score: f32) -> f32 {
        let e = math::exp2(score * self.inverse);
        math::fma(-2.0 * self.cap, math::reciprocal(1.0 + e), self.cap)
    }
}

/// A row's place in its sequence.
#[derive(Clone, Copy)]
struct Row {
    /// First key it sees.
    first: u32,
    /// Its own position and one.
    end: u32,
    /// Where its sequence's pages begin in `StepView::pages`.
    pages: u32,
}

impl Row {
    /// The step's data is uploaded before the step's first kernel starts, so this may be asked before
    /// `wait_for_previous_kernel`.
    #[inline(always)]
    fn of(p: &AttendParams, row: u32) -> Self {
        let [first_row, rows, context_len, pages] =
            p.step.spans.get(p.step.row_span.get(row as usize) as usize);
        // An unused row of a recorded launch has no context.
        let end = (context_len + row + 1).saturating_sub(first_row + rows);
        Row { first: end.saturating_sub(p.window), end, pages }
    }
}

/// First element of a head's slot 0 in a page.
#[inline(always)]
fn page_start(kv: &KvView, page: u32, kv_head: u32) -> usize {
    (page * kv.kv_heads + kv_head) as usize * (PAGE_SIZE * kv.head_dim) as usize
}

/// Heads whose columns together fill whole blocks of 32.
const fn heads_of_blocks(head_dim: u32) -> u32 {
    let mut n = 1;
    while !(n * head_dim).is_multiple_of(32) {
        n *= 2;
    }
    n
}

/// Whether this CTA is the last of `arrivals` to come here; what the others wrote before is then
/// visible to all its threads.
#[inline(always)]
fn is_last_arrival(t: Thread, counters: GlobalMut<u32>, i: u32, arrivals: u32) -> bool {
    let flag = t.static_shared::<u32, 16>();
    t.sync();
    if t.id() == 0 {
        // What all threads wrote before the barrier comes before the arrival of their CTA.
        t.fence();
        let last = counters.atomic_add(i as usize, 1) + 1 == arrivals;
        if last {
            // And what the other CTAs wrote before theirs comes before what is read from here on.
            t.fence();
            // For the next launch.
            counters.set(i as usize, 0);
        }
        flag.set(0, last as u32);
    }
    t.sync();
    flag.get(0) != 0
}
