//! A tool call as one JSON object: `{"name": .., "arguments": {..}}`, shared by several formats.

use serde_json::Value;

use super::format::{Arguments, Head, Start};
use super::json::{Scanner, Step};
use super::scan::white;

/// Reads the object's head. The name may stand before or behind the arguments, which `parameters` may be called too.
pub(super) fn head(text: &str) -> Head {
    let mut at = white(text);
    match text.as_bytes().get(at) {
        None => return Head::Wait,
        Some(b'{') => at += 1,
        Some(_) => return Head::No,
    }
    let (mut name, mut id, mut arguments) = (None, None, None);
    loop {
        at += white(&text[at..]);
        let Some(first) = text.as_bytes().get(at) else { return Head::Wait };
        if *first == b'}' {
            return whole(name, id, arguments, at + 1);
        }
        let (key, behind) = match value(&text[at..]) {
            Found::Value(Value::String(key), len) => (key, at + len),
            Found::Wait => return Head::Wait,
            _ => return Head::No,
        };
        at = behind + white(&text[behind..]);
        match text.as_bytes().get(at) {
            None => return Head::Wait,
            Some(b':') => at += 1,
            Some(_) => return Head::No,
        }
        at += white(&text[at..]);
        let is_arguments = matches!(key.as_str(), "arguments" | "parameters");
        if is_arguments && text[at..].starts_with('{') && name.is_some() {
            let name = name.unwrap_or_default();
            let outer = Some(Scanner::behind_a_value());
            return Head::Starts(Start { name, id, at, arguments: Arguments::Json, outer });
        }
        let (found, len) = match value(&text[at..]) {
            Found::Value(found, len) => (found, len),
            Found::Wait => return Head::Wait,
            Found::No => return Head::No,
        };
        match (key.as_str(), found) {
            ("name", Value::String(found)) => name = Some(found),
            ("id", Value::String(found)) => id = Some(found),
            ("arguments" | "parameters", found) => match object(found) {
                Some(found) => arguments = Some(found),
                None => return Head::No,
            },
            ("name", _) => return Head::No,
            _ => {}
        }
        at += len;
        at += white(&text[at..]);
        match text.as_bytes().get(at) {
            None => return Head::Wait,
            Some(b',') => at += 1,
            Some(b'}') => {}
            Some(_) => return Head::No,
        }
    }
}

fn whole(name: Option<String>, id: Option<String>, arguments: Option<String>, at: usize) -> Head {
    match name {
        None => Head::No,
        Some(name) => {
            Head::Whole { name, id, arguments: arguments.unwrap_or_else(|| "{}".to_owned()), at }
        }
    }
}

/// Arguments that are not an object as it stands: some models write one into a string, or `null` for none.
fn object(value: Value) -> Option<String> {
    match value {
        Value::Object(_) => Some(value.to_string()),
        Value::Null => Some("{}".to_owned()),
        Value::String(text) => {
            serde_json::from_str::<Value>(&text).ok().filter(Value::is_object).map(|_| text)
        }
        _ => None,
    }
}

enum Found {
    Value(Value, usize),
    Wait,
    No,
}

/// The JSON value that `text` begins with, and its length.
fn value(text: &str) -> Found {
    let Some(first) = text.as_bytes().first() else { return Found::Wait };
    let mut scanner = Scanner::new();
    let mut len = None;
    if matches!(first, b'{' | b'[' | b'"') {
        for (index, byte) in text.bytes().enumerate() {
            match scanner.feed(byte) {
                Step::More => {}
                Step::Done => {
                    len = Some(index + 1);
                    break;
                }
                Step::Invalid => return Found::No,
            }
        }
    } else {
        len = text.find([',', '}', ']', ' ', '\n', '\t', '\r']);
    }
    let Some(len) = len else { return Found::Wait };
    serde_json::from_str(&text[..len]).map_or(Found::No, |value| Found::Value(value, len))
}
