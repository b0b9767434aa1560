//! Source → source that the engine compiles to what `transformers` would do.
//!
//! Works on the engine's own tokens, so that both agree on what is a tag and what is text:
//!
//! - `{% generation %}` marks assistant text for training; here it is only a scope (`{% with %}`).
//! - `{% for x in y %}` and `{% set ns.x = y %}` pass `y` through a check: Python cannot iterate
//!   none, and a namespace may not hold itself or grow deeper with every round of a loop.
//! - `[a]`, `{'k': a}` and `(a, b)` are measured when they are made: a list may hold another twice,
//!   that one another twice, and so on, until printing or comparing it would never end.
//! - `a + b` in a tag with `|safe` goes through a filter: Python escapes what is added to safe text.
//!
//! Line breaks stay where they are, so that errors name the line of the original.

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::limits::{BRANCHES, SOURCE_BYTES, TAG_TOKENS};
use super::{TemplateError, TemplateLimit, explain, limit_at};

/// Filter behind every iterated expression.
pub(super) const ITERATED: &str = "__iterated";
/// Filter behind every value that goes into a namespace.
pub(super) const KEPT: &str = "__kept";
/// Filter behind every list, mapping and tuple that is written out.
pub(super) const MEASURED: &str = "__measured";
/// Filter instead of `+` where safe text may be added to.
pub(super) const ADDED: &str = "__added";

/// Rewrites `source`; refuses one that is too large or too deep to compile.
pub(super) fn prepare(source: &str, syntax: &SyntaxConfig) -> Result<String, TemplateError> {
    if source.len() > SOURCE_BYTES {
        let limit = TemplateLimit::SourceBytes { found: source.len(), limit: SOURCE_BYTES };
        return Err(limit_at(None, limit));
    }
    let mut edits = Edits::default();
    let mut tag: Vec<(Token<'_>, Span)> = Vec::new();
    let mut branches = 0;
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token.map_err(|error| explain(&error, 0))?;
        match token {
            Token::TemplateData(_) => {}
            Token::BlockStart | Token::VariableStart => tag.clear(),
            Token::VariableEnd => {
                edits.literals(&tag);
                edits.additions(&tag);
                tag.clear();
            }
            Token::BlockEnd => {
                branches += usize::from(matches!(tag.first(), Some((Token::Ident("elif"), _))));
                edits.statement(&tag);
                tag.clear();
            }
            _ => tag.push((token, span)),
        }
        let line = Some(usize::from(span.start_line));
        if tag.len() > TAG_TOKENS {
            return Err(limit_at(line, TemplateLimit::TagTokens { limit: TAG_TOKENS }));
        }
        if branches > BRANCHES {
            return Err(limit_at(line, TemplateLimit::Branches { limit: BRANCHES }));
        }
    }
    Ok(edits.apply(source))
}

/// Replacements in order: bytes `[start, end)` become `text`.
#[derive(Default)]
struct Edits(Vec<(usize, usize, String)>);

impl Edits {
    /// Looks at the tokens between `{%` and `%}`.
    fn statement(&mut self, tag: &[(Token<'_>, Span)]) {
        let Some((Token::Ident(keyword), span)) = tag.first() else { return };
        self.literals(tag);
        self.additions(&tag[1..]);
        match *keyword {
            "generation" if tag.len() == 1 => self.replace(*span, "with"),
            "endgeneration" if tag.len() == 1 => self.replace(*span, "endwith"),
            "set" => {
                let assign = top_level(tag, |token| matches!(token, Token::Assign));
                if let Some(at) = assign
                    && tag[..at].iter().any(|(token, _)| matches!(token, Token::Dot))
                {
                    self.wrap(&tag[at + 1..], KEPT);
                } else if let Some(at) = assign
                    && top_level(&tag[at + 1..], |token| matches!(token, Token::Comma)).is_some()
                {
                    self.wrap(&tag[at + 1..], MEASURED);
                }
            }
            "for" => {
                let Some(at) = top_level(tag, |token| matches!(token, Token::Ident("in"))) else {
                    return;
                };
                let rest = &tag[at + 1..];
                let ends = |token: &Token<'_>| matches!(token, Token::Ident("if" | "recursive"));
                self.wrap(&rest[..top_level(rest, ends).unwrap_or(rest.len())], ITERATED);
            }
            _ => {}
        }
    }

    fn replace(&mut self, span: Span, text: &str) {
        self.0.push((span.start_offset as usize, span.end_offset as usize, text.to_owned()));
    }

    /// `expression` → `(expression)|filter`.
    fn wrap(&mut self, expression: &[(Token<'_>, Span)], filter: &str) {
        let (Some((_, first)), Some((_, last))) = (expression.first(), expression.last()) else {
            return;
        };
        if !balanced(expression) {
            return; // the engine refuses such a tag; brackets of ours would make it sound
        }
        let (start, end) = (first.start_offset as usize, last.end_offset as usize);
        self.0.push((start, start, "(".into()));
        self.0.push((end, end, format!(")|{filter}")));
    }

    /// `[a, b]` → `([a, b]|__measured)`, mappings and tuples likewise.
    fn literals(&mut self, tag: &[(Token<'_>, Span)]) {
        if !balanced(tag) {
            return;
        }
        let mut open = Vec::new();
        for (index, (token, span)) in tag.iter().enumerate() {
            let after_operand = index > 0 && ends_operand(&tag[index - 1].0);
            match token {
                Token::BracketOpen => open.push((span, !after_operand)),
                Token::BraceOpen => open.push((span, true)),
                // A tuple only once there is a comma.
                Token::ParenOpen => open.push((span, false)),
                Token::Comma => {
                    if let Some((start, literal)) = open.last_mut() {
                        let at = tag[..index].iter().rposition(|(_, span)| span == *start);
                        *literal |= at.is_some_and(|at| {
                            matches!(tag[at].0, Token::ParenOpen)
                                && !(at > 0 && ends_operand(&tag[at - 1].0))
                        });
                    }
                }
                Token::BracketClose | Token::BraceClose | Token::ParenClose => {
                    let Some((start, literal)) = open.pop() else { return };
                    // `(a, b) =` and `(a, b) in` of a loop are targets.
                    let is_target = match tag.get(index + 1) {
                        Some((Token::Assign, _)) => true,
                        Some((Token::Ident("in"), _)) => {
                            matches!(tag[0].0, Token::Ident("for"))
                                && !tag[..index].iter().any(is_in)
                        }
                        _ => false,
                    };
                    if literal && !is_target {
                        let (start, end) = (start.start_offset as usize, span.end_offset as usize);
                        self.0.push((start, start, "(".into()));
                        self.0.push((end, end, format!("|{MEASURED})")));
                    }
                }
                _ => {}
            }
        }
    }

    /// `a + b + c` → `(a)|__added(b)|__added(c)`, where the tag makes safe text at all.
    fn additions(&mut self, tag: &[(Token<'_>, Span)]) {
        let makes_safe = |pair: &[(Token<'_>, Span)]| {
            matches!(pair, [(Token::Pipe, _), (Token::Ident("safe"), _)])
        };
        if !balanced(tag) || !tag.windows(2).any(makes_safe) {
            return;
        }
        let mut sums = vec![Sum::default()];
        for (index, (token, span)) in tag.iter().enumerate() {
            let previous = index.checked_sub(1).map(|index| &tag[index].0);
            let (start, end) = (span.start_offset as usize, span.end_offset as usize);
            let sum = sums.last_mut().expect("balanced brackets leave the outermost sum");
            match token {
                Token::Plus if previous.is_some_and(ends_operand) => sum.signs.push((start, end)),
                Token::Minus if previous.is_some_and(ends_operand) => sum.has_minus = true,
                token if ends_sum(token, previous) => {
                    std::mem::take(sum).into_edits(&mut self.0);
                    sum.end = end;
                }
                Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                    let inner = sums.pop().expect("balanced brackets");
                    inner.into_edits(&mut self.0);
                    sums.last_mut().expect("balanced brackets").end = end;
                }
                _ => {
                    sum.start.get_or_insert(start);
                    sum.end = end;
                    if matches!(token, Token::ParenOpen | Token::BracketOpen | Token::BraceOpen) {
                        sums.push(Sum::default());
                    }
                }
            }
        }
        sums.pop().expect("balanced brackets leave the outermost sum").into_edits(&mut self.0);
    }

    fn apply(mut self, source: &str) -> String {
        // Stable: where two end at one place, the inner was found first.
        self.0.sort_by_key(|(start, ..)| *start);
        let mut prepared = String::with_capacity(source.len() + 16 * self.0.len());
        let mut done = 0;
        for (start, end, text) in self.0 {
            prepared.push_str(&source[done..start]);
            prepared.push_str(&text);
            done = end;
        }
        prepared.push_str(&source[done..]);
        prepared
    }
}

/// Operands joined by `+` at one depth of brackets; offsets in bytes.
#[derive(Default)]
struct Sum {
    start: Option<usize>,
    end: usize,
    signs: Vec<(usize, usize)>,
    /// Then it is numbers that are added.
    has_minus: bool,
}

impl Sum {
    fn into_edits(self, edits: &mut Vec<(usize, usize, String)>) {
        let Some(start) = self.start.filter(|_| !self.signs.is_empty() && !self.has_minus) else {
            return;
        };
        edits.push((start, start, "(".into()));
        for (start, end) in self.signs {
            edits.push((start, end, format!(")|{ADDED}(")));
        }
        edits.push((self.end, self.end, ")".into()));
    }
}

fn is_in((token, _): &(Token<'_>, Span)) -> bool {
    matches!(token, Token::Ident("in"))
}

/// Whether an operand ends here: a `+` after it adds, rather than being a sign, and a bracket after
/// it is an index or a call.
fn ends_operand(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(name) => {
            !matches!(*name, "if" | "elif" | "else" | "and" | "or" | "not" | "in")
        }
        Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => {
            true
        }
        Token::ParenClose | Token::BracketClose | Token::BraceClose => true,
        _ => false,
    }
}

/// Whether the token binds weaker than `+`.
fn ends_sum(token: &Token<'_>, previous: Option<&Token<'_>>) -> bool {
    match token {
        Token::Ident("not") => !matches!(previous, Some(Token::Ident("is"))),
        Token::Ident("if" | "else" | "and" | "or" | "in") => {
            !matches!(previous, Some(Token::Dot | Token::Pipe))
        }
        Token::Comma | Token::Colon | Token::Assign => true,
        Token::Eq | Token::Ne | Token::Gt | Token::Gte | Token::Lt | Token::Lte => true,
        _ => false,
    }
}

/// First token outside brackets that `wanted` accepts and that is no attribute or filter name.
fn top_level(tag: &[(Token<'_>, Span)], wanted: impl Fn(&Token<'_>) -> bool) -> Option<usize> {
    let mut depth = 0usize;
    let mut named = false;
    for (index, (token, _)) in tag.iter().enumerate() {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            token if depth == 0 && !named && wanted(token) => return Some(index),
            _ => {}
        }
        named = matches!(token, Token::Dot | Token::Pipe);
    }
    None
}

/// Whether no bracket closes before it was opened.
fn balanced(expression: &[(Token<'_>, Span)]) -> bool {
    let mut depth = 0usize;
    expression.iter().all(|(token, _)| {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                let Some(outer) = depth.checked_sub(1) else { return false };
                depth = outer;
            }
            _ => {}
        }
        true
    }) && depth == 0
}
