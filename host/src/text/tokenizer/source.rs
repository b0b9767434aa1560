//! A vocabulary as GGUF describes it, checked and turned into a [`Tokenizer`].

use std::collections::HashSet;

use super::alphabet::parse_byte_token;
use super::pieces::Pieces;
use super::special::{Special, Specials};
use super::{Tokenizer, TokenizerError, eog, pretokenizers};

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

    pub(super) fn wrong(&self, key: &str, problem: impl Into<String>) -> TokenizerError {
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

    pub(super) fn with_ids(&self) -> impl Iterator<Item = (u32, &str)> + Clone {
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

    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix.unwrap_or(self.model == "llama")
    }

    fn strips_first_space(&self) -> bool {
        self.model == "bert" || matches!(self.model, "llama" | "t5") && self.adds_space_prefix()
    }

    /// The first id twice under one spelling.
    pub(super) fn duplicate(&self) -> TokenizerError {
        let mut seen = HashSet::with_capacity(self.tokens.len());
        let again = self.with_ids().find(|(_, text)| !text.is_empty() && !seen.insert(*text));
        let (id, text) = again.unwrap_or_default();
        self.wrong("tokens", format!("element {id} is {text:?}, which is there before"))
    }

    /// Tokens that text may become, by the rules of the model.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, u32)> {
        let text =
            |((id, text), kind): ((u32, _), &TokenKind)| kind.is_text().then_some((text, id));
        self.with_ids().zip(&self.kinds).filter_map(text).filter(|(text, _)| !text.is_empty())
    }
}
