//! The engine: one thread owns the model and its device; the rest of the program sends it
//! commands and reads [`Event`]s.
//!
//! ```text
//! submit ─ Command ▶ engine thread { schedule → batch → forward → sample } ─ Event ▶ RequestHandle
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `load` | opens a model: files, tokenizer, template, plan, backend, weights |
//! | `scheduler` | which tokens are computed next, in which pages; knows no thread, clock or device |
//! | `spill` | whether the pages of a request that waits are worth saving on the host |
//! | `request` | one answer: its sampler, text, stop strings and limits |
//! | `embed` | one vector of a text: how it is pooled, and who waits for it |
//! | `banned` | the tokens that may not come next in one answer |
//! | `step` | the thread's loop, and how every way out of it ends every request |
//! | `handle` | the receiving end; dropping it cancels |
//!
//! Every queue is bounded: [`EngineOptions::max_concurrent`] requests run, [`EngineOptions::max_waiting`]
//! wait, and in each request's channel there is room for the events it can still cause. Nothing here
//! knows HTTP, files of other models, or which device computes.

mod banned;
mod command;
mod embed;
mod error;
mod handle;
mod load;
mod model;
mod placement;
mod request;
mod scheduler;
mod spill;
mod step;
#[cfg(test)]
mod testing;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::constrain::{Constraint, ConstraintError, ThinkBudget};
use crate::plan::MemoryPlan;
use crate::sampling::SamplingParams;
use crate::text::{ChatTemplate, Tokenizer};
pub use banned::BadWords;
use command::{Command, Evaluation, Shared};
use embed::Embedding;
pub use embed::{Embedded, EmbeddingHandle, Pooling};
pub use error::{EngineError, ErrorKind, SubmitError};
pub use handle::{Canceller, RequestHandle};
use model::{Model, Vocabulary};
use request::{Generation, Sizes};
use scheduler::{Limits, Scheduler};
use step::Worker;

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
    /// Requests that are computed together, 1 to [`MAX_CONCURRENT`]; `runtime.max_batch_size` stands
    /// above it.
    pub max_concurrent: usize,
    /// Requests that wait beside them before others are refused.
    pub max_waiting: usize,
}

/// Most requests that are computed together.
pub const MAX_CONCURRENT: usize = 1024;

/// Told how far loading is.
pub trait LoadProgress {
    /// `tensor` was taken; `done` of `total` bytes are.
    fn tensor(&mut self, tensor: &str, done: u64, total: u64);
}

/// A request as the engine takes it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; 0 only computes the prompt, which leaves it in the cache.
    pub max_tokens: usize,
    /// How to choose them.
    pub sampling: SamplingParams,
    /// Strings that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Report this many best tokens at each step; `Some(0)` reports the chosen one alone.
    pub logprobs: Option<usize>,
    /// Tokens that end the answer and have no text in it.
    pub stop_tokens: Vec<u32>,
    /// What ended the answer, a string of `stop` or one of `stop_tokens`, is the end of its text.
    pub include_stop: bool,
    /// Before this many tokens neither an end-of-generation token nor anything of the above ends the answer; a
    /// constraint does, when its text is whole.
    pub min_tokens: usize,
    /// Texts that the answer never holds, unless its tokens spell them in another way than the tokenizer
    /// does; from [`Engine::bad_words`].
    pub bad_words: BadWords,
    /// Never choose an end-of-generation token, so that the answer goes on.
    pub ignore_eos: bool,
    /// Control tokens whose text is part of the answer, such as markers of tool calls; those
    /// that end generation stay without text.
    pub shown_tokens: Vec<u32>,
    /// What the answer must be. Its tokens are chosen on the host.
    pub constraint: Option<Constraint>,
    /// Ends reasoning that takes too long; fitted to the constraint, where there is one.
    pub think_budget: Option<ThinkBudget>,
}

/// What the engine says about a request, in order; the last is `Done` or `Failed`.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is in the cache; of its tokens `cached` were there before.
    Prefilled {
        /// Tokens found in the prefix cache.
        cached: usize,
        /// When the step with the first of the others began.
        began: Instant,
    },
    /// A token was chosen; an end-of-generation token is one, without text.
    Token {
        /// Its id.
        id: u32,
        /// Text it makes safe to show, possibly none. The texts of all events together are the
        /// answer.
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
    /// One of [`Request::stop_tokens`], given.
    StopToken(u32),
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
    /// Time of all decode steps: from the end of prefill to the end of the answer.
    pub generate_ms: f64,
}

impl Timings {
    /// Decode steps in `generate_ms`: the first token comes from the last prefill step.
    pub fn decode_steps(&self) -> usize {
        self.generated_tokens.saturating_sub(1)
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The logits were not finite. Other requests go on.
    #[error("the model produced NaN logits after {tokens} tokens; its weights may be damaged")]
    NonFiniteLogits {
        /// Tokens generated before; the position in an evaluation.
        tokens: usize,
    },
    /// The answer cannot be what was asked for. Other requests go on.
    #[error("after {tokens} tokens: {error}")]
    Constraint {
        /// Tokens generated before.
        tokens: usize,
        /// Why.
        error: ConstraintError,
    },
    /// The backend failed. The engine takes no requests any more.
    #[error("the device failed: {0}")]
    Device(String),
    /// The model's file changed while it was in use. The engine takes no requests any more.
    #[error("{0}")]
    CheckpointDamaged(String),
    /// The engine thread ended before the request did.
    #[error("the engine ended: {0}")]
    EngineEnded(String),
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
    /// How the hidden states of a text become one vector.
    pub pooling: Pooling,
    /// Most tokens a sequence may have here.
    pub max_seq_len: usize,
    /// Where it computes, from [`crate::ops::Ops::name`].
    pub device: String,
}

/// Whether an engine can answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// It takes requests.
    Ready,
    /// It ended by a fault, and must be loaded again.
    Failed(RequestError),
}

/// What an engine is doing and has done, as of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests that are computed.
    pub running: usize,
    /// Requests that wait for their turn, or again, after a preemption.
    pub waiting: usize,
    /// Pages of the KV cache.
    pub kv_pages: usize,
    /// Those that running requests hold.
    pub kv_pages_held: usize,
    /// Those that nobody holds and that later requests may find their prefix in.
    pub kv_pages_cached: usize,
    /// How often a running request gave its pages to an older one.
    pub preemptions: u64,
    /// How often it saved them on the host before.
    pub saves: u64,
    /// Steps computed.
    pub steps: u64,
    /// Rows of all steps: tokens computed.
    pub rows: u64,
    /// Prompt tokens that were found in the cache.
    pub cached_tokens: u64,
}

/// The right to one request in an engine, from [`Engine::place`].
pub struct Place(command::Slot);

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

/// Sees the logits [vocab_size] of each position of an evaluation.
pub type Visit = Box<dyn FnMut(usize, &[f32]) + Send>;

/// A loaded model and its thread. Dropping it ends the thread after the step it computes;
/// requests in progress end as cancelled.
#[derive(Debug)]
pub struct Engine {
    info: Arc<ModelInfo>,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Arc<ChatTemplate>>,
    plan: MemoryPlan,
    notices: Vec<String>,
    vocabulary: Text,
    commands: SyncSender<Command>,
    /// Most requests in progress.
    limit: usize,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Opens a model, plans its memory, loads it and starts its thread.
    ///
    /// # Errors
    /// What is wrong with the options, the files or the machine; [`EngineError::kind`] sorts them.
    pub fn load(
        options: EngineOptions,
        progress: &mut dyn LoadProgress,
    ) -> Result<Self, EngineError> {
        load::load(&options, progress)
    }

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
    /// Where the memory went.
    pub fn memory_plan(&self) -> &MemoryPlan {
        &self.plan
    }
    /// Choices made at load that a user should hear about, a sentence each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
    /// Whether it takes requests.
    pub fn health(&self) -> Health {
        self.shared.failure.get().map_or(Health::Ready, |error| Health::Failed(error.clone()))
    }
    /// Requests waiting or running.
    pub fn in_progress(&self) -> usize {
        self.shared.in_progress()
    }

    /// Most requests waiting or running.
    pub fn max_in_progress(&self) -> usize {
        self.limit
    }
    /// What it is doing and has done.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Checks the tokens of a prompt, as [`Engine::submit`] does.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<(), SubmitError> {
        request::check_prompt(prompt, self.sizes())
    }

    /// Queues a request.
    ///
    /// # Errors
    /// What is wrong with it; `Busy` when the queue is full; `Unhealthy` after a fault.
    pub fn submit(&self, request: Request) -> Result<RequestHandle, SubmitError> {
        request::check(&request, self.sizes(), self.vocabulary.0.is_some())?;
        self.enter(self.place()?, request)
    }

    /// Texts that an answer is never to hold, for [`Request::bad_words`].
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn bad_words(&self, words: &[String]) -> Result<BadWords, SubmitError> {
        BadWords::new(words, self.vocabulary.0.as_deref())
    }

    /// A place for one request or evaluation, which is taken until it ends, or the place is dropped.
    ///
    /// # Errors
    /// `Busy` when there is none; `Unhealthy` after a fault.
    pub fn place(&self) -> Result<Place, SubmitError> {
        self.slot().map(Place)
    }

    /// Queues a request in a place that was taken for it.
    ///
    /// # Errors
    /// What is wrong with it; `Unhealthy` after a fault.
    pub fn submit_to(&self, place: Place, request: Request) -> Result<RequestHandle, SubmitError> {
        request::check(&request, self.sizes(), self.vocabulary.0.is_some())?;
        self.enter(place, request)
    }

    fn enter(&self, place: Place, request: Request) -> Result<RequestHandle, SubmitError> {
        let vocabulary = self.vocabulary.0.clone();
        let (generation, events, canceller) =
            Generation::new(&request, vocabulary, self.sizes(), place.0)?;
        let generation = Box::new(generation);
        self.send(Command::Generate { prompt: request.prompt, generation })?;
        Ok(RequestHandle { events, canceller, ended: false })
    }

    /// Computes the logits of known tokens from an empty cache, and shows those of the positions
    /// from `first` on, in order: `visit(position, logits [vocab_size])`. Waits for the end. `visit` runs
    /// on the engine thread, and is dropped before this returns.
    ///
    /// # Errors
    /// What is wrong with the tokens; logits that are not finite; the engine's end.
    pub fn evaluate(
        &self,
        tokens: Vec<u32>,
        first: usize,
        visit: Visit,
    ) -> Result<(), EngineError> {
        self.check_evaluation(&tokens, first)?;
        self.evaluate_in(self.place()?, tokens, first, visit, Canceller::default())
    }

    /// The same in a place that was taken for it, ended early by `canceller`; what is answered then is
    /// for nobody.
    ///
    /// # Errors
    /// As of [`Engine::evaluate`].
    pub fn evaluate_in(
        &self,
        place: Place,
        tokens: Vec<u32>,
        first: usize,
        visit: Visit,
        canceller: Canceller,
    ) -> Result<(), EngineError> {
        self.check_evaluation(&tokens, first)?;
        let (reply, answer) = sync_channel(1);
        let evaluation = Evaluation { visit, canceller, reply, slot: place.0 };
        self.send(Command::Evaluate { tokens, first, evaluation })?;
        answer.recv().unwrap_or_else(|_| Err(self.ended().into()))
    }

    /// Checks the tokens of a text, as [`Engine::embed`] does.
    ///
    /// # Errors
    /// What is wrong with them; `NoEmbeddings` where the model gives none.
    pub fn check_embedding(&self, tokens: &[u32]) -> Result<(), SubmitError> {
        match self.info.pooling {
            Pooling::Other(pooling) => Err(SubmitError::NoEmbeddings { pooling }),
            _ => self.check_prompt(tokens),
        }
    }

    /// Queues the computation of a text's vector: its hidden states, pooled as [`ModelInfo::pooling`]
    /// says, of length 1.
    ///
    /// # Errors
    /// As of [`Engine::check_embedding`]; `Busy` when the queue is full; `Unhealthy` after a fault.
    pub fn embed(&self, tokens: Vec<u32>) -> Result<EmbeddingHandle, SubmitError> {
        self.check_embedding(&tokens)?;
        self.embed_in(self.place()?, tokens)
    }

    /// The same in a place that was taken for it.
    ///
    /// # Errors
    /// As of [`Engine::check_embedding`]; `Unhealthy` after a fault.
    pub fn embed_in(
        &self,
        place: Place,
        mut tokens: Vec<u32>,
    ) -> Result<EmbeddingHandle, SubmitError> {
        self.check_embedding(&tokens)?;
        let (first, computed) = self.info.pooling.wanted(tokens.len());
        tokens.truncate(computed);
        let (embedding, handle) = Embedding::new(self.info.hidden_size, place.0);
        self.send(Command::Embed { tokens, first, embedding })?;
        Ok(handle)
    }

    fn check_evaluation(&self, tokens: &[u32], first: usize) -> Result<(), SubmitError> {
        self.check_prompt(tokens)?;
        if first >= tokens.len() {
            return Err(SubmitError::NothingToEvaluate { first, tokens: tokens.len() });
        }
        Ok(())
    }

    /// Starts the thread of a loaded model.
    fn start(model: Box<dyn Model>, parts: Parts) -> Result<Self, EngineError> {
        let Parts { info, tokenizer, template, vocabulary, plan, notices, limits, max_waiting } =
            parts;
        let shared = Arc::new(Shared::default());
        // Room for every request in progress, and for the order to stop.
        let limit = limits.max_running.saturating_add(max_waiting);
        let (commands, receiver) = sync_channel(limit.saturating_add(1));
        let scheduler = Scheduler::new(limits, plan.kv_groups.clone());
        let worker = Worker::new(model, info.vocab_size, scheduler, receiver, shared.clone());
        let thread = thread::Builder::new().name("engine".to_owned());
        let thread = Some(thread.spawn(|| worker.run()).map_err(EngineError::Thread)?);
        let (info, vocabulary) = (Arc::new(info), Text(vocabulary));
        Ok(Self {
            info,
            tokenizer,
            template,
            plan,
            notices,
            vocabulary,
            commands,
            limit,
            shared,
            thread,
        })
    }

    fn sizes(&self) -> Sizes {
        Sizes { vocab_size: self.info.vocab_size, max_seq_len: self.info.max_seq_len }
    }

    fn slot(&self) -> Result<command::Slot, SubmitError> {
        if let Health::Failed(error) = self.health() {
            return Err(SubmitError::Unhealthy(error));
        }
        self.shared.slot(self.limit).ok_or(SubmitError::Busy { limit: self.limit })
    }

    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Busy { limit: self.limit },
            TrySendError::Disconnected(_) => SubmitError::Unhealthy(self.ended()),
        })
    }

    fn ended(&self) -> RequestError {
        let unknown = || RequestError::EngineEnded("its thread is gone".to_owned());
        self.shared.failure.get().cloned().unwrap_or_else(unknown)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // When the queue is full the thread is awake, and sees the flag.
        let _ = self.commands.try_send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panics were reported where they were caught
        }
    }
}

/// What an engine is put together from, beside the model.
struct Parts {
    info: ModelInfo,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Arc<ChatTemplate>>,
    vocabulary: Option<Arc<dyn Vocabulary>>,
    plan: MemoryPlan,
    notices: Vec<String>,
    limits: Limits,
    max_waiting: usize,
}

/// The vocabulary, which has nothing to show for `Debug`.
struct Text(Option<Arc<dyn Vocabulary>>);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Text" } else { "no text" })
    }
}

#[cfg(test)]
mod tests;
