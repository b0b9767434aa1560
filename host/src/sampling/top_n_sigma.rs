//! Top-nσ: excludes logits more than n standard deviations below the best. Source: Tang et al. 2024.

use super::{Adjuster, Setup};

#[derive(Debug)]
struct TopNSigma(f32);

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Adjuster>> {
    let n = setup.params.top_n_sigma;
    // Mirostat does all removing itself.
    (n > 0.0 && setup.params.mirostat == 0).then(|| Box::new(TopNSigma(n)) as _)
}

impl Adjuster for TopNSigma {
    fn adjust(&mut self, logits: &mut [f32], _: &[u32]) {
        let included = || logits.iter().filter(|&&x| x > f32::NEG_INFINITY).map(|&x| f64::from(x));
        let max = included().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::INFINITY {
            return; // nothing else will be left anyway
        }
        let count = included().count() as f64;
        let mean = included().sum::<f64>() / count;
        let variance = included().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        let least = (max - f64::from(self.0) * variance.sqrt()) as f32;
        for logit in logits {
            // Not `!(logit >= least)`: a NaN must stay to be reported.
            if *logit < least {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
