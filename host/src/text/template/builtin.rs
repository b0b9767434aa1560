//! The templates that `--chat-template` names, each a Jinja source beside this file.

/// Names that [`super::ChatTemplate::builtin`] knows.
pub const BUILTIN_NAMES: [&str; 7] =
    ["chatml", "llama2", "llama3", "nemotron", "gemma", "deepseek_r1", "phi"];

/// The source of a built-in template.
pub(super) fn source(name: &str) -> Option<&'static str> {
    Some(match name {
        "chatml" => include_str!("builtin/chatml.jinja"),
        "llama2" => include_str!("builtin/llama2.jinja"),
        "llama3" => include_str!("builtin/llama3.jinja"),
        "nemotron" => include_str!("builtin/nemotron.jinja"),
        "gemma" => include_str!("builtin/gemma.jinja"),
        "deepseek_r1" => include_str!("builtin/deepseek_r1.jinja"),
        "phi" => include_str!("builtin/phi.jinja"),
        _ => return None,
    })
}
