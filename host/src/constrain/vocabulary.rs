//! A vocabulary as llguidance sees it: the bytes of every token.

use std::sync::Arc;

use llguidance::ParserFactory;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::{ConstraintError, limits};
use crate::text::Tokenizer;

/// What all grammars of a vocabulary share.
pub(super) fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, ConstraintError> {
    let vocabulary = |reason: &str| ConstraintError::Vocabulary(reason.to_owned());
    let ends = tokenizer.end_of_generation();
    let size = u32::try_from(tokenizer.vocab_size()).map_err(|_| vocabulary("it is too large"))?;
    // A checked tokenizer's ends are in it; others could not be drawn anyway.
    let ends: Vec<u32> = ends.iter().copied().filter(|id| *id < size).collect();
    let first = *ends.first().ok_or_else(|| vocabulary("no token ends an answer"))?;
    let words: Vec<Vec<u8>> = (0..size).map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&ends);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory =
        ParserFactory::new_simple(&env).map_err(|error| vocabulary(&error.to_string()))?;
    factory.quiet();
    *factory.limits_mut() = limits::parser_limits();
    Ok(factory)
}

/// The bytes of a token. A control token is none of the text: it is marked, so that only a grammar that names it
/// allows it.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let piece = tokenizer.piece(id);
    if !tokenizer.is_special(id) && !tokenizer.is_end_of_generation(id) {
        return piece.to_vec();
    }
    [&[TokTrie::SPECIAL_TOKEN_MARKER], piece].concat()
}
