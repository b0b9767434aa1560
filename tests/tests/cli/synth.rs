//! Model files made here: a complete llama of one layer, and what tests change of it.

use host::checkpoint::{GgufWriter, Value};
use tests::{Scratch, data};

use crate::LLAMA;

/// Tokens of its vocabulary, of which only the number exists.
pub const VOCAB: usize = 96;
const HIDDEN: usize = 32;
const INNER: usize = 64;

/// A model as a list of keys and tensors, to be changed before it is written.
pub struct Model {
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

/// F32 values in a shape, outermost first.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Model {
    /// A llama that runs, without a vocabulary.
    pub fn llama() -> Self {
        let count = |n: usize| Value::U32(n as u32);
        let keys = [
            ("general.architecture", Value::string("llama")),
            ("general.name", Value::string("synthetic")),
            ("llama.block_count", count(1)),
            ("llama.context_length", count(256)),
            ("llama.embedding_length", count(HIDDEN)),
            ("llama.feed_forward_length", count(INNER)),
            ("llama.attention.head_count", count(4)),
            ("llama.attention.head_count_kv", count(2)),
            ("llama.rope.dimension_count", count(8)),
            ("llama.vocab_size", count(VOCAB)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.model", Value::string("no_vocab")),
        ];
        let tensors = [
            ("token_embd.weight", [VOCAB, HIDDEN]),
            ("output.weight", [VOCAB, HIDDEN]),
            ("blk.0.attn_q.weight", [HIDDEN, HIDDEN]),
            ("blk.0.attn_k.weight", [HIDDEN / 2, HIDDEN]),
            ("blk.0.attn_v.weight", [HIDDEN / 2, HIDDEN]),
            ("blk.0.attn_output.weight", [HIDDEN, HIDDEN]),
            ("blk.0.ffn_gate.weight", [INNER, HIDDEN]),
            ("blk.0.ffn_up.weight", [INNER, HIDDEN]),
            ("blk.0.ffn_down.weight", [HIDDEN, INNER]),
        ];
        let norms = ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"];
        let mut noise = Noise(1);
        let weights = tensors.map(|(name, shape)| Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values: (0..shape[0] * shape[1]).map(|_| noise.next()).collect(),
        });
        let norms = norms.map(|name| Tensor {
            name: name.to_owned(),
            shape: vec![HIDDEN],
            values: vec![1.0; HIDDEN],
        });
        Self {
            keys: keys.map(|(key, value)| (key.to_owned(), value)).to_vec(),
            tensors: weights.into_iter().chain(norms).collect(),
        }
    }

    /// Replaces a key, or adds it.
    pub fn key(mut self, key: &str, value: Value) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    /// Takes a key away.
    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// Changes a tensor.
    pub fn tensor(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.iter_mut().find(|t| t.name == name).expect("a tensor of the model"));
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            writer.key(key, value.clone());
        }
        for tensor in &self.tensors {
            let format = gpu_kernels::formats::Format::F32;
            writer.tensor(&tensor.name, format, &tensor.shape).expect("F32 fits any shape");
        }
        let mut file = vec![];
        let written = writer.write(&mut file, |number, out| {
            let values = &self.tensors[number].values;
            out.write_all(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
        });
        written.expect("memory can be written");
        file
    }

    /// The file, written to `scratch`; gives its path.
    pub fn file(&self, scratch: &Scratch) -> String {
        scratch.file("synthetic.gguf", self.bytes())
    }
}

/// Values from −0.5 to 0.5 by a linear congruential generator (Knuth's MMIX).
pub struct Noise(pub u64);

impl Noise {
    /// The next one.
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    }
}

/// Arguments of an answer that goes on until someone stops it, with the model of [`endless`].
pub const ENDLESS: [&str; 6] =
    ["--temperature", "0", "--max-seq-len", "1000000", "--max-tokens", "900000"];

/// The tiny llama with no end of generation: its key and the tokens of that name are respelled.
pub fn endless(scratch: &Scratch) -> String {
    let mut file = std::fs::read(data(LLAMA)).expect("a model");
    for (name, other) in [
        (&b"eos_token_id"[..], &b"xxx_token_id"[..]),
        (b"</s>", b"</x>"),
        (b"<|im_end|>", b"<|im_xxx|>"),
    ] {
        let places: Vec<usize> =
            (0..file.len() - name.len()).filter(|i| file[*i..].starts_with(name)).collect();
        assert!(!places.is_empty(), "the model has an end");
        for at in places {
            file[at..at + name.len()].copy_from_slice(other);
        }
    }
    scratch.file("endless.gguf", file)
}
