//! Functions, filters and tests that differ from the engine's own, or that it lacks.

use std::fmt;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};

use super::limits::{VALUE_DEPTH, VALUE_ITEMS};
use super::python::{self, JsonLayout};
use super::{TemplateLimit, markup, methods, prepare, too_deep};

/// What a template said through `raise_exception`.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Makes `environment`, an empty one, behave as the sandbox of `transformers`.
pub(super) fn install(environment: &mut Environment<'_>) {
    *environment = Environment::new();
    // It prints the engine's state, and Jinja has no such function.
    environment.remove_global("debug");
    for filter in ["zip", "chain", "pprint"] {
        environment.remove_filter(filter); // the engine's own, or unlike those of Jinja
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(methods::call);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_filter(prepare::ITERATED, iterated);
    environment.add_filter(prepare::KEPT, |state: &State, value: &Value| kept(state, value, 0));
    // What else makes a level of nesting.
    environment.add_filter("__batch", minijinja::filters::batch);
    environment.add_filter("__slice", minijinja::filters::slice);
    environment.add_filter("__groupby", minijinja::filters::groupby);
    environment.add_filter("batch", |state: &mut State, args: Rest<ValueOrKwargs>| {
        measured_filter(state, "__batch", args)
    });
    environment.add_filter("slice", |state: &mut State, args: Rest<ValueOrKwargs>| {
        measured_filter(state, "__slice", args)
    });
    environment.add_filter("groupby", |state: &mut State, args: Rest<ValueOrKwargs>| {
        measured_filter(state, "__groupby", args)
    });
    environment.add_function("dict", |state: &mut State, value: Option<Value>, items: Kwargs| {
        measured(state, minijinja::functions::dict(value, items)?)
    });
    environment.add_function("namespace", |state: &mut State, defaults: Option<ValueOrKwargs>| {
        if let Some(defaults) = &defaults {
            let mut values = Vec::new();
            for key in defaults.try_iter()?.checked() {
                values.push(defaults.get_item(&key?)?);
            }
            measured(state, Value::from(values))?;
        }
        minijinja::functions::namespace(defaults)
    });
    environment.add_filter(prepare::ADDED, markup::add);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
}

fn raise_exception(state: &State, message: Value) -> Result<Value, Error> {
    let message = python::str(state, &message)?;
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

/// Prints the result of `{{ }}`.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::str(state, value)?),
    };
    written.map_err(Error::from)
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    Ok(Value::from(python::str(state, value)?))
}

fn trim(state: &State, value: &Value, chars: Option<&str>) -> Result<String, Error> {
    let text = python::str(state, value)?;
    Ok(methods::strip(&text, chars, true, true).to_owned())
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
///
/// Source: transformers 5, `utils/chat_template_utils.py`; nothing is escaped for HTML.
fn tojson(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (ensure_ascii, indent, separators, sort_keys, kwargs): (
        Option<Value>,
        Option<Value>,
        Option<Value>,
        Option<Value>,
        Kwargs,
    ) = from_args(&args)?;
    let argument = |positional: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional {
            Some(value) => Some(value),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ensure_ascii = truth(argument(ensure_ascii, "ensure_ascii")?);
    let indent = argument(indent, "indent")?.map(|value| indentation(&value)).transpose()?;
    let separators = argument(separators, "separators")?;
    let sort_keys = truth(argument(sort_keys, "sort_keys")?);
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => separator_pair(&pair)?,
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let layout = JsonLayout { indent, item_separator, key_separator, sort_keys, ensure_ascii };
    python::json(state, value, &layout)
}

/// Widest indentation of `tojson`: depth times width is what a short value can grow by.
const MAX_INDENT: usize = 64;

fn indentation(value: &Value) -> Result<String, Error> {
    let text = match (value.as_str(), value.as_i64()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width)) if width <= MAX_INDENT as i64 => " ".repeat(width.max(0) as usize),
        _ => MAX_INDENT.to_string().repeat(MAX_INDENT),
    };
    if text.len() > MAX_INDENT {
        let reason = format!("tojson: indent is neither a text nor a width up to {MAX_INDENT}");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    Ok(text)
}

fn separator_pair(value: &Value) -> Result<(String, String), Error> {
    let texts: Option<Vec<String>> = value
        .try_iter()?
        .take(3)
        .map(|item| item.as_str().filter(|text| text.len() <= MAX_INDENT).map(str::to_owned))
        .collect();
    match texts.as_deref() {
        Some([item, key]) => Ok((item.clone(), key.clone())),
        _ => {
            let reason =
                format!("tojson: separators must be two texts of up to {MAX_INDENT} bytes");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
    }
}

/// What a `for` loops over. Python refuses none, the engine takes it for empty.
fn iterated(value: &Value) -> Result<Value, Error> {
    if value.is_none() {
        let reason = "none is not iterable (a loop over something that was not passed)";
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    Ok(value.clone())
}

/// Has a list, mapping or tuple that was just made measured, for a conversation of `input_items`
/// values: with all levels counted each time that they occur, it may hold little more than that. So
/// nothing exists that takes long to print, compare or sort.
pub(super) fn measure_values(environment: &mut Environment<'_>, input_items: usize) {
    let most = VALUE_ITEMS + input_items;
    environment.add_filter(prepare::MEASURED, move |state: &State, value: &Value| {
        let mut items = 0;
        measure(state, value, 0, &mut items, most)?;
        Ok::<_, Error>(value.clone())
    });
}

fn measured(state: &mut State, value: Value) -> Result<Value, Error> {
    state.apply_filter(prepare::MEASURED, &[value])
}

/// Items that one step of fuel pays for.
const ITEMS_PER_STEP: usize = 8;

fn measure(
    state: &State,
    value: &Value,
    depth: usize,
    items: &mut usize,
    most: usize,
) -> Result<(), Error> {
    if depth > VALUE_DEPTH {
        return Err(too_deep());
    }
    *items += 1;
    if *items > most {
        let limit = TemplateLimit::ValueItems { limit: most };
        let error = Error::new(ErrorKind::InvalidOperation, limit.to_string());
        return Err(error.with_source(limit));
    }
    if items.is_multiple_of(ITEMS_PER_STEP) {
        state.consume_fuel(1)?;
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()?.checked() {
                measure(state, &item?, depth + 1, items, most)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()?.checked() {
                measure(state, &value.get_item(&key?)?, depth + 1, items, most)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn measured_filter(
    state: &mut State,
    filter: &str,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let args = args.into_values();
    if let Some(value) = args.first() {
        measured(state, value.clone())?; // grouping sorts without paying
    }
    let value = state.apply_filter(filter, &args)?;
    measured(state, value)
}

const NOT_DATA: &str = "a namespace can hold only plain data (text, numbers, lists, mappings)";

/// What may be kept in a namespace: plain data of bounded depth.
///
/// A namespace outlives a round of a loop, so this is where a template could nest a value without
/// end, or make one that holds itself. Lazy sequences are read out, which Python does anyway.
fn kept(state: &State, value: &Value, depth: usize) -> Result<Value, Error> {
    if depth > VALUE_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()?.checked() {
                state.consume_fuel(1)?;
                items.push(kept(state, &item?, depth + 1)?);
            }
            // A tuple stays one; its items were checked.
            Ok(if value.is_tuple() { value.clone() } else { Value::from(items) })
        }
        ValueKind::Map => {
            // The engine's own objects look like mappings: namespaces, macros, loops.
            let type_name = value.as_object().map_or("", |object| object.type_name());
            if type_name.ends_with("::Namespace") || type_name.starts_with("minijinja::vm::") {
                return Err(Error::new(ErrorKind::InvalidOperation, NOT_DATA));
            }
            let mut pairs = Vec::new();
            for key in value.try_iter()?.checked() {
                state.consume_fuel(2)?;
                let key = key?;
                if key.as_object().is_some() {
                    let reason = "a mapping that is kept in a namespace has a key that is no text";
                    return Err(Error::new(ErrorKind::InvalidOperation, reason));
                }
                let item = kept(state, &value.get_item(&key)?, depth + 1)?;
                pairs.push((key, item));
            }
            Ok(Value::from_pairs(pairs))
        }
        ValueKind::Plain => Err(Error::new(ErrorKind::InvalidOperation, NOT_DATA)),
        _ => Ok(value.clone()),
    }
}

/// Jinja: whether `iter(value)` works; the engine counts none too.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Jinja: whether it has a length and items, which texts and mappings do.
fn is_sequence(value: &Value) -> bool {
    let kind = value.kind();
    value.is_undefined()
        || matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::String)
}
