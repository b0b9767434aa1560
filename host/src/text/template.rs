//! Chat templates: the model's own Jinja, or a built-in one.

use serde_json::{Map, Value};

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {}

/// What a template is rendered from.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// OpenAI-style messages.
    pub messages: Vec<Value>,
    /// OpenAI-style tools; `None` leaves `tools` undefined.
    pub tools: Option<Vec<Value>>,
    /// Ends with the head of an assistant turn.
    pub add_generation_prompt: bool,
    /// Further variables (`chat_template_kwargs`), such as `enable_thinking`.
    pub extra: Map<String, Value>,
    /// Seconds since the epoch, local time, for `strftime_now`.
    pub now: i64,
}

impl ChatTemplate {
    /// Compiles Jinja source. `bos` and `eos` are the spellings given to the template.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn from_source(_source: &str, _bos: &str, _eos: &str) -> Result<Self, TemplateError> {
        Ok(Self {})
    }
    /// One of the names of `--chat-template` but `auto` and `none`; `None` when unknown.
    pub fn builtin(_name: &str, _bos: &str, _eos: &str) -> Option<Self> {
        None
    }
    /// The prompt text. It starts with BOS where the template writes it.
    ///
    /// # Errors
    /// What the template itself refused, or the limit that it ran into.
    pub fn render(&self, _input: &ChatInput) -> Result<String, TemplateError> {
        Ok(String::new())
    }
}
