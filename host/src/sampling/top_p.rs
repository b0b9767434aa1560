//! Top-p (nucleus): the fewest best tokens whose probabilities add up to p. Source: Holtzman et al. 2019.

use super::candidates::Candidates;
use super::rng::Rng;
use super::{Narrower, Setup};

#[derive(Debug)]
struct TopP {
    p: f32,
    min_keep: usize,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Narrower>> {
    let (p, min_keep) = (setup.params.top_p, setup.params.min_keep as usize);
    (p < 1.0).then(|| Box::new(TopP { p, min_keep }) as _)
}

impl Narrower for TopP {
    fn narrow(&mut self, candidates: &mut Candidates, _: &mut Rng) {
        let p = f64::from(self.p);
        let count = candidates.items.len();
        let (_, total) = candidates.weigh();
        if !candidates.is_sorted() && self.min_keep <= 1 {
            // Tokens below this share of the rest add up to less than 1 − p even together, so none of them is
            // needed: they need not be sorted. Half of it, to be clear of rounding.
            let share = 0.5 * (1.0 - p) / count as f64 * total;
            let least = (f64::from(candidates.max()) + share.ln()) as f32;
            let max = candidates.max();
            candidates.retain(|logit| logit >= least || logit == max);
        }
        candidates.sort();
        let (weights, _) = candidates.weigh();
        let mut sum = 0.0;
        let reached = |&weight: &f32| {
            sum += f64::from(weight);
            sum >= p * total
        };
        let needed = weights.iter().position(reached).map_or(weights.len(), |last| last + 1);
        candidates.items.truncate(needed.max(self.min_keep));
    }
}
