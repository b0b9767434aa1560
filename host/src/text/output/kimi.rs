//! Kimi K2, between `<|tool_calls_section_begin|>` and `<|tool_calls_section_end|>`:
//! `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{..}<|tool_call_end|>`. The whole of
//! `functions.name:0`, where the number counts the conversation's calls, is the call's id.

use super::format::{Arguments, Format, Head, Start, name_until};

const BEGIN: &str = "<|tool_calls_section_begin|>";
const END: &str = "<|tool_calls_section_end|>";
const OPENER: &str = "<|tool_call_begin|>";
const CLOSER: &str = "<|tool_call_end|>";
const ARGUMENTS: &str = "<|tool_call_argument_begin|>";

pub(super) const FORMAT: Format = Format {
    name: "kimi-k2",
    detect: |template| template.contains(OPENER) && template.contains(ARGUMENTS),
    openers: &[OPENER],
    silent: &[BEGIN, END, ARGUMENTS, CLOSER],
    bare: false,
    list: false,
    closers: &[CLOSER],
    control: &[BEGIN, END, OPENER, CLOSER, ARGUMENTS],
    head,
};

fn head(_: &str, text: &str) -> Head {
    let (id, at) = match name_until(text, &[ARGUMENTS]) {
        None => return Head::Wait,
        Some(Err(())) => return Head::No,
        Some(Ok(found)) => found,
    };
    let name = id.strip_prefix("functions.").unwrap_or(&id);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let name = name.rsplit_once(':').filter(|(_, n)| is_number(n)).map_or(name, |(name, _)| name);
    let name = name.to_owned();
    Head::Starts(Start { name, id: Some(id), at, arguments: Arguments::Json, outer: None })
}
