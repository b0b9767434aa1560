//! Choosing tokens where the logits are, so that a step gives back tokens instead of logits.

use gpu_kernels::kernels::sample::SampleRow;

/// Most biases of a row that a backend chooses for: they travel with every step.
pub const MAX_BIASES: usize = 1024;

/// Sizes of the largest choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLimits {
    /// Rows at once.
    pub rows: usize,
    /// Windows that are kept, see [`Window::slot`].
    pub slots: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

/// How the token of one row is chosen.
#[derive(Clone, Copy, Debug)]
pub struct SampleRequest<'a> {
    /// The settings and the random number; the backend fills in where counts and biases lie.
    pub row: SampleRow,
    /// Added to the logits before penalties: each token once, at most [`MAX_BIASES`].
    pub biases: &'a [(u32, f32)],
    /// What changed in the window that the penalties count; `None` without penalties.
    pub window: Option<Window<'a>>,
}

impl SampleRequest<'_> {
    /// The best token of the logits as they are.
    pub const GREEDY: Self =
        SampleRequest { row: SampleRow::plain(0.0, 0.0), biases: &[], window: None };
}

/// What changed in a sequence's window of tokens since it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<'a> {
    /// The sequence's place among the counts of all; nobody else uses it meanwhile.
    pub slot: usize,
    /// Whether nothing was told before: what the slot counted is another's.
    pub fresh: bool,
    /// Tokens that came, those outside the vocabulary too.
    pub entered: &'a [u32],
    /// Tokens that went.
    pub left: &'a [u32],
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampled {
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probability in the logits as they were.
        logprob: f32,
    },
    /// The logits hold NaN or +∞, or every token is excluded.
    NoDistribution,
    /// The host has to choose, from the logits.
    NeedsHost,
}
