//! Granite 3, dense: Llama-shaped with four multipliers (maximal update parametrisation).
//!
//! Source: Granite 3.0 language models, section 3.1; the multipliers are hyper-parameters.

use super::hparams::{Hparams, key};
use super::{DecoderSpec, LoadError};
use crate::ops::RopeLayout;

/// GGUF files of this family are permuted to interleaved RoPE, as Llama's are.
pub fn granite(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    if !h.is_hf() {
        spec.ropes[0].layout = RopeLayout::Interleaved;
    }
    spec.attn_scale = h.opt_float(key::ATTN_SCALE)?.unwrap_or(spec.attn_scale);
    spec.embed_scale = h.opt_float(key::EMBED_SCALE)?.unwrap_or(1.0);
    spec.residual_scale = h.opt_float(key::RESIDUAL_SCALE)?.unwrap_or(1.0);
    let divisor = h.opt_float(key::LOGIT_SCALE)?.unwrap_or(1.0);
    if divisor == 0.0 {
        return Err(h.invalid(key::LOGIT_SCALE, "is 0, and logits are divided by it".into()));
    }
    spec.logit_scale = 1.0 / divisor;
    Ok(spec)
}
