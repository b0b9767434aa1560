//! Qwen3-Coder: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`; some answers
//! leave the outer tag out.

use super::format::{Arguments, Format, Head, Start, name_until};
use super::scan::{Begins, begins, white};

const FUNCTION: &str = "<function=";

pub(super) const FORMAT: Format = Format {
    name: "qwen3-coder",
    detect: |template| {
        template.contains("<tool_call>")
            && template.contains(FUNCTION)
            && template.contains("<parameter=")
    },
    openers: &["<tool_call>", FUNCTION],
    silent: &[],
    bare: false,
    list: false,
    closers: &["</tool_call>"],
    control: &[],
    head,
};

fn head(opener: &str, text: &str) -> Head {
    let mut at = 0;
    if opener != FUNCTION {
        let lead = white(text);
        at = match begins(&text[lead..], &[FUNCTION], false) {
            Begins::Perhaps => return Head::Wait,
            Begins::Not => return Head::No,
            Begins::With(function) => lead + function.len(),
        };
    }
    match name_until(&text[at..], &[">"]) {
        None => Head::Wait,
        Some(Err(())) => Head::No,
        Some(Ok((name, len))) => {
            let (id, at, outer) = (None, at + len, None);
            Head::Starts(Start { name, id, at, arguments: Arguments::Parameters, outer })
        }
    }
}
