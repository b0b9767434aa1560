//! Tool choice: the grammar of a family's tool calls.
//!
//! [`grammar`] writes what [`OutputParser`](crate::text::OutputParser) reads: a row of `envelope::ENVELOPES` is what a family
//! writes around the name and the arguments of a call, and `arguments` is how it writes these.

mod arguments;
mod envelope;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use serde_json::Value;

use super::{ConstraintError, json_schema, limits};
use crate::text::output::{Tool, is_tool_name};
use crate::text::{Tokenizer, ToolFormat};
use envelope::{CONTROL, ENVELOPES, Envelope, HARMONY, Notation, Tags};

/// Most tools whose calls are constrained.
pub const MAX_TOOLS: usize = 128;
/// Most calls of one answer that is constrained to calls.
const MAX_CALLS: usize = 16;

/// Which tools an answer must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None: the tools are neither shown to the model nor looked for in its answer.
    None,
    /// At least one of them.
    Required,
    /// This one.
    Named(String),
}

/// The grammar of tool calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCalls {
    /// Lark without its first rule.
    rules: String,
    /// What may come before: reasoning, where it is a part of the grammar.
    reasoning: Option<String>,
    /// The calls.
    calls: String,
    /// What stands in front of an answer without calls.
    answer: String,
}

impl ToolCalls {
    pub(super) fn reasons(&self) -> bool {
        self.reasoning.is_some()
    }

    /// The grammar of the calls.
    pub(super) fn lark(&self) -> String {
        let reasoning = self.reasoning.as_deref().unwrap_or_default();
        format!("start: {reasoning} {}\n{}", self.calls, self.rules)
    }

    /// The same with another item in their place.
    pub(super) fn lark_or(&self, other: &str) -> String {
        let reasoning = self.reasoning.as_deref().unwrap_or_default();
        let (calls, answer) = (&self.calls, &self.answer);
        format!("start: {reasoning} (({calls}) | ({answer} {other}))\n{}", self.rules)
    }
}

/// The grammar that enforces `choice`; `None` where nothing is to be enforced (`Auto`, `None`).
///
/// As of [`calls`].
///
/// # Errors
/// `Tools` when the choice cannot be met, `Limit` and `Invalid` as [`super::Grammars::compile`].
pub fn grammar(
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    format: ToolFormat,
    tokenizer: &Tokenizer,
) -> Result<Option<ToolCalls>, ConstraintError> {
    match choice {
        ToolChoice::Auto | ToolChoice::None => Ok(None),
        _ => calls(tools, choice, parallel, format, tokenizer).map(Some),
    }
}

/// The grammar of calls of the tools: of the one that `choice` names, else of any.
///
/// `parallel` lets an answer make several calls, where the family can. In the formats that do not
/// write JSON, the types, names and enumerations of a schema are enforced, and not the length, pattern or range
/// of what stands in them.
///
/// # Errors
/// `Tools` when the choice cannot be met, `Limit` and `Invalid` as [`super::Grammars::compile`].
pub fn calls(
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    format: ToolFormat,
    tokenizer: &Tokenizer,
) -> Result<ToolCalls, ConstraintError> {
    let tools: Vec<&Tool> = match choice {
        ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
        _ => tools.iter().collect(),
    };
    if tools.is_empty() {
        return Err(ConstraintError::Tools(match choice {
            ToolChoice::Named(name) => format!("{name:?} is not the name of one of the tools"),
            _ => "a call is required, and there are no tools".to_owned(),
        }));
    }
    ConstraintError::limit("number of tools", tools.len(), MAX_TOOLS)?;
    if let Some(tool) = tools.iter().find(|tool| !is_tool_name(&tool.name)) {
        let name = &tool.name;
        return Err(ConstraintError::Tools(format!(
            "{name:?} cannot be the name of a tool, expected letters, digits and _ - . : /"
        )));
    }
    let has = |token: &&str| control_token(tokenizer, token).is_some();
    let fits = |row: &&Envelope| row.format == format.name() && row.needs.as_ref().is_none_or(has);
    let envelope = ENVELOPES.iter().find(fits).ok_or_else(|| {
        ConstraintError::Tools("the model's chat template writes no tool calls".to_owned())
    })?;
    let mut writer = Writer { tokenizer, lark: String::new(), rules: 0 };
    let calls = writer.calls(envelope, &tools, parallel)?;
    let harmony = envelope.format == HARMONY;
    let reasoning = harmony.then(|| writer.analysis());
    let answer = if harmony { writer.text("<|channel|>final<|message|>") } else { String::new() };
    Ok(ToolCalls { rules: writer.lark, reasoning, calls, answer })
}

/// Writes Lark.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    lark: String,
    /// Rules so far, for their names.
    rules: usize,
}

impl Writer<'_> {
    fn calls(
        &mut self,
        envelope: &Envelope,
        tools: &[&Tool],
        parallel: bool,
    ) -> Result<String, ConstraintError> {
        let mut calls = vec![];
        for tool in tools {
            calls.push(self.call(envelope, tool)?);
            self.check_size()?;
        }
        let call = self.rule(&calls.join(" | "));
        let more = match envelope.between.filter(|_| parallel) {
            Some(between) => {
                let between = self.text(between);
                format!(" ({between} {call}){{0,{}}}", MAX_CALLS - 1)
            }
            None => String::new(),
        };
        let (begin, end) = (self.text(envelope.begin), self.text(envelope.end));
        Ok(format!("{begin} {call}{more} {end}"))
    }

    fn call(&mut self, envelope: &Envelope, tool: &Tool) -> Result<String, ConstraintError> {
        limits::check_schema(&tool.parameters)?;
        let arguments = match envelope.arguments {
            Notation::Json => self.json(&object(&tool.parameters)?)?,
            Notation::Parameters(tags) => self.parameters(tags, &object(&tool.parameters)?)?,
            Notation::Gemma => self.gemma_object(&object(&tool.parameters)?)?,
        };
        let head = self.text(envelope.open);
        let name = quoted(&tool.name);
        let (middle, close) = (self.text(envelope.middle), self.text(envelope.close));
        let number = if envelope.numbered { "/:[0-9]{1,3}/" } else { "" };
        Ok(self.rule(&format!("{head} {name} {number} {middle} {arguments} {close}")))
    }

    /// gpt-oss may think before it calls.
    fn analysis(&mut self) -> String {
        let open = self.text("<|channel|>analysis<|message|>");
        let thought = self.text_until("<|end|>");
        let next = self.text("<|start|>assistant");
        let rule = self.rule(&format!("{open} {thought} {next}"));
        format!("{rule}?")
    }

    fn check_size(&self) -> Result<(), ConstraintError> {
        let what = "size in bytes of the grammar of the tools";
        ConstraintError::limit(what, self.lark.len(), limits::MAX_TOOLS_BYTES)
    }

    /// A new rule's name.
    fn rule(&mut self, body: &str) -> String {
        let name = format!("r{}", self.rules);
        self.rules += 1;
        writeln!(self.lark, "{name}: {body}").expect("strings grow");
        name
    }

    /// JSON that a schema allows.
    fn json(&mut self, schema: &Value) -> Result<String, ConstraintError> {
        let schema = json_schema(schema)?;
        Ok(self.rule(&format!("%json {schema}")))
    }

    /// A text, its control tokens as such.
    fn text(&self, text: &str) -> String {
        let mut items = vec![];
        let mut rest = text;
        while !rest.is_empty() {
            let places = CONTROL.iter().filter_map(|marker| Some((rest.find(marker)?, *marker)));
            let tokens = places.filter_map(|(at, marker)| {
                Some((at, marker, control_token(self.tokenizer, marker)?))
            });
            let Some((at, marker, id)) = tokens.min_by_key(|(at, ..)| *at) else { break };
            if at > 0 {
                items.push(quoted(&rest[..at]));
            }
            items.push(format!("<[{id}]>"));
            rest = &rest[at + marker.len()..];
        }
        if !rest.is_empty() || items.is_empty() {
            items.push(quoted(rest));
        }
        items.join(" ")
    }

    /// Text up to `end`, and that.
    fn text_until(&mut self, end: &str) -> String {
        // Text never holds a control token, so it ends there by itself.
        let token = CONTROL.iter().find(|marker| end.starts_with(**marker));
        if token.is_some_and(|marker| control_token(self.tokenizer, marker).is_some()) {
            let end = self.text(end);
            return self.rule(&format!("/(?s:.*)/ {end}"));
        }
        let name = format!("r{}", self.rules);
        self.rules += 1;
        writeln!(self.lark, "{name}[suffix={}]: /(?s:.*)/", quoted(end)).expect("strings grow");
        name
    }
}

/// Arguments are an object, whatever a schema without a type says.
fn object(schema: &Value) -> Result<Value, ConstraintError> {
    let mut schema = match schema {
        Value::Null | Value::Bool(true) => return Ok(serde_json::json!({ "type": "object" })),
        Value::Object(_) => schema.clone(),
        other => {
            let reason = format!("a tool's parameters are {other}, expected a JSON schema");
            return Err(ConstraintError::Invalid { what: "grammar of the tools", reason });
        }
    };
    match schema.get("type") {
        None => schema["type"] = "object".into(),
        Some(name) if name == "object" => {}
        Some(other) => {
            let reason = format!("a tool's parameters have the type {other}, expected \"object\"");
            return Err(ConstraintError::Invalid { what: "grammar of the tools", reason });
        }
    }
    Ok(schema)
}

/// A Lark string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The id of a text that is one control token.
fn control_token(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    match tokenizer.encode(text, false, true).ok()?[..] {
        [id] if tokenizer.is_special(id) => Some(id),
        _ => None,
    }
}
