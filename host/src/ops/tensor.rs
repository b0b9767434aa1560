//! What a backend holds: activations, weights, key-value memory. Outside it each is a shape and a
//! handle.
//!
//! A storage enum has a variant a backend; a backend takes its own out of a handle and panics when
//! given another's, which only a mistake of ours can bring about.

use std::sync::Arc;

use gpu_kernels::formats::Format;

use super::{cpu, cuda};
use crate::checkpoint::Bytes;

/// What a backend says when it is given a handle that another backend made. No file and no user can
/// cause that, only a mistake in the layers.
pub(super) const OTHER_BACKEND: &str = "an operation was given what another backend made";

/// Activations, row-major `[rows, cols]`; `rows` of at most `capacity` are in use.
#[derive(Debug)]
pub struct Tensor {
    pub(super) storage: Storage,
    pub(super) rows: usize,
    pub(super) cols: usize,
    capacity: usize,
}

/// Where a tensor's elements live.
#[derive(Debug)]
pub(super) enum Storage {
    /// F32 in host memory.
    Host(Vec<f32>),
    /// F32 in a GPU's memory.
    Cuda(cuda::DeviceTensor),
}

impl Tensor {
    /// A tensor whose storage has room for `capacity` rows, all of them in use.
    pub(super) fn new(storage: Storage, capacity: usize, cols: usize) -> Self {
        Self { storage, rows: capacity, cols, capacity }
    }
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

/// The input of matrix products, `[rows, cols]`: written by one operation and read only by
/// [`super::Ops::linear`], so a backend keeps it in whatever forms its products take.
#[derive(Debug)]
pub struct Operand {
    pub(super) storage: OperandStorage,
    pub(super) rows: usize,
    pub(super) cols: usize,
    capacity: usize,
}

/// Where an operand's elements live, and as what.
#[derive(Debug)]
pub(super) enum OperandStorage {
    /// F32 rows in host memory; the CPU makes integers of them once a product.
    Host(Vec<f32>),
    /// The forms that a GPU's products read.
    Cuda(cuda::DeviceOperand),
}

impl Operand {
    /// An operand whose storage has room for `capacity` rows, all of them in use.
    pub(super) fn new(storage: OperandStorage, capacity: usize, cols: usize) -> Self {
        Self { storage, rows: capacity, cols, capacity }
    }
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
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) storage: WeightStorage,
}

/// What reads a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// [`super::Ops::linear`].
    Products,
    /// [`super::Ops::embed`].
    Embedding,
    /// An embedding that is the matrix of the logits, too.
    Both,
}

/// Where a matrix lies.
#[derive(Clone, Debug)]
pub(super) enum WeightStorage {
    /// Blocks in the mapped file.
    Host(Bytes),
    /// Planes in a GPU's memory.
    Cuda(Arc<cuda::DeviceWeight>),
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
    pub(super) storage: VectorStorage,
    pub(super) len: usize,
}

/// Where a vector lies.
#[derive(Clone, Debug)]
pub(super) enum VectorStorage {
    /// Host memory.
    Host(Arc<[f32]>),
    /// A GPU's memory.
    Cuda(Arc<cuda::DeviceVector>),
}

/// `y = x · wᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// [out, in].
    pub weight: Weight,
    /// [out].
    pub bias: Option<Vector>,
}

/// RMS norm: `y = x · weight / sqrt(mean(x²) + eps)`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// [len of a normalised group].
    pub weight: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Heads of an attention tensor: its rows are `heads · head_dim` wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of one.
    pub head_dim: usize,
}

impl HeadShape {
    /// Width of a row.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
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

/// Keys and values of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// Their heads.
    pub heads: HeadShape,
    /// Index of its [`crate::kv::PageGroup`].
    pub group: usize,
}

/// What a KV pool must hold.
#[derive(Clone, Debug)]
pub struct KvSpec {
    /// Its layers.
    pub layers: Vec<KvLayer>,
    /// Query heads that read them.
    pub q_heads: usize,
    /// Of each group the pages, of [`crate::kv::PAGE_SIZE`] tokens.
    pub pages: Vec<usize>,
    /// Slots on the host for pages of each group ([`crate::kv::Spill`]).
    pub host_slots: usize,
    /// Element type.
    pub dtype: KvDtype,
}

/// A backend's key-value memory for some layers.
#[derive(Debug)]
pub struct KvPool {
    pub(super) storage: KvPages,
}

/// Where the pages lie.
#[derive(Debug)]
pub(super) enum KvPages {
    /// Host memory.
    Host(cpu::KvStorage),
    /// A GPU's memory.
    Cuda(cuda::DeviceKv),
}
