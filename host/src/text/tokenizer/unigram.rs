//! SentencePiece unigram: the segmentation of the greatest total score.

use tokenizers::Model;
use tokenizers::models::unigram::Unigram as UnigramModel;

use super::TokenizerError;
use super::charsmap::CharsMap;

/// The crate's unigram model over the tokens that text may become, and SentencePiece's handling
/// of white space around it.
#[derive(Debug)]
pub(super) struct Unigram {
    pub model: UnigramModel,
    /// The model's ids → ours.
    pub ids: Vec<u32>,
    /// The token of each byte; all there, or none used.
    pub bytes: Option<Box<[u32; 256]>>,
    pub unk: u32,
    pub charsmap: Option<CharsMap>,
    /// User-defined tokens, which normalization leaves alone, are matched before.
    pub space_prefix: bool,
    /// Runs of spaces become one, and those at the ends go.
    pub merge_spaces: bool,
    /// The space stands behind a word instead of before it.
    pub space_suffix: bool,
}

impl Unigram {
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = self.normalize(text);
        let pieces = self.model.encode(&text).map_err(|source| TokenizerError::Library {
            origin: "unigram".into(),
            what: "a text could not be encoded",
            source,
        })?;
        for piece in &pieces {
            match (self.model.token_to_id(piece), &self.bytes) {
                (Some(local), _) => ids.push(self.ids[local as usize]),
                (None, Some(bytes)) => ids.extend(piece.bytes().map(|b| bytes[usize::from(b)])),
                (None, None) => ids.push(self.unk),
            }
        }
        Ok(())
    }

    /// Source: sentencepiece `normalizer.cc`, `Normalizer::Normalize`.
    fn normalize(&self, text: &str) -> String {
        let mapped = match &self.charsmap {
            Some(map) => map.normalize(text),
            None => text.to_owned(),
        };
        let before = self.space_prefix && !self.space_suffix;
        let mut out = String::with_capacity(mapped.len() + 3);
        let (mut started, mut in_word) = (false, false);
        for c in mapped.chars() {
            if c == ' ' {
                in_word = false;
                if !self.merge_spaces {
                    out.push('\u{2581}');
                }
                continue;
            }
            if !in_word && (self.merge_spaces || !started) && (started || before) {
                out.push('\u{2581}');
            }
            (started, in_word) = (true, true);
            out.push(c);
        }
        if self.space_prefix && self.space_suffix {
            out.push('\u{2581}');
        }
        out
    }
}
