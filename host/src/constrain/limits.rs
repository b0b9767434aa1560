//! Bounds on what is compiled, checked before anything recurses or allocates by it.

use llguidance::api::ParserLimits;
use serde_json::Value;

use super::ConstraintError;

/// Bytes of a JSON schema.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// Levels of a JSON schema.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// Bytes of a regular expression.
pub const MAX_REGEX_BYTES: usize = 8 * 1024;
/// Largest repetition count in a regular expression or grammar.
pub const MAX_REPETITION: usize = 10_000;
/// Bytes of a Lark or GBNF grammar.
pub const MAX_GRAMMAR_BYTES: usize = 64 * 1024;
/// Brackets open at a time in a Lark or GBNF grammar.
pub const MAX_GRAMMAR_DEPTH: usize = 128;

/// Bytes of the grammar that the tools of a request become.
pub const MAX_TOOLS_BYTES: usize = 2 * 1024 * 1024;

/// Stack of the thread that compiles: enough for what the bounds above let through.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// What the compiler may use, in its own units: a tenth of a second or less each.
pub(super) fn parser_limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        max_lexer_states: 50_000,
        // Four for each property that may come next.
        max_items_in_row: 10_000,
        max_grammar_size: 200_000,
        // Errors go to clients, who know their own grammar.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Checks a schema's size and depth.
pub(super) fn check_schema(schema: &Value) -> Result<(), ConstraintError> {
    ConstraintError::limit("JSON schema's depth in levels", depth(schema), MAX_SCHEMA_DEPTH)?;
    let bytes = schema.to_string().len();
    ConstraintError::limit("JSON schema's size in bytes", bytes, MAX_SCHEMA_BYTES)
}

/// Levels of a value, without recursion.
fn depth(value: &Value) -> usize {
    let (mut deepest, mut open) = (0, vec![(value, 1)]);
    while let Some((value, level)) = open.pop() {
        deepest = deepest.max(level);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, level + 1))),
            Value::Object(map) => open.extend(map.values().map(|item| (item, level + 1))),
            _ => {}
        }
    }
    deepest
}

pub(super) fn check_regex(regex: &str) -> Result<(), ConstraintError> {
    ConstraintError::limit("regular expression's size in bytes", regex.len(), MAX_REGEX_BYTES)?;
    check_repetitions(regex)
}

pub(super) fn check_grammar(grammar: &str) -> Result<(), ConstraintError> {
    ConstraintError::limit("grammar's size in bytes", grammar.len(), MAX_GRAMMAR_BYTES)?;
    check_repetitions(grammar)
}

/// Checks what a parser that recurses by brackets would use of its stack. Those in strings count too, so that no
/// quote can hide one.
pub(super) fn check_depth(grammar: &str) -> Result<(), ConstraintError> {
    let (mut open, mut deepest) = (0usize, 0);
    for byte in grammar.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    ConstraintError::limit("grammar's depth in brackets", deepest, MAX_GRAMMAR_DEPTH)
}

/// Checks the numbers in `{m,n}`.
fn check_repetitions(text: &str) -> Result<(), ConstraintError> {
    for part in text.split('{').skip(1) {
        let Some((counts, _)) = part.split_once('}') else { continue };
        for count in counts.split(',').map(str::trim) {
            if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) {
                let count = count.parse().unwrap_or(usize::MAX);
                ConstraintError::limit("repetition count", count, MAX_REPETITION)?;
            }
        }
    }
    Ok(())
}
