//! The first launch: what is known of a row before anything is drawn.

use cuda_std::{Shared, Thread, math};

use super::super::operand::{RUN, load_run, store_run};
use super::super::row::each;
use super::cta::{SCRATCH_BYTES, is_last, together};
use super::row::Adjust;
use super::{
    CHOSEN, NEEDS_HOST, NO_DISTRIBUTION, PART, SampleParams, THREADS, exp_nonpositive, ordered,
    parts, unordered,
};

/// Runs of a thread.
pub(super) const RUNS: usize = (PART / RUN / THREADS) as usize;

/// In place of a key: the model's logits are no distribution.
const BAD: u64 = u64::MAX;

/// The runs of a thread in part `part` of a row that starts at element `start`: run `i` is
/// [`run_of`]. −∞ past its end.
#[inline(always)]
pub(super) fn load_part(
    t: Thread,
    x: cuda_std::Global<f32>,
    start: usize,
    vocab: u32,
    part: u32,
) -> [[f32; 4]; RUNS] {
    let mut v = [[f32::NEG_INFINITY; 4]; RUNS];
    each!(i < RUNS => {
        let run = run_of(t, part, i as u32);
        let loaded = load_run(x, start, vocab, run);
        each!(j < 4 => {
            if RUN * run + (j as u32) < vocab {
                v[i][j] = loaded[j];
            }
        });
    });
    v
}

/// Index in the row of a thread's `i`th run of a part.
#[inline(always)]
pub(super) fn run_of(t: Thread, part: u32, i: u32) -> u32 {
    part * (PART / RUN) + i * THREADS + t.id()
}

#[inline(always)]
pub(super) fn scan(t: Thread, p: &SampleParams) {
    let scratch = t.static_shared::<[u32; 2], SCRATCH_BYTES>();
    let values = t.static_shared::<f32, { 4 * PART }>();
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let (part, row, vocab) = (t.cta_id(), t.cta_id_y(), p.vocab);
    let start = row as usize * vocab as usize;
    let adjust = Adjust::load(p.rows, row);
    let mut x = load_part(t, p.logits, start, vocab, part);

    let mut bad = false;
    let mut max = f32::NEG_INFINITY;
    each!(i < RUNS => {
        each!(j < 4 => {
            bad |= x[i][j].is_nan() || x[i][j] == f32::INFINITY;
            max = math::max(max, x[i][j]);
        });
    });
    let max = unordered(together(t, u64::from(ordered(max)), scratch) as u32);
    let mut sum = 0.0f64;
    each!(i < RUNS => {
        let e = x[i].map(|x| exp_nonpositive(x - max));
        sum += f64::from((e[0] + e[1]) + (e[2] + e[3]));
    });
    let sum = together(t, sum, scratch) as f32;

    if adjust.any() {
        apply(t, p, &adjust, part, row, &mut x, values);
    }
    let mut best = if bad { BAD } else { 0 };
    each!(i < RUNS => {
        each!(j < 4 => {
            best = best.max(key(x[i][j], RUN * run_of(t, part, i as u32) + j as u32));
        });
    });
    let best = together(t, best, scratch);
    let parts = parts(vocab);
    let at = row as usize * parts as usize;
    if t.id() == 0 {
        let words = [best as u32, (best >> 32) as u32, max.to_bits(), sum.to_bits()];
        p.scanned.set(at + part as usize, words);
    }
    if !is_last(t, p.tickets.at(row as usize), parts, scratch) {
        return;
    }

    let mut scanned = [0, 0, f32::NEG_INFINITY.to_bits(), 0];
    if t.id() < parts {
        scanned = p.scanned.get(at + t.id() as usize);
    }
    let [low, high, max, sum] = scanned;
    let best = together(t, u64::from(high) << 32 | u64::from(low), scratch);
    let max = f32::from_bits(max);
    let row_max = unordered(together(t, u64::from(ordered(max)), scratch) as u32);
    let sum = f64::from(f32::from_bits(sum)) * f64::from(exp_nonpositive(max - row_max));
    let sum = together(t, sum, scratch) as f32;
    if t.id() == 0 {
        finish(p, row, best, row_max, sum, adjust.greedy);
    }
}

/// Writes what is known of a row, and the token of a greedy one.
#[inline(always)]
fn finish(p: &SampleParams, row: u32, best: u64, max: f32, sum: f32, greedy: bool) {
    let log_sum = math::log2(sum) * core::f32::consts::LN_2;
    let best_logit = unordered((best >> 32) as u32);
    let status = if best == BAD || best_logit == f32::NEG_INFINITY {
        NO_DISTRIBUTION
    } else if best_logit == f32::INFINITY {
        // A penalty below 1 led out of F32.
        NEEDS_HOST
    } else {
        CHOSEN
    };
    let summary = [max.to_bits(), log_sum.to_bits(), best_logit.to_bits(), status];
    p.summary.set(row as usize, summary);
    if status != CHOSEN {
        p.out.set(row as usize, [0, status, 0, 0]);
    } else if greedy {
        write_token(p, row, !(best as u32), max, log_sum);
    }
}

/// Writes the token of a row.
#[inline(always)]
pub(super) fn write_token(p: &SampleParams, row: u32, token: u32, max: f32, log_sum: f32) {
    let logit = p.logits.get(row as usize * p.vocab as usize + token as usize);
    let logprob = (logit - max) - log_sum;
    p.out.set(row as usize, [token, CHOSEN, logprob.to_bits(), 0]);
}

/// Orders by logit, the lowest id first among equal ones; zeros of both signs are equal.
#[inline(always)]
fn key(logit: f32, id: u32) -> u64 {
    u64::from(ordered(logit + 0.0)) << 32 | u64::from(!id)
}

/// Applies bias, then penalties, and keeps the result for the draw.
#[inline(always)]
fn apply(
    t: Thread,
    p: &SampleParams,
    adjust: &Adjust,
    part: u32,
    row: u32,
    x: &mut [[f32; 4]; RUNS],
    values: Shared<f32>,
) {
    if adjust.bias_len > 0 {
        let runs = values.cast::<[f32; 4]>();
        each!(i < RUNS => {
            runs.set(i as u32 * THREADS + t.id(), x[i]);
        });
        t.sync();
        let mut i = t.id();
        while i < adjust.bias_len {
            let [token, bias] = p.bias.get((adjust.bias_start + i) as usize);
            if token / PART == part {
                let bias = f32::from_bits(bias);
                let at = token % PART;
                let logit = values.get(at);
                // +∞ − ∞ would be a NaN, where the token was excluded.
                let excluded = bias == f32::NEG_INFINITY;
                values.set(at, if excluded { bias } else { logit + bias });
            }
            i += THREADS;
        }
        t.sync();
        each!(i < RUNS => {
            x[i] = runs.get(i as u32 * THREADS + t.id());
        });
    }
    let vocab = p.vocab;
    if adjust.counts != u32::MAX {
        // Counts are words as logits are.
        let counts = p.counts.cast::<f32>();
        let start = adjust.counts as usize * vocab as usize;
        each!(i < RUNS => {
            let seen = load_run(counts, start, vocab, run_of(t, part, i as u32));
            each!(j < 4 => {
                x[i][j] = adjust.penalised(x[i][j], seen[j].to_bits());
            });
        });
    }
    let start = row as usize * vocab as usize;
    each!(i < RUNS => {
        store_run(p.adjusted, start, vocab, run_of(t, part, i as u32), x[i]);
    });
}
