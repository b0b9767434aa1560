//! Text → text, before it is cut into words.

use std::borrow::Cow;

use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::TokenizerError;
use super::charsmap::CharsMap;

/// Steps applied in order to each piece of text between special tokens.
#[derive(Debug, Default)]
pub(super) struct Normalization {
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Spaces become U+2581.
    EscapeSpaces,
    /// U+2581 goes in front.
    PrependSpace,
    /// SentencePiece's own table.
    CharsMap(CharsMap),
    /// A step of `tokenizer.json`, run by the crate.
    Library(Box<NormalizerWrapper>),
}

impl Normalization {
    pub(super) fn apply<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, TokenizerError> {
        let mut text = Cow::Borrowed(text);
        for step in &self.steps {
            text = Cow::Owned(step.apply(&text)?);
        }
        Ok(text)
    }
}

impl Step {
    fn apply(&self, text: &str) -> Result<String, TokenizerError> {
        Ok(match self {
            Self::EscapeSpaces => text.replace(' ', "\u{2581}"),
            Self::PrependSpace if text.is_empty() => String::new(),
            Self::PrependSpace => format!("\u{2581}{text}"),
            Self::CharsMap(map) => map.normalize(text),
            Self::Library(normalizer) => {
                let mut normalized = NormalizedString::from(text);
                normalizer.normalize(&mut normalized).map_err(|source| {
                    TokenizerError::Library {
                        origin: "normalizer".into(),
                        what: "the text could not be normalized",
                        source,
                    }
                })?;
                normalized.get().to_owned()
            }
        })
    }
}
