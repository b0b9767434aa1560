//! Python's methods of text, lists and mappings.
//!
//! Most come from `minijinja-contrib`; those here differ from it or are missing there. Methods that
//! would change a value (`append`, `pop`, `update`) do not exist, as in Jinja's immutable sandbox.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Bytes of the receiver that one step of fuel pays for.
const BYTES_PER_STEP: usize = 64;

/// Calls `receiver.method(args)`.
pub(super) fn call(
    state: &mut State,
    receiver: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let ours = match receiver.as_str() {
        Some(text) => {
            state.consume_fuel((text.len() / BYTES_PER_STEP) as u64)?;
            text_method(text, method, args)?
        }
        None if receiver.kind() == ValueKind::Seq => sequence_method(receiver, method, args)?,
        None => None,
    };
    match ours {
        Some(value) => Ok(value),
        None => pycompat::unknown_method_callback(state, receiver, method, args),
    }
}

/// Methods of `str`; `None` when it is not one of these.
fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "split" | "rsplit" => {
            let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                Some(separator) => Some(separator),
                None => kwargs.get::<Option<Value>>("sep")?,
            };
            let most = match most {
                Some(most) => most,
                None => kwargs.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
            };
            kwargs.assert_all_used()?;
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            Value::from(split(text, separator, most, method == "rsplit")?)
        }
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = match keep_ends {
                Some(keep_ends) => keep_ends,
                None => kwargs.get::<Option<bool>>("keepends")?.unwrap_or(false),
            };
            kwargs.assert_all_used()?;
            Value::from(split_lines(text, keep_ends))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            refuse_empty(separator)?;
            let reverse = method == "rpartition";
            let at = if reverse { text.rfind(separator) } else { text.find(separator) };
            let parts = match at {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if reverse => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(parts.map(Value::from).to_vec())
        }
        "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(wanted) } else { text.rfind(wanted) };
            let Some(at) = at else {
                return Err(Error::new(ErrorKind::InvalidOperation, "substring not found"));
            };
            Value::from(text[..at].chars().count())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        _ => return Ok(None),
    }))
}

/// Methods of `list`; `None` when it is not one of these.
fn sequence_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if method != "index" {
        return Ok(None);
    }
    let (wanted,): (&Value,) = from_args(args)?;
    for (index, item) in list.try_iter()?.checked().enumerate() {
        if item? == *wanted {
            return Ok(Some(Value::from(index)));
        }
    }
    Err(Error::new(ErrorKind::InvalidOperation, "the list has no such item"))
}

/// `str.isspace`: Unicode white space and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `text` without the leading and trailing characters that are in `chars`, by default white space.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(stripped) } else { text };
    if end { text.trim_end_matches(stripped) } else { text }
}

fn refuse_empty(separator: &str) -> Result<(), Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    Ok(())
}

/// `str.split` and `str.rsplit` with at most `most` cuts; without a separator at white space.
fn split(
    text: &str,
    separator: Option<Value>,
    most: usize,
    reverse: bool,
) -> Result<Vec<Value>, Error> {
    let separator = separator.filter(|value| !value.is_none());
    let Some(separator) = separator else {
        return Ok(split_words(text, most, reverse).into_iter().map(Value::from).collect());
    };
    let Some(separator) = separator.as_str() else {
        let reason = format!("split: the separator is {}, not text", separator.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    };
    refuse_empty(separator)?;
    let parts = most.saturating_add(1);
    Ok(if reverse {
        let mut parts: Vec<Value> = text.rsplitn(parts, separator).map(Value::from).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(parts, separator).map(Value::from).collect()
    })
}

fn split_words(text: &str, most: usize, reverse: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = strip(text, None, !reverse, reverse);
    while !rest.is_empty() && words.len() < most {
        let (word, remaining) = if reverse {
            let start = rest.char_indices().rfind(|(_, c)| is_space(*c));
            let start = start.map_or(0, |(at, c)| at + c.len_utf8());
            (&rest[start..], &rest[..start])
        } else {
            rest.split_at(rest.find(is_space).unwrap_or(rest.len()))
        };
        words.push(word);
        rest = strip(remaining, None, !reverse, reverse);
    }
    if !rest.is_empty() {
        words.push(rest);
    }
    if reverse {
        words.reverse();
    }
    words
}

/// `str.splitlines`.
fn split_lines(text: &str, keep_ends: bool) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let end = rest.find(ends).unwrap_or(rest.len());
        let width = match rest[end..].chars().next() {
            Some('\r') if rest[end..].starts_with("\r\n") => 2,
            Some(c) => c.len_utf8(),
            None => 0,
        };
        lines.push(Value::from(&rest[..if keep_ends { end + width } else { end }]));
        rest = &rest[end + width..];
    }
    lines
}
