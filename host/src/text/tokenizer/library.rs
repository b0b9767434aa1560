//! Pipelines of `tokenizer.json` that have no faster form here, run by the crate as they stand.

use tokenizers::{
    Model, ModelWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper,
};

use super::TokenizerError;
use super::bpe::push_all;
use super::normalize::Normalization;

/// Normalizer, pre-tokenizer and model of a `tokenizer.json`.
#[derive(Debug)]
pub(super) struct Library {
    pub normalization: Normalization,
    /// For text at the start of a prompt.
    pub first: Option<PreTokenizerWrapper>,
    /// For text behind a special token: no space is put in front where the scheme says `first`.
    pub later: Option<PreTokenizerWrapper>,
    pub model: ModelWrapper,
}

impl Library {
    pub(super) fn encode(
        &self,
        text: &str,
        first: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let library = |source| TokenizerError::Library {
            origin: "tokenizer.json".into(),
            what: "a text could not be encoded",
            source,
        };
        let text = self.normalization.apply(text)?;
        let mut words = PreTokenizedString::from(&*text);
        if let Some(pre) = if first { &self.first } else { &self.later } {
            pre.pre_tokenize(&mut words).map_err(library)?;
        }
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            let tokens = self.model.tokenize(word).map_err(library)?;
            push_all(&tokens, word, word, ids)?;
        }
        Ok(())
    }
}
