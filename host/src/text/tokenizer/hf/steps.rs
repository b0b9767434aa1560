//! The steps around the model in a `tokenizer.json`: normalizer, pre-tokenizer, post-processor,
//! decoder.

use serde_json::Value;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::checkpoint::HfMetadata;

use super::super::charsmap::CharsMap;
use super::super::library::Library;
use super::super::normalize::{Normalization, Step};
use super::super::pieces::Spelling;
use super::super::pretokenizers::GPT2;
use super::super::{Algorithm, TokenizerError};
use super::Reader;

/// How a pre-tokenizer cuts, when it is of the byte-level kind.
pub(super) struct Cut {
    pub patterns: Vec<String>,
    pub byte_level: bool,
}

/// Pre-tokenizers that the crate runs.
const PRE_TOKENIZERS: [&str; 8] = [
    "BertPreTokenizer",
    "ByteLevel",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Split",
    "Whitespace",
    "WhitespaceSplit",
];
/// Normalizers that the crate runs.
const NORMALIZERS: [&str; 11] = [
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Precompiled",
    "Prepend",
    "Replace",
    "Strip",
    "StripAccents",
];
/// Decoders whose effect on single tokens is known.
const DECODERS: [&str; 6] = ["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip"];

impl Reader<'_> {
    pub(super) fn library(
        &self,
        model: ModelWrapper,
        normalization: Normalization,
    ) -> Result<Algorithm, TokenizerError> {
        let parse = |pre: &Value| self.parse::<PreTokenizerWrapper>(pre);
        let first = self.part("pre_tokenizer");
        if let Some(pre) = first {
            self.check_types("pre_tokenizer", pre, "pretokenizers", &PRE_TOKENIZERS)?;
            let mut names = vec![];
            type_names(pre, "pretokenizers", &mut names);
            if names.contains(&"Split") {
                // The crate takes a pattern that gives up for one that matches no further.
                tracing::warn!(
                    "{}: pre_tokenizer has a pattern that needs backtracking; on prompts of \
                     hundreds of kilobytes it may stop cutting words early",
                    self.origin
                );
            }
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

    pub(super) fn normalization(&self) -> Result<Normalization, TokenizerError> {
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
                    .and_then(|blob| CharsMap::parse(&blob));
                let map = blob.map_err(|e| self.wrong("normalizer.precompiled_charsmap", e))?;
                steps.push(Step::CharsMap(map));
            }
            _ => {
                self.check_types("normalizer", step, "normalizers", &NORMALIZERS)?;
                let normalizer: NormalizerWrapper = self.parse(step)?;
                let content = field("content").len();
                steps.push(Step::Library { normalizer: Box::new(normalizer), content });
            }
        }
        Ok(())
    }

    /// Refuses a step that is not in `known`.
    fn check_types(
        &self,
        key: &str,
        step: &Value,
        steps: &str,
        known: &[&str],
    ) -> Result<(), TokenizerError> {
        let mut names = vec![];
        type_names(step, steps, &mut names);
        match names.iter().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let known = known.join(", ");
                Err(self.wrong(key, format!("has the type {name:?}; known: {known}, Sequence")))
            }
        }
    }

    /// How token texts spell bytes: what the decoder undoes.
    pub(super) fn spelling(&self) -> Result<Spelling, TokenizerError> {
        let Some(decoder) = self.part("decoder") else { return Ok(Spelling::Plain) };
        let mut names = vec![];
        type_names(decoder, "decoders", &mut names);
        self.check_types("decoder", decoder, "decoders", &DECODERS)?;
        Ok(if names.contains(&"ByteLevel") {
            Spelling::Bytes
        } else if names.contains(&"Metaspace") || names.contains(&"Replace") {
            Spelling::Metaspace
        } else {
            Spelling::Plain
        })
    }

    /// Whether decoding takes away the space that encoding put in front.
    pub(super) fn strips_first_space(&self) -> bool {
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
    pub(super) fn frame(
        &self,
        metadata: &HfMetadata,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        let (mut prefix, mut suffix) = (vec![], vec![]);
        if let Some(processor) = self.part("post_processor") {
            self.add_frame(processor, &mut prefix, &mut suffix)?;
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

    /// What a post-processor puts before and behind a single prompt.
    fn add_frame(
        &self,
        step: &Value,
        prefix: &mut Vec<u32>,
        suffix: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        const KEY: &str = "post_processor";
        let list = |name: &str| step.get(name).and_then(Value::as_array).into_iter().flatten();
        match step.get("type").and_then(Value::as_str).unwrap_or("") {
            // Moves offsets alone.
            "ByteLevel" => {}
            "Sequence" => {
                for step in list("processors") {
                    self.add_frame(step, prefix, suffix)?;
                }
            }
            "BertProcessing" | "RobertaProcessing" => {
                for (name, ids) in [("cls", prefix), ("sep", suffix)] {
                    let id = step.get(name).and_then(|pair| pair.get(1)).unwrap_or(&Value::Null);
                    ids.push(self.id(KEY, id)?);
                }
            }
            "TemplateProcessing" => {
                let mut side = prefix;
                for piece in list("single") {
                    if piece.get("Sequence").is_some() {
                        side = &mut *suffix;
                    }
                    let Some(special) = piece.get("SpecialToken") else { continue };
                    let name = special.get("id").and_then(Value::as_str).unwrap_or("");
                    let tokens = step.get("special_tokens").and_then(|tokens| tokens.get(name));
                    let ids = tokens.and_then(|token| token.get("ids")).and_then(Value::as_array);
                    let ids = ids.ok_or_else(|| {
                        self.wrong(KEY, format!("names {name:?}, which special_tokens lacks"))
                    })?;
                    for id in ids {
                        side.push(self.id(KEY, id)?);
                    }
                }
            }
            other => {
                let known = "BertProcessing, ByteLevel, RobertaProcessing, Sequence, \
                             TemplateProcessing";
                return Err(self.wrong(KEY, format!("has the type {other:?}; known: {known}")));
            }
        }
        Ok(())
    }
}

/// Patterns of a pre-tokenizer that only cuts and spells bytes; `None` for any other.
pub(super) fn cut(pre: &Value) -> Option<Cut> {
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
