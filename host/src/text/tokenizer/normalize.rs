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
    Library {
        normalizer: Box<NormalizerWrapper>,
        /// Bytes that `Replace` puts in place of a match.
        content: usize,
    },
}

/// Most bytes that a byte of text becomes, all steps together: the file decides what replaces
/// what, and a few steps that double every letter would fill the memory. NFKD makes at most 11.
const MAX_GROWTH: usize = 32;
/// The same for texts of a few bytes.
const SMALL: usize = 4096;

impl Normalization {
    pub(super) fn apply<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, TokenizerError> {
        let limit = text.len().saturating_mul(MAX_GROWTH).saturating_add(SMALL);
        let mut text = Cow::Borrowed(text);
        for step in &self.steps {
            if step.most_bytes(&text) > limit {
                return Err(too_long(limit));
            }
            text = Cow::Owned(step.apply(&text)?);
            if text.len() > limit {
                return Err(too_long(limit));
            }
        }
        Ok(text)
    }
}

fn too_long(limit: usize) -> TokenizerError {
    TokenizerError::Library {
        origin: "normalizer".into(),
        what: "the text grows too long",
        source: format!("more than {limit} bytes").into(),
    }
}

impl Step {
    /// Bytes that the step may make of `text`, where that is for the file to decide.
    fn most_bytes(&self, text: &str) -> usize {
        match self {
            Self::Library { content, .. } => text.len().saturating_add(1).saturating_mul(*content),
            _ => 0,
        }
    }

    fn apply(&self, text: &str) -> Result<String, TokenizerError> {
        Ok(match self {
            Self::EscapeSpaces => text.replace(' ', "\u{2581}"),
            Self::PrependSpace if text.is_empty() => String::new(),
            Self::PrependSpace => format!("\u{2581}{text}"),
            Self::CharsMap(map) => map.normalize(text),
            Self::Library { normalizer, .. } => {
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
