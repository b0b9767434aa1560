//! OpenAI's `/v1/responses`, without memory: nothing is stored, and nothing can be referred to.

use host::constrain::GrammarSpec;
use host::engine::FinishReason;
use serde_json::{Map, Value, json};

use super::chat::tool_choice;
use super::json::{Fields, wrong};
use super::prompt::{self, Conversation};
use super::{Context, Job, model, sampling, shortest};
use crate::answer::{End, Update};
use crate::generation::Generation;
use crate::http::route::random_id;
use crate::http::{ApiError, Dialect};
use crate::limits::{MESSAGES, TOOLS};
use crate::output::{Piece, Reading, Wish};
use crate::state::now;
use crate::stream::{Choice, Frames, Teller, Totals};

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let fields = Fields::new(body);
    let model = model(&fields, context.loaded)?;
    refuse_unsupported(&fields)?;
    sampling::refuse_unsupported(&fields)?;
    let conversation = conversation(&fields)?;
    let wish = Wish {
        tools: conversation.tools.clone(),
        choice: tool_choice(&fields)?,
        parallel: fields.flag("parallel_tool_calls", true)?,
        grammar: grammar(&fields)?,
        reasoning: None,
        think_budget: None,
    };
    let (prompt, text) = prompt::tokens(context.loaded, conversation)?;
    let max_tokens = sampling::max_tokens(&fields, &["max_output_tokens"], 1)?;
    let generation = Generation {
        prompts: vec![prompt],
        choices: 1,
        max_tokens: max_tokens.unwrap_or(usize::MAX),
        sampling: sampling::sampling(&fields, &context.app.defaults)?,
        stop: sampling::stop(&fields, "stop")?,
        logprobs: None,
        ignore_eos: false,
        echo: false,
        reading: Reading::new(context.loaded, wish, &text, max_tokens.unwrap_or(usize::MAX))?,
    };
    generation.check(context.loaded, "input")?;
    let echoed = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let fixed = json!({
        "id": format!("resp_{}", random_id()),
        "object": "response",
        "created_at": now(),
        "model": model,
        "instructions": echoed("instructions", Value::Null),
        "max_output_tokens": max_tokens,
        "metadata": echoed("metadata", json!({})),
        "parallel_tool_calls": echoed("parallel_tool_calls", json!(true)),
        "previous_response_id": null,
        "reasoning": echoed("reasoning", json!({"effort": null, "summary": null})),
        "store": false,
        "temperature": shortest(generation.sampling.temperature),
        "text": echoed("text", json!({"format": {"type": "text"}})),
        "tool_choice": echoed("tool_choice", json!("auto")),
        "tools": echoed("tools", json!([])),
        "top_p": shortest(generation.sampling.top_p),
        "truncation": "disabled",
    });
    let teller = Response { fixed, items: Items::default(), end: None };
    Ok(Job { generation, teller: Box::new(teller), stream: fields.flag("stream", false)? })
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in ["previous_response_id", "conversation", "prompt"] {
        if fields.get(name).is_some() {
            let problem = "is not supported: this server keeps no responses; send the whole input";
            return Err(fields.error(name, problem).code("unsupported"));
        }
    }
    if fields.flag("background", false)? {
        return Err(fields.error("background", "is not supported").code("unsupported"));
    }
    let include = fields.list("include", 64)?.unwrap_or(&[]);
    if include.iter().any(|what| what == "message.output_text.logprobs") {
        let problem =
            "message.output_text.logprobs is not supported; /v1/chat/completions has them";
        return Err(fields.error("include", problem).code("unsupported"));
    }
    Ok(())
}

/// `text.format`.
fn grammar(fields: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let text = fields.object("text")?;
    let format = text.map(|text| sampling::format(&text)).transpose()?.flatten();
    Ok(format.or(sampling::grammar(fields)?))
}

fn conversation(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let mut messages = vec![];
    if let Some(text) = fields.text("instructions")?.filter(|text| !text.is_empty()) {
        messages.push(json!({"role": "system", "content": text}));
    }
    match fields.get("input") {
        None => return Err(fields.error("input", "is missing, expected a string or items")),
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(_)) => {
            for (index, value) in fields.list("input", MESSAGES)?.unwrap_or(&[]).iter().enumerate()
            {
                item(&Fields::of(value, &format!("input[{index}]"))?, &mut messages)?;
            }
        }
        Some(other) => return Err(wrong("input", "a string or an array of items", other)),
    }
    let mut variables = prompt::variables(fields)?;
    if let Some(effort) = fields.object("reasoning")?.and_then(|r| r.get("effort").cloned()) {
        variables.entry("reasoning_effort").or_insert(effort);
    }
    let tools = tools(fields)?;
    Ok(Conversation { messages, tools, variables, goes_on: false, head: true, field: "input" })
}

/// Adds an item of the input. Calls and thoughts belong to one turn of the assistant.
fn item(fields: &Fields<'_>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    match fields.text("type")?.unwrap_or("message") {
        "message" => {
            let role = match fields.needed_text("role")? {
                "developer" => "system",
                role @ ("system" | "user" | "assistant") => role,
                other => {
                    let problem =
                        format!("is {other:?}, expected system, developer, user or assistant");
                    return Err(fields.error("role", problem));
                }
            };
            let content =
                fields.get("content").ok_or_else(|| fields.error("content", "is missing"))?;
            let content = prompt::text_of(content, &fields.path("content"))?;
            match messages.last_mut() {
                // the thoughts before it
                Some(last) if role == "assistant" && is_open(last) => {
                    last["content"] = json!(content)
                }
                _ => messages.push(json!({"role": role, "content": content})),
            }
        }
        "function_call" => {
            let call = json!({
                "id": fields.needed_text("call_id")?,
                "type": "function",
                "function": {
                    "name": fields.needed_text("name")?,
                    "arguments": prompt::arguments(fields.text("arguments")?.unwrap_or("{}")),
                },
            });
            assistant(messages)["tool_calls"]
                .as_array_mut()
                .map(|calls| calls.push(call.clone()))
                .unwrap_or_else(|| assistant(messages)["tool_calls"] = json!([call]));
        }
        "function_call_output" => {
            let output =
                fields.get("output").ok_or_else(|| fields.error("output", "is missing"))?;
            messages.push(json!({
                "role": "tool",
                "tool_call_id": fields.needed_text("call_id")?,
                "content": prompt::text_of(output, &fields.path("output"))?,
            }));
        }
        "reasoning" => {
            let content = fields.list("content", MESSAGES)?.unwrap_or(&[]);
            let texts = content.iter().filter_map(|part| part["text"].as_str());
            let text = texts.collect::<Vec<_>>().join("\n");
            if !text.is_empty() {
                messages
                    .push(json!({"role": "assistant", "content": "", "reasoning_content": text}));
            }
        }
        other => {
            let problem = format!("is {other:?}, which is not supported");
            return Err(fields.error("type", problem).code("unsupported"));
        }
    }
    Ok(())
}

/// A turn of the assistant that only holds thoughts yet.
fn is_open(message: &Value) -> bool {
    message["role"] == "assistant"
        && message["content"] == ""
        && message.get("reasoning_content").is_some()
        && message.get("tool_calls").is_none()
}

/// The last message, which becomes one of the assistant if it is none.
fn assistant(messages: &mut Vec<Value>) -> &mut Value {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant", "content": ""}));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

/// Functions; tools of other types run at OpenAI and do not exist here.
fn tools(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    if fields.get("tool_choice").is_some_and(|choice| choice == "none") {
        return Ok(vec![]);
    }
    let list = fields.list("tools", TOOLS)?.unwrap_or(&[]);
    let functions: Vec<&Value> = list.iter().filter(|tool| tool["type"] == "function").collect();
    let mut own = Map::new();
    own.insert("tools".to_owned(), json!(functions));
    prompt::tools(&Fields::new(&own), "parameters")
}

/// Tells an answer as a `response`.
struct Response {
    /// Fields that do not change.
    fixed: Value,
    items: Items,
    end: Option<End>,
}

/// The output as it grows, and its events.
#[derive(Default)]
struct Items {
    /// Number of the next event.
    sequence: usize,
    /// Items that are complete.
    output: Vec<Value>,
    open: Option<Item>,
}

/// An item that grows.
struct Item {
    kind: Kind,
    id: String,
    call_id: String,
    name: String,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call(usize),
}

impl Item {
    fn new(kind: Kind, call_id: String, name: String) -> Self {
        let prefix = match kind {
            Kind::Reasoning => "rs",
            Kind::Message => "msg",
            Kind::Call(_) => "fc",
        };
        Self { kind, id: format!("{prefix}_{}", random_id()), call_id, name, text: String::new() }
    }

    /// The item with this text, in this status.
    fn object(&self, status: &str, content: Value) -> Value {
        match self.kind {
            Kind::Message => json!({"type": "message", "id": self.id, "status": status,
                "role": "assistant", "content": content}),
            Kind::Reasoning => json!({"type": "reasoning", "id": self.id, "status": status,
                "summary": [], "content": content}),
            Kind::Call(_) => json!({"type": "function_call", "id": self.id, "status": status,
                "call_id": self.call_id, "name": self.name, "arguments": self.text}),
        }
    }

    fn part(&self, text: &str) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
            _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
        }
    }

    /// Begin of the names of its events.
    fn events(&self) -> &'static str {
        match self.kind {
            Kind::Reasoning => "response.reasoning_text",
            Kind::Message => "response.output_text",
            Kind::Call(_) => "response.function_call_arguments",
        }
    }
}

impl Items {
    fn event(&mut self, name: &str, mut value: Value, frames: &mut Frames) {
        value["type"] = json!(name);
        value["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        frames.event(name, &value);
    }

    fn piece(&mut self, piece: &Piece, frames: &mut Frames) {
        match piece {
            Piece::Reasoning(text) => {
                self.open(Kind::Reasoning, String::new(), String::new(), frames);
                self.delta(text, frames);
            }
            Piece::Content(text) => {
                self.open(Kind::Message, String::new(), String::new(), frames);
                self.delta(text, frames);
            }
            Piece::ToolStart { index, id, name } => {
                self.open(Kind::Call(*index), id.clone().unwrap_or_default(), name.clone(), frames);
            }
            Piece::ToolArguments { fragment, .. } => self.delta(fragment, frames),
        }
    }

    fn open(&mut self, kind: Kind, call_id: String, name: String, frames: &mut Frames) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close(frames);
        let item = Item::new(kind, call_id, name);
        let index = self.output.len();
        let added = json!({"output_index": index, "item": item.object("in_progress", json!([]))});
        self.event("response.output_item.added", added, frames);
        if !matches!(kind, Kind::Call(_)) {
            let added = json!({"item_id": item.id, "output_index": index, "content_index": 0,
                "part": item.part("")});
            self.event("response.content_part.added", added, frames);
        }
        self.open = Some(item);
    }

    fn delta(&mut self, text: &str, frames: &mut Frames) {
        let index = self.output.len();
        let Some(item) = &mut self.open else { return };
        item.text.push_str(text);
        let name = format!("{}.delta", item.events());
        let mut delta = json!({"item_id": item.id, "output_index": index, "delta": text});
        if !matches!(item.kind, Kind::Call(_)) {
            delta["content_index"] = json!(0);
        }
        if item.kind == Kind::Message {
            delta["logprobs"] = json!([]);
        }
        self.event(&name, delta, frames);
    }

    /// Ends the item that grows, if there is one.
    fn close(&mut self, frames: &mut Frames) {
        let Some(item) = self.open.take() else { return };
        let index = self.output.len();
        let name = format!("{}.done", item.events());
        let part = item.part(&item.text);
        if let Kind::Call(_) = item.kind {
            let done = json!({"item_id": item.id, "output_index": index, "name": item.name,
                "arguments": item.text});
            self.event(&name, done, frames);
        } else {
            let mut done = json!({"item_id": item.id, "output_index": index, "content_index": 0,
                "text": item.text});
            if item.kind == Kind::Message {
                done["logprobs"] = json!([]);
            }
            self.event(&name, done, frames);
            let done = json!({"item_id": item.id, "output_index": index, "content_index": 0,
                "part": part});
            self.event("response.content_part.done", done, frames);
        }
        let object = item.object("completed", json!([part]));
        let done = json!({"output_index": index, "item": object});
        self.event("response.output_item.done", done, frames);
        self.output.push(object);
    }
}

impl Response {
    fn object(&self, status: &str, output: &[Value], usage: Option<Value>) -> Value {
        let mut object = self.fixed.clone();
        object["status"] = json!(status);
        object["output"] = json!(output);
        object["error"] = Value::Null;
        object["incomplete_details"] = match status {
            "incomplete" => json!({"reason": "max_output_tokens"}),
            _ => Value::Null,
        };
        object["usage"] = usage.unwrap_or(Value::Null);
        object
    }
}

fn status(end: Option<&End>) -> &'static str {
    match end {
        Some(End { reason: FinishReason::Length, .. }) => "incomplete",
        _ => "completed",
    }
}

fn usage(totals: &Totals) -> Value {
    json!({
        "input_tokens": totals.prompt_tokens,
        "input_tokens_details": {"cached_tokens": totals.cached_tokens},
        "output_tokens": totals.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": totals.reasoning_tokens},
        "total_tokens": totals.prompt_tokens + totals.completion_tokens,
    })
}

impl Teller for Response {
    fn open(&mut self, frames: &mut Frames) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.object("in_progress", &[], None);
            self.items.event(name, json!({"response": response}), frames);
        }
    }

    fn update(&mut self, update: &Update, frames: &mut Frames) {
        for piece in &update.pieces {
            self.items.piece(piece, frames);
        }
        self.end = update.end.clone().or(self.end.take());
    }

    fn close(&mut self, totals: &Totals, frames: &mut Frames) {
        self.items.close(frames);
        let status = status(self.end.as_ref());
        let response = self.object(status, &self.items.output, Some(usage(totals)));
        self.items.event(&format!("response.{status}"), json!({"response": response}), frames);
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) {
        let mut response = self.object("failed", &self.items.output, None);
        let body = error.body(Dialect::OpenAi);
        response["error"] = json!({"code": "server_error", "message": body["error"]["message"]});
        self.items.event("response.failed", json!({"response": response}), frames);
    }

    fn whole(&self, choices: &[Choice], totals: &Totals) -> Value {
        let (mut items, mut unread) = (Items::default(), Frames::default());
        let end = choices.first().and_then(|choice| {
            pieces(choice).iter().for_each(|piece| items.piece(piece, &mut unread));
            choice.end.as_ref()
        });
        items.close(&mut unread);
        self.object(status(end), &items.output, Some(usage(totals)))
    }
}

/// A collected choice as the pieces it came in.
fn pieces(choice: &Choice) -> Vec<Piece> {
    let mut pieces = vec![];
    if !choice.reasoning.is_empty() {
        pieces.push(Piece::Reasoning(choice.reasoning.clone()));
    }
    if !choice.content.is_empty() {
        pieces.push(Piece::Content(choice.content.clone()));
    }
    for (index, tool) in choice.tools.iter().enumerate() {
        let id = Some(tool.id.clone());
        pieces.push(Piece::ToolStart { index, id, name: tool.name.clone() });
        pieces.push(Piece::ToolArguments { index, fragment: tool.arguments.clone() });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> Response {
        Response { fixed: json!({"id": "r"}), items: Items::default(), end: None }
    }

    #[test]
    fn events_are_numbered_and_in_order() {
        let mut teller = response();
        let mut frames = Frames::default();
        teller.open(&mut frames);
        let pieces = vec![
            Piece::Reasoning("a".into()),
            Piece::Content("b".into()),
            Piece::ToolStart { index: 0, id: Some("t".into()), name: "f".into() },
            Piece::ToolArguments { index: 0, fragment: "{}".into() },
        ];
        teller.update(&Update { pieces, ..Update::default() }, &mut frames);
        teller.close(&Totals::default(), &mut frames);
        let text = frames.text();
        let events: Vec<Value> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number, "{event}");
        }
        let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        let expected = "created in_progress \
            output_item.added content_part.added reasoning_text.delta reasoning_text.done \
            content_part.done output_item.done \
            output_item.added content_part.added output_text.delta output_text.done \
            content_part.done output_item.done \
            output_item.added function_call_arguments.delta function_call_arguments.done \
            output_item.done completed";
        let expected: Vec<String> =
            expected.split_whitespace().map(|name| format!("response.{name}")).collect();
        assert_eq!(types, expected);
        let output = &events.last().unwrap()["response"]["output"];
        assert_eq!(output[1]["content"][0]["text"], "b");
        assert_eq!(output[2]["arguments"], "{}");
    }

    #[test]
    fn items_become_turns() {
        let body = json!({"instructions": "i", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\":1}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "o"}]},
        ]});
        let read = conversation(&Fields::new(body.as_object().unwrap())).unwrap();
        assert_eq!(read.messages.len(), 4);
        assert_eq!(read.messages[0], json!({"role": "system", "content": "i"}));
        assert_eq!(read.messages[2]["reasoning_content"], "r");
        assert_eq!(read.messages[2]["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!(read.messages[3]["content"], "o");
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": 1}), "input"),
            (json!({"input": [{"type": "image_generation_call"}]}), "input[0].type"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
        ] {
            let error = conversation(&Fields::new(body.as_object().unwrap())).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param));
        }
    }
}
