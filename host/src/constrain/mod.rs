//! Which text may be generated: grammars, compiled by llguidance, as masks over the logits.
//!
//! | file | what it does |
//! |---|---|
//! | `limits` | bounds on grammars, each with its name in the error |
//! | `vocabulary` | the bytes of every token, as llguidance wants them |
//! | `gbnf` | GBNF → Lark |
//! | `tools` | tool choice → the grammar of a family's tool calls |
//! | `think` | a budget for reasoning |
//!
//! [`Grammars`] belongs to a model and compiles, which takes milliseconds and more: not on the engine's thread. A
//! [`Constraint`] belongs to a request. What cannot be compiled is an error, and nothing of a grammar is passed over.

mod error;
mod gbnf;
mod limits;
#[cfg(test)]
mod tests;
mod think;
pub mod tools;
mod vocabulary;
mod watch;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::thread;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

pub use error::ConstraintError;
pub use limits::{
    MAX_GRAMMAR_BYTES, MAX_GRAMMAR_DEPTH, MAX_REGEX_BYTES, MAX_REPETITION, MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH, MAX_TOOLS_BYTES,
};
pub use think::ThinkBudget;

use crate::text::{ThinkMarkers, Tokenizer};
use watch::Watch;

/// White space inside JSON: what people and models write, but no endless run of it.
const WHITE: &str = r"[ \t]{1,2}|\r?\n[ \t]{0,40}";

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSpec {
    /// A JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// Text of a grammar in llguidance's Lark, whose first rule is `start`.
    Lark(String),
    /// Text of a grammar in llama.cpp's GBNF, whose first rule is `root`.
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Tool calls, from [`tools::grammar`].
    ToolCalls(tools::ToolCalls),
    /// Tool calls, or text of the other grammar.
    CallsOr(tools::ToolCalls, Box<GrammarSpec>),
}

impl GrammarSpec {
    fn what(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
            Self::Gbnf(_) => "GBNF grammar",
            Self::Choice(_) => "list of choices",
            Self::ToolCalls(_) | Self::CallsOr(..) => "grammar of the tools",
        }
    }

    /// Whether reasoning may be part of the text.
    fn reasons(&self) -> bool {
        matches!(self, Self::ToolCalls(calls) | Self::CallsOr(calls, _) if calls.reasons())
    }

    fn lower(&self) -> Result<TopLevelGrammar, ConstraintError> {
        Ok(match self {
            Self::JsonObject => TopLevelGrammar::from_json_schema(json_schema(&json!({
                "type": "object"
            }))?),
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(json_schema(schema)?),
            Self::Regex(regex) => {
                limits::check_regex(regex)?;
                TopLevelGrammar::from_regex(regex)
            }
            Self::Lark(lark) => {
                limits::check_grammar(lark)?;
                limits::check_depth(lark)?;
                TopLevelGrammar::from_lark(lark.clone())
            }
            Self::Gbnf(gbnf) => {
                limits::check_grammar(gbnf)?;
                let invalid = |reason| ConstraintError::Invalid { what: self.what(), reason };
                TopLevelGrammar::from_lark(gbnf::to_lark(gbnf).map_err(invalid)?)
            }
            Self::Choice(texts) => TopLevelGrammar::from_lark(choice(texts)?),
            Self::ToolCalls(calls) => TopLevelGrammar::from_lark(calls.lark()),
            Self::CallsOr(calls, other) => {
                let mut other = other.lower()?.grammars;
                other.iter_mut().for_each(|grammar| grammar.name = Some(OTHER.to_owned()));
                let mut both = TopLevelGrammar::from_lark(calls.lark_or(&format!("@{OTHER}")));
                both.grammars.append(&mut other);
                both
            }
        })
    }
}

/// The name of the grammar that stands beside the one of tool calls.
const OTHER: &str = "other";

/// One token of the grammar for all texts, so that one may be the head of another.
fn choice(texts: &[String]) -> Result<String, ConstraintError> {
    let texts: Vec<String> = texts.iter().map(|text| tools::quoted(text)).collect();
    let lark = format!("start: CHOICE\nCHOICE: {}\n", texts.join(" | "));
    ConstraintError::limit("list of choices' size in bytes", lark.len(), MAX_GRAMMAR_BYTES)?;
    Ok(lark)
}

/// The schema within its limits, with our rules for white space.
fn json_schema(schema: &Value) -> Result<Value, ConstraintError> {
    limits::check_schema(schema)?;
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => json!({}),
        _ => {
            let (what, reason) = ("JSON schema", "expected an object or true".to_owned());
            return Err(ConstraintError::Invalid { what, reason });
        }
    };
    schema["x-guidance"] = json!({ "whitespace_pattern": WHITE });
    Ok(schema)
}

/// Compiles grammars for one model's vocabulary.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Result<ParserFactory, ConstraintError>>,
}

impl Grammars {
    /// For this vocabulary. Nothing is built before the first grammar.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, factory: OnceLock::new() }
    }

    /// Builds what all grammars of the vocabulary share: half a second where it has 150,000 tokens. [`Self::compile`]
    /// does it where it was not done.
    ///
    /// # Errors
    /// `Vocabulary` when it has no token that ends an answer.
    pub fn prepare(&self) -> Result<(), ConstraintError> {
        self.factory().map(drop)
    }

    fn factory(&self) -> Result<&ParserFactory, ConstraintError> {
        let built = self.factory.get_or_init(|| vocabulary::factory(&self.tokenizer));
        built.as_ref().map_err(Clone::clone)
    }

    /// The tokenizer of [`Self::new`].
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Compiles a grammar: the state before an answer's first token.
    ///
    /// # Errors
    /// `Limit` with what is too large, `Invalid` with what is wrong, `Vocabulary` as [`Self::prepare`].
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Constraint, ConstraintError> {
        let grammar = spec.lower()?;
        let factory = self.factory()?;
        let invalid = |reason| ConstraintError::Invalid { what: spec.what(), reason };
        // On a stack that the depths let through by the limits fit on, whoever calls.
        let compiled = thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".to_owned());
            let work = || {
                let mut matcher = Matcher::new(factory.create_parser(grammar));
                // Errors of the lexer come with the first mask, and a grammar without any text has none.
                match (matcher.get_error(), matcher.compute_mask_or_eos()) {
                    (Some(error), _) => Err(error),
                    (None, Err(error)) => Err(error.to_string()),
                    (None, Ok(mask)) if mask.is_zero() => Err("it allows no text".to_owned()),
                    (None, Ok(_)) => Ok(matcher),
                }
            };
            let spawned = builder.stack_size(limits::STACK_BYTES).spawn_scoped(scope, work);
            let worker = spawned.map_err(|error| error.to_string())?;
            worker.join().unwrap_or_else(|_| Err("the compiler failed".to_owned()))
        });
        let matcher = compiled.map_err(|reason| invalid(one_line(&reason)))?;
        let tokenizer = self.tokenizer.clone();
        let (gate, reasons) = (Gate::Open, spec.reasons());
        Ok(Constraint { matcher, tokenizer, gate, reasons, complete: false })
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built = self.factory.get().is_some();
        f.debug_struct("Grammars").field("built", &built).finish_non_exhaustive()
    }
}

/// An error of the compiler without line breaks and long quotations.
fn one_line(text: &str) -> String {
    const MOST: usize = 400;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

/// The grammar of one answer and how far it is.
pub struct Constraint {
    matcher: Matcher,
    tokenizer: Arc<Tokenizer>,
    gate: Gate,
    /// The grammar itself lets reasoning come first.
    reasons: bool,
    complete: bool,
}

/// Whether the grammar holds yet.
#[derive(Clone, Debug)]
enum Gate {
    /// It does.
    Open,
    /// The answer may begin with this token, which opens reasoning.
    Perhaps { opener: u32, close: Watch },
    /// In reasoning: it holds behind the marker.
    Reasoning(Watch),
}

/// Where the text of a grammar begins in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins<'a> {
    /// With the first token, and no reasoning is part of it.
    AtOnce,
    /// With the first token: reasoning is part of it.
    InReasoning,
    /// Behind this marker, which ends what the grammar says nothing about.
    Behind(&'a [u8]),
}

impl Constraint {
    /// Where its text begins.
    fn begins(&self) -> Begins<'_> {
        match &self.gate {
            Gate::Open if self.reasons => Begins::InReasoning,
            Gate::Open => Begins::AtOnce,
            Gate::Perhaps { close, .. } | Gate::Reasoning(close) => Begins::Behind(close.marker()),
        }
    }

    /// Lets reasoning come first, about which the grammar says nothing. `opened` says that the prompt opened it. Where
    /// the opening marker does not begin with a token of its own, only opened reasoning is let through.
    pub fn after_reasoning(mut self, markers: &ThinkMarkers, opened: bool) -> Self {
        if self.reasons {
            return self;
        }
        // Where the answer has a marker of its own, nothing before it is the answer.
        if let Some(marker) = markers.answer {
            self.gate = Gate::Reasoning(Watch::new(marker));
            return self;
        }
        let close = Watch::new(markers.close);
        let opener = self.tokenizer.encode(markers.open, false, true).unwrap_or_default();
        self.gate = match opener[..] {
            _ if opened => Gate::Reasoning(close),
            [opener] => Gate::Perhaps { opener, close },
            [opener, ..] if is_marker(self.tokenizer.piece(opener)) => {
                Gate::Perhaps { opener, close }
            }
            _ => Gate::Open,
        };
        self
    }

    /// Excludes what may not come next: its logits \[vocab_size\] become −∞.
    ///
    /// # Errors
    /// `Failed` when the grammar became too complex.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        if let Gate::Reasoning(_) = self.gate {
            // An answer cannot end before it began.
            for &token in self.tokenizer.end_of_generation() {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            return Ok(());
        }
        let kept = match self.gate {
            Gate::Perhaps { opener, .. } => {
                logits.get(opener as usize).map(|logit| (opener, *logit))
            }
            _ => None,
        };
        let mask = self.matcher.compute_mask_or_eos().map_err(failed)?;
        let words = mask.as_slice().iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(u32::BITS as usize).zip(words) {
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        if let Some((token, logit)) = kept {
            logits[token as usize] = logit;
        }
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// `Failed` when the grammar does not allow it.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        match &mut self.gate {
            Gate::Open => {}
            Gate::Reasoning(close) => {
                if close.push(self.tokenizer.piece(token)) {
                    self.gate = Gate::Open;
                }
                return Ok(());
            }
            Gate::Perhaps { opener, close } => {
                let reasons = token == *opener;
                self.gate = if reasons { Gate::Reasoning(close.clone()) } else { Gate::Open };
                if reasons {
                    return Ok(());
                }
            }
        }
        self.matcher.consume_token(token).map_err(failed)?;
        self.complete = self.matcher.is_stopped();
        if self.complete && !self.matcher.stop_reason().is_ok() {
            return Err(ConstraintError::Failed(self.matcher.stop_reason().to_string()));
        }
        Ok(())
    }

    /// Whether the text is whole and nothing can follow it.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Whether a token stands for itself, and is no head that other text may have too.
fn is_marker(piece: &[u8]) -> bool {
    matches!(piece, [b'<', .., b'>'] | [b'[', .., b']'])
}

/// A copy goes on by itself.
impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            tokenizer: self.tokenizer.clone(),
            gate: self.gate.clone(),
            reasons: self.reasons,
            complete: self.complete,
        }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gate, complete) = (&self.gate, self.complete);
        f.debug_struct("Constraint")
            .field("gate", gate)
            .field("complete", &complete)
            .finish_non_exhaustive()
    }
}

fn failed(error: impl fmt::Display) -> ConstraintError {
    ConstraintError::Failed(one_line(&error.to_string()))
}
