//! Gemma 1 to 3, taught by the prompt: a JSON object `{"name": .., "parameters": {..}}` that is the answer, or in a
//! block of `tool_code` or `json`.

use super::call;
use super::format::Format;

pub(super) const FORMAT: Format = Format {
    name: "gemma",
    detect: |template| template.contains("tool_code"),
    openers: &["```tool_code", "```json"],
    silent: &[],
    bare: true,
    list: true,
    closers: &["```"],
    control: &[],
    head: |_, text| call::head(text),
};
