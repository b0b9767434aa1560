//! From named tensors to handles a backend multiplies with.
//!
//! [`Loader`] takes each tensor once, checks its shape against the
//! hyper-parameters, and hands it to the layer's backend. What no layer took is an error: a tensor
//! left over means that the model would not be computed as it was trained.

pub mod names;
mod sizes;

use std::cell::RefCell;
use std::collections::HashSet;

use gpu_kernels::formats::Format;

use crate::checkpoint::{Bytes, Checkpoint, Metadata};
use crate::engine::LoadProgress;
use crate::layers::{Attention, DecoderLayer, GatedMlp};
use crate::models::{DecoderSpec, LoadError, NormPlacement, QkNorm};
use crate::ops::{HeadShape, Linear, Norm, Ops, Vector, Weight, WeightUse};
use names::{Names, Role};
pub use sizes::weight_bytes;

/// Longest vector that is not a layer's: RoPE factors.
const MAX_SMALL: usize = 1 << 16;

/// Takes tensors out of one checkpoint.
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a DecoderSpec,
    names: Names,
    taken: RefCell<HashSet<String>>,
    progress: RefCell<Progress<'a>>,
}

struct Progress<'a> {
    sink: &'a mut dyn LoadProgress,
    done: u64,
    total: u64,
}

impl<'a> Loader<'a> {
    /// A loader that reports to `sink`.
    pub fn new(
        checkpoint: &'a Checkpoint,
        spec: &'a DecoderSpec,
        sink: &'a mut dyn LoadProgress,
    ) -> Self {
        let total = checkpoint.tensors().iter().map(|t| t.bytes as u64).sum();
        Self {
            checkpoint,
            spec,
            names: Names::of(checkpoint, spec.norms),
            taken: RefCell::default(),
            progress: RefCell::new(Progress { sink, done: 0, total }),
        }
    }

    /// The token embedding; `has_head` where its backend computes the logits, too.
    ///
    /// # Errors
    /// Missing, or of the wrong shape.
    pub fn embedding(&self, ops: &dyn Ops, has_head: bool) -> Result<Weight, LoadError> {
        let usage = match has_head && is_tied(self.checkpoint, &self.names)? {
            true => WeightUse::Both,
            false => WeightUse::Embedding,
        };
        self.embedding_as(ops, usage)
    }

    fn embedding_as(&self, ops: &dyn Ops, usage: WeightUse) -> Result<Weight, LoadError> {
        let shape = [self.spec.vocab_size, self.spec.hidden_size];
        let name = self.names.global(Role::Embed, "weight");
        self.matrix(ops, usage, name, shape, "vocab_size, hidden_size")
    }

    /// The matrix of the logits: its own, or the embedding where the two are tied: shared if this
    /// backend has it, else taken again.
    ///
    /// # Errors
    /// Of the wrong shape.
    pub fn lm_head(&self, ops: &dyn Ops, embedding: Option<&Weight>) -> Result<Linear, LoadError> {
        let name = self.names.global(Role::LmHead, "weight");
        let shape = [self.spec.vocab_size, self.spec.hidden_size];
        let weight = match embedding {
            _ if !is_tied(self.checkpoint, &self.names)? => {
                self.matrix(ops, WeightUse::Products, name, shape, "vocab_size, hidden_size")?
            }
            Some(embedding) => embedding.clone(),
            None => self.embedding_as(ops, WeightUse::Products)?,
        };
        let bias = self.bias(ops, self.names.global(Role::LmHead, "bias"), self.spec.vocab_size)?;
        Ok(Linear { weight, bias })
    }

    /// The weight of the norm before the logits.
    ///
    /// # Errors
    /// Missing, or of the wrong length.
    pub fn final_norm(&self) -> Result<Vec<f32>, LoadError> {
        let name = self.names.global(Role::FinalNorm, "weight");
        self.norm_weight(&name, self.spec.hidden_size, "hidden_size")
    }

    /// One layer.
    ///
    /// # Errors
    /// A tensor missing, or of the wrong shape, by name.
    pub fn layer(&self, ops: &dyn Ops, layer: usize) -> Result<DecoderLayer, LoadError> {
        let hidden = self.spec.hidden_size;
        let norm = |role, wanted: bool| {
            let name = self.names.layer(layer, role, "weight");
            wanted.then(|| self.norm(ops, name, hidden, "hidden_size")).transpose()
        };
        let before = self.spec.norms != NormPlacement::Post;
        let after = self.spec.norms != NormPlacement::Pre;
        Ok(DecoderLayer {
            attn_norm: norm(Role::AttnNorm, before)?,
            attention: self.attention(ops, layer)?,
            post_attn_norm: norm(Role::PostAttnNorm, after)?,
            ffn_norm: norm(Role::FfnNorm, before)?,
            ffn: self.gated_mlp(ops, layer)?,
            post_ffn_norm: norm(Role::PostFfnNorm, after)?,
        })
    }

    fn attention(&self, ops: &dyn Ops, layer: usize) -> Result<Attention, LoadError> {
        let HeadShape { heads, head_dim } = self.spec.heads;
        let hidden = self.spec.hidden_size;
        let (q_rows, kv_rows) = (heads * head_dim, self.spec.kv_heads * head_dim);
        let (q, k, v) = if self.spec.fused_qkv {
            let [q, k, v] = self.fused(ops, layer, Role::Qkv, [q_rows, kv_rows, kv_rows])?;
            (q, k, v)
        } else {
            let q = self.linear(
                ops,
                layer,
                Role::Q,
                q_rows,
                hidden,
                "num_heads · head_dim, hidden_size",
            )?;
            let kv = |role| {
                self.linear(
                    ops,
                    layer,
                    role,
                    kv_rows,
                    hidden,
                    "num_kv_heads · head_dim, hidden_size",
                )
            };
            (q, kv(Role::K)?, kv(Role::V)?)
        };
        let qk_norm = |role, rows: usize| {
            let len = match self.spec.qk_norm {
                None => return Ok(None),
                Some(QkNorm::PerHead) => head_dim,
                Some(QkNorm::Full) => rows,
            };
            let name = self.names.layer(layer, role, "weight");
            self.norm(ops, name, len, "width of a normalised group").map(Some)
        };
        Ok(Attention {
            q,
            k,
            v,
            o: self.linear(
                ops,
                layer,
                Role::O,
                hidden,
                q_rows,
                "hidden_size, num_heads · head_dim",
            )?,
            q_norm: qk_norm(Role::QNorm, q_rows)?,
            k_norm: qk_norm(Role::KNorm, kv_rows)?,
        })
    }

    fn gated_mlp(&self, ops: &dyn Ops, layer: usize) -> Result<GatedMlp, LoadError> {
        let (hidden, inner) = (self.spec.hidden_size, self.spec.intermediate_size);
        let [gate, up] = if self.spec.fused_gate_up {
            self.fused(ops, layer, Role::GateUp, [inner, inner])?
        } else {
            let one = |role| {
                self.linear(ops, layer, role, inner, hidden, "intermediate_size, hidden_size")
            };
            [one(Role::Gate)?, one(Role::Up)?]
        };
        let down =
            self.linear(ops, layer, Role::Down, hidden, inner, "hidden_size, intermediate_size")?;
        Ok(GatedMlp { gate, up, down })
    }

    fn linear(
        &self,
        ops: &dyn Ops,
        layer: usize,
        role: Role,
        rows: usize,
        cols: usize,
        meaning: &'static str,
    ) -> Result<Linear, LoadError> {
        let name = self.names.layer(layer, role, "weight");
        let weight = self.matrix(ops, WeightUse::Products, name, [rows, cols], meaning)?;
        let bias = self.bias(ops, self.names.layer(layer, role, "bias"), rows)?;
        Ok(Linear { weight, bias })
    }

    /// One tensor that stacks several matrices: each gets its rows of it, nothing is copied.
    fn fused<const N: usize>(
        &self,
        ops: &dyn Ops,
        layer: usize,
        role: Role,
        parts: [usize; N],
    ) -> Result<[Linear; N], LoadError> {
        let cols = self.spec.hidden_size;
        let rows: usize = parts.iter().sum();
        let name = self.names.layer(layer, role, "weight");
        let (format, bytes) =
            self.take(&name, &[rows, cols], "rows of all fused matrices, hidden_size")?;
        let row_bytes = self.row_bytes(&name, format, cols)?;
        let bias = self.values(&self.names.layer(layer, role, "bias"), rows)?;
        let mut first = 0;
        let mut linears = Vec::with_capacity(N);
        for rows in parts {
            let range = first * row_bytes..(first + rows) * row_bytes;
            let bias = bias.as_ref().map(|b| ops.vector(b[first..first + rows].to_vec()));
            let weight = ops.weight(WeightUse::Products, format, rows, cols, bytes.slice(range))?;
            linears.push(Linear { weight, bias: bias.transpose()? });
            first += rows;
        }
        Ok(linears.try_into().expect("one linear was pushed for each part"))
    }

    fn matrix(
        &self,
        ops: &dyn Ops,
        usage: WeightUse,
        name: String,
        shape: [usize; 2],
        meaning: &'static str,
    ) -> Result<Weight, LoadError> {
        let (format, bytes) = self.take(&name, &shape, meaning)?;
        self.row_bytes(&name, format, shape[1])?;
        Ok(ops.weight(usage, format, shape[0], shape[1], bytes)?)
    }

    fn row_bytes(&self, name: &str, format: Format, cols: usize) -> Result<usize, LoadError> {
        format.row_bytes(cols).ok_or_else(|| LoadError::Tensor {
            file: self.checkpoint.path().into(),
            name: name.into(),
            what: format!(
                "rows of {cols} are not whole {} blocks of {}",
                format.name(),
                format.block_len()
            ),
        })
    }

    fn norm(
        &self,
        ops: &dyn Ops,
        name: String,
        len: usize,
        meaning: &'static str,
    ) -> Result<Norm, LoadError> {
        let weight = ops.vector(self.norm_weight(&name, len, meaning)?)?;
        Ok(Norm { weight, eps: self.spec.norm_eps })
    }

    fn norm_weight(
        &self,
        name: &str,
        len: usize,
        meaning: &'static str,
    ) -> Result<Vec<f32>, LoadError> {
        let (format, bytes) = self.take(name, &[len], meaning)?;
        let mut values = decode(format, &bytes, len);
        for v in &mut values {
            *v += self.spec.norm_weight_offset;
        }
        Ok(values)
    }

    fn bias(&self, ops: &dyn Ops, name: String, len: usize) -> Result<Option<Vector>, LoadError> {
        Ok(self.values(&name, len)?.map(|values| ops.vector(values)).transpose()?)
    }

    /// A vector that may be absent.
    fn values(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, LoadError> {
        if self.checkpoint.tensor(name).is_none() {
            return Ok(None);
        }
        let (format, bytes) = self.take(name, &[len], "output features")?;
        Ok(Some(decode(format, &bytes, len)))
    }

    fn take(
        &self,
        name: &str,
        shape: &[usize],
        meaning: &'static str,
    ) -> Result<(Format, Bytes), LoadError> {
        let file = || self.checkpoint.path().to_path_buf();
        let Some(tensor) = self.checkpoint.tensor(name) else {
            if self.checkpoint.others().iter().any(|t| t.name == name) {
                self.checkpoint.require(name)?; // names the type that weights cannot have
            }
            let shape = shape.to_vec();
            return Err(LoadError::MissingTensor {
                file: file(),
                name: name.into(),
                shape,
                meaning,
            });
        };
        if !same_shape(&tensor.shape, shape) {
            return Err(LoadError::TensorShape {
                file: file(),
                name: name.into(),
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
                meaning,
            });
        }
        let progress = &mut *self.progress.borrow_mut();
        if self.taken.borrow_mut().insert(name.to_owned()) {
            progress.done += tensor.bytes as u64;
        }
        progress.sink.tensor(name, progress.done, progress.total);
        Ok((tensor.format, self.checkpoint.bytes(tensor)))
    }

    /// Fails when a tensor of the checkpoint was not taken.
    ///
    /// # Errors
    /// `UnusedTensors`, with the first few names.
    pub fn finish(self, architecture: &'static str) -> Result<(), LoadError> {
        let taken = self.taken.into_inner();
        let unused: Vec<&str> = self
            .checkpoint
            .tensors()
            .iter()
            .map(|t| t.name.as_str())
            .chain(self.checkpoint.others().iter().map(|t| t.name.as_str()))
            .filter(|name| !taken.contains(*name) && !is_derived(name))
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        let shown = unused.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        let names = if unused.len() > 5 { format!("{shown}, …") } else { shown };
        Err(LoadError::UnusedTensors {
            file: self.checkpoint.path().into(),
            architecture,
            count: unused.len(),
            names,
        })
    }
}

/// Whether the embedding is the matrix of the logits, too.
fn is_tied(c: &Checkpoint, names: &Names) -> Result<bool, LoadError> {
    let untied = match c.metadata() {
        Metadata::HuggingFace(m) => m.bool("tie_word_embeddings")? == Some(false),
        Metadata::Gguf(_) => false,
    };
    Ok(!untied && c.tensor(&names.global(Role::LmHead, "weight")).is_none())
}

/// Tensors that repeat what hyper-parameters say (old checkpoints store RoPE's frequencies), or
/// that were read with them.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || matches!(
            name,
            "rope_freqs.weight" | "rope_factors_short.weight" | "rope_factors_long.weight"
        )
}

/// GGUF drops leading dimensions of 1, so a vector may be stored as a matrix of one row.
fn same_shape(found: &[usize], expected: &[usize]) -> bool {
    let strip = |s: &[usize]| s.iter().copied().skip_while(|&d| d == 1).collect::<Vec<_>>();
    found == expected || strip(found) == strip(expected)
}

fn decode(format: Format, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    format.decode(bytes, &mut values);
    values
}

/// A small vector outside the layers, such as RoPE factors; `None` when absent.
///
/// # Errors
/// When it is not a vector of modest length.
pub fn small_f32(c: &Checkpoint, name: &str) -> Result<Option<Vec<f32>>, LoadError> {
    let Some(tensor) = c.tensor(name) else { return Ok(None) };
    match tensor.shape.as_slice() {
        &[len] if (1..=MAX_SMALL).contains(&len) => {
            let format = tensor.format;
            Ok(Some(decode(format, &c.bytes(tensor), len)))
        }
        shape => Err(LoadError::Tensor {
            file: c.path().into(),
            name: name.into(),
            what: format!("is {shape:?}, expected a vector of at most {MAX_SMALL}"),
        }),
    }
}
