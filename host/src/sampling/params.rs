//! What a request can ask for, and the limits of it.

/// A request's sampling settings. The defaults sample from the unchanged distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy, unless `dynatemp_range` is set: the best token after bias, penalties and DRY, whatever the
    /// samplers that narrow the choice are set to.
    pub temperature: f32,
    /// Width of the dynamic temperature range; 0 disables it. Mirostat does not use it.
    pub dynatemp_range: f32,
    /// Exponent of the dynamic temperature.
    pub dynatemp_exponent: f32,
    /// Keep the k best; 0 disables it.
    pub top_k: u32,
    /// Keep the smallest set with this mass; 1 disables it.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0 disables it.
    pub min_p: f32,
    /// Locally typical mass; 1 disables it.
    pub typical_p: f32,
    /// Keep logits within n standard deviations of the best; ≤ 0 disables it.
    pub top_n_sigma: f32,
    /// Chance that XTC acts; 0 disables it.
    pub xtc_probability: f32,
    /// Probability above which XTC removes all but the last token; above 0.5 it never acts.
    pub xtc_threshold: f32,
    /// Tokens that top-p, typical-p, min-p and XTC leave at least, where there are as many; 0 is 1.
    pub min_keep: u32,
    /// Multiplicative penalty of seen tokens; 1 disables it.
    pub repeat_penalty: f32,
    /// Additive penalty a time seen.
    pub frequency_penalty: f32,
    /// Additive penalty once seen.
    pub presence_penalty: f32,
    /// Tokens the penalties look back on; 0 is all of them (the manual's meaning).
    pub repeat_last_n: u32,
    /// DRY penalty scale; 0 disables it.
    pub dry_multiplier: f32,
    /// DRY exponential base.
    pub dry_base: f32,
    /// Shortest repeat that DRY penalises; a shorter one is left alone.
    pub dry_allowed_length: u32,
    /// Tokens DRY looks back on; 0 is all.
    pub dry_penalty_last_n: u32,
    /// Strings that a repeat seen by DRY does not reach across.
    pub dry_sequence_breakers: Vec<String>,
    /// 0 off, 2 Mirostat v2, which stands in for every sampler that narrows the choice; bias, penalties, DRY and
    /// temperature still apply.
    pub mirostat: u32,
    /// Target surprise in bits.
    pub mirostat_tau: f32,
    /// Learning rate.
    pub mirostat_eta: f32,
    /// Added to logits: (token, bias). −∞ excludes the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// `None` draws a random one.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            min_keep: 0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 0,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// Why no token was chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A setting outside its limits.
    #[error("{field} is {found}, expected a number from {min} to {max}")]
    Range {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: f32,
        /// Smallest value.
        min: f32,
        /// Largest value.
        max: f32,
    },
    /// An unknown Mirostat version.
    #[error("mirostat is {0}, expected 0 (off) or 2 (version 2)")]
    Mirostat(u32),
    /// A bias for a token that does not exist.
    #[error("logit_bias names token {token}, expected one below {vocab_size} (the vocabulary)")]
    BiasToken {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocab_size: usize,
    },
    /// A list or string that is too long, or an empty string.
    #[error("{field} has {found} {unit}, expected {min} to {max}")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many.
        found: usize,
        /// Fewest.
        min: usize,
        /// Most.
        max: usize,
    },
    /// A NaN among the logits, or no token left to choose.
    #[error("the logits hold a NaN, or exclude every token")]
    NonFinite,
    /// Logits for another vocabulary.
    #[error("got {found} logits, expected {expected} (the vocabulary)")]
    LogitCount {
        /// Logits given.
        found: usize,
        /// Tokens there are.
        expected: usize,
    },
}

/// Most strings in `dry_sequence_breakers`.
const MAX_BREAKERS: usize = 64;
/// Most bytes in one of them.
const MAX_BREAKER_BYTES: usize = 256;

impl SamplingParams {
    /// Checks every field, used or not, against its limits.
    ///
    /// # Errors
    /// The first field outside them, by name.
    pub fn validate(&self, vocab_size: usize) -> Result<(), SamplingError> {
        for (field, found, min, max) in [
            ("temperature", self.temperature, 0.0, 100.0),
            ("dynatemp_range", self.dynatemp_range, 0.0, 100.0),
            ("dynatemp_exponent", self.dynatemp_exponent, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("top_n_sigma", self.top_n_sigma, -1e6, 1e6),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("dry_multiplier", self.dry_multiplier, 0.0, 100.0),
            ("dry_base", self.dry_base, 1.0, 100.0),
            ("mirostat_tau", self.mirostat_tau, 0.0, 100.0),
            ("mirostat_eta", self.mirostat_eta, 0.0, 10.0),
        ] {
            in_range(field, found, min, max)?;
        }
        if !matches!(self.mirostat, 0 | 2) {
            return Err(SamplingError::Mirostat(self.mirostat));
        }
        at_most("logit_bias", "entries", self.logit_bias.len(), 0, vocab_size)?;
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                return Err(SamplingError::BiasToken { token, vocab_size });
            }
            if bias != f32::NEG_INFINITY {
                in_range("logit_bias", bias, -1e6, 1e6)?;
            }
        }
        let breakers = &self.dry_sequence_breakers;
        at_most("dry_sequence_breakers", "strings", breakers.len(), 0, MAX_BREAKERS)?;
        for text in breakers {
            at_most(
                "dry_sequence_breakers",
                "bytes in a string",
                text.len(),
                1,
                MAX_BREAKER_BYTES,
            )?;
        }
        Ok(())
    }

    /// Whether the best token is always taken.
    pub fn is_greedy(&self) -> bool {
        // Mirostat does not use the range, so there it cannot lift a temperature of 0.
        self.temperature == 0.0 && (self.dynatemp_range == 0.0 || self.mirostat == 2)
    }

    /// Whether a penalty is on: repeat, frequency or presence.
    pub(super) fn penalises(&self) -> bool {
        self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Whether the choice depends on earlier tokens.
    pub(super) fn looks_back(&self) -> bool {
        self.penalises() || self.dry_multiplier > 0.0
    }
}

/// Tokens that a `last_n` setting looks back on: 0 is all.
pub(super) fn window(last_n: u32) -> usize {
    match last_n {
        0 => usize::MAX,
        n => n as usize,
    }
}

fn in_range(field: &'static str, found: f32, min: f32, max: f32) -> Result<(), SamplingError> {
    // NaN lies in no range.
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(SamplingError::Range { field, found, min, max })
    }
}

fn at_most(
    field: &'static str,
    unit: &'static str,
    found: usize,
    min: usize,
    max: usize,
) -> Result<(), SamplingError> {
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(SamplingError::Length { field, unit, found, min, max })
    }
}
