//! A sequence and how far it is.

use super::{Limits, SequenceId};
use crate::kv::{PAGE_SIZE, PagePool, PageTable, Saved};

/// Tokens of a sequence: `[0, table.len())` are computed, the others are to be.
#[derive(Debug)]
pub(super) struct Sequence {
    pub id: SequenceId,
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Length that is not exceeded: the prompt and all that may follow.
    pub longest: usize,
    /// Logits are wanted from this position on.
    pub logits_from: usize,
    /// Neither takes over a cached prefix nor leaves one.
    pub isolated: bool,
    pub table: PageTable,
    /// The length that chooses the RoPE factors, at least.
    pub rope_len: usize,
    /// Its place among those that run; only while it does.
    pub slot: usize,
    /// Whether it was in a step since it has the slot.
    pub has_stepped: bool,
    /// Whether it was in a step at all.
    pub started: bool,
    /// Whether the whole prompt was computed once.
    pub prefilled: bool,
    /// Rows of the step being computed.
    pub in_flight: usize,
    /// The running sequence that is computing what this one begins with, and how much of it.
    pub leader: Option<(SequenceId, usize)>,
    /// Its keys and values on the host, while it waits.
    pub saved: Option<Saved>,
}

impl Sequence {
    /// One that nothing was computed of.
    pub fn new(id: SequenceId, tokens: Vec<u32>, new_tokens: usize, logits_from: usize) -> Self {
        let prompt_len = tokens.len();
        Self {
            id,
            tokens,
            prompt_len,
            longest: prompt_len.saturating_add(new_tokens),
            logits_from,
            isolated: false,
            table: PageTable::default(),
            rope_len: prompt_len,
            slot: 0,
            has_stepped: false,
            started: false,
            prefilled: false,
            in_flight: 0,
            leader: None,
            saved: None,
        }
    }

    /// Tokens that are known and not computed.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.table.len()
    }

    /// Whether the next step computes the last known token alone.
    pub fn decodes(&self) -> bool {
        self.left() == 1
    }

    /// Rows of the next step, with so many rows of logits beside the first.
    pub fn rows(&self, limits: &Limits, more_logits: usize) -> usize {
        let (first, left) = (self.table.len(), self.left());
        assert!(left > 0, "a sequence is scheduled only when it has a token to compute");
        let silent = self.logits_from.saturating_sub(first);
        let most = match limits.rope_follows_length {
            // As they were computed at first: the prompt with one set of factors, each later
            // token with its own.
            true if first < self.prompt_len => self.prompt_len - first,
            true => 1,
            false => left,
        };
        left.min(most).min(silent.saturating_add(1 + more_logits))
    }

    /// Rows of logits beside the first among the next `rows` rows.
    pub fn more_logits(&self, rows: usize) -> usize {
        let silent = self.logits_from.saturating_sub(self.table.len());
        rows.saturating_sub(silent + 1)
    }

    /// Tokens it is expected to have at its end.
    pub fn expected_tokens(&self, limits: &Limits) -> usize {
        let expected = self.tokens.len().saturating_add(limits.reserve_tokens);
        expected.min(self.longest.max(self.tokens.len())).min(limits.max_seq_len)
    }

    /// Takes over the cached pages it begins with. The last token is computed always, since its
    /// logits are what the others are for.
    pub fn adopt(&mut self, pool: &mut PagePool) {
        self.table.adopt(pool, &self.tokens[..self.tokens.len() - 1]);
    }

    /// How many tokens this one, which waits, could take over in full pages when `other` has
    /// computed them.
    pub fn shares(&self, other: &Self) -> usize {
        let both = self.tokens[..self.tokens.len() - 1].iter().zip(&other.tokens);
        both.take_while(|(a, b)| a == b).count() / PAGE_SIZE * PAGE_SIZE
    }

    /// How many tokens of a page that `other` holds are worth a copy: all that are left but the last, or
    /// enough to pay for it.
    pub fn worth_copying(&self, other: &Self, pool: &PagePool) -> usize {
        const ENOUGH: usize = PAGE_SIZE / 2;
        let wanted = &self.tokens[..self.tokens.len() - 1];
        let alike = self.table.alike(pool, wanted, &other.table, &other.tokens);
        if alike >= ENOUGH || self.table.len() + alike == wanted.len() { alike } else { 0 }
    }

    /// Turns it into one that waits: what was computed will be computed again, and its logits are
    /// not wanted twice.
    pub fn preempted(&mut self) {
        self.logits_from = self.logits_from.max(self.table.len());
        self.has_stepped = false;
        self.leader = None;
    }
}
