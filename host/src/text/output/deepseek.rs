//! DeepSeek, between `<｜tool▁calls▁begin｜>` and `<｜tool▁calls▁end｜>`: in V3 and R1 a call is
//! `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name`, a newline and a block of JSON, in V3.1
//! `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{..}`; both end with `<｜tool▁call▁end｜>`.

use super::format::{Arguments, Format, Head, Start, name_until};
use super::scan::{Begins, begins, white};

const BEGIN: &str = "<｜tool▁calls▁begin｜>";
const END: &str = "<｜tool▁calls▁end｜>";
const OPENER: &str = "<｜tool▁call▁begin｜>";
const CLOSER: &str = "<｜tool▁call▁end｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const FENCE: &str = "```json";

pub(super) const FORMAT: Format = Format {
    name: "deepseek",
    detect: |template| template.contains(OPENER) && template.contains(FENCE),
    openers: &[OPENER],
    silent: &[BEGIN, END],
    bare: false,
    list: false,
    closers: &["```", CLOSER],
    control: &[BEGIN, END, OPENER, CLOSER, SEPARATOR],
    head,
};

/// Read alike, and written otherwise where calls are enforced.
pub(super) const V3_1: Format =
    Format { name: "deepseek-v3.1", detect: |template| template.contains(OPENER), ..FORMAT };

fn head(_: &str, text: &str) -> Head {
    let (first, mut at) = match name_until(text, &[SEPARATOR]) {
        None => return Head::Wait,
        Some(Err(())) => return Head::No,
        Some(Ok(found)) => found,
    };
    let mut name = first;
    // V3.1 goes on with the arguments, V3 with the name.
    let lead = at + white(&text[at..]);
    match text.as_bytes().get(lead) {
        None => return Head::Wait,
        Some(b'{' | b'`') => {}
        Some(_) => match name_until(&text[at..], &["\n", "{"]) {
            None => return Head::Wait,
            Some(Err(())) => return Head::No,
            Some(Ok((found, len))) => {
                name = found;
                at += len - usize::from(text[..at + len].ends_with('{'));
            }
        },
    }
    at += white(&text[at..]);
    match begins(&text[at..], &[FENCE, "{"], false) {
        Begins::Perhaps => return Head::Wait,
        Begins::Not => return Head::No,
        Begins::With(FENCE) => at += FENCE.len(),
        Begins::With(_) => {}
    }
    Head::Starts(Start { name, id: None, at, arguments: Arguments::Json, outer: None })
}
