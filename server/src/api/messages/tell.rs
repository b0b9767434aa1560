//! An answer as a `message`: its events, and the same in one piece.

use host::engine::FinishReason;
use host::text::output::complete_json;
use serde_json::{Value, json};

use crate::answer::{End, Update};
use crate::api::prompt;
use crate::http::{ApiError, Dialect};
use crate::output::Piece;
use crate::stream::{Choice, Frames, Teller, Totals};

/// Tells an answer as a `message`.
pub struct Message {
    id: String,
    model: String,
    input_tokens: usize,
    blocks: Blocks,
    end: Option<End>,
}

/// The content as it grows, and its events.
#[derive(Default)]
struct Blocks {
    /// Blocks that are complete.
    content: Vec<Value>,
    open: Option<Block>,
}

/// A block that grows.
struct Block {
    kind: Kind,
    /// The tool's.
    id: Option<String>,
    name: String,
    text: String,
}

/// Kind of a content block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    Tool(usize),
}

/// Ours: clients only hand it back.
const SIGNATURE: &str = "imp";

impl Block {
    fn new(kind: Kind) -> Self {
        Self { kind, id: None, name: String::new(), text: String::new() }
    }

    /// What its first event says.
    fn start(&self) -> Value {
        match self.kind {
            Kind::Text => json!({"type": "text", "text": ""}),
            Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Kind::Tool(_) => {
                json!({"type": "tool_use", "id": self.id, "name": self.name, "input": {}})
            }
        }
    }

    fn delta(&self, text: &str) -> Value {
        match self.kind {
            Kind::Text => json!({"type": "text_delta", "text": text}),
            Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
            Kind::Tool(_) => json!({"type": "input_json_delta", "partial_json": text}),
        }
    }

    /// The block when it is complete.
    fn whole(&self) -> Value {
        match self.kind {
            Kind::Text => json!({"type": "text", "text": self.text}),
            Kind::Thinking => {
                json!({"type": "thinking", "thinking": self.text, "signature": SIGNATURE})
            }
            Kind::Tool(_) => {
                // of an answer that was cut off, as far as it came; what is no object at all is seen as text
                let input = match self.text.trim() {
                    "" => json!({}),
                    text => prompt::arguments(&complete_json(text)),
                };
                json!({"type": "tool_use", "id": self.id, "name": self.name, "input": input})
            }
        }
    }
}

impl Blocks {
    fn piece(&mut self, piece: &Piece, frames: &mut Frames) {
        match piece {
            Piece::Content(text) => {
                self.open(Block::new(Kind::Text), frames);
                self.delta(text, frames);
            }
            Piece::Reasoning(text) => {
                self.open(Block::new(Kind::Thinking), frames);
                self.delta(text, frames);
            }
            Piece::ToolStart { index, id, name } => {
                let (id, name) = (id.clone(), name.clone());
                self.open(Block { id, name, ..Block::new(Kind::Tool(*index)) }, frames);
            }
            Piece::ToolArguments { fragment, .. } => self.delta(fragment, frames),
        }
    }

    /// Makes sure that a block of this kind is open.
    fn open(&mut self, block: Block, frames: &mut Frames) {
        if self.open.as_ref().is_some_and(|open| open.kind == block.kind) {
            return;
        }
        self.close(frames);
        let event = json!({"type": "content_block_start", "index": self.content.len(),
            "content_block": block.start()});
        frames.event("content_block_start", &event);
        self.open = Some(block);
    }

    fn delta(&mut self, text: &str, frames: &mut Frames) {
        let Some(block) = &mut self.open else { return };
        block.text.push_str(text);
        frames.event("content_block_delta", &block_delta(self.content.len(), &block.delta(text)));
    }

    /// Ends the block that grows, if there is one.
    fn close(&mut self, frames: &mut Frames) {
        let Some(block) = self.open.take() else { return };
        let index = self.content.len();
        if block.kind == Kind::Thinking {
            let delta = json!({"type": "signature_delta", "signature": SIGNATURE});
            frames.event("content_block_delta", &block_delta(index, &delta));
        }
        frames.event("content_block_stop", &json!({"type": "content_block_stop", "index": index}));
        self.content.push(block.whole());
    }

    /// Whether a tool was called.
    fn called(&self) -> bool {
        self.content.iter().any(|block| block["type"] == "tool_use")
    }
}

impl Message {
    /// Of this id, from a prompt of this many tokens.
    pub fn new(id: String, model: String, input_tokens: usize) -> Self {
        Self { id, model, input_tokens, blocks: Blocks::default(), end: None }
    }

    fn object(&self, content: Value, end: Option<(&End, bool)>, output_tokens: usize) -> Value {
        let (reason, sequence) =
            end.map(|(end, called)| stop_reason(end, called)).unwrap_or_default();
        let cached = end.map_or(0, |(end, _)| end.cached_tokens);
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": {
                "input_tokens": self.input_tokens - cached,
                "output_tokens": output_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": cached,
            },
        })
    }
}

fn block_delta(index: usize, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

/// `stop_reason` and `stop_sequence`.
fn stop_reason(end: &End, called: bool) -> (Option<&'static str>, Option<&str>) {
    match &end.reason {
        FinishReason::StopString(stop) => (Some("stop_sequence"), Some(stop)),
        FinishReason::Length if end.context_full => (Some("model_context_window_exceeded"), None),
        FinishReason::Length => (Some("max_tokens"), None),
        _ if called => (Some("tool_use"), None),
        _ => (Some("end_turn"), None),
    }
}

impl Teller for Message {
    fn open(&mut self, frames: &mut Frames) {
        let message = self.object(json!([]), None, 0);
        frames.event("message_start", &json!({"type": "message_start", "message": message}));
        self.ping(frames);
    }

    fn update(&mut self, update: &Update, frames: &mut Frames) {
        for piece in &update.pieces {
            self.blocks.piece(piece, frames);
        }
        self.end = update.end.clone().or(self.end.take());
    }

    fn close(&mut self, totals: &Totals, frames: &mut Frames) {
        self.blocks.close(frames);
        let called = self.blocks.called();
        let end = self.end.as_ref().map(|end| (end, called));
        let message = self.object(json!([]), end, totals.completion_tokens);
        frames.event(
            "message_delta",
            &json!({
                "type": "message_delta",
                "delta": {
                    "stop_reason": message["stop_reason"],
                    "stop_sequence": message["stop_sequence"],
                },
                "usage": message["usage"],
            }),
        );
        frames.event("message_stop", &json!({"type": "message_stop"}));
    }

    fn ping(&mut self, frames: &mut Frames) {
        frames.event("ping", &json!({"type": "ping"}));
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.event("error", &error.body(Dialect::Anthropic));
    }

    fn whole(&self, choices: &[Choice], totals: &Totals) -> Value {
        let Some(choice) = choices.first() else { return Value::Null };
        let (mut blocks, mut unread) = (Blocks::default(), Frames::default());
        choice.pieces.iter().for_each(|piece| blocks.piece(piece, &mut unread));
        blocks.close(&mut unread);
        let end = choice.end.as_ref().map(|end| (end, blocks.called()));
        self.object(json!(blocks.content), end, totals.completion_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_its_events_in_order() {
        let mut teller = Message::new("m".into(), "m".into(), 3);
        let mut frames = Frames::default();
        teller.open(&mut frames);
        let pieces = vec![
            Piece::Reasoning("a".into()),
            Piece::Content("b".into()),
            Piece::Content("c".into()),
            Piece::ToolStart { index: 0, id: Some("t".into()), name: "f".into() },
            Piece::ToolArguments { index: 0, fragment: "{}".into() },
        ];
        teller.update(&Update { pieces, ..Update::default() }, &mut frames);
        teller.close(&Totals::default(), &mut frames);
        let text = frames.text();
        let events: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
        let delta = "content_block_delta";
        assert_eq!(
            events,
            [
                "message_start",
                "ping",
                "content_block_start",
                delta,
                delta,
                "content_block_stop",
                "content_block_start",
                delta,
                delta,
                "content_block_stop",
                "content_block_start",
                delta,
                "content_block_stop",
                "message_delta",
                "message_stop",
            ]
        );
        assert!(text.contains("\"index\":2"), "{text}");
    }
}
