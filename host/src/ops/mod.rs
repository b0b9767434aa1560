//! The operations a forward pass is made of.
//!
//! [`Ops`] is device-blind: `models/` and `layers/` call it and never ask where they run. A
//! backend owns how activations are stored; outside it a [`Tensor`] is a shape and a handle.
//! Nothing here allocates after load: tensors are made once with room for the largest batch, and
//! [`Tensor::set_rows`] says how many rows are in use.

pub mod cpu;

use gpu_kernels::formats::Format;

use crate::checkpoint::Bytes;

/// Activations, row-major `[rows, cols]`; `rows` of at most `capacity` are in use.
#[derive(Debug)]
pub struct Tensor {
    pub(crate) storage: Storage,
    rows: usize,
    cols: usize,
    capacity: usize,
}

/// Where a tensor's elements live.
#[derive(Debug)]
pub(crate) enum Storage {
    /// F32 in host memory.
    Host(Vec<f32>),
}

impl Tensor {
    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Elements in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Says how many rows the next operations work on.
    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity);
        self.rows = rows;
    }
}

/// A weight matrix `[rows, cols]` held by a backend. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: Bytes,
}

impl Weight {
    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// How its weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// A vector of F32 parameters (norm weights, biases) held by a backend. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Vector {
    pub(crate) values: std::sync::Arc<[f32]>,
}

/// `y = x · wᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// [out, in].
    pub weight: Weight,
    /// [out].
    pub bias: Option<Vector>,
}

/// Heads of an attention tensor: its rows are `heads · head_dim` wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of one.
    pub head_dim: usize,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(x[2i], x[2i+1])`: the original paper; GGUF files of the Llama family are permuted to it.
    Interleaved,
    /// `(x[i], x[i + dims/2])`: transformers, "NeoX".
    Half,
}

/// Cosines and sines of a batch: row `r`, pair `i` at `[r · pairs + i]`, already multiplied with
/// the scaling's attention factor.
#[derive(Debug, Default)]
pub struct RopeRows {
    /// Pairs that turn; a head's elements beyond `2 · pairs` pass through.
    pub pairs: usize,
    /// [rows, pairs].
    pub cos: Vec<f32>,
    /// [rows, pairs].
    pub sin: Vec<f32>,
}

/// Gate of a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// How one layer attends.
#[derive(Clone, Copy, Debug)]
pub struct AttendSpec {
    /// Query heads; `heads / kv_heads` of them share a key head, in order.
    pub q: HeadShape,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Multiplies `q · k`.
    pub scale: f32,
    /// A query at position `p` sees keys in `(p − window, p]`.
    pub window: Option<usize>,
    /// `cap · tanh(s / cap)` on the scaled scores.
    pub softcap: Option<f32>,
}

/// One sequence's rows in a batch.
#[derive(Clone, Debug)]
pub struct Span {
    /// First row in the batch.
    pub first_row: usize,
    /// Rows of this sequence, at consecutive positions.
    pub rows: usize,
    /// Keys visible to the last row, itself included: row `i` is at position
    /// `context_len − rows + i`.
    pub context_len: usize,
    /// Length by which length-dependent RoPE scalings choose: the whole prompt while it is being
    /// prefilled (in however many chunks), the context length afterwards.
    pub rope_len: usize,
    /// Pages that hold the sequence, in order; page `p` holds positions `[16p, 16p + 16)`.
    pub pages: Vec<u32>,
}

/// The tokens of one forward step, of one or more sequences.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// A token a row.
    pub tokens: Vec<u32>,
    /// The sequences, covering all rows in order.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<usize>,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// IEEE half: the default.
    F16,
    /// Exact mode.
    F32,
}

impl KvDtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            KvDtype::F16 => 2,
            KvDtype::F32 => 4,
        }
    }
}

/// What a KV pool must hold.
#[derive(Clone, Debug)]
pub struct KvSpec {
    /// Heads of each layer's keys and values.
    pub layers: Vec<HeadShape>,
    /// Pages of [`crate::kv::PAGE_SIZE`] tokens, the same for all layers.
    pub pages: usize,
    /// Element type.
    pub dtype: KvDtype,
}

/// A backend's key-value memory for some layers.
#[derive(Debug)]
pub struct KvPool {
    pub(crate) storage: cpu::KvStorage,
}

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
    /// The device reported a fault.
    #[error("{0}")]
    Device(String),
}

/// A backend. Shapes are checked by assertion: only our own bug can get them wrong, since what a
/// file or a request says was checked when it was loaded or accepted.
pub trait Ops: Send + Sync {
    /// Name for reports, such as `CPU (2 threads, AVX-512)`.
    fn name(&self) -> String;

    /// Makes an activation tensor with room for `capacity` rows.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn alloc(&self, capacity: usize, cols: usize) -> Result<Tensor, OpsError>;
    /// Takes a weight matrix; on the CPU it stays where it is.
    ///
    /// # Errors
    /// `OutOfMemory`, `Device`.
    fn weight(
        &self,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Weight, OpsError>;
    /// Takes a parameter vector.
    ///
    /// # Errors
    /// `OutOfMemory`, `Device`.
    fn vector(&self, values: Vec<f32>) -> Result<Vector, OpsError>;
    /// Makes key-value memory.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn kv_pool(&self, spec: &KvSpec) -> Result<KvPool, OpsError>;

    /// `out[r] = table[tokens[r]] · scale`. Sets `out`'s rows.
    fn embed(
        &self,
        table: &Weight,
        tokens: &[u32],
        scale: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError>;
    /// RMS norm of groups of `weight.len()` elements, so of whole rows or of each head:
    /// `out = x · w / sqrt(mean(x²) + eps)`. Sets `out`'s rows.
    fn rms_norm(
        &self,
        x: &Tensor,
        weight: &Vector,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError>;
    /// The same in place.
    fn rms_norm_in_place(&self, x: &mut Tensor, weight: &Vector, eps: f32) -> Result<(), OpsError>;
    /// `ys[i] = x · ws[i]ᵀ + bias`: several matrices that read the same input. Sets the rows.
    fn linear(&self, ws: &[&Linear], x: &Tensor, ys: &mut [&mut Tensor]) -> Result<(), OpsError>;
    /// Turns each head in place.
    fn rope(
        &self,
        x: &mut Tensor,
        heads: HeadShape,
        layout: RopeLayout,
        rows: &RopeRows,
    ) -> Result<(), OpsError>;
    /// Stores the keys and values of a batch in the pages of its sequences.
    fn kv_write(
        &self,
        pool: &mut KvPool,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        batch: &Batch,
    ) -> Result<(), OpsError>;
    /// Causal attention over the pages of each sequence, `out` [rows, heads · head_dim].
    fn attend(
        &self,
        q: &Tensor,
        pool: &KvPool,
        layer: usize,
        spec: &AttendSpec,
        batch: &Batch,
        out: &mut Tensor,
    ) -> Result<(), OpsError>;
    /// `gate = act(gate) · up`.
    fn gated(&self, gate: &mut Tensor, up: &Tensor, act: Activation) -> Result<(), OpsError>;
    /// `x += y · scale`.
    fn add(&self, x: &mut Tensor, y: &Tensor, scale: f32) -> Result<(), OpsError>;
    /// `out[i] = x[rows[i]]`. Sets `out`'s rows.
    fn gather(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) -> Result<(), OpsError>;
    /// `x = cap · tanh(x · scale / cap)`, or `x · scale` without a cap.
    fn scale_cap(&self, x: &mut Tensor, scale: f32, cap: Option<f32>) -> Result<(), OpsError>;
    /// Copies the rows in use to the host, `[rows · cols]`.
    fn read(&self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), OpsError>;
    /// Copies rows from the host; sets the rows.
    fn write(&self, x: &mut Tensor, rows: usize, values: &[f32]) -> Result<(), OpsError>;
}
