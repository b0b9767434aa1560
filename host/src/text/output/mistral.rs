//! Mistral: `[TOOL_CALLS][{"name": .., "arguments": {..}, "id": ..}]`, or in newer models
//! `[TOOL_CALLS]name[CALL_ID]id[ARGS]{..}`, where the id may be missing.

use super::call;
use super::format::{Arguments, Format, Head, Start, name_until};
use super::scan::white;

const OPENER: &str = "[TOOL_CALLS]";
const ID: &str = "[CALL_ID]";
const ARGUMENTS: &str = "[ARGS]";

pub(super) const FORMAT: Format = Format {
    name: "mistral",
    detect: |template| template.contains(OPENER),
    openers: &[OPENER],
    silent: &[],
    bare: false,
    list: true,
    closers: &[",", "]"],
    control: &[OPENER, ID, ARGUMENTS],
    head,
};

fn head(_: &str, text: &str) -> Head {
    let lead = white(text);
    match text.as_bytes().get(lead) {
        None => Head::Wait,
        Some(b'{') => call::head(text),
        // A name never begins with a bracket.
        Some(b'[') => shifted(call::head(&text[lead + 1..]), lead + 1),
        Some(_) => named(text),
    }
}

fn named(text: &str) -> Head {
    // The last: some models leave `[ARGS]` out.
    let (name, mut at) = match name_until(text, &[ID, ARGUMENTS, "{"]) {
        None => return Head::Wait,
        Some(Err(())) => return Head::No,
        Some(Ok(found)) => found,
    };
    let mut id = None;
    if text[..at].ends_with(ID) {
        match name_until(&text[at..], &[ARGUMENTS]) {
            None => return Head::Wait,
            Some(Err(())) => return Head::No,
            Some(Ok((found, len))) => (id, at) = (Some(found), at + len),
        }
    }
    if text[..at].ends_with('{') {
        at -= 1;
    }
    Head::Starts(Start { name, id, at, arguments: Arguments::Json, outer: None })
}

/// A head that was read `by` bytes behind the beginning.
fn shifted(head: Head, by: usize) -> Head {
    match head {
        Head::Starts(start) => Head::Starts(Start { at: start.at + by, ..start }),
        Head::Whole { name, id, arguments, at } => Head::Whole { name, id, arguments, at: at + by },
        other => other,
    }
}
