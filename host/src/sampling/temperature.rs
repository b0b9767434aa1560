//! Temperature, fixed or by entropy.

use super::candidates::Candidates;
use super::rng::Rng;
use super::{Narrower, Setup};

/// A fixed temperature above 0.
#[derive(Debug)]
struct Fixed(f32);

/// A temperature in `center ± range`, the higher the more uncertain the model is: at `(entropy / ln n)^exponent`
/// of the way. Source: kalomaze's "dynamic temperature", llama.cpp pull request 4972.
#[derive(Debug)]
struct Dynamic {
    center: f32,
    range: f32,
    exponent: f32,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Narrower>> {
    let params = setup.params;
    if params.dynatemp_range == 0.0 {
        return fixed(params.temperature);
    }
    let (center, range) = (params.temperature, params.dynatemp_range);
    Some(Box::new(Dynamic { center, range, exponent: params.dynatemp_exponent }))
}

/// A fixed temperature; `None` for 1, which changes nothing.
pub(super) fn fixed(temperature: f32) -> Option<Box<dyn Narrower>> {
    (temperature != 1.0).then(|| Box::new(Fixed(temperature)) as _)
}

impl Narrower for Fixed {
    fn narrow(&mut self, candidates: &mut Candidates, _: &mut Rng) {
        candidates.divide(self.0);
    }
}

impl Narrower for Dynamic {
    fn narrow(&mut self, candidates: &mut Candidates, _: &mut Rng) {
        let count = candidates.items.len();
        if count < 2 {
            return;
        }
        let least = f64::from((self.center - self.range).max(0.0));
        let most = f64::from(self.center + self.range);
        let uncertainty = (candidates.entropy() / (count as f64).ln()).clamp(0.0, 1.0);
        let temperature = least + (most - least) * uncertainty.powf(f64::from(self.exponent));
        if temperature as f32 > 0.0 {
            candidates.divide(temperature as f32);
        } else {
            candidates.sort();
            candidates.items.truncate(1);
        }
    }
}
