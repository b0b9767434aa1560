//! Phi-3, Phi-3.5 and Phi-4: Llama-shaped, q/k/v and gate/up in one tensor each, longrope scaling.
//!
//! Source: Phi-3 technical report, section 2; Ding et al. 2024 (LongRoPE).

use super::hparams::Hparams;
use super::{DecoderSpec, LoadError, llama};

/// The sliding window of the configuration holds on every layer, as in transformers.
pub fn phi3(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    spec.fused_qkv = true;
    spec.fused_gate_up = true;
    llama::window_everywhere(h, &mut spec)?;
    Ok(spec)
}
