//! Gemma 4: `<|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>`.

use super::format::{Arguments, Format, Head, Start, name_until};
use super::scan::{Begins, begins, white};

const OPENER: &str = "<|tool_call>";
const CLOSER: &str = "<tool_call|>";

pub(super) const FORMAT: Format = Format {
    name: "gemma4",
    detect: |template| template.contains(OPENER),
    openers: &[OPENER],
    silent: &[],
    bare: false,
    list: false,
    closers: &[CLOSER],
    control: &[OPENER, CLOSER, super::arguments::GEMMA_QUOTE],
    head,
};

fn head(_: &str, text: &str) -> Head {
    let lead = white(text);
    let at = match begins(&text[lead..], &["call:"], false) {
        Begins::Perhaps => return Head::Wait,
        Begins::Not => return Head::No,
        Begins::With(call) => lead + call.len(),
    };
    match name_until(&text[at..], &["{"]) {
        None => Head::Wait,
        Some(Err(())) => Head::No,
        Some(Ok((name, len))) => {
            let at = at + len - 1; // the bracket belongs to the arguments
            Head::Starts(Start { name, id: None, at, arguments: Arguments::Gemma, outer: None })
        }
    }
}
