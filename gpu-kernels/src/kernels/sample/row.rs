//! How one row is sampled: what a host writes and a kernel reads.

use cuda_std::Global;

use super::MAX_CANDIDATES;

/// Settings of a row, with the names of the host's. Each has a value that disables it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow {
    /// 0 takes the best token.
    pub temperature: f32,
    /// The k best; 0 for all.
    pub top_k: u32,
    /// The fewest best tokens with this share; 1 for all.
    pub top_p: f32,
    /// Tokens with this share of the best one's probability; 0 for all.
    pub min_p: f32,
    /// Tokens that top-p and min-p leave at least.
    pub min_keep: u32,
    /// Divides positive logits of tokens seen and multiplies others; 1 for none.
    pub repeat_penalty: f32,
    /// Subtracted for each time seen; 0 for none.
    pub frequency_penalty: f32,
    /// Subtracted from what was seen; 0 for none.
    pub presence_penalty: f32,
    /// Slot that counts the tokens of its window, if it has penalties.
    pub counts: Option<u32>,
    /// First bias of this row.
    pub bias_start: u32,
    /// Biases of this row, of tokens that differ.
    pub bias_len: u32,
    /// Random number in [0, 1).
    pub uniform: f64,
}

/// A bias that the kernels cannot apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BiasError {
    /// A token twice: the host adds one after the other.
    Repeated(u32),
}

/// How the token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Mode {
    /// The best.
    Greedy,
    /// Among all tokens, by id.
    Whole,
    /// Among candidates, best first.
    Sorted,
}

impl SampleRow {
    /// The best token, or one drawn from the unchanged distribution for temperature 1.
    pub const fn plain(temperature: f32, uniform: f64) -> Self {
        Self {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            min_keep: 0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            counts: None,
            bias_start: 0,
            bias_len: 0,
            uniform,
        }
    }

    /// Whether the kernels can sample it from `vocab` tokens.
    pub fn supports(&self, vocab: u32) -> bool {
        let few = self.top_k <= MAX_CANDIDATES || self.top_k >= vocab;
        vocab <= super::MAX_VOCAB && few && self.min_keep <= MAX_CANDIDATES
    }

    /// Checks the biases of a row.
    ///
    /// # Errors
    /// The first token that comes twice.
    pub fn check_bias(tokens: &mut [u32]) -> Result<(), BiasError> {
        tokens.sort_unstable();
        match tokens.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(BiasError::Repeated(pair[0])),
            None => Ok(()),
        }
    }

    fn mode(&self, vocab: u32) -> Mode {
        let all = self.top_k == 0 || self.top_k >= vocab;
        if self.temperature == 0.0 {
            Mode::Greedy
        } else if all && self.top_p >= 1.0 && (self.min_p == 0.0 || self.min_keep <= 1) {
            Mode::Whole
        } else {
            Mode::Sorted
        }
    }

    /// As kernels read it. `ln_min_p` is the logarithm of `min_p` as the host's own sampler computes
    /// it, so that both draw the same line.
    pub fn words(&self, vocab: u32, ln_min_p: f32) -> [[u32; 4]; 4] {
        let top_k = if self.top_k >= vocab { 0 } else { self.top_k };
        let ln_min_p = if self.min_p > 0.0 { ln_min_p } else { f32::NEG_INFINITY };
        let uniform = self.uniform.to_bits();
        [
            [self.mode(vocab) as u32, top_k, self.min_keep, self.temperature.to_bits()],
            [self.top_p.to_bits(), ln_min_p.to_bits(), uniform as u32, (uniform >> 32) as u32],
            [
                self.repeat_penalty.to_bits(),
                self.frequency_penalty.to_bits(),
                self.presence_penalty.to_bits(),
                self.counts.unwrap_or(u32::MAX),
            ],
            [self.bias_start, self.bias_len, 0, 0],
        ]
    }
}

/// How a row is narrowed and drawn from.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub sorted: bool,
    /// 0 for all.
    pub top_k: u32,
    pub min_keep: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub ln_min_p: f32,
    pub uniform: f64,
}

/// How the logits of a row are changed.
#[derive(Clone, Copy)]
pub(super) struct Adjust {
    pub greedy: bool,
    pub repeat: f32,
    pub frequency: f32,
    pub presence: f32,
    /// `u32::MAX` for none.
    pub counts: u32,
    pub bias_start: u32,
    pub bias_len: u32,
}

impl Draw {
    /// `None` for a greedy row.
    #[inline(always)]
    pub fn load(rows: Global<[u32; 4]>, row: u32) -> Option<Self> {
        let words = rows.at(4 * row as usize);
        let [mode, top_k, min_keep, temperature] = words.get(0);
        let [top_p, ln_min_p, low, high] = words.get(1);
        (mode != Mode::Greedy as u32).then_some(Self {
            sorted: mode == Mode::Sorted as u32,
            top_k,
            min_keep,
            temperature: f32::from_bits(temperature),
            top_p: f32::from_bits(top_p),
            ln_min_p: f32::from_bits(ln_min_p),
            uniform: f64::from_bits(u64::from(high) << 32 | u64::from(low)),
        })
    }
}

impl Adjust {
    #[inline(always)]
    pub fn load(rows: Global<[u32; 4]>, row: u32) -> Self {
        let words = rows.at(4 * row as usize);
        let [repeat, frequency, presence, counts] = words.get(2);
        let [bias_start, bias_len, ..] = words.get(3);
        Self {
            greedy: words.get(0)[0] == Mode::Greedy as u32,
            repeat: f32::from_bits(repeat),
            frequency: f32::from_bits(frequency),
            presence: f32::from_bits(presence),
            counts,
            bias_start,
            bias_len,
        }
    }
    /// Whether anything changes.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.counts != u32::MAX || self.bias_len > 0
    }
    /// The logit of a token that was seen `count` times.
    #[inline(always)]
    pub fn penalised(&self, logit: f32, count: u32) -> f32 {
        if count == 0 {
            return logit;
        }
        let logit =
            if logit > 0.0 { cuda_std::math::div(logit, self.repeat) } else { logit * self.repeat };
        logit - (count as f32 * self.frequency + self.presence)
    }
}
