//! Fields that say what ends an answer, and what it never says.

use serde_json::Value;

use super::completions::token_ids;
use super::json::{Fields, wrong};
use super::sampling::texts;
use crate::generation::Stops;
use crate::http::ApiError;
use crate::limits::{BAD_WORD_BYTES, BAD_WORDS, MAX_TOKENS, STOP_BYTES, STOP_TOKENS, STOPS};

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
        ..Stops::default()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
