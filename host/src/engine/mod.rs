//! The engine: one thread owns the model and its device; the rest of the program sends
//! [`Command`]s and reads [`Event`]s.

use std::path::PathBuf;
use std::sync::Arc;

use crate::sampling::SamplingParams;
use crate::text::{ChatTemplate, Tokenizer};

/// How to open a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// GGUF file or SafeTensors directory.
    pub model: PathBuf,
    /// Settings of imp.conf.
    pub config: config::Config,
    /// CUDA device; `None` when the user named none.
    pub device: Option<u32>,
    /// Layers on the GPU: −1 all, 0 none.
    pub gpu_layers: i32,
    /// CPU threads; 0 uses all cores.
    pub threads: usize,
    /// Context ceiling in tokens; `None` is automatic.
    pub max_seq_len: Option<usize>,
    /// Tokens the KV cache must hold at least; `None` is automatic.
    pub min_kv_tokens: Option<usize>,
    /// `auto`, `none` or a built-in name.
    pub chat_template: String,
}

/// Told how far loading is.
pub trait LoadProgress {
    /// `tensor` was taken; `done` of `total` bytes are.
    fn tensor(&mut self, tensor: &str, done: u64, total: u64);
}

/// A request as the engine takes it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How to choose them.
    pub sampling: SamplingParams,
    /// Strings that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Report this many best tokens at each step; `Some(0)` reports the chosen one alone.
    pub logprobs: Option<usize>,
    /// Go on after end-of-generation tokens.
    pub ignore_eos: bool,
}

/// What the engine says about a request, in order; the last is `Done` or `Failed`.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is in the cache; of its tokens `cached` were there before.
    Prefilled {
        /// Tokens found in the prefix cache.
        cached: usize,
    },
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
        /// Text it makes safe to show, possibly none.
        text: String,
        /// When the request asked for them.
        logprob: Option<TokenLogprob>,
    },
    /// The answer is complete.
    Done {
        /// Text that was held back until now.
        text: String,
        /// Why it ended.
        reason: FinishReason,
        /// How long it took.
        timings: Timings,
    },
    /// The request ended with an error; nobody else is concerned.
    Failed(RequestError),
}

/// Log-probability of a chosen token and of the best ones, from the unmodified logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Of the chosen token.
    pub logprob: f32,
    /// The best, descending: (id, log-probability).
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token.
    EndOfGeneration,
    /// A stop string, given.
    StopString(String),
    /// `max_tokens` or the context was reached.
    Length,
    /// The receiver went away or cancelled.
    Cancelled,
}

/// Wall-clock times of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Time from the first to the last prefill step.
    pub prompt_ms: f64,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Time of all decode steps.
    pub generate_ms: f64,
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The logits were not finite.
    #[error("the model produced NaN logits after {tokens} tokens; its weights may be damaged")]
    NonFiniteLogits {
        /// Tokens generated before.
        tokens: usize,
    },
    /// The backend failed.
    #[error("the device failed: {0}")]
    Device(String),
}

/// Facts about a loaded model that the edges show.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// `general.name` or the directory's name.
    pub name: String,
    /// Architecture as the registry names it.
    pub architecture: String,
    /// For tables: `llama 135M Q4_1`.
    pub description: String,
    /// Parameters.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// Rows of the logits.
    pub vocab_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Most tokens a sequence may have here.
    pub max_seq_len: usize,
    /// Where it computes, from [`crate::ops::Ops::name`].
    pub device: String,
}

/// A loaded model and its thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Engine {
    info: Arc<ModelInfo>,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Arc<ChatTemplate>>,
}
impl Engine {
    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    /// The model's tokenizer; `None` for a model without a vocabulary.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }
    /// The template chosen at load; `None` for none.
    pub fn template(&self) -> Option<&Arc<ChatTemplate>> {
        self.template.as_ref()
    }
}
