//! The operations a forward pass is made of.
//!
//! [`Ops`] is device-blind: `models/` and `layers/` call it and never ask where they run. Each
//! operation is one thing that a GPU does in one launch; a backend owns how activations are stored.
//! Nothing here allocates after load: tensors are made once with room for the largest batch, and
//! `set_rows` says how many rows are in use.
//!
//! ```text
//! begin(step)   what differs between steps: tokens, pages, rotations
//! replay(key)   embed ─▶ residual_norm ─▶ linear ─▶ attention_inputs ─▶ attend ─▶ linear ─▶ …
//! ```

pub mod cpu;
pub mod cuda;
mod sample;
mod step;
mod tensor;

use std::ops::Range;

use gpu_kernels::formats::Format;

pub use self::sample::{MAX_BIASES, SampleLimits, SampleRequest, Sampled, Window};
pub use self::step::{
    Activation, AttendSpec, AttentionInputs, Batch, Delta, Qkv, RopeLayout, RopeRows, Rotation,
    Select, Span, Step, StepKey, StepLimits,
};
pub use self::tensor::{
    HeadShape, KvDtype, KvLayer, KvPool, KvSpec, Linear, Norm, Operand, Tensor, Vector, Weight,
    WeightUse,
};
use self::tensor::{KvPages, OTHER_BACKEND, OperandStorage, Storage, VectorStorage, WeightStorage};
use crate::checkpoint::Bytes;
use crate::kv::PageMove;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// Memory could not be had.
    #[error("{what}: {bytes} bytes could not be allocated")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// A GPU's memory could not be had: how much, and how much is free.
    #[error("{0}; try fewer --gpu-layers or a smaller --max-seq-len")]
    DeviceOutOfMemory(String),
    /// The device reported a fault.
    #[error("{0}")]
    Device(String),
}

/// A backend. Shapes are checked by assertion: only our own bug can get them wrong, since what a
/// file or a request says was checked when it was loaded or accepted. Operations set the rows of
/// what they write.
///
/// # Errors
/// Operations report `Device`; whatever makes something reports `OutOfMemory` too.
pub trait Ops: Send + Sync {
    /// Name for reports, such as `CPU (2 threads, AVX-512)`.
    fn name(&self) -> String;

    /// Makes an activation tensor with room for `capacity` rows.
    fn alloc(&self, capacity: usize, cols: usize) -> Result<Tensor, OpsError>;
    /// Makes an input of products with room for `capacity` rows.
    fn alloc_operand(&self, capacity: usize, cols: usize) -> Result<Operand, OpsError>;
    /// Takes a weight matrix; on the CPU it stays where it is.
    fn weight(
        &self,
        usage: WeightUse,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Weight, OpsError>;
    /// Takes a parameter vector.
    fn vector(&self, values: Vec<f32>) -> Result<Vector, OpsError>;
    /// Makes key-value memory.
    fn kv_pool(&self, spec: &KvSpec) -> Result<KvPool, OpsError>;

    /// Copies pages in all layers of their groups, in order; what was issued before sees the pages
    /// as they were, what is issued afterwards as they are then.
    fn move_pages(&self, pool: &mut KvPool, moves: &[PageMove]) -> Result<(), OpsError>;

    /// Makes room for what [`Ops::begin`] takes of steps within `limits`.
    fn reserve(&self, limits: &StepLimits) -> Result<(), OpsError>;
    /// Takes what the operations of a step read beside tensors: a GPU copies tokens, pages,
    /// positions and rotations to buffers that do not move. Called before the step's operations,
    /// which are then given the same `step`.
    fn begin(&self, step: &Step) -> Result<(), OpsError>;
    /// Runs the operations that `body` issues on this backend, by calling it, or by repeating what
    /// it issued when it was last called with the same key and nothing was allocated since: only
    /// what [`Ops::begin`] took differs then. `body` reads nothing back and its row counts follow
    /// from the key; a caller that reads a tensor afterwards sets its rows, as `body` may not run.
    fn replay(
        &self,
        _key: StepKey,
        body: &mut dyn FnMut() -> Result<(), OpsError>,
    ) -> Result<(), OpsError> {
        body()
    }

    /// `out[r] = table[tokens[r]] · scale` for the tokens of the step.
    fn embed(
        &self,
        table: &Weight,
        step: &Step,
        scale: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError>;
    /// `x += delta`, then `out = norm(x)`, or `x` itself without a norm, over whole rows; `out` has
    /// the rows selected. Of `x` the other rows are undefined afterwards.
    fn residual_norm(
        &self,
        x: &mut Tensor,
        delta: Option<Delta>,
        norm: Option<&Norm>,
        select: Select,
        out: &mut Operand,
    ) -> Result<(), OpsError>;
    /// `x += delta`.
    fn add(&self, x: &mut Tensor, delta: Delta) -> Result<(), OpsError>;
    /// `ys[i] = x · ws[i]ᵀ + bias`: several matrices that read the same input.
    fn linear(&self, ws: &[&Linear], x: &Operand, ys: &mut [&mut Tensor]) -> Result<(), OpsError>;
    /// Norms and rotates queries and keys in place, and stores keys and values in the pages of
    /// their sequences, as layer `layer` of `pool`. Keys are undefined afterwards.
    fn attention_inputs(
        &self,
        qkv: Qkv,
        spec: &AttentionInputs,
        pool: &mut KvPool,
        layer: usize,
        step: &Step,
    ) -> Result<(), OpsError>;
    /// Causal attention over the pages of each sequence, `out` [rows, heads · head_dim].
    fn attend(
        &self,
        q: &Tensor,
        pool: &KvPool,
        layer: usize,
        spec: &AttendSpec,
        step: &Step,
        out: &mut Operand,
    ) -> Result<(), OpsError>;
    /// `out = act(gate) · up`.
    fn gated(
        &self,
        gate: &Tensor,
        up: &Tensor,
        act: Activation,
        out: &mut Operand,
    ) -> Result<(), OpsError>;
    /// `x = cap · tanh(x · scale / cap)`, or `x · scale` without a cap.
    fn scale_cap(&self, x: &mut Tensor, scale: f32, cap: Option<f32>) -> Result<(), OpsError>;

    /// Makes room for [`Ops::sample`]. False where there is no such thing, and the host chooses.
    fn reserve_sampling(&self, _limits: &SampleLimits) -> Result<bool, OpsError> {
        Ok(false)
    }
    /// Chooses the token after each row of `logits`, within the limits reserved, and waits for it:
    /// `out[r]` is what [`crate::sampling::Sampler::sample`] gives for the settings of
    /// `requests[r]`.
    fn sample(
        &self,
        _logits: &Tensor,
        _requests: &[SampleRequest],
        _out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        panic!("{} chooses no tokens", self.name())
    }

    /// Copies the rows in use to the host, `[rows · cols]`.
    fn read(&self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), OpsError> {
        self.read_rows(x, 0..x.rows(), out)
    }
    /// Copies some of the rows in use to the host, `[rows · cols]`.
    fn read_rows(&self, x: &Tensor, rows: Range<usize>, out: &mut Vec<f32>)
    -> Result<(), OpsError>;
    /// Copies rows from the host.
    fn write(&self, x: &mut Tensor, rows: usize, values: &[f32]) -> Result<(), OpsError>;
}
