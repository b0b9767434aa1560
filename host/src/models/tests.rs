//! Checkpoints that disagree with themselves are refused by name.

use std::path::Path;
use std::sync::Arc;

use gpu_kernels::formats::Format;

use super::describe;
use crate::checkpoint::{Bytes, Checkpoint, GgufWriter, Value};

use crate::engine::LoadProgress;
use crate::layers::decoder::{BatchLimits, Decoder, Placement};
use crate::ops::cpu::CpuOps;

type Tensors = Vec<(String, Vec<usize>)>;

/// A two-layer Llama: hidden 32, 4 heads of 8, 2 key heads, MLP 64, 10 tokens.
struct Model {
    keys: Vec<(String, Value)>,
    tensors: Tensors,
}

impl Model {
    fn new() -> Self {
        let u = |name: &str, n| (format!("llama.{name}"), Value::U32(n));
        let mut keys = vec![
            ("general.architecture".into(), Value::string("llama")),
            ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
        ];
        keys.extend([
            u("block_count", 2),
            u("context_length", 64),
            u("embedding_length", 32),
            u("feed_forward_length", 64),
            u("attention.head_count", 4),
            u("attention.head_count_kv", 2),
        ]);
        let mut tensors: Tensors = vec![];
        let mut add = |name: String, shape: &[usize]| tensors.push((name, shape.to_vec()));
        add("token_embd.weight".into(), &[10, 32]);
        add("output_norm.weight".into(), &[32]);
        for layer in 0..2 {
            for (name, shape) in [
                ("attn_norm", &[32][..]),
                ("attn_q", &[32, 32]),
                ("attn_k", &[16, 32]),
                ("attn_v", &[16, 32]),
                ("attn_output", &[32, 32]),
                ("ffn_norm", &[32]),
                ("ffn_gate", &[64, 32]),
                ("ffn_up", &[64, 32]),
                ("ffn_down", &[32, 64]),
            ] {
                add(format!("blk.{layer}.{name}.weight"), shape);
            }
        }
        Self { keys, tensors }
    }

    fn key(mut self, name: &str, value: Value) -> Self {
        self.keys.retain(|(key, _)| key != name);
        self.keys.push((name.into(), value));
        self
    }

    fn without_key(mut self, name: &str) -> Self {
        self.keys.retain(|(key, _)| key != name);
        self
    }

    fn tensor(mut self, name: &str, shape: &[usize]) -> Self {
        self.tensors.retain(|(tensor, _)| tensor != name);
        self.tensors.push((name.into(), shape.to_vec()));
        self
    }

    fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|(tensor, _)| tensor != name);
        self
    }

    /// What loading it says; empty when it works.
    fn load(&self) -> String {
        let mut file = GgufWriter::new();
        for (key, value) in &self.keys {
            file.key(key.as_str(), value.clone());
        }
        for (name, shape) in &self.tensors {
            file.tensor(name.as_str(), Format::F32, shape).unwrap();
        }
        let mut bytes = vec![];
        let sizes: Vec<usize> = (0..self.tensors.len()).map(|i| file.tensor_bytes(i)).collect();
        file.write(&mut bytes, |i, out| out.write_all(&vec![0; sizes[i]])).unwrap();
        match load(bytes) {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        }
    }
}

fn load(bytes: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
    struct Silent;
    impl LoadProgress for Silent {
        fn tensor(&mut self, _: &str, _: u64, _: u64) {}
    }
    let checkpoint = Checkpoint::from_gguf(Path::new("model.gguf"), Bytes::owned(bytes))?;
    let (family, spec) = describe(&checkpoint, &config::RopeOverride::default())?;
    let ops = Arc::new(CpuOps::new(1, true));
    let limits = BatchLimits { rows: 4, logit_rows: 1, sequences: 1 };
    let all = [Placement { ops, layers: spec.layers.len() }];
    Decoder::load(&checkpoint, family.name, spec, &all, limits, &mut Silent)?;
    Ok(())
}

#[test]
fn the_plain_model_loads() {
    assert_eq!(Model::new().load(), "");
}

#[test]
fn hyperparameters_that_no_model_has_are_refused_by_name() {
    let u = Value::U32;
    for (name, value, parts) in [
        ("llama.block_count", u(0), &["llama.block_count is 0"][..]),
        ("llama.block_count", u(4_000_000_000), &["llama.block_count"]),
        ("llama.block_count", u(1000), &["is 1000", "only 20 tensors"]),
        ("llama.block_count", u(3), &["blk.2.attn_norm.weight", "missing"]),
        ("llama.block_count", u(1), &["9 tensors are not used", "blk.1."]),
        ("llama.attention.head_count", u(0), &["llama.attention.head_count is 0"]),
        ("llama.attention.head_count", u(5), &["head_count_kv is 2", "does not divide the 5"]),
        ("llama.attention.head_count", u(6), &["head_count is 6", "hidden_size 32"]),
        ("llama.attention.head_count_kv", u(3), &["head_count_kv is 3", "does not divide"]),
        ("llama.attention.head_count_kv", u(0), &["head_count_kv is 0"]),
        ("llama.attention.key_length", u(16), &["attn_q.weight", "[32, 32]", "[64, 32]"]),
        ("llama.attention.key_length", u(100_000), &["key_length is 100000", "at most"]),
        ("llama.attention.value_length", u(4), &["value_length is 4", "key length 8"]),
        ("llama.embedding_length", u(64), &["[10, 64]", "[10, 32]"]),
        ("llama.feed_forward_length", u(63), &["ffn_gate.weight", "[63, 32]"]),
        ("llama.vocab_size", u(11), &["vocab_size is 11", "10 rows"]),
        ("llama.context_length", u(0), &["context_length is 0"]),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), &["epsilon", "NaN"]),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0), &["epsilon is -1"]),
        ("llama.rope.freq_base", Value::F32(0.0), &["freq_base", "is 0"]),
        ("llama.rope.dimension_count", u(9), &["dimension_count is 9", "a head has 8"]),
        ("llama.rope.dimension_count", u(7), &["7 dimensions", "even"]),
        ("llama.rope.scaling.type", Value::string("spiral"), &["spiral", "known: none, linear"]),
        ("llama.block_count", Value::string("two"), &["llama.block_count"]),
        ("general.architecture", Value::string("hyena"), &["hyena is not supported", "qwen3"]),
    ] {
        let said = Model::new().key(name, value).load();
        assert!(said.contains("model.gguf"), "{name}: no file in {said:?}");
        for part in parts {
            assert!(said.contains(part), "{name}: no {part:?} in {said:?}");
        }
    }
}

#[test]
fn missing_keys_are_named() {
    for name in ["llama.block_count", "llama.embedding_length", "llama.attention.head_count"] {
        let said = Model::new().without_key(name).load();
        assert!(said.contains(&format!("{name} is missing")), "{said}");
    }
    let said = Model::new().without_key("general.architecture").load();
    assert!(said.contains("general.architecture"), "{said}");
}

#[test]
fn tensors_are_checked_against_the_hyperparameters() {
    let said = Model::new().without_tensor("blk.1.ffn_up.weight").load();
    assert!(said.contains("blk.1.ffn_up.weight is missing"), "{said}");
    let said = Model::new().without_tensor("token_embd.weight").load();
    assert!(said.contains("token_embd.weight is missing"), "{said}");
    let said = Model::new().tensor("blk.0.attn_k.weight", &[32, 32]).load();
    assert!(said.contains("blk.0.attn_k.weight is [32, 32], expected [16, 32]"), "{said}");
    let said = Model::new().tensor("blk.0.attn_q.bias", &[31]).load();
    assert!(said.contains("blk.0.attn_q.bias is [31], expected [32]"), "{said}");
    let said = Model::new().tensor("blk.0.attn_sinks.weight", &[4]).load();
    assert!(said.contains("1 tensors are not used by architecture llama"), "{said}");
    assert_eq!(Model::new().tensor("blk.0.attn_q.bias", &[32]).load(), "", "biases are used");
    assert_eq!(Model::new().tensor("output.weight", &[10, 32]).load(), "", "a head of its own");
}
