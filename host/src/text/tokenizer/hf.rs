//! `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` of a model directory.
//!
//! Byte-level BPE, the shape of almost every recent model, is turned into the same pipeline that
//! GGUF metadata gives; the rest runs through the crate as the file describes it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::checkpoint::HfMetadata;

use super::bpe::{self, Bpe, BpeOptions};
use super::frame::Frame;
use super::library::Library;
use super::normalize::{Normalization, Step};
use super::pieces::{Pieces, Spelling};
use super::pretokenizers::GPT2;
use super::source::TokenKind;
use super::special::{Special, Specials};
use super::splitter::Splitter;
use super::{Algorithm, Tokenizer, TokenizerError, alphabet, eog};

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

/// How a pre-tokenizer cuts, when it is of the byte-level kind.
struct Cut {
    patterns: Vec<String>,
    byte_level: bool,
}

/// Ids above this are a broken file, not a vocabulary.
const MAX_ID: u64 = 1 << 24;
/// Ids without a token that are allowed beside as many again as there are tokens: one number of a
/// small file must not fill the memory.
const MAX_HOLES: usize = 1 << 16;
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
        let (prefix, suffix) = self.frame(metadata, bos, eos, tokens.len())?;
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
        if len as u64 > MAX_ID {
            return Err(self.wrong("model.vocab", format!("has an id over {MAX_ID}")));
        }
        let entries = vocab.len() + added.len();
        if len > 2 * entries + MAX_HOLES {
            let id = len - 1;
            return Err(
                self.wrong("model.vocab", format!("has the id {id} among {entries} tokens"))
            );
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

    fn library(
        &self,
        model: ModelWrapper,
        normalization: Normalization,
    ) -> Result<Algorithm, TokenizerError> {
        let parse = |pre: &Value| self.parse::<PreTokenizerWrapper>(pre);
        let first = self.part("pre_tokenizer");
        if first.is_some_and(has_length_zero) {
            return Err(self.wrong("pre_tokenizer", "cuts pieces of length 0"));
        }
        let later = first.map(|pre| {
            let mut pre = pre.clone();
            set_prepend_first_to_never(&mut pre);
            pre
        });
        Ok(Algorithm::Library(Box::new(Library {
            normalization,
            first: first.map(parse).transpose()?,
            later: later.as_ref().map(parse).transpose()?,
            model,
        })))
    }

    fn normalization(&self) -> Result<Normalization, TokenizerError> {
        let mut steps = vec![];
        if let Some(normalizer) = self.part("normalizer") {
            self.add_steps(normalizer, &mut steps)?;
        }
        Ok(Normalization { steps })
    }

    fn add_steps(&self, step: &Value, steps: &mut Vec<Step>) -> Result<(), TokenizerError> {
        let field = |name: &str| step.get(name).and_then(Value::as_str).unwrap_or("");
        match field("type") {
            "Sequence" => {
                let inner = step.get("normalizers").and_then(Value::as_array);
                for step in inner.into_iter().flatten() {
                    self.add_steps(step, steps)?;
                }
            }
            "Replace"
                if field("content") == "\u{2581}"
                    && step.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") =>
            {
                steps.push(Step::EscapeSpaces);
            }
            "Prepend" if field("prepend") == "\u{2581}" => steps.push(Step::PrependSpace),
            "Precompiled" => {
                let blob = base64(field("precompiled_charsmap"))
                    .ok_or_else(|| "is not base64".to_owned())
                    .and_then(|blob| super::charsmap::CharsMap::parse(&blob));
                let map = blob.map_err(|e| self.wrong("normalizer.precompiled_charsmap", e))?;
                steps.push(Step::CharsMap(map));
            }
            "" => return Err(self.wrong("normalizer", "has a step without type")),
            _ => {
                let normalizer: NormalizerWrapper = self.parse(step)?;
                let content = field("content").len();
                steps.push(Step::Library { normalizer: Box::new(normalizer), content });
            }
        }
        Ok(())
    }

    /// How token texts spell bytes: what the decoder undoes.
    fn spelling(&self) -> Result<Spelling, TokenizerError> {
        let Some(decoder) = self.part("decoder") else { return Ok(Spelling::Plain) };
        let mut names = vec![];
        type_names(decoder, "decoders", &mut names);
        for name in &names {
            match *name {
                "ByteLevel" => return Ok(Spelling::Bytes),
                "Metaspace" | "Replace" => return Ok(Spelling::Metaspace),
                "ByteFallback" | "Fuse" | "Strip" => {}
                other => {
                    let known =
                        "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip";
                    return Err(
                        self.wrong("decoder", format!("has the type {other:?}; known: {known}"))
                    );
                }
            }
        }
        Ok(Spelling::Plain)
    }

    /// Whether decoding takes away the space that encoding put in front.
    fn strips_first_space(&self) -> bool {
        let Some(decoder) = self.part("decoder") else { return false };
        let mut names = vec![];
        type_names(decoder, "decoders", &mut names);
        names.contains(&"Strip")
            || names.contains(&"Metaspace")
                && decoder.get("prepend_scheme").and_then(Value::as_str) != Some("never")
                && decoder.get("add_prefix_space").and_then(Value::as_bool) != Some(false)
    }

    /// Ids that the post-processor puts around a prompt; without one, what
    /// `tokenizer_config.json` asks for.
    fn frame(
        &self,
        metadata: &HfMetadata,
        bos: Option<u32>,
        eos: Option<u32>,
        vocab_size: usize,
    ) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        let (mut prefix, mut suffix) = (vec![], vec![]);
        if let Some(processor) = self.part("post_processor") {
            let frame = Frame::read(processor, vocab_size);
            (prefix, suffix) = frame.map_err(|e| self.wrong("post_processor", e))?.into_parts();
        }
        let asked = |key: &str| metadata.tokenizer_config.get(key).and_then(Value::as_bool);
        if prefix.is_empty() && asked("add_bos_token") == Some(true) {
            prefix.extend(bos);
        }
        if suffix.is_empty() && asked("add_eos_token") == Some(true) {
            suffix.extend(eos);
        }
        Ok((prefix, suffix))
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

/// Whether something in `pre` has a `length` of 0: the crate divides by that of `FixedLength`.
fn has_length_zero(pre: &Value) -> bool {
    match pre {
        Value::Object(fields) => {
            fields.get("length").and_then(Value::as_u64) == Some(0)
                || fields.values().any(has_length_zero)
        }
        Value::Array(items) => items.iter().any(has_length_zero),
        _ => false,
    }
}

/// Patterns of a pre-tokenizer that only cuts and spells bytes; `None` for any other.
fn cut(pre: &Value) -> Option<Cut> {
    let mut cut = Cut { patterns: vec![], byte_level: false };
    add_cuts(pre, &mut cut)?;
    Some(cut)
}

fn add_cuts(pre: &Value, cut: &mut Cut) -> Option<()> {
    let flag = |name: &str, default| pre.get(name).and_then(Value::as_bool).unwrap_or(default);
    // Cutting after the bytes are spelled out would cut other text.
    if cut.byte_level {
        return None;
    }
    match pre.get("type")?.as_str()? {
        "Sequence" => {
            for step in pre.get("pretokenizers")?.as_array()? {
                add_cuts(step, cut)?;
            }
        }
        "Split" => {
            let isolated = pre.get("behavior")?.as_str()? == "Isolated";
            // "Removed, inverted" keeps the matches alone, which cover all text here.
            if !isolated || flag("invert", false) {
                return None;
            }
            let pattern = pre.get("pattern")?.get("Regex")?.as_str()?;
            cut.patterns.push(pattern.to_owned());
        }
        "Digits" if flag("individual_digits", false) => cut.patterns.push(r"\p{N}".to_owned()),
        "ByteLevel" => {
            if flag("add_prefix_space", true) {
                return None;
            }
            if flag("use_regex", true) {
                cut.patterns.push(GPT2.to_owned());
            }
            cut.byte_level = true;
        }
        _ => return None,
    }
    Some(())
}

/// `prepend_scheme: first` asks for a space at the start of the prompt alone.
fn set_prepend_first_to_never(pre: &mut Value) {
    match pre {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if key == "prepend_scheme" && value == "first" {
                    *value = "never".into();
                }
                set_prepend_first_to_never(value);
            }
        }
        Value::Array(steps) => steps.iter_mut().for_each(set_prepend_first_to_never),
        _ => {}
    }
}

/// The `type` of a step, or of each step of a sequence.
fn type_names<'a>(step: &'a Value, steps: &str, names: &mut Vec<&'a str>) {
    match step.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let inner = step.get(steps).and_then(Value::as_array);
            inner.into_iter().flatten().for_each(|step| type_names(step, steps, names));
        }
        name => names.push(name.unwrap_or("")),
    }
}

/// Standard base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
