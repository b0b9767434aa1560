//! Conversations: messages, the prompt they make, and the file they are saved in.

use std::path::Path;

use host::engine::Engine;
use host::text::{ChatInput, Literals};
use serde_json::{Value, json};

use crate::error::CliError;

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// `system`, `user` or `assistant`.
    pub(crate) role: String,
    /// What was said.
    pub(crate) content: String,
}

impl Message {
    /// A turn of the user.
    pub(crate) fn user(content: String) -> Self {
        Self { role: "user".to_owned(), content }
    }
    /// A turn of the model.
    pub(crate) fn assistant(content: String) -> Self {
        Self { role: "assistant".to_owned(), content }
    }
    fn json(&self) -> Value {
        json!({"role": self.role, "content": self.content})
    }
}

/// Token ids that ask the model for its next turn. With a template what was said is text, also
/// where it spells control tokens; without one the turns are taken as they are, a line each.
///
/// # Errors
/// `Template`, `Tokenizer`; `BadArgument` without a vocabulary or for an empty prompt.
pub(crate) fn prompt_tokens(engine: &Engine, messages: &[Message]) -> Result<Vec<u32>, CliError> {
    let Some(tokenizer) = engine.tokenizer() else {
        return Err(CliError::BadArgument(
            "the model has no vocabulary: give the prompt as ids with --prompt-tokens".to_owned(),
        ));
    };
    let tokens = match engine.template() {
        Some(template) => {
            let mut messages = messages.to_vec();
            let mut said: Vec<&mut String> = messages.iter_mut().map(|m| &mut m.content).collect();
            let literals = Literals::shield(tokenizer, &mut said)?;
            let text = template.render(&ChatInput {
                messages: messages.iter().map(Message::json).collect(),
                add_generation_prompt: true,
                now: now(),
                ..ChatInput::default()
            })?;
            let bos = tokenizer.bos().map(|id| tokenizer.piece(id)).unwrap_or_default();
            let has_bos = !bos.is_empty() && text.as_bytes().starts_with(bos);
            literals.encode(tokenizer, &text, !has_bos)?
        }
        None => {
            let turns: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
            tokenizer.encode(&turns.join("\n"), true, true)?
        }
    };
    if tokens.is_empty() {
        return Err(CliError::BadArgument("the prompt is empty".to_owned()));
    }
    Ok(tokens)
}

/// Seconds since the epoch on a local clock: what templates write dates from.
fn now() -> i64 {
    let now = jiff::ZonedDateTime::now();
    now.timestamp().as_second() + i64::from(now.offset().seconds())
}

/// Writes a conversation as a JSON array of messages.
///
/// # Errors
/// `File`.
pub(crate) fn save(path: &Path, messages: &[Message]) -> Result<(), CliError> {
    let array: Value = messages.iter().map(Message::json).collect();
    std::fs::write(path, format!("{array:#}\n"))
        .map_err(|error| CliError::file("/save", path, error))
}

/// Reads what [`save`] wrote, or any array of messages whose content is text.
///
/// # Errors
/// `File`; `BadArgument` naming the message and what is wrong with it.
pub(crate) fn load(path: &Path) -> Result<Vec<Message>, CliError> {
    let text = crate::run::read_text("/load", path)?;
    let wrong = |what: String| CliError::BadArgument(format!("/load {}: {what}", path.display()));
    let value: Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("not JSON: {error}")))?;
    let array =
        value.as_array().ok_or_else(|| wrong("expected an array of messages".to_owned()))?;
    let messages: Result<Vec<Message>, String> =
        array.iter().enumerate().map(|(index, value)| message(index, value)).collect();
    messages.map_err(wrong)
}

fn message(index: usize, value: &Value) -> Result<Message, String> {
    let text = |key: &str| {
        let found = value.get(key).and_then(Value::as_str);
        found.map(str::to_owned).ok_or_else(|| format!("message {index}: expected a text {key:?}"))
    };
    let message = Message { role: text("role")?, content: text("content")? };
    match message.role.as_str() {
        "system" | "user" | "assistant" => Ok(message),
        role => Err(format!("message {index}: role {role:?}, expected system, user or assistant")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("imp-cli-chat-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_saved_conversation_comes_back() {
        let path = file("round-trip.json");
        let messages = [
            Message::user("a \"quoted\"\nline".to_owned()),
            Message::assistant("été <|im_end|>".to_owned()),
        ];
        save(&path, &messages).unwrap();
        assert_eq!(load(&path).unwrap(), messages);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn damaged_conversations_are_refused_with_the_place() {
        let path = file("damaged.json");
        for (text, expected) in [
            ("{", "not JSON"),
            ("{}", "expected an array"),
            (
                r#"[{"role":"user","content":"a"},{"role":"user"}]"#,
                "message 1: expected a text \"content\"",
            ),
            (r#"[{"role":"tool","content":"a"}]"#, "message 0: role \"tool\""),
            (r#"[{"role":"user","content":[1]}]"#, "message 0: expected a text \"content\""),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(error.code(), 1);
        }
        std::fs::remove_file(&path).unwrap();
    }
}
