//! Logits → token: a chain of samplers in llama.cpp's order of application.

/// A request's sampling settings. The defaults sample from the unchanged distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Width of the dynamic temperature range; 0 disables it.
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
    /// Probability above which XTC removes all but the last token.
    pub xtc_threshold: f32,
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
    /// Longest repeat DRY leaves alone.
    pub dry_allowed_length: u32,
    /// Tokens DRY looks back on; 0 is all.
    pub dry_penalty_last_n: u32,
    /// Strings whose first token breaks a DRY sequence.
    pub dry_sequence_breakers: Vec<String>,
    /// 0 off, 2 Mirostat v2.
    pub mirostat: u32,
    /// Target surprise.
    pub mirostat_tau: f32,
    /// Learning rate.
    pub mirostat_eta: f32,
    /// Added to logits: (token, bias).
    pub logit_bias: Vec<(u32, f32)>,
    /// `None` draws a random one.
    pub seed: Option<u64>,
}
