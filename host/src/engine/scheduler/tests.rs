//! The scheduler alone: batches by hand, and a seeded simulation on a tiny pool.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    max_seq_len: 60,
    batch_rows: 20,
    logit_rows: 4,
    prefix_reuse: true,
    rope_switch: None,
};

fn scheduler() -> Scheduler {
    Scheduler::new(LIMITS, 4)
}

fn run_prompt(scheduler: &mut Scheduler, id: SequenceId, prompt: &[u32]) -> Step {
    scheduler.generate(id, prompt.to_vec());
    let mut batch = Batch::default();
    loop {
        let step = scheduler.schedule(&mut batch).unwrap();
        scheduler.complete();
        if step.ends_prefill {
            return step;
        }
    }
}

#[test]
fn a_prompt_goes_in_chunks_and_only_its_last_row_has_logits() {
    let mut scheduler = scheduler();
    let prompt: Vec<u32> = (0..45).collect();
    scheduler.generate(7, prompt.clone());
    let mut batch = Batch::default();
    let mut seen = vec![];
    for (rows, end, pages) in [(20, 20, 2), (20, 40, 3), (5, 45, 3)] {
        let step = scheduler.schedule(&mut batch).unwrap();
        let span = &batch.spans[0];
        assert_eq!((span.first_row, span.rows, span.context_len), (0, rows, end));
        assert_eq!((span.rope_len, span.pages.len()), (45, pages));
        assert_eq!(step.cached, (end == 20).then_some(0));
        assert_eq!((step.ends_prefill, step.ends_tokens), (end == 45, end == 45));
        assert_eq!(batch.logit_rows, if end == 45 { vec![4] } else { vec![] });
        seen.extend_from_slice(&batch.tokens);
        scheduler.complete();
    }
    assert_eq!(seen, prompt);

    scheduler.push(7, 99);
    let step = scheduler.schedule(&mut batch).unwrap();
    assert_eq!((step.ends_prefill, step.ends_tokens, step.first_logits), (false, true, 45));
    assert_eq!((batch.tokens.as_slice(), batch.logit_rows.as_slice()), (&[99][..], &[0][..]));
    assert_eq!((batch.spans[0].context_len, batch.spans[0].rope_len), (46, 46));
}

#[test]
fn an_evaluation_bounds_its_rows_of_logits() {
    let mut scheduler = scheduler();
    scheduler.evaluate(1, (0..30).collect(), 18);
    let mut batch = Batch::default();
    let mut positions = vec![];
    for rows in [20, 4, 4, 2] {
        let step = scheduler.schedule(&mut batch).unwrap();
        assert_eq!(batch.tokens.len(), rows);
        assert!(batch.logit_rows.len() <= LIMITS.logit_rows);
        positions.extend((step.first_logits..).take(batch.logit_rows.len()));
        scheduler.complete();
        assert_eq!(step.ends_tokens, positions.last() == Some(&29));
    }
    assert_eq!(positions, (18..30).collect::<Vec<_>>());
}

#[test]
fn what_a_finished_sequence_shares_with_the_next_is_kept() {
    let prompt: Vec<u32> = (0..40).collect();
    // (tokens shared, prompt, tokens found in the cache)
    let longer: Vec<u32> = (0..50).collect();
    let other: Vec<u32> = (0..17).chain(100..120).collect();
    let unrelated: Vec<u32> = (100..140).collect();
    for (next, cached) in [
        (&longer, 40),
        (&prompt, 39),
        (&prompt[..16].to_vec(), 15),
        (&prompt[..1].to_vec(), 0),
        (&other, 17),
        (&unrelated, 0),
    ] {
        let mut scheduler = scheduler();
        run_prompt(&mut scheduler, 1, &prompt);
        scheduler.remove(1, Leave::Prefix);
        scheduler.generate(2, next.clone());
        let step = scheduler.schedule(&mut Batch::default()).unwrap();
        assert_eq!(step.cached, Some(cached), "{next:?}");
    }
}

#[test]
fn a_sampled_token_that_was_never_computed_is_not_in_the_prefix() {
    let mut scheduler = scheduler();
    let prompt: Vec<u32> = (0..10).collect();
    run_prompt(&mut scheduler, 1, &prompt);
    scheduler.push(1, 50);
    scheduler.remove(1, Leave::Prefix);
    scheduler.generate(2, prompt.iter().copied().chain([50, 51]).collect());
    assert_eq!(scheduler.schedule(&mut Batch::default()).unwrap().cached, Some(10));
}

#[test]
fn nothing_is_shared_when_it_must_not_be() {
    let prompt: Vec<u32> = (0..40).collect();
    let cached_after = |limits: Limits, leave: Leave| {
        let mut scheduler = Scheduler::new(limits, 4);
        run_prompt(&mut scheduler, 1, &prompt);
        scheduler.remove(1, leave);
        scheduler.generate(2, prompt.clone());
        scheduler.schedule(&mut Batch::default()).unwrap().cached
    };
    assert_eq!(cached_after(LIMITS, Leave::Prefix), Some(39));
    assert_eq!(cached_after(LIMITS, Leave::Nothing), Some(0));
    let unsafe_rope = Limits { prefix_reuse: false, ..LIMITS };
    assert_eq!(cached_after(unsafe_rope, Leave::Prefix), Some(0));

    // An evaluation begins from an empty cache and leaves none.
    let mut scheduler = scheduler();
    run_prompt(&mut scheduler, 1, &prompt);
    scheduler.remove(1, Leave::Prefix);
    for id in [2, 3] {
        scheduler.evaluate(id, prompt.clone(), 39);
        assert_eq!(scheduler.schedule(&mut Batch::default()).unwrap().cached, Some(0));
        scheduler.complete();
        scheduler.remove(id, Leave::Prefix);
    }
    assert_eq!(scheduler.pool.free(), 4);
}

#[test]
fn sequences_run_in_the_order_they_came_and_leave_from_anywhere() {
    let mut scheduler = scheduler();
    let mut batch = Batch::default();
    (1..=4).for_each(|id| scheduler.generate(id, vec![id as u32; 30]));
    assert_eq!(scheduler.schedule(&mut batch).unwrap().id, 1);
    scheduler.complete();
    scheduler.remove(3, Leave::Prefix);
    scheduler.remove(1, Leave::Prefix); // between chunks of its prompt
    assert_eq!(scheduler.schedule(&mut batch).unwrap().id, 2);
    scheduler.complete();
    scheduler.remove(2, Leave::Prefix);
    assert_eq!(scheduler.schedule(&mut batch).unwrap().id, 4);
    scheduler.complete();
    scheduler.remove(4, Leave::Nothing);
    assert!(scheduler.schedule(&mut batch).is_none());
    assert_eq!(scheduler.pool.free(), 4);
}

#[derive(Clone, Debug)]
enum Action {
    Generate { len: usize, letters: u32 },
    Evaluate { len: usize, first: usize },
    Step,
    Remove { nth: usize, leave: bool },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        (1usize..=60, 1u32..3).prop_map(|(len, letters)| Action::Generate { len, letters }),
        (1usize..=60, 0usize..60)
            .prop_map(|(len, first)| Action::Evaluate { len, first: first.min(len - 1) }),
        Just(Action::Step),
        Just(Action::Step),
        Just(Action::Step),
        (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(nth, leave)| Action::Remove { nth: nth.index(8), leave }),
    ];
    prop::collection::vec(action, 1..120)
}

proptest! {
    /// `free + held + cached == total` after each step, in `check`; each sequence's tokens are
    /// computed once, in order, at the positions they have.
    #[test]
    fn arrivals_and_removals(actions in actions()) {
        let mut scheduler = scheduler();
        let mut batch = Batch::default();
        let mut sequences: Vec<(SequenceId, Vec<u32>)> = vec![];
        let mut next_id = 0;
        for action in actions {
            match action {
                Action::Generate { len, letters } => {
                    let prompt: Vec<u32> = (0..len as u32).map(|i| i % letters).collect();
                    scheduler.generate(next_id, prompt.clone());
                    sequences.push((next_id, prompt));
                    next_id += 1;
                }
                Action::Evaluate { len, first } => {
                    scheduler.evaluate(next_id, vec![5; len], first);
                    sequences.push((next_id, vec![5; len]));
                    next_id += 1;
                }
                Action::Remove { nth, leave } if nth < sequences.len() => {
                    let (id, _) = sequences.remove(nth);
                    let leave = if leave { Leave::Prefix } else { Leave::Nothing };
                    scheduler.remove(id, leave);
                }
                Action::Remove { .. } => {}
                Action::Step => {
                    let Some(step) = scheduler.schedule(&mut batch) else {
                        prop_assert!(sequences.is_empty());
                        continue;
                    };
                    prop_assert_eq!(step.id, sequences[0].0);
                    let span = &batch.spans[0];
                    let tokens = &mut sequences[0].1;
                    let first = span.context_len - span.rows;
                    prop_assert_eq!(&batch.tokens[..], &tokens[first..span.context_len]);
                    scheduler.complete();
                    if step.ends_tokens {
                        if tokens.len() < LIMITS.max_seq_len && tokens[0] != 5 {
                            scheduler.push(step.id, 1);
                            tokens.push(1);
                        } else {
                            scheduler.remove(step.id, Leave::Prefix);
                            sequences.remove(0);
                        }
                    }
                }
            }
            scheduler.check();
        }
    }
}
