//! Reasoning, in front of the answer: told apart by its markers.

use std::str::FromStr;

use super::ToolFormat;
use super::scan::{Begins, begins, find, held, white};

/// What becomes of reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// It stays in the content, as the model wrote it.
    None,
    /// It is told apart, by `<think>` where the chat template names no other marker.
    DeepSeek,
    /// It is told apart where the chat template has markers for it.
    #[default]
    Auto,
}

impl ReasoningFormat {
    /// The names of [`FromStr`].
    pub const NAMES: [&str; 3] = ["none", "deepseek", "auto"];
}

impl FromStr for ReasoningFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Self::None),
            "deepseek" => Ok(Self::DeepSeek),
            "auto" => Ok(Self::Auto),
            _ => Err(format!(
                "{name:?} is not a reasoning format, expected one of {}",
                Self::NAMES.join(", ")
            )),
        }
    }
}

/// What surrounds reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinkMarkers {
    /// In front of it.
    pub open: &'static str,
    /// Behind it.
    pub close: &'static str,
    /// What a model writes between its reasoning and its answer: what is put there to end it.
    pub end: &'static str,
}

const THINK: ThinkMarkers =
    ThinkMarkers { open: "<think>", close: "</think>", end: "\n</think>\n\n" };

const HARMONY: ThinkMarkers = ThinkMarkers {
    open: "<|channel|>analysis<|message|>",
    close: "<|end|>",
    end: "<|end|><|start|>assistant<|channel|>final<|message|>",
};

/// A row for each pair of markers.
const MARKERS: &[ThinkMarkers] = &[
    THINK,
    ThinkMarkers { open: "[THINK]", close: "[/THINK]", end: "[/THINK]" },
    ThinkMarkers { open: "<|channel>thought", close: "<channel|>", end: "\n<channel|>" },
    ThinkMarkers { open: "<seed:think>", close: "</seed:think>", end: "\n</seed:think>\n" },
];

impl ThinkMarkers {
    /// The markers to look for: `None` when reasoning is not told apart.
    ///
    /// `template` is the source of the chat template.
    pub fn choose(wanted: ReasoningFormat, template: &str, format: ToolFormat) -> Option<Self> {
        if wanted == ReasoningFormat::None {
            return None;
        }
        let found = if format.is_harmony() { Some(HARMONY) } else { Self::detect(template) };
        found.or((wanted == ReasoningFormat::DeepSeek).then_some(THINK))
    }

    fn detect(template: &str) -> Option<Self> {
        MARKERS.iter().find(|markers| template.contains(markers.close)).copied()
    }

    /// Whether the answer to `prompt`, as the chat template wrote it, begins inside reasoning.
    pub fn opened_by(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open)
    }
}

/// Splits an answer into reasoning and the rest. White space around reasoning is dropped.
#[derive(Debug)]
pub(super) struct Splitter {
    markers: ThinkMarkers,
    state: State,
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Reasoning may begin.
    Start,
    /// In reasoning of which nothing was given.
    Opened,
    Inside,
    /// Behind it, before the answer.
    Closed,
    Answer,
}

/// A part of an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Reasoning(String),
    Rest(String),
}

impl Splitter {
    pub fn new(markers: ThinkMarkers, opened: bool) -> Self {
        let state = if opened { State::Opened } else { State::Start };
        Self { markers, state, held: String::new() }
    }

    /// Takes the next text; all that is left at the `end`.
    pub fn push(&mut self, text: &str, end: bool) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = vec![];
        loop {
            let lead = white(&self.held);
            match self.state {
                State::Start => match begins(&self.held[lead..], &[self.markers.open], end) {
                    Begins::Perhaps => return parts,
                    Begins::With(open) => {
                        self.held.drain(..lead + open.len());
                        self.state = State::Opened;
                    }
                    Begins::Not => self.state = State::Answer,
                },
                State::Opened | State::Closed => {
                    self.held.drain(..lead);
                    if self.held.is_empty() {
                        return parts;
                    }
                    // Some models open what the template opened.
                    if self.state == State::Opened {
                        match begins(&self.held, &[self.markers.open], end) {
                            Begins::Perhaps => return parts,
                            Begins::With(open) => {
                                self.held.drain(..open.len());
                                continue;
                            }
                            Begins::Not => {}
                        }
                    }
                    let closed = self.state == State::Closed;
                    self.state = if closed { State::Answer } else { State::Inside };
                }
                State::Inside => {
                    let found = find(&self.held, &[self.markers.close]);
                    let until = match found {
                        Some((at, _)) => self.held[..at].trim_end().len(),
                        None if end => self.held.len(),
                        None => {
                            let sure = self.held.len() - held(&self.held, &[self.markers.close]);
                            self.held[..sure].trim_end().len()
                        }
                    };
                    if until > 0 {
                        parts.push(Part::Reasoning(self.held[..until].to_owned()));
                    }
                    match found {
                        Some((at, close)) => {
                            self.held.drain(..at + close.len());
                            self.state = State::Closed;
                        }
                        None => {
                            self.held.drain(..until);
                            return parts;
                        }
                    }
                }
                State::Answer => {
                    if !self.held.is_empty() {
                        parts.push(Part::Rest(std::mem::take(&mut self.held)));
                    }
                    return parts;
                }
            }
        }
    }
}
