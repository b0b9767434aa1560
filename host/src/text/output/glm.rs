//! GLM: `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`, in GLM 4.5 each on a line of
//! its own.

use super::format::{Arguments, Format, Head, Start, name_until};
use super::parameters::Tags;

const KEY: &str = "<arg_key>";
const KEY_END: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_END: &str = "</arg_value>";
const OPENER: &str = "<tool_call>";
const CLOSER: &str = "</tool_call>";

const TAGS: Tags =
    Tags { open: KEY, named: &[KEY_END], value: Some(VALUE), close: VALUE_END, end: CLOSER };

pub(super) const FORMAT: Format = Format {
    name: "glm-4.7",
    detect: |template| template.contains(OPENER) && template.contains(KEY),
    openers: &[OPENER],
    silent: &[KEY, KEY_END, VALUE, VALUE_END],
    bare: false,
    list: false,
    closers: &[CLOSER],
    control: &[],
    head,
};

/// Read alike, and written otherwise where calls are enforced.
pub(super) const V4_5: Format = Format {
    name: "glm-4.5",
    detect: |template| template.contains("</arg_key>\n<arg_value>"),
    ..FORMAT
};

fn head(_: &str, text: &str) -> Head {
    match name_until(text, &["\n", KEY, CLOSER]) {
        None => Head::Wait,
        Some(Err(())) => Head::No,
        Some(Ok((name, end))) => {
            // The tags behind it belong to the parameters.
            let tag = [KEY, CLOSER].into_iter().find(|tag| text[..end].ends_with(tag));
            let (id, at, outer) = (None, end - tag.map_or(0, str::len), None);
            Head::Starts(Start { name, id, at, arguments: Arguments::Parameters(&TAGS), outer })
        }
    }
}
