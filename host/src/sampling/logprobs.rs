//! Log-probabilities to report, of the model itself: before any sampler.

use super::candidates::Candidates;
use super::top_k;

/// Log-probability of `chosen`, and the `n` best tokens with theirs, best first; equal ones by lowest id.
///
/// `logits` \[vocab_size\] as the model gave them, without NaN and not all −∞ ([`super::Sampler::sample`] refuses
/// others); an excluded token is never among the best. The sum is taken in f64.
///
/// # Panics
/// When `chosen` is not below `logits.len()`.
pub fn top_logprobs(logits: &[f32], chosen: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Where some are +∞ they share all probability.
    let relative = |x: f32| if x == max { 0.0 } else { f64::from(x) - f64::from(max) };
    let log_sum = logits.iter().map(|&x| relative(x).exp()).sum::<f64>().ln();
    let logprob = |x: f32| (relative(x) - log_sum) as f32;

    let mut best = Candidates::default();
    if n > 0 {
        top_k::gather(&mut best, logits, max, n);
        best.sort();
    }
    let top = best.items.iter().map(|c| (c.id, logprob(c.logit))).collect();
    (logprob(logits[chosen as usize]), top)
}
