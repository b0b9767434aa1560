//! `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` of a model directory.
//!
//! Byte-level BPE, the shape of almost every recent model, is turned into the same pipeline that
//! GGUF metadata gives; the rest runs through the crate as the file describes it.

mod steps;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, Model, ModelWrapper};

use crate::checkpoint::HfMetadata;

use super::bpe::{self, Bpe, BpeOptions};
use super::pieces::{Pieces, Spelling};
use super::source::TokenKind;
use super::special::{Special, Specials};
use super::splitter::Splitter;
use super::{Algorithm, Tokenizer, TokenizerError, alphabet, eog};
use steps::{Cut, cut};

/// The tokenizer of a model directory; `None` when it has no `tokenizer.json`.
pub(super) fn load(metadata: &HfMetadata) -> Result<Option<Tokenizer>, TokenizerError> {
    let Some(path) = &metadata.tokenizer_json else { return Ok(None) };
    let text =
        std::fs::read(path).map_err(|source| TokenizerError::Io { path: path.clone(), source })?;
    let json: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|source| TokenizerError::Json { path: path.clone(), source })?;
    Reader { path, origin: path.display().to_string(), json }.build(metadata).map(Some)
}

/// A parsed `tokenizer.json`.
struct Reader<'a> {
    path: &'a Path,
    origin: String,
    json: Map<String, Value>,
}

/// An entry of `added_tokens`.
struct Added {
    id: u32,
    token: AddedToken,
}

/// Ids above this are a broken file, not a vocabulary.
const MAX_ID: u64 = 1 << 24;
/// Longest word that WordPiece looks into: its time grows with the cube. Models say 100.
const MAX_WORD_CHARS: u64 = 512;

impl Reader<'_> {
    fn wrong(&self, key: &str, problem: impl Into<String>) -> TokenizerError {
        TokenizerError::Key {
            origin: self.origin.clone(),
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// The part of the file under `key`, `None` when missing or null.
    fn part(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// A part that the crate can read.
    fn parse<T: serde::de::DeserializeOwned>(&self, value: &Value) -> Result<T, TokenizerError> {
        serde_json::from_value(value.clone())
            .map_err(|source| TokenizerError::Json { path: self.path.into(), source })
    }

    fn build(&self, metadata: &HfMetadata) -> Result<Tokenizer, TokenizerError> {
        let model = self.part("model").ok_or_else(|| self.wrong("model", "is missing"))?;
        let added = self.added()?;
        let (algorithm, vocab, kind) = self.algorithm(model)?;
        let mut tokens = self.tokens(vocab, &added)?;
        let spelling = self.spelling()?;
        let mut kinds = vec![TokenKind::Unused; tokens.len()];
        let byte_tokens = spelling == Spelling::Metaspace;
        for (kind, text) in kinds.iter_mut().zip(&tokens) {
            let byte = byte_tokens && alphabet::parse_byte_token(text).is_some();
            if !text.is_empty() {
                *kind = if byte { TokenKind::Byte } else { TokenKind::Normal };
            }
        }
        for Added { id, token } in &added {
            let control = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
            kinds[*id as usize] = control;
            tokens[*id as usize].clone_from(&token.content);
        }
        let bos = self.named(metadata, "bos_token", &tokens)?;
        let eos = self.named(metadata, "eos_token", &tokens)?;
        let mut ends = self.configured_ends(metadata, tokens.len())?;
        ends.extend(eos);
        let known = added.iter().map(|a| (a.id, a.token.content.as_str()));
        let eog = eog::find(known, &mut kinds, ends);
        let mut pieces = Pieces::with_capacity(tokens.len());
        for (text, kind) in tokens.iter().zip(&kinds) {
            pieces.push(text, *kind, spelling);
        }
        let hidden = |kind: &TokenKind| matches!(kind, TokenKind::Control | TokenKind::Unknown);
        let (prefix, suffix) = self.frame(metadata, bos, eos)?;
        if let Some(id) = prefix.iter().chain(&suffix).find(|id| **id as usize >= tokens.len()) {
            let problem = format!("adds the id {id}, the vocabulary has {} tokens", tokens.len());
            return Err(self.wrong("post_processor", problem));
        }
        Ok(Tokenizer {
            pieces,
            specials: self.specials(&added, &kinds)?,
            algorithm,
            prefix,
            suffix,
            bos,
            eos,
            hidden: kinds.iter().map(hidden).collect(),
            eog,
            strip_first_space: self.strips_first_space(),
            kind,
        })
    }

    fn added(&self) -> Result<Vec<Added>, TokenizerError> {
        let Some(list) = self.part("added_tokens") else { return Ok(vec![]) };
        let list = list.as_array().ok_or_else(|| self.wrong("added_tokens", "is no array"))?;
        list.iter()
            .map(|entry| {
                let id = self.id("added_tokens", entry.get("id").unwrap_or(&Value::Null))?;
                Ok(Added { id, token: self.parse(entry)? })
            })
            .collect()
    }

    fn id(&self, key: &str, value: &Value) -> Result<u32, TokenizerError> {
        match value.as_u64() {
            Some(id) if id < MAX_ID => Ok(id as u32),
            _ => Err(self.wrong(key, format!("has the id {value}, expected 0 to {MAX_ID}"))),
        }
    }

    /// Spellings by id, from the model's vocabulary and the added tokens; empty where there is
    /// none.
    fn tokens(
        &self,
        vocab: HashMap<String, u32>,
        added: &[Added],
    ) -> Result<Vec<String>, TokenizerError> {
        let ids = vocab.values().copied().chain(added.iter().map(|a| a.id));
        let len = ids.max().map_or(0, |id| id as usize + 1);
        let entries = vocab.len() + added.len();
        // Real vocabularies have small gaps; one id alone must not make a table of its size.
        if len > 2 * entries + (1 << 16) {
            let problem = format!("has the id {}, but {entries} tokens", len - 1);
            return Err(self.wrong("model.vocab", problem));
        }
        let mut tokens = vec![String::new(); len];
        for (text, id) in vocab {
            let slot = &mut tokens[id as usize];
            if !slot.is_empty() {
                return Err(
                    self.wrong("model.vocab", format!("gives id {id} to {slot:?} and to {text:?}"))
                );
            }
            *slot = text;
        }
        Ok(tokens)
    }

    fn specials(&self, added: &[Added], kinds: &[TokenKind]) -> Result<Specials, TokenizerError> {
        let specials: Vec<_> = added
            .iter()
            .map(|Added { id, token }| {
                let special = Special {
                    id: *id,
                    control: kinds[*id as usize] == TokenKind::Control,
                    strip_left: token.lstrip,
                    strip_right: token.rstrip,
                    whole_word: token.single_word,
                };
                (token.content.as_str(), special)
            })
            .collect();
        Specials::new(&specials, &self.origin)
    }

    fn algorithm(
        &self,
        model: &Value,
    ) -> Result<(Algorithm, HashMap<String, u32>, String), TokenizerError> {
        // Files of the first versions leave the type out where there are merges.
        let name = match model.get("type").and_then(Value::as_str) {
            Some(name) => name,
            None if model.get("merges").is_some() => "BPE",
            None => "",
        };
        let normalization = self.normalization()?;
        if name != "BPE" {
            if !matches!(name, "Unigram" | "WordPiece" | "WordLevel") {
                return Err(TokenizerError::UnknownModel {
                    origin: self.origin.clone(),
                    name: name.into(),
                    known: "BPE, Unigram, WordLevel, WordPiece".into(),
                });
            }
            let longest = model.get("max_input_chars_per_word").and_then(Value::as_u64);
            if let Some(found) = longest.filter(|longest| *longest > MAX_WORD_CHARS) {
                let problem = format!("is {found}, expected at most {MAX_WORD_CHARS}");
                return Err(self.wrong("model.max_input_chars_per_word", problem));
            }
            let model: ModelWrapper = self.parse(model)?;
            let vocab = model.get_vocab();
            return Ok((self.library(model, normalization)?, vocab, name.into()));
        }
        let model = self.bpe(model)?;
        let vocab = model.get_vocab();
        let cut = match self.part("pre_tokenizer") {
            None => Some(Cut { patterns: vec![], byte_level: false }),
            Some(pre) => cut(pre),
        };
        // A pattern with look-around of its own is left to the crate.
        let splitter = cut.and_then(|cut| {
            let patterns: Vec<_> = cut.patterns.iter().map(String::as_str).collect();
            Some((Splitter::new(&patterns, &self.origin).ok()?, cut.byte_level))
        });
        let Some((splitter, byte_level)) = splitter else {
            return Ok((self.library(model.into(), normalization)?, vocab, "BPE".into()));
        };
        let kind = if byte_level { "byte-level BPE" } else { "SentencePiece BPE" };
        let bpe = Bpe { model, splitter, normalization, byte_level, whole_newlines: false };
        Ok((Algorithm::Bpe(Box::new(bpe)), vocab, kind.into()))
    }

    fn bpe(&self, model: &Value) -> Result<BPE, TokenizerError> {
        let wrong = |key: &str, problem: String| self.wrong(&format!("model.{key}"), problem);
        let vocab = model.get("vocab").and_then(Value::as_object);
        let vocab: Vocab = vocab
            .ok_or_else(|| wrong("vocab", "is missing, expected an object".into()))?
            .iter()
            .map(|(text, id)| Ok((text.clone(), self.id("model.vocab", id)?)))
            .collect::<Result<_, TokenizerError>>()?;
        let merges = model.get("merges").and_then(Value::as_array);
        let merges =
            merges.ok_or_else(|| wrong("merges", "is missing, expected an array".into()))?;
        let pair = |(rank, merge): (usize, &Value)| {
            let pair = match merge {
                Value::String(text) => text.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(left), Value::String(right)] => {
                        Some((left.as_str(), right.as_str()))
                    }
                    _ => None,
                },
                _ => None,
            };
            let (left, right) = pair.ok_or_else(|| {
                wrong("merges", format!("{rank} is {merge}, expected two tokens"))
            })?;
            Ok((left.to_owned(), right.to_owned()))
        };
        let merges: Merges =
            merges.iter().enumerate().map(pair).collect::<Result<_, TokenizerError>>()?;
        let text = |key: &str| model.get(key).and_then(Value::as_str).map(str::to_owned);
        let flag = |key: &str| model.get(key).and_then(Value::as_bool).unwrap_or(false);
        let options = BpeOptions {
            unk: text("unk_token").filter(|unk| vocab.contains_key(unk)),
            fuse_unk: flag("fuse_unk"),
            byte_fallback: flag("byte_fallback"),
            ignore_merges: flag("ignore_merges"),
            continuing_prefix: text("continuing_subword_prefix").filter(|text| !text.is_empty()),
            end_suffix: text("end_of_word_suffix").filter(|text| !text.is_empty()),
        };
        bpe::model(vocab, merges, options, &self.origin)
    }

    /// The id of a token that `tokenizer_config.json` names by its spelling.
    fn named(
        &self,
        metadata: &HfMetadata,
        key: &str,
        tokens: &[String],
    ) -> Result<Option<u32>, TokenizerError> {
        let value = metadata.tokenizer_config.get(key);
        let spelling = match value {
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            other => other.and_then(Value::as_str),
        };
        let Some(spelling) = spelling else {
            return Ok(configured(&metadata.generation_config, &format!("{key}_id"))
                .into_iter()
                .chain(configured(&metadata.config, &format!("{key}_id")))
                .find(|id| (*id as usize) < tokens.len()));
        };
        match tokens.iter().position(|text| text == spelling) {
            Some(id) => Ok(Some(id as u32)),
            None => Err(TokenizerError::Key {
                origin: metadata.directory.join("tokenizer_config.json").display().to_string(),
                key: key.into(),
                problem: format!("is {spelling:?}, which is not in the vocabulary"),
            }),
        }
    }

    /// Ends of generation that `generation_config.json`, else `config.json`, lists.
    fn configured_ends(
        &self,
        metadata: &HfMetadata,
        vocab_size: usize,
    ) -> Result<Vec<u32>, TokenizerError> {
        for (name, config) in [
            ("generation_config.json", &metadata.generation_config),
            ("config.json", &metadata.config),
        ] {
            let ids = configured(config, "eos_token_id");
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(TokenizerError::Key {
                    origin: metadata.directory.join(name).display().to_string(),
                    key: "eos_token_id".into(),
                    problem: format!("is {id}, the vocabulary has {vocab_size} tokens"),
                });
            }
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        Ok(vec![])
    }
}

/// An id or a list of ids; anything else is none.
fn configured(config: &Map<String, Value>, key: &str) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().map(|id| u32::try_from(id).unwrap_or(u32::MAX));
    match config.get(key) {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => vec![],
    }
}
