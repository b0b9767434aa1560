//! Locally typical sampling: the tokens whose surprise is nearest to the entropy, up to a mass p.
//! Source: Meister et al. 2022.

use std::cmp::Ordering;

use super::candidates::{Candidate, Candidates};
use super::rng::Rng;
use super::{Narrower, Setup};

#[derive(Debug)]
struct TypicalP {
    p: f32,
    min_keep: usize,
    /// Scratch.
    scored: Vec<Scored>,
}

#[derive(Clone, Copy, Debug)]
struct Scored {
    /// Between surprise and entropy.
    distance: f32,
    weight: f32,
    candidate: Candidate,
}

impl Scored {
    /// Of equally typical tokens the highest id first, as llama.cpp is seen to keep.
    fn rank(&self, other: &Self) -> Ordering {
        let by_id = other.candidate.id.cmp(&self.candidate.id);
        self.distance.total_cmp(&other.distance).then(by_id)
    }
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Narrower>> {
    let (p, min_keep) = (setup.params.typical_p, setup.params.min_keep as usize);
    (p < 1.0).then(|| Box::new(TypicalP { p, min_keep, scored: Vec::new() }) as _)
}

impl Narrower for TypicalP {
    fn narrow(&mut self, candidates: &mut Candidates, _: &mut Rng) {
        let entropy = candidates.entropy();
        let (max, (_, total)) = (candidates.max(), candidates.weigh());
        // Surprise is −ln p = ln total − (logit − max).
        let offset = (total.ln() - entropy) as f32;
        self.scored.clear();
        self.scored.extend(candidates.weighted().map(|(candidate, weight)| Scored {
            distance: (offset - (candidate.logit - max)).abs(),
            weight,
            candidate,
        }));
        let kept = self.bring_forward(f64::from(self.p) * total);
        candidates.items.clear();
        candidates.items.extend(self.scored[..kept].iter().map(|scored| scored.candidate));
        let best = candidates.items.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
        candidates.set_unsorted(best);
    }
}

impl TypicalP {
    /// Brings the most typical candidates, of more than `mass` together, to the front and returns how many.
    ///
    /// Mostly few are needed, so what is sorted is a prefix, which grows until it holds them.
    fn bring_forward(&mut self, mass: f64) -> usize {
        let (mut sorted, mut sum) = (0, 0.0);
        loop {
            let rest = &mut self.scored[sorted..];
            let more = rest.len().min(256 + 3 * sorted);
            if more < rest.len() {
                rest.select_nth_unstable_by(more, Scored::rank);
            }
            rest[..more].sort_unstable_by(Scored::rank);
            for scored in &rest[..more] {
                sum += f64::from(scored.weight);
                sorted += 1;
                if sum > mass && sorted >= self.min_keep {
                    return sorted;
                }
            }
            if sorted == self.scored.len() {
                return sorted;
            }
        }
    }
}
