//! Loading tiny checkpoints whose answers another implementation gave, and options that are
//! refused.

use serde_json::Value;

use super::*;
use crate::engine::testing::read;
use crate::engine::{ErrorKind, Event, FinishReason, Request, TokenLogprob};
use crate::kv::PAGE_SIZE;
use crate::sampling::SamplingParams;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tiny");

#[derive(Default)]
struct Progress {
    done: u64,
    total: u64,
}

impl LoadProgress for Progress {
    fn tensor(&mut self, _: &str, done: u64, total: u64) {
        assert!(done >= self.done && done <= total);
        (self.done, self.total) = (done, total);
    }
}

fn options(model: &str) -> EngineOptions {
    let mut config = Config::default();
    config.runtime.exact = true;
    EngineOptions {
        model: Path::new(TINY).join(model),
        config,
        device: None,
        gpu_layers: 0,
        threads: 1,
        max_seq_len: None,
        min_kv_tokens: None,
        chat_template: "auto".to_owned(),
        max_concurrent: 1,
        max_waiting: 63,
    }
}

fn start(options: &EngineOptions) -> Result<Engine, EngineError> {
    load(options, &mut Progress::default())
}

fn refusal(change: impl FnOnce(&mut EngineOptions)) -> (ErrorKind, String) {
    let mut options = options("llama/llama-f32.gguf");
    change(&mut options);
    let error = start(&options).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    (error.kind(), format!("{error}{}", source.unwrap_or_default()))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Greedy answers of transformers, in small chunks, each prompt twice: the second time mostly from
/// the cache where that is safe.
#[test]
fn tiny_models_answer_as_the_reference_did() {
    for (model, reuses) in
        [("llama", true), ("llama/llama-f32.gguf", true), ("phi3_longrope", false)]
    {
        let mut options = options(model);
        options.config.runtime.prefill_chunk_size = 5;
        let mut progress = Progress::default();
        let engine = load(&options, &mut progress).unwrap();
        assert!(progress.total > 0);
        assert_eq!(progress.done, progress.total);
        let family = model.split('/').next().unwrap();
        let oracle = std::fs::read(Path::new(TINY).join(family).join("oracle.json")).unwrap();
        let oracle: Value = serde_json::from_slice(&oracle).unwrap();
        let tokenizer = engine.tokenizer().unwrap().clone();
        for case in oracle["prompts"].as_array().unwrap() {
            let prompt = ids(&case["ids"]);
            let mut expected = ids(&case["greedy16"]);
            if let Some(end) = expected.iter().position(|&id| tokenizer.is_end_of_generation(id)) {
                expected.truncate(end + 1);
            }
            for round in 0..2 {
                let request = Request {
                    prompt: prompt.clone(),
                    max_tokens: 16,
                    sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
                    stop: vec![],
                    logprobs: None,
                    ignore_eos: false,
                    ..Request::default()
                };
                let answer = read(engine.submit(request).unwrap());
                assert_eq!(answer.tokens, expected, "{model}, round {round}");
                // All but the last, unless they end within a page that the answer filled.
                let (begins, filled) = (prompt.len() - 1, prompt.len() + answer.tokens.len() - 1);
                let is_whole = prompt.len().is_multiple_of(PAGE_SIZE);
                let cached = match is_whole || begins / PAGE_SIZE == filled / PAGE_SIZE {
                    true => begins,
                    false => begins / PAGE_SIZE * PAGE_SIZE,
                };
                if round == 1 {
                    assert_eq!(answer.cached, Some(if reuses { cached } else { 0 }), "{model}");
                }
                // Alone, a sequence loses the space that encoding puts before its first word.
                let whole: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
                let shown = tokenizer.decode(&prompt, true) + &answer.text;
                assert_eq!(shown, tokenizer.decode(&whole, true), "{model}");
            }
        }
    }
}

/// Greedy answers at 1, 8 and 64 streams, from an empty cache and a full one, in small chunks and few
/// pages, so that some begin again: each is what the request gets alone.
#[test]
fn an_answer_does_not_depend_on_what_is_computed_beside_it() {
    let models = [
        ("llama/llama-q4_0.gguf", false),
        ("llama_k256/llama_k256-q4_k_m.gguf", false),
        ("gemma2", true),
        ("phi3_longrope", true),
    ];
    for (model, exact) in models {
        let engine = |streams| {
            let mut options = options(model);
            options.config.runtime.exact = exact;
            options.config.runtime.prefill_chunk_size = 48;
            options.config.runtime.admission_decode_tokens = 1;
            options.config.kv_cache.max_blocks = 24;
            options.max_seq_len = Some(100);
            (options.max_concurrent, options.max_waiting) = (streams, 64);
            start(&options).unwrap()
        };
        let request = |i: u32| Request {
            prompt: (0..3 + 5 * (i % 13)).map(|p| (p * p + i % 5 * p / 9) % 700).collect(),
            max_tokens: 8 + (i % 7) as usize * 3,
            sampling: SamplingParams {
                temperature: if i.is_multiple_of(2) { 0.0 } else { 0.9 },
                repeat_penalty: if i.is_multiple_of(3) { 1.2 } else { 1.0 },
                seed: Some(u64::from(i)),
                ..SamplingParams::default()
            },
            logprobs: (i.is_multiple_of(4)).then_some(2),
            ignore_eos: true,
            ..Request::default()
        };
        let alone: Vec<_> = (0..64).map(|i| engine_answer(&engine(1), request(i))).collect();
        for streams in [1, 8, 64] {
            let engine = engine(streams);
            for round in 0..2 {
                let submit = |i| engine.submit(request(i)).unwrap();
                let handles: Vec<_> = (0..64).map(submit).collect();
                for (i, handle) in handles.into_iter().enumerate() {
                    let answer = read(handle);
                    let found = (answer.tokens, answer.logprobs);
                    assert!(found == alone[i], "{model}, {streams} streams, round {round}, {i}");
                }
            }
            let stats = engine.stats();
            assert!(streams < 64 || stats.preemptions > 0, "{model}: {stats:?}");
            assert_eq!(stats.cached_tokens > 0, model != "phi3_longrope", "{model}: {stats:?}");
        }
    }
}

/// Tokens and their log-probabilities.
fn engine_answer(engine: &Engine, request: Request) -> (Vec<u32>, Vec<TokenLogprob>) {
    let answer = read(engine.submit(request).unwrap());
    (answer.tokens, answer.logprobs)
}

#[test]
fn what_was_loaded_is_described() {
    let mut options = options("llama");
    options.max_seq_len = Some(100);
    options.gpu_layers = -1;
    let engine = start(&options).unwrap();
    let info = engine.info();
    assert_eq!((info.name.as_str(), info.architecture.as_str()), ("llama", "llama"));
    assert_eq!((info.vocab_size, info.max_seq_len), (768, 100));
    assert!(info.description.starts_with("llama ") && info.description.ends_with(" F32"));
    assert!(info.device.contains("CPU"), "{}", info.device);
    assert_eq!(info.weight_bytes, 4 * info.parameters);
    assert!(engine.notices().iter().any(|notice| notice.contains("CPU")));
    assert!(engine.template().is_some());
    assert_eq!(engine.memory_plan().kv_groups[0].pages, 7);
    assert!(engine.memory_plan().to_string().contains("KV cache F32"));
}

#[test]
fn templates_are_chosen_by_name() {
    let mut options = options("llama");
    for (name, some) in [("none", false), ("chatml", true)] {
        options.chat_template = name.to_owned();
        assert_eq!(start(&options).unwrap().template().is_some(), some, "{name}");
    }
    let (kind, text) = refusal(|options| options.chat_template = "alpaca".to_owned());
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert!(text.contains("alpaca") && text.contains("auto, none, chatml"), "{text}");
}

#[test]
fn what_this_build_cannot_do_is_refused_by_name() {
    type Change = fn(&mut EngineOptions);
    let cases: [(Change, &str); 3] = [
        (|o| o.config.kv_cache.dtype = KvSetting::Fp8, "kv_cache.dtype = \"fp8\""),
        (|o| o.config.attention.mxfp4 = Toggle::Always, "attention.mxfp4 = \"always\""),
        (|o| o.config.runtime.cuda_graphs = Toggle::Always, "runtime.cuda_graphs"),
    ];
    for (change, name) in cases {
        let (kind, text) = refusal(change);
        assert_eq!(kind, ErrorKind::Unsupported, "{text}");
        assert!(text.starts_with(name), "{text}");
    }
}

/// On a machine without a GPU; elsewhere layers would go there.
#[test]
fn without_a_gpu_the_cpu_computes_unless_a_device_was_named() {
    if crate::cuda::Driver::load().is_ok() {
        return;
    }
    for gpu_layers in [-1, 2] {
        let engine = start(&EngineOptions { gpu_layers, ..options("llama") }).unwrap();
        let told = engine.notices().iter().filter(|n| n.contains("all layers run on the CPU"));
        assert_eq!(told.count(), 1, "{:?}", engine.notices());
    }
    let named = EngineOptions { device: Some(0), gpu_layers: -1, ..options("llama") };
    let error = start(&named).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cuda, "{error}");
    assert!(error.to_string().contains("--gpu-layers 0"), "{error}");
    let unused = EngineOptions { device: Some(3), gpu_layers: 0, ..options("llama") };
    let engine = start(&unused).unwrap();
    assert!(engine.notices().iter().any(|n| n.contains("--device 3 is not used")));
}

#[test]
fn settings_that_contradict_are_refused() {
    let (kind, text) = refusal(|options| options.config.kv_cache.dtype = KvSetting::Fp16);
    assert_eq!(kind, ErrorKind::InvalidArgument, "{text}");
    let (kind, text) = refusal(|options| options.gpu_layers = -2);
    assert_eq!(kind, ErrorKind::InvalidArgument, "{text}");
    let (kind, text) = refusal(|options| options.max_seq_len = Some(0));
    assert_eq!(kind, ErrorKind::InvalidArgument, "{text}");
}

#[test]
fn errors_are_sorted_for_exit_codes() {
    let (kind, text) = refusal(|options| options.model = "/nowhere/model.gguf".into());
    assert_eq!(kind, ErrorKind::NotFound, "{text}");
    assert!(text.contains("/nowhere/model.gguf"), "{text}");
    let (kind, text) = refusal(|options| options.model = Path::new(TINY).join("llama/oracle.json"));
    assert_eq!(kind, ErrorKind::InvalidModel, "{text}");
    let (kind, text) = refusal(|options| options.max_seq_len = Some(1 << 30));
    assert_eq!(kind, ErrorKind::OutOfMemory, "{text}");
    assert!(text.contains("try --max-seq-len"), "{text}");
}

/// The default mode: F16 keys and values, all of the machine's cores.
#[test]
fn the_default_mode_answers() {
    let mut options = options("llama");
    options.config = Config::default();
    options.threads = 0;
    let engine = start(&options).unwrap();
    assert!(engine.memory_plan().to_string().contains("KV cache F16"));
    let prompt = engine.tokenizer().unwrap().encode("Hello", true, false).unwrap();
    let request = Request {
        prompt,
        max_tokens: 5,
        sampling: SamplingParams::default(),
        stop: vec![],
        logprobs: Some(2),
        ignore_eos: true,
        ..Request::default()
    };
    let mut handle = engine.submit(request).unwrap();
    let mut tokens = 0;
    while let Some(event) = handle.blocking_recv() {
        match event {
            Event::Token { logprob, .. } => {
                assert_eq!(logprob.unwrap().top.len(), 2);
                tokens += 1;
            }
            Event::Done { reason, .. } => assert_eq!(reason, FinishReason::Length),
            Event::Failed(error) => panic!("{error}"),
            Event::Prefilled { .. } => {}
        }
    }
    assert_eq!(tokens, 5);
}

#[test]
fn prompts_beside_decoding_are_bounded_as_asked() {
    let mut config = Config::default();
    for (asked, gpu, rows) in [(-1, false, 32), (-1, true, 64), (0, true, usize::MAX), (7, true, 7)]
    {
        config.runtime.prefill_chunk_decode_cap = asked;
        assert_eq!(mixed_rows(&config, gpu), rows, "{asked}");
    }
}
