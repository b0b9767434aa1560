//! OLMo 2: norms after attention and MLP instead of before, and one norm over all heads of q and k.
//!
//! Source: 2 OLMo 2 Furious, section 3.2.

use super::hparams::{Hparams, key};
use super::{DecoderSpec, LoadError, NormPlacement, QkNorm};

/// OLMo 2, dense.
pub fn olmo2(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    if h.opt_u64(key::SLIDING_WINDOW)?.is_some_and(|n| n > 0) {
        // Converters write OLMo 3 under the same name.
        return Err(h.invalid(key::SLIDING_WINDOW, "is set: OLMo 3 is not supported".into()));
    }
    spec.norms = NormPlacement::Post;
    spec.qk_norm = Some(QkNorm::Full);
    Ok(spec)
}
