//! Random arrivals, ends, aborts and preemptions on tiny pools. The "model" keeps in each slot of
//! each page a number made of the numbers of all positions before, read through the pages that the
//! batch names, and chooses the next token by it: a page that is wrong, stale, lost or written twice
//! changes the answer. The seed of a failure is printed.

use std::collections::HashMap;

use super::*;
use crate::engine::testing::{combine, mix};
use crate::kv::PagePlace;

/// Xorshift: the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % n as u64) as usize
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Ends an answer.
const END: u32 = 0;

/// A number made of a position's own token and factors, and of the numbers of all positions before,
/// or those in a group's window: `cell(group, position)`.
fn state(
    groups: &[PageGroup],
    position: usize,
    cell: impl Fn(usize, usize) -> u64,
    token: u32,
    rope: usize,
) -> u64 {
    let mut state = combine(rope as u64, mix(position as u64, token));
    for (i, group) in groups.iter().enumerate() {
        let first = group.window.map_or(0, |window| (position + 1).saturating_sub(window));
        state = (first..position).fold(state, |state, p| combine(state, cell(i, p)));
    }
    state
}

fn token(state: u64) -> u32 {
    (state % 29) as u32
}

/// Which set of factors turns a position.
fn rope(limits: &Limits, rope_len: usize) -> usize {
    match limits.rope_switch {
        Some(switch) => usize::from(rope_len > switch),
        None if limits.rope_follows_length => rope_len,
        None => 0,
    }
}

/// The states after each of the tokens, of a sequence that is computed alone.
fn states(limits: &Limits, groups: &[PageGroup], tokens: &[u32], prompt_len: usize) -> Vec<u64> {
    let mut cells: Vec<u64> = vec![];
    for (position, &token) in tokens.iter().enumerate() {
        let rope_len = match limits.rope_switch {
            Some(_) => tokens.len().max(prompt_len),
            None => prompt_len.max(position + 1),
        };
        let rope = rope(limits, rope_len);
        cells.push(state(groups, position, |_, p| cells[p], token, rope));
    }
    cells
}

/// The answer of a sequence that runs alone.
fn alone(limits: &Limits, groups: &[PageGroup], prompt: &[u32], new_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    loop {
        let next = token(*states(limits, groups, &tokens, prompt.len()).last().unwrap());
        let answer = tokens.len() - prompt.len() + 1;
        if next == END || answer == new_tokens || tokens.len() == limits.max_seq_len {
            tokens.push(next);
            return tokens.split_off(prompt.len());
        }
        tokens.push(next);
    }
}

struct Job {
    prompt: Vec<u32>,
    new_tokens: usize,
    answer: Vec<u32>,
    /// States that an evaluation saw; `None` for an answer.
    seen: Option<(usize, Vec<u64>)>,
    begun: bool,
    prefilled: bool,
}

struct Simulation {
    random: Random,
    limits: Limits,
    groups: Vec<PageGroup>,
    scheduler: Scheduler,
    /// By group, page and slot.
    cells: HashMap<(usize, u32, usize), u64>,
    jobs: HashMap<SequenceId, Job>,
    next_id: SequenceId,
    batch: Batch,
    steps: Vec<Step>,
    finished: usize,
    cached: usize,
    copied: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let max_running = 1 + random.below(8);
        let max_seq_len = 20 + random.below(80);
        let ropes = random.below(6);
        let limits = Limits {
            max_seq_len,
            max_running,
            batch_rows: max_running + random.below(40),
            mixed_rows: 1 + random.below(30),
            logit_rows: max_running + random.below(5),
            reserve_tokens: 1 + random.below(20),
            host_slots: if random.one_in(2) { random.below(20) } else { 0 },
            prefix_reuse: ropes < 4 && !random.one_in(8),
            rope_switch: (ropes == 4).then_some(max_seq_len / 2),
            rope_follows_length: ropes == 5,
        };
        let all = PageGroup { window: None, pages: pages_for(max_seq_len) + random.below(12) };
        let window = 1 + random.below(40);
        let pages = window_pages(window, max_running, limits.batch_rows) + random.below(4);
        let windowed = PageGroup { window: Some(window), pages };
        let groups = match random.below(4) {
            0 | 1 => vec![all],
            2 => vec![all, windowed],
            _ => vec![windowed],
        };
        Self {
            random,
            limits,
            scheduler: Scheduler::new(limits, groups.clone()),
            groups,
            cells: HashMap::new(),
            jobs: HashMap::new(),
            next_id: 0,
            batch: Batch::default(),
            steps: vec![],
            finished: 0,
            cached: 0,
            copied: 0,
        }
    }

    /// A prompt that begins like others.
    fn prompt(&mut self) -> Vec<u32> {
        let longest = self.limits.max_seq_len;
        let len = 1 + if self.random.one_in(3) { self.random.below(longest) } else { 12 };
        let shared = self.random.below(longest);
        let kind = self.random.below(3) as u32;
        let token = |p: usize| if p < shared { 1 + p as u32 % 3 } else { 5 + kind };
        (0..len.min(longest)).map(token).collect()
    }

    fn arrive(&mut self) {
        let prompt = self.prompt();
        let new_tokens = 1 + self.random.below(40);
        let id = self.next_id;
        self.next_id += 1;
        let mut seen = None;
        if self.random.one_in(6) {
            let (any, last) = (self.random.below(prompt.len()), prompt.len() - 1);
            let first = if self.random.one_in(2) { last } else { any };
            // The last alone is an embedding's, which may take over what is cached.
            match first + 1 == prompt.len() {
                true => self.scheduler.embed(id, prompt.clone(), first),
                false => self.scheduler.evaluate(id, prompt.clone(), first),
            }
            seen = Some((first, vec![]));
        } else {
            self.scheduler.generate(id, prompt.clone(), new_tokens);
        }
        let (answer, begun, prefilled) = (vec![], false, false);
        self.jobs.insert(id, Job { prompt, new_tokens, answer, seen, begun, prefilled });
    }

    fn abort(&mut self) {
        let nth = self.random.below(self.jobs.len().max(1));
        let mut ids: Vec<_> = self.jobs.keys().copied().collect();
        ids.sort_unstable();
        if let Some(&id) = ids.get(nth) {
            self.jobs.remove(&id);
            let leave = if self.random.one_in(3) { Leave::Nothing } else { Leave::Prefix };
            self.scheduler.remove(id, leave);
        }
    }

    fn step(&mut self) {
        self.scheduler.schedule(&mut self.batch, &mut self.steps);
        assert_eq!(self.steps.is_empty(), self.jobs.is_empty(), "somebody waits for nothing");
        let states = self.compute();
        self.scheduler.complete();
        for step in std::mem::take(&mut self.steps) {
            let job = self.jobs.get_mut(&step.id).expect("only jobs are computed");
            assert_eq!(step.cached.is_some(), !std::mem::replace(&mut job.begun, true));
            self.cached += step.cached.unwrap_or(0);
            assert!(!(step.ends_prefill && std::mem::replace(&mut job.prefilled, true)));
            let states = &states[step.logits.clone()];
            if let Some((first, seen)) = &mut job.seen {
                assert_eq!(step.first_logits.max(*first), *first + seen.len());
                seen.extend_from_slice(states);
                if step.ends_tokens {
                    self.finish(step.id);
                }
                continue;
            }
            assert_eq!(states.len(), usize::from(step.ends_tokens));
            let [state] = *states else { continue };
            let next = token(state);
            job.answer.push(next);
            let len = job.prompt.len() + job.answer.len() - 1;
            if next == END || job.answer.len() == job.new_tokens || len == self.limits.max_seq_len {
                self.finish(step.id);
            } else {
                self.scheduler.push(step.id, next);
            }
        }
        self.scheduler.check();
    }

    /// Computes the batch: the states whose logits are wanted.
    fn compute(&mut self) -> Vec<u64> {
        for &PageMove { group, from, to } in &self.batch.moves {
            // Slots on the host lie beyond all pages.
            let [from, to] = [from, to].map(|place| match place {
                PagePlace::Pool(page) => page,
                PagePlace::Host(slot) => (1 << 20) + slot,
            });
            for slot in 0..PAGE_SIZE {
                match self.cells.get(&(group, from, slot)).copied() {
                    Some(cell) => self.cells.insert((group, to, slot), cell),
                    None => self.cells.remove(&(group, to, slot)),
                };
            }
        }
        let in_pool = |place| matches!(place, PagePlace::Pool(_));
        let copies = self.batch.moves.iter().filter(|one| in_pool(one.from) && in_pool(one.to));
        self.copied += copies.count();
        let (mut all, mut row) = (vec![], 0);
        for span in &self.batch.spans {
            assert_eq!(span.first_row, row);
            assert_eq!(span.page_count(), pages_for(span.context_len));
            let place =
                |group: usize, p: usize| (group, span.pages[group][p / PAGE_SIZE], p % PAGE_SIZE);
            for i in 0..span.rows {
                let position = span.context_len - span.rows + i;
                let cell = |group, p| self.cells[&place(group, p)];
                let rope = rope(&self.limits, span.rope_len);
                let state = state(&self.groups, position, cell, self.batch.tokens[row], rope);
                for group in 0..self.groups.len() {
                    self.cells.insert(place(group, position), state);
                }
                all.push(state);
                row += 1;
            }
        }
        self.batch.logit_rows.iter().map(|&row| all[row]).collect()
    }

    fn finish(&mut self, id: SequenceId) {
        self.scheduler.remove(id, Leave::Prefix);
        let job = self.jobs.remove(&id).expect("it ran");
        match job.seen {
            Some((first, seen)) => {
                assert_eq!(
                    seen,
                    states(&self.limits, &self.groups, &job.prompt, job.prompt.len())[first..]
                );
            }
            None => assert_eq!(
                job.answer,
                alone(&self.limits, &self.groups, &job.prompt, job.new_tokens)
            ),
        }
        self.finished += 1;
    }
}

/// Says which seed a panic came from.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed with seed {}", self.0);
        }
    }
}

#[test]
fn every_request_ends_with_the_answer_it_has_alone() {
    let (mut finished, mut preemptions, mut cached, mut copied, mut saves) = (0, 0, 0, 0, 0);
    for seed in 0..150 {
        let _seed = Seed(seed);
        let mut simulation = Simulation::new(seed);
        for _ in 0..400 {
            if simulation.jobs.len() < 12 && simulation.random.one_in(3) {
                simulation.arrive();
                if simulation.random.one_in(4) {
                    simulation.arrive();
                }
            }
            if simulation.random.one_in(25) {
                simulation.abort();
            }
            simulation.step();
        }
        let mut left = 20_000;
        while !simulation.jobs.is_empty() {
            simulation.step();
            left -= 1;
            assert!(left > 0, "some never end");
        }
        assert_eq!(simulation.scheduler.pool.held(), 0);
        finished += simulation.finished;
        preemptions += simulation.scheduler.preemptions;
        cached += simulation.cached;
        copied += simulation.copied;
        saves += simulation.scheduler.saves;
    }
    let seen = format!(
        "{finished} ended, {preemptions} preempted, {saves} of them saved, {cached} tokens cached, \
         {copied} pages copied"
    );
    assert!(finished > 2_000 && preemptions > 100 && cached > 1_000, "{seen}");
    assert!(copied > 100 && saves > 30, "{seen}");
}
