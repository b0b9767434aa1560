//! What a forward step is about, as kernels read it: uploaded once before the step, at fixed
//! addresses, so that recorded launches find the next step there.

use cuda_std::Global;

/// Tokens in a page of the key-value cache.
pub const PAGE_SIZE: u32 = 16;

/// The rows of a step and the sequences they belong to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StepView {
    /// Token of each row.
    pub tokens: Global<u32>,
    /// Position of each row in its sequence.
    pub positions: Global<u32>,
    /// Index of each row's sequence in `spans`.
    pub row_span: Global<u32>,
    /// Of each sequence: first row, rows, context length (keys visible to its last row), index of its
    /// first page in `pages`.
    pub spans: Global<[u32; 4]>,
    /// Page numbers of all sequences.
    pub pages: Global<u32>,
    /// Rows whose logits are wanted.
    pub logit_rows: Global<u32>,
}

/// Keys and values of one layer: page `p`, head `h`, slot `s` at
/// `((p · kv_heads + h) · PAGE_SIZE + s) · head_dim`, in elements of f16 or f32.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KvView {
    /// Keys.
    pub k: cuda_std::GlobalMut<u32>,
    /// Values.
    pub v: cuda_std::GlobalMut<u32>,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
}
