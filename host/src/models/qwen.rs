//! Qwen2 and Qwen3, dense.
//!
//! Source: Qwen2 technical report, section 2.2.1 (bias on q, k, v); Qwen3 technical report,
//! section 2 (norm on each q and k head, no bias).

use super::hparams::{Hparams, key};
use super::{DecoderSpec, LoadError, QkNorm};

/// Qwen2: Llama-shaped; the biases on q, k and v come with the tensors.
pub fn qwen2(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    upper_windows(h, &mut spec)?;
    Ok(spec)
}

/// Qwen3: Qwen2 with an RMS norm on each q and k head.
pub fn qwen3(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = qwen2(h)?;
    spec.qk_norm = Some(QkNorm::PerHead);
    Ok(spec)
}

/// `use_sliding_window` puts a window on the layers from `max_window_layers` on.
fn upper_windows(h: &Hparams, spec: &mut DecoderSpec) -> Result<(), LoadError> {
    if h.hf_bool("use_sliding_window")? != Some(true) {
        return Ok(());
    }
    let window = h.opt_count(key::SLIDING_WINDOW)?;
    const FIRST: super::hparams::Key = super::hparams::Key { gguf: "", hf: "max_window_layers" };
    let first = h.opt_u64(FIRST)?.unwrap_or(28) as usize;
    for layer in spec.layers.iter_mut().skip(first) {
        layer.window = window;
    }
    Ok(())
}
