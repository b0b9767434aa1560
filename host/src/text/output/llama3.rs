//! Llama 3: the answer is `{"name": .., "parameters": {..}}`, at times behind `<|python_tag|>`; several calls are
//! separated by `;`.

use super::call;
use super::format::Format;

pub(super) const FORMAT: Format = Format {
    name: "llama3",
    detect: |template| {
        template.contains("<|python_tag|>") || template.contains("{\"name\": function name")
    },
    openers: &["<|python_tag|>"],
    silent: &[],
    bare: true,
    list: true,
    closers: &[";"],
    control: &["<|python_tag|>"],
    head: |_, text| call::head(text),
};
