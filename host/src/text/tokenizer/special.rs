//! Finds tokens that are matched in raw text, before any other rule: control tokens where asked,
//! user-defined ones always.

use aho_corasick::{AhoCorasick, MatchKind};

use super::TokenizerError;

/// A token matched in raw text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Special {
    pub id: u32,
    /// Only where the text asks for control tokens to be read.
    pub control: bool,
    /// Takes the white space before it along.
    pub strip_left: bool,
    /// Takes the white space after it along.
    pub strip_right: bool,
    /// Not inside a longer word.
    pub whole_word: bool,
}

impl Special {
    pub(super) fn new(id: u32, control: bool) -> Self {
        Self { id, control, strip_left: false, strip_right: false, whole_word: false }
    }
}

/// A piece of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// All tokens matched in raw text. Where two overlap, the leftmost wins, then the longest.
#[derive(Debug, Default)]
pub(super) struct Specials {
    all: Matcher,
    without_control: Matcher,
}

#[derive(Debug, Default)]
struct Matcher {
    tokens: Vec<Special>,
    automaton: Option<AhoCorasick>,
}

impl Specials {
    /// `tokens` with their spellings; empty spellings match nothing.
    pub(super) fn new(tokens: &[(&str, Special)], origin: &str) -> Result<Self, TokenizerError> {
        let build = |keep: &dyn Fn(&Special) -> bool| {
            let kept = tokens.iter().filter(|(text, special)| !text.is_empty() && keep(special));
            let (texts, tokens): (Vec<&str>, Vec<Special>) = kept.copied().unzip();
            if texts.is_empty() {
                return Ok::<_, TokenizerError>(Matcher::default());
            }
            let automaton =
                AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
            let automaton = automaton.map_err(|source| TokenizerError::Library {
                origin: origin.into(),
                what: "the special tokens are too many to search for",
                source: Box::new(source),
            })?;
            Ok(Matcher { tokens, automaton: Some(automaton) })
        };
        Ok(Self { all: build(&|_| true)?, without_control: build(&|special| !special.control)? })
    }

    /// Cuts `text` at the tokens it spells. Texts between them are never empty.
    pub(super) fn fragments<'a>(&self, text: &'a str, control: bool) -> Vec<Fragment<'a>> {
        let matcher = if control { &self.all } else { &self.without_control };
        matcher.fragments(text)
    }
}

impl Matcher {
    fn fragments<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = vec![];
        let mut done = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            let special = self.tokens[found.pattern().as_usize()];
            // White space that the token before took along may hide this one's start.
            if found.start() < done || special.whole_word && !is_whole_word(text, found.range()) {
                continue;
            }
            let before = &text[done..found.start()];
            let before = if special.strip_left { before.trim_end() } else { before };
            if !before.is_empty() {
                fragments.push(Fragment::Text(before));
            }
            fragments.push(Fragment::Token(special.id));
            done = found.end();
            if special.strip_right {
                done = text.len() - text[done..].trim_start().len();
            }
        }
        if done < text.len() {
            fragments.push(Fragment::Text(&text[done..]));
        }
        fragments
    }
}

/// Whether no letter, digit or underscore touches `range`.
fn is_whole_word(text: &str, range: std::ops::Range<usize>) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..range.start].chars().next_back().is_some_and(word)
        && !text[range.end..].chars().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn specials() -> Specials {
        let strip = |id| Special { strip_left: true, strip_right: true, ..Special::new(id, true) };
        let word = Special { whole_word: true, ..Special::new(4, false) };
        let tokens = [
            ("<a>", Special::new(0, true)),
            ("  ", Special::new(1, false)),
            ("    ", Special::new(2, false)),
            ("<strip>", strip(3)),
            ("word", word),
            ("", Special::new(5, true)),
        ];
        Specials::new(&tokens, "test").unwrap()
    }

    #[test]
    fn control_tokens_are_text_unless_asked_for() {
        let s = specials();
        assert_eq!(s.fragments("x<a>", true), [Text("x"), Token(0)]);
        assert_eq!(s.fragments("x<a>", false), [Text("x<a>")]);
        assert!(s.fragments("", true).is_empty());
    }

    #[test]
    fn user_defined_tokens_always_match_longest_first() {
        let s = specials();
        assert_eq!(s.fragments("a       b", false), [Text("a"), Token(2), Token(1), Text(" b")]);
    }

    #[test]
    fn white_space_and_word_rules_hold() {
        let s = specials();
        assert_eq!(s.fragments("x \n<strip>\t y", true), [Text("x"), Token(3), Text("y")]);
        assert_eq!(s.fragments(" <strip>  <strip> ", true), [Token(3), Token(3)]);
        assert_eq!(s.fragments("word words", false), [Token(4), Text(" words")]);
    }

    #[test]
    fn no_tokens_is_no_cut() {
        let s = Specials::new(&[], "test").unwrap();
        assert_eq!(s.fragments("<a>", true), [Text("<a>")]);
    }
}
