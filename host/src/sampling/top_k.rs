//! Top-k: the k best tokens. It is where candidates are gathered, so that few of many are ever copied.

use super::candidates::{Candidate, Candidates};

/// Gathers the `k` best of `logits`, sorted; all, unsorted, for 0 or where there are no more.
///
/// `max` is the maximum. Reads the logits once: a group without one above the k-th best so far is passed over.
pub(super) fn gather(candidates: &mut Candidates, logits: &[f32], max: f32, k: usize) {
    /// Logits compared at once.
    const GROUP: usize = 64;

    if k == 0 || k >= logits.len() {
        return candidates.gather(logits, max);
    }
    let room = 2 * k + GROUP;
    let items = &mut candidates.items;
    items.clear();
    items.reserve(room);
    // Of equal logits the lowest id is better, and it came first: an equal one need not be looked at.
    let mut least = f32::NEG_INFINITY;
    for (group, start) in logits.chunks(GROUP).zip((0u32..).step_by(GROUP)) {
        if !group.iter().fold(false, |any, &logit| any | (logit > least)) {
            continue;
        }
        let all = group.iter().zip(start..).map(|(&logit, id)| Candidate { logit, id });
        items.extend(all.filter(|c| c.logit > least));
        if items.len() > room - GROUP {
            keep_best(items, k);
            least = items[k - 1].logit;
        }
    }
    keep_best(items, k);
    items.sort_unstable_by(Candidate::rank);
    candidates.set_sorted();
}

/// Keeps the `k` best, the last of them at the end and the others in any order.
fn keep_best(items: &mut Vec<Candidate>, k: usize) {
    if items.len() > k {
        items.select_nth_unstable_by(k - 1, Candidate::rank);
        items.truncate(k);
    }
}
