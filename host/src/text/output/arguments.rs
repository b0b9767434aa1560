//! The arguments of a call → fragments of a JSON object, as they come.

use serde_json::Value;

use super::Piece;
use super::json::{Scanner, Step, escape, escaped, quoted};
use super::scan::{Begins, begins, held, white};

/// What Gemma 4 puts around strings.
pub(super) const GEMMA_QUOTE: &str = "<|\"|>";

const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
const FUNCTION_END: &str = "</function>";

/// Turns arguments into JSON.
#[derive(Debug)]
pub(super) enum Reader {
    Json(Scanner),
    Gemma {
        scanner: Scanner,
        quoted: bool,
    },
    Parameters {
        /// The JSON schema of the arguments.
        schema: Value,
        state: Parameter,
        /// Parameters so far.
        count: usize,
    },
}

/// Where among the parameters the text is.
#[derive(Debug)]
pub(super) enum Parameter {
    Between,
    /// In a string, whose first newline is not part of it.
    Text {
        begun: bool,
    },
    /// In a value that is given when it is whole.
    Value(Vec<String>),
}

/// How far the arguments were read.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    /// These bytes; more are to come.
    More(usize),
    /// They end behind these bytes.
    Done(usize),
    /// Behind these bytes is something else. What was given is valid JSON.
    Broken(usize),
}

impl Reader {
    pub fn json() -> Self {
        Self::Json(Scanner::new())
    }

    pub fn gemma() -> Self {
        Self::Gemma { scanner: Scanner::new(), quoted: false }
    }

    pub fn parameters(schema: &Value) -> Self {
        Self::Parameters { schema: schema.clone(), state: Parameter::Between, count: 0 }
    }

    /// Reads as [`Reader::read`] does, and appends what was read as arguments of call `index`.
    pub fn read_call(&mut self, text: &str, end: bool, index: usize, out: &mut Vec<Piece>) -> Read {
        let mut fragment = String::new();
        let read = self.read(text, end, &mut fragment);
        if !fragment.is_empty() {
            out.push(Piece::ToolArguments { index, fragment });
        }
        read
    }

    /// Reads `text` as far as it is sure, and appends JSON to `out`. At the `end` everything is read.
    pub fn read(&mut self, text: &str, end: bool, out: &mut String) -> Read {
        match self {
            Self::Json(scanner) => read_json(scanner, text, out),
            Self::Gemma { scanner, quoted } => read_gemma(scanner, quoted, text, end, out),
            Self::Parameters { schema, state, count } => {
                read_parameters(schema, state, count, text, end, out)
            }
        }
    }
}

fn read_json(scanner: &mut Scanner, text: &str, out: &mut String) -> Read {
    let mut shown = 0;
    for (at, byte) in text.bytes().enumerate() {
        // A newline inside a string is the commonest slip, and what it means is clear.
        if byte < 0x20 && scanner.in_text() {
            out.push_str(&text[shown..at]);
            let fixed = escape(byte);
            if fixed.bytes().any(|byte| scanner.feed(byte) == Step::Invalid) {
                out.push_str(&scanner.completion());
                return Read::Broken(at);
            }
            out.push_str(&fixed);
            shown = at + 1;
            continue;
        }
        match scanner.feed(byte) {
            Step::More => {}
            Step::Done => {
                out.push_str(&text[shown..=at]);
                return Read::Done(at + 1);
            }
            Step::Invalid => {
                // A byte that is no ASCII may be there only in strings, where it is never refused but behind a
                // backslash; it is the first of its character.
                out.push_str(&text[shown..at]);
                out.push_str(&scanner.completion());
                return Read::Broken(at);
            }
        }
    }
    out.push_str(&text[shown..]);
    Read::More(text.len())
}

/// Feeds text that was made, not read. Whether it ended the value; `None` when it cannot be there.
fn feed(scanner: &mut Scanner, text: &str) -> Option<bool> {
    let mut done = false;
    for byte in text.bytes() {
        match scanner.feed(byte) {
            Step::More => {}
            Step::Done => done = true,
            Step::Invalid => return None,
        }
    }
    Some(done)
}

fn read_gemma(
    scanner: &mut Scanner,
    in_quotes: &mut bool,
    text: &str,
    end: bool,
    out: &mut String,
) -> Read {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        // What comes next, as JSON, and its length in the text.
        let (json, len) = if *in_quotes {
            match rest.find(GEMMA_QUOTE) {
                Some(0) => {
                    *in_quotes = false;
                    ("\"".to_owned(), GEMMA_QUOTE.len())
                }
                Some(len) => (escaped(&rest[..len]), len),
                None => {
                    let len = rest.len() - if end { 0 } else { held(rest, &[GEMMA_QUOTE]) };
                    (escaped(&rest[..len]), len)
                }
            }
        } else {
            match begins(rest, &[GEMMA_QUOTE], end) {
                Begins::Perhaps => return Read::More(at),
                Begins::With(quote) => {
                    *in_quotes = true;
                    ("\"".to_owned(), quote.len())
                }
                Begins::Not => match rest.chars().next() {
                    None => return Read::More(at),
                    Some(c) if scanner.wants_key() && is_key(c) => {
                        match rest.find(|c| !is_key(c)) {
                            Some(len) => (quoted(&rest[..len]), len),
                            None if end => (quoted(rest), rest.len()),
                            None => return Read::More(at),
                        }
                    }
                    Some(c) => (c.to_string(), c.len_utf8()),
                },
            }
        };
        if len == 0 {
            return Read::More(at);
        }
        match feed(scanner, &json) {
            Some(done) => {
                out.push_str(&json);
                at += len;
                if done {
                    return Read::Done(at);
                }
            }
            None => {
                out.push_str(&scanner.completion());
                return Read::Broken(at);
            }
        }
    }
}

fn is_key(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$')
}

fn read_parameters(
    schema: &Value,
    state: &mut Parameter,
    count: &mut usize,
    text: &str,
    end: bool,
    out: &mut String,
) -> Read {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        match state {
            Parameter::Between => {
                let lead = white(rest);
                match begins(&rest[lead..], &[PARAMETER, FUNCTION_END], end) {
                    Begins::Perhaps => return Read::More(at),
                    Begins::With(PARAMETER) => {
                        let key = &rest[lead + PARAMETER.len()..];
                        let Some(len) = key.find(['>', '\n']) else {
                            // An unfinished key is nothing that could be shown.
                            return Read::More(if end { text.len() } else { at });
                        };
                        let (name, len) = (&key[..len], lead + PARAMETER.len() + len + 1);
                        let name = name.trim();
                        out.push_str(if *count == 0 { "{" } else { ", " });
                        out.push_str(&quoted(name));
                        out.push_str(": ");
                        *count += 1;
                        at += len;
                        let types = types(schema, name);
                        *state = if types.iter().all(|name| name == "string") {
                            out.push('"');
                            Parameter::Text { begun: false }
                        } else {
                            Parameter::Value(types)
                        };
                    }
                    Begins::With(marker) => {
                        out.push_str(if *count == 0 { "{}" } else { "}" });
                        return Read::Done(at + lead + marker.len());
                    }
                    Begins::Not if lead == rest.len() => {
                        return Read::More(if end { text.len() } else { at });
                    }
                    Begins::Not => {
                        out.push_str(if *count == 0 { "{}" } else { "}" });
                        return Read::Broken(at);
                    }
                }
            }
            Parameter::Text { begun } => {
                if !*begun {
                    if rest.is_empty() {
                        return Read::More(at);
                    }
                    *begun = true;
                    at += usize::from(rest.starts_with('\n'));
                    continue;
                }
                match rest.find(PARAMETER_END) {
                    Some(len) => {
                        let value = &rest[..len];
                        out.push_str(&escaped(value.strip_suffix('\n').unwrap_or(value)));
                        out.push('"');
                        at += len + PARAMETER_END.len();
                        *state = Parameter::Between;
                    }
                    None => {
                        let mut len = rest.len();
                        if !end {
                            len -= held(rest, &[PARAMETER_END]);
                            // The newline before the end is not part of the value.
                            len -= usize::from(rest[..len].ends_with('\n'));
                        }
                        out.push_str(&escaped(&rest[..len]));
                        return Read::More(at + len);
                    }
                }
            }
            Parameter::Value(types) => match rest.find(PARAMETER_END) {
                Some(len) => {
                    out.push_str(&typed(rest[..len].trim(), types));
                    at += len + PARAMETER_END.len();
                    *state = Parameter::Between;
                }
                None if end => {
                    out.push_str(&typed(rest.trim(), types));
                    return Read::More(text.len());
                }
                None => return Read::More(at),
            },
        }
    }
}

/// The types that a schema allows a parameter; without any it is a string.
fn types(schema: &Value, name: &str) -> Vec<String> {
    let mut types = vec![];
    if let Some(property) = schema.get("properties").and_then(|all| all.get(name)) {
        collect_types(property, 0, &mut types);
    }
    types
}

fn collect_types(schema: &Value, depth: usize, types: &mut Vec<String>) {
    match schema.get("type") {
        Some(Value::String(name)) => types.push(name.clone()),
        Some(Value::Array(names)) => {
            types.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        _ => {}
    }
    let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    for value in values.chain(schema.get("const")) {
        types.push(type_of(value).to_owned());
    }
    for key in ["anyOf", "oneOf", "allOf"].iter().filter(|_| depth < 8) {
        for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            collect_types(part, depth + 1, types);
        }
    }
    // What a reference leads to is not looked up: the value says what it is.
    if schema.get("$ref").is_some() {
        types.extend(["object", "array", "number", "boolean", "null", "string"].map(str::to_owned));
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value in JSON: of one of `types` when it reads as one, else a string.
fn typed(text: &str, types: &[String]) -> String {
    let python = match text {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    let is_one = |value: &Value| {
        let found = type_of(value);
        types.iter().any(|name| name == found || name == "integer" && found == "number")
    };
    match serde_json::from_str::<Value>(python) {
        Ok(value) if !value.is_string() && is_one(&value) => python.to_owned(),
        Ok(value) if value.is_string() && !types.iter().any(|name| name == "string") => {
            value.to_string()
        }
        _ => quoted(text),
    }
}
