//! The arguments of a call → fragments of a JSON object, as they come.

use serde_json::Value;

use super::Piece;
use super::json::{Scanner, Step, escape, escaped, quoted};
use super::parameters::{Parameters, Tags};
use super::scan::{Begins, begins, held};

/// What Gemma 4 puts around strings.
pub(super) const GEMMA_QUOTE: &str = "<|\"|>";

/// Turns arguments into JSON.
#[derive(Debug)]
pub(super) enum Reader {
    Json(Scanner),
    Gemma { scanner: Scanner, quoted: bool },
    Parameters(Parameters),
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

    pub fn parameters(tags: &'static Tags, schema: &Value) -> Self {
        Self::Parameters(Parameters::new(tags, schema))
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
            Self::Parameters(parameters) => parameters.read(text, end, out),
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
