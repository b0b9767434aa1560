//! Text ↔ token ids, built from GGUF metadata or `tokenizer.json` on the `tokenizers` crate.

use crate::checkpoint::Checkpoint;

/// Why a tokenizer could not be built or a text not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {}

/// A vocabulary with its rules.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// The checkpoint's tokenizer; `None` when it has none (`tokenizer.ggml.model = no_vocab`).
    ///
    /// # Errors
    /// Names the key or file, what was found and what was expected.
    pub fn from_checkpoint(_checkpoint: &Checkpoint) -> Result<Option<Self>, TokenizerError> {
        Ok(None)
    }
    /// Token ids of `text`. `add_special` adds BOS/EOS where the model wants them;
    /// `parse_special` reads control tokens spelled in the text as such, else they are text.
    ///
    /// # Errors
    /// When the text cannot be expressed in this vocabulary.
    pub fn encode(
        &self,
        _text: &str,
        _add_special: bool,
        _parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        Ok(vec![])
    }
    /// The bytes a token stands for (a part of a UTF-8 character at times); the spelling of a
    /// control token; empty for ids out of range.
    pub fn piece(&self, _id: u32) -> &[u8] {
        &[]
    }
    /// Text of a whole sequence; `skip_special` leaves control tokens out.
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> String {
        String::new()
    }
    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        0
    }
    /// Beginning of sequence.
    pub fn bos(&self) -> Option<u32> {
        None
    }
    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        None
    }
    /// Whether `encode(.., add_special = true, ..)` starts with BOS.
    pub fn adds_bos(&self) -> bool {
        false
    }
    /// Whether generation ends at this token (EOS, end of turn and their kin).
    pub fn is_end_of_generation(&self, _id: u32) -> bool {
        false
    }
    /// Whether this is a control token, never shown as text.
    pub fn is_special(&self, _id: u32) -> bool {
        false
    }
    /// The kind of vocabulary, for reports: `BPE (smollm)`, `SentencePiece unigram`.
    pub fn kind(&self) -> String {
        String::new()
    }
}
