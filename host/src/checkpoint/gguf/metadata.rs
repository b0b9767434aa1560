//! Keys and values of a GGUF header, and the getters that check their types.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::value::{Array, Strings, Value};
use crate::checkpoint::CheckpointError;

/// Typed keys and values of a GGUF header, in file order. Getters return `Ok(None)` for a missing
/// key and an error that names file, key, found and expected type for a wrong one.
#[derive(Debug)]
pub struct GgufMetadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl GgufMetadata {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into(), entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds a key; one that is there already is an error.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), CheckpointError> {
        if self.index.insert(key.clone(), self.entries.len()).is_some() {
            return Err(CheckpointError::key(&self.path, &key, "is there twice, expected once"));
        }
        self.entries.push((key, value));
        Ok(())
    }

    /// The file they come from, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// All keys and values, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }
    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.read(key, "a string", |value| match value {
            Value::String(bytes) => Some(std::str::from_utf8(bytes).map_err(|e| {
                format!("is not UTF-8 after {} bytes, expected text", e.valid_up_to())
            })),
            _ => None,
        })
    }
    /// A non-negative integer of any integer type.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.read(key, "an integer", |value| Some(in_range(value.as_integer()?)))
    }
    /// A non-negative integer of any integer type.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        self.read(key, "an integer", |value| Some(in_range(value.as_integer()?)))
    }
    /// An integer of any integer type.
    pub fn i32(&self, key: &str) -> Result<Option<i32>, CheckpointError> {
        self.read(key, "an integer", |value| Some(in_range(value.as_integer()?)))
    }
    /// A float of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        self.read(key, "a float", |value| Some(to_f32(value.as_f64()?)))
    }
    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.read(key, "a bool", |value| match value {
            Value::Bool(v) => Some(Ok(*v)),
            _ => None,
        })
    }

    /// An array of any element type.
    pub fn array(&self, key: &str) -> Result<Option<&Array>, CheckpointError> {
        self.read(key, "an array", |value| as_array(value).map(Ok))
    }
    /// An array of strings, as bytes: vocabulary pieces need not be UTF-8. Allocates nothing.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>, CheckpointError> {
        self.read(key, "an array of strings", |value| as_array(value)?.strings().map(Ok))
    }
    /// An array of integers of any integer type.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, CheckpointError> {
        self.read(key, "an array of integers", |value| integers(as_array(value)?))
    }
    /// An array of non-negative integers of any integer type.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, CheckpointError> {
        self.read(key, "an array of integers", |value| integers(as_array(value)?))
    }
    /// An array of floats of either width.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        self.read(key, "an array of floats", |value| {
            elements(as_array(value)?, |v| Some(to_f32(v.as_f64()?)))
        })
    }
    /// An array of booleans.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, CheckpointError> {
        self.read(key, "an array of bools", |value| {
            elements(as_array(value)?, |v| match v {
                Value::Bool(b) => Some(Ok(b)),
                _ => None,
            })
        })
    }

    /// One value a layer: an array of `layers` integers, or one integer for all of them.
    pub fn u32_per_layer(
        &self,
        key: &str,
        layers: usize,
    ) -> Result<Option<Vec<u32>>, CheckpointError> {
        if !matches!(self.get(key), Some(Value::Array(_))) {
            return Ok(self.u32(key)?.map(|value| vec![value; layers]));
        }
        let values = self.u32s(key)?;
        match &values {
            Some(values) if values.len() != layers => Err(self.wrong(
                key,
                format!("has {} elements, expected {layers}, one a layer", values.len()),
            )),
            _ => Ok(values),
        }
    }

    /// An error about a key of this file.
    pub fn wrong(&self, key: &str, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::key(&self.path, key, problem)
    }

    /// Looks `key` up and converts it; `convert` gives `None` for a wrong type and `Err` for a
    /// value that this type cannot hold.
    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<Result<T, String>>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(Ok(converted)) => Ok(Some(converted)),
            Some(Err(problem)) => Err(self.wrong(key, problem)),
            None => {
                let found = match value {
                    Value::Array(array) => format!("an array ({array})"),
                    scalar => format!("{} {scalar}", scalar.value_type()),
                };
                Err(self.wrong(key, format!("is {found}, expected {expected}")))
            }
        }
    }
}

fn as_array(value: &Value) -> Option<&Array> {
    match value {
        Value::Array(array) => Some(array),
        _ => None,
    }
}

fn elements<T>(
    array: &Array,
    convert: impl Fn(Value) -> Option<Result<T, String>>,
) -> Option<Result<Vec<T>, String>> {
    let numbers = array.numbers()?;
    let mut out = Vec::with_capacity(numbers.len());
    for (i, number) in numbers.enumerate() {
        match convert(number)? {
            Ok(value) => out.push(value),
            Err(problem) => return Some(Err(format!("at [{i}] {problem}"))),
        }
    }
    Some(Ok(out))
}

fn integers<T: Integer>(array: &Array) -> Option<Result<Vec<T>, String>> {
    elements(array, |value| Some(in_range(value.as_integer()?)))
}

/// The integer types that getters return.
trait Integer: TryFrom<i128> {
    const RANGE: &'static str;
}
impl Integer for u32 {
    const RANGE: &'static str = "0 to 2^32 − 1";
}
impl Integer for u64 {
    const RANGE: &'static str = "0 to 2^64 − 1";
}
impl Integer for i32 {
    const RANGE: &'static str = "−2^31 to 2^31 − 1";
}

fn in_range<T: Integer>(value: i128) -> Result<T, String> {
    T::try_from(value).map_err(|_| format!("is {value}, expected {}", T::RANGE))
}

/// Narrows, refusing a finite value that would become infinite.
fn to_f32(value: f64) -> Result<f32, String> {
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() {
        return Err(format!("is {value:e}, expected a value that fits 32 bits"));
    }
    Ok(narrow)
}

#[cfg(test)]
mod tests {
    use super::super::value::ValueType;
    use super::*;
    use crate::checkpoint::Bytes;

    fn sample() -> GgufMetadata {
        let mut m = GgufMetadata::new(Path::new("m.gguf"));
        for (key, value) in [
            ("text", Value::string("llama")),
            ("latin1", Value::String(Bytes::owned(vec![b'a', 0xe9]))),
            ("u8", Value::U8(7)),
            ("negative", Value::I32(-1)),
            ("wide", Value::U64(1 << 40)),
            ("f64", Value::F64(0.5)),
            ("huge", Value::F64(1e300)),
            ("yes", Value::Bool(true)),
            ("words", Value::strings(&["a", "b"])),
            ("i32s", Value::i32s(&[1, -1])),
            ("u32s", Value::u32s(&[4, 5])),
            ("f32s", Value::f32s(&[1.0, f32::INFINITY])),
            ("bools", Value::bools(&[true, false])),
            ("none", Value::Array(Array::new(ValueType::I32, 0, Bytes::owned(vec![])))),
        ] {
            m.insert(key.into(), value).unwrap();
        }
        m
    }

    #[test]
    fn getters_accept_what_fits() {
        let m = sample();
        assert_eq!(m.str("text").unwrap(), Some("llama"));
        assert_eq!(m.u32("u8").unwrap(), Some(7));
        assert_eq!(m.i32("negative").unwrap(), Some(-1));
        assert_eq!(m.u64("wide").unwrap(), Some(1 << 40));
        assert_eq!(m.f32("f64").unwrap(), Some(0.5));
        assert_eq!(m.bool("yes").unwrap(), Some(true));
        assert_eq!(m.strings("words").unwrap().unwrap().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(m.i32s("i32s").unwrap().unwrap(), [1, -1]);
        assert_eq!(m.u32s("u32s").unwrap().unwrap(), [4, 5]);
        assert_eq!(m.f32s("f32s").unwrap().unwrap(), [1.0, f32::INFINITY]);
        assert_eq!(m.bools("bools").unwrap().unwrap(), [true, false]);
        assert!(m.i32s("none").unwrap().unwrap().is_empty());
        assert_eq!(m.u32_per_layer("u8", 3).unwrap().unwrap(), [7, 7, 7]);
        assert_eq!(m.u32_per_layer("u32s", 2).unwrap().unwrap(), [4, 5]);
        assert_eq!(m.iter().next().unwrap().0, "text");
        assert!(m.get("absent").is_none());
        assert_eq!(m.u32_per_layer("absent", 3).unwrap(), None);
        assert_eq!(m.str("absent").unwrap(), None);
    }

    #[test]
    fn getters_name_file_key_found_and_expected() {
        let m = sample();
        let error = |r: Result<bool, CheckpointError>| r.unwrap_err().to_string();
        for (found, expected) in [
            (error(m.u32("text").map(|_| true)), r#"is string "llama", expected an integer"#),
            (error(m.u32("negative").map(|_| true)), "is -1, expected 0 to 2^32 − 1"),
            (error(m.u32("wide").map(|_| true)), "is 1099511627776, expected 0 to 2^32 − 1"),
            (error(m.u32("yes").map(|_| true)), "is bool true, expected an integer"),
            (error(m.u32("f64").map(|_| true)), "is f64 0.5, expected an integer"),
            (error(m.f32("u8").map(|_| true)), "is u8 7, expected a float"),
            (error(m.f32("huge").map(|_| true)), "is 1e300, expected a value that fits 32 bits"),
            (error(m.bool("u8").map(|_| true)), "is u8 7, expected a bool"),
            (error(m.str("u8").map(|_| true)), "is u8 7, expected a string"),
            (error(m.str("latin1").map(|_| true)), "is not UTF-8 after 1 bytes, expected text"),
            (error(m.array("u8").map(|_| true)), "is u8 7, expected an array"),
            (
                error(m.strings("i32s").map(|_| true)),
                "is an array (2 × i32 [1, -1]), expected an array of strings",
            ),
            (error(m.u32s("i32s").map(|_| true)), "at [1] is -1, expected 0 to 2^32 − 1"),
            (
                error(m.f32s("i32s").map(|_| true)),
                "is an array (2 × i32 [1, -1]), expected an array of floats",
            ),
            (error(m.i32s("words").map(|_| true)), "expected an array of integers"),
            (
                error(m.u32_per_layer("u32s", 3).map(|_| true)),
                "has 2 elements, expected 3, one a layer",
            ),
        ] {
            assert!(found.starts_with("m.gguf: key \""), "{found}");
            assert!(found.contains(expected), "{found}\nis not\n{expected}");
        }
    }

    #[test]
    fn a_key_can_be_there_once() {
        let mut m = sample();
        let error = m.insert("text".into(), Value::U8(1)).unwrap_err().to_string();
        assert_eq!(error, "m.gguf: key \"text\" is there twice, expected once");
    }
}
