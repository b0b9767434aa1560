//! XTC ("exclude top choices"): now and then removes all likely tokens but the least likely of them.
//! Source: p-e-w, text-generation-webui pull request 6335.

use super::candidates::Candidates;
use super::rng::Rng;
use super::{Narrower, Setup};

#[derive(Debug)]
struct Xtc {
    probability: f32,
    threshold: f32,
    min_keep: usize,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Narrower>> {
    let params = setup.params;
    // Two tokens cannot both have more than a half.
    (params.xtc_probability > 0.0 && params.xtc_threshold <= 0.5).then(|| {
        Box::new(Xtc {
            probability: params.xtc_probability,
            threshold: params.xtc_threshold,
            min_keep: params.min_keep as usize,
        }) as _
    })
}

impl Narrower for Xtc {
    fn narrow(&mut self, candidates: &mut Candidates, rng: &mut Rng) {
        // Drawn also when there is one candidate, so that later draws do not depend on how many there were.
        if rng.unit() >= f64::from(self.probability) || candidates.items.len() < 2 {
            return;
        }
        candidates.sort();
        let (weights, total) = candidates.weigh();
        let least = f64::from(self.threshold) * total;
        let likely = weights.iter().take_while(|&&weight| f64::from(weight) >= least).count();
        let removed = likely.saturating_sub(1);
        if removed > 0 && candidates.items.len() - removed >= self.min_keep {
            candidates.items.drain(..removed);
            candidates.set_sorted();
        }
    }
}
