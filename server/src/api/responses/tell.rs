//! An answer as a `response`: its events, and the same in one piece.

use host::engine::FinishReason;
use serde_json::{Value, json};

use crate::answer::{End, Update};
use crate::http::route::random_id;
use crate::http::{ApiError, Dialect};
use crate::output::Piece;
use crate::stream::{Choice, Frames, Teller, Totals};

/// Tells an answer as a `response`.
pub struct Response {
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
        self.close("completed", frames);
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

    /// Ends the item that grows, if there is one, with a status.
    fn close(&mut self, status: &str, frames: &mut Frames) {
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
        let object = item.object(status, json!([part]));
        let done = json!({"output_index": index, "item": object});
        self.event("response.output_item.done", done, frames);
        self.output.push(object);
    }
}

impl Response {
    /// One with these fields beside those of its answer.
    pub fn new(fixed: Value) -> Self {
        Self { fixed, items: Items::default(), end: None }
    }

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
        let status = status(self.end.as_ref());
        self.items.close(status, frames);
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
            choice.pieces.iter().for_each(|piece| items.piece(piece, &mut unread));
            choice.end.as_ref()
        });
        let status = status(end);
        items.close(status, &mut unread);
        self.object(status, &items.output, Some(usage(totals)))
    }
}

#[cfg(test)]
mod tests {
    use host::engine::Timings;

    use super::*;

    fn response() -> Response {
        Response::new(json!({"id": "r"}))
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
    fn an_item_that_the_limit_cut_off_is_incomplete() {
        let end = End {
            reason: FinishReason::Length,
            context_full: false,
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: 2,
            reasoning_tokens: 0,
            timings: Timings::default(),
        };
        let mut teller = response();
        let mut frames = Frames::default();
        teller.open(&mut frames);
        let pieces = vec![
            Piece::Content("b".into()),
            Piece::ToolStart { index: 0, id: Some("t".into()), name: "f".into() },
            Piece::ToolArguments { index: 0, fragment: "{\"x".into() },
        ];
        teller.update(&Update { pieces, end: Some(end), ..Update::default() }, &mut frames);
        teller.close(&Totals::default(), &mut frames);
        let text = frames.text();
        let last = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
        let last: Value = serde_json::from_str(last.unwrap()).unwrap();
        let statuses = [0, 1].map(|item: usize| last["response"]["output"][item]["status"].clone());
        assert_eq!(statuses, ["completed", "incomplete"]);
        assert_eq!(
            (last["type"].as_str(), &last["response"]["status"]),
            (Some("response.incomplete"), &json!("incomplete"))
        );
    }
}
