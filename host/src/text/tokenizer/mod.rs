//! Text ↔ token ids, on the `tokenizers` crate.
//!
//! A [`Tokenizer`] is built from GGUF metadata ([`VocabSource`], filled by `gguf`) or from the
//! `tokenizer.json` of a model directory (`hf`). Encoding goes in three steps: special tokens are
//! cut out of the raw text (`special`), the text between them is normalized and cut into words
//! (`normalize`, `splitter` with the table of `pretokenizers`), and the model turns words into ids
//! (`bpe`, `spm`, `unigram`, `wordpiece`). Decoding concatenates the bytes of each token
//! (`pieces`). Nothing here truncates, pads or aligns offsets.

mod alphabet;
mod bpe;
mod charsmap;
mod eog;
mod error;
mod frame;
mod gguf;
mod hf;
mod library;
mod normalize;
mod pieces;
mod pretokenizers;
mod source;
mod special;
mod splitter;
mod spm;
mod unigram;
mod wordpiece;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use error::TokenizerError;
pub use source::{TokenKind, VocabSource};

use crate::checkpoint::{Checkpoint, Metadata};
use pieces::Pieces;
use special::{Fragment, Specials};

/// A vocabulary with its rules.
#[derive(Debug)]
pub struct Tokenizer {
    pieces: Pieces,
    specials: Specials,
    algorithm: Algorithm,
    /// What `add_special` puts before a prompt.
    prefix: Vec<u32>,
    /// What it puts behind.
    suffix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// By id: never shown as text.
    hidden: Vec<bool>,
    /// Ends of generation, ascending.
    eog: Vec<u32>,
    /// The first space of a decoded text was put there by encoding.
    strip_first_space: bool,
    kind: String,
}

/// Text between special tokens → ids.
#[derive(Debug)]
enum Algorithm {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
    Unigram(Box<unigram::Unigram>),
    WordPiece(Box<wordpiece::WordPiece>),
    Library(Box<library::Library>),
}

impl Tokenizer {
    /// The checkpoint's tokenizer; `None` when it has none (`tokenizer.ggml.model = no_vocab`).
    ///
    /// # Errors
    /// Names the key or file, what was found and what was expected.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Option<Self>, TokenizerError> {
        match checkpoint.metadata() {
            Metadata::Gguf(metadata) => gguf::load(metadata),
            Metadata::HuggingFace(metadata) => hf::load(metadata),
        }
    }

    /// Token ids of `text`. `add_special` adds BOS/EOS where the model wants them;
    /// `parse_special` reads control tokens spelled in the text as such, else they are text.
    /// User-defined tokens are read in both cases.
    ///
    /// # Errors
    /// When the text cannot be expressed in this vocabulary.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = if add_special { self.prefix.clone() } else { vec![] };
        let mut starts = true;
        for (index, fragment) in
            self.specials.fragments(text, parse_special).into_iter().enumerate()
        {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => match &self.algorithm {
                    Algorithm::Bpe(bpe) => bpe.encode(text, &mut ids)?,
                    Algorithm::Spm(spm) => spm.encode(text, starts, &mut ids)?,
                    Algorithm::Unigram(unigram) => unigram.encode(text, &mut ids)?,
                    Algorithm::WordPiece(wordpiece) => wordpiece.encode(text, &mut ids)?,
                    Algorithm::Library(library) => library.encode(text, index == 0, &mut ids)?,
                },
            }
            starts = matches!(fragment, Fragment::Token(_));
        }
        if add_special {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    /// The bytes a token stands for (a part of a UTF-8 character at times); the spelling of a
    /// control token; empty for ids out of range.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id)
    }

    /// Text of a whole sequence; `skip_special` leaves control tokens out. Bytes that are not
    /// UTF-8 become U+FFFD.
    ///
    /// The space that SentencePiece puts in front of a text is taken away again when the sequence
    /// starts with it. For the continuation of a prompt, where that space belongs to the text,
    /// use [`super::DetokenStream`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = vec![];
        let shown = ids.iter().filter(|id| !skip_special || !self.is_special(**id));
        for (i, &id) in shown.enumerate() {
            let piece = self.piece(id);
            let strip = i == 0 && self.strip_first_space && !self.is_special(id);
            let piece = if strip { piece.strip_prefix(b" ").unwrap_or(piece) } else { piece };
            bytes.extend_from_slice(piece);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        }
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }
    /// Beginning of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
    /// Whether `encode(.., add_special = true, ..)` starts with BOS.
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some() && self.prefix.first() == self.bos.as_ref()
    }
    /// Whether generation ends at this token (EOS, end of turn and their kin).
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }
    /// All tokens that end generation, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.eog
    }
    /// Whether this is a control token, never shown as text.
    pub fn is_special(&self, id: u32) -> bool {
        self.hidden.get(id as usize).copied().unwrap_or(false)
    }
    /// The kind of vocabulary, for reports: `BPE (smollm)`, `SentencePiece unigram`.
    pub fn kind(&self) -> String {
        self.kind.clone()
    }
}
