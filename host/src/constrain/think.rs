//! A budget of tokens for reasoning: when it is used up, the end of the reasoning is put there.

use std::collections::VecDeque;
use std::sync::Arc;

use super::watch::Watch;
use super::{Begins, Constraint};
use crate::text::{ThinkMarkers, Tokenizer, TokenizerError};

/// Counts the reasoning tokens of one answer.
#[derive(Clone, Debug)]
pub struct ThinkBudget {
    tokenizer: Arc<Tokenizer>,
    open: Watch,
    close: Watch,
    /// The answer so far, while only white space and the head of the opener.
    head: Vec<u8>,
    /// Whether reasoning may begin behind other text, as in harmony's later messages.
    anywhere: bool,
    /// The tokens that end reasoning, and what a model writes between it and its answer.
    end: Vec<u32>,
    /// Those that end it, and nothing more.
    bare: Vec<u32>,
    state: State,
    budget: usize,
    /// Tokens of reasoning so far.
    used: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Reasoning may begin.
    Before,
    Inside,
    /// These tokens come next.
    Ending(VecDeque<u32>),
    Over,
}

impl ThinkBudget {
    /// At most `budget` tokens between the markers; `opened` says that the prompt opened reasoning. 0 ends it where it
    /// begins.
    ///
    /// # Errors
    /// When the vocabulary cannot express the marker that ends reasoning.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        markers: &ThinkMarkers,
        opened: bool,
        budget: usize,
    ) -> Result<Self, TokenizerError> {
        let end = tokenizer.encode(markers.end, false, true)?;
        let bare = tokenizer.encode(markers.close, false, true)?;
        let mut new = Self {
            open: Watch::new(markers.open),
            head: vec![],
            anywhere: markers.answer.is_some(),
            close: Watch::new(markers.close),
            end,
            bare,
            state: if opened { State::Inside } else { State::Before },
            budget,
            used: 0,
            tokenizer,
        };
        new.end_if_used_up();
        Ok(new)
    }

    /// The same for an answer under this grammar, before its first token: what ends reasoning must stop where the
    /// grammar begins to hold. `None` where the grammar lets no reasoning come first.
    pub fn under(mut self, constraint: &Constraint) -> Option<Self> {
        let begins = constraint.begins();
        if begins == Begins::AtOnce {
            return None;
        }
        // Behind any other marker than the closing one, all that is put there belongs to what is free.
        if begins == Begins::InReasoning || begins == Begins::Behind(self.close.marker()) {
            self.end.clone_from(&self.bare);
            if let State::Ending(tokens) = &mut self.state {
                *tokens = self.end.iter().copied().collect();
            }
        }
        Some(self)
    }

    /// The token that must come next, whatever the model says.
    pub fn forced(&self) -> Option<u32> {
        match &self.state {
            State::Ending(tokens) => tokens.front().copied(),
            _ => None,
        }
    }

    /// Told of every token of the answer.
    pub fn accept(&mut self, token: u32) {
        let piece = self.tokenizer.piece(token);
        match &mut self.state {
            State::Before => {
                if self.open.push(piece) {
                    self.state = State::Inside;
                    self.end_if_used_up();
                } else if !self.anywhere {
                    self.head.extend_from_slice(piece);
                    if !self.open.marker().starts_with(self.head.trim_ascii_start()) {
                        // The answer began: what looks like the marker later is content.
                        self.state = State::Over;
                    }
                }
            }
            State::Inside => {
                self.used += 1;
                if self.close.push(piece) {
                    self.state = if self.anywhere { State::Before } else { State::Over };
                } else {
                    self.end_if_used_up();
                }
            }
            State::Ending(tokens) => {
                tokens.pop_front();
                if tokens.is_empty() {
                    self.state = State::Over;
                }
            }
            State::Over => {}
        }
    }

    /// Tokens of reasoning so far, the marker behind it included where the model wrote it.
    pub fn used(&self) -> usize {
        self.used
    }

    fn end_if_used_up(&mut self) {
        if self.state == State::Inside && self.used >= self.budget {
            self.state = State::Ending(self.end.iter().copied().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tools::{self, ToolChoice};
    use super::super::{GrammarSpec, Grammars};
    use super::*;
    use crate::text::output::Tool;
    use crate::text::{ReasoningFormat, ToolFormat, testing};

    fn budget(opened: bool, tokens: usize) -> (Arc<Tokenizer>, ThinkBudget) {
        let tokenizer = testing::tokenizer("smollm2");
        let markers =
            ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE).unwrap();
        let budget = ThinkBudget::new(tokenizer.clone(), &markers, opened, tokens).unwrap();
        (tokenizer, budget)
    }

    /// A grammar behind reasoning with a budget.
    fn under(
        markers: &ThinkMarkers,
        spec: &GrammarSpec,
        opened: bool,
        tokens: usize,
    ) -> Option<(Constraint, ThinkBudget)> {
        let tokenizer = testing::tokenizer("smollm2");
        let constraint = Grammars::new(tokenizer.clone()).compile(spec).unwrap();
        let constraint = constraint.after_reasoning(markers, opened);
        let budget = ThinkBudget::new(tokenizer, markers, opened, tokens).unwrap();
        let budget = budget.under(&constraint)?;
        Some((constraint, budget))
    }

    /// What is written under a grammar by a model that would think for ever.
    fn constrained(markers: &ThinkMarkers, spec: &GrammarSpec, opened: bool) -> String {
        let (mut constraint, mut budget) = under(markers, spec, opened, 3).unwrap();
        let tokenizer = testing::tokenizer("smollm2");
        let mut wanted = tokenizer.encode(markers.open, false, true).unwrap().into_iter();
        let dot = tokenizer.encode(".", false, true).unwrap()[0];
        let mut tokens = vec![];
        while !constraint.is_complete() && tokens.len() < 100 {
            let mut logits: Vec<f32> =
                (0..tokenizer.vocab_size()).map(|id| -(id as f32) / 1e6).collect();
            let opener = if opened { None } else { wanted.next() };
            logits[opener.unwrap_or(dot) as usize] = 1.0;
            let token = budget.forced().unwrap_or_else(|| {
                constraint.mask(&mut logits).unwrap();
                (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
            });
            budget.accept(token);
            constraint.accept(token).unwrap();
            tokens.push(token);
        }
        tokenizer.decode(&tokens, false)
    }

    #[test]
    fn what_ends_reasoning_stops_where_a_grammar_begins() {
        let digits = GrammarSpec::Regex("[0-9]{3}".to_owned());
        let think = ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE).unwrap();
        assert_eq!(constrained(&think, &digits, true), "...</think>000");
        let harmony = ToolFormat::named("harmony").unwrap();
        let markers = ThinkMarkers::choose(ReasoningFormat::Auto, "", harmony).unwrap();
        let text = constrained(&markers, &digits, false);
        let (thoughts, answer) = text.split_at(text.len() - 3);
        assert_eq!(thoughts, format!("{}...{}", markers.open, markers.end));
        assert_eq!(answer, "000");
        // A grammar that holds from the first token on leaves nothing to end.
        let tools = vec![Tool { name: "f".to_owned(), parameters: serde_json::Value::Null }];
        let tokenizer = testing::tokenizer("smollm2");
        let calls = tools::grammar(&tools, &ToolChoice::Required, false, harmony, &tokenizer);
        let calls = GrammarSpec::ToolCalls(calls.unwrap().unwrap());
        let text = constrained(&markers, &calls, false);
        let called = "...<|end|><|start|>assistant<|channel|>commentary to=functions.f";
        assert!(text.starts_with(&format!("{}{called}", markers.open)), "{text}");
        let unknown = ThinkMarkers { open: "no token of its own", ..think };
        assert!(under(&unknown, &digits, false, 3).is_none());
    }

    #[test]
    fn later_thoughts_take_from_the_same_budget() {
        let harmony = ToolFormat::named("harmony").unwrap();
        let markers = ThinkMarkers::choose(ReasoningFormat::Auto, "", harmony).unwrap();
        let tokenizer = testing::tokenizer("smollm2");
        let mut budget = ThinkBudget::new(tokenizer.clone(), &markers, false, 60).unwrap();
        let message = format!("{}a<|end|><|start|>assistant", markers.open);
        let message = tokenizer.encode(&message, false, true).unwrap();
        let mut taken = 0;
        while budget.forced().is_none() {
            assert!(taken < 50 * message.len(), "no end after {} thoughts", budget.used());
            budget.accept(message[taken % message.len()]);
            taken += 1;
        }
        assert!(taken > message.len() && budget.used() == 60, "{taken}");
    }

    /// The whole text when the model wants to write `text` and then nothing but dots.
    fn written(opened: bool, tokens: usize, text: &str) -> (String, usize) {
        let (tokenizer, mut budget) = budget(opened, tokens);
        let mut wanted = tokenizer.encode(text, false, true).unwrap();
        wanted.extend(tokenizer.encode(".", false, true).unwrap().repeat(8));
        let mut all = vec![];
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let token = budget.forced().unwrap_or_else(|| wanted.next().unwrap());
            budget.accept(token);
            all.push(token);
        }
        (tokenizer.decode(&all, false), budget.used())
    }

    #[test]
    fn reasoning_ends_when_the_budget_is_used_up() {
        let (text, used) = written(true, 3, "");
        assert_eq!((text.as_str(), used), ("...\n</think>\n\n.....", 3));
        assert_eq!(written(true, 0, "").0, "\n</think>\n\n........");
        assert_eq!(written(false, 0, "<think>").0, "<think>\n</think>\n\n........");
    }

    #[test]
    fn what_ends_by_itself_or_never_begins_is_left_alone() {
        let (text, used) = written(true, 20, "a</think>b");
        assert_eq!(text, "a</think>b........");
        assert!(used < 20 && used > 1);
        let later = "the tag <think> opens";
        assert_eq!(written(false, 0, later), (format!("{later}........"), 0));
        assert_eq!(written(false, 2, "hi"), ("hi........".to_owned(), 0));
    }
}
