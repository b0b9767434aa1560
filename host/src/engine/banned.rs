//! Tokens that may not come next: the last of a word that is never said, and ends of an answer that is still too
//! short.

use std::sync::Arc;

use super::model::Vocabulary;
use super::{Request, SubmitError};

/// Most words that are never said.
const MAX_BAD_WORDS: usize = 256;
/// Most bytes of one.
const MAX_BAD_WORD_BYTES: usize = 256;

/// Texts that an answer never holds, as the tokens that spell them: alone and behind a space, as vLLM reads
/// them. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct BadWords(Arc<[Vec<u32>]>);

/// What an answer may not go on with, as it grows.
#[derive(Debug, Default)]
pub(super) struct Banned {
    /// Tokens that are banned everywhere.
    always: Vec<u32>,
    /// Words of several tokens, of which the last is banned behind the others.
    words: Vec<Vec<u32>>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// Tokens before one of them may come.
    min_tokens: usize,
    /// Tokens so far.
    count: usize,
    /// The last of them, as many as the longest word looks back on.
    recent: Vec<u32>,
    /// Length of the longest word, less one.
    window: usize,
}

impl Banned {
    /// What a request bans.
    pub fn new(request: &Request, vocabulary: Option<&dyn Vocabulary>) -> Self {
        let words = request.bad_words.0.iter().cloned();
        let (one, several): (Vec<_>, Vec<_>) = words.partition(|word| word.len() == 1);
        let ends = vocabulary.map(|v| v.end_of_generation().to_vec()).unwrap_or_default();
        Self {
            always: one.concat(),
            window: several.iter().map(Vec::len).max().unwrap_or(1) - 1,
            words: several,
            ends: [ends, request.stop_tokens.clone()].concat(),
            min_tokens: request.min_tokens,
            ..Self::default()
        }
    }

    /// What is banned wherever the answer is.
    pub fn always(&self) -> &[u32] {
        &self.always
    }

    /// What is banned now, beside that.
    pub fn now(&self) -> impl Iterator<Item = u32> {
        let ends = if self.count < self.min_tokens { &self.ends[..] } else { &[] };
        let completes = |word: &Vec<u32>| {
            let (last, head) = word.split_last()?;
            self.recent.ends_with(head).then_some(*last)
        };
        ends.iter().copied().chain(self.words.iter().filter_map(completes))
    }

    /// Takes the next token.
    pub fn accept(&mut self, id: u32) {
        self.count += 1;
        if self.window > 0 {
            self.recent.push(id);
            let old = self.recent.len().saturating_sub(self.window);
            self.recent.drain(..old);
        }
    }
}

impl BadWords {
    /// The tokens of each word.
    ///
    /// # Errors
    /// When there are too many, one is too long, or it cannot be tokens.
    pub(super) fn new(
        texts: &[String],
        vocabulary: Option<&dyn Vocabulary>,
    ) -> Result<Self, SubmitError> {
        let field = "bad_words";
        if texts.is_empty() {
            return Ok(Self::default());
        }
        let limit = |field, found, limit| match found > limit {
            true => Err(SubmitError::Limit { field, found, limit }),
            false => Ok(()),
        };
        limit("number of bad_words", texts.len(), MAX_BAD_WORDS)?;
        let vocabulary = vocabulary.ok_or(SubmitError::NoVocabulary { field })?;
        let mut words: Vec<Vec<u32>> = vec![];
        for word in texts {
            limit("length of one of bad_words in bytes", word.len(), MAX_BAD_WORD_BYTES)?;
            for text in [word.trim_start().to_owned(), format!(" {}", word.trim_start())] {
                match vocabulary.encode(&text) {
                    Ok(tokens) => words.push(tokens),
                    // The vocabulary may have no space, and then no text with one either.
                    Err(_) if text.starts_with(' ') => {}
                    Err(reason) => return Err(SubmitError::Untokenizable { field, text, reason }),
                }
            }
        }
        words.retain(|word| !word.is_empty());
        words.sort_unstable();
        words.dedup();
        Ok(Self(words.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Setup, request, text_of};
    use super::*;
    use crate::engine::FinishReason;

    fn prompt() -> Vec<u32> {
        (0..10).map(|i| (7 * i) % 26).collect()
    }

    fn banned(words: &[&[u32]]) -> Banned {
        let words: Vec<Vec<u32>> = words.iter().map(|word| word.to_vec()).collect();
        let window = words.iter().map(Vec::len).max().unwrap_or(1) - 1;
        Banned { words, window, ..Banned::default() }
    }

    #[test]
    fn the_last_token_of_a_word_is_banned_behind_the_others() {
        let mut banned = banned(&[&[1, 2, 3], &[2, 4], &[1, 1]]);
        let now = |banned: &Banned| banned.now().collect::<Vec<u32>>();
        assert!(now(&banned).is_empty());
        for (token, expected) in
            [(1, vec![1]), (1, vec![1]), (2, vec![3, 4]), (5, vec![]), (2, vec![4])]
        {
            banned.accept(token);
            assert_eq!(now(&banned), expected);
            assert!(banned.recent.len() <= 2);
        }
    }

    #[test]
    fn words_are_never_said_and_change_nothing_else() {
        let bench = Setup::default().start();
        let free = Request { ignore_eos: true, ..request(&prompt(), 12) };
        let text = bench.answer(free.clone()).text;
        let said: String = text.chars().skip(2).take(2).collect();
        let words = |word: &str| bench.engine.bad_words(&[word.to_owned()]);
        let bad = Request { bad_words: words(&said).unwrap(), ..free.clone() };
        let answer = bench.answer(bad);
        assert_eq!(answer.tokens.len(), 12);
        assert!(!answer.text.contains(&said), "{said} in {}", answer.text);
        assert_eq!(answer.text[..3], text[..3], "its head may be said");
        let one: String = said.chars().take(1).collect();
        let answer = bench.answer(Request { bad_words: words(&one).unwrap(), ..free.clone() });
        assert!(!answer.text.contains(&one), "{one} in {}", answer.text);
        let absent = Request { bad_words: words("qqqqqqqqq").unwrap(), ..free };
        assert_eq!(bench.answer(absent).text, text);
        let error = words("?").unwrap_err();
        assert!(error.to_string().contains("bad_words"), "{error}");
    }

    #[test]
    fn a_stop_token_ends_an_answer_that_is_long_enough() {
        let bench = Setup::default().start();
        let free = Request { ignore_eos: true, ..request(&prompt(), 12) };
        let all = bench.answer(free.clone()).tokens;
        let stop = all[4];
        let first = all.iter().position(|id| *id == stop).unwrap();
        let with = |include_stop, min_tokens| {
            let stop_tokens = vec![stop];
            bench.answer(Request { stop_tokens, include_stop, min_tokens, ..free.clone() })
        };
        let hidden = with(false, 0);
        assert_eq!(hidden.tokens, all[..=first]);
        assert_eq!(hidden.text, text_of(&all[..first]));
        assert_eq!(hidden.reason(), FinishReason::StopToken(stop));
        let shown = with(true, 0);
        assert_eq!(shown.text, text_of(&all[..=first]));
        let long = with(false, 8);
        assert!(long.tokens.len() >= 8 && !long.tokens[..8].contains(&stop), "{:?}", long.tokens);
        let far = Request { stop_tokens: vec![99_999], ..free };
        assert!(bench.engine.submit(far).unwrap_err().to_string().contains("stop_token_ids"));
    }

    #[test]
    fn nothing_ends_an_answer_that_is_too_short() {
        let bench = Setup::default().start();
        let free = request(&prompt(), 20);
        let text = bench.answer(Request { ignore_eos: true, ..free.clone() }).text;
        let stop: String = text.chars().take(1).collect();
        let short = Request { stop: vec![stop.clone()], ..free.clone() };
        assert_eq!(bench.answer(short.clone()).tokens.len(), 1);
        let answer = bench.answer(Request { min_tokens: 9, ..short.clone() });
        assert!(answer.tokens.len() >= 9, "{:?}", answer.tokens);
        assert!(answer.text.starts_with(&stop), "what came too early is text: {}", answer.text);
        let shown = bench.answer(Request { include_stop: true, ..short });
        assert_eq!((shown.text, shown.tokens.len()), (stop.clone(), 1));
        assert_eq!(shown.end.unwrap().0, FinishReason::StopString(stop));
    }
}
