//! Hyper-parameters by one name, whichever dialect the checkpoint speaks.
//!
//! GGUF says `llama.block_count`, transformers says `num_hidden_layers`: a [`Key`] holds both, and
//! [`Hparams`] reads it, names the file and the key it missed, and refuses values no model has.

use std::path::Path;

use serde_json::{Map, Value};

use super::LoadError;
use crate::checkpoint::{Checkpoint, GgufMetadata, HfMetadata, Metadata};

/// One hyper-parameter in both dialects. An empty spelling means the dialect has none.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// After `<architecture>.` in GGUF metadata.
    pub gguf: &'static str,
    /// In `config.json`; dotted paths reach into objects.
    pub hf: &'static str,
}

/// The table of keys; a family adds its own beside its code.
pub mod key {
    use super::Key;

    macro_rules! keys {
        ($($name:ident = $gguf:literal, $hf:literal;)*) => {
            $(#[allow(missing_docs)] pub const $name: Key = Key { gguf: $gguf, hf: $hf };)*
        };
    }
    keys! {
        NUM_LAYERS = "block_count", "num_hidden_layers";
        CONTEXT_LEN = "context_length", "max_position_embeddings";
        HIDDEN_SIZE = "embedding_length", "hidden_size";
        INTERMEDIATE_SIZE = "feed_forward_length", "intermediate_size";
        NUM_HEADS = "attention.head_count", "num_attention_heads";
        NUM_KV_HEADS = "attention.head_count_kv", "num_key_value_heads";
        HEAD_DIM = "attention.key_length", "head_dim";
        VALUE_DIM = "attention.value_length", "";
        VOCAB_SIZE = "vocab_size", "vocab_size";
        NORM_EPS = "attention.layer_norm_rms_epsilon", "rms_norm_eps";
        SLIDING_WINDOW = "attention.sliding_window", "sliding_window";
        ATTN_SOFTCAP = "attn_logit_softcapping", "attn_logit_softcapping";
        LOGIT_SOFTCAP = "final_logit_softcapping", "final_logit_softcapping";
        ATTN_SCALE = "attention.scale", "attention_multiplier";
        EMBED_SCALE = "embedding_scale", "embedding_multiplier";
        RESIDUAL_SCALE = "residual_scale", "residual_multiplier";
        LOGIT_SCALE = "logit_scale", "logits_scaling";
        ROPE_THETA = "rope.freq_base", "rope_theta";
        ROPE_DIMS = "rope.dimension_count", "";
        PARTIAL_ROTARY = "", "partial_rotary_factor";
    }
}

/// Largest count or size that any key may hold; far above every model and far below overflow.
pub(crate) const MAX_COUNT: u64 = 1 << 28;

/// Reads hyper-parameters of one checkpoint.
#[derive(Debug)]
pub struct Hparams<'a> {
    checkpoint: &'a Checkpoint,
    rope_override: &'a config::RopeOverride,
    dialect: Dialect<'a>,
}

#[derive(Debug)]
enum Dialect<'a> {
    Gguf { metadata: &'a GgufMetadata, architecture: String },
    Hf { metadata: &'a HfMetadata },
}

impl<'a> Hparams<'a> {
    /// Reads from `checkpoint`, whose GGUF keys start with `architecture`.
    pub fn new(
        checkpoint: &'a Checkpoint,
        architecture: &str,
        rope_override: &'a config::RopeOverride,
    ) -> Self {
        let dialect = match checkpoint.metadata() {
            Metadata::Gguf(metadata) => {
                Dialect::Gguf { metadata, architecture: architecture.to_owned() }
            }
            Metadata::HuggingFace(metadata) => Dialect::Hf { metadata },
        };
        Self { checkpoint, rope_override, dialect }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// What the user set in place of the checkpoint's RoPE scaling.
    pub fn rope_override(&self) -> &'a config::RopeOverride {
        self.rope_override
    }

    /// Whether the names and conventions are those of transformers.
    pub fn is_hf(&self) -> bool {
        matches!(self.dialect, Dialect::Hf { .. })
    }

    /// The GGUF metadata, when that is the dialect.
    pub fn gguf(&self) -> Option<&'a GgufMetadata> {
        match &self.dialect {
            Dialect::Gguf { metadata, .. } => Some(metadata),
            Dialect::Hf { .. } => None,
        }
    }

    /// The `config.json` object, when that is the dialect.
    pub fn config(&self) -> Option<&'a Map<String, Value>> {
        match &self.dialect {
            Dialect::Hf { metadata } => Some(&metadata.config),
            Dialect::Gguf { .. } => None,
        }
    }

    /// A count or size of at least 1.
    pub fn count(&self, key: Key) -> Result<usize, LoadError> {
        self.opt_count(key)?.ok_or_else(|| self.missing(key))
    }

    /// The same where it may be absent. 0 is an error here: no count of a model is 0.
    pub fn opt_count(&self, key: Key) -> Result<Option<usize>, LoadError> {
        match self.opt_u64(key)? {
            None => Ok(None),
            Some(n) if (1..=MAX_COUNT).contains(&n) => Ok(Some(n as usize)),
            Some(n) => Err(self.invalid(key, format!("is {n}, expected 1 to {MAX_COUNT}"))),
        }
    }

    /// A whole number that may be absent or 0.
    pub fn opt_u64(&self, key: Key) -> Result<Option<u64>, LoadError> {
        match &self.dialect {
            Dialect::Gguf { .. } if key.gguf.is_empty() => Ok(None),
            Dialect::Hf { .. } if key.hf.is_empty() => Ok(None),
            Dialect::Gguf { metadata, .. } => Ok(metadata.u64(&self.spelling(key))?),
            Dialect::Hf { metadata } => Ok(metadata.u64(key.hf)?),
        }
    }

    /// A finite number.
    pub fn float(&self, key: Key) -> Result<f32, LoadError> {
        self.opt_float(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number that may be absent.
    pub fn opt_float(&self, key: Key) -> Result<Option<f32>, LoadError> {
        let value = match &self.dialect {
            Dialect::Gguf { .. } if key.gguf.is_empty() => None,
            Dialect::Hf { .. } if key.hf.is_empty() => None,
            Dialect::Gguf { metadata, .. } => metadata.f32(&self.spelling(key))?,
            Dialect::Hf { metadata } => metadata.f32(key.hf)?,
        };
        match value {
            Some(v) if !v.is_finite() => {
                Err(self.invalid(key, format!("is {v}, expected a finite number")))
            }
            v => Ok(v),
        }
    }

    /// A truth value of `config.json`; `None` when absent or in a GGUF file.
    pub fn hf_bool(&self, name: &str) -> Result<Option<bool>, LoadError> {
        match &self.dialect {
            Dialect::Hf { metadata } => Ok(metadata.bool(name)?),
            Dialect::Gguf { .. } => Ok(None),
        }
    }

    /// A text under a GGUF key behind the architecture's name; `None` when absent or in a directory.
    pub fn gguf_str(&self, name: &str) -> Result<Option<&'a str>, LoadError> {
        match &self.dialect {
            Dialect::Gguf { metadata, architecture } => {
                Ok(metadata.str(&format!("{architecture}.{name}"))?)
            }
            Dialect::Hf { .. } => Ok(None),
        }
    }

    /// A number under a GGUF key behind the architecture's name.
    pub fn gguf_f32(&self, name: &str) -> Result<Option<f32>, LoadError> {
        match &self.dialect {
            Dialect::Gguf { metadata, architecture } => {
                Ok(metadata.f32(&format!("{architecture}.{name}"))?)
            }
            Dialect::Hf { .. } => Ok(None),
        }
    }

    /// How the checkpoint spells a key.
    pub fn spelling(&self, key: Key) -> String {
        match &self.dialect {
            Dialect::Gguf { architecture, .. } => format!("{architecture}.{}", key.gguf),
            Dialect::Hf { .. } => key.hf.to_owned(),
        }
    }

    /// An error about the value of a key.
    pub fn invalid(&self, key: Key, what: String) -> LoadError {
        self.invalid_named(self.spelling(key), what)
    }

    /// The same for a key that has no row in the table.
    pub fn invalid_named(&self, key: String, what: String) -> LoadError {
        LoadError::Hyperparameter { file: self.path().into(), key, what }
    }

    fn missing(&self, key: Key) -> LoadError {
        self.invalid(key, "is missing".into())
    }

    fn path(&self) -> &'a Path {
        self.checkpoint.path()
    }
}
