//! Llama 2 and 3, the models that share their shape (SmolLM2, DeepSeek-R1 distills), and Mistral.
//!
//! Source: Touvron et al. 2023, section 2; Grattafiori et al. 2024, section 3.2 (RoPE scaling);
//! Jiang et al. 2023, section 2 (sliding window).

use super::hparams::{Hparams, key};
use super::{DecoderSpec, LoadError};
use crate::ops::RopeLayout;

/// GGUF files of this family are permuted to interleaved RoPE; Mistral's are `llama` there too.
pub fn llama(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    if !h.is_hf() {
        spec.ropes[0].layout = RopeLayout::Interleaved;
        window_everywhere(h, &mut spec)?;
    }
    Ok(spec)
}

/// Mistral: a sliding window on every layer where the configuration sets one.
pub fn mistral(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    window_everywhere(h, &mut spec)?;
    Ok(spec)
}

/// Sets the checkpoint's sliding window on all layers; absent or 0 is none.
pub(super) fn window_everywhere(h: &Hparams, spec: &mut DecoderSpec) -> Result<(), LoadError> {
    let window = h.opt_u64(key::SLIDING_WINDOW)?.filter(|&n| n > 0).map(|n| n as usize);
    for layer in &mut spec.layers {
        layer.window = window;
    }
    Ok(())
}
