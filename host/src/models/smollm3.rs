//! SmolLM3: Llama-shaped, with no position encoding on every fourth layer.
//!
//! Source: the SmolLM3 release notes ("NoPE", Yang et al. 2025).

use super::hparams::Hparams;
use super::{DecoderSpec, LoadError};
use crate::ops::RopeLayout;

/// The interval is a hyper-parameter in `config.json` and fixed at 4 in GGUF files, which are
/// permuted to interleaved RoPE.
pub fn smollm3(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    let mut spec = DecoderSpec::llama_shaped(h)?;
    if !h.is_hf() {
        spec.ropes[0].layout = RopeLayout::Interleaved;
    }
    if h.hf_bool("use_sliding_window")? == Some(true) {
        return Err(h.invalid_named("use_sliding_window".into(), "is true: not supported".into()));
    }
    for (layer, has_rope) in spec.layers.iter_mut().zip(layers_with_rope(h)?) {
        layer.rope = has_rope.then_some(0);
    }
    Ok(spec)
}

/// For each layer whether it turns q and k: `no_rope_layers` (1 = it does), else the interval.
fn layers_with_rope(h: &Hparams) -> Result<Vec<bool>, LoadError> {
    const INTERVAL: super::hparams::Key =
        super::hparams::Key { gguf: "", hf: "no_rope_layer_interval" };
    let num_layers = h.count(super::hparams::key::NUM_LAYERS)?;
    if let Some(list) = h.config().and_then(|c| c.get("no_rope_layers")).filter(|v| !v.is_null()) {
        let flags: Option<Vec<bool>> = list
            .as_array()
            .and_then(|items| items.iter().map(|v| v.as_u64().map(|n| n != 0)).collect());
        return flags.filter(|f| f.len() == num_layers).ok_or_else(|| {
            h.invalid_named(
                "no_rope_layers".into(),
                format!("is not a list of {num_layers} numbers, one a layer"),
            )
        });
    }
    let interval = h.opt_count(INTERVAL)?.unwrap_or(4);
    Ok((1..=num_layers).map(|layer| layer % interval != 0).collect())
}
