//! Logit bias: a constant added to the logit of chosen tokens.

use super::{Adjuster, Setup};

#[derive(Debug)]
struct LogitBias(Vec<(u32, f32)>);

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Adjuster>> {
    let bias = &setup.params.logit_bias;
    (!bias.is_empty()).then(|| Box::new(LogitBias(bias.clone())) as _)
}

impl Adjuster for LogitBias {
    fn adjust(&mut self, logits: &mut [f32], _: &[u32]) {
        for &(token, bias) in &self.0 {
            let logit = &mut logits[token as usize];
            // +∞ − ∞ would be a NaN, where the user excluded the token; a NaN of the model's stays one.
            *logit =
                if bias == f32::NEG_INFINITY && !logit.is_nan() { bias } else { *logit + bias };
        }
    }
}
