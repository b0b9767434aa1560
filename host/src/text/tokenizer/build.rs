//! [`VocabSource`] → the model that turns words into ids.

use std::collections::{HashMap, HashSet};

use regex_automata::meta::Regex;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::unigram::Unigram as UnigramModel;
use tokenizers::models::wordpiece::WordPiece as WordPieceModel;
use tokenizers::normalizers::BertNormalizer;

use super::alphabet::parse_byte_token;
use super::bpe::{self, Bpe, BpeOptions};
use super::charsmap::CharsMap;
use super::normalize::{Normalization, Step};
use super::pieces::Spelling;
use super::source::{TokenKind, VocabSource};
use super::splitter::Splitter;
use super::spm::Spm;
use super::unigram::Unigram;
use super::wordpiece::WordPiece;
use super::{Algorithm, TokenizerError, pretokenizers};

/// A model, how its tokens spell bytes, and its name in reports.
pub(super) type Built = (Algorithm, Spelling, String);

impl VocabSource<'_> {
    pub(super) fn bpe(&self, pre: &str) -> Result<Built, TokenizerError> {
        let row = pretokenizers::find(pre).ok_or_else(|| TokenizerError::UnknownPreTokenizer {
            origin: self.origin.clone(),
            name: pre.into(),
            known: pretokenizers::known(),
        })?;
        let raw = row.passes == pretokenizers::GEMMA4;
        let merges = self.merges.as_ref().ok_or_else(|| self.wrong("merges", "is missing"))?;
        let mut pairs = Vec::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            // The first character may itself be a space.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let Some(space) = merge[first..].find(' ') else {
                let problem =
                    format!("element {rank} is {merge:?}, expected two tokens and a space");
                return Err(self.wrong("merges", problem));
            };
            let (left, right) = merge.split_at(first + space);
            pairs.push((left.to_owned(), right[1..].to_owned()));
        }
        // Control tokens too: some vocabularies make one by merging (Qwen's "</s>").
        let texts = self.with_ids().filter(|(_, text)| !text.is_empty());
        let vocab: Vocab = texts.clone().map(|(id, text)| (text.to_owned(), id)).collect();
        if vocab.len() < texts.count() {
            return Err(self.duplicate());
        }
        let unk = self.unk.filter(|_| raw);
        let options = BpeOptions {
            unk: unk.map(|id| self.tokens[id as usize].to_owned()).filter(|text| !text.is_empty()),
            fuse_unk: true,
            byte_fallback: raw,
            ignore_merges: row.ignore_merges,
            ..BpeOptions::default()
        };
        let steps = if raw { vec![Step::EscapeSpaces] } else { vec![] };
        let bpe = Bpe {
            model: bpe::model(vocab, pairs, options, &self.origin)?,
            splitter: Splitter::new(row.passes, &self.origin)?,
            normalization: Normalization { steps },
            byte_level: !raw,
            whole_newlines: raw,
        };
        let spelling = if raw { Spelling::Metaspace } else { Spelling::Bytes };
        Ok((Algorithm::Bpe(Box::new(bpe)), spelling, format!("BPE ({pre})")))
    }

    /// The token of each byte, by spelling.
    fn bytes(&self) -> Box<[Option<u32>; 256]> {
        let mut bytes = Box::new([None; 256]);
        for ((id, text), kind) in self.with_ids().zip(&self.kinds) {
            if let (TokenKind::Byte, Some(byte)) = (kind, parse_byte_token(text)) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        bytes
    }

    pub(super) fn spm(&self) -> Result<Built, TokenizerError> {
        if self.scores.is_empty() {
            return Err(self.wrong("scores", "is missing, expected one a token"));
        }
        let mut ids = HashMap::with_capacity(self.tokens.len());
        let mut longest = 0;
        for (text, id) in self.texts() {
            // Text that spells a byte token is text.
            if self.kinds[id as usize] == TokenKind::Byte {
                continue;
            }
            longest = longest.max(text.len());
            if ids.insert(text.into(), id).is_some() {
                return Err(self.duplicate());
            }
        }
        let spm = Spm {
            ids,
            scores: self.scores.clone(),
            bytes: self.bytes(),
            unk: self.unk,
            longest,
            space_prefix: self.adds_space_prefix(),
        };
        Ok((Algorithm::Spm(Box::new(spm)), Spelling::Metaspace, "SentencePiece BPE".into()))
    }

    pub(super) fn unigram(&self) -> Result<Built, TokenizerError> {
        if self.scores.is_empty() {
            return Err(self.wrong("scores", "is missing, expected one a token"));
        }
        let unk = self.unk.ok_or_else(|| self.wrong("unknown_token_id", "is missing"))?;
        let mut ids = vec![];
        let mut vocab = vec![];
        let mut seen = HashSet::with_capacity(self.tokens.len());
        for (text, id) in self.texts() {
            let score = match self.kinds[id as usize] {
                TokenKind::Byte => continue,
                // More likely than any other, whose scores are logarithms of probabilities.
                TokenKind::UserDefined => 0.0,
                _ => f64::from(self.scores[id as usize]),
            };
            if !seen.insert(text) {
                return Err(self.duplicate());
            }
            ids.push(id);
            vocab.push((text.to_owned(), score));
        }
        // The crate wants the unknown token in its vocabulary; no text is to spell it, so it gets
        // a noncharacter.
        let local_unk = vocab.len();
        ids.push(unk);
        vocab.push(("\u{10ffff}<unk>\u{10ffff}".to_owned(), 0.0));
        let model = UnigramModel::from(vocab, Some(local_unk), false).map_err(|source| {
            TokenizerError::Library {
                origin: self.origin.clone(),
                what: "the unigram vocabulary is refused",
                source,
            }
        })?;
        let charsmap = match &self.precompiled_charsmap {
            None => None,
            Some(blob) => {
                Some(CharsMap::parse(blob).map_err(|e| self.wrong("precompiled_charsmap", e))?)
            }
        };
        let bytes: Option<Vec<u32>> = self.bytes().iter().copied().collect();
        let unigram = Unigram {
            model,
            ids,
            bytes: bytes.and_then(|bytes| bytes.try_into().ok()),
            unk,
            charsmap,
            space_prefix: self.adds_space_prefix(),
            merge_spaces: self.remove_extra_whitespaces,
            space_suffix: false,
        };
        let kind = "SentencePiece unigram".into();
        Ok((Algorithm::Unigram(Box::new(unigram)), Spelling::Metaspace, kind))
    }

    pub(super) fn wordpiece(&self) -> Result<Built, TokenizerError> {
        let unk = self.unk.ok_or_else(|| self.wrong("unknown_token_id", "is missing"))?;
        let mut texts = 1;
        // GGUF marks tokens that start a word; the crate those that continue one.
        let spell = |(text, id): (&str, u32)| {
            let text = match text.strip_prefix('\u{2581}') {
                Some(start) => start.to_owned(),
                None => format!("##{text}"),
            };
            (text, id)
        };
        let mut vocab: Vocab = self.texts().inspect(|_| texts += 1).map(spell).collect();
        let unk_text = self.tokens[unk as usize].to_owned();
        vocab.insert(unk_text.clone(), unk);
        if vocab.len() < texts {
            return Err(self.duplicate());
        }
        let model = WordPieceModel::builder().vocab(vocab).unk_token(unk_text).build();
        let model = model.map_err(|source| TokenizerError::Library {
            origin: self.origin.clone(),
            what: "the WordPiece vocabulary is refused",
            source,
        })?;
        let lowercase = self.lowercase.unwrap_or(true);
        let marks = if self.strip_accents.unwrap_or(lowercase) {
            let compiled = Regex::new(r"\p{M}+");
            Some(compiled.map_err(|e| TokenizerError::Library {
                origin: self.origin.clone(),
                what: "the pattern of accents is refused",
                source: Box::new(e),
            })?)
        } else {
            None
        };
        let normalizer = BertNormalizer::new(true, true, Some(false), lowercase);
        let wordpiece = WordPiece { model, normalizer, marks };
        Ok((Algorithm::WordPiece(Box::new(wordpiece)), Spelling::Metaspace, "WordPiece".into()))
    }
}
