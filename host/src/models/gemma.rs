//! Gemma 2 and Gemma 3 (text): sandwich norms, GELU, scaled embeddings, local and global layers.
//!
//! Source: Gemma 2 report, section 2 (soft caps, alternating windows); Gemma 3 report, section 2
//! (five local layers to a global one, a RoPE base for each kind, norm on q and k).

use super::hparams::{Hparams, Key, key};
use super::{DecoderSpec, LayerSpec, LoadError, NormPlacement, QkNorm};
use crate::ops::Activation;

/// Gemma 2: every other layer is local, starting with the first; soft caps on scores and logits.
pub fn gemma2(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    // The 27B model scales by hidden_size / num_heads; GGUF files do not say so.
    const LAYERS_27B: usize = 46;
    let mut spec = gemma(h, LAYERS_27B)?;
    // The first GGUF files left these keys out; every Gemma 2 has the same values.
    let absent = |value: f32| (!h.is_hf()).then_some(value);
    spec.attn_softcap = cap(h, key::ATTN_SOFTCAP)?.or(absent(50.0));
    spec.logit_softcap = cap(h, key::LOGIT_SOFTCAP)?.or(absent(30.0));
    set_windows(h, &mut spec, 2, absent(4096.0).map(|n| n as usize))?;
    Ok(spec)
}

/// Gemma 3: five local layers to a global one, each kind with its own RoPE.
pub fn gemma3(h: &Hparams) -> Result<DecoderSpec, LoadError> {
    const LAYERS_27B: usize = 62;
    let mut spec = gemma(h, LAYERS_27B)?;
    spec.qk_norm = Some(QkNorm::PerHead);
    spec.attn_softcap = cap(h, key::ATTN_SOFTCAP)?;
    spec.logit_softcap = cap(h, key::LOGIT_SOFTCAP)?;
    spec.ropes.push(super::rope::read_local(h, spec.heads.head_dim, spec.context_len)?);
    set_windows(h, &mut spec, 6, None)?;
    if spec.layers.iter().all(|layer| layer.window.is_none()) {
        return Err(h.invalid(key::SLIDING_WINDOW, "is missing".into()));
    }
    for layer in &mut spec.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(spec)
}

/// A soft cap; one of 0 would make everything 0.
fn cap(h: &Hparams, key: Key) -> Result<Option<f32>, LoadError> {
    match h.opt_float(key)? {
        Some(c) if c <= 0.0 => Err(h.invalid(key, format!("is {c}, expected above 0"))),
        c => Ok(c),
    }
}

fn gemma(h: &Hparams, layers_27b: usize) -> Result<DecoderSpec, LoadError> {
    const QUERY_SCALE: Key = Key { gguf: "", hf: "query_pre_attn_scalar" };
    let mut spec = DecoderSpec::llama_shaped(h)?;
    spec.activation = Activation::GeluTanh;
    spec.norms = NormPlacement::Sandwich;
    // transformers stores w and multiplies by 1 + w; GGUF files hold the sum.
    spec.norm_weight_offset = if h.is_hf() { 1.0 } else { 0.0 };
    spec.embed_scale = (spec.hidden_size as f32).sqrt();
    let default = if spec.layers.len() == layers_27b && !h.is_hf() {
        spec.hidden_size as f32 / spec.heads.heads as f32
    } else {
        spec.heads.head_dim as f32
    };
    let query_scale = h.opt_float(QUERY_SCALE)?.unwrap_or(default);
    if query_scale <= 0.0 {
        return Err(h.invalid(QUERY_SCALE, format!("is {query_scale}, expected above 0")));
    }
    spec.attn_scale = 1.0 / query_scale.sqrt();
    Ok(spec)
}

/// Windows on the local layers: `layer_types` where given, else all but each `pattern`-th.
/// `absent` stands in for a missing window.
fn set_windows(
    h: &Hparams,
    spec: &mut DecoderSpec,
    pattern: usize,
    absent: Option<usize>,
) -> Result<(), LoadError> {
    const PATTERN: Key =
        Key { gguf: "attention.sliding_window_pattern", hf: "sliding_window_pattern" };
    let Some(window) = h.opt_count(key::SLIDING_WINDOW)?.or(absent) else {
        return Ok(());
    };
    if let Some(types) = h.config().and_then(|c| c.get("layer_types")).filter(|v| !v.is_null()) {
        return set_windows_by_type(h, &mut spec.layers, types, window);
    }
    let pattern = h.opt_count(PATTERN)?.unwrap_or(pattern);
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.window = ((i + 1) % pattern != 0).then_some(window);
    }
    Ok(())
}

fn set_windows_by_type(
    h: &Hparams,
    layers: &mut [LayerSpec],
    types: &serde_json::Value,
    window: usize,
) -> Result<(), LoadError> {
    let wrong = |what: String| h.invalid_named("layer_types".into(), what);
    let types = types
        .as_array()
        .filter(|t| t.len() == layers.len())
        .ok_or_else(|| wrong(format!("is not a list of {} names", layers.len())))?;
    for (layer, kind) in layers.iter_mut().zip(types) {
        layer.window = match kind.as_str() {
            Some("sliding_attention") => Some(window),
            Some("full_attention") => None,
            _ => {
                return Err(wrong(format!(
                    "holds {kind}, expected sliding_attention or full_attention"
                )));
            }
        };
    }
    Ok(())
}
