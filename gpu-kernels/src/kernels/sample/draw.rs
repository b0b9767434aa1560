//! The second launch: narrows the choice and draws.

use cuda_std::{Global, Shared, Thread, math};

use super::super::operand::{RUN, load_run};
use super::super::row::each;
use super::cta::{Count, SCRATCH_BYTES, Scratch, is_last, least, running, together};
use super::row::{Adjust, Draw};
use super::scan::{RUNS, load_part, run_of, write_token};
use super::select::{BINS, kth_greatest, number, sort};
use super::{
    CHOSEN, MAX_CANDIDATES, NEEDS_HOST, PART, SampleParams, THREADS, exp_nonpositive, ordered,
    parts, unordered,
};

/// Candidates of a thread.
const OWN: usize = (MAX_CANDIDATES / THREADS) as usize;

#[inline(always)]
pub(super) fn draw(t: Thread, p: &SampleParams) {
    let scratch = t.static_shared::<[u32; 2], SCRATCH_BYTES>();
    let keys = t.static_shared::<u32, { 4 * PART }>();
    let bins = t.static_shared::<u32, { 4 * BINS }>();
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let row = t.cta_id_y();
    let Some(draw) = Draw::load(p.rows, row) else { return };
    let [model_max, log_sum, max, status] = p.summary.get(row as usize);
    if status != CHOSEN {
        return;
    }
    let max = f32::from_bits(max);
    let adjusted = Adjust::load(p.rows, row).any();
    let logits = if adjusted { p.adjusted.read() } else { p.logits };
    let token = if draw.sorted {
        draw_sorted(t, p, &draw, logits, max, keys, bins, scratch)
    } else {
        draw_whole(t, p, &draw, logits, max, scratch)
    };
    if t.id() == 0 {
        match token {
            Some(Some(token)) => {
                let (max, log_sum) = (f32::from_bits(model_max), f32::from_bits(log_sum));
                write_token(p, row, token, max, log_sum);
            }
            Some(None) => p.out.set(row as usize, [0, NEEDS_HOST, 0, 0]),
            // Another CTA does.
            None => {}
        }
    }
}

/// The weight of a logit in the draw.
#[inline(always)]
fn weight(draw: &Draw, logit: f32, max: f32) -> f32 {
    let below = logit - max;
    exp_nonpositive(if draw.temperature == 1.0 {
        below
    } else {
        math::div(below, draw.temperature)
    })
}

/// Draws among all tokens that min-p leaves, in the order of ids.
#[inline(always)]
fn draw_whole(
    t: Thread,
    p: &SampleParams,
    draw: &Draw,
    logits: Global<f32>,
    max: f32,
    scratch: Scratch,
) -> Option<Option<u32>> {
    let (part, row, vocab) = (t.cta_id(), t.cta_id_y(), p.vocab);
    let start = row as usize * vocab as usize;
    let line = max + draw.ln_min_p;
    let weight = |logit: f32| if logit >= line { weight(draw, logit, max) } else { 0.0 };

    let x = load_part(t, logits, start, vocab, part);
    let mut sum = 0.0f64;
    each!(i < RUNS => {
        each!(j < 4 => {
            sum += f64::from(weight(x[i][j]));
        });
    });
    let sum = together(t, sum, scratch);
    let parts = parts(vocab);
    let sums = p.sums.at(row as usize * parts as usize);
    if t.id() == 0 {
        let bits = sum.to_bits();
        sums.set(part as usize, [bits as u32, (bits >> 32) as u32, 0, 0]);
    }
    if !is_last(t, p.tickets.at(row as usize), parts, scratch) {
        return None;
    }

    // The part in which the running sum passes the target, and the sum before it.
    let mut own = 0.0;
    if t.id() < parts {
        let [low, high, ..] = sums.get(t.id() as usize);
        own = f64::from_bits(number([low, high]));
    }
    let (up_to, total) = running(t, own, scratch);
    let target = draw.uniform * total;
    let part = first_past(t, up_to > target && own > 0.0, own > 0.0, t.id(), scratch);
    let before = together(t, if t.id() == part { up_to - own } else { 0.0 }, scratch);

    // The same in it. Threads now hold neighbours.
    let mut w = [[0.0f32; 4]; RUNS];
    let first = part * (PART / RUN) + t.id() * RUNS as u32;
    let mut own = 0.0f64;
    each!(i < RUNS => {
        let run = first + i as u32;
        let x = load_run(logits, start, vocab, run);
        each!(j < 4 => {
            if RUN * run + (j as u32) < vocab {
                w[i][j] = weight(x[j]);
            }
            own += f64::from(w[i][j]);
        });
    });
    let (up_to, _) = running(t, own, scratch);
    let mut sum = before + (up_to - own);
    let (mut past, mut last) = (u32::MAX, u32::MAX);
    each!(i < RUNS => {
        each!(j < 4 => {
            sum += f64::from(w[i][j]);
            if w[i][j] > 0.0 {
                last = RUN * (first + i as u32) + j as u32;
                if sum > target && past == u32::MAX {
                    past = last;
                }
            }
        });
    });
    Some(Some(earliest(t, past, last, scratch)))
}

/// The least `index` of threads where `past` is; where there is none, because sums were rounded another
/// way, the greatest of those where `some` is.
#[inline(always)]
fn first_past(t: Thread, past: bool, some: bool, index: u32, scratch: Scratch) -> u32 {
    let none = u32::MAX;
    earliest(t, if past { index } else { none }, if some { index } else { none }, scratch)
}
/// The least `past`, else the greatest `last`; `u32::MAX` stands for none.
#[inline(always)]
fn earliest(t: Thread, past: u32, last: u32, scratch: Scratch) -> u32 {
    let past = least(t, past, scratch);
    let last = together(t, u64::from(last.wrapping_add(1)), scratch) as u32;
    if past == u32::MAX { last.wrapping_sub(1) } else { past }
}

/// Draws among the best tokens, the best first.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call, inlined")]
fn draw_sorted(
    t: Thread,
    p: &SampleParams,
    draw: &Draw,
    logits: Global<f32>,
    max: f32,
    keys: Shared<u32>,
    bins: Shared<u32>,
    scratch: Scratch,
) -> Option<Option<u32>> {
    let (part, row, vocab) = (t.cta_id(), t.cta_id_y(), p.vocab);
    let k = if draw.top_k == 0 { MAX_CANDIDATES } else { draw.top_k };
    let parts = parts(vocab);
    let candidates = p.candidates.at((row * parts) as usize * MAX_CANDIDATES as usize);
    let sums = p.sums.at(row as usize * parts as usize);

    // The best of this part.
    let x = load_part(t, logits, row as usize * vocab as usize, vocab, part);
    let (mut sum, mut some) = (0.0f64, 0);
    each!(i < RUNS => {
        let mut run = [0; 4];
        each!(j < 4 => {
            if x[i][j] > f32::NEG_INFINITY {
                run[j] = ordered(x[i][j]);
                some += 1;
                sum += f64::from(exp_nonpositive(x[i][j] - max));
            }
        });
        keys.cast::<[u32; 4]>().set(run_of(t, 0, i as u32), run);
    });
    let sum = together(t, sum, scratch);
    let some = together(t, Count(some), scratch).0;
    let first = part * PART;
    let here = (vocab - first).min(PART);
    let key = |i: u32| number([!(first + i), keys.get(i)]);
    let from = if some > k { kth_greatest(t, here, k, key, bins, scratch) } else { 1 << 32 };
    let filled = bins;
    if t.id() == 0 {
        filled.set(0, 0);
        let bits = sum.to_bits();
        sums.set(part as usize, [bits as u32, (bits >> 32) as u32, some, 0]);
    }
    t.sync();
    let own = candidates.at((part * k) as usize);
    let mut i = t.id();
    while i < here {
        let key = key(i);
        if key >= from {
            let place = filled.atomic_add(0, 1);
            own.set(place as usize, [key as u32, (key >> 32) as u32]);
        }
        i += THREADS;
    }
    // What is left of the part's places holds nothing.
    let mut i = some + t.id();
    while i < k {
        own.set(i as usize, [0, 0]);
        i += THREADS;
    }
    if !is_last(t, p.tickets.at(row as usize), parts, scratch) {
        return None;
    }

    // The best of all parts.
    let (mut sum, mut some) = (0.0, 0);
    if t.id() < parts {
        let [low, high, count, _] = sums.get(t.id() as usize);
        (sum, some) = (f64::from_bits(number([low, high])), count);
    }
    let all_sum = together(t, sum, scratch);
    let some = together(t, Count(some), scratch).0;
    let places = parts * k;
    let key = |i: u32| number(candidates.get(i as usize));
    let from = if some > k { kth_greatest(t, places, k, key, bins, scratch) } else { 1 << 32 };
    let len = some.min(k);
    let padded = len.next_power_of_two().max(2);
    let sorted = keys.cast::<[u32; 2]>();
    if t.id() == 0 {
        filled.set(0, 0);
    }
    let mut i = len + t.id();
    while i < padded {
        sorted.set(i, [0, 0]);
        i += THREADS;
    }
    t.sync();
    let mut i = t.id();
    while i < places {
        let key = key(i);
        if key >= from {
            sorted.set(filled.atomic_add(0, 1), [key as u32, (key >> 32) as u32]);
        }
        i += THREADS;
    }
    t.sync();
    sort(t, sorted, padded);
    let limitless = draw.top_k == 0;
    let total = if limitless { Some(all_sum) } else { None };
    Some(narrow_and_draw(t, draw, sorted, len, total, limitless && some > len, scratch))
}

/// Top-p, min-p, temperature and the draw from `len` candidates, the best first. `total` is the sum of
/// the weights that top-p takes its share of, where there are others beside the candidates; `more` says
/// that a candidate may be missing, in which case there may be no answer.
#[inline(always)]
fn narrow_and_draw(
    t: Thread,
    draw: &Draw,
    sorted: Shared<[u32; 2]>,
    len: u32,
    total: Option<f64>,
    more: bool,
    scratch: Scratch,
) -> Option<u32> {
    let first = t.id() * OWN as u32;
    let max = unordered(sorted.get(0)[1]);
    let mut logit = [f32::NEG_INFINITY; OWN];
    each!(j < OWN => {
        if first + (j as u32) < len {
            logit[j] = unordered(sorted.get(first + j as u32)[1]);
        }
    });

    let mut kept = len;
    let mut cut = false;
    if draw.top_p < 1.0 {
        let w = logit.map(|logit| exp_nonpositive(logit - max));
        let mut own = 0.0f64;
        each!(j < OWN => {
            own += f64::from(w[j]);
        });
        let (up_to, sum_of_candidates) = running(t, own, scratch);
        let enough = f64::from(draw.top_p) * total.unwrap_or(sum_of_candidates);
        let mut sum = up_to - own;
        let mut reached = u32::MAX;
        each!(j < OWN => {
            sum += f64::from(w[j]);
            if sum >= enough && reached == u32::MAX && first + (j as u32) < len {
                reached = first + j as u32;
            }
        });
        let reached = least(t, reached, scratch);
        if reached != u32::MAX {
            cut = true;
            kept = (reached + 1).max(draw.min_keep).min(len);
        }
    }
    if draw.ln_min_p > f32::NEG_INFINITY {
        let line = max + draw.ln_min_p;
        let mut above = 0;
        each!(j < OWN => {
            if first + (j as u32) < kept && logit[j] >= line {
                above += 1;
            }
        });
        let above = together(t, Count(above), scratch).0;
        // Where a token falls below the line, so do all after it, candidates or not.
        cut |= above < kept;
        let least = if draw.min_keep > 1 { draw.min_keep } else { 0 };
        kept = above.max(least).min(kept);
    }
    if more && !cut {
        return None;
    }

    let mut w = [0.0f32; OWN];
    let mut own = 0.0f64;
    each!(j < OWN => {
        if first + (j as u32) < kept {
            w[j] = weight(draw, logit[j], max);
        }
        own += f64::from(w[j]);
    });
    let (up_to, total) = running(t, own, scratch);
    let target = draw.uniform * total;
    let mut sum = up_to - own;
    let (mut past, mut last) = (u32::MAX, u32::MAX);
    each!(j < OWN => {
        sum += f64::from(w[j]);
        if w[j] > 0.0 {
            last = first + j as u32;
            if sum > target && past == u32::MAX {
                past = last;
            }
        }
    });
    let index = earliest(t, past, last, scratch);
    Some(!sorted.get(index)[0])
}
