//! Batches by hand.

use super::*;
use crate::kv::PagePlace;

const LIMITS: Limits = Limits {
    max_seq_len: 60,
    max_running: 1,
    batch_rows: 20,
    mixed_rows: 20,
    logit_rows: 4,
    reserve_tokens: 4,
    host_slots: 0,
    prefix_reuse: true,
    rope_switch: None,
    rope_follows_length: false,
};
const THREE: Limits = Limits { max_running: 3, ..LIMITS };

struct Bench {
    scheduler: Scheduler,
    batch: Batch,
    steps: Vec<Step>,
}

impl Bench {
    fn new(limits: Limits, pages: usize) -> Self {
        let scheduler = Scheduler::new(limits, vec![PageGroup { window: None, pages }]);
        Self { scheduler, batch: Batch::default(), steps: vec![] }
    }
    /// (sequence, rows, context_len) of a step that is computed.
    fn step(&mut self) -> Vec<(SequenceId, usize, usize)> {
        self.scheduler.schedule(&mut self.batch, &mut self.steps);
        self.scheduler.complete();
        assert_eq!(self.steps.len(), self.batch.spans.len());
        let spans = self.batch.spans.iter().map(|span| (span.rows, span.context_len));
        self.steps.iter().zip(spans).map(|(s, (rows, len))| (s.id, rows, len)).collect()
    }
    /// The same, after which each sequence whose tokens are computed gets another.
    fn decode(&mut self) -> Vec<(SequenceId, usize, usize)> {
        let seen = self.step();
        for step in self.steps.iter().filter(|step| step.ends_tokens) {
            self.scheduler.push(step.id, 1000 + step.id as u32);
        }
        seen
    }
    fn run_prompt(&mut self, id: SequenceId, prompt: &[u32]) {
        self.scheduler.generate(id, prompt.to_vec(), 99);
        while !{
            self.step();
            self.steps[0].ends_prefill
        } {}
    }
    /// Prompt tokens of the next sequence that were in the cache.
    fn cached(&mut self) -> usize {
        self.step();
        self.steps[0].cached.unwrap()
    }
}

fn prompt(kind: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i + 100 * kind).collect()
}

#[test]
fn a_prompt_goes_in_chunks_and_only_its_last_row_has_logits() {
    let mut bench = Bench::new(LIMITS, 4);
    bench.scheduler.generate(7, prompt(0, 45), 9);
    let mut seen = vec![];
    for (rows, end, pages) in [(20, 20, 2), (20, 40, 3), (5, 45, 3)] {
        assert_eq!(bench.step(), [(7, rows, end)]);
        let (span, step) = (&bench.batch.spans[0], &bench.steps[0]);
        assert_eq!((span.first_row, span.rope_len, span.page_count()), (0, 45, pages));
        assert_eq!((step.cached, step.new_slot), ((end == 20).then_some(0), end == 20));
        assert_eq!((step.ends_prefill, step.ends_tokens), (end == 45, end == 45));
        assert_eq!(bench.batch.logit_rows, if end == 45 { vec![4] } else { vec![] });
        assert_eq!(step.logits, 0..bench.batch.logit_rows.len());
        seen.extend_from_slice(&bench.batch.tokens);
    }
    assert_eq!(seen, prompt(0, 45));

    bench.scheduler.push(7, 99);
    assert_eq!(bench.step(), [(7, 1, 46)]);
    let step = &bench.steps[0];
    assert_eq!((step.ends_prefill, step.ends_tokens, step.first_logits), (false, true, 45));
    assert_eq!((&bench.batch.tokens[..], &bench.batch.logit_rows[..]), (&[99][..], &[0][..]));
    assert_eq!(bench.batch.spans[0].rope_len, 46);
}

#[test]
fn an_evaluation_bounds_its_rows_of_logits() {
    let mut bench = Bench::new(LIMITS, 4);
    bench.scheduler.evaluate(1, prompt(0, 30), 18);
    let mut positions = vec![];
    for rows in [20, 4, 4, 2] {
        bench.step();
        assert_eq!(bench.batch.tokens.len(), rows);
        let first = bench.steps[0].first_logits;
        positions.extend((first..).take(bench.batch.logit_rows.len()));
        assert_eq!(bench.steps[0].ends_tokens, positions.last() == Some(&29));
    }
    assert_eq!(positions, (18..30).collect::<Vec<_>>());
}

#[test]
fn all_decode_in_one_step_while_prompts_are_computed() {
    let mut bench = Bench::new(THREE, 20);
    bench.scheduler.generate(1, prompt(1, 5), 99);
    assert_eq!(bench.decode(), [(1, 5, 5)]);
    bench.scheduler.generate(2, prompt(2, 50), 99);
    bench.scheduler.generate(3, prompt(3, 7), 99);
    // The row that decodes, and what is left in halves; the short prompt needs less than its share.
    assert_eq!(bench.decode(), [(1, 1, 6), (2, 12, 12), (3, 7, 7)]);
    assert_eq!(bench.batch.logit_rows, [0, 19]);
    assert_eq!((bench.steps[0].logits.clone(), bench.steps[2].logits.clone()), (0..1, 1..2));
    assert_eq!(bench.decode(), [(1, 1, 7), (3, 1, 8), (2, 18, 30)]);
    assert_eq!(bench.batch.spans[1].first_row, 1);
    assert_eq!(bench.decode(), [(1, 1, 8), (3, 1, 9), (2, 18, 48)]);
    assert_eq!(bench.decode(), [(1, 1, 9), (3, 1, 10), (2, 2, 50)]);
    assert_eq!(bench.decode(), [(1, 1, 10), (2, 1, 51), (3, 1, 11)]);
    // A fourth waits until one ends.
    bench.scheduler.generate(4, prompt(4, 3), 99);
    assert_eq!(bench.decode().len(), 3);
    bench.scheduler.remove(2, Leave::Prefix);
    assert_eq!(bench.decode(), [(1, 1, 12), (3, 1, 13), (4, 3, 3)]);
    assert!(bench.steps[2].new_slot && bench.steps[2].slot == 1);
}

#[test]
fn prompts_are_cut_small_while_others_wait_for_their_next_token() {
    let limits = Limits { mixed_rows: 2, max_running: 11, logit_rows: 11, ..LIMITS };
    let mut bench = Bench::new(limits, 60);
    (1..=8).for_each(|id| bench.scheduler.generate(id, prompt(id as u32, 2), 99));
    assert_eq!(bench.decode().len(), 8);
    bench.scheduler.generate(9, prompt(9, 30), 99);
    let decoding = |len| (1..=8).map(move |id| (id, 1, len));
    let step =
        |len, prompts: &[_]| decoding(len).chain(prompts.iter().copied()).collect::<Vec<_>>();
    assert_eq!(bench.decode(), step(3, &[(9, 2, 2)]));
    // Two prompts beside eight: twice as many rows.
    bench.scheduler.generate(10, prompt(10, 30), 99);
    assert_eq!(bench.decode(), step(4, &[(9, 2, 4), (10, 2, 2)]));
    bench.scheduler.generate(11, prompt(11, 30), 99);
    // Three times as many; a single row comes first in a step.
    assert_eq!(bench.decode(), step(5, &[(11, 1, 1), (9, 3, 7), (10, 2, 4)]));
    // Nobody decodes: all there are.
    (1..=8).for_each(|id| bench.scheduler.remove(id, Leave::Prefix));
    assert_eq!(bench.decode(), [(9, 10, 17), (10, 5, 9), (11, 5, 6)]);
}

#[test]
fn an_evaluation_beside_others_leaves_each_its_logits() {
    let mut bench = Bench::new(THREE, 20);
    bench.scheduler.generate(1, prompt(1, 5), 99);
    bench.scheduler.evaluate(2, prompt(2, 9), 0);
    // Four rows of logits: one is the prompt's.
    assert_eq!(bench.decode(), [(1, 5, 5), (2, 3, 3)]);
    assert_eq!(bench.batch.logit_rows, [4, 5, 6, 7]);
    assert_eq!((bench.steps[1].first_logits, bench.steps[1].logits.clone()), (0, 1..4));
    bench.scheduler.generate(3, prompt(3, 40), 99);
    assert_eq!(bench.decode(), [(1, 1, 6), (2, 2, 5), (3, 17, 17)]);
}

#[test]
fn what_a_finished_sequence_shares_with_the_next_is_kept() {
    let other: Vec<u32> = prompt(0, 17).into_iter().chain(prompt(1, 20)).collect();
    for (next, cached) in [
        (prompt(0, 50), 40),
        (prompt(0, 40), 39),
        (prompt(0, 16), 15), // a copy of its only page, since its last token is computed
        (prompt(0, 17), 16),
        (prompt(0, 1), 0),
        (other, 16),
        (prompt(1, 40), 0),
    ] {
        let mut bench = Bench::new(LIMITS, 4);
        bench.run_prompt(1, &prompt(0, 40));
        bench.scheduler.remove(1, Leave::Prefix);
        bench.scheduler.generate(2, next.clone(), 9);
        assert_eq!(bench.cached(), cached, "{next:?}");
    }
}

#[test]
fn a_sampled_token_that_was_never_computed_is_not_in_the_prefix() {
    let mut bench = Bench::new(LIMITS, 4);
    bench.run_prompt(1, &prompt(0, 10));
    bench.scheduler.push(1, 50);
    bench.scheduler.remove(1, Leave::Prefix);
    bench.scheduler.generate(2, prompt(0, 10).into_iter().chain([50, 51]).collect(), 9);
    assert_eq!(bench.cached(), 10);
}

#[test]
fn nothing_is_shared_when_it_must_not_be() {
    let cached_after = |limits: Limits, leave: Leave| {
        let mut bench = Bench::new(limits, 4);
        bench.run_prompt(1, &prompt(0, 40));
        bench.scheduler.remove(1, leave);
        bench.scheduler.generate(2, prompt(0, 40), 9);
        bench.cached()
    };
    assert_eq!(cached_after(LIMITS, Leave::Prefix), 39);
    assert_eq!(cached_after(LIMITS, Leave::Nothing), 0);
    let unsafe_rope = Limits { prefix_reuse: false, ..LIMITS };
    assert_eq!(cached_after(unsafe_rope, Leave::Prefix), 0);

    // An evaluation begins from an empty cache and leaves nothing.
    let mut bench = Bench::new(LIMITS, 4);
    bench.run_prompt(1, &prompt(0, 40));
    bench.scheduler.remove(1, Leave::Prefix);
    for id in [2, 3] {
        bench.scheduler.evaluate(id, prompt(0, 40), 39);
        assert_eq!(bench.cached(), 0);
        bench.scheduler.remove(id, Leave::Prefix);
    }
}

#[test]
fn a_sibling_waits_for_the_pages_it_begins_with() {
    let mut bench = Bench::new(THREE, 20);
    bench.scheduler.generate(1, prompt(0, 45), 99);
    bench.scheduler.generate(2, prompt(0, 45), 99);
    bench.scheduler.generate(3, prompt(3, 20), 99); // overtakes the one that waits
    assert_eq!(bench.step(), [(1, 10, 10), (3, 10, 10)]);
    assert_eq!(bench.step(), [(1, 10, 20), (3, 10, 20)]);
    bench.scheduler.remove(3, Leave::Prefix);
    // Two pages are full after 32 tokens; what the third holds by then is copied.
    assert_eq!(bench.step(), [(1, 20, 40)]);
    assert_eq!(bench.step(), [(1, 5, 45), (2, 5, 45)]);
    assert_eq!(bench.steps[1].cached, Some(40));
    let [from, to] = [0, 1].map(|span: usize| bench.batch.spans[span].pages[0][2]);
    let (from, to) = (PagePlace::Pool(from), PagePlace::Pool(to));
    assert_eq!(bench.batch.moves, [PageMove { group: 0, from, to }]);
    assert_eq!(bench.batch.spans[0].pages[0][..2], bench.batch.spans[1].pages[0][..2]);
    assert_ne!(bench.batch.spans[0].pages[0][2], bench.batch.spans[1].pages[0][2]);
    // When the one that computes is gone, the others go on by themselves.
    bench.scheduler.generate(4, prompt(4, 45), 99);
    bench.scheduler.remove(1, Leave::Nothing);
    bench.scheduler.push(2, 7);
    assert_eq!(bench.step(), [(2, 1, 46), (4, 19, 19)]);
    assert!(bench.batch.moves.is_empty());
    bench.scheduler.generate(5, prompt(4, 45), 99);
    bench.scheduler.push(2, 7);
    bench.scheduler.remove(4, Leave::Nothing);
    assert_eq!(bench.step(), [(2, 1, 47), (5, 19, 19)]);
    assert_eq!(bench.steps[1].cached, Some(0));
}

#[test]
fn a_sequence_begins_when_there_is_room_for_what_it_is_expected_to_need() {
    // Each is expected to take two pages: 13 tokens and 4.
    let mut bench = Bench::new(THREE, 5);
    (1..=3).for_each(|id| bench.scheduler.generate(id, prompt(id as u32, 13), 99));
    assert_eq!(bench.decode(), [(1, 10, 10), (2, 10, 10)]);
    assert_eq!(bench.decode().len(), 2);
    bench.scheduler.remove(1, Leave::Nothing);
    assert_eq!(bench.decode(), [(2, 1, 14), (3, 13, 13)]);
    // A short answer takes no more than its own.
    let mut bench = Bench::new(THREE, 4);
    (1..=3).for_each(|id| bench.scheduler.generate(id, prompt(id as u32, 13), 3));
    assert_eq!(bench.decode().len(), 3);
}

#[test]
fn the_youngest_gives_its_pages_to_the_oldest_and_goes_on_in_front_of_the_queue() {
    let mut bench = Bench::new(Limits { max_running: 2, ..LIMITS }, 4);
    bench.scheduler.generate(1, prompt(1, 13), 99);
    bench.scheduler.generate(2, prompt(2, 13), 99);
    bench.scheduler.generate(3, prompt(3, 13), 99);
    assert_eq!(bench.decode(), [(1, 10, 10), (2, 10, 10)]);
    (0..18).for_each(|_| assert_eq!(bench.decode().len(), 2));
    // Both have two pages and 30 tokens, with one more to compute.
    assert_eq!(bench.decode(), [(1, 1, 31), (2, 1, 31)]);
    assert_eq!(bench.decode(), [(1, 1, 32), (2, 1, 32)]);
    assert_eq!(bench.decode(), [(1, 1, 33)]);
    let mut stats = EngineStats::default();
    bench.scheduler.observe(&mut stats);
    assert_eq!((stats.running, stats.waiting, stats.preemptions), (1, 2, 1));
    bench.scheduler.remove(1, Leave::Nothing);
    // Its first page is in the cache still; the other was taken, and is computed again.
    assert_eq!(bench.step(), [(2, 17, 33)]);
    let step = &bench.steps[0];
    assert_eq!((step.cached, step.ends_prefill, step.new_slot), (None, false, true));
    assert_eq!((step.ends_tokens, step.first_logits, step.logits.clone()), (true, 32, 0..1));
}

#[test]
fn what_follows_its_length_is_computed_again_as_it_was() {
    let limits = Limits {
        max_running: 2,
        prefix_reuse: false,
        rope_follows_length: true,
        reserve_tokens: 1,
        ..LIMITS
    };
    let mut bench = Bench::new(limits, 4);
    bench.scheduler.generate(1, prompt(1, 30), 99);
    bench.scheduler.generate(2, prompt(2, 5), 99);
    let mut before = vec![];
    while bench.scheduler.preemptions == 0 {
        bench.decode();
        let span = bench.steps.iter().zip(&bench.batch.spans).find(|(step, _)| step.id == 2);
        before.extend(span.map(|(_, span)| (span.rows, span.context_len, span.rope_len)));
    }
    bench.scheduler.remove(1, Leave::Nothing);
    let mut again = vec![];
    while again.len() < before.len() {
        bench.step();
        let span = &bench.batch.spans[0];
        again.push((span.rows, span.context_len, span.rope_len));
    }
    assert_eq!(again, before);
}

#[test]
fn sequences_leave_from_anywhere() {
    let mut bench = Bench::new(LIMITS, 4);
    (1..=4).for_each(|id| bench.scheduler.generate(id, prompt(id as u32, 30), 9));
    assert_eq!(bench.step(), [(1, 20, 20)]);
    bench.scheduler.remove(3, Leave::Prefix);
    bench.scheduler.remove(1, Leave::Prefix); // between chunks of its prompt
    assert_eq!(bench.step(), [(2, 20, 20)]);
    bench.scheduler.remove(2, Leave::Prefix);
    assert_eq!(bench.step(), [(4, 20, 20)]);
    bench.scheduler.remove(4, Leave::Nothing);
    assert!(bench.step().is_empty());
    assert_eq!(bench.scheduler.pool.held(), 0);
}
