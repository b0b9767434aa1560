//! Fields that say how tokens are chosen and how many, in every spelling that clients use; and
//! those that nothing honours.

use host::sampling::SamplingParams;
use serde_json::Value;

use super::json::{Fields, wrong};
use crate::http::ApiError;
use crate::limits::{LOGIT_BIAS, MAX_TOKENS};

/// One row a number: where it is kept, and its spellings.
type Float = (&'static [&'static str], fn(&mut SamplingParams) -> &mut f32);
/// The same for whole numbers. −1 is 0, which is "off" or "all" everywhere.
type Count = (&'static [&'static str], fn(&mut SamplingParams) -> &mut u32);

const FLOATS: &[Float] = &[
    (&["temperature"], |s| &mut s.temperature),
    (&["dynatemp_range"], |s| &mut s.dynatemp_range),
    (&["dynatemp_exponent"], |s| &mut s.dynatemp_exponent),
    (&["top_p"], |s| &mut s.top_p),
    (&["min_p"], |s| &mut s.min_p),
    (&["typical_p"], |s| &mut s.typical_p),
    (&["top_n_sigma"], |s| &mut s.top_n_sigma),
    (&["xtc_probability"], |s| &mut s.xtc_probability),
    (&["xtc_threshold"], |s| &mut s.xtc_threshold),
    (&["repeat_penalty", "repetition_penalty"], |s| &mut s.repeat_penalty),
    (&["frequency_penalty"], |s| &mut s.frequency_penalty),
    (&["presence_penalty"], |s| &mut s.presence_penalty),
    (&["dry_multiplier"], |s| &mut s.dry_multiplier),
    (&["dry_base"], |s| &mut s.dry_base),
    (&["mirostat_tau"], |s| &mut s.mirostat_tau),
    (&["mirostat_eta"], |s| &mut s.mirostat_eta),
];

const COUNTS: &[Count] = &[
    (&["top_k"], |s| &mut s.top_k),
    (&["min_keep"], |s| &mut s.min_keep),
    (&["repeat_last_n"], |s| &mut s.repeat_last_n),
    (&["dry_allowed_length"], |s| &mut s.dry_allowed_length),
    (&["dry_penalty_last_n"], |s| &mut s.dry_penalty_last_n),
    (&["mirostat"], |s| &mut s.mirostat),
];

/// The sampling that a body asks for; `defaults` where it says nothing.
///
/// # Errors
/// 400 naming the field.
pub fn sampling(
    fields: &Fields<'_>,
    defaults: &SamplingParams,
) -> Result<SamplingParams, ApiError> {
    let mut params = defaults.clone();
    for (names, place) in FLOATS {
        for name in *names {
            if let Some(value) = fields.number(name)? {
                *place(&mut params) = value;
            }
        }
    }
    for (names, place) in COUNTS {
        for name in *names {
            match fields.integer(name)? {
                None => {}
                Some(-1) => *place(&mut params) = 0,
                Some(value) => {
                    let limit = || fields.error(name, format!("is {value}, expected -1 or more"));
                    *place(&mut params) = u32::try_from(value).map_err(|_| limit())?;
                }
            }
        }
    }
    if let Some(seed) = fields.integer("seed")? {
        params.seed = (seed != -1).then_some(seed as u64); // any 64 bits are a seed
    }
    if let Some(breakers) = fields.list("dry_sequence_breakers", 64)? {
        params.dry_sequence_breakers = texts(breakers, &fields.path("dry_sequence_breakers"))?;
    }
    params.logit_bias = logit_bias(fields)?;
    Ok(params)
}

/// `{"token id": bias}`.
fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(vec![]) };
    let entries = object.map();
    if entries.len() > LOGIT_BIAS {
        let problem = format!("has {} entries, at most {LOGIT_BIAS} work", entries.len());
        return Err(fields.error("logit_bias", problem));
    }
    let entry = |(token, bias): (&String, &Value)| {
        let id = token.parse().map_err(|_| object.error(token, "is not a token id"))?;
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let bias = bias.ok_or_else(|| object.error(token, "expected a number from -100 to 100"))?;
        Ok((id, bias as f32))
    };
    entries.iter().map(entry).collect()
}

/// A list of strings.
///
/// # Errors
/// 400 naming the entry.
pub fn texts(list: &[Value], path: &str) -> Result<Vec<String>, ApiError> {
    let text = |(index, value): (usize, &Value)| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong(&format!("{path}[{index}]"), "a string", value))
    };
    list.iter().enumerate().map(text).collect()
}

/// The first of these fields that bounds the answer; −1 is "as long as it gets".
///
/// # Errors
/// 400 naming the limits.
pub fn max_tokens(
    fields: &Fields<'_>,
    names: &[&str],
    min: u64,
) -> Result<Option<usize>, ApiError> {
    for name in names {
        if fields.integer(name)? == Some(-1) {
            return Ok(None);
        }
        if let Some(tokens) = fields.count(name, min, MAX_TOKENS)? {
            return Ok(Some(tokens as usize));
        }
    }
    Ok(None)
}

/// Fields that change what is generated and that nothing here honours: refused, not ignored. A
/// value that asks for nothing is fine.
const REFUSED: &[&str] = &[
    "use_beam_search",
    "prompt_logprobs",
    "suffix",
    "functions",
    "allowed_token_ids",
    "truncate_prompt_tokens",
    "chat_template",
    "documents",
    "web_search_options",
];

/// Refuses fields that cannot be honoured.
///
/// # Errors
/// 400 naming the field.
pub fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in REFUSED {
        if fields.get(name).is_some_and(asks_for_something) {
            return Err(fields.error(name, "is not supported yet").code("unsupported"));
        }
    }
    match fields.get("skip_special_tokens") {
        Some(Value::Bool(false)) => {
            Err(fields.error("skip_special_tokens", "false is not supported: they have no text"))
        }
        _ => Ok(()),
    }
}

fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<SamplingParams, ApiError> {
        sampling(&Fields::new(body.as_object().unwrap()), &SamplingParams::default())
    }

    #[test]
    fn every_spelling_reaches_its_place() {
        let params = read(&json!({
            "temperature": 0.5, "top_k": -1, "repetition_penalty": 1.5, "seed": -7,
            "logit_bias": {"5": -100, "6": 1.5}, "mirostat": 2, "min_p": 0.25,
        }))
        .unwrap();
        assert_eq!((params.temperature, params.top_k, params.repeat_penalty), (0.5, 0, 1.5));
        assert_eq!((params.mirostat, params.min_p), (2, 0.25));
        assert_eq!(params.seed, Some(-7i64 as u64));
        assert_eq!(params.logit_bias, [(5, -100.0), (6, 1.5)]);
        assert_eq!(read(&json!({"seed": -1})).unwrap().seed, None);
    }

    #[test]
    fn wrong_values_name_their_field() {
        let many: serde_json::Map<_, _> =
            (0..=LOGIT_BIAS).map(|i| (i.to_string(), json!(1))).collect();
        for (body, param) in [
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_k": -2}), "top_k"),
            (json!({"top_k": 1e30}), "top_k"),
            (json!({"seed": 0.5}), "seed"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
            (json!({"logit_bias": {"1": 1e9}}), "logit_bias.1"),
            (json!({"logit_bias": many}), "logit_bias"),
        ] {
            let error = read(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
        let error =
            ApiError::from(read(&json!({"temperature": 1e300})).unwrap().validate(10).unwrap_err());
        assert_eq!(error.param.as_deref(), Some("temperature"));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_and_not_ignored() {
        let fine = json!({"documents": [], "prompt_logprobs": 0, "suffix": null, "unheard_of": 1});
        refuse_unsupported(&Fields::new(fine.as_object().unwrap())).unwrap();
        let bad = json!({"suffix": "a"});
        assert!(refuse_unsupported(&Fields::new(bad.as_object().unwrap())).is_err());
    }
}
