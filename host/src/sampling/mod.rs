//! Logits → token: a chain of samplers in llama.cpp's order of application.
//!
//! [`Sampler`] is the state of one request: its chain, the tokens so far and its random numbers, so that a seeded
//! request gives the same tokens alone or in a batch. The chain is chosen once, from [`SamplingParams`]: first come
//! the samplers that change logits, then top-k gathers `Candidates`, then the samplers
//! that narrow these, and last the draw. A sampler is a file here and a row in `ADJUSTERS` or `NARROWERS`.
//!
//! Where a device can choose as the chain does, [`Sampler::device_request`] says how, and the state stays here: the
//! request takes the same random number, and so the same token, whoever chooses.
//!
//! It does not know the tokenizer (sequence breakers come as tokens), the model, or the clock.

mod candidates;
mod device;
mod dry;
mod logit_bias;
mod logprobs;
mod min_p;
mod mirostat;
mod params;
mod penalties;
mod rng;
mod temperature;
#[cfg(test)]
mod tests;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical_p;
mod xtc;

use std::fmt::Debug;

use candidates::Candidates;
use device::DeviceChain;
use mirostat::Mirostat;
use rng::Rng;

pub use logprobs::top_logprobs;
pub use params::{SamplingError, SamplingParams};

use crate::ops::SampleRequest;

/// Changes the logits of all tokens.
trait Adjuster: Debug + Send {
    /// `logits` \[vocab_size\]; `history` holds prompt and answer so far.
    fn adjust(&mut self, logits: &mut [f32], history: &[u32]);
    /// Told of every token, prompt included, when it is the last of `history`.
    fn accept(&mut self, _history: &[u32]) {}
}

/// Removes candidates or changes their logits; at least one is left.
trait Narrower: Debug + Send {
    fn narrow(&mut self, candidates: &mut Candidates, rng: &mut Rng);
}

/// What a sampler may know when it is made.
struct Setup<'a> {
    params: &'a SamplingParams,
    vocab_size: usize,
    breakers: &'a [Vec<u32>],
}

/// The sampler for these settings; `None` when they disable it.
type MakeAdjuster = fn(&Setup<'_>) -> Option<Box<dyn Adjuster>>;
type MakeNarrower = fn(&Setup<'_>) -> Option<Box<dyn Narrower>>;

/// In order of application. Top-k follows them.
const ADJUSTERS: &[MakeAdjuster] =
    &[logit_bias::make, penalties::make, dry::make, top_n_sigma::make];

/// In order of application. The draw follows them.
const NARROWERS: &[MakeNarrower] =
    &[typical_p::make, top_p::make, min_p::make, xtc::make, temperature::make];

/// A request's sampling state.
#[derive(Debug)]
pub struct Sampler {
    vocab_size: usize,
    adjusters: Vec<Box<dyn Adjuster>>,
    choice: Choice,
    /// Tokens that are never chosen, below `vocab_size`.
    excluded: Vec<u32>,
    /// How a device chooses the same.
    device: Option<DeviceChain>,
    /// Prompt and answer; empty when no sampler looks back.
    history: Vec<u32>,
    looks_back: bool,
    candidates: Candidates,
    rng: Rng,
    seed: u64,
}

/// How a token is chosen from the adjusted logits.
#[derive(Debug)]
enum Choice {
    Greedy,
    Chain { top_k: usize, narrowers: Vec<Box<dyn Narrower>> },
    Mirostat { temperature: Option<Box<dyn Narrower>>, mirostat: Mirostat },
}

impl Sampler {
    /// The state of a request that begins with `prompt`, whose tokens count for penalties and DRY.
    ///
    /// `breakers`: the tokens of each of `params.dry_sequence_breakers`; an empty one matches nothing.
    ///
    /// # Errors
    /// Those of [`SamplingParams::validate`].
    pub fn new(
        params: &SamplingParams,
        prompt: &[u32],
        vocab_size: usize,
        breakers: Vec<Vec<u32>>,
    ) -> Result<Self, SamplingError> {
        params.validate(vocab_size)?;
        let setup = Setup { params, vocab_size, breakers: &breakers };
        let choice = Choice::new(&setup);
        let adjusters = ADJUSTERS.iter().filter_map(|make| make(&setup)).collect();
        let seed = params.seed.unwrap_or_else(rng::entropy);
        let mut sampler = Self {
            vocab_size,
            adjusters,
            choice,
            excluded: Vec::new(),
            device: DeviceChain::new(params, vocab_size),
            history: Vec::new(),
            looks_back: params.looks_back(),
            candidates: Candidates::default(),
            rng: Rng::new(seed),
            seed,
        };
        if sampler.looks_back {
            sampler.history.reserve(prompt.len() + 1024);
            prompt.iter().for_each(|&token| sampler.accept(token));
        }
        Ok(sampler)
    }

    /// Never chooses `tokens` from now on; those outside the vocabulary are passed over.
    pub fn exclude(&mut self, tokens: &[u32]) {
        let known = tokens.iter().filter(|&&token| (token as usize) < self.vocab_size);
        self.excluded.extend(known);
        self.device = self.device.take().and_then(|device| device.exclude(&self.excluded));
    }

    /// Chooses a token. `logits` \[vocab_size\] are used as scratch.
    ///
    /// −∞ excludes a token; +∞ excludes all that have less. Equally good tokens rank by lowest id. After the first
    /// call only what grows with the history is allocated, by doubling.
    ///
    /// # Errors
    /// [`SamplingError::NonFinite`] for a NaN or when every token is excluded, [`SamplingError::LogitCount`] for
    /// logits of another length.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, SamplingError> {
        if logits.len() != self.vocab_size {
            let (found, expected) = (logits.len(), self.vocab_size);
            return Err(SamplingError::LogitCount { found, expected });
        }
        for &token in &self.excluded {
            let logit = &mut logits[token as usize];
            // A NaN must stay to be reported.
            if !logit.is_nan() {
                *logit = f32::NEG_INFINITY;
            }
        }
        for adjuster in &mut self.adjusters {
            adjuster.adjust(logits, &self.history);
        }
        let max = candidates::settle(logits)?;
        let (candidates, rng) = (&mut self.candidates, &mut self.rng);
        Ok(match &mut self.choice {
            Choice::Greedy => candidates::first_of(logits, max),
            Choice::Chain { top_k, narrowers } => {
                top_k::gather(candidates, logits, max, *top_k);
                for narrower in narrowers {
                    narrower.narrow(candidates, rng);
                }
                candidates.draw(rng)
            }
            Choice::Mirostat { temperature, mirostat } => {
                candidates.gather(logits, max);
                if let Some(temperature) = temperature {
                    temperature.narrow(candidates, rng);
                }
                mirostat.draw(candidates, rng)
            }
        })
    }

    /// Takes `token` into the history that penalties and DRY look at.
    pub fn accept(&mut self, token: u32) {
        if self.looks_back {
            self.history.push(token);
            for adjuster in &mut self.adjusters {
                adjuster.accept(&self.history);
            }
        }
    }

    /// How a device chooses the next token; `None` where only [`Sampler::sample`] can. `slot` is the sequence's place
    /// among the counts on the device, which has taken in what earlier requests said of the window.
    ///
    /// When the device has chosen, [`Sampler::accept_drawn`] must follow; when it leaves the choice to the host,
    /// [`Sampler::sample`], which takes the same random number.
    pub fn device_request(&mut self, slot: usize) -> Option<SampleRequest<'_>> {
        let uniform = if self.is_greedy() { 0.0 } else { self.rng.clone().unit() };
        let device = self.device.as_mut()?;
        Some(device.request(&self.history, uniform, slot))
    }

    /// Says that the slot of the next request is another one, or was used by another sequence since.
    pub fn forget_slot(&mut self) {
        if let Some(device) = &mut self.device {
            device.forget_slot();
        }
    }

    /// Takes a token that the device chose.
    pub fn accept_drawn(&mut self, token: u32) {
        if !self.is_greedy() {
            self.rng.unit();
        }
        self.accept(token);
    }

    /// Whether the best token is always taken (temperature 0 without a dynamic range).
    pub fn is_greedy(&self) -> bool {
        matches!(self.choice, Choice::Greedy)
    }

    /// The seed in use: the request's, or the one that was drawn for it.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Choice {
    fn new(setup: &Setup<'_>) -> Self {
        let params = setup.params;
        if params.is_greedy() {
            Self::Greedy
        } else if params.mirostat == 2 {
            Self::Mirostat {
                temperature: temperature::fixed(params.temperature),
                mirostat: Mirostat::new(params.mirostat_tau, params.mirostat_eta),
            }
        } else {
            Self::Chain {
                top_k: params.top_k as usize,
                narrowers: NARROWERS.iter().filter_map(|make| make(setup)).collect(),
            }
        }
    }
}
