//! Text that was marked `|safe`. Nothing else is escaped in a chat template, but Python escapes what
//! is added to such text, and published templates are written (and models trained) with that.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// Bytes that one step of fuel pays for.
const BYTES_PER_STEP: usize = 64;

/// `left + right`, as `markupsafe.Markup` adds: with safe text on one side, the other is escaped.
pub(super) fn add(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        // Escaping takes at most five bytes for one.
        state.consume_fuel(((a.len() + 5 * b.len()) / BYTES_PER_STEP) as u64)?;
        return Ok(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from([a, b].concat()),
            (true, true) => Value::from_safe_string([a, b].concat()),
            (true, false) => Value::from_safe_string([a, &escape(b)].concat()),
            (false, true) => Value::from_safe_string([&escape(a), b].concat()),
        });
    }
    let sequences = [left, right].map(|value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && !value.is_tuple()
    });
    if sequences == [true, true] {
        let mut items = Vec::new();
        for item in left.try_iter()?.checked().chain(right.try_iter()?.checked()) {
            state.consume_fuel(1)?;
            items.push(item?);
        }
        return Ok(Value::from(items));
    }
    let integers = left.is_integer() && right.is_integer();
    if let (true, Ok(a), Ok(b)) = (integers, i64::try_from(left.clone()), right.clone().try_into())
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(Value::from(sum));
    }
    match (
        left.is_number() && right.is_number(),
        f64::try_from(left.clone()),
        right.clone().try_into(),
    ) {
        (true, Ok(a), Ok::<f64, _>(b)) => Ok(Value::from(a + b)),
        _ => {
            let (left, right) = (left.kind(), right.kind());
            let reason = format!("tried to use + operator on unsupported types {left} and {right}");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
    }
}

/// `markupsafe.escape`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            c => escaped.push(c),
        }
    }
    escaped
}
