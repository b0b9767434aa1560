//! Min-p: tokens with at least a share p of the best one's probability. Source: Nguyen et al. 2024.

use super::candidates::Candidates;
use super::rng::Rng;
use super::{Narrower, Setup};

#[derive(Debug)]
struct MinP {
    p: f32,
    min_keep: usize,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Narrower>> {
    let (p, min_keep) = (setup.params.min_p, setup.params.min_keep as usize);
    (p > 0.0).then(|| Box::new(MinP { p, min_keep }) as _)
}

impl Narrower for MinP {
    fn narrow(&mut self, candidates: &mut Candidates, _: &mut Rng) {
        // p_i ≥ p · p_max  ⇔  logit_i ≥ logit_max + ln p
        let least = candidates.max() + self.p.ln();
        if self.min_keep <= 1 {
            return candidates.retain(|logit| logit >= least);
        }
        candidates.sort();
        let kept = candidates.items.partition_point(|c| c.logit >= least);
        candidates.items.truncate(kept.max(self.min_keep));
    }
}
