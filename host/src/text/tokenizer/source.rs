//! A vocabulary as GGUF describes it, checked and turned into a [`Tokenizer`].

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
use super::pieces::{Pieces, Spelling};
use super::special::{Special, Specials};
use super::splitter::Splitter;
use super::spm::Spm;
use super::unigram::Unigram;
use super::wordpiece::WordPiece;
use super::{Algorithm, Tokenizer, TokenizerError, eog, pretokenizers};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for text that nothing else expresses.
    Unknown,
    /// Steers the model; never text.
    Control,
    /// Text that is always this token, before any other rule.
    UserDefined,
    /// Nothing.
    Unused,
    /// One byte, spelled `<0xHH>`.
    Byte,
}

impl TokenKind {
    /// The kind with that number in `tokenizer.ggml.token_type`; 0 is "undefined".
    pub fn from_gguf(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            0 | 5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
    /// Whether text may become it by the rules of the model.
    fn is_text(self) -> bool {
        !matches!(self, Self::Unknown | Self::Control)
    }
}

/// Everything that GGUF metadata says about a tokenizer. Build it by hand, or let
/// [`Tokenizer::from_checkpoint`] fill it.
#[derive(Clone, Debug, Default)]
pub struct VocabSource<'a> {
    /// File or other origin, for errors.
    pub origin: String,
    /// `general.name`; one family is told by it (see [`VocabSource::build`]).
    pub name: &'a str,
    /// `tokenizer.ggml.model`: `gpt2`, `llama`, `t5`, `bert`, `gemma4`.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<&'a str>,
    /// Spellings by id.
    pub tokens: Vec<&'a str>,
    /// Kinds by id; empty when the file has none.
    pub kinds: Vec<TokenKind>,
    /// Scores by id; empty when the file has none.
    pub scores: Vec<f32>,
    /// Pairs `left right`, the most urgent first.
    pub merges: Option<Vec<&'a str>>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// Separator.
    pub sep: Option<u32>,
    /// Whether a prompt starts with BOS; `None` is the model's habit.
    pub add_bos: Option<bool>,
    /// Whether a prompt ends with EOS.
    pub add_eos: Option<bool>,
    /// Whether a space goes in front of the text (SentencePiece).
    pub add_space_prefix: Option<bool>,
    /// Whether runs of spaces become one (unigram).
    pub remove_extra_whitespaces: bool,
    /// SentencePiece's normalization table (unigram).
    pub precompiled_charsmap: Option<Vec<u8>>,
    /// Whether text is lower-cased (WordPiece); `None` is yes.
    pub lowercase: Option<bool>,
    /// Whether accents are dropped (WordPiece); `None` is as `lowercase`.
    pub strip_accents: Option<bool>,
}

/// Values of `tokenizer.ggml.model` that [`VocabSource::build`] knows.
const MODELS: [&str; 5] = ["bert", "gemma4", "gpt2", "llama", "t5"];

impl VocabSource<'_> {
    /// Checks everything and builds the tokenizer.
    ///
    /// Special ids that the file does not name: 1, 2, 0 (BOS, EOS, unknown) for `llama`; EOS 1,
    /// unknown 2 for `t5`; 101, 102, 100 (BOS, separator, unknown) for `bert`; none for the
    /// others. With `phi-3` in [`Self::name`], control tokens take the white space after them
    /// along, which the file cannot say.
    ///
    /// # Errors
    /// Names the key, what was found and what was expected.
    pub fn build(&self) -> Result<Tokenizer, TokenizerError> {
        self.check_lengths()?;
        let mut source = self.clone();
        source.fill_kinds()?;
        source.fill_ids()?;
        let eog = source.find_eog();
        let (algorithm, spelling, kind) = match self.model {
            "gpt2" => source.bpe(self.pre.unwrap_or("default"))?,
            "gemma4" => source.bpe("gemma4")?,
            "llama" => source.spm()?,
            "t5" => source.unigram()?,
            "bert" => source.wordpiece()?,
            name => {
                return Err(TokenizerError::UnknownModel {
                    origin: self.origin.clone(),
                    name: name.into(),
                    known: MODELS.join(", "),
                });
            }
        };
        let (prefix, suffix) = source.frame()?;
        let mut pieces = Pieces::with_capacity(source.tokens.len());
        for (text, kind) in source.tokens.iter().zip(&source.kinds) {
            pieces.push(text, *kind, spelling);
        }
        Ok(Tokenizer {
            pieces,
            specials: source.specials()?,
            algorithm,
            prefix,
            suffix,
            bos: source.bos,
            eos: source.eos,
            hidden: source.hidden(),
            eog,
            strip_first_space: source.strips_first_space(),
            kind,
        })
    }

    fn wrong(&self, key: &str, problem: impl Into<String>) -> TokenizerError {
        let key = format!("tokenizer.ggml.{key}");
        TokenizerError::Key { origin: self.origin.clone(), key, problem: problem.into() }
    }

    fn check_lengths(&self) -> Result<(), TokenizerError> {
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(self.wrong("tokens", "is empty, expected a vocabulary"));
        }
        for (key, len) in [("token_type", self.kinds.len()), ("scores", self.scores.len())] {
            if len != 0 && len != tokens {
                return Err(self.wrong(key, format!("has {len} elements, tokens has {tokens}")));
            }
        }
        if let Some(id) = self.scores.iter().position(|score| score.is_nan()) {
            return Err(self.wrong("scores", format!("element {id} is not a number")));
        }
        Ok(())
    }

    /// Kinds that the file leaves out, and a check of those it gives.
    fn fill_kinds(&mut self) -> Result<(), TokenizerError> {
        if self.kinds.is_empty() {
            let bytes = matches!(self.model, "llama" | "gemma4");
            let kind = |text: &&str| match parse_byte_token(text) {
                Some(_) if bytes => TokenKind::Byte,
                _ => TokenKind::Normal,
            };
            self.kinds = self.tokens.iter().map(kind).collect();
        }
        for (id, (text, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            if *kind == TokenKind::Byte && parse_byte_token(text).is_none() {
                let problem =
                    format!("element {id} is a byte token spelled {text:?}, expected <0xHH>");
                return Err(self.wrong("tokens", problem));
            }
        }
        Ok(())
    }

    /// Special ids that the file leaves out, and a check of those it gives.
    fn fill_ids(&mut self) -> Result<(), TokenizerError> {
        for (key, id) in [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("unknown_token_id", self.unk),
            ("seperator_token_id", self.sep),
        ] {
            if let Some(id) = id.filter(|id| *id as usize >= self.tokens.len()) {
                let problem = format!("is {id}, the vocabulary has {} tokens", self.tokens.len());
                return Err(self.wrong(key, problem));
            }
        }
        let there = |id: u32| (self.tokens.len() > id as usize).then_some(id);
        match self.model {
            "llama" => {
                self.bos = self.bos.or(there(1));
                self.eos = self.eos.or(there(2));
                self.unk = self.unk.or(there(0));
            }
            "t5" => {
                self.eos = self.eos.or(there(1));
                self.unk = self.unk.or(there(2));
            }
            "bert" => {
                self.bos = self.bos.or(there(101));
                self.unk = self.unk.or(there(100));
                self.sep = self.sep.or(there(102));
            }
            _ => {}
        }
        Ok(())
    }

    fn with_ids(&self) -> impl Iterator<Item = (u32, &str)> + Clone {
        (0u32..).zip(self.tokens.iter().copied())
    }

    fn find_eog(&mut self) -> Vec<u32> {
        let named = [self.eos, self.eot, self.eom].into_iter().flatten();
        let mut kinds = std::mem::take(&mut self.kinds);
        let eog = eog::find(self.with_ids(), &mut kinds, named);
        self.kinds = kinds;
        eog
    }

    /// Ids before and after a prompt.
    fn frame(&self) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        let (bos, eos) = match self.model {
            "llama" => (true, false),
            "t5" => (false, true),
            "bert" => return Ok((self.bos.into_iter().collect(), self.sep.into_iter().collect())),
            // Files written before the converter knew better say no.
            "gemma4" => (true, false),
            _ => (self.pre.and_then(pretokenizers::find).is_some_and(|row| row.add_bos), false),
        };
        let add_bos = if self.model == "gemma4" { bos } else { self.add_bos.unwrap_or(bos) };
        let add_eos = self.add_eos.unwrap_or(eos);
        let frame = |key: &str, add: bool, id: Option<u32>| match (add, id) {
            (false, _) => Ok(vec![]),
            (true, Some(id)) => Ok(vec![id]),
            (true, None) => Err(self.wrong(key, "is missing, but prompts are to carry it")),
        };
        Ok((frame("bos_token_id", add_bos, self.bos)?, frame("eos_token_id", add_eos, self.eos)?))
    }

    fn specials(&self) -> Result<Specials, TokenizerError> {
        let phi3 = {
            let name = self.name.to_lowercase();
            name.contains("phi-3") || name.contains("phi3")
        };
        let specials: Vec<(&str, Special)> = self
            .with_ids()
            .zip(&self.kinds)
            .filter_map(|((id, text), kind)| {
                let control = match kind {
                    TokenKind::Control | TokenKind::Unknown => true,
                    TokenKind::UserDefined => false,
                    _ => return None,
                };
                let strip_right = phi3 && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
                Some((text, Special { strip_right, ..Special::new(id, control) }))
            })
            .collect();
        Specials::new(&specials, &self.origin)
    }

    fn hidden(&self) -> Vec<bool> {
        self.kinds.iter().map(|kind| !kind.is_text()).collect()
    }

    fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix.unwrap_or(self.model == "llama")
    }

    fn strips_first_space(&self) -> bool {
        self.model == "bert" || matches!(self.model, "llama" | "t5") && self.adds_space_prefix()
    }

    /// The first id twice under one spelling.
    fn duplicate(&self) -> TokenizerError {
        let mut seen = HashSet::with_capacity(self.tokens.len());
        let again = self.with_ids().find(|(_, text)| !text.is_empty() && !seen.insert(*text));
        let (id, text) = again.unwrap_or_default();
        self.wrong("tokens", format!("element {id} is {text:?}, which is there before"))
    }

    /// Tokens that text may become, by the rules of the model.
    fn texts(&self) -> impl Iterator<Item = (&str, u32)> {
        let text =
            |((id, text), kind): ((u32, _), &TokenKind)| kind.is_text().then_some((text, id));
        self.with_ids().zip(&self.kinds).filter_map(text).filter(|(text, _)| !text.is_empty())
    }

    fn bpe(&self, pre: &str) -> Result<(Algorithm, Spelling, String), TokenizerError> {
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

    fn spm(&self) -> Result<(Algorithm, Spelling, String), TokenizerError> {
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

    fn unigram(&self) -> Result<(Algorithm, Spelling, String), TokenizerError> {
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

    fn wordpiece(&self) -> Result<(Algorithm, Spelling, String), TokenizerError> {
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
