//! Arguments in tags: each parameter between its own, its name in the first of them.

use serde_json::Value;

use super::arguments::Read;
use super::json::{escaped, quoted};
use super::scan::{Begins, begins, find, held, white};

/// What a family writes around parameters.
#[derive(Debug)]
pub(super) struct Tags {
    /// In front of a name.
    pub open: &'static str,
    /// Behind it, one of these.
    pub named: &'static [&'static str],
    /// In front of the value, where there is something of its own.
    pub value: Option<&'static str>,
    /// Behind the value.
    pub close: &'static str,
    /// Behind all parameters.
    pub end: &'static str,
}

/// Turns parameters into JSON.
#[derive(Debug)]
pub(super) struct Parameters {
    tags: &'static Tags,
    /// The JSON schema of the arguments.
    schema: Value,
    state: State,
    /// Parameters so far.
    count: usize,
}

/// Where among the parameters the text is.
#[derive(Debug)]
enum State {
    Between,
    /// In a string, whose first newline is not part of it.
    Text {
        begun: bool,
    },
    /// In a value that is given when it is whole.
    Value(Vec<String>),
}

/// What the text between two parameters is.
enum Between {
    /// More of it must come.
    Wait,
    /// A parameter of this name, whose value begins behind these bytes.
    Parameter(String, usize),
    /// The end, behind these bytes.
    End(usize),
    /// Nothing that may be there.
    Broken,
}

impl Parameters {
    pub fn new(tags: &'static Tags, schema: &Value) -> Self {
        Self { tags, schema: schema.clone(), state: State::Between, count: 0 }
    }

    /// Reads `text` as far as it is sure, and appends JSON to `out`. At the `end` everything is read.
    pub fn read(&mut self, text: &str, end: bool, out: &mut String) -> Read {
        let close = self.tags.close;
        let mut at = 0;
        loop {
            let rest = &text[at..];
            match &mut self.state {
                State::Between => match between(self.tags, rest, end) {
                    // An unfinished name is nothing that could be shown.
                    Between::Wait => return Read::More(if end { text.len() } else { at }),
                    Between::Parameter(name, len) => {
                        at += len;
                        self.begin(&name, out);
                    }
                    Between::End(len) => {
                        out.push_str(if self.count == 0 { "{}" } else { "}" });
                        return Read::Done(at + len);
                    }
                    Between::Broken => {
                        out.push_str(if self.count == 0 { "{}" } else { "}" });
                        return Read::Broken(at);
                    }
                },
                State::Text { begun } if !*begun => {
                    if rest.is_empty() {
                        return Read::More(at);
                    }
                    *begun = true;
                    at += usize::from(rest.starts_with('\n'));
                }
                State::Text { .. } => match rest.find(close) {
                    Some(len) => {
                        let value = &rest[..len];
                        out.push_str(&escaped(value.strip_suffix('\n').unwrap_or(value)));
                        out.push('"');
                        at += len + close.len();
                        self.state = State::Between;
                    }
                    None => {
                        let mut len = rest.len();
                        if !end {
                            len -= held(rest, &[close]);
                            // The newline before the end is not part of the value.
                            len -= usize::from(rest[..len].ends_with('\n'));
                        }
                        out.push_str(&escaped(&rest[..len]));
                        return Read::More(at + len);
                    }
                },
                State::Value(types) => match rest.find(close) {
                    Some(len) => {
                        out.push_str(&typed(rest[..len].trim(), types));
                        at += len + close.len();
                        self.state = State::Between;
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

    /// A parameter's value follows.
    fn begin(&mut self, name: &str, out: &mut String) {
        out.push_str(if self.count == 0 { "{" } else { ", " });
        out.push_str(&quoted(name));
        out.push_str(": ");
        self.count += 1;
        let types = types(&self.schema, name);
        self.state = if types.iter().all(|name| name == "string") {
            out.push('"');
            State::Text { begun: false }
        } else {
            State::Value(types)
        };
    }
}

fn between(tags: &Tags, text: &str, end: bool) -> Between {
    let lead = white(text);
    match begins(&text[lead..], &[tags.open, tags.end], end) {
        Begins::Perhaps => return Between::Wait,
        Begins::With(marker) if marker == tags.end => return Between::End(lead + marker.len()),
        Begins::With(_) => {}
        Begins::Not if lead == text.len() => return Between::Wait,
        Begins::Not => return Between::Broken,
    }
    let start = lead + tags.open.len();
    let Some((len, marker)) = find(&text[start..], tags.named) else { return Between::Wait };
    let name = text[start..start + len].trim().to_owned();
    let at = start + len + marker.len();
    let Some(value) = tags.value else { return Between::Parameter(name, at) };
    let lead = white(&text[at..]);
    match begins(&text[at + lead..], &[value], end) {
        Begins::Perhaps => Between::Wait,
        Begins::With(value) => Between::Parameter(name, at + lead + value.len()),
        Begins::Not if at + lead == text.len() => Between::Wait,
        Begins::Not => Between::Broken,
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
