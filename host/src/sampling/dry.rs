//! DRY ("don't repeat yourself"): penalises the token that would extend a repeat of earlier text.
//!
//! Source: p-e-w, text-generation-webui pull request 5677. For each token that earlier followed the same `len`
//! tokens that now stand at the end, `len ≥ allowed_length`, the longest such `len` gives the penalty
//! `multiplier · base^(len − allowed_length)`. A repeat does not reach back across a sequence breaker, and a breaker
//! of one token is never penalised.

use std::collections::HashMap;

use super::params::window;
use super::{Adjuster, Setup};

#[derive(Debug)]
struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    /// Tokens looked back on; `usize::MAX` for all.
    window: usize,
    breakers: Breakers,
    /// Scratch: `repeats[k]` is how many tokens before the `k`-th from the end match those at the end.
    repeats: Vec<u32>,
    /// Scratch: the longest repeat that each token would extend.
    longest: HashMap<u32, u32>,
}

pub(super) fn make(setup: &Setup<'_>) -> Option<Box<dyn Adjuster>> {
    let params = setup.params;
    (params.dry_multiplier > 0.0).then(|| {
        Box::new(Dry {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed_length: params.dry_allowed_length as usize,
            window: window(params.dry_penalty_last_n),
            breakers: Breakers::new(setup.breakers, setup.vocab_size),
            repeats: Vec::new(),
            longest: HashMap::new(),
        }) as _
    })
}

impl Adjuster for Dry {
    fn adjust(&mut self, logits: &mut [f32], history: &[u32]) {
        let text = &history[history.len().saturating_sub(self.window)..];
        if text.len() <= self.allowed_length {
            return;
        }
        let limit = self.breakers.tokens_since_last(text);
        if limit < self.allowed_length {
            return;
        }
        count_repeats(text, &mut self.repeats);
        self.longest.clear();
        for (k, &repeat) in self.repeats.iter().enumerate().skip(1) {
            let repeat = repeat.min(limit as u32);
            if repeat as usize >= self.allowed_length {
                // What came after that place, one nearer to the end.
                let next = text[text.len() - k];
                let longest = self.longest.entry(next).or_default();
                *longest = repeat.max(*longest);
            }
        }
        for (&token, &repeat) in &self.longest {
            if let Some(logit) = logits.get_mut(token as usize)
                && !self.breakers.is_single(token)
            {
                *logit -= self.penalty(repeat as usize);
            }
        }
    }
}

impl Dry {
    fn penalty(&self, repeat: usize) -> f32 {
        let exponent = i32::try_from(repeat - self.allowed_length).unwrap_or(i32::MAX);
        let penalty = f64::from(self.multiplier) * f64::from(self.base).powi(exponent);
        // Finite, so that a text of repeats only still leaves something to choose.
        penalty.min(f64::from(f32::MAX) / 4.0) as f32
    }
}

/// For each `k`, the length of the common end of `text` and of `text` without its last `k` tokens.
///
/// The Z-algorithm on the reversed text (Gusfield 1997, section 1.4): linear in `text`, whatever it repeats.
fn count_repeats(text: &[u32], repeats: &mut Vec<u32>) {
    let len = text.len();
    let from_end = |i: usize| text[len - 1 - i];
    repeats.clear();
    repeats.resize(len, 0);
    // [start, end) is the match found so far that reaches furthest.
    let (mut start, mut end) = (0, 0);
    for k in 1..len {
        let known = if k < end { (repeats[k - start] as usize).min(end - k) } else { 0 };
        let mut n = known;
        while k + n < len && from_end(n) == from_end(k + n) {
            n += 1;
        }
        repeats[k] = n as u32;
        if k + n > end {
            (start, end) = (k, k + n);
        }
    }
}

/// Token sequences that end a repeat.
#[derive(Debug)]
struct Breakers {
    sequences: Vec<Vec<u32>>,
    /// By token: begins a sequence, is one.
    heads: Vec<(bool, bool)>,
}

impl Breakers {
    fn new(sequences: &[Vec<u32>], vocab_size: usize) -> Self {
        let mut heads = vec![(false, false); vocab_size];
        for sequence in sequences {
            if let Some(head) = sequence.first().and_then(|&head| heads.get_mut(head as usize)) {
                *head = (true, head.1 || sequence.len() == 1);
            }
        }
        Self { sequences: sequences.to_vec(), heads }
    }

    fn is_single(&self, token: u32) -> bool {
        self.heads.get(token as usize).is_some_and(|head| head.1)
    }

    /// Tokens after the last breaker in `text`; all of them where there is none.
    fn tokens_since_last(&self, text: &[u32]) -> usize {
        for start in (0..text.len()).rev() {
            let rest = &text[start..];
            if !self.heads.get(rest[0] as usize).is_some_and(|head| head.0) {
                continue;
            }
            let matching = self.sequences.iter().filter(|s| !s.is_empty() && rest.starts_with(s));
            if let Some(longest) = matching.map(Vec::len).max() {
                return rest.len() - longest;
            }
        }
        text.len()
    }
}
