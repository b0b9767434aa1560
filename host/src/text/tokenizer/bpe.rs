//! BPE by ranked merges: byte-level (GPT-2 and its kin) and over raw UTF-8 (Gemma 4).

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{Model, Token};

use super::TokenizerError;
use super::alphabet::spell;
use super::normalize::Normalization;
use super::splitter::Splitter;

/// What builds a [`BPE`] besides its vocabulary and merges.
#[derive(Debug, Default)]
pub(super) struct BpeOptions {
    /// Token for characters without one.
    pub unk: Option<String>,
    /// One unknown token for a run of them.
    pub fuse_unk: bool,
    /// Characters without a token become `<0xHH>` tokens.
    pub byte_fallback: bool,
    /// A word that is a token as a whole is that token.
    pub ignore_merges: bool,
    /// Marks tokens that continue a word.
    pub continuing_prefix: Option<String>,
    /// Marks tokens that end a word.
    pub end_suffix: Option<String>,
}

/// Builds the crate's model after checking what it takes for granted.
pub(super) fn model(
    vocab: Vocab,
    merges: Merges,
    options: BpeOptions,
    origin: &str,
) -> Result<BPE, TokenizerError> {
    let wrong = |problem: String| TokenizerError::Key {
        origin: origin.into(),
        key: "merges".into(),
        problem,
    };
    // The crate copies each merged pair into a buffer as long as the longest token.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let prefix = options.continuing_prefix.as_deref().unwrap_or("");
    for (rank, (left, right)) in merges.iter().enumerate() {
        let Some(right_len) = right.len().checked_sub(prefix.len()) else {
            return Err(wrong(format!(
                "{rank} is {left:?} {right:?}, whose right side lacks the prefix {prefix:?}"
            )));
        };
        if !right.is_char_boundary(prefix.len()) || left.len() + right_len > longest {
            return Err(wrong(format!(
                "{rank} joins {left:?} and {right:?}, which is not a token"
            )));
        }
    }
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(options.fuse_unk)
        .byte_fallback(options.byte_fallback)
        .ignore_merges(options.ignore_merges);
    if let Some(unk) = options.unk {
        builder = builder.unk_token(unk);
    }
    if let Some(prefix) = options.continuing_prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = options.end_suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    builder.build().map_err(|e| wrong(format!("name what is no token: {e}")))
}

/// Words by regex, then merges within each.
#[derive(Debug)]
pub(super) struct Bpe {
    pub model: BPE,
    pub splitter: Splitter,
    pub normalization: Normalization,
    /// Words are spelled in GPT-2's byte alphabet before merging.
    pub byte_level: bool,
    /// A run of line feeds that is a token is that token, whatever the merges say (Gemma 4).
    pub whole_newlines: bool,
}

impl Bpe {
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = self.normalization.apply(text)?;
        let mut spelled = String::new();
        self.splitter.split(&text, &mut |word: &str| {
            let key = if self.byte_level {
                spell(word, &mut spelled);
                spelled.as_str()
            } else {
                word
            };
            if self.whole_newlines
                && word.bytes().all(|b| b == b'\n')
                && let Some(id) = self.model.token_to_id(key)
            {
                ids.push(id);
                return Ok(());
            }
            let tokens = self.model.tokenize(key).map_err(|source| TokenizerError::Library {
                origin: "BPE".into(),
                what: "a word could not be encoded",
                source,
            })?;
            push_all(&tokens, key, word, ids)
        })
    }
}

/// Takes over the ids, unless the model left a character out for want of a token.
pub(super) fn push_all(
    tokens: &[Token],
    key: &str,
    word: &str,
    ids: &mut Vec<u32>,
) -> Result<(), TokenizerError> {
    // Offsets count the bytes of the characters that did become tokens.
    let covered = tokens.last().map_or(0, |token| token.offsets.1);
    if covered < key.len() {
        return Err(TokenizerError::inexpressible(word));
    }
    ids.extend(tokens.iter().map(|token| token.id));
    Ok(())
}
