//! What all requests share.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use host::constrain::Grammars;
use host::engine::{Engine, Health};
use host::sampling::SamplingParams;
use host::text::{ReasoningFormat, Tokenizer, ToolFormat};
use hyper::StatusCode;
use tokio::sync::{Semaphore, watch};

use crate::gate::Gate;
use crate::http::ApiError;
use crate::http::body::Budget;
use crate::http::guard::{Keys, Origins, Rate};
use crate::metrics::Metrics;
use crate::request_log::RequestLog;

/// The server.
pub struct App {
    /// The model, once it is loaded.
    loaded: OnceLock<Loaded>,
    /// Keys that open it.
    pub keys: Keys,
    /// Origins whose pages may call it.
    pub origins: Origins,
    /// Requests a minute.
    pub rate: Rate,
    /// Requests at a time.
    pub gate: Arc<Gate>,
    /// Bodies in memory.
    pub bodies: Arc<Budget>,
    /// Threads that read bodies, render templates and tokenize.
    pub workers: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// `--log-requests`.
    pub log: Option<RequestLog>,
    /// Sampling of requests that name none.
    pub defaults: SamplingParams,
    in_flight: Arc<AtomicUsize>,
    stopping: AtomicBool,
    /// Becomes true when answers in progress get no more time.
    cut: watch::Sender<bool>,
}

/// A model that answers.
pub struct Loaded {
    /// Its thread.
    pub engine: Engine,
    /// Its vocabulary: a server speaks text.
    pub tokenizer: Arc<Tokenizer>,
    /// Its name in the API.
    pub id: String,
    /// Seconds since the epoch.
    pub created: i64,
    /// How it writes tool calls.
    pub tool_format: ToolFormat,
    /// Compiles what answers must be.
    pub grammars: Grammars,
    /// What becomes of thoughts in requests that do not say.
    pub reasoning: ReasoningFormat,
    /// Share of an answer for thoughts; 0 is unbounded.
    pub think_budget: f64,
}

impl Loaded {
    /// A model under this name.
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        id: String,
        reasoning: ReasoningFormat,
        think_budget: f64,
    ) -> Self {
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let special = ids.filter(|&id| tokenizer.is_special(id));
        let spellings: Vec<&str> =
            special.filter_map(|id| std::str::from_utf8(tokenizer.piece(id)).ok()).collect();
        let template = engine.template().map(|t| t.source()).unwrap_or_default();
        let tool_format = ToolFormat::detect(template, &spellings);
        let grammars = Grammars::new(tokenizer.clone());
        let created = now();
        Self { engine, tokenizer, id, created, tool_format, grammars, reasoning, think_budget }
    }
}

/// Settings of [`App::new`].
#[derive(Default)]
pub struct Options {
    /// `--api-key`.
    pub api_keys: Vec<String>,
    /// `--cors-origin`.
    pub origins: Vec<String>,
    /// `--rate-limit`.
    pub rate_limit: u32,
    /// `--max-concurrent`; 0 is unlimited.
    pub max_concurrent: usize,
    /// Answers that the engine takes at a time, running or waiting.
    pub places: usize,
    /// `--log-requests`.
    pub log: Option<RequestLog>,
    /// Sampling of requests that name none.
    pub defaults: SamplingParams,
}

impl App {
    /// A server whose model is still to be loaded.
    pub fn new(options: Options) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let metrics = Arc::new(Metrics::new());
        Self {
            loaded: OnceLock::new(),
            keys: Keys::new(&options.api_keys),
            origins: Origins::new(options.origins, !options.api_keys.is_empty()),
            rate: Rate::new(options.rate_limit),
            gate: Arc::new(Gate::new(options.max_concurrent, options.places, metrics.clone())),
            bodies: Arc::default(),
            workers: Arc::new(Semaphore::new(threads.max(2))),
            metrics,
            log: options.log,
            defaults: options.defaults,
            in_flight: Arc::default(),
            stopping: AtomicBool::new(false),
            cut: watch::Sender::new(false),
        }
    }

    /// The model is there. Called once.
    pub fn set_loaded(&self, loaded: Loaded) {
        let set = self.loaded.set(loaded);
        assert!(set.is_ok(), "one model is loaded");
    }

    /// The model.
    ///
    /// # Errors
    /// 503 while it is being loaded.
    pub fn loaded(&self) -> Result<&Loaded, ApiError> {
        self.loaded.get().ok_or_else(|| {
            ApiError::unavailable("the model is being loaded; try again in a moment")
                .code("model_loading")
        })
    }

    /// Whether requests are answered.
    ///
    /// # Errors
    /// 503 with the reason.
    pub fn healthy(&self) -> Result<(), ApiError> {
        match self.loaded()?.engine.health() {
            Health::Ready => Ok(()),
            Health::Failed(error) => {
                let message = format!("the engine failed and must be started again: {error}");
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message);
                Err(error.code("engine_failed"))
            }
        }
    }

    /// Whether new requests should come here.
    ///
    /// # Errors
    /// 503 with the reason.
    pub fn ready(&self) -> Result<(), ApiError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(ApiError::unavailable("the server is stopping").code("stopping"));
        }
        self.healthy()
    }

    /// From now on `/ready` says no.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// From now on answers in progress end with an error.
    pub fn cut_off(&self) {
        self.cut.send_replace(true);
    }

    /// Becomes true when they do.
    pub fn cut(&self) -> watch::Receiver<bool> {
        self.cut.subscribe()
    }

    /// Requests whose answers are not sent yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Counts a request.
    pub fn enter(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.in_flight.clone())
    }
}

/// A request in flight; dropping it counts it off.
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The name of a model in the API: that of its file or directory.
pub fn model_id(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let name = if is_gguf { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| "imp".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_after_its_file() {
        assert_eq!(model_id(Path::new("/a/b/model-q4.gguf")), "model-q4");
        assert_eq!(model_id(Path::new("/a/Qwen3-0.6B")), "Qwen3-0.6B");
        assert_eq!(model_id(Path::new("/a/Qwen3-0.6B/")), "Qwen3-0.6B");
    }
}
