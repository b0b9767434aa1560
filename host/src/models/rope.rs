//! A checkpoint's RoPE parameters, in either dialect, and the overrides of `imp.conf`.

use serde_json::{Map, Value};

use super::LoadError;
use super::hparams::{Hparams, Key, key};
use crate::layers::rope::{RopeParameters, RopeScaling, RopeSpec, yarn_attention};
use crate::weights::small_f32;

const ORIGINAL_LEN: Key =
    Key { gguf: "rope.scaling.original_context_length", hf: "original_max_position_embeddings" };

/// The checkpoint's RoPE, `Half` layout (a family whose files are permuted changes it).
///
/// # Errors
/// An unknown scaling, by name; parameters out of range.
pub fn read(h: &Hparams, head_dim: usize, context_len: usize) -> Result<RopeSpec, LoadError> {
    let mut parameters = if h.is_hf() {
        from_config(h, head_dim, context_len, "full_attention", key::ROPE_THETA.hf)?
    } else {
        from_gguf(h, head_dim, context_len)?
    };
    apply_override(h.rope_override(), &mut parameters);
    build(h, &parameters)
}

/// The RoPE of Gemma 3's local layers: a base of its own, never stretched.
///
/// # Errors
/// As [`read`].
pub fn read_local(h: &Hparams, head_dim: usize, context_len: usize) -> Result<RopeSpec, LoadError> {
    const LAYER_TYPE: &str = "sliding_attention";
    let parameters = if h.is_hf() {
        let mut p = from_config(h, head_dim, context_len, LAYER_TYPE, "rope_local_base_freq")?;
        // Where one object describes the scaling, it belongs to the global layers.
        let both = h.config().and_then(|c| c.get("rope_parameters"));
        if both.and_then(|p| p.get(LAYER_TYPE)).is_none() {
            p.scaling = RopeScaling::None;
        }
        p
    } else {
        let theta = h.gguf_f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
        RopeParameters {
            scaling: RopeScaling::None,
            theta: f64::from(theta),
            ..from_gguf(h, head_dim, context_len)?
        }
    };
    build(h, &parameters)
}

fn build(h: &Hparams, p: &RopeParameters) -> Result<RopeSpec, LoadError> {
    RopeSpec::new(p).map_err(|what| h.invalid(key::ROPE_THETA, what))
}

/// Section `rope` of the configuration replaces the checkpoint's scaling.
fn apply_override(o: &config::RopeOverride, p: &mut RopeParameters) {
    p.scaling = match o.scaling {
        config::RopeScaling::Model => return,
        config::RopeScaling::Linear => RopeScaling::Linear,
        config::RopeScaling::Yarn => RopeScaling::Yarn {
            beta_fast: f64::from(o.beta_fast),
            beta_slow: f64::from(o.beta_slow),
            mscale: None,
            truncate: true,
        },
    };
    p.factor = f64::from(o.factor);
    if o.orig_ctx > 0 {
        p.original_len = Some(o.orig_ctx as usize);
    }
    p.attention_factor = Some(match p.scaling {
        RopeScaling::Yarn { .. } => f64::from(o.attn_factor) * yarn_attention(p.factor, 1.0),
        _ => 1.0,
    });
}

fn from_gguf(
    h: &Hparams,
    head_dim: usize,
    context_len: usize,
) -> Result<RopeParameters, LoadError> {
    let dims = h.opt_count(key::ROPE_DIMS)?.unwrap_or(head_dim);
    if dims > head_dim {
        return Err(h.invalid(key::ROPE_DIMS, format!("is {dims}, a head has {head_dim}")));
    }
    let number = |name| Ok::<_, LoadError>(h.gguf_f32(name)?.map(f64::from));
    // `rope.scale_linear` is the older spelling of a linear factor.
    let older = number("rope.scale_linear")?;
    let factor = number("rope.scaling.factor")?.or(older).filter(|&f| f != 0.0);
    let original_len = h.opt_count(ORIGINAL_LEN)?;
    let (scaling, attention_factor) = gguf_scaling(h, factor)?;
    Ok(RopeParameters {
        scaling,
        theta: f64::from(h.opt_float(key::ROPE_THETA)?.unwrap_or(10_000.0)),
        dims,
        context_len,
        original_len,
        factor: factor.unwrap_or(1.0),
        attention_factor,
    })
}

/// Scaling and attention factor: factors stored as tensors come first, then the named type.
fn gguf_scaling(h: &Hparams, factor: Option<f64>) -> Result<(RopeScaling, Option<f64>), LoadError> {
    let number = |name| Ok::<_, LoadError>(h.gguf_f32(name)?.map(f64::from));
    let tensor = |name| small_f32(h.checkpoint(), name);
    let attn_factor = number("rope.scaling.attn_factor")?;
    match (tensor("rope_factors_short.weight")?, tensor("rope_factors_long.weight")?) {
        (Some(short), Some(long)) => {
            return Ok((RopeScaling::LongRope { short, long }, attn_factor));
        }
        (None, None) => {}
        _ => {
            return Err(h.invalid_named(
                "rope_factors_short.weight, rope_factors_long.weight".into(),
                "must both be there or both be missing".into(),
            ));
        }
    }
    if let Some(divisors) = tensor("rope_freqs.weight")? {
        if factor.is_some_and(|f| f != 1.0) {
            let what = "stands beside rope_freqs.weight; only one of them is supported";
            return Err(h.invalid_named("rope.scaling.factor".into(), what.into()));
        }
        return Ok((RopeScaling::Divisors(divisors), None));
    }
    match (h.gguf_str("rope.scaling.type")?, factor) {
        (None, None) | (Some("none"), _) => Ok((RopeScaling::None, None)),
        (None | Some("linear"), _) => Ok((RopeScaling::Linear, None)),
        (Some("yarn"), _) => {
            let scaling = RopeScaling::Yarn {
                beta_fast: number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                mscale: None,
                truncate: true,
            };
            // Files give a multiplier of YaRN's own factor.
            let own = yarn_attention(factor.unwrap_or(1.0), 1.0);
            Ok((scaling, attn_factor.map(|f| f * own)))
        }
        (Some(other), _) => Err(h.invalid_named(
            "rope.scaling.type".into(),
            format!("is {other:?}; known: none, linear, yarn, longrope (with factor tensors)"),
        )),
    }
}

/// v5 writes `rope_parameters` (one object, or one a layer type); before, `rope_theta` and
/// `rope_scaling` stood side by side.
fn from_config(
    h: &Hparams,
    head_dim: usize,
    context_len: usize,
    layer_type: &str,
    theta_key: &str,
) -> Result<RopeParameters, LoadError> {
    let empty = Map::new();
    let config = h.config().unwrap_or(&empty);
    let object = |name: &str| match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(o)) => Ok(Some(o)),
        Some(_) => Err(h.invalid_named(name.into(), "is not an object".into())),
    };
    let both = object("rope_parameters")?;
    let nested = both.and_then(|p| p.get(layer_type)).and_then(Value::as_object);
    let scaling = match nested.or(both) {
        Some(o) => Some(o),
        None => object("rope_scaling")?,
    };
    let scaling = Source { h, object: scaling.unwrap_or(&empty) };
    let top = Source { h, object: config };
    let theta = scaling.number("rope_theta")?.or(top.number(theta_key)?);
    let partial = match scaling.number("partial_rotary_factor")? {
        Some(p) => p,
        None => h.opt_float(key::PARTIAL_ROTARY)?.map_or(1.0, f64::from),
    };
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(h.invalid(key::PARTIAL_ROTARY, format!("is {partial}, expected 0 to 1")));
    }
    let original_len = scaling.number(ORIGINAL_LEN.hf)?.or(top.number(ORIGINAL_LEN.hf)?);
    if let Some(n) = original_len.filter(|n| *n < 1.0) {
        return Err(scaling.wrong(ORIGINAL_LEN.hf, &format!("is {n}, expected at least 1")));
    }
    let kind = scaling.scaling()?;
    let factor = match kind {
        RopeScaling::None | RopeScaling::LongRope { .. } => scaling.number("factor")?,
        _ => Some(scaling.required("factor")?),
    };
    if matches!(kind, RopeScaling::Llama3 { .. }) && original_len.is_none() {
        scaling.required(ORIGINAL_LEN.hf)?;
    }
    Ok(RopeParameters {
        scaling: kind,
        theta: theta.unwrap_or(10_000.0),
        dims: (head_dim as f64 * partial) as usize,
        context_len,
        original_len: original_len.map(|n| n as usize),
        factor: factor.unwrap_or(1.0),
        attention_factor: scaling.number("attention_factor")?,
    })
}

/// Typed reads from one JSON object.
struct Source<'a> {
    h: &'a Hparams<'a>,
    object: &'a Map<String, Value>,
}

impl Source<'_> {
    fn wrong(&self, name: &str, what: &str) -> LoadError {
        self.h.invalid_named(name.into(), what.into())
    }

    fn number(&self, name: &str) -> Result<Option<f64>, LoadError> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64().filter(|n| n.is_finite()) {
                Some(n) => Ok(Some(n)),
                None => Err(self.wrong(name, &format!("is {v}, expected a finite number"))),
            },
        }
    }

    fn required(&self, name: &str) -> Result<f64, LoadError> {
        self.number(name)?.ok_or_else(|| self.wrong(name, "is missing from the RoPE scaling"))
    }

    fn factors(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let list = self.object.get(name).and_then(Value::as_array);
        let list = list.ok_or_else(|| self.wrong(name, "is missing from the RoPE scaling"))?;
        list.iter()
            .map(|v| v.as_f64().map(|f| f as f32))
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(name, "is not a list of numbers"))
    }

    fn scaling(&self) -> Result<RopeScaling, LoadError> {
        // `type` is the older spelling of `rope_type`.
        let name = self.object.get("rope_type").or_else(|| self.object.get("type"));
        let Some(name) = name.filter(|v| !v.is_null()) else {
            return Ok(RopeScaling::None);
        };
        Ok(match name.as_str().unwrap_or("") {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear,
            "dynamic" => RopeScaling::Dynamic,
            "llama3" => RopeScaling::Llama3 {
                low: self.required("low_freq_factor")?,
                high: self.required("high_freq_factor")?,
            },
            "yarn" => RopeScaling::Yarn {
                beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
                mscale: self.number("mscale")?.zip(self.number("mscale_all_dim")?),
                truncate: self.object.get("truncate").and_then(Value::as_bool).unwrap_or(true),
            },
            "longrope" | "su" => RopeScaling::LongRope {
                short: self.factors("short_factor")?,
                long: self.factors("long_factor")?,
            },
            _ => {
                return Err(self.wrong(
                    "rope_type",
                    &format!("is {name}; known: default, linear, dynamic, llama3, yarn, longrope"),
                ));
            }
        })
    }
}
