//! Which tokens are computed next. Pure code: no device, clock, thread or channel.
//!
//! ```text
//! waiting ── room for what it is expected to need ──▶ running ──▶ removed
//!    ▲                                                   │
//!    └────── pages ran out: the youngest, in front ──────┘
//! ```
//!
//! A step is a batch of all running sequences: one row of each that decodes, and of what the budget
//! leaves a chunk of each prompt, the oldest first and none without a row. Pages are taken as they
//! are filled. When there are none, the youngest sequence gives all of its back and waits in front of
//! the queue; its tokens stay known, and what the cache then lacks is computed again, or comes
//! back from the host, where it was saved if there is room. The oldest is never preempted, so each ends.
//!
//! Full pages are known to all from the step that computed them. A sequence waits for one that is
//! computing what it begins with, instead of computing the same beside it.

mod sequence;

use std::collections::VecDeque;
use std::ops::Range;

use self::sequence::Sequence;
use super::EngineStats;
use crate::kv::{
    PAGE_SIZE, PageGroup, PageMove, PagePool, PagesExhausted, Spill, pages_for, window_pages,
};
use crate::ops::{Batch, Span};

/// Tells sequences apart; never used twice, and the later one is the younger.
pub(super) type SequenceId = u64;

/// With as many prompts as decoding sequences a step has this many times [`Limits::mixed_rows`] rows of
/// prompts; in proportion otherwise, but at least once.
const FAIRNESS: usize = 8;

/// Sizes decided at load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most tokens of a sequence.
    pub max_seq_len: usize,
    /// Most sequences of a step.
    pub max_running: usize,
    /// Most rows of a step, at least one for each sequence.
    pub batch_rows: usize,
    /// Most rows of prompts in a step in which others decode, or one for each prompt: they wait for it. A
    /// multiple, where there are many prompts for each of these.
    pub mixed_rows: usize,
    /// Most rows of a step whose logits are wanted, at least one for each sequence.
    pub logit_rows: usize,
    /// Tokens that a sequence which begins, or begins again, is expected to generate.
    pub reserve_tokens: usize,
    /// Pages of each group that sequences which gave theirs back may leave on the host.
    pub host_slots: usize,
    /// Whether keys computed for one sequence serve another that begins alike.
    pub prefix_reuse: bool,
    /// Length beyond which all positions are turned by other factors (LongRoPE).
    pub rope_switch: Option<usize>,
    /// Whether the factors change with each length (dynamic scaling).
    pub rope_follows_length: bool,
}

/// What a step computes of a sequence, beside its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The sequence.
    pub id: SequenceId,
    /// Its place among the sequences that run: its own until it is removed or preempted.
    pub slot: usize,
    /// Whether the slot was another's, or nobody's, in the step before.
    pub new_slot: bool,
    /// In its first step: prompt tokens that were in the cache.
    pub cached: Option<usize>,
    /// Position of the first row whose logits are wanted.
    pub first_logits: usize,
    /// Its part of the batch's logits.
    pub logits: Range<usize>,
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

/// The queue, the running sequences and the page pool.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    pool: PagePool,
    waiting: VecDeque<Sequence>,
    /// The oldest first.
    running: Vec<Sequence>,
    /// The last is given next.
    free_slots: Vec<usize>,
    /// The sequence that there was no room for last, and how much there was.
    refused: Option<(SequenceId, usize)>,
    preemptions: u64,
    /// Those of them that saved their pages.
    saves: u64,
    spill: Spill,
}

impl Scheduler {
    /// A group without a window holds at least one sequence of the longest kind, one with a window
    /// what [`window_pages`] says.
    pub fn new(limits: Limits, groups: Vec<PageGroup>) -> Self {
        assert!(limits.max_running > 0);
        assert!(limits.batch_rows >= limits.max_running);
        assert!(limits.logit_rows >= limits.max_running);
        for group in &groups {
            let least = match group.window {
                Some(window) => window_pages(window, limits.max_running, limits.batch_rows),
                None => pages_for(limits.max_seq_len),
            };
            assert!(group.pages >= least);
        }
        Self {
            limits,
            pool: PagePool::new(groups),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(limits.max_running),
            free_slots: (0..limits.max_running).rev().collect(),
            refused: None,
            preemptions: 0,
            saves: 0,
            spill: Spill::new(limits.host_slots),
        }
    }

    /// Queues an answer of at most `new_tokens` tokens to `prompt`. The caller bounds how many
    /// there are.
    pub fn generate(&mut self, id: SequenceId, prompt: Vec<u32>, new_tokens: usize) {
        let last = prompt.len() - 1; // an empty prompt was refused
        self.queue(Sequence::new(id, prompt, new_tokens, last));
    }

    /// Queues the computation of logits for positions from `first` on, from an empty cache.
    pub fn evaluate(&mut self, id: SequenceId, tokens: Vec<u32>, first: usize) {
        self.queue(Sequence { isolated: true, ..Sequence::new(id, tokens, 0, first) });
    }

    /// Queues the computation of positions from `first` on, whose hidden states are wanted. If it is
    /// the last alone, those before may be in the cache.
    pub fn embed(&mut self, id: SequenceId, tokens: Vec<u32>, first: usize) {
        let isolated = first + 1 < tokens.len();
        self.queue(Sequence { isolated, ..Sequence::new(id, tokens, 0, first) });
    }

    fn queue(&mut self, sequence: Sequence) {
        assert!(!sequence.tokens.is_empty());
        assert!(sequence.tokens.len() <= self.limits.max_seq_len);
        self.waiting.push_back(sequence);
    }

    /// Says how many sequences and pages there are of each kind.
    pub fn observe(&self, stats: &mut EngineStats) {
        stats.running = self.running.len();
        stats.waiting = self.waiting.len();
        stats.kv_pages = self.pool.total();
        stats.kv_pages_held = self.pool.held();
        stats.kv_pages_cached = self.pool.cached();
        stats.preemptions = self.preemptions;
        stats.saves = self.saves;
    }

    /// Fills `batch` and `steps` with the next step, which is empty when nothing is queued. It must
    /// be followed by [`Scheduler::complete`].
    pub fn schedule(&mut self, batch: &mut Batch, steps: &mut Vec<Step>) {
        batch.tokens.clear();
        batch.spans.clear();
        batch.logit_rows.clear();
        batch.moves.clear();
        steps.clear();
        self.admit(&mut batch.moves);
        self.share_rows();
        self.reserve_pages(&mut batch.moves);
        let groups = self.pool.groups().len();
        // Single rows first: a backend treats them alike.
        let single = |sequence: &&mut Sequence| sequence.in_flight == 1;
        self.running.iter_mut().filter(single).for_each(|s| s.put(groups, batch, steps));
        let chunk = |sequence: &&mut Sequence| sequence.in_flight > 1;
        self.running.iter_mut().filter(chunk).for_each(|s| s.put(groups, batch, steps));
        assert!(batch.tokens.len() <= self.limits.batch_rows);
        assert!(batch.logit_rows.len() <= self.limits.logit_rows);
    }

    /// Lets sequences begin, in the order they came. One that waits for what another is computing is
    /// passed over; one that waits for room is not.
    fn admit(&mut self, moves: &mut Vec<PageMove>) {
        let mut at = 0;
        while self.running.len() < self.limits.max_running && at < self.waiting.len() {
            if self.has_leader(at) {
                at += 1;
                continue;
            }
            let Some(mut sequence) = self.waiting.remove(at) else { return };
            if !self.fits(&mut sequence) {
                self.waiting.insert(at, sequence);
                return;
            }
            self.bring_back(&mut sequence, moves);
            sequence.slot = self.free_slots.pop().expect("a slot for each that may run");
            let place = self.running.partition_point(|other| other.id < sequence.id);
            self.running.insert(place, sequence);
        }
    }

    /// Whether a running sequence is computing full pages that this one begins with.
    fn has_leader(&mut self, at: usize) -> bool {
        let sequence = &mut self.waiting[at];
        if !self.limits.prefix_reuse || sequence.isolated {
            return false;
        }
        let computes = |other: &Sequence, tokens: usize| other.table.len() < tokens;
        if let Some((leader, tokens)) = sequence.leader
            && self.running.iter().any(|other| other.id == leader && computes(other, tokens))
        {
            return true;
        }
        let leaders = self.running.iter().filter(|other| !other.isolated && other.left() > 1);
        let mut shared = leaders.map(|other| (other, sequence.shares(other)));
        let leader = shared.find(|&(other, tokens)| computes(other, tokens));
        sequence.leader = leader.map(|(other, tokens)| (other.id, tokens));
        sequence.leader.is_some()
    }

    /// Gives a sequence the cached pages it begins with, if there is room for what it and all that
    /// run are expected to need.
    fn fits(&mut self, sequence: &mut Sequence) -> bool {
        let group = self.pool.groups()[0];
        let expected = |s: &Sequence| {
            let pages = group.pages_of(s.expected_tokens(&self.limits));
            pages.saturating_sub(s.table.held(0).count())
        };
        let promised: usize = self.running.iter().map(expected).sum();
        let room = self.pool.available(0).saturating_sub(promised);
        let refused = self.refused.filter(|_| !self.running.is_empty());
        if refused.is_some_and(|(id, before)| id == sequence.id && room <= before) {
            return false;
        }
        self.refused = None;
        if self.limits.prefix_reuse && !sequence.isolated {
            sequence.adopt(&mut self.pool);
        }
        // What it took over may have been available before.
        let left = self.pool.available(0).saturating_sub(promised);
        if self.running.is_empty() || expected(sequence) <= left {
            return true;
        }
        sequence.table.retire(&mut self.pool, &sequence.tokens);
        self.refused = Some((sequence.id, room));
        false
    }

    /// Takes what is not to be computed again: its own pages that were saved, or a copy of a page that
    /// a running sequence has begun alike.
    fn bring_back(&mut self, sequence: &mut Sequence, moves: &mut Vec<PageMove>) {
        let restored = match sequence.saved.take() {
            Some(saved) => self.spill.load(saved, &mut sequence.table, &mut self.pool),
            None => self.fork(sequence),
        };
        // Without pages to spare it is computed.
        moves.extend(restored.into_iter().flatten());
    }

    /// Begins a page in a copy of one that holds the same: a running sequence's, or a full one that is
    /// known.
    fn fork(&mut self, sequence: &mut Sequence) -> Result<Vec<PageMove>, PagesExhausted> {
        if !self.limits.prefix_reuse || sequence.isolated {
            return Ok(vec![]);
        }
        let pool = &self.pool;
        let others = self.running.iter().filter(|other| !other.isolated);
        let alike = others.map(|other| (sequence.worth_copying(other, pool), other));
        match alike.max_by_key(|(tokens, _)| *tokens) {
            Some((tokens @ 1.., other)) => {
                sequence.table.fork(&mut self.pool, &other.table, tokens)
            }
            _ => sequence.table.fork_known(&mut self.pool, &sequence.tokens),
        }
    }

    /// Says how many rows each running sequence gets, within the limits of a step.
    fn share_rows(&mut self) {
        let count = self.running.len();
        let mut rows = self.limits.batch_rows;
        let mut more_logits = self.limits.logit_rows - count;
        let mut wanted = Vec::with_capacity(count);
        for sequence in &self.running {
            let own = sequence.rows(&self.limits, more_logits);
            more_logits -= sequence.more_logits(own);
            wanted.push(own);
        }
        for sequence in self.running.iter_mut() {
            sequence.in_flight = 0;
            if sequence.decodes() {
                sequence.in_flight = 1;
                rows -= 1;
            }
        }
        // The oldest gets half of what is left, the next half of the rest, but none nothing; what
        // some do not need is for the others, in the same order.
        let mut others = self.running.iter().filter(|s| !s.decodes()).count();
        let decoding = count - others;
        if decoding > 0 {
            // With many prompts and few that wait for a next token, the prompts are the ones that wait.
            let share = (FAIRNESS * others).div_ceil(decoding).max(1);
            rows = rows.min(self.limits.mixed_rows.saturating_mul(share).max(others));
        }
        for (sequence, &wanted) in self.running.iter_mut().zip(&wanted) {
            if !sequence.decodes() {
                others -= 1;
                let most = if others == 0 { rows } else { rows.div_ceil(2).min(rows - others) };
                sequence.in_flight = wanted.min(most);
                rows -= sequence.in_flight;
            }
        }
        for (sequence, &wanted) in self.running.iter_mut().zip(&wanted) {
            let more = (wanted - sequence.in_flight).min(rows);
            sequence.in_flight += more;
            rows -= more;
        }
    }

    /// Takes the pages for the rows of each, the oldest first: from the youngest, when there are no
    /// others.
    fn reserve_pages(&mut self, moves: &mut Vec<PageMove>) {
        let mut at = 0;
        while at < self.running.len() {
            let sequence = &mut self.running[at];
            let end = sequence.table.len() + sequence.in_flight;
            if sequence.table.reserve(&mut self.pool, end).is_ok() {
                at += 1;
                continue;
            }
            let pages = sequence.table.pages(0).len() + self.pool.available(0);
            let room = pages * PAGE_SIZE - sequence.table.len();
            if at + 1 == self.running.len() && room > 0 {
                self.running[at].in_flight = room; // fewer than it was to have, and all there are
            } else {
                self.preempt_youngest(moves);
            }
        }
        assert!(self.running.iter().all(|sequence| sequence.in_flight > 0));
    }

    fn preempt_youngest(&mut self, moves: &mut Vec<PageMove>) {
        assert!(self.running.len() > 1, "the plan gave one sequence all pages it can need");
        let mut sequence = self.running.pop().expect("there are two");
        sequence.preempted();
        if let Some((saved, saving)) = self.spill.save(self.pool.groups(), &sequence.table) {
            sequence.saved = Some(saved);
            moves.extend(saving);
            self.saves += 1;
        }
        self.give_back(&mut sequence, Leave::Prefix);
        self.waiting.push_front(sequence);
        self.preemptions += 1;
    }

    /// Returns the pages and the slot of a sequence that does not run any more.
    fn give_back(&mut self, sequence: &mut Sequence, leave: Leave) {
        sequence.in_flight = 0;
        self.free_slots.push(sequence.slot);
        let pool = &mut self.pool;
        match leave {
            Leave::Nothing => sequence.table.forget(pool),
            Leave::Prefix if self.limits.prefix_reuse && !sequence.isolated => {
                sequence.table.retire(pool, &sequence.tokens);
            }
            Leave::Prefix => sequence.table.release(pool),
        }
    }

    /// Says that the step scheduled last was computed.
    pub fn complete(&mut self) {
        for sequence in &mut self.running {
            sequence.table.advance(std::mem::take(&mut sequence.in_flight));
            sequence.prefilled |= sequence.table.len() >= sequence.prompt_len;
            if self.limits.prefix_reuse && !sequence.isolated {
                sequence.table.share(&mut self.pool, &sequence.tokens);
            }
            sequence.table.leave_window(&mut self.pool);
        }
        self.check();
    }

    /// Adds a sampled token to a running sequence.
    pub fn push(&mut self, id: SequenceId, token: u32) {
        let sequence = self.running.iter_mut().find(|sequence| sequence.id == id);
        let sequence = sequence.expect("only a running sequence samples");
        assert!(sequence.tokens.len() < self.limits.max_seq_len);
        sequence.tokens.push(token);
        let len = sequence.tokens.len();
        if self.limits.rope_switch.is_some_and(|switch| len == switch + 1) {
            // What is cached was turned by the factors of shorter sequences.
            sequence.table.release(&mut self.pool);
            (sequence.rope_len, sequence.logits_from) = (len, len - 1);
        }
    }

    /// Takes a sequence out, wherever it is.
    pub fn remove(&mut self, id: SequenceId, leave: Leave) {
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            let saved = self.waiting.remove(at).and_then(|sequence| sequence.saved);
            saved.into_iter().for_each(|saved| self.spill.discard(saved));
        }
        if let Some(at) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(at);
            self.give_back(&mut sequence, leave);
        }
        self.check();
    }

    /// Every page is free, cached, or held by running sequences; every slot is free or one's.
    fn check(&self) {
        if cfg!(debug_assertions) {
            self.pool.check(self.running.iter().map(|sequence| &sequence.table));
            assert!(self.waiting.iter().all(|sequence| sequence.table.holds_nothing()));
            let all = self.waiting.iter().chain(&self.running);
            self.spill.check(all.filter_map(|sequence| sequence.saved.as_ref()));
            let mut slots = self.free_slots.clone();
            slots.extend(self.running.iter().map(|sequence| sequence.slot));
            slots.sort_unstable();
            assert!(slots.into_iter().eq(0..self.limits.max_running));
            assert!(self.running.is_sorted_by(|a, b| a.id < b.id));
        }
    }
}

impl Sequence {
    /// Puts the rows in flight into a batch.
    fn put(&mut self, groups: usize, batch: &mut Batch, steps: &mut Vec<Step>) {
        let (first, rows) = (self.table.len(), self.in_flight);
        let end = first + rows;
        let first_row = batch.tokens.len();
        batch.tokens.extend_from_slice(&self.tokens[first..end]);
        let first_logits = self.logits_from.max(first);
        let before = batch.logit_rows.len();
        batch.logit_rows.extend((first_logits..end).map(|position| first_row + position - first));
        batch.spans.push(Span {
            first_row,
            rows,
            context_len: end,
            rope_len: self.rope_len.max(end),
            pages: (0..groups).map(|group| self.table.pages(group).to_vec()).collect(),
        });
        steps.push(Step {
            id: self.id,
            slot: self.slot,
            new_slot: !std::mem::replace(&mut self.has_stepped, true),
            cached: (!std::mem::replace(&mut self.started, true)).then_some(first),
            first_logits,
            logits: before..batch.logit_rows.len(),
            ends_prefill: !self.prefilled && end >= self.prompt_len,
            ends_tokens: end == self.tokens.len(),
        });
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
