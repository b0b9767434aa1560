//! The tokens still to choose from, and the draw.

use std::cmp::Ordering;

use gpu_kernels::kernels::sample::exp_nonpositive;

use super::SamplingError;
use super::rng::Rng;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub logit: f32,
    pub id: u32,
}

impl Candidate {
    /// The order of preference: best logit, then lowest id. There are no NaNs here.
    pub fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Tokens with finite logits, at least one; best first if `sorted`, else in any fixed order.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub items: Vec<Candidate>,
    sorted: bool,
    max: f32,
    weights: Vec<f32>,
}

/// Weights summed as one before they join the total.
const GROUP: usize = 256;
/// Sums kept side by side in a group: fixed, so that every platform adds in the same order.
const LANES: usize = 8;

impl Candidates {
    /// Takes every token that `logits` do not exclude. `max` is their maximum, from [`settle`].
    pub fn gather(&mut self, logits: &[f32], max: f32) {
        self.items.clear();
        self.items.reserve(logits.len());
        let all = logits.iter().zip(0..).map(|(&logit, id)| Candidate { logit, id });
        self.items.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
        (self.max, self.sorted) = (max, false);
    }

    /// Says that `items`, best first, were put there by the caller.
    pub fn set_sorted(&mut self) {
        (self.max, self.sorted) = (self.items[0].logit, true);
    }

    /// Says that the order of preference was lost. `max` must still be that of the best candidate.
    pub fn set_unsorted(&mut self, max: f32) {
        (self.max, self.sorted) = (max, false);
    }

    /// The best logit.
    pub fn max(&self) -> f32 {
        self.max
    }

    pub fn sort(&mut self) {
        if !self.sorted {
            self.items.sort_unstable_by(Candidate::rank);
            self.sorted = true;
        }
    }

    pub fn is_sorted(&self) -> bool {
        self.sorted
    }

    /// Keeps the candidates that `keep` accepts; the best one must be among them.
    pub fn retain(&mut self, mut keep: impl FnMut(f32) -> bool) {
        self.items.retain(|c| keep(c.logit));
    }

    /// Replaces logits by `(logit − max) / temperature`. Taking the maximum away first keeps a tiny
    /// temperature from overflowing; what falls out of `f32` below gets no probability.
    pub fn divide(&mut self, temperature: f32) {
        let max = self.max;
        for c in &mut self.items {
            c.logit = (c.logit - max) / temperature;
        }
        self.max = 0.0;
    }

    /// Computes `exp(logit − max)` of each candidate and returns them with their sum.
    pub fn weigh(&mut self) -> (&[f32], f64) {
        let max = self.max;
        self.weights.clear();
        self.weights.extend(self.items.iter().map(|c| exp_nonpositive(c.logit - max)));
        (&self.weights, self.weights.chunks(GROUP).map(group_sum).sum())
    }

    /// Each candidate with its weight from the last [`Self::weigh`], which must have been of these candidates.
    pub fn weighted(&self) -> impl Iterator<Item = (Candidate, f32)> {
        self.items.iter().copied().zip(self.weights.iter().copied())
    }

    /// Draws a candidate with its probability.
    pub fn draw(&mut self, rng: &mut Rng) -> u32 {
        let (weights, total) = self.weigh();
        let index = pick(weights, rng.unit() * total);
        self.items[index].id
    }

    /// Probability of the candidate `id`; 0 for one that is not there.
    pub fn probability(&mut self, id: u32) -> f64 {
        let index = self.items.iter().position(|c| c.id == id);
        let (weights, total) = self.weigh();
        index.map_or(0.0, |index| f64::from(weights[index]) / total)
    }

    /// Shannon entropy in nats.
    pub fn entropy(&mut self) -> f64 {
        let max = self.max;
        let (_, total) = self.weigh();
        // −Σ p·ln p with ln p = (logit − max) − ln total; a weight of 0 adds nothing.
        let mean: f64 = self
            .weighted()
            .filter(|(_, w)| *w > 0.0)
            .map(|(c, w)| f64::from(w) * f64::from(c.logit - max))
            .sum();
        total.ln() - mean / total
    }
}

/// The index at which the running sum of `weights` passes `target`.
fn pick(weights: &[f32], target: f64) -> usize {
    let mut before = 0.0;
    let mut start = 0;
    for group in weights.chunks(GROUP) {
        let sum = group_sum(group);
        if before + sum > target || start + group.len() == weights.len() {
            let mut running = before;
            for (index, &weight) in group.iter().enumerate() {
                running += f64::from(weight);
                if running > target && weight > 0.0 {
                    return start + index;
                }
            }
            // The group's sum was rounded another way: its last candidate with a probability was meant.
            if let Some(index) = group.iter().rposition(|&weight| weight > 0.0) {
                return start + index;
            }
        }
        before += sum;
        start += group.len();
    }
    // Only when the last group's weights are all 0 and rounding led past the rest.
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

fn group_sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let chunks = weights.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight);
        }
    }
    for (lane, &weight) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(weight);
    }
    lanes.iter().sum()
}

/// Checks `logits` and returns their maximum, which is finite afterwards: where there is a +∞, such tokens get 0
/// and all others −∞.
pub(super) fn settle(logits: &mut [f32]) -> Result<f32, SamplingError> {
    let (max, nan) = scan(logits);
    if nan || max == f32::NEG_INFINITY {
        return Err(SamplingError::NonFinite);
    }
    if max < f32::INFINITY {
        return Ok(max);
    }
    for logit in logits {
        *logit = if *logit == f32::INFINITY { 0.0 } else { f32::NEG_INFINITY };
    }
    Ok(0.0)
}

/// The maximum, −∞ for none, and whether there is a NaN.
fn scan(logits: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; 16];
    let mut nan = [false; 16];
    let chunks = logits.chunks_exact(16);
    for (i, &x) in chunks.remainder().iter().enumerate() {
        max[i] = if x > max[i] { x } else { max[i] };
        nan[i] |= x.is_nan();
    }
    for chunk in chunks {
        for i in 0..16 {
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
            nan[i] |= chunk[i].is_nan();
        }
    }
    (max.into_iter().fold(f32::NEG_INFINITY, f32::max), nan.contains(&true))
}

/// The lowest id whose logit is `max`, from [`settle`].
pub(super) fn first_of(logits: &[f32], max: f32) -> u32 {
    logits.iter().position(|&logit| logit == max).expect("max is one of the logits") as u32
}
