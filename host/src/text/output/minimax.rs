//! MiniMax M2: `<minimax:tool_call><invoke name="name"><parameter name="key">value</parameter></invoke>
//! </minimax:tool_call>`, with an `invoke` a call.

use super::format::{Arguments, Format, Head, Start, name_until};
use super::parameters::Tags;

const BEGIN: &str = "<minimax:tool_call>";
const END: &str = "</minimax:tool_call>";

const TAGS: Tags = Tags {
    open: "<parameter name=\"",
    named: &["\">"],
    value: None,
    close: "</parameter>",
    end: "</invoke>",
};

pub(super) const FORMAT: Format = Format {
    name: "minimax-m2",
    detect: |template| template.contains(BEGIN) && template.contains("<invoke name="),
    openers: &["<invoke name=\""],
    silent: &[BEGIN, END],
    bare: false,
    list: false,
    closers: &[END],
    control: &[BEGIN, END],
    head,
};

fn head(_: &str, text: &str) -> Head {
    match name_until(text, &["\">"]) {
        None => Head::Wait,
        Some(Err(())) => Head::No,
        Some(Ok((name, at))) => {
            let (id, outer) = (None, None);
            Head::Starts(Start { name, id, at, arguments: Arguments::Parameters(&TAGS), outer })
        }
    }
}
