//! Hermes and ChatML (Qwen 2.5, Qwen 3, SmolLM3, Granite 4): `<tool_call>{"name": .., "arguments": {..}}</tool_call>`.

use super::call;
use super::format::Format;

pub(super) const FORMAT: Format = Format {
    name: "hermes",
    detect: |template| {
        template.contains("<tool_call>")
            && !template.contains("<arg_key>")
            && (template.contains("\"name\"") || template.contains("\\\"name\\\""))
    },
    openers: &["<tool_call>"],
    silent: &[],
    bare: false,
    list: false,
    closers: &["</tool_call>"],
    control: &[],
    head: |_, text| call::head(text),
};
