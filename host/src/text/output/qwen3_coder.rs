//! Qwen3-Coder: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`; some answers
//! leave the outer tag out. Seed-OSS has an outer tag of its own.

use super::format::{Arguments, Format, Head, Start, name_until};
use super::parameters::Tags;
use super::scan::{Begins, begins, white};

const FUNCTION: &str = "<function=";

const TAGS: Tags = Tags {
    open: "<parameter=",
    named: &[">", "\n"],
    value: None,
    close: "</parameter>",
    end: "</function>",
};

const SEED_OPENER: &str = "<seed:tool_call>";
const SEED_CLOSER: &str = "</seed:tool_call>";

pub(super) const SEED: Format = Format {
    name: "seed-oss",
    detect: |template| template.contains(SEED_OPENER),
    openers: &[SEED_OPENER, FUNCTION],
    closers: &[SEED_CLOSER],
    control: &[SEED_OPENER, SEED_CLOSER],
    ..FORMAT
};

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
            Head::Starts(Start { name, id, at, arguments: Arguments::Parameters(&TAGS), outer })
        }
    }
}
