//! Model families: one file each, one row each in [`FAMILIES`].
//!
//! A family reads hyper-parameters and fills a [`DecoderSpec`]: fields with a meaning, each
//! honoured in one place of `layers/`. It writes no forward pass and touches no weights.

mod gemma;
mod granite;
pub mod hparams;
mod llama;
mod olmo2;
mod phi3;
mod qwen;
pub mod rope;
mod smollm3;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::checkpoint::{Checkpoint, CheckpointError, Metadata};
use crate::layers::rope::RopeSpec;
use crate::ops::{Activation, HeadShape, OpsError};
use hparams::{Hparams, key};

/// One architecture family.
pub struct Family {
    /// The name imp uses.
    pub name: &'static str,
    /// Values of `general.architecture` in GGUF files.
    pub gguf: &'static [&'static str],
    /// Entries of `architectures` in `config.json`.
    pub hf: &'static [&'static str],
    /// Fills the description.
    pub spec: fn(&Hparams) -> Result<DecoderSpec, LoadError>,
}

/// Every family imp knows.
pub const FAMILIES: &[Family] = &[
    Family { name: "llama", gguf: &["llama"], hf: &["LlamaForCausalLM"], spec: llama::llama },
    Family { name: "mistral", gguf: &[], hf: &["MistralForCausalLM"], spec: llama::mistral },
    Family { name: "qwen2", gguf: &["qwen2"], hf: &["Qwen2ForCausalLM"], spec: qwen::qwen2 },
    Family { name: "qwen3", gguf: &["qwen3"], hf: &["Qwen3ForCausalLM"], spec: qwen::qwen3 },
    Family { name: "gemma2", gguf: &["gemma2"], hf: &["Gemma2ForCausalLM"], spec: gemma::gemma2 },
    Family { name: "gemma3", gguf: &["gemma3"], hf: &["Gemma3ForCausalLM"], spec: gemma::gemma3 },
    Family { name: "phi3", gguf: &["phi3"], hf: &["Phi3ForCausalLM"], spec: phi3::phi3 },
    Family {
        name: "smollm3",
        gguf: &["smollm3"],
        hf: &["SmolLM3ForCausalLM"],
        spec: smollm3::smollm3,
    },
    Family {
        name: "granite",
        gguf: &["granite"],
        hf: &["GraniteForCausalLM"],
        spec: granite::granite,
    },
    Family { name: "olmo2", gguf: &["olmo2"], hf: &["Olmo2ForCausalLM"], spec: olmo2::olmo2 },
];

/// Where a layer normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP (Llama).
    Pre,
    /// Before and after both (Gemma: "sandwich").
    Sandwich,
    /// After both only (OLMo 2).
    Post,
}

/// What q and k are normalised over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head, with weights of `head_dim` (Qwen3, Gemma 3).
    PerHead,
    /// All heads together, with weights of `heads · head_dim` (OLMo 2).
    Full,
}

/// How one layer attends.
#[derive(Clone, Copy, Debug)]
pub struct LayerSpec {
    /// Index into [`DecoderSpec::ropes`]; `None` leaves positions out (SmolLM3).
    pub rope: Option<usize>,
    /// Sliding window in tokens.
    pub window: Option<usize>,
}

/// A decoder as data: everything `layers/` needs besides the weights.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Rows of the embedding and of the logits.
    pub vocab_size: usize,
    /// Positions the model was trained for.
    pub context_len: usize,
    /// Query heads.
    pub heads: HeadShape,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Added to the variance in every norm.
    pub norm_eps: f32,
    /// Added to every norm weight of the file.
    pub norm_weight_offset: f32,
    /// Where a layer normalises.
    pub norms: NormPlacement,
    /// Norm on q and k.
    pub qk_norm: Option<QkNorm>,
    /// One tensor holds q, k and v.
    pub fused_qkv: bool,
    /// One tensor holds gate and up.
    pub fused_gate_up: bool,
    /// Gate of the MLP.
    pub activation: Activation,
    /// Multiplies q · k.
    pub attn_scale: f32,
    /// Soft cap of the attention scores.
    pub attn_softcap: Option<f32>,
    /// Multiplies embeddings.
    pub embed_scale: f32,
    /// Multiplies what a sub-layer adds to the residual stream.
    pub residual_scale: f32,
    /// Multiplies logits.
    pub logit_scale: f32,
    /// Soft cap of the logits.
    pub logit_softcap: Option<f32>,
    /// The rotary embeddings in use.
    pub ropes: Vec<RopeSpec>,
    /// Each layer.
    pub layers: Vec<LayerSpec>,
}

impl DecoderSpec {
    /// What Llama-shaped decoders share: sizes, one RoPE for all layers, pre-norm, SiLU, no caps.
    ///
    /// # Errors
    /// A missing or impossible hyper-parameter, by name.
    pub fn llama_shaped(h: &Hparams) -> Result<Self, LoadError> {
        let num_layers = h.count(key::NUM_LAYERS)?;
        let tensors = h.checkpoint().tensors().len();
        if num_layers > tensors {
            return Err(h.invalid(
                key::NUM_LAYERS,
                format!("is {num_layers}, but the checkpoint holds only {tensors} tensors"),
            ));
        }
        let hidden_size = h.count(key::HIDDEN_SIZE)?;
        let heads = h.count(key::NUM_HEADS)?;
        let kv_heads = h.opt_count(key::NUM_KV_HEADS)?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(h.invalid(
                key::NUM_KV_HEADS,
                format!("is {kv_heads}, which does not divide the {heads} query heads"),
            ));
        }
        let head_dim = match h.opt_count(key::HEAD_DIM)? {
            Some(dim) => dim,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(h.invalid(
                    key::NUM_HEADS,
                    format!("is {heads}, which does not divide hidden_size {hidden_size}"),
                ));
            }
        };
        if let Some(value_dim) = h.opt_count(key::VALUE_DIM)?
            && value_dim != head_dim
        {
            return Err(h.invalid(
                key::VALUE_DIM,
                format!("is {value_dim}, expected the key length {head_dim}"),
            ));
        }
        if head_dim > MAX_HEAD_DIM {
            return Err(
                h.invalid(key::HEAD_DIM, format!("is {head_dim}, at most {MAX_HEAD_DIM} works"))
            );
        }
        let norm_eps = h.float(key::NORM_EPS)?;
        if !(0.0..1.0).contains(&norm_eps) {
            return Err(h.invalid(key::NORM_EPS, format!("is {norm_eps}, expected 0 to 1")));
        }
        let context_len = h.count(key::CONTEXT_LEN)?;
        let heads = HeadShape { heads, head_dim };
        Ok(Self {
            hidden_size,
            intermediate_size: h.count(key::INTERMEDIATE_SIZE)?,
            vocab_size: vocab_size(h)?,
            context_len,
            heads,
            kv_heads,
            norm_eps,
            norm_weight_offset: 0.0,
            norms: NormPlacement::Pre,
            qk_norm: None,
            fused_qkv: false,
            fused_gate_up: false,
            activation: Activation::Silu,
            attn_scale: 1.0 / (head_dim as f32).sqrt(),
            attn_softcap: None,
            embed_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            ropes: vec![rope::read(h, head_dim, context_len)?],
            layers: vec![LayerSpec { rope: Some(0), window: None }; num_layers],
        })
    }

    /// Heads of the keys and values.
    pub fn kv_shape(&self) -> HeadShape {
        HeadShape { heads: self.kv_heads, head_dim: self.heads.head_dim }
    }

    /// Whether keys computed for one prompt serve a longer one: not when rotations depend on the
    /// length of the sequence.
    pub fn prefix_reuse(&self) -> bool {
        self.ropes.iter().all(|rope| !rope.depends_on_length())
    }
}

/// Largest head that the attention kernels hold in registers and shared memory.
const MAX_HEAD_DIM: usize = 512;

/// Rows of the embedding: what the file declares must be what it holds.
fn vocab_size(h: &Hparams) -> Result<usize, LoadError> {
    let rows = crate::weights::names::embedding_rows(h.checkpoint())?;
    match h.opt_count(key::VOCAB_SIZE)? {
        Some(declared) if declared != rows => Err(
            h.invalid(key::VOCAB_SIZE, format!("is {declared}, but the embedding has {rows} rows"))
        ),
        _ => Ok(rows),
    }
}

/// Finds the family of a checkpoint and fills its description.
///
/// # Errors
/// An unknown architecture, with the known ones; a missing or impossible hyper-parameter.
pub fn describe(
    c: &Checkpoint,
    rope_override: &config::RopeOverride,
) -> Result<(&'static Family, DecoderSpec), LoadError> {
    let missing = |key: &str| LoadError::Hyperparameter {
        file: c.path().into(),
        key: key.into(),
        what: "is missing: it names the architecture".into(),
    };
    let (name, family) = match c.metadata() {
        Metadata::Gguf(m) => {
            const KEY: &str = "general.architecture";
            let name = m.str(KEY)?.ok_or_else(|| missing(KEY))?.to_owned();
            let family = FAMILIES.iter().find(|f| f.gguf.contains(&name.as_str()));
            (name, family)
        }
        Metadata::HuggingFace(m) => {
            const KEY: &str = "architectures";
            let names = m.strings(KEY)?.ok_or_else(|| missing(KEY))?;
            let name = names.first().ok_or_else(|| missing(KEY))?.to_string();
            let family = FAMILIES.iter().find(|f| f.hf.contains(&name.as_str()));
            (name, family)
        }
    };
    let Some(family) = family else {
        let gguf = matches!(c.metadata(), Metadata::Gguf(_));
        let known = FAMILIES.iter().flat_map(|f| if gguf { f.gguf } else { f.hf });
        return Err(LoadError::UnknownArchitecture {
            file: c.path().into(),
            name,
            known: known.copied().collect::<Vec<_>>().join(", "),
        });
    };
    let h = Hparams::new(c, &name, rope_override);
    let spec = (family.spec)(&h)?;
    check_activation(&h, spec.activation)?;
    Ok((family, spec))
}

/// `config.json` may name another activation than the family's.
fn check_activation(h: &Hparams, activation: Activation) -> Result<(), LoadError> {
    let name = |key| h.config().and_then(|c| c.get(key)).and_then(|v| v.as_str());
    // Gemma says what it uses in the second; the first is a leftover there.
    let Some(found) = name("hidden_activation").or_else(|| name("hidden_act")) else {
        return Ok(());
    };
    let known: &[&str] = match activation {
        Activation::Silu => &["silu", "swish"],
        Activation::GeluTanh => &["gelu_pytorch_tanh", "gelu_new", "gelu"],
    };
    if known.contains(&found) {
        return Ok(());
    }
    let what = format!("is {found:?}, expected {}", known.join(" or "));
    Err(h.invalid_named("hidden_act".into(), what))
}

/// Why a model could not be built from its checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The container is at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No family of that name.
    #[error("{file}: architecture {name} is not supported; known: {known}")]
    UnknownArchitecture {
        /// The checkpoint.
        file: PathBuf,
        /// What it says it is.
        name: String,
        /// What would work.
        known: String,
    },
    /// A hyper-parameter is missing or impossible.
    #[error("{file}: {key} {what}")]
    Hyperparameter {
        /// The checkpoint.
        file: PathBuf,
        /// As the file spells it.
        key: String,
        /// Found and expected.
        what: String,
    },
    /// A tensor is missing.
    #[error("{file}: tensor {name} is missing (expected {shape:?}, {meaning})")]
    MissingTensor {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What the dimensions mean.
        meaning: &'static str,
    },
    /// A tensor has the wrong shape.
    #[error("{file}: {name} is {found:?}, expected {expected:?} ({meaning})")]
    TensorShape {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape the hyper-parameters give.
        expected: Vec<usize>,
        /// What the dimensions mean.
        meaning: &'static str,
    },
    /// A tensor holds what it cannot hold.
    #[error("{file}: {name}: {what}")]
    Tensor {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Found and expected.
        what: String,
    },
    /// Tensors that the family does not use: the model would not be computed as it was trained.
    #[error("{file}: {count} tensors are not used by architecture {architecture}: {names}")]
    UnusedTensors {
        /// The checkpoint.
        file: PathBuf,
        /// The family.
        architecture: &'static str,
        /// How many.
        count: usize,
        /// The first few.
        names: String,
    },
    /// The backend refused.
    #[error("{0}")]
    Ops(#[from] OpsError),
}
