//! What each container calls a tensor.

use crate::checkpoint::{Checkpoint, Metadata};
use crate::models::hparams::MAX_COUNT;
use crate::models::{LoadError, NormPlacement};

/// A tensor of a decoder by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Embed,
    FinalNorm,
    LmHead,
    AttnNorm,
    Q,
    K,
    V,
    Qkv,
    O,
    QNorm,
    KNorm,
    PostAttnNorm,
    FfnNorm,
    Gate,
    Up,
    GateUp,
    Down,
    PostFfnNorm,
}

/// Spells roles in one checkpoint's dialect.
#[derive(Debug)]
pub enum Names {
    /// `blk.3.attn_q.weight`.
    Gguf,
    /// `model.layers.3.self_attn.q_proj.weight`, behind a prefix that wrappers put before it.
    Hf {
        /// Up to and including the dot before `layers`.
        prefix: &'static str,
        /// Decides what the norms are called.
        norms: NormPlacement,
    },
}

/// Prefixes in use: plain, and the language model inside a multimodal one (two spellings).
const HF_PREFIXES: [&str; 4] = ["model.", "language_model.model.", "model.language_model.", ""];

impl Names {
    /// The dialect of a checkpoint.
    pub fn of(c: &Checkpoint, norms: NormPlacement) -> Self {
        match c.metadata() {
            Metadata::Gguf(_) => Names::Gguf,
            Metadata::HuggingFace(_) => Names::Hf { prefix: hf_prefix(c), norms },
        }
    }

    /// Name of a tensor outside the layers; `suffix` is `weight` or `bias`.
    pub fn global(&self, role: Role, suffix: &str) -> String {
        match self {
            Names::Gguf => format!("{}.{suffix}", gguf(role)),
            // The head lies outside the inner model, except where the language model is wrapped.
            Names::Hf { prefix: "language_model.model.", .. } if role == Role::LmHead => {
                format!("language_model.lm_head.{suffix}")
            }
            Names::Hf { .. } if role == Role::LmHead => format!("lm_head.{suffix}"),
            Names::Hf { prefix, norms } => format!("{prefix}{}.{suffix}", hf(role, *norms)),
        }
    }

    /// Name of a tensor of a layer.
    pub fn layer(&self, layer: usize, role: Role, suffix: &str) -> String {
        match self {
            Names::Gguf => format!("blk.{layer}.{}.{suffix}", gguf(role)),
            Names::Hf { prefix, norms } => {
                format!("{prefix}layers.{layer}.{}.{suffix}", hf(role, *norms))
            }
        }
    }

    /// The layer whose tensor bears a name.
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        let rest = match self {
            Names::Gguf => name.strip_prefix("blk.")?,
            Names::Hf { prefix, .. } => name.strip_prefix(prefix)?.strip_prefix("layers.")?,
        };
        rest.split_once('.')?.0.parse().ok()
    }
}

fn hf_prefix(c: &Checkpoint) -> &'static str {
    HF_PREFIXES
        .into_iter()
        .find(|p| c.tensor(&format!("{p}embed_tokens.weight")).is_some())
        .unwrap_or(HF_PREFIXES[0])
}

/// Rows of the token embedding: the size of the vocabulary.
///
/// # Errors
/// When there is none, or it is not a matrix.
pub fn embedding_rows(c: &Checkpoint) -> Result<usize, LoadError> {
    let name = Names::of(c, NormPlacement::Pre).global(Role::Embed, "weight");
    const MEANING: &str = "vocab_size, hidden_size";
    match c.tensor(&name).map(|t| t.shape.as_slice()) {
        Some(&[rows, _]) if (1..=MAX_COUNT as usize).contains(&rows) => Ok(rows),
        Some(shape) => Err(LoadError::TensorShape {
            file: c.path().into(),
            name,
            found: shape.to_vec(),
            expected: vec![],
            meaning: MEANING,
        }),
        None => Err(LoadError::MissingTensor {
            file: c.path().into(),
            name,
            shape: vec![],
            meaning: MEANING,
        }),
    }
}

fn gguf(role: Role) -> &'static str {
    match role {
        Role::Embed => "token_embd",
        Role::FinalNorm => "output_norm",
        Role::LmHead => "output",
        Role::AttnNorm => "attn_norm",
        Role::Q => "attn_q",
        Role::K => "attn_k",
        Role::V => "attn_v",
        Role::Qkv => "attn_qkv",
        Role::O => "attn_output",
        Role::QNorm => "attn_q_norm",
        Role::KNorm => "attn_k_norm",
        Role::PostAttnNorm => "post_attention_norm",
        Role::FfnNorm => "ffn_norm",
        Role::Gate => "ffn_gate",
        Role::Up | Role::GateUp => "ffn_up",
        Role::Down => "ffn_down",
        Role::PostFfnNorm => "post_ffw_norm",
    }
}

fn hf(role: Role, norms: NormPlacement) -> &'static str {
    match role {
        Role::Embed => "embed_tokens",
        Role::FinalNorm => "norm",
        Role::LmHead => "lm_head",
        Role::AttnNorm => "input_layernorm",
        Role::Q => "self_attn.q_proj",
        Role::K => "self_attn.k_proj",
        Role::V => "self_attn.v_proj",
        Role::Qkv => "self_attn.qkv_proj",
        Role::O => "self_attn.o_proj",
        Role::QNorm => "self_attn.q_norm",
        Role::KNorm => "self_attn.k_norm",
        Role::PostAttnNorm => "post_attention_layernorm",
        // Llama's "post attention" norm is the one before its MLP; sandwiches have both.
        Role::FfnNorm if norms == NormPlacement::Pre => "post_attention_layernorm",
        Role::FfnNorm => "pre_feedforward_layernorm",
        Role::Gate => "mlp.gate_proj",
        Role::Up => "mlp.up_proj",
        Role::GateUp => "mlp.gate_up_proj",
        Role::Down => "mlp.down_proj",
        Role::PostFfnNorm => "post_feedforward_layernorm",
    }
}
