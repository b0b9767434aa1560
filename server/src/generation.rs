//! The request behind all dialects.

use host::engine::{BadWords, Request};
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
    /// What ends an answer, and what it never says.
    pub stops: Stops,
    /// Report this many best tokens of each step; `Some(0)` the chosen one alone.
    pub logprobs: Option<usize>,
    /// End-of-generation tokens are never chosen.
    pub ignore_eos: bool,
    /// The answer begins with the prompt.
    pub echo: bool,
    /// How the answers are bound and read.
    pub reading: Reading,
}

/// What ends an answer, and what it never says.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// Strings that end it.
    pub strings: Vec<String>,
    /// Tokens that end it.
    pub tokens: Vec<u32>,
    /// What ended it is the end of its text.
    pub include: bool,
    /// Tokens before which nothing ends it.
    pub min_tokens: usize,
    /// Texts that never come.
    pub bad_words: Vec<String>,
    /// The same as tokens, once they were checked.
    pub banned: BadWords,
}

impl Generation {
    /// Checks what the engine would refuse later, when a stream has begun.
    ///
    /// # Errors
    /// 400 naming the field and the limit. `field` is the dialect's name of the prompt.
    pub fn check(&mut self, loaded: &Loaded, field: &str) -> Result<(), ApiError> {
        for prompt in &self.prompts {
            if let Err(error) = loaded.engine.check_prompt(prompt) {
                return Err(ApiError { param: Some(field.to_owned()), ..error.into() });
            }
        }
        let vocab_size = loaded.engine.info().vocab_size;
        let unknown = |&&id: &&u32| id as usize >= vocab_size;
        if let Some(id) = self.stops.tokens.iter().find(unknown) {
            let problem = format!("names token {id}, expected one below {vocab_size}");
            return Err(ApiError::field("stop_token_ids", problem));
        }
        self.stops.banned = loaded.engine.bad_words(&self.stops.bad_words)?;
        Ok(self.sampling.validate(vocab_size)?)
    }

    /// Bytes that its texts take, about: prompts as tokens, definitions of tools as JSON.
    pub fn bytes(&self) -> usize {
        let prompts: usize = self.prompts.iter().map(Vec::len).sum();
        let tools = self.reading.settings.tools.iter();
        4 * prompts + tools.map(|tool| tool.parameters.to_string().len()).sum::<usize>()
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
            stop: self.stops.strings.clone(),
            stop_tokens: self.stops.tokens.clone(),
            include_stop: self.stops.include,
            min_tokens: self.stops.min_tokens,
            bad_words: self.stops.banned.clone(),
            logprobs: self.logprobs,
            ignore_eos: self.ignore_eos,
            shown_tokens: self.reading.shown_tokens.clone(),
            constraint: self.reading.constraint.clone(),
            think_budget: self.reading.think_budget.clone(),
        }
    }
}
