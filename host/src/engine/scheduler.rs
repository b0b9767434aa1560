//! Which tokens are computed next. Pure code: no device, clock, thread or channel.
//!
//! ```text
//! tokens of a sequence:  [0, table.len())   computed, in the cache
//!                        [table.len(), …)   to be computed: the rest of the prompt, or the token
//!                                           sampled last
//! ```
//!
//! Sequences run one at a time, in the order they came. The last one's keys and values stay in
//! the cache until the next begins, which takes over the prefix they share: a conversation sends
//! all its earlier turns again.

use std::collections::VecDeque;

use crate::kv::{PAGE_SIZE, PagePool, PageTable};
use crate::ops::{Batch, Span};

/// Most sequences of a step.
pub(super) const MAX_RUNNING: usize = 1;

/// Tells sequences apart; never used twice.
pub(super) type SequenceId = u64;

/// Sizes decided at load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most tokens of a sequence.
    pub max_seq_len: usize,
    /// Most rows of a step.
    pub batch_rows: usize,
    /// Most rows of a step whose logits are wanted.
    pub logit_rows: usize,
    /// Whether keys computed for one sequence serve another that begins alike.
    pub prefix_reuse: bool,
    /// Length beyond which all positions are turned by other factors (LongRoPE).
    pub rope_switch: Option<usize>,
}

/// A sequence and how far it is.
#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Logits are wanted from this position on.
    logits_from: usize,
    /// Neither takes over a cached prefix nor leaves one.
    isolated: bool,
    table: PageTable,
    /// The length that chooses the RoPE factors, at least.
    rope_len: usize,
    /// Whether it was computed again with other factors.
    recomputed: bool,
    started: bool,
    /// Rows of the step being computed.
    in_flight: usize,
}

/// What is left of a finished sequence: `tokens[i]` is in `table` for every `i`.
#[derive(Debug, Default)]
struct Cached {
    tokens: Vec<u32>,
    table: PageTable,
}

/// A step to be computed, beside its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The sequence.
    pub id: SequenceId,
    /// Its place among the sequences that run, below [`MAX_RUNNING`]: its own until it is removed.
    pub slot: usize,
    /// In its first step: prompt tokens that were in the cache.
    pub cached: Option<usize>,
    /// Position of the first row whose logits are wanted.
    pub first_logits: usize,
    /// Whether the whole prompt is computed afterwards, and was not before.
    pub ends_prefill: bool,
    /// Whether it computes the sequence's last known token.
    pub ends_tokens: bool,
}

/// Whether what a sequence computed may serve the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It may.
    Prefix,
    /// It must not: the results are doubtful.
    Nothing,
}

/// The queue, the running sequence and the page pool.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    pool: PagePool,
    waiting: VecDeque<Sequence>,
    running: Option<Sequence>,
    cached: Cached,
}

impl Scheduler {
    /// `kv_pages` hold at least one sequence of the longest kind.
    pub fn new(limits: Limits, kv_pages: u32) -> Self {
        assert!(limits.batch_rows > 0);
        assert!(limits.logit_rows > 0);
        assert!(kv_pages as usize * PAGE_SIZE >= limits.max_seq_len);
        let pool = PagePool::new(kv_pages);
        Self { limits, pool, waiting: VecDeque::new(), running: None, cached: Cached::default() }
    }

    /// Queues an answer to `prompt`. The caller bounds how many there are.
    pub fn generate(&mut self, id: SequenceId, prompt: Vec<u32>) {
        let last = prompt.len() - 1; // an empty prompt was refused
        self.queue(id, prompt, last, false);
    }

    /// Queues the computation of logits for positions from `first` on, from an empty cache.
    pub fn evaluate(&mut self, id: SequenceId, tokens: Vec<u32>, first: usize) {
        self.queue(id, tokens, first, true);
    }

    fn queue(&mut self, id: SequenceId, tokens: Vec<u32>, logits_from: usize, isolated: bool) {
        assert!(!tokens.is_empty());
        assert!(tokens.len() <= self.limits.max_seq_len);
        let prompt_len = tokens.len();
        self.waiting.push_back(Sequence {
            id,
            tokens,
            prompt_len,
            logits_from,
            isolated,
            table: PageTable::default(),
            rope_len: prompt_len,
            recomputed: false,
            started: false,
            in_flight: 0,
        });
    }

    /// Fills `batch` with the next step; `None` when nothing is queued. The step must be followed
    /// by [`Scheduler::complete`] or [`Scheduler::remove`].
    pub fn schedule(&mut self, batch: &mut Batch) -> Option<Step> {
        if self.running.is_none() {
            let next = self.waiting.pop_front()?;
            self.start(next);
        }
        let sequence = self.running.as_mut()?;
        let (first, known) = (sequence.table.len(), sequence.tokens.len());
        let rows = sequence.rows(&self.limits);
        let end = first + rows;
        let reserved = sequence.table.reserve(&mut self.pool, end);
        assert!(reserved.is_ok(), "the plan gave one sequence all pages it can need");
        sequence.in_flight = rows;

        let first_logits = sequence.logits_from.max(first);
        batch.tokens.clear();
        batch.tokens.extend_from_slice(&sequence.tokens[first..end]);
        batch.logit_rows.clear();
        batch.logit_rows.extend((first_logits..end).map(|position| position - first));
        let prefill = first < sequence.prompt_len;
        batch.spans.clear();
        batch.spans.push(Span {
            first_row: 0,
            rows,
            context_len: end,
            rope_len: sequence.rope_len.max(end),
            pages: sequence.table.pages().to_vec(),
        });
        let cached = (!sequence.started).then_some(first);
        sequence.started = true;
        Some(Step {
            id: sequence.id,
            slot: 0,
            cached,
            first_logits,
            ends_prefill: prefill && end >= sequence.prompt_len && !sequence.recomputed,
            ends_tokens: end == known,
        })
    }

    /// Gives a sequence the pages it begins with.
    fn start(&mut self, mut sequence: Sequence) {
        let Cached { tokens, mut table } = std::mem::take(&mut self.cached);
        let shared = if sequence.isolated {
            0
        } else {
            // The last token is computed always: its logits are what the prompt is for.
            let both = tokens.iter().zip(&sequence.tokens[..sequence.prompt_len - 1]);
            both.take_while(|(a, b)| a == b).count()
        };
        table.truncate(&mut self.pool, shared);
        sequence.table = table;
        self.running = Some(sequence);
    }

    /// Says that the step scheduled last was computed.
    pub fn complete(&mut self) {
        if let Some(sequence) = &mut self.running {
            sequence.table.advance(std::mem::take(&mut sequence.in_flight));
        }
        self.check();
    }

    /// Adds a sampled token to the running sequence.
    pub fn push(&mut self, id: SequenceId, token: u32) {
        let sequence = self.running.as_mut().filter(|sequence| sequence.id == id);
        let sequence = sequence.expect("only the running sequence samples");
        assert!(sequence.tokens.len() < self.limits.max_seq_len);
        sequence.tokens.push(token);
        let len = sequence.tokens.len();
        if self.limits.rope_switch.is_some_and(|switch| len == switch + 1) {
            // What is cached was turned by the factors of shorter sequences.
            sequence.table.truncate(&mut self.pool, 0);
            (sequence.rope_len, sequence.logits_from) = (len, len - 1);
            sequence.recomputed = true;
        }
    }

    /// Takes a sequence out, wherever it is.
    pub fn remove(&mut self, id: SequenceId, leave: Leave) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(mut sequence) = self.running.take_if(|sequence| sequence.id == id) {
            let keep = leave == Leave::Prefix && self.limits.prefix_reuse && !sequence.isolated;
            let len = if keep { sequence.table.len() } else { 0 };
            sequence.table.truncate(&mut self.pool, len);
            sequence.tokens.truncate(len);
            self.cached = Cached { tokens: sequence.tokens, table: sequence.table };
        }
        self.check();
    }

    /// Every page is free, held by the running sequence or by the cached prefix.
    fn check(&self) {
        if cfg!(debug_assertions) {
            let running = self.running.iter().map(|sequence| &sequence.table);
            self.pool.check(running.chain([&self.cached.table]));
            assert_eq!(self.cached.tokens.len(), self.cached.table.len());
        }
    }
}

impl Sequence {
    /// Rows of the next step: as many as there are, within both limits.
    fn rows(&self, limits: &Limits) -> usize {
        let first = self.table.len();
        let silent = self.logits_from.saturating_sub(first);
        let left = self.tokens.len() - first;
        assert!(left > 0, "a sequence is scheduled only when it has a token to compute");
        left.min(limits.batch_rows).min(silent.saturating_add(limits.logit_rows))
    }
}

#[cfg(test)]
mod tests;
