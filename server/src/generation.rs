//! The request behind all dialects.

use host::engine::Request;
use host::sampling::SamplingParams;

use crate::http::ApiError;
use crate::output::Reading;
use crate::state::Loaded;

/// What is asked of the engine.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Token ids, a list a prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Answers to each of them.
    pub choices: usize,
    /// Most tokens of an answer; the context bounds it further.
    pub max_tokens: usize,
    /// How to choose tokens. With a seed, choice `i` takes seed + i.
    pub sampling: SamplingParams,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Report this many best tokens of each step; `Some(0)` the chosen one alone.
    pub logprobs: Option<usize>,
    /// End-of-generation tokens are never chosen.
    pub ignore_eos: bool,
    /// The answer begins with the prompt.
    pub echo: bool,
    /// How the answers are bound and read.
    pub reading: Reading,
}

impl Generation {
    /// Checks what the engine would refuse later, when a stream has begun.
    ///
    /// # Errors
    /// 400 naming the field and the limit. `field` is the dialect's name of the prompt.
    pub fn check(&self, loaded: &Loaded, field: &str) -> Result<(), ApiError> {
        for prompt in &self.prompts {
            if let Err(error) = loaded.engine.check_prompt(prompt) {
                return Err(ApiError { param: Some(field.to_owned()), ..error.into() });
            }
        }
        Ok(self.sampling.validate(loaded.engine.info().vocab_size)?)
    }

    /// All answers, prompt by prompt.
    pub fn answers(&self) -> usize {
        self.prompts.len() * self.choices
    }

    /// Answer `index` as the engine takes it.
    pub fn request(&self, index: usize) -> Request {
        let choice = (index % self.choices) as u64;
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice));
        Request {
            prompt: self.prompts[index / self.choices].clone(),
            max_tokens: self.max_tokens,
            sampling,
            stop: self.stop.clone(),
            logprobs: self.logprobs,
            ignore_eos: self.ignore_eos,
            shown_tokens: self.reading.shown_tokens.clone(),
            constraint: self.reading.constraint.clone(),
            think_budget: self.reading.think_budget.clone(),
        }
    }
}
