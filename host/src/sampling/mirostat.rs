//! Mirostat v2: keeps the surprise of the text near a target. Source: Basu et al. 2021, algorithm 2.

use super::candidates::Candidates;
use super::rng::Rng;

/// The controller's state.
#[derive(Debug)]
pub(super) struct Mirostat {
    tau: f64,
    eta: f64,
    /// Largest surprise in bits that a token may have; begins at twice the target.
    mu: f64,
}

impl Mirostat {
    pub fn new(tau: f32, eta: f32) -> Self {
        Self { tau: f64::from(tau), eta: f64::from(eta), mu: 2.0 * f64::from(tau) }
    }

    /// Draws among the tokens of surprise at most μ, or takes the best, and moves μ against the error.
    pub fn draw(&mut self, candidates: &mut Candidates, rng: &mut Rng) -> u32 {
        let (_, total) = candidates.weigh();
        let max = candidates.max();
        // −log2 p ≤ μ  ⇔  logit − max ≥ ln total − μ·ln 2
        let least = total.ln() - self.mu * std::f64::consts::LN_2;
        candidates.retain(|logit| logit == max || f64::from(logit - max) >= least);
        if least > 0.0 {
            candidates.sort(); // even the best is too surprising: one of equals is taken, not drawn
            candidates.items.truncate(1);
        }
        let token = candidates.draw(rng);
        let surprise = -candidates.probability(token).log2();
        self.mu -= self.eta * (surprise - self.tau);
        token
    }
}
