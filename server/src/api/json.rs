//! JSON bodies: bounded when parsed, and read with errors that name the field.

use serde_json::{Map, Value};

use crate::http::ApiError;
use crate::limits::JSON_VALUES;

/// The object of a body.
///
/// # Errors
/// 400: not UTF-8, not JSON, not an object, nested too deep, too many values.
pub fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::bad(format!("the body is not UTF-8 (byte {})", error.valid_up_to()))
    })?;
    if count_values(text) > JSON_VALUES {
        return Err(ApiError::bad(format!("the body holds more than {JSON_VALUES} JSON values")));
    }
    // serde_json bounds the depth to 128
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => {
            Err(ApiError::bad(format!("the body is {}, expected a JSON object", kind(&other))))
        }
        Err(error) => Err(ApiError::bad(format!("the body is not JSON: {error}"))),
    }
}

/// An upper bound of the values in a JSON text, without making any.
fn count_values(text: &str) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' | b':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// What a value is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Typed access to an object. `null` counts as absent; what nobody asks for is ignored.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Where the object is, for messages: empty, or `messages[0].`.
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of a body.
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, path: String::new() }
    }

    /// The fields of a value inside.
    ///
    /// # Errors
    /// 400 unless it is an object.
    pub fn of(value: &'a Value, path: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: format!("{path}.") }),
            other => Err(wrong(path, "an object", other)),
        }
    }

    /// The full name of a field.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// 400 naming a field of this object.
    pub fn error(&self, name: &str, problem: impl AsRef<str>) -> ApiError {
        ApiError::field(self.path(name), problem)
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => {
                read(value).map(Some).ok_or_else(|| wrong(&self.path(name), expected, value))
            }
        }
    }

    /// A string.
    ///
    /// # Errors
    /// 400 for another type.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// 400 for another type, or nothing.
    pub fn needed_text(&self, name: &str) -> Result<&'a str, ApiError> {
        self.text(name)?.ok_or_else(|| self.error(name, "is missing, expected a string"))
    }

    /// A boolean; `default` where there is none.
    ///
    /// # Errors
    /// 400 for another type.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        Ok(self.typed(name, "a boolean", Value::as_bool)?.unwrap_or(default))
    }

    /// A number.
    ///
    /// # Errors
    /// 400 for another type.
    pub fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        self.typed(name, "a number", |value| value.as_f64().map(|value| value as f32))
    }

    /// A whole number, which may be written as 3.0.
    ///
    /// # Errors
    /// 400 for another type or a number between two.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.typed(name, "a whole number", whole)
    }

    /// A whole number from `min` to `max`.
    ///
    /// # Errors
    /// 400 naming the limits.
    pub fn count(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number =
            whole(value).ok_or_else(|| wrong(&self.path(name), "a whole number", value))?;
        match u64::try_from(number).ok().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(name, format!("is {value}, expected {min} to {max}"))),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// 400 for another type, or more than `max` entries.
    pub fn list(&self, name: &str, max: usize) -> Result<Option<&'a [Value]>, ApiError> {
        let list = self.typed(name, "an array", |value| value.as_array().map(Vec::as_slice))?;
        match list {
            Some(list) if list.len() > max => {
                Err(self.error(name, format!("has {} entries, at most {max} work", list.len())))
            }
            list => Ok(list),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// 400 for another type.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|value| Self::of(value, &self.path(name))).transpose()
    }

    /// The object itself.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }
}

/// 400 for a value of the wrong type.
pub fn wrong(path: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(path, format!("is {}, expected {expected}", kind(found)))
}

/// Beyond 64 bits the number is only known to be large, and large is what it is refused for.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX)).or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0).then_some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_that_are_no_object_are_refused() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(JSON_VALUES));
        for (body, expected) in [
            (&b"\xff{}"[..], "not UTF-8 (byte 0)"),
            (b"{", "not JSON"),
            (b"[]", "an array, expected a JSON object"),
            (b"", "not JSON"),
            (deep.as_bytes(), "recursion limit"),
            (many.as_bytes(), "JSON values"),
            (b"{\"a\":1e999}", "not JSON"),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }

    #[test]
    fn what_a_string_holds_is_no_value() {
        assert_eq!(count_values(r#"{"a,[\",":"b\\"}"#), 3);
    }

    #[test]
    fn wrong_types_are_named_with_their_place() {
        let body = json!({"n": "x", "a": {"b": 1}, "big": 1e300, "whole": 3.0, "half": 0.5});
        let fields = Fields::new(body.as_object().unwrap());
        let inner = fields.object("a").unwrap().unwrap();
        let error = inner.text("b").unwrap_err();
        assert_eq!(error.message, "a.b: is a number, expected a string");
        assert_eq!(error.param.as_deref(), Some("a.b"));
        let error = fields.count("n", 1, 16).unwrap_err();
        assert_eq!(error.message, "n: is a string, expected a whole number");
        let error = fields.count("big", 1, 16).unwrap_err();
        assert_eq!(error.message, "big: is 1e+300, expected 1 to 16");
        assert_eq!(fields.count("whole", 1, 16).unwrap(), Some(3));
        assert!(fields.integer("half").is_err());
        assert_eq!(fields.count("absent", 1, 16).unwrap(), None);
    }
}
