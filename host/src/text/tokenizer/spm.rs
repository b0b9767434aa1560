//! SentencePiece BPE: neighbours are joined in the order of the score of what they make.
//!
//! Unlike BPE by ranked merges, any two neighbours whose concatenation is a token may be joined.
//! Characters without a token become byte tokens. Source: sentencepiece `bpe_model.cc`.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use super::TokenizerError;

/// A vocabulary with scores.
#[derive(Debug)]
pub(super) struct Spm {
    /// Tokens that text may become, by spelling.
    pub ids: HashMap<Box<str>, u32>,
    /// By id; no NaN among them.
    pub scores: Vec<f32>,
    /// The token of each byte.
    pub bytes: Box<[Option<u32>; 256]>,
    pub unk: Option<u32>,
    /// Bytes of the longest token.
    pub longest: usize,
    /// A space goes in front of text that starts a prompt or follows a control token.
    pub space_prefix: bool,
}

/// A run of text that is one token, or one character; a link in a list.
struct Symbol {
    start: usize,
    /// 0 once it was joined to the one before.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// Two neighbours that would make a token.
#[derive(PartialEq)]
struct Join {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes together; what else it was by now means that one of them has changed.
    len: usize,
}

impl Eq for Join {}

impl Ord for Join {
    /// The best score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |join: &Self| Reverse(join.left);
        self.score.total_cmp(&other.score).then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Spm {
    /// `starts`: nothing but control tokens came before.
    pub(super) fn encode(
        &self,
        text: &str,
        starts: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let prefix = if self.space_prefix && starts { "\u{2581}" } else { "" };
        let text = format!("{prefix}{}", text.replace(' ', "\u{2581}"));
        let symbols = self.join(&text);
        let mut at = 0;
        while let Some(symbol) = symbols.get(at) {
            self.emit(&text[symbol.start..][..symbol.len], ids)?;
            at = symbol.next;
        }
        Ok(())
    }

    /// Joins neighbours until none make a token.
    fn join(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: i.wrapping_sub(1),
                next: i + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut queue: BinaryHeap<Join> = (1..symbols.len())
            .filter_map(|right| self.candidate(text, &symbols, right - 1, right))
            .collect();
        while let Some(Join { left, right, len, .. }) = queue.pop() {
            let (a, b) = (&symbols[left], &symbols[right]);
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            let (prev, next) = (a.prev, b.next);
            symbols[right].len = 0;
            symbols[left].len = len;
            symbols[left].next = next;
            if next != NONE {
                symbols[next].prev = left;
                queue.extend(self.candidate(text, &symbols, left, next));
            }
            if prev != NONE {
                queue.extend(self.candidate(text, &symbols, prev, left));
            }
        }
        symbols
    }

    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Join> {
        let len = symbols[left].len + symbols[right].len;
        if len > self.longest {
            return None;
        }
        let id = *self.ids.get(&text[symbols[left].start..][..len])?;
        // Adding 0 turns -0.0 into 0.0, which sorts apart from it.
        Some(Join { score: self.scores[id as usize] + 0.0, left, right, len })
    }

    fn emit(&self, piece: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Some(&id) = self.ids.get(piece) {
            ids.push(id);
            return Ok(());
        }
        let start = ids.len();
        ids.extend(piece.bytes().map_while(|byte| self.bytes[usize::from(byte)]));
        if ids.len() - start < piece.len() {
            ids.truncate(start);
            ids.push(self.unk.ok_or_else(|| TokenizerError::inexpressible(piece))?);
        }
        Ok(())
    }
}
