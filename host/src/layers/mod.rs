//! What decoders are composed of, and the forward pass over it.
//!
//! A layer holds its weights and calls [`Ops`]; it never asks which device it runs on. Activations
//! are not allocated in a step: [`Scratch`] has room for the largest batch.

pub mod decoder;
pub mod rope;
pub mod rope_table;

pub use decoder::{Decoder, DecoderLayer};

use crate::ops::{
    Activation, AttendSpec, AttentionInputs, HeadShape, KvPool, Linear, Norm, Operand, Ops,
    OpsError, Qkv, Rotation, Step, Tensor,
};

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
    /// What a block adds to it [rows, hidden_size].
    pub delta: Tensor,
    /// What a block reads of it [rows, hidden_size].
    pub normed: Operand,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Operand,
    gate: Tensor,
    up: Tensor,
    gated: Operand,
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
        3 * self.hidden_size + 3 * self.intermediate_size + 2 * self.q.width() + 2 * self.kv.width()
    }
}

impl Scratch {
    /// Room for `rows` rows.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(ops: &dyn Ops, s: &ScratchShape, rows: usize) -> Result<Self, OpsError> {
        Ok(Self {
            x: ops.alloc(rows, s.hidden_size)?,
            delta: ops.alloc(rows, s.hidden_size)?,
            normed: ops.alloc_operand(rows, s.hidden_size)?,
            q: ops.alloc(rows, s.q.width())?,
            k: ops.alloc(rows, s.kv.width())?,
            v: ops.alloc(rows, s.kv.width())?,
            attended: ops.alloc_operand(rows, s.q.width())?,
            gate: ops.alloc(rows, s.intermediate_size)?,
            up: ops.alloc(rows, s.intermediate_size)?,
            gated: ops.alloc_operand(rows, s.intermediate_size)?,
        })
    }
}

/// What attention needs besides its weights.
pub(crate) struct AttentionStep<'a> {
    /// Index of the layer in `kv`.
    pub layer: usize,
    pub spec: AttendSpec,
    pub rotation: Option<Rotation>,
    pub step: &'a Step<'a>,
}

impl Attention {
    /// `s.delta = o(attend(q(x), k(x), v(x)))` of `x = s.normed`.
    pub(crate) fn forward(
        &self,
        ops: &dyn Ops,
        at: &AttentionStep,
        kv: &mut KvPool,
        s: &mut Scratch,
    ) -> Result<(), OpsError> {
        let Scratch { normed, q, k, v, attended, delta, .. } = s;
        ops.linear(&[&self.q, &self.k, &self.v], normed, &mut [q, k, v])?;
        let inputs = AttentionInputs {
            q: at.spec.q,
            kv_heads: at.spec.kv_heads,
            q_norm: self.q_norm.as_ref(),
            k_norm: self.k_norm.as_ref(),
            rotation: at.rotation,
        };
        ops.attention_inputs(Qkv { q, k, v }, &inputs, kv, at.layer, at.step)?;
        ops.attend(q, kv, at.layer, &at.spec, at.step, attended)?;
        ops.linear(&[&self.o], attended, &mut [delta])
    }
}

impl GatedMlp {
    /// `s.delta = down(act(gate(x)) · up(x))` of `x = s.normed`.
    pub(crate) fn forward(
        &self,
        ops: &dyn Ops,
        act: Activation,
        s: &mut Scratch,
    ) -> Result<(), OpsError> {
        let Scratch { normed, gate, up, gated, delta, .. } = s;
        ops.linear(&[&self.gate, &self.up], normed, &mut [gate, up])?;
        ops.gated(gate, up, act, gated)?;
        ops.linear(&[&self.down], gated, &mut [delta])
    }
}
