//! What a forward step is told: its batch, and how each operation treats it.

use super::{HeadShape, Norm, Tensor};
use crate::kv::PageMove;

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
    /// For each [`crate::kv::PageGroup`] the pages that hold the sequence, in order, as many in each:
    /// page `p` holds positions `[16p, 16p + 16)`. Those before a group's window may be anybody's.
    pub pages: Vec<Vec<u32>>,
}

impl Span {
    /// Pages of each group.
    pub fn page_count(&self) -> usize {
        self.pages.first().map_or(0, Vec::len)
    }
}

/// The tokens of one forward step, of one or more sequences.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// A token a row.
    pub tokens: Vec<u32>,
    /// The sequences, covering all rows in order.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, strictly ascending.
    pub logit_rows: Vec<usize>,
    /// Pages to copy, in order, before anything is computed.
    pub moves: Vec<PageMove>,
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

/// All that differs between two steps of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Tokens, pages, and which rows' logits are wanted.
    pub batch: &'a Batch,
    /// The rotations of the batch, one for each RoPE of the model.
    pub ropes: &'a [RopeRows],
}

/// Sizes of the largest step, or of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Rows.
    pub rows: usize,
    /// Rows whose logits are wanted.
    pub logit_rows: usize,
    /// Sequences.
    pub spans: usize,
    /// Pages of all sequences in one group, each counted as often as it occurs.
    pub pages: usize,
    /// Groups of pages.
    pub groups: usize,
    /// Pairs of each RoPE.
    pub pairs: Vec<usize>,
}

/// The shape of a stage's step: with the same key come the same operations on the same tensors
/// with the same row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepKey {
    /// Index of the stage.
    pub stage: usize,
    /// Rows of the batch.
    pub rows: usize,
    /// Rows whose logits are wanted.
    pub logit_rows: usize,
    /// Sequences of the batch.
    pub spans: usize,
    /// Whether every sequence has one row.
    pub decode: bool,
}

impl StepKey {
    /// The key of `batch` on a stage.
    pub fn new(stage: usize, batch: &Batch) -> Self {
        Self {
            stage,
            rows: batch.tokens.len(),
            logit_rows: batch.logit_rows.len(),
            spans: batch.spans.len(),
            decode: batch.spans.iter().all(|span| span.rows == 1),
        }
    }
}

/// What an operation adds to the residual stream: `d · scale`, where d is `y`, or `y` normed.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// [rows, hidden_size].
    pub y: &'a Tensor,
    /// Norm of whole rows of `y`.
    pub post_norm: Option<&'a Norm>,
    /// Multiplies what is added.
    pub scale: f32,
}

/// Rows of a step.
#[derive(Clone, Copy, Debug)]
pub enum Select<'a> {
    /// All of them.
    All,
    /// Those whose logits are wanted.
    LogitRows(&'a Step<'a>),
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(x[2i], x[2i+1])`: the original paper; GGUF files of the Llama family are permuted to it.
    Interleaved,
    /// `(x[i], x[i + dims/2])`: transformers, "NeoX".
    Half,
}

/// How one layer rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Which elements turn together.
    pub layout: RopeLayout,
    /// Index in [`Step::ropes`].
    pub rope: usize,
}

/// The projections of a layer, rows of whole heads.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Qkv<'a> {
    pub q: &'a mut Tensor,
    pub k: &'a mut Tensor,
    pub v: &'a Tensor,
}

/// What happens to queries and keys before one layer attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// Query heads.
    pub q: HeadShape,
    /// Key and value heads, as wide as the query heads.
    pub kv_heads: usize,
    /// Norm of the queries in groups of its length: of each head, or of whole rows.
    pub q_norm: Option<&'a Norm>,
    /// The same of the keys.
    pub k_norm: Option<&'a Norm>,
    /// How they turn afterwards.
    pub rotation: Option<Rotation>,
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

/// Gate of a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}
