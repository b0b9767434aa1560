//! What a tool format is, and the table of all of them.

use super::arguments::Reader;
use super::json::Scanner;
use super::parameters::Tags;
use super::{
    Tool, deepseek, gemma, gemma4, glm, hermes, kimi, llama3, minimax, mistral, qwen3_coder,
};

/// How one family of models writes tool calls.
///
/// An answer is content until an opener. Then `head` reads to where the arguments begin, a [`Reader`] turns these
/// into JSON as they come, and behind them white space and `closers` are passed over.
#[derive(Debug)]
pub(super) struct Format {
    /// Its name in settings.
    pub name: &'static str,
    /// Whether a chat template with this source writes calls so.
    pub detect: fn(&str) -> bool,
    /// What a call begins with.
    pub openers: &'static [&'static str],
    /// Texts that surround calls and are never shown.
    pub silent: &'static [&'static str],
    /// Whether a `{` that is the first thing of the answer begins a call too.
    pub bare: bool,
    /// Whether a `{` right behind a call begins another one.
    pub list: bool,
    /// What may stand behind the arguments, beside white space.
    pub closers: &'static [&'static str],
    /// Those of its texts that are never shown, even where no call comes of them.
    pub control: &'static [&'static str],
    /// Reads what is behind the opener (given; empty for a bare call) up to the arguments.
    pub head: fn(&str, &str) -> Head,
}

/// What the text behind an opener is.
pub(super) enum Head {
    /// More of it must come.
    Wait,
    /// No call.
    No,
    /// A call whose arguments begin at byte `at`.
    Starts(Start),
    /// A call that ends at byte `at`.
    Whole {
        name: String,
        id: Option<String>,
        /// A JSON object.
        arguments: String,
        at: usize,
    },
}

pub(super) struct Start {
    pub name: String,
    pub id: Option<String>,
    pub at: usize,
    pub arguments: Arguments,
    /// What is left of the object around the arguments.
    pub outer: Option<Scanner>,
}

/// How the arguments are written.
pub(super) enum Arguments {
    Json,
    /// In tags such as `<parameter=key>value</parameter>`.
    Parameters(&'static Tags),
    /// Gemma 4's own notation.
    Gemma,
}

impl Arguments {
    pub fn reader(&self, tool: &Tool) -> Reader {
        match self {
            Self::Json => Reader::json(),
            Self::Parameters(tags) => Reader::parameters(tags, &tool.parameters),
            Self::Gemma => Reader::gemma(),
        }
    }
}

/// In order of detection: the more special markers first. Harmony, whose messages are cut otherwise, is not here.
pub(super) const FORMATS: &[&Format] = &[
    &gemma4::FORMAT,
    &deepseek::FORMAT,
    &deepseek::V3_1,
    &kimi::FORMAT,
    &mistral::FORMAT,
    &minimax::FORMAT,
    &qwen3_coder::SEED,
    &qwen3_coder::FORMAT,
    &glm::V4_5,
    &glm::FORMAT,
    &hermes::FORMAT,
    &llama3::FORMAT,
    &gemma::FORMAT,
];

/// The whole name in `text` before `end`, and where the text goes on behind `end`. `None` while it may still come.
pub(super) fn name_until(text: &str, end: &[&str]) -> Option<Result<(String, usize), ()>> {
    let Some((at, marker)) = super::scan::find(text, end) else {
        let sure = text.len() - super::scan::held(text, end);
        return (!text[..sure].trim().chars().all(is_name)).then_some(Err(()));
    };
    let name = text[..at].trim();
    Some(if is_tool_name(name) { Ok((name.to_owned(), at + marker.len())) } else { Err(()) })
}

/// Whether every format can write and read this name of a tool.
pub(crate) fn is_tool_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_name)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}
