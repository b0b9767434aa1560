//! What the text of an answer means: reasoning, content and tool calls.
//!
//! [`OutputParser`] takes the text piece by piece and gives [`Piece`]s. How the text was cut changes nothing but how
//! the pieces are cut, and no more is held back than may belong to a marker or decides what a text is.
//!
//! A family's way to write tool calls is a file here and a row in `format::FORMATS`; markers of reasoning are a row in
//! `reasoning`. [`ToolFormat::detect`] chooses by the model's own chat template.
//!
//! Markers are often control tokens, which an answer does not show: [`OutputSettings::shown_tokens`] says which ones
//! the parser must see. They never become content.

mod arguments;
mod call;
mod deepseek;
mod format;
mod gemma;
mod gemma4;
mod glm;
mod harmony;
mod hermes;
mod json;
mod kimi;
mod llama3;
mod minimax;
mod mistral;
mod parameters;
mod qwen3_coder;
mod reasoning;
mod scan;
#[cfg(test)]
mod tests;
mod tools;

use std::fmt;

use serde_json::Value;

pub(crate) use format::is_tool_name;
pub use json::complete_json;
pub use reasoning::{ReasoningFormat, ThinkMarkers};

use super::Tokenizer;
use format::{FORMATS, Format};
use harmony::Harmony;
use reasoning::{Part, Splitter};
use tools::Calls;

/// A part of an answer. Parts of one kind that follow each other belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What the model thinks.
    Reasoning(String),
    /// What it says.
    Content(String),
    /// A tool call begins; its arguments follow.
    ToolStart {
        /// Calls before this one.
        index: usize,
        /// The model's own name for the call, in formats that have one.
        id: Option<String>,
        /// One of the tools of [`OutputSettings::tools`].
        name: String,
    },
    /// A part of a call's arguments.
    ToolArguments {
        /// Which call.
        index: usize,
        /// All fragments of a call together are a JSON object; only the head of one
        /// ([`complete_json`]) where the answer was cut off inside it.
        fragment: String,
    },
}

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// How a model writes tool calls.
#[derive(Clone, Copy)]
pub struct ToolFormat(Kind);

#[derive(Clone, Copy)]
enum Kind {
    None,
    Row(&'static Format),
    Harmony,
}

impl ToolFormat {
    /// No tool calls: all text is content.
    pub const NONE: Self = Self(Kind::None);

    /// The format that a chat template writes, by its markers. A template that speaks of tools without one of them is
    /// known by the markers among `special_tokens`, the spellings of the vocabulary's control tokens.
    pub fn detect(template: &str, special_tokens: &[&str]) -> Self {
        if template.contains("<|channel|>") && template.contains("<|message|>") {
            return Self(Kind::Harmony);
        }
        let by_template = FORMATS.iter().find(|format| (format.detect)(template));
        let by_token = || {
            let sure = |format: &&&Format| {
                !format.bare
                    && format.openers.iter().any(|opener| {
                        format.control.contains(opener) && special_tokens.contains(opener)
                    })
            };
            FORMATS.iter().filter(|_| template.contains("tools")).find(sure)
        };
        by_template.or_else(by_token).map_or(Self::NONE, |format| Self(Kind::Row(format)))
    }

    /// The format of this name, one of [`ToolFormat::names`].
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::NONE),
            "harmony" => Some(Self(Kind::Harmony)),
            _ => FORMATS.iter().find(|format| format.name == name).map(|f| Self(Kind::Row(f))),
        }
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ["none", "harmony"].into_iter().chain(FORMATS.iter().map(|format| format.name))
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::None => "none",
            Kind::Harmony => "harmony",
            Kind::Row(format) => format.name,
        }
    }

    pub(super) fn is_harmony(&self) -> bool {
        matches!(self.0, Kind::Harmony)
    }
}

impl fmt::Debug for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for ToolFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ToolFormat {}

/// How an answer is read.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// How the model writes calls.
    pub format: ToolFormat,
    /// What may be called; without any, no call is looked for.
    pub tools: Vec<Tool>,
    /// What surrounds reasoning ([`ThinkMarkers::choose`]); `None` leaves it in the content.
    pub reasoning: Option<ThinkMarkers>,
    /// Whether the prompt opened reasoning ([`ThinkMarkers::opened_by`]).
    pub reasoning_opened: bool,
}

impl OutputSettings {
    /// The control tokens that must come as text for the parser to see its markers, ascending.
    pub fn shown_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut markers: Vec<&str> = vec![];
        match self.format.0 {
            Kind::Harmony => markers.extend(harmony::CONTROL),
            Kind::Row(format) if !self.tools.is_empty() => {
                let lists = [format.openers, format.silent, format.closers, format.control];
                markers.extend(lists.concat());
            }
            Kind::Row(_) | Kind::None => {}
        }
        markers.extend(self.reasoning.iter().flat_map(|markers| [markers.open, markers.close]));
        // A vocabulary that cannot express a marker has no token for it.
        let encode = |marker| tokenizer.encode(marker, false, true).unwrap_or_default();
        let mut tokens: Vec<u32> = markers.into_iter().flat_map(encode).collect();
        tokens.retain(|id| tokenizer.is_special(*id));
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }
}

/// Reads the text of one answer.
#[derive(Debug)]
pub struct OutputParser {
    reasoning: Option<Splitter>,
    rest: Rest,
}

/// What reads the text behind the reasoning.
#[derive(Debug)]
enum Rest {
    Plain,
    Calls(Box<Calls>),
    Harmony(Box<Harmony>),
}

impl OutputParser {
    /// Before the first text.
    pub fn new(settings: OutputSettings) -> Self {
        let OutputSettings { format, tools, reasoning, reasoning_opened } = settings;
        let (splitter, rest) = match format.0 {
            Kind::Harmony => {
                (None, Rest::Harmony(Box::new(Harmony::new(tools, reasoning.is_some()))))
            }
            Kind::Row(format) if !tools.is_empty() => {
                (reasoning, Rest::Calls(Box::new(Calls::new(format, tools))))
            }
            Kind::Row(_) | Kind::None => (reasoning, Rest::Plain),
        };
        let reasoning = splitter.map(|markers| Splitter::new(markers, reasoning_opened));
        Self { reasoning, rest }
    }

    /// Takes the next text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.read(text, false)
    }

    /// What is left when the answer is over. A call or reasoning without its end is given as that; what was not yet
    /// known to be a call is content.
    pub fn finish(&mut self) -> Vec<Piece> {
        self.read("", true)
    }

    fn read(&mut self, text: &str, end: bool) -> Vec<Piece> {
        let parts = match &mut self.reasoning {
            Some(splitter) => splitter.push(text, end),
            None => vec![Part::Rest(text.to_owned())],
        };
        let mut out = vec![];
        for part in parts {
            match part {
                Part::Reasoning(text) => out.push(Piece::Reasoning(text)),
                Part::Rest(text) => self.rest.push(&text, false, &mut out),
            }
        }
        if end {
            self.rest.push("", true, &mut out);
        }
        merge(out)
    }
}

impl Rest {
    fn push(&mut self, text: &str, end: bool, out: &mut Vec<Piece>) {
        match self {
            Self::Plain if text.is_empty() => {}
            Self::Plain => out.push(Piece::Content(text.to_owned())),
            Self::Calls(calls) => calls.push(text, end, out),
            Self::Harmony(harmony) => harmony.push(text, end, out),
        }
    }
}

/// Adds a piece to others: one that goes on with the last of them becomes a part of it.
pub fn join(pieces: &mut Vec<Piece>, piece: Piece) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Content(text)), Piece::Content(more))
        | (Some(Piece::Reasoning(text)), Piece::Reasoning(more)) => text.push_str(&more),
        (
            Some(Piece::ToolArguments { index, fragment }),
            Piece::ToolArguments { index: same, fragment: more },
        ) if *index == same => fragment.push_str(&more),
        (_, piece) => pieces.push(piece),
    }
}

/// Joins neighbours of one kind.
fn merge(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged = Vec::with_capacity(pieces.len());
    pieces.into_iter().for_each(|piece| join(&mut merged, piece));
    merged
}
