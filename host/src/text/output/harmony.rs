//! gpt-oss: an answer is messages in channels,
//! `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>commentary to=functions.name <|constrain|>json<|message|>{..}<|call|>`.

use super::arguments::{Read, Reader};
use super::scan::{Begins, begins, find, held, white};
use super::{Piece, Tool};

const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const START: &str = "<|start|>";
const CONSTRAIN: &str = "<|constrain|>";
/// What ends a message.
const ENDS: &[&str] = &["<|end|>", "<|call|>", "<|return|>", START, CHANNEL];

/// Tokens that the parser must see.
pub(super) const CONTROL: &[&str] =
    &[CHANNEL, MESSAGE, START, CONSTRAIN, "<|end|>", "<|call|>", "<|return|>"];

/// Bytes of a header; what is longer is none.
const MAX_HEADER: usize = 4096;

/// Cuts an answer into messages.
#[derive(Debug)]
pub(super) struct Harmony {
    tools: Vec<Tool>,
    /// Whether reasoning is told apart.
    separate: bool,
    state: State,
    text: String,
    at: usize,
    count: usize,
}

#[derive(Debug)]
enum State {
    /// Before a header, or an answer without any.
    Between,
    /// Up to `<|message|>`, of which the part given is known to be there.
    Header,
    Body(Body),
    Arguments(Reader),
    /// Behind arguments: nothing is shown up to the next message.
    Behind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    Reasoning,
    Content,
    /// Reasoning that stays in the content with its markers.
    Raw,
}

impl Harmony {
    pub fn new(tools: Vec<Tool>, separate: bool) -> Self {
        let (state, text) = (State::Between, String::new());
        Self { tools, separate, state, text, at: 0, count: 0 }
    }

    /// Takes the next text; all that is left at the `end`.
    pub fn push(&mut self, text: &str, end: bool, out: &mut Vec<Piece>) {
        self.text.push_str(text);
        while self.step(end, out) {}
        self.text.drain(..self.at);
        self.at = 0;
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn step(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Between => self.between(end),
            State::Header => self.header(end, out),
            State::Body(body) => self.body(body, end, out),
            State::Arguments(reader) => self.arguments(reader, end, out),
            State::Behind => self.behind(end),
        }
    }

    fn between(&mut self, end: bool) -> bool {
        let lead = white(self.rest());
        // Where the prompt ends with `<|start|>assistant`, a recipient may come first.
        match begins(&self.rest()[lead..], &[CHANNEL, START, "to="], end) {
            Begins::Perhaps => return false,
            Begins::With(_) => self.state = State::Header,
            Begins::Not if self.rest().is_empty() => return false,
            Begins::Not => self.state = State::Body(Body::Content),
        }
        true
    }

    fn header(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        let rest = self.rest();
        let Some(len) = rest.find(MESSAGE) else {
            if end || rest.len() > MAX_HEADER {
                self.state = State::Body(Body::Content);
                return self.without_markers(out);
            }
            self.state = State::Header;
            return false;
        };
        let header = &rest[..len];
        let body = len + MESSAGE.len();
        if let Some(name) = recipient(header) {
            let tool = self.tools.iter().find(|tool| tool.name == name);
            match (tool, rest[body..].trim_start().chars().next()) {
                (Some(_), None) if !end => {
                    self.state = State::Header;
                    return false;
                }
                (Some(tool), Some('{')) => {
                    let (index, name) = (self.count, tool.name.clone());
                    out.push(Piece::ToolStart { index, id: None, name });
                    self.count += 1;
                    self.at += body;
                    self.state = State::Arguments(Reader::json());
                    return true;
                }
                _ => {}
            }
        }
        let analysis = channel(header) == "analysis";
        let kind = match (analysis, self.separate) {
            (false, _) => Body::Content,
            (true, true) => Body::Reasoning,
            (true, false) => {
                let opening = rest[..body].trim_start();
                let opening = opening.strip_prefix(START).map_or(opening, |opening| {
                    opening.find(CHANNEL).map_or(opening, |channel| &opening[channel..])
                });
                out.push(Piece::Content(opening.to_owned()));
                Body::Raw
            }
        };
        self.at += body;
        self.state = State::Body(kind);
        true
    }

    /// A header that never ended: its text is shown, its control tokens are not.
    fn without_markers(&mut self, out: &mut Vec<Piece>) -> bool {
        let mut rest = self.rest();
        let mut shown = String::new();
        while let Some((at, marker)) = find(rest, CONTROL) {
            shown.push_str(&rest[..at]);
            rest = &rest[at + marker.len()..];
        }
        shown.push_str(rest);
        if !shown.is_empty() {
            out.push(Piece::Content(shown));
        }
        self.at = self.text.len();
        true
    }

    fn body(&mut self, body: Body, end: bool, out: &mut Vec<Piece>) -> bool {
        let found = find(self.rest(), ENDS);
        let len = match found {
            Some((at, _)) => at,
            None if end => self.rest().len(),
            None => self.rest().len() - held(self.rest(), ENDS),
        };
        if len > 0 {
            let text = self.rest()[..len].to_owned();
            out.push(match body {
                Body::Reasoning => Piece::Reasoning(text),
                Body::Content | Body::Raw => Piece::Content(text),
            });
        }
        self.at += len;
        match found {
            None => self.state = State::Body(body),
            // Begins the next header.
            Some((_, START | CHANNEL)) => self.state = State::Between,
            Some((_, marker)) => {
                if body == Body::Raw {
                    out.push(Piece::Content(marker.to_owned()));
                }
                self.at += marker.len();
                self.state = State::Between;
            }
        }
        found.is_some()
    }

    fn arguments(&mut self, mut reader: Reader, end: bool, out: &mut Vec<Piece>) -> bool {
        match reader.read_call(&self.text[self.at..], end, self.count - 1, out) {
            Read::More(len) => {
                self.at += len;
                self.state = State::Arguments(reader);
                false
            }
            Read::Done(len) => {
                self.at += len;
                self.state = State::Behind;
                true
            }
            Read::Broken(len) => {
                self.at += len;
                self.state = State::Body(Body::Content);
                true
            }
        }
    }

    fn behind(&mut self, end: bool) -> bool {
        self.at += white(self.rest());
        match begins(self.rest(), ENDS, end) {
            Begins::Perhaps => {
                self.state = State::Behind;
                false
            }
            Begins::With(START | CHANNEL) => true,
            Begins::With(marker) => {
                self.at += marker.len();
                true
            }
            Begins::Not => {
                self.state = State::Body(Body::Content);
                !self.rest().is_empty()
            }
        }
    }
}

/// The function that a header addresses.
fn recipient(header: &str) -> Option<&str> {
    let name = header.split("to=functions.").nth(1)?;
    let len = name.find(|c: char| c.is_whitespace() || c == '<');
    Some(&name[..len.unwrap_or(name.len())])
}

fn channel(header: &str) -> &str {
    let name = header.rsplit(CHANNEL).next().unwrap_or_default().trim_start();
    let len = name.find(|c: char| c.is_whitespace() || c == '<');
    &name[..len.unwrap_or(name.len())]
}
