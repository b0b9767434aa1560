//! Arguments that are not written as JSON.

use serde_json::{Value, json};

use super::{ConstraintError, Tags, Writer, quoted};
use crate::text::output::is_tool_name;

const GEMMA_QUOTE: &str = "<|\"|>";

impl Writer<'_> {
    /// Parameters in tags: those of the schema in its order, the required ones always.
    pub(super) fn parameters(
        &mut self,
        tags: &Tags,
        schema: &Value,
    ) -> Result<String, ConstraintError> {
        let mut items = vec![];
        for (name, property) in properties(schema) {
            check_name(name, !name.contains(['<', '>', '"', '\n']))?;
            self.check_size()?;
            let (open, named) = (self.text(tags.open), self.text(tags.named));
            let head = format!("{open} {} {named}", quoted(name));
            let close = self.text(tags.close);
            let value = match texts(property) {
                Some(Texts::Any) => self.text_until(tags.close),
                Some(Texts::OneOf(texts)) => {
                    let any = texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(" | ");
                    self.rule(&format!("({any}) {close}"))
                }
                None => {
                    let value = self.json(&with_definitions(property, schema))?;
                    self.rule(&format!("{value} {close}"))
                }
            };
            let item = self.rule(&format!("{head} {value}"));
            let optional = if is_required(schema, name) { "" } else { "?" };
            items.push(format!("{item}{optional}"));
        }
        if items.is_empty() {
            items.push("\"\"".to_owned());
        }
        Ok(self.rule(&items.join(" ")))
    }

    /// An object in Gemma 4's notation: the properties of the schema in its order.
    pub(super) fn gemma_object(&mut self, schema: &Value) -> Result<String, ConstraintError> {
        let mut pairs = vec![];
        // Required ones first, so that a comma always stands between two.
        for wanted in [true, false] {
            for (name, property) in properties(schema) {
                if is_required(schema, name) == wanted {
                    check_name(name, is_tool_name(name))?;
                    let value = self.gemma_value(property)?;
                    let pair = self.rule(&format!("{} {value}", quoted(&format!("{name}:"))));
                    pairs.push((pair, wanted));
                }
            }
        }
        let Some((first, _)) = pairs.iter().find(|(_, required)| *required) else {
            return Ok(self.gemma_optional(&pairs));
        };
        let mut body = first.clone();
        for (pair, required) in &pairs[1..] {
            body.push_str(&format!(" (\",\" {pair}){}", if *required { "" } else { "?" }));
        }
        Ok(self.rule(&format!("\"{{\" {body} \"}}\"")))
    }

    /// An object of which every property may be missing.
    fn gemma_optional(&mut self, pairs: &[(String, bool)]) -> String {
        let (mut tail, mut choices) = ("\"\"".to_owned(), vec!["\"\"".to_owned()]);
        for (pair, _) in pairs.iter().rev() {
            choices.push(format!("{pair} {tail}"));
            tail = self.rule(&format!("(\",\" {pair})? {tail}"));
        }
        self.rule(&format!("\"{{\" ({}) \"}}\"", choices.join(" | ")))
    }

    fn gemma_value(&mut self, schema: &Value) -> Result<String, ConstraintError> {
        let quote = self.text(GEMMA_QUOTE);
        match texts(schema) {
            Some(Texts::Any) => {
                let text = self.text_until(GEMMA_QUOTE);
                return Ok(format!("{quote} {text}"));
            }
            Some(Texts::OneOf(texts)) => {
                let any = texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(" | ");
                return Ok(format!("{quote} ({any}) {quote}"));
            }
            None => {}
        }
        Ok(match schema.get("type").and_then(Value::as_str) {
            Some("object") if !properties(schema).is_empty() => self.gemma_object(schema)?,
            Some("array") => {
                let item = match schema.get("items") {
                    Some(items) => self.gemma_value(items)?,
                    None => self.gemma_any(),
                };
                self.rule(&format!("\"[\" (({item}) (\",\" ({item}))*)? \"]\""))
            }
            Some(name @ ("integer" | "number" | "boolean" | "null")) => {
                self.rule(&format!("%json {}", json!({ "type": name })))
            }
            _ => self.gemma_any(),
        })
    }

    /// Any value.
    fn gemma_any(&mut self) -> String {
        let quote = self.text(GEMMA_QUOTE);
        let text = self.text_until(GEMMA_QUOTE);
        let simple = json!({ "type": ["number", "boolean", "null"] });
        let simple = self.rule(&format!("%json {simple}"));
        let (any, pair) = (format!("r{}", self.rules), format!("r{}", self.rules + 1));
        let text = format!("{quote} {text}");
        let list = format!("\"[\" ({any} (\",\" {any})*)? \"]\"");
        let map = format!("\"{{\" ({pair} (\",\" {pair})*)? \"}}\"");
        self.rule(&format!("{text} | {simple} | {list} | {map}"));
        self.rule(&format!("/[A-Za-z_][A-Za-z0-9_]*/ \":\" {any}"));
        any
    }
}

/// What text a schema allows.
enum Texts {
    Any,
    OneOf(Vec<String>),
}

/// `None` where it allows something else than text.
fn texts(schema: &Value) -> Option<Texts> {
    let values = schema.get("enum").and_then(Value::as_array).cloned();
    let values = values.or_else(|| schema.get("const").map(|value| vec![value.clone()]));
    if let Some(values) = values {
        let texts: Option<Vec<String>> =
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        return texts.filter(|texts| !texts.is_empty()).map(Texts::OneOf);
    }
    let is_string = |name: &Value| name == "string";
    match schema.get("type") {
        Some(Value::Array(names)) => names.iter().any(is_string).then_some(Texts::Any),
        Some(name) => is_string(name).then_some(Texts::Any),
        None => {
            let open = ["anyOf", "oneOf", "allOf", "$ref", "properties", "items"];
            (!open.iter().any(|key| schema.get(key).is_some())).then_some(Texts::Any)
        }
    }
}

fn properties(schema: &Value) -> Vec<(&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten().collect()
}

fn is_required(schema: &Value, name: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

/// Refuses a property whose name the notation cannot hold.
fn check_name(name: &str, fits: bool) -> Result<(), ConstraintError> {
    if fits {
        return Ok(());
    }
    let reason = format!("the model's tool calls cannot hold a parameter named {name:?}");
    Err(ConstraintError::Invalid { what: "grammar of the tools", reason })
}

/// A part of a schema that finds what it refers to.
fn with_definitions(part: &Value, root: &Value) -> Value {
    let refers = part.to_string().contains("$ref");
    let mut part = part.clone();
    if let Value::Object(part) = &mut part
        && refers
    {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                part.entry(key).or_insert_with(|| definitions.clone());
            }
        }
    }
    part
}
