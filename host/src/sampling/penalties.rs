//! Repeat, frequency and presence penalties of the tokens in a window.

use std::collections::HashMap;

use super::params::window;
use super::{Adjuster, Setup};

/// A positive logit is divided by `repeat`, another one multiplied (Keskar et al. 2019, made to lower negative
/// logits too); then `count · frequency + presence` is subtracted (as OpenAI defines them).
#[derive(Debug)]
struct Penalties {
    repeat: f32,
    frequency: f32,
    presence: f32,
    /// Tokens looked back on; `usize::MAX` for all.
    window: usize,
    /// Tokens in the window, and how often each is there.
    counts: HashMap<u32, u32>,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Adjuster>> {
    let params = setup.params;
    params.penalises().then(|| {
        Box::new(Penalties {
            repeat: params.repeat_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            window: window(params.repeat_last_n),
            counts: HashMap::with_capacity(1024),
        }) as _
    })
}

impl Adjuster for Penalties {
    fn adjust(&mut self, logits: &mut [f32], _: &[u32]) {
        // Each token is adjusted by itself, so the map's order does not matter.
        for (&token, &count) in &self.counts {
            // A prompt may hold ids beyond the logits, such as image positions.
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / self.repeat } else { *logit * self.repeat };
                *logit -= count as f32 * self.frequency + self.presence;
            }
        }
    }

    fn accept(&mut self, history: &[u32]) {
        let newest = history.len() - 1;
        *self.counts.entry(history[newest]).or_default() += 1;
        if let Some(left) = newest.checked_sub(self.window) {
            let token = history[left];
            let count = self.counts.get_mut(&token).expect("a token in the window is counted");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&token);
            }
        }
    }
}
