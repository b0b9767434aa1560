//! Locally typical sampling: the tokens whose surprise is nearest to the entropy, up to a mass p.
//! Source: Meister et al. 2022.

use super::candidates::{Candidate, Candidates};
use super::rng::Rng;
use super::{Narrower, Setup};

#[derive(Debug)]
struct TypicalP {
    p: f32,
    min_keep: usize,
    /// Scratch: distance from the entropy, weight, candidate.
    scored: Vec<(f32, f32, Candidate)>,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Narrower>> {
    let (p, min_keep) = (setup.params.typical_p, setup.params.min_keep as usize);
    (p < 1.0).then(|| Box::new(TypicalP { p, min_keep, scored: Vec::new() }) as _)
}

impl Narrower for TypicalP {
    fn narrow(&mut self, candidates: &mut Candidates, _: &mut Rng) {
        let entropy = candidates.entropy();
        let max = candidates.max();
        let (_, total) = candidates.weigh();
        // Surprise is −ln p = ln total − (logit − max).
        let offset = (total.ln() - entropy) as f32;
        self.scored.clear();
        self.scored.extend(candidates.weighted().map(|(candidate, weight)| {
            ((offset - (candidate.logit - max)).abs(), weight, candidate)
        }));
        // Of equally typical tokens the highest id first, as llama.cpp is seen to keep.
        self.scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.2.id.cmp(&a.2.id)));
        let (p, mut sum) = (f64::from(self.p), 0.0);
        let reached = |scored: &(f32, f32, Candidate)| {
            sum += f64::from(scored.1);
            sum > p * total
        };
        let needed =
            self.scored.iter().position(reached).map_or(self.scored.len(), |last| last + 1);
        self.scored.truncate(needed.max(self.min_keep));
        candidates.items.clear();
        candidates.items.extend(self.scored.iter().map(|scored| scored.2));
        let best = candidates.items.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
        candidates.set_unsorted(best);
    }
}
