//! Embeddings are the hidden states that the reference's logits come from: multiplied with the
//! checkpoint's own head in f64, they give the logits that transformers computed.

use std::path::Path;

use gpu_kernels::formats::Format;
use host::checkpoint::{Checkpoint, GgufWriter, Metadata, Value};
use host::engine::{Engine, EngineError, Pooling};
use tests::{FAMILIES, Scratch, data, greedy_together, json, logits, open, open_for, prompts};

fn embed(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    engine.embed(tokens.to_vec()).expect("it is taken").blocking_recv().expect("a vector").vector
}

/// The matrix of the logits, as the file has it.
struct Head {
    weights: Vec<f32>,
    hidden_size: usize,
    /// Gemma's: `cap · tanh(logit / cap)`.
    cap: Option<f64>,
}

impl Head {
    fn of(model: &Path) -> Self {
        let checkpoint = Checkpoint::open(model).expect("a model");
        let names = ["lm_head.weight", "model.embed_tokens.weight"];
        let tensor = names.iter().find_map(|name| checkpoint.tensor(name)).expect("a head");
        let mut weights = vec![0.0; tensor.shape.iter().product()];
        tensor.format.decode(&checkpoint.bytes(tensor), &mut weights);
        let Metadata::HuggingFace(metadata) = checkpoint.metadata() else { panic!("a directory") };
        let cap = metadata.f32("final_logit_softcapping").expect("a number").map(f64::from);
        Self { weights, hidden_size: tensor.shape[1], cap }
    }

    /// The number that a unit vector is to be multiplied with so that these logits come out, and how
    /// far they are then, at most, in units of their standard deviation.
    fn fit(&self, unit: &[f32], logits: &[f64]) -> (f64, f64) {
        assert_eq!(unit.len(), self.hidden_size);
        let dot = |row: &[f32]| -> f64 {
            row.iter().zip(unit).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum()
        };
        let raw: Vec<f64> = self.weights.chunks_exact(self.hidden_size).map(dot).collect();
        let uncapped = |z: &f64| self.cap.map_or(*z, |cap| cap * (z / cap).atanh());
        let logits: Vec<f64> = logits.iter().map(uncapped).collect();
        assert_eq!(raw.len(), logits.len());
        let scale = raw.iter().zip(&logits).map(|(a, b)| a * b).sum::<f64>()
            / raw.iter().map(|a| a * a).sum::<f64>();
        let worst = raw.iter().zip(&logits).map(|(a, b)| (scale * a - b).abs()).fold(0.0, f64::max);
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        let square = logits.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / logits.len() as f64;
        (scale, worst / square.sqrt())
    }
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum();
    let length = |v: f64| v.sqrt();
    dot / length(a.iter().map(|v| f64::from(*v).powi(2)).sum())
        / length(b.iter().map(|v| v * v).sum())
}

#[test]
fn hidden_states_times_the_head_are_the_references_logits() {
    for family in FAMILIES {
        let model = data(&format!("tiny/{family}"));
        let (engine, head) = (open(&model, &["runtime.exact=true"]), Head::of(&model));
        assert_eq!(engine.info().pooling, Pooling::Last);
        let oracle = json(&format!("tiny/{family}/oracle.json"));
        for (i, prompt) in oracle["prompts"].as_array().expect("prompts").iter().enumerate() {
            let numbers = |key: &str| {
                let list = prompt[key].as_array().expect("a list").iter();
                list.map(|v| v.as_f64().expect("a number")).collect::<Vec<f64>>()
            };
            let ids: Vec<u32> = numbers("ids").into_iter().map(|id| id as u32).collect();
            let unit = embed(&engine, &ids);
            let length: f64 = unit.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((length - 1.0).abs() < 1e-5, "{family}, prompt {i}: length² {length}");
            let (scale, off) = head.fit(&unit, &numbers("last_logits"));
            assert!(scale > 0.0 && off < 0.02, "{family}, prompt {i}: {scale}, off by {off}");
        }
    }
}

/// A GGUF file with another pooling.
fn with_pooling(pooling: u32, scratch: &Scratch) -> String {
    let path = data("tiny/llama/llama-f32.gguf");
    let original = Checkpoint::open(&path).expect("a model");
    let Metadata::Gguf(metadata) = original.metadata() else { panic!("a GGUF file") };
    let mut file = GgufWriter::new();
    for (key, value) in metadata.iter() {
        file.key(key, value.clone());
    }
    file.key("llama.pooling_type", Value::U32(pooling));
    for tensor in original.tensors() {
        assert_eq!(tensor.format, Format::F32);
        file.tensor(&tensor.name, tensor.format, &tensor.shape).expect("whole blocks");
    }
    let mut bytes = vec![];
    file.write(&mut bytes, |i, out| out.write_all(&original.bytes(&original.tensors()[i])))
        .expect("memory");
    scratch.file(&format!("pooling-{pooling}.gguf"), bytes)
}

#[test]
fn the_mean_is_that_of_the_hidden_states_of_all_positions() {
    let scratch = Scratch::new("pooling");
    let exact = &["runtime.exact=true"];
    let head = Head::of(&data("tiny/llama"));
    let last = open(&data("tiny/llama"), exact);
    let mean = open(Path::new(&with_pooling(1, &scratch)), exact);
    let first = open(Path::new(&with_pooling(2, &scratch)), exact);
    for len in [1, 5, 80] {
        let tokens: Vec<u32> = (0..len).map(|i| (i * i * 7 + 11) % 499 + 1).collect();
        let rows = logits(&last, &tokens, 0);
        let mut sum = vec![0.0f64; head.hidden_size];
        for (i, row) in rows.iter().enumerate() {
            let unit = embed(&last, &tokens[..=i]);
            let row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
            let (length, off) = head.fit(&unit, &row);
            assert!(off < 1e-3, "position {i}: off by {off}");
            sum.iter_mut().zip(&unit).for_each(|(s, v)| *s += length * f64::from(*v));
        }
        let found = cosine(&embed(&mean, &tokens), &sum);
        assert!((found - 1.0).abs() < 1e-6, "{len} tokens: cosine {found}");
        assert_eq!(embed(&first, &tokens), embed(&last, &tokens[..1]));
    }
}

/// A directory as sentence-transformers write it.
#[test]
fn a_directory_names_its_pooling() {
    let scratch = Scratch::new("pooling-directory");
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"] {
        let from = data(&format!("tiny/llama/{file}"));
        std::fs::copy(from, scratch.dir().join(file)).expect(file);
    }
    std::fs::create_dir(scratch.dir().join("1_Pooling")).expect("it is new");
    scratch.file("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#);
    assert_eq!(open(scratch.dir(), &[]).info().pooling, Pooling::Mean);
}

#[test]
fn poolings_that_give_no_vector_are_refused_by_name() {
    let scratch = Scratch::new("no-pooling");
    for (number, name) in [(0, "none"), (4, "rank")] {
        let engine = open(Path::new(&with_pooling(number, &scratch)), &[]);
        let refused: EngineError = engine.embed(vec![1, 2]).expect_err("no vector").into();
        let said = host::program::chain(&refused);
        assert!(said.contains(&format!("{name:?}")), "{said}");
    }
}

/// On the CPU a row is computed alike whatever is beside it, and however much was cached.
#[test]
fn many_at_once_are_those_of_each_alone() {
    let model = data("tiny/llama/llama-q4_0.gguf");
    let (alone, together) = (open(&model, &[]), open_for(&model, &[], 0, 5));
    let texts = prompts(12);
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| embed(&alone, text)).collect();
    let answers = greedy_together(&alone, &texts, 8);
    let handles: Vec<_> =
        texts.iter().map(|text| together.embed(text.clone()).expect("room")).collect();
    assert_eq!(greedy_together(&together, &texts, 8), answers);
    for (handle, expected) in handles.into_iter().zip(&expected) {
        assert_eq!(&handle.blocking_recv().expect("a vector").vector, expected);
    }
}
