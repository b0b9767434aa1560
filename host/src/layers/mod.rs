//! What decoders are composed of, and the forward pass over it.
//!
//! A layer holds its weights and calls [`Ops`]; it never asks which device it runs on. Activations
//! are not allocated in a step: [`Scratch`] has room for the largest batch.

pub mod decoder;
pub mod rope;

pub use decoder::{Decoder, DecoderLayer};

use crate::ops::{
    Activation, AttendSpec, Batch, HeadShape, KvPool, Linear, Ops, OpsError, RopeLayout, RopeRows,
    Tensor, Vector,
};

/// RMS norm: weight and the constant added to the variance.
#[derive(Clone, Debug)]
pub struct Norm {
    /// [len of a normalised group].
    pub weight: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Attention weights of one layer.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct GatedMlp {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// Activations of a step, reused by every layer of a stage.
#[derive(Debug)]
pub struct Scratch {
    /// Residual stream [rows, hidden_size].
    pub x: Tensor,
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    out: Tensor,
    gate: Tensor,
    up: Tensor,
}

/// Widths of the activations, for [`Scratch`] and the memory planner.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct ScratchShape {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub q: HeadShape,
    pub kv: HeadShape,
}

impl ScratchShape {
    /// Elements of a row over all tensors.
    pub fn elements(&self) -> usize {
        3 * self.hidden_size + 2 * self.intermediate_size + 2 * self.q.width() + 2 * self.kv.width()
    }
}

impl Scratch {
    /// Room for `rows` rows.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(ops: &dyn Ops, s: &ScratchShape, rows: usize) -> Result<Self, OpsError> {
        let hidden = || ops.alloc(rows, s.hidden_size);
        Ok(Self {
            x: hidden()?,
            normed: hidden()?,
            out: hidden()?,
            q: ops.alloc(rows, s.q.width())?,
            k: ops.alloc(rows, s.kv.width())?,
            v: ops.alloc(rows, s.kv.width())?,
            attended: ops.alloc(rows, s.q.width())?,
            gate: ops.alloc(rows, s.intermediate_size)?,
            up: ops.alloc(rows, s.intermediate_size)?,
        })
    }
}

/// What attention needs besides its weights.
pub(crate) struct AttentionStep<'a> {
    /// Index of the layer in `kv`.
    pub layer: usize,
    pub spec: AttendSpec,
    pub rope: Option<(RopeLayout, &'a RopeRows)>,
    pub batch: &'a Batch,
}

impl Attention {
    /// `s.out = o(attend(q(x), k(x), v(x)))`, where x is the normed stream or the stream itself.
    pub(crate) fn forward(
        &self,
        ops: &dyn Ops,
        step: &AttentionStep,
        kv: &mut KvPool,
        from_stream: bool,
        s: &mut Scratch,
    ) -> Result<(), OpsError> {
        let Scratch { x, normed, q, k, v, attended, out, .. } = s;
        let input = if from_stream { &*x } else { &*normed };
        ops.linear(&[&self.q, &self.k, &self.v], input, &mut [q, k, v])?;
        if let Some(n) = &self.q_norm {
            ops.rms_norm_in_place(q, &n.weight, n.eps)?;
        }
        if let Some(n) = &self.k_norm {
            ops.rms_norm_in_place(k, &n.weight, n.eps)?;
        }
        if let Some((layout, rows)) = step.rope {
            let AttendSpec { q: heads, kv_heads, .. } = step.spec;
            ops.rope(q, heads, layout, rows)?;
            ops.rope(k, HeadShape { heads: kv_heads, ..heads }, layout, rows)?;
        }
        ops.kv_write(kv, step.layer, k, v, step.batch)?;
        ops.attend(q, kv, step.layer, &step.spec, step.batch, attended)?;
        ops.linear(&[&self.o], attended, &mut [out])
    }
}

impl GatedMlp {
    /// `s.out = down(act(gate(x)) · up(x))`, where x is the normed stream or the stream itself.
    pub(crate) fn forward(
        &self,
        ops: &dyn Ops,
        act: Activation,
        from_stream: bool,
        s: &mut Scratch,
    ) -> Result<(), OpsError> {
        let Scratch { x, normed, gate, up, out, .. } = s;
        let input = if from_stream { &*x } else { &*normed };
        ops.linear(&[&self.gate, &self.up], input, &mut [gate, up])?;
        ops.gated(gate, up, act)?;
        ops.linear(&[&self.down], gate, &mut [out])
    }
}
