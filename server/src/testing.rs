//! What tests of the server share: one with a tiny model.

use std::path::Path;
use std::sync::Arc;

use host::engine::{Engine, EngineOptions, LoadProgress};
use host::sampling::SamplingParams;
use host::text::{ReasoningFormat, ToolFormat};

use crate::generation::{Generation, Stops};
use crate::output::Reading;
use crate::state::{App, Loaded, Options};

/// Runs a test that waits.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("threads can be started")
        .block_on(test);
}

struct Silent;

impl LoadProgress for Silent {
    fn tensor(&mut self, _: &str, _: u64, _: u64) {}
}

/// A server whose engine takes this many answers together, and lets so many wait.
pub fn app(together: usize, waiting: usize) -> Arc<App> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let options = EngineOptions {
        model: data.join("tiny/llama/llama-f32.gguf"),
        config: config::Config::default(),
        device: None,
        gpu_layers: 0,
        threads: 1,
        max_seq_len: None,
        min_kv_tokens: None,
        chat_template: "auto".to_owned(),
        max_concurrent: together,
        max_waiting: waiting,
    };
    let engine = Engine::load(options, &mut Silent).expect("the model can be loaded");
    let tokenizer = engine.tokenizer().cloned().expect("it has a vocabulary");
    let app = App::new(Options { places: together + waiting, ..Options::default() });
    let loaded = Loaded::new(engine, tokenizer, "tiny".into(), ReasoningFormat::DeepSeek, 0.5);
    // its own template speaks of no tools
    let tool_format = ToolFormat::named("hermes").expect("there is one");
    app.set_loaded(Loaded { tool_format, ..loaded });
    Arc::new(app)
}

/// A request of a greedy answer.
pub fn generation(prompt: Vec<u32>, max_tokens: usize) -> Generation {
    Generation {
        prompts: vec![prompt],
        choices: 1,
        max_tokens,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stops: Stops::default(),
        logprobs: None,
        ignore_eos: true,
        echo: false,
        reading: Reading::plain(),
    }
}
