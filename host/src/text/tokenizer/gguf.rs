//! `tokenizer.ggml.*` of a GGUF header → [`VocabSource`].

use crate::checkpoint::{CheckpointError, GgufMetadata};

use super::source::{TokenKind, VocabSource};
use super::{Tokenizer, TokenizerError};

const MODEL: &str = "tokenizer.ggml.model";

/// The tokenizer of a GGUF file; `None` when it says that it has none, or names none.
pub(super) fn load(metadata: &GgufMetadata) -> Result<Option<Tokenizer>, TokenizerError> {
    match metadata.str(MODEL)? {
        None | Some("no_vocab" | "none") => Ok(None),
        Some(_) => Ok(Some(read(metadata)?.build()?)),
    }
}

/// What the header says, unchecked but for types.
pub(super) fn read(metadata: &GgufMetadata) -> Result<VocabSource<'_>, TokenizerError> {
    if metadata.str("tokenizer.ggml.pre")?.is_none() && metadata.str(MODEL)? == Some("gpt2") {
        tracing::warn!(
            "{}: tokenizer.ggml.pre is missing; cutting words by the rule \"default\", which may \
             not be the model's own: convert the model again with a newer converter",
            metadata.path().display()
        );
    }
    let id = |key: &str| metadata.u32(&format!("tokenizer.ggml.{key}"));
    let flag = |key: &str| metadata.bool(&format!("tokenizer.ggml.{key}"));
    Ok(VocabSource {
        origin: metadata.path().display().to_string(),
        name: metadata.str("general.name")?.unwrap_or(""),
        model: metadata.str(MODEL)?.unwrap_or(""),
        pre: metadata.str("tokenizer.ggml.pre")?,
        tokens: texts(metadata, "tokenizer.ggml.tokens")?.unwrap_or_default(),
        kinds: kinds(metadata)?,
        scores: metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
        merges: texts(metadata, "tokenizer.ggml.merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        // The misspelling is the specification's.
        sep: id("seperator_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        remove_extra_whitespaces: flag("remove_extra_whitespaces")?.unwrap_or(false),
        precompiled_charsmap: charsmap(metadata)?,
        lowercase: flag("normalizer.lowercase")?,
        strip_accents: flag("normalizer.strip_accents")?,
    })
}

/// An array of strings that must be text.
fn texts<'a>(
    metadata: &'a GgufMetadata,
    key: &str,
) -> Result<Option<Vec<&'a str>>, CheckpointError> {
    let Some(strings) = metadata.strings(key)? else { return Ok(None) };
    let text = |(index, bytes): (usize, &'a [u8])| {
        std::str::from_utf8(bytes).map_err(|e| {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
            metadata.wrong(key, format!("element {index} ({found:?}) is not UTF-8: {e}"))
        })
    };
    strings.enumerate().map(text).collect::<Result<Vec<_>, _>>().map(Some)
}

fn kinds(metadata: &GgufMetadata) -> Result<Vec<TokenKind>, CheckpointError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let numbers = metadata.i32s(KEY)?.unwrap_or_default();
    let kind = |(index, number): (usize, i32)| {
        TokenKind::from_gguf(number).ok_or_else(|| {
            metadata.wrong(KEY, format!("element {index} is {number}, expected 0 to 6"))
        })
    };
    numbers.into_iter().enumerate().map(kind).collect()
}

fn charsmap(metadata: &GgufMetadata) -> Result<Option<Vec<u8>>, CheckpointError> {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    let Some(numbers) = metadata.i32s(KEY)? else { return Ok(None) };
    let byte = |(index, number): (usize, i32)| {
        // Writers have stored the bytes as u8 and as i8.
        let wrong = || metadata.wrong(KEY, format!("element {index} is {number}, expected a byte"));
        if (-128..=255).contains(&number) { Ok(number as u8) } else { Err(wrong()) }
    };
    numbers.into_iter().enumerate().map(byte).collect::<Result<Vec<_>, _>>().map(Some)
}
