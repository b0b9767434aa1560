//! Values as Python prints them: `str`, `repr` and `json.dumps`.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::limits::VALUE_DEPTH;
use super::too_deep;

/// Bytes of printed containers that one step of fuel pays for: walking is slower than copying.
const BYTES_PER_STEP: usize = 4;

/// Text that is paid for as it grows: a small value can hold the same list a million times.
struct Printed<'a> {
    text: String,
    paid: usize,
    state: &'a State<'a, 'a>,
}

impl<'a> Printed<'a> {
    fn new(state: &'a State<'_, '_>) -> Self {
        Self { text: String::new(), paid: 0, state }
    }

    /// Pays for what was written since the last call, and for one item.
    fn pay(&mut self) -> Result<(), Error> {
        let steps = 1 + (self.text.len() - self.paid) / BYTES_PER_STEP;
        self.paid = self.text.len();
        self.state.consume_fuel(steps as u64)
    }
}

/// `str(value)`; empty for undefined, as Jinja prints it.
pub(super) fn str(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut out = Printed::new(state);
    write_repr(&mut out, value, 0)?;
    Ok(out.text)
}

fn write_repr(printed: &mut Printed<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > VALUE_DEPTH {
        return Err(too_deep());
    }
    printed.pay()?;
    let out = &mut printed.text;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match as_float(value) {
            Some(float) => out.push_str(&float_repr(float)),
            None => out.push_str(&value.to_string()),
        },
        ValueKind::String => str_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            let mut items = 0;
            out.push(open);
            for item in value.try_iter()?.checked() {
                if items > 0 {
                    printed.text.push_str(", ");
                }
                write_repr(printed, &item?, depth + 1)?;
                items += 1;
            }
            if value.is_tuple() && items == 1 {
                printed.text.push(',');
            }
            printed.text.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if index > 0 {
                    printed.text.push_str(", ");
                }
                write_repr(printed, &key, depth + 1)?;
                printed.text.push_str(": ");
                write_repr(printed, &value.get_item(&key)?, depth + 1)?;
            }
            printed.text.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// The number when it is a float rather than an integer.
fn as_float(value: &Value) -> Option<f64> {
    if value.is_integer() { None } else { f64::try_from(value.clone()).ok() }
}

/// `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from
/// 1e16 on.
pub(super) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// `repr` of a string: single quotes unless only those occur, control characters escaped.
fn str_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// `str.isprintable` for the characters that texts hold: no controls, and of the separators and
/// format characters only the space.
fn is_printable(c: char) -> bool {
    let separator_or_format = c != ' ' && c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}');
    !c.is_control() && !separator_or_format
}

/// Layout of [`json`]: the arguments of `json.dumps`.
#[derive(Clone, Debug)]
pub(super) struct JsonLayout {
    /// Text of one level of indentation; `None` for everything on one line.
    pub(super) indent: Option<String>,
    /// Between items.
    pub(super) item_separator: String,
    /// Between key and value.
    pub(super) key_separator: String,
    /// Keys in order rather than as they come.
    pub(super) sort_keys: bool,
    /// `\uXXXX` for everything that is not ASCII.
    pub(super) ensure_ascii: bool,
}

/// `json.dumps(value)` in the given layout.
///
/// # Errors
/// What Python refuses too: undefined, functions, keys that are neither text nor number.
pub(super) fn json(state: &State, value: &Value, layout: &JsonLayout) -> Result<String, Error> {
    let mut writer = JsonWriter { printed: Printed::new(state), layout };
    writer.value(value, 0)?;
    writer.printed.pay()?;
    Ok(writer.printed.text)
}

struct JsonWriter<'a> {
    printed: Printed<'a>,
    layout: &'a JsonLayout,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > VALUE_DEPTH {
            return Err(too_deep());
        }
        self.printed.pay()?;
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool | ValueKind::Number => self.push(&scalar(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.container(('[', ']'), depth, value.try_iter()?.checked(), |writer, item| {
                    writer.value(&item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.printed.state.consume_fuel(keys.len() as u64)?;
                if self.layout.sort_keys {
                    keys.sort();
                }
                let keys = keys.into_iter().map(Ok);
                self.container(('{', '}'), depth, keys, |writer, key| {
                    writer.key(&key)?;
                    writer.push(&writer.layout.key_separator);
                    writer.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let reason = format!("object of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    fn container(
        &mut self,
        (open, close): (char, char),
        depth: usize,
        items: impl Iterator<Item = Result<Value, Error>>,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.printed.text.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.push(&self.layout.item_separator);
            }
            empty = false;
            self.new_line(depth + 1);
            write(self, item?)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.printed.text.push(close);
        Ok(())
    }

    fn push(&mut self, text: &str) {
        self.printed.text.push_str(text);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.layout.indent {
            self.printed.text.push('\n');
            for _ in 0..depth {
                self.printed.text.push_str(indent);
            }
        }
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None => self.printed.text.push_str("\"null\""),
            ValueKind::Bool | ValueKind::Number => {
                let text = scalar(key);
                self.printed.text.extend(["\"", &text, "\""]);
            }
            kind => {
                let reason = format!("JSON keys must be text or numbers, not {kind}");
                return Err(Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.printed.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.printed.text.push_str("\\\""),
                '\\' => self.printed.text.push_str("\\\\"),
                '\n' => self.printed.text.push_str("\\n"),
                '\r' => self.printed.text.push_str("\\r"),
                '\t' => self.printed.text.push_str("\\t"),
                '\u{8}' => self.printed.text.push_str("\\b"),
                '\u{c}' => self.printed.text.push_str("\\f"),
                c if c < ' ' || self.layout.ensure_ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.printed.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.printed.text.push(c),
            }
        }
        self.printed.text.push('"');
    }
}

/// A number or boolean as `json.dumps` writes it.
fn scalar(value: &Value) -> String {
    if value.kind() == ValueKind::Bool {
        return if value.is_true() { "true".into() } else { "false".into() };
    }
    match as_float(value) {
        Some(float) if float.is_nan() => "NaN".into(),
        Some(float) if float.is_infinite() => {
            if float > 0.0 {
                "Infinity".into()
            } else {
                "-Infinity".into()
            }
        }
        Some(float) => float_repr(float),
        None => value.to_string(),
    }
}
