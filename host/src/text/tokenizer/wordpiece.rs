//! WordPiece (BERT): words by white space and punctuation, then the longest known prefixes.

use regex_automata::meta::Regex;
use tokenizers::models::wordpiece::WordPiece as WordPieceModel;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use super::TokenizerError;

/// The crate's three BERT parts in a row.
#[derive(Debug)]
pub(super) struct WordPiece {
    pub model: WordPieceModel,
    pub normalizer: BertNormalizer,
    /// `\p{M}`, dropped where accents are; `None` keeps them.
    pub marks: Option<Regex>,
}

impl WordPiece {
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        self.try_encode(text, ids).map_err(|source| TokenizerError::Library {
            origin: "WordPiece".into(),
            what: "a text could not be encoded",
            source,
        })
    }

    fn try_encode(&self, text: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let text = match &self.marks {
            Some(marks) => strip_accents(text, marks),
            None => text.to_owned(),
        };
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words)?;
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            ids.extend(self.model.tokenize(word)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// Each character becomes the first of its canonical decomposition, and marks of all three kinds
/// go. That is what GGUF tokenizers of BERT models are compared with; it differs from the BERT of
/// `transformers`, which keeps what follows the first character (the parts of a Hangul syllable)
/// and drops nonspacing marks alone.
fn strip_accents(text: &str, marks: &Regex) -> String {
    let mut buffer = [0; 4];
    let base = text.chars().map(|c| {
        if c.is_ascii() {
            return c;
        }
        let mut decomposed = NormalizedString::from(&*c.encode_utf8(&mut buffer));
        decomposed.nfd();
        decomposed.get().chars().next().unwrap_or(c)
    });
    let base: String = base.collect();
    let mut kept = String::with_capacity(base.len());
    let mut done = 0;
    for found in marks.find_iter(&base) {
        kept.push_str(&base[done..found.start()]);
        done = found.end();
    }
    kept.push_str(&base[done..]);
    kept
}
