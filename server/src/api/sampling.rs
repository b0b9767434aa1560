//! Fields that say how tokens are chosen, and what else bounds an answer, in every spelling that
//! clients use.

use host::constrain::GrammarSpec;
use host::sampling::SamplingParams;
use serde_json::Value;

use super::completions::token_ids;
use super::json::{Fields, wrong};
use crate::generation::Stops;
use crate::http::ApiError;
use crate::limits::{
    BAD_WORD_BYTES, BAD_WORDS, GUIDED_CHOICES, LOGIT_BIAS, MAX_TOKENS, STOP_BYTES, STOP_TOKENS,
    STOPS,
};

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

/// What ends an answer of at most `max_tokens`, and what it never says. `name` is the dialect's name
/// of the strings.
///
/// # Errors
/// 400 naming the field and its limit.
pub fn stops(fields: &Fields<'_>, name: &str, max_tokens: usize) -> Result<Stops, ApiError> {
    let min_tokens = fields.count("min_tokens", 0, MAX_TOKENS)?.unwrap_or(0) as usize;
    if min_tokens > max_tokens {
        let problem = format!("is {min_tokens}, more than the {max_tokens} tokens of the answer");
        return Err(fields.error("min_tokens", problem));
    }
    let tokens = fields.list("stop_token_ids", STOP_TOKENS)?.unwrap_or(&[]);
    Ok(Stops {
        strings: stop(fields, name)?,
        tokens: token_ids(tokens, &fields.path("stop_token_ids"))?,
        include: fields.flag("include_stop_str_in_output", false)?,
        min_tokens,
        bad_words: bad_words(fields)?,
    })
}

/// `bad_words`: a list of strings.
fn bad_words(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let name = "bad_words";
    let words = texts(fields.list(name, BAD_WORDS)?.unwrap_or(&[]), &fields.path(name))?;
    for (index, word) in words.iter().enumerate() {
        let entry = format!("{name}[{index}]");
        if word.trim().is_empty() {
            return Err(fields.error(&entry, "is empty"));
        }
        if word.len() > BAD_WORD_BYTES {
            let problem = format!("has {} bytes, at most {BAD_WORD_BYTES} work", word.len());
            return Err(fields.error(&entry, problem));
        }
    }
    Ok(words)
}

/// `stop`: a string or a list of them.
fn stop(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let path = fields.path(name);
    let stops = match fields.get(name) {
        None => vec![],
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => texts(list, &path)?,
        Some(other) => return Err(wrong(&path, "a string or an array of strings", other)),
    };
    if stops.len() > STOPS {
        let problem = format!("has {} strings, at most {STOPS} work", stops.len());
        return Err(fields.error(name, problem));
    }
    if let Some(stop) = stops.iter().find(|stop| stop.len() > STOP_BYTES) {
        let problem = format!("a string has {} bytes, at most {STOP_BYTES} work", stop.len());
        return Err(fields.error(name, problem));
    }
    Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
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

/// What the text must be, in every spelling, with the field that says so.
///
/// # Errors
/// 400 naming the field.
pub fn grammar(fields: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let text = |name| fields.text(name).map(|text| text.filter(|text| !text.is_empty()));
    let schema = |name| fields.get(name).cloned().map(GrammarSpec::JsonSchema);
    let owned = str::to_owned;
    let found = [
        ("response_format", response_format(fields)?),
        ("json_schema", schema("json_schema")),
        ("guided_json", schema("guided_json")),
        ("grammar", text("grammar")?.map(owned).map(GrammarSpec::Gbnf)),
        ("guided_regex", text("guided_regex")?.map(owned).map(GrammarSpec::Regex)),
        ("guided_grammar", text("guided_grammar")?.map(owned).map(GrammarSpec::Lark)),
        ("guided_choice", choices(fields, "guided_choice")?),
        ("structured_outputs", structured_outputs(fields)?),
    ];
    let mut found = found.into_iter().filter_map(|(name, spec)| Some((fields.path(name), spec?)));
    match (found.next(), found.next()) {
        (Some((first, _)), Some((second, _))) => {
            Err(ApiError::field(second, format!("cannot be combined with {first}")))
        }
        (found, _) => Ok(found),
    }
}

/// A list of texts of which the answer is one.
fn choices(fields: &Fields<'_>, name: &str) -> Result<Option<GrammarSpec>, ApiError> {
    let list = fields.list(name, GUIDED_CHOICES)?.unwrap_or(&[]);
    let choices = texts(list, &fields.path(name))?;
    if let Some(index) = choices.iter().position(String::is_empty) {
        return Err(fields.error(&format!("{name}[{index}]"), "is empty"));
    }
    Ok((!choices.is_empty()).then_some(GrammarSpec::Choice(choices)))
}

/// vLLM's newer spelling of the `guided_` fields: one of them, in an object.
fn structured_outputs(fields: &Fields<'_>) -> Result<Option<GrammarSpec>, ApiError> {
    let Some(inner) = fields.object("structured_outputs")? else { return Ok(None) };
    let mut found = vec![];
    for (name, value) in inner.map().iter().filter(|(_, value)| !value.is_null()) {
        let text = || inner.needed_text(name).map(str::to_owned);
        match name.as_str() {
            "json" => found.push(GrammarSpec::JsonSchema(value.clone())),
            "regex" => found.push(GrammarSpec::Regex(text()?)),
            "grammar" => found.push(GrammarSpec::Lark(text()?)),
            "choice" => found.extend(choices(&inner, name)?),
            "json_object" if inner.flag(name, false)? => found.push(GrammarSpec::JsonObject),
            "structural_tag" => {
                return Err(inner.error(name, "is not supported yet").code("unsupported"));
            }
            _ => {}
        }
    }
    if found.len() > 1 {
        return Err(fields.error("structured_outputs", "names more than one kind of text"));
    }
    Ok(found.pop())
}

/// `format` of a field that says how the text must look, in OpenAI's responses and Anthropic's messages.
///
/// # Errors
/// 400 naming the field.
pub fn format(parent: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let Some(format) = parent.object("format")? else { return Ok(None) };
    let spec = match format.needed_text("type")? {
        "text" => return Ok(None),
        "json_object" => GrammarSpec::JsonObject,
        "json_schema" => {
            let missing = || format.error("schema", "is missing");
            GrammarSpec::JsonSchema(format.get("schema").cloned().ok_or_else(missing)?)
        }
        other => {
            let problem = format!("is {other:?}, expected text, json_object or json_schema");
            return Err(format.error("type", problem));
        }
    };
    Ok(Some((parent.path("format"), spec)))
}

fn response_format(fields: &Fields<'_>) -> Result<Option<GrammarSpec>, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    match format.needed_text("type")? {
        "text" => Ok(None),
        "json_object" => Ok(Some(GrammarSpec::JsonObject)),
        "json_schema" => {
            let named = format.object("json_schema")?;
            let schema = named.as_ref().and_then(|named| named.get("schema"));
            let missing = || format.error("json_schema.schema", "is missing");
            Ok(Some(GrammarSpec::JsonSchema(schema.ok_or_else(missing)?.clone())))
        }
        other => Err(format
            .error("type", format!("is {other:?}, expected text, json_object or json_schema"))),
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
    fn stops_and_lengths_are_bounded() {
        let read = |body: Value| {
            let fields = Fields::new(body.as_object().unwrap()).clone();
            stop(&fields, "stop").map_err(|error| error.message)
        };
        assert_eq!(read(json!({"stop": "a"})).unwrap(), ["a"]);
        assert_eq!(read(json!({"stop": ["a", "", "b"]})).unwrap(), ["a", "b"]);
        assert!(read(json!({"stop": vec!["a"; 17]})).unwrap_err().contains("at most 16"));
        assert!(read(json!({"stop": "a".repeat(1025)})).unwrap_err().contains("1025 bytes"));
        assert!(read(json!({"stop": [1]})).unwrap_err().starts_with("stop[0]: is a number"));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_and_not_ignored() {
        let fine = json!({"response_format": {"type": "text"}, "grammar": "", "bad_words": [],
            "min_tokens": 0, "suffix": null, "unheard_of": 1});
        let fields = Fields::new(fine.as_object().unwrap());
        assert_eq!(grammar(&fields).unwrap(), None);
        refuse_unsupported(&fields).unwrap();
        let two = json!({"grammar": "root ::= \"a\"", "guided_regex": "b"});
        let error = grammar(&Fields::new(two.as_object().unwrap())).unwrap_err();
        assert_eq!(error.message, "guided_regex: cannot be combined with grammar");
        let bad = json!({"suffix": "a"});
        assert!(refuse_unsupported(&Fields::new(bad.as_object().unwrap())).is_err());
    }

    #[test]
    fn what_ends_an_answer_is_read_and_bounded() {
        let read = |body: Value| stops(&Fields::new(body.as_object().unwrap()), "stop", 20);
        let found = read(json!({"stop": "x", "stop_token_ids": [1, 2], "min_tokens": 20,
            "include_stop_str_in_output": true, "bad_words": ["a b"]}))
        .unwrap();
        assert_eq!((found.strings, found.tokens), (vec!["x".to_owned()], vec![1, 2]));
        assert_eq!((found.min_tokens, found.include), (20, true));
        assert_eq!(found.bad_words, ["a b"]);
        for (body, param, problem) in [
            (json!({"stop_token_ids": [1, -1]}), "stop_token_ids[1]", "-1 is no token id"),
            (json!({"stop_token_ids": 5}), "stop_token_ids", "expected an array"),
            (json!({"stop_token_ids": vec![1; STOP_TOKENS + 1]}), "stop_token_ids", "at most"),
            (json!({"min_tokens": 21}), "min_tokens", "more than the 20 tokens"),
            (json!({"min_tokens": -1}), "min_tokens", "is -1"),
            (json!({"bad_words": "a"}), "bad_words", "expected an array"),
            (json!({"bad_words": [" "]}), "bad_words[0]", "is empty"),
            (json!({"bad_words": ["a", "b".repeat(300)]}), "bad_words[1]", "at most 256"),
            (json!({"bad_words": vec!["a"; BAD_WORDS + 1]}), "bad_words", "at most 256"),
            (json!({"include_stop_str_in_output": 1}), "include_stop_str_in_output", "a boolean"),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert!(error.message.contains(problem), "{}", error.message);
        }
    }

    #[test]
    fn one_of_several_texts_can_be_asked_for_in_both_spellings() {
        let read = |body: Value| grammar(&Fields::new(body.as_object().unwrap()));
        let choice = |field: &str| {
            let texts = vec!["a".to_owned(), "b".to_owned()];
            Some((field.to_owned(), GrammarSpec::Choice(texts)))
        };
        assert_eq!(read(json!({"guided_choice": ["a", "b"]})).unwrap(), choice("guided_choice"));
        let newer = json!({"structured_outputs": {"choice": ["a", "b"], "json": null}});
        assert_eq!(read(newer).unwrap(), choice("structured_outputs"));
        let regex = read(json!({"structured_outputs": {"regex": "a"}})).unwrap().unwrap();
        assert_eq!(regex.1, GrammarSpec::Regex("a".to_owned()));
        assert_eq!(read(json!({"guided_choice": [], "structured_outputs": {}})).unwrap(), None);
        for (body, param) in [
            (json!({"guided_choice": ["a", ""]}), "guided_choice[1]"),
            (json!({"guided_choice": "a"}), "guided_choice"),
            (json!({"guided_choice": vec!["a"; GUIDED_CHOICES + 1]}), "guided_choice"),
            (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs"),
            (json!({"structured_outputs": {"regex": 1}}), "structured_outputs.regex"),
            (json!({"structured_outputs": ["a"]}), "structured_outputs"),
            (
                json!({"structured_outputs": {"structural_tag": "a"}}),
                "structured_outputs.structural_tag",
            ),
        ] {
            assert_eq!(read(body).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
