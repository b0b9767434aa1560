//! The JSON files of a model directory, and getters that check their types.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{read_file, read_json};
use crate::checkpoint::CheckpointError;

/// The JSON files beside a SafeTensors model.
///
/// The getters read `config.json` by dotted path (`text_config.hidden_size`). They return
/// `Ok(None)` for a missing key or `null`, and an error that names file, key, found and expected
/// type for a wrong one.
#[derive(Debug, Default)]
pub struct HfMetadata {
    /// The directory.
    pub directory: PathBuf,
    /// `config.json`.
    pub config: Map<String, Value>,
    /// `generation_config.json`, empty when absent.
    pub generation_config: Map<String, Value>,
    /// `tokenizer_config.json`, empty when absent.
    pub tokenizer_config: Map<String, Value>,
    /// Path of `tokenizer.json`, when present.
    pub tokenizer_json: Option<PathBuf>,
    /// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

impl HfMetadata {
    /// Reads the files of a directory; `config.json` must be there.
    pub(super) fn read_from(directory: &Path) -> Result<Self, CheckpointError> {
        let path = |name: &str| directory.join(name);
        let optional = |name: &str| match path(name) {
            path if path.exists() => read_json(&path),
            _ => Ok(Map::new()),
        };
        let tokenizer_config = optional("tokenizer_config.json")?;
        Ok(Self {
            config: read_json(&path("config.json"))?,
            generation_config: optional("generation_config.json")?,
            chat_template: chat_template(directory, &tokenizer_config)?,
            tokenizer_config,
            tokenizer_json: Some(path("tokenizer.json")).filter(|path| path.exists()),
            directory: directory.into(),
        })
    }

    /// Another JSON file of the directory, empty when absent.
    ///
    /// # Errors
    /// A file that cannot be read or holds no object.
    pub fn other(&self, name: &str) -> Result<Map<String, Value>, CheckpointError> {
        let path = self.directory.join(name);
        let is_model = !self.directory.as_os_str().is_empty();
        if is_model && path.exists() { read_json(&path) } else { Ok(Map::new()) }
    }

    /// The value at a dotted path, whatever its type; a step into something that is no object is
    /// an error.
    pub fn get(&self, key: &str) -> Result<Option<&Value>, CheckpointError> {
        let mut object = &self.config;
        let mut rest = key;
        while let Some((step, inner)) = rest.split_once('.') {
            rest = inner;
            object = match object.get(step) {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Object(inner)) => inner,
                Some(other) => {
                    let above = &key[..key.len() - rest.len() - 1];
                    return Err(self.wrong(above, unexpected(other, "an object")));
                }
            };
        }
        Ok(object.get(rest).filter(|value| !value.is_null()))
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.read(key, |v| v.as_str().ok_or_else(|| unexpected(v, "a string")))
    }
    /// A non-negative integer.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.read(key, to_u32)
    }
    /// A non-negative integer.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        self.read(key, |v| v.as_u64().ok_or_else(|| unexpected(v, "an integer from 0 to 2^64 − 1")))
    }
    /// A number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        self.read(key, to_f32)
    }
    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.read(key, to_bool)
    }
    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, CheckpointError> {
        self.read(key, |v| v.as_object().ok_or_else(|| unexpected(v, "an object")))
    }
    /// An array of anything.
    pub fn array(&self, key: &str) -> Result<Option<&[Value]>, CheckpointError> {
        self.read(key, to_array)
    }
    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, CheckpointError> {
        self.list(key, |v| v.as_str().ok_or_else(|| unexpected(v, "a string")))
    }
    /// An array of non-negative integers.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, CheckpointError> {
        self.list(key, to_u32)
    }
    /// An array of numbers.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        self.list(key, to_f32)
    }
    /// An array of booleans.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, CheckpointError> {
        self.list(key, to_bool)
    }

    /// An error about a key of `config.json`.
    pub fn wrong(&self, key: &str, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::key(&self.directory.join("config.json"), key, problem)
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        convert: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        convert(value).map(Some).map_err(|problem| self.wrong(key, problem))
    }

    fn list<'a, T>(
        &'a self,
        key: &str,
        convert: impl Fn(&'a Value) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, CheckpointError> {
        self.read(key, |value| {
            let items = to_array(value)?.iter().enumerate();
            items
                .map(|(i, v)| convert(v).map_err(|problem| format!("at [{i}] {problem}")))
                .collect()
        })
    }
}

fn to_u32(value: &Value) -> Result<u32, String> {
    let number = value.as_u64().and_then(|v| u32::try_from(v).ok());
    number.ok_or_else(|| unexpected(value, "an integer from 0 to 2^32 − 1"))
}

fn to_f32(value: &Value) -> Result<f32, String> {
    let number = value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
    number.ok_or_else(|| unexpected(value, "a number that fits 32 bits"))
}

fn to_bool(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| unexpected(value, "true or false"))
}

fn to_array(value: &Value) -> Result<&[Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| unexpected(value, "an array"))
}

/// `is the string "x", expected a number`, with long values shortened.
fn unexpected(found: &Value, expected: &str) -> String {
    let found = match found {
        Value::Null => "null".into(),
        Value::Bool(v) => format!("{v}"),
        Value::Number(v) => format!("{v}"),
        Value::String(v) => {
            let start: String = v.chars().take(60).collect();
            format!("the string {start:?}{}", if start.len() < v.len() { "…" } else { "" })
        }
        Value::Array(v) => format!("an array of {} elements", v.len()),
        Value::Object(v) => format!("an object of {} keys", v.len()),
    };
    format!("is {found}, expected {expected}")
}

/// `chat_template.jinja`, else `chat_template` of the tokenizer's configuration: a string, or a
/// list of named ones of which `default` is taken.
fn chat_template(
    directory: &Path,
    tokenizer_config: &Map<String, Value>,
) -> Result<Option<String>, CheckpointError> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        return match String::from_utf8(read_file(&path)?) {
            Ok(template) => Ok(Some(template)),
            Err(e) => {
                let after = e.utf8_error().valid_up_to();
                let problem = format!("is not UTF-8 after {after} bytes, expected text");
                Err(CheckpointError::file(&path, problem))
            }
        };
    }
    let wrong = |problem: String| {
        CheckpointError::key(&directory.join("tokenizer_config.json"), "chat_template", problem)
    };
    match tokenizer_config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|t| t.get("name").is_some_and(|n| n == "default"));
            match default.and_then(|t| t.get("template")).and_then(Value::as_str) {
                Some(template) => Ok(Some(template.into())),
                None => Err(wrong("is a list without a template named \"default\"".into())),
            }
        }
        Some(other) => Err(wrong(unexpected(other, "a string or a list of templates"))),
    }
}
