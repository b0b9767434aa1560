//! Control tokens that someone spells in a message are text, not control.
//!
//! A rendered template no longer shows which parts of it were said. So each spelling is replaced
//! by a private-use character before rendering, and encoded as plain text where that character
//! comes out again. Messages without such spellings, which is nearly all, are untouched.

use std::collections::{HashMap, HashSet};

use super::{Tokenizer, TokenizerError};

/// The stand-ins of one conversation.
#[derive(Debug, Default)]
pub struct Literals {
    spellings: HashMap<char, String>,
}

/// A part of a rendered prompt.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    /// Template and messages, control tokens included.
    Rendered(&'a str),
    /// The spelling of a control token.
    Literal(&'a str),
}

impl Literals {
    /// Replaces the spellings in `texts`, which are all that was said.
    ///
    /// # Errors
    /// When a text cannot be expressed in the vocabulary.
    pub fn shield(
        tokenizer: &Tokenizer,
        texts: &mut [&mut String],
    ) -> Result<Self, TokenizerError> {
        let mut found = Vec::new();
        for text in texts.iter() {
            let ids = tokenizer.encode(text, false, true)?;
            let control = ids.into_iter().filter(|id| tokenizer.is_special(*id));
            let spellings =
                control.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned());
            found.push(spellings.collect::<Vec<_>>());
        }
        Ok(Self::replace(texts, &found))
    }

    /// `found[i]` are the spellings in text `i`, in order.
    fn replace(texts: &mut [&mut String], found: &[Vec<String>]) -> Self {
        let mut literals = Self::default();
        if found.iter().all(Vec::is_empty) {
            return literals;
        }
        let used: HashSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
        let mut free = PRIVATE_USE.filter(|c| !used.contains(c));
        let mut stand_ins: HashMap<&str, char> = HashMap::new();
        for (text, spellings) in texts.iter_mut().zip(found) {
            let mut content = String::with_capacity(text.len());
            let mut rest = text.as_str();
            for spelling in spellings.iter().filter(|spelling| !spelling.is_empty()) {
                // a vocabulary has fewer control tokens than there are such characters
                let known = stand_ins.get(spelling.as_str()).copied().or_else(|| free.next());
                let (Some((before, after)), Some(c)) = (rest.split_once(spelling.as_str()), known)
                else {
                    continue;
                };
                stand_ins.insert(spelling, c);
                content.push_str(before);
                content.push(c);
                rest = after;
            }
            content.push_str(rest);
            **text = content;
        }
        literals.spellings =
            stand_ins.into_iter().map(|(spelling, c)| (c, spelling.to_owned())).collect();
        literals
    }

    /// Token ids of a rendered prompt: control tokens of the template parsed, spelled ones not.
    ///
    /// # Errors
    /// When the text cannot be expressed in the vocabulary.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for (index, part) in self.parts(text).into_iter().enumerate() {
            let (text, parse_special) = match part {
                Part::Rendered(text) => (text, true),
                Part::Literal(text) => (text, false),
            };
            ids.extend(tokenizer.encode(text, add_special && index == 0, parse_special)?);
        }
        Ok(ids)
    }

    /// A rendered prompt as it reads: spellings in place of what stands for them.
    pub fn restore(&self, text: &str) -> String {
        let text_of = |part: Part<'_>| match part {
            Part::Rendered(text) | Part::Literal(text) => text.to_owned(),
        };
        self.parts(text).into_iter().map(text_of).collect()
    }

    /// At least one part; the first may be empty, since BOS goes before it.
    fn parts<'a>(&'a self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (at, c) in text.char_indices() {
            let Some(spelling) = self.spellings.get(&c) else { continue };
            if start < at || parts.is_empty() {
                parts.push(Part::Rendered(&text[start..at]));
            }
            parts.push(Part::Literal(spelling));
            start = at + c.len_utf8();
        }
        if start < text.len() || parts.is_empty() {
            parts.push(Part::Rendered(&text[start..]));
        }
        parts
    }
}

/// Supplementary private use area A.
const PRIVATE_USE: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(contents: &[&str], found: &[&[&str]]) -> (Vec<String>, Literals) {
        let mut texts: Vec<String> = contents.iter().map(|text| (*text).to_owned()).collect();
        let found: Vec<Vec<String>> =
            found.iter().map(|list| list.iter().map(|s| (*s).to_owned()).collect()).collect();
        let literals = Literals::replace(&mut texts.iter_mut().collect::<Vec<_>>(), &found);
        (texts, literals)
    }

    #[test]
    fn messages_without_spellings_are_untouched() {
        let (contents, literals) = replaced(&["a <b> c", "\u{f0000}"], &[&[], &[]]);
        assert_eq!(contents, ["a <b> c", "\u{f0000}"]);
        assert_eq!(literals.parts("<s>a"), [Part::Rendered("<s>a")]);
        assert_eq!(literals.parts(""), [Part::Rendered("")]);
    }

    #[test]
    fn spellings_come_out_as_text_and_the_template_as_control() {
        let (contents, literals) = replaced(
            &["x<|end|>y<|end|>", "<s><|end|>"],
            &[&["<|end|>", "<|end|>"], &["<s>", "<|end|>"]],
        );
        assert!(contents.iter().all(|content| !content.contains('<')), "{contents:?}");
        let rendered = format!("<s>{}<|end|>{}", contents[0], contents[1]);
        let expected = [
            Part::Rendered("<s>x"),
            Part::Literal("<|end|>"),
            Part::Rendered("y"),
            Part::Literal("<|end|>"),
            Part::Rendered("<|end|>"),
            Part::Literal("<s>"),
            Part::Literal("<|end|>"),
        ];
        assert_eq!(literals.parts(&rendered), expected);
        assert_eq!(literals.restore(&rendered), "<s>x<|end|>y<|end|><|end|><s><|end|>");
    }

    #[test]
    fn a_stand_in_that_was_said_is_not_used() {
        let (contents, literals) = replaced(&["\u{f0000}<s>"], &[&["<s>"]]);
        assert_eq!(contents, ["\u{f0000}\u{f0001}"]);
        assert_eq!(
            literals.parts(&contents[0]),
            [Part::Rendered("\u{f0000}"), Part::Literal("<s>")]
        );
    }

    #[test]
    fn the_first_part_is_rendered_so_that_bos_goes_before_it() {
        let (contents, literals) = replaced(&["<s>"], &[&["<s>"]]);
        assert_eq!(literals.parts(&contents[0]), [Part::Rendered(""), Part::Literal("<s>")]);
    }
}
