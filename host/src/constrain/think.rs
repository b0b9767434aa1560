//! A budget of tokens for reasoning: when it is used up, the end of the reasoning is put there.

use std::collections::VecDeque;
use std::sync::Arc;

use super::watch::Watch;
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
    /// The tokens that end reasoning.
    end: Vec<u32>,
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
        let mut new = Self {
            open: Watch::new(markers.open),
            head: vec![],
            anywhere: markers.answer.is_some(),
            close: Watch::new(markers.close),
            end,
            state: if opened { State::Inside } else { State::Before },
            budget,
            used: 0,
            tokenizer,
        };
        new.end_if_used_up();
        Ok(new)
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
                    self.state = State::Over;
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
    use super::*;
    use crate::text::{ReasoningFormat, ToolFormat, testing};

    fn budget(opened: bool, tokens: usize) -> (Arc<Tokenizer>, ThinkBudget) {
        let tokenizer = testing::tokenizer("smollm2");
        let markers =
            ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE).unwrap();
        let budget = ThinkBudget::new(tokenizer.clone(), &markers, opened, tokens).unwrap();
        (tokenizer, budget)
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
