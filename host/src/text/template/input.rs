//! What a conversation looks like to a template.

use minijinja::Value;
use serde_json::{Number, Value as Json};

use super::limits::VALUE_DEPTH;
use super::strftime::strftime;
use super::{ChatInput, TemplateError, TemplateLimit, limit_at};

/// Variables that `extra` may not replace.
const RESERVED: [&str; 5] =
    ["messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"];

/// How large a conversation is: what the work of rendering it is measured by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Of text, and a few for every value.
    pub(super) bytes: usize,
    /// Values of all levels.
    pub(super) items: usize,
}

/// The size of messages, tools and further variables.
///
/// # Errors
/// The limit of nesting.
pub(super) fn size(input: &ChatInput) -> Result<Size, TemplateError> {
    let mut size = Size::default();
    let lists = input.messages.iter().chain(input.tools.iter().flatten());
    for value in lists.chain(input.extra.values()) {
        size.add(value, 0)?;
    }
    Ok(size)
}

impl Size {
    fn add(&mut self, value: &Json, depth: usize) -> Result<(), TemplateError> {
        if depth > VALUE_DEPTH {
            return Err(limit_at(None, TemplateLimit::ValueDepth { limit: VALUE_DEPTH }));
        }
        self.items += 1;
        self.bytes += 8;
        match value {
            Json::String(text) => self.bytes += text.len(),
            Json::Array(items) => {
                for item in items {
                    self.add(item, depth + 1)?;
                }
            }
            Json::Object(map) => {
                for (key, item) in map {
                    self.bytes += key.len();
                    self.add(item, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The variables of a rendering. Call after [`size`], which bounds the recursion here.
///
/// # Errors
/// A variable of `extra` that is set by the conversation.
pub(super) fn context(input: &ChatInput, bos: &str, eos: &str) -> Result<Value, TemplateError> {
    let list = |values: &[Json]| values.iter().map(value).collect::<Vec<Value>>();
    let now = input.now;
    let strftime_now = move |format: &str| {
        strftime(now, format).ok_or_else(|| {
            let reason = format!("strftime_now: {now} s is outside the years 1 to 9999");
            minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, reason)
        })
    };
    let mut variables = vec![
        ("bos_token".to_owned(), Value::from(bos)),
        ("eos_token".to_owned(), Value::from(eos)),
        ("messages".to_owned(), Value::from(list(&input.messages))),
        ("tools".to_owned(), input.tools.as_deref().map(list).into()),
        // transformers always passes this one; conversations here carry no documents.
        ("documents".to_owned(), Value::from(())),
        ("add_generation_prompt".to_owned(), Value::from(input.add_generation_prompt)),
        ("strftime_now".to_owned(), Value::from_function(strftime_now)),
    ];
    for (name, extra) in &input.extra {
        if RESERVED.contains(&name.as_str()) {
            return Err(TemplateError::Reserved { name: name.clone() });
        }
        variables.retain(|(known, _)| known != name);
        variables.push((name.clone(), value(extra)));
    }
    Ok(Value::from_pairs(variables))
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => number_value(number),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<Value>>()),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, item)| (key.as_str(), value(item))))
        }
    }
}

fn number_value(number: &Number) -> Value {
    if let Some(int) = number.as_i64() {
        Value::from(int)
    } else if let Some(int) = number.as_u64() {
        Value::from(int)
    } else {
        Value::from(number.as_f64())
    }
}
