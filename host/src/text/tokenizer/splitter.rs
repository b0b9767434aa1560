//! Cuts text into words with the regexes of a pre-tokenizer, in linear time.
//!
//! The patterns of the field end in `\s+(?!\S)`, the only look-around among them: "white space,
//! but leave its last character to the word that follows". That one rule is applied here by hand;
//! all else goes to an automaton, so no input makes a pattern backtrack or give up.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::{Input, PatternID};

use super::TokenizerError;

/// The passes of a pre-tokenizer, compiled.
#[derive(Debug)]
pub(super) struct Splitter {
    passes: Vec<Pass>,
}

#[derive(Debug)]
struct Pass {
    /// Pattern 0 is the regex; pattern 1, when `trailing_space`, is `\s+`.
    regex: Regex,
    /// Pattern 1 gives its last character back when text follows.
    trailing_space: bool,
}

/// The white-space rule that patterns end with.
const TRAILING_SPACE: &str = r"|\s+(?!\S)";

impl Splitter {
    /// Compiles `patterns`; `origin` names the file for errors.
    pub(super) fn new(patterns: &[&str], origin: &str) -> Result<Self, TokenizerError> {
        let passes =
            patterns.iter().map(|pattern| Pass::new(pattern, origin)).collect::<Result<_, _>>()?;
        Ok(Self { passes })
    }

    /// Calls `word` for each word of `text`, in order. Words cover the text.
    pub(super) fn split<E>(
        &self,
        text: &str,
        word: &mut impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        split_by(&self.passes, text, word)
    }
}

fn split_by<E>(
    passes: &[Pass],
    text: &str,
    word: &mut impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let Some((pass, rest)) = passes.split_first() else {
        return if text.is_empty() { Ok(()) } else { word(text) };
    };
    let mut done = 0;
    while let Some(found) = pass.find(text, done) {
        // What no alternative matches is a word of its own.
        if found.start > done {
            split_by(rest, &text[done..found.start], word)?;
        }
        split_by(rest, &text[found.clone()], word)?;
        done = found.end;
    }
    if done < text.len() { split_by(rest, &text[done..], word) } else { Ok(()) }
}

impl Pass {
    fn new(pattern: &str, origin: &str) -> Result<Self, TokenizerError> {
        // `\s+` after the rule only catches the single character that the rule leaves.
        let head = pattern.strip_suffix(r"|\s+").unwrap_or(pattern).strip_suffix(TRAILING_SPACE);
        let regex = match head {
            Some(head) => Regex::new_many(&[head, r"\s+"]),
            None => Regex::new(pattern),
        };
        let regex = regex.map_err(|e| TokenizerError::Key {
            origin: origin.into(),
            key: format!("pre-tokenizer pattern {pattern:?}"),
            problem: format!("cannot be compiled: {e}"),
        })?;
        Ok(Self { regex, trailing_space: head.is_some() })
    }

    /// The next non-empty match at or after `from`, which is a character boundary.
    fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let found = self.regex.find(Input::new(text).range(from..))?;
        let mut range = found.range();
        if self.trailing_space && found.pattern() == PatternID::must(1) && range.end < text.len() {
            let last = text[range.clone()].chars().next_back().map_or(0, char::len_utf8);
            if range.len() > last {
                range.end -= last;
            }
        }
        // An arbitrary pattern may match nothing at all; that would never advance.
        if range.is_empty() { self.find_after_empty(text, range.end) } else { Some(range) }
    }

    #[cold]
    fn find_after_empty(&self, text: &str, mut at: usize) -> Option<Range<usize>> {
        loop {
            at += text[at..].chars().next()?.len_utf8();
            let found = self.regex.find(Input::new(text).range(at..))?;
            if !found.is_empty() {
                return Some(found.range());
            }
            at = found.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pretokenizers::{GPT2, TABLE};
    use super::*;

    fn words(patterns: &[&str], text: &str) -> Vec<String> {
        let mut words = vec![];
        Splitter::new(patterns, "test")
            .unwrap()
            .split(text, &mut |w: &str| {
                words.push(w.to_owned());
                Ok::<_, ()>(())
            })
            .unwrap();
        words
    }

    #[test]
    fn every_row_compiles() {
        for row in TABLE {
            Splitter::new(row.passes, "test").unwrap();
        }
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_next_word() {
        // Expectations: Python's `regex.findall` with the GPT-2 pattern.
        assert_eq!(words(&[GPT2], "a   b"), ["a", "  ", " b"]);
        assert_eq!(words(&[GPT2], "a \n\nb"), ["a", " \n", "\n", "b"]);
        assert_eq!(words(&[GPT2], "\tx  "), ["\t", "x", "  "]);
        assert_eq!(words(&[GPT2], "\u{3000}\u{3000}x"), ["\u{3000}", "\u{3000}", "x"]);
        assert_eq!(words(&[GPT2], "I'm 42!"), ["I", "'m", " 42", "!"]);
        assert!(words(&[GPT2], "").is_empty());
    }

    #[test]
    fn later_passes_see_what_earlier_ones_left() {
        assert_eq!(words(&[r"\p{N}", GPT2], "a 12b"), ["a", " ", "1", "2", "b"]);
    }

    #[test]
    fn empty_matches_advance() {
        assert_eq!(words(&["x*"], "axxb"), ["a", "xx", "b"]);
    }
}
