//! The whole engine over a fake model: order of events, limits, cancellation, faults, prefixes.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};

use super::testing::{
    Act, END, LATE, Samples, Setup, VOCAB_SIZE, read, reference_answer, reference_hidden,
    reference_logits, request, text_of,
};
use super::*;
use crate::kv::PAGE_SIZE;

/// A prompt of `len` tokens that no other length or kind begins with.
fn prompt(kind: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i + kind + i / 5) % 26).collect()
}

/// Prompts whose greedy answer does not end within `n` tokens.
fn endless(len: usize, n: usize) -> Vec<u32> {
    let mut kinds = (0..).map(|kind| prompt(kind, len));
    kinds.find(|prompt| !reference_answer(prompt, n).contains(&END)).unwrap()
}

#[test]
fn answers_are_those_of_the_whole_sequence_at_any_chunk_and_page_boundary() {
    let bench = Setup::default().start();
    for len in [1, 2, 15, 16, 17, 19, 20, 21, 32, 33, 39, 40, 41, 100] {
        // Each prompt differs from the one before in its first token: nothing is shared.
        let prompt = prompt(len as u32, len);
        let answer = bench.answer(request(&prompt, 24));
        let expected = reference_answer(&prompt, 24);
        assert_eq!(answer.tokens, expected, "a prompt of {len}");
        assert_eq!(answer.text, text_of(&expected));
        let ended = expected.last() == Some(&END);
        let reason = if ended { FinishReason::EndOfGeneration } else { FinishReason::Length };
        let (found, timings) = answer.end.unwrap();
        assert_eq!((found, answer.cached), (reason, Some(0)));
        assert_eq!((timings.prompt_tokens, timings.generated_tokens), (len, expected.len()));
        assert!(timings.prompt_ms >= 0.0 && timings.generate_ms >= 0.0);
    }
}

#[test]
fn a_conversation_finds_its_earlier_turns_and_answers_as_if_it_had_not() {
    let bench = Setup::default().start();
    let mut conversation = prompt(3, 30);
    let mut computed = 0;
    for turn in 0..6 {
        let answer = bench.answer(request(&conversation, 10));
        assert_eq!(answer.tokens, reference_answer(&conversation, 10), "turn {turn}");
        assert_eq!(answer.cached, Some(computed), "turn {turn}");
        // All but the last sampled token went through the model.
        computed = conversation.len() + answer.tokens.len() - 1;
        conversation.extend(&answer.tokens);
        conversation.extend(prompt(turn, 7));
    }

    // Another branch of the same conversation, the same again, then a different one.
    let shared = 40;
    let branch: Vec<u32> = conversation[..shared].iter().copied().chain([25; 9]).collect();
    let shared = shared + conversation[shared..].iter().take_while(|&&id| id == 25).count();
    // Of a page that is full, all is taken over or nothing.
    let shared = shared / PAGE_SIZE * PAGE_SIZE;
    for (prompt, cached) in [(&branch, shared), (&branch, branch.len() - 1), (&vec![20; 50], 0)] {
        let answer = bench.answer(request(prompt, 10));
        assert_eq!((answer.cached, answer.tokens), (Some(cached), reference_answer(prompt, 10)));
    }
}

#[test]
fn without_safe_prefixes_every_prompt_is_computed() {
    let mut setup = Setup::default();
    setup.limits.prefix_reuse = false;
    let bench = setup.start();
    for _ in 0..2 {
        assert_eq!(bench.answer(request(&prompt(1, 30), 3)).cached, Some(0));
    }
}

#[test]
fn max_tokens_of_none_and_one() {
    let bench = Setup::default().start();
    let prompt = endless(10, 5);
    let none = bench.answer(request(&prompt, 0));
    assert_eq!((none.tokens.len(), none.cached, none.reason()), (0, Some(0), FinishReason::Length));
    let one = bench.answer(request(&prompt, 1));
    assert_eq!((one.tokens, one.cached), (reference_answer(&prompt, 1), Some(9)));
    assert_eq!(one.end.unwrap().0, FinishReason::Length);
}

#[test]
fn the_context_ends_an_answer() {
    let bench = Setup { next: Some(|_| 4), ..Setup::default() }.start();
    for (len, tokens) in [(200, 1), (199, 2), (150, 51)] {
        let answer = bench.answer(request(&prompt(0, len), usize::MAX));
        assert_eq!(answer.tokens, vec![4; tokens]);
        assert_eq!(answer.reason(), FinishReason::Length);
    }
}

#[test]
fn the_end_token_is_reported_without_text_unless_it_is_ignored() {
    let next = |position| if position == 11 { END } else { 2 };
    let bench = Setup { next: Some(next), ..Setup::default() }.start();
    let answer = bench.answer(request(&prompt(0, 10), 8));
    assert_eq!((answer.tokens.as_slice(), answer.text.as_str()), (&[2, 2, END][..], "cc"));
    assert_eq!(answer.reason(), FinishReason::EndOfGeneration);

    let on = Request { ignore_eos: true, ..request(&prompt(0, 10), 8) };
    let answer = bench.answer(on);
    assert_eq!(answer.tokens.len(), 8);
    assert!(!answer.tokens.contains(&END));
    assert_eq!(answer.reason(), FinishReason::Length);
}

#[test]
fn stop_strings_end_the_answer_and_never_show() {
    // abcabcabd… after a prompt of ten: the heads of "abd" come up twice before it does.
    let next = |position: usize| match position - 9 {
        0..=7 => [0, 1, 2, 0, 1, 2, 0, 1][position - 9],
        _ => 3,
    };
    let bench = Setup { next: Some(next), ..Setup::default() }.start();
    let with = |stop: &[&str], max_tokens| Request {
        stop: stop.iter().map(|s| s.to_string()).collect(),
        ..request(&prompt(0, 10), max_tokens)
    };
    let reason = |stop: &str| FinishReason::StopString(stop.to_owned());

    let answer = bench.answer(with(&["abd"], 20));
    assert_eq!((answer.text.as_str(), answer.reason()), ("abcabc", reason("abd")));
    assert_eq!(answer.tokens.len(), 9);
    let answer = bench.answer(with(&["xyz", "ca"], 20));
    assert_eq!((answer.text.as_str(), answer.reason()), ("ab", reason("ca")));
    // Held back as the head of a stop string, and shown when the answer ends without it.
    let answer = bench.answer(with(&["abd"], 8));
    assert_eq!((answer.text.as_str(), answer.reason()), ("abcabcab", FinishReason::Length));
    // The last token completes it.
    let answer = bench.answer(with(&["abd"], 9));
    assert_eq!((answer.text.as_str(), answer.reason()), ("abcabc", reason("abd")));
}

#[test]
fn text_that_the_tokenizer_holds_back_comes_at_the_end() {
    let next = |position| if position == 11 { LATE } else { 0 };
    let bench = Setup { next: Some(next), ..Setup::default() }.start();
    for (max_tokens, text) in [(2, "aa"), (3, "aa~"), (4, "aa~a")] {
        assert_eq!(bench.answer(request(&prompt(0, 10), max_tokens)).text, text);
    }
    let stop = Request { stop: vec!["a~".to_owned()], ..request(&prompt(0, 10), 3) };
    let answer = bench.answer(stop);
    assert_eq!(answer.text, "a");
    assert_eq!(answer.reason(), FinishReason::StopString("a~".to_owned()));
}

#[test]
fn logprobs_are_those_of_the_unmodified_logits() {
    let bench = Setup::default().start();
    let prompt = prompt(5, 12);
    let mut request = Request { logprobs: Some(4), ignore_eos: true, ..request(&prompt, 6) };
    request.sampling.logit_bias = vec![(9, 50.0)]; // always chosen, whatever its logit
    let answer = bench.answer(request.clone());
    assert_eq!((answer.tokens.as_slice(), answer.logprobs.len()), (&[9; 6][..], 6));
    let tokens: Vec<u32> = prompt.iter().copied().chain([9; 5]).collect();
    let rows = &reference_logits(&tokens)[prompt.len() - 1..];
    for (found, logits) in answer.logprobs.iter().zip(rows) {
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let logprob = |id: usize| (f64::from(logits[id]) - sum.ln()) as f32;
        assert!((found.logprob - logprob(9)).abs() < 1e-5);
        let mut ids: Vec<usize> = (0..VOCAB_SIZE).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        assert_eq!(found.top.len(), 4);
        for (&(id, value), expected) in found.top.iter().zip(ids) {
            assert_eq!(id as usize, expected);
            assert!((value - logprob(expected)).abs() < 1e-5);
        }
    }
    request.logprobs = Some(0);
    assert!(bench.answer(request.clone()).logprobs.iter().all(|l| l.top.is_empty()));
    request.logprobs = None;
    assert!(bench.answer(request).logprobs.is_empty());
}

#[test]
fn a_seeded_answer_does_not_depend_on_the_requests_before_it() {
    let sampled = |seed, prompt: &[u32]| {
        let mut request = request(prompt, 20);
        request.sampling.temperature = 1.5;
        request.sampling.repeat_penalty = 1.3;
        request.sampling.seed = Some(seed);
        Request { ignore_eos: true, ..request }
    };
    let (a, b) = (prompt(1, 20), prompt(2, 35));
    let alone = Setup::default().start().answer(sampled(7, &b)).tokens;
    let bench = Setup::default().start();
    bench.answer(sampled(3, &a));
    assert_eq!(bench.answer(sampled(7, &b)).tokens, alone);
    assert_eq!(bench.answer(sampled(7, &b)).tokens, alone);
    assert_ne!(bench.answer(sampled(8, &b)).tokens, alone);
}

#[test]
fn answers_are_the_same_whoever_chooses() {
    let sampled = |change: &dyn Fn(&mut Request)| {
        let mut request = request(&prompt(2, 35), 20);
        request.sampling.temperature = 1.5;
        request.sampling.seed = Some(7);
        change(&mut request);
        request
    };
    let requests = [
        sampled(&|_| {}),
        sampled(&|r| r.sampling.temperature = 0.0),
        sampled(&|r| r.ignore_eos = true),
        sampled(&|r| (r.sampling.top_k, r.sampling.top_p) = (9, 0.8)),
        sampled(&|r| (r.sampling.min_p, r.sampling.logit_bias) = (0.2, vec![(3, 2.0), (END, 1.0)])),
        sampled(&|r| {
            (r.sampling.repeat_penalty, r.sampling.frequency_penalty) = (1.3, 0.4);
            r.sampling.repeat_last_n = 6;
            r.ignore_eos = true;
        }),
        sampled(&|r| (r.sampling.presence_penalty, r.logprobs) = (0.8, Some(0))),
    ];
    let host = Setup::default().start();
    for samples in [Samples::Model, Samples::ModelAtTimes] {
        let bench = Setup { samples, ..Setup::default() }.start();
        for request in &requests {
            let (found, expected) = (bench.answer(request.clone()), host.answer(request.clone()));
            assert_eq!(found.tokens, expected.tokens, "{samples:?} {request:?}");
            assert_eq!((found.reason(), found.text), (expected.reason(), expected.text));
            assert_eq!(found.logprobs.len(), expected.logprobs.len());
            for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
                assert!((found.logprob - expected.logprob).abs() < 1e-5 && found.top.is_empty());
            }
        }
        let reads = bench.reads.load(Ordering::SeqCst);
        assert_eq!(reads == 0, samples == Samples::Model);
    }
}

#[test]
fn what_the_model_cannot_choose_is_chosen_from_logits() {
    let bench = Setup { samples: Samples::Model, ..Setup::default() }.start();
    let reads = || bench.reads.load(Ordering::SeqCst);
    let prompt = endless(10, 4);
    bench.answer(request(&prompt, 4));
    assert_eq!(reads(), 0);
    let mut before = 0;
    let changes: [fn(&mut Request); 4] = [
        |r| r.logprobs = Some(2),
        |r| r.sampling.dry_multiplier = 1.0,
        |r| (r.sampling.temperature, r.sampling.xtc_probability) = (1.0, 0.5),
        |r| (r.sampling.temperature, r.sampling.mirostat) = (1.0, 2),
    ];
    for change in changes {
        let mut request = request(&prompt, 4);
        request.sampling.dry_sequence_breakers = vec![];
        change(&mut request);
        let tokens = bench.answer(request).tokens.len();
        assert_eq!(reads(), before + tokens);
        before += tokens;
    }
    bench.engine.evaluate(prompt, 9, Box::new(|_, _| {})).unwrap();
    assert_eq!(reads(), before + 1);
}

#[test]
fn what_cannot_be_answered_is_refused_with_the_numbers() {
    let bench = Setup::default().start();
    let refusal = |request| bench.engine.submit(request).unwrap_err();
    assert_eq!(refusal(request(&[], 1)), SubmitError::EmptyPrompt);
    let text = refusal(request(&[0; 201], 1)).to_string();
    assert!(text.starts_with("the prompt is too long: 201 tokens > 200, the maximum"), "{text}");
    let text = refusal(request(&[1, 2, 32], 1)).to_string();
    assert_eq!(text, "prompt token 2 is 32, expected one below 32 (the vocabulary)");

    let with = |change: fn(&mut Request)| {
        let mut request = request(&[1], 1);
        change(&mut request);
        let error = refusal(request);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error
    };
    assert!(matches!(
        with(|r| r.stop = vec!["x".into(); 65]),
        SubmitError::Limit { found: 65, .. }
    ));
    assert!(matches!(with(|r| r.stop = vec!["x".repeat(4097)]), SubmitError::Limit { .. }));
    assert!(matches!(with(|r| r.logprobs = Some(33)), SubmitError::Limit { limit: 32, .. }));
    assert!(matches!(with(|r| r.sampling.temperature = f32::NAN), SubmitError::Sampling(_)));
    assert!(matches!(with(|r| r.sampling.logit_bias = vec![(32, 1.0)]), SubmitError::Sampling(_)));
    let untokenizable = with(|r| {
        r.sampling.dry_multiplier = 1.0;
        r.sampling.dry_sequence_breakers = vec!["a".into(), "!".into()];
    });
    assert!(matches!(untokenizable, SubmitError::Untokenizable { .. }), "{untokenizable}");
    assert_eq!(bench.engine.in_progress(), 0);
    assert_eq!(bench.answer(request(&[1], 1)).tokens.len(), 1);
}

#[test]
fn a_model_without_a_vocabulary_answers_in_tokens() {
    let bench = Setup { has_text: false, ..Setup::default() }.start();
    let prompt = endless(10, 4);
    let answer = bench.answer(request(&prompt, 4));
    assert_eq!((answer.tokens, answer.text), (reference_answer(&prompt, 4), String::new()));
    let stop = Request { stop: vec!["x".to_owned()], ..request(&prompt, 4) };
    assert!(matches!(bench.engine.submit(stop), Err(SubmitError::NoVocabulary { field: "stop" })));
}

#[test]
fn cancelling_takes_effect_at_the_next_step() {
    let bench = Setup { gated: true, ..Setup::default() }.start();
    let cancelled = |handle: RequestHandle| {
        let answer = read(handle);
        assert_eq!(answer.reason(), FinishReason::Cancelled);
        answer
    };
    // Between the first and second of five chunks of a prompt, while another waits.
    let running = bench.engine.submit(request(&prompt(0, 100), 5)).unwrap();
    let waiting = bench.engine.submit(request(&prompt(1, 100), 5)).unwrap();
    running.cancel();
    waiting.canceller().cancel();
    bench.permit(1); // at most one step was under way when the flag was set
    let answer = cancelled(running);
    assert_eq!((answer.cached, answer.tokens.len()), (None, 0));
    assert_eq!(cancelled(waiting).tokens.len(), 0);
    bench.wait_until_idle();
    assert!(bench.steps.lock().unwrap().len() <= 1);

    // While decoding: what was generated is not lost.
    let bench = Setup { gated: true, ..Setup::default() }.start();
    let prompt = endless(10, 9);
    let handle = bench.engine.submit(request(&prompt, 100)).unwrap();
    bench.permit(4);
    bench.wait_for_steps(4);
    handle.cancel();
    bench.permit(1);
    let answer = cancelled(handle);
    assert!((4..=5).contains(&answer.tokens.len()), "{answer:?}");
    assert_eq!(answer.tokens, reference_answer(&prompt, answer.tokens.len()));
    assert_eq!(answer.text, text_of(&answer.tokens));
}

#[test]
fn a_cancelled_prefill_leaves_a_prefix_that_is_right() {
    let bench = Setup { gated: true, ..Setup::default() }.start();
    let prompt = prompt(9, 100);
    let handle = bench.engine.submit(request(&prompt, 5)).unwrap();
    bench.permit(2);
    bench.wait_for_steps(2);
    handle.cancel();
    bench.permit(100);
    read(handle);
    let answer = bench.answer(request(&prompt, 5));
    assert!([40, 60].contains(&answer.cached.unwrap()), "{:?}", answer.cached);
    assert_eq!(answer.tokens, reference_answer(&prompt, 5));
}

#[test]
fn dropping_the_handle_frees_the_slot() {
    let bench = Setup { gated: true, ..Setup::default() }.start();
    for _ in 0..5 {
        drop(bench.engine.submit(request(&prompt(0, 50), 5)).unwrap());
    }
    bench.permit(5);
    bench.wait_until_idle();
}

#[test]
fn a_full_engine_is_busy_and_recovers() {
    let bench = Setup { gated: true, ..Setup::default() }.start();
    let limit = bench.engine.max_in_progress();
    assert_eq!(limit, 64, "one that runs and 63 that wait");
    let submit = || bench.engine.submit(request(&prompt(0, 5), 1));
    let handles: Vec<_> = (0..limit).map(|_| submit().unwrap()).collect();
    assert_eq!(submit().unwrap_err(), SubmitError::Busy { limit });
    bench.permit(1);
    let mut handles = handles.into_iter();
    assert_eq!(read(handles.next().unwrap()).tokens.len(), 1);
    // Its slot was free before its end was told.
    let late = submit().unwrap();
    assert!(submit().is_err());
    bench.permit(limit);
    assert!(handles.chain([late]).all(|handle| read(handle).tokens.len() == 1));
    assert_eq!(bench.engine.in_progress(), 0);
}

#[test]
fn a_place_is_held_until_it_is_used_or_dropped() {
    let bench = Setup { max_waiting: 0, ..Setup::default() }.start();
    let place = bench.engine.place().unwrap();
    let busy = SubmitError::Busy { limit: 1 };
    assert_eq!(bench.engine.submit(request(&prompt(0, 5), 1)).unwrap_err(), busy);
    assert_eq!(bench.engine.place().unwrap_err(), busy);
    let handle = bench.engine.submit_to(place, request(&prompt(0, 5), 1)).unwrap();
    assert_eq!(read(handle).tokens.len(), 1);
    let place = bench.engine.place().unwrap();
    assert!(bench.engine.submit_to(place, request(&[], 1)).is_err());
    drop(bench.engine.place().unwrap());
    let place = bench.engine.place().unwrap();
    let canceller = Canceller::default();
    bench.engine.evaluate_in(place, prompt(0, 9), 0, Box::new(|_, _| {}), canceller).unwrap();
    assert_eq!(bench.engine.in_progress(), 0);
}

#[test]
fn a_slow_reader_stops_nobody_and_loses_nothing() {
    let bench = Setup { next: Some(|_| 1), ..Setup::default() }.start();
    let slow = bench.engine.submit(request(&prompt(0, 20), 180)).unwrap();
    let quick = bench.answer(request(&prompt(1, 20), 3));
    assert_eq!(quick.text, "bbb");
    let slow = read(slow);
    assert_eq!((slow.text, slow.tokens.len()), ("b".repeat(180), 180));
}

#[test]
fn a_nan_ends_its_request_alone_and_is_no_prefix() {
    let all = [Samples::Host, Samples::Model];
    for (value, samples) in
        [f32::NAN, f32::INFINITY].into_iter().flat_map(|value| all.map(|samples| (value, samples)))
    {
        // Steps: two chunks, then tokens; the third token's logits are bad.
        let act = move |step| if step == 3 { Act::Logit(value) } else { Act::Compute };
        let bench = Setup { act: Box::new(act), samples, ..Setup::default() }.start();
        let prompt = endless(30, 5);
        let first = bench.engine.submit(request(&prompt, 5)).unwrap();
        let second = bench.engine.submit(request(&prompt, 5)).unwrap();
        let failed = read(first);
        assert_eq!(failed.end, Err(RequestError::NonFiniteLogits { tokens: 2 }));
        assert_eq!(failed.tokens, reference_answer(&prompt, 2));
        let answer = read(second);
        assert_eq!((answer.cached, answer.tokens), (Some(0), reference_answer(&prompt, 5)));
        assert_eq!(bench.engine.health(), Health::Ready);
    }
}

/// An engine that computes several at once, with room for few tokens of each.
fn together(streams: usize, pages: usize, samples: Samples) -> Setup {
    let mut setup = Setup { kv_pages: Some(pages), max_waiting: 100, samples, ..Setup::default() };
    setup.limits.max_running = streams;
    setup.limits.batch_rows = streams + 20;
    setup.limits.logit_rows = streams + 3;
    setup
}

/// Requests of all kinds, some of which begin alike.
fn mixed_request(i: usize) -> Request {
    let mut request = request(&prompt(i as u32 % 3, 1 + i * 7 % 90), 3 + i % 20);
    request.sampling.seed = Some(i as u64);
    match i % 5 {
        0 => {}
        1 => request.sampling.temperature = 1.1,
        2 => (request.sampling.temperature, request.sampling.repeat_penalty) = (0.8, 1.4),
        3 => {
            request.sampling.presence_penalty = 0.7;
            request.sampling.repeat_last_n = 9;
        }
        _ => request.logprobs = Some(3), // the host chooses
    }
    Request { ignore_eos: i.is_multiple_of(2), ..request }
}

#[test]
fn many_at_once_get_what_each_gets_alone() {
    let alone: Vec<_> = (0..64)
        .map(|i| {
            let answer = Setup::default().start().answer(mixed_request(i));
            (answer.tokens, answer.text, answer.logprobs)
        })
        .collect();
    for samples in [Samples::Host, Samples::Model, Samples::ModelAtTimes] {
        for (streams, pages) in [(8, 13), (64, 400), (64, 30)] {
            let bench = together(streams, pages, samples).start();
            let submit = |i| bench.engine.submit(mixed_request(i)).unwrap();
            let handles: Vec<_> = (0..64).map(submit).collect();
            let evaluated = prompt(8, 50);
            let (sender, rows) = mpsc::channel();
            let visit = move |_: usize, logits: &[f32]| sender.send(logits.to_vec()).unwrap();
            bench.engine.evaluate(evaluated.clone(), 30, Box::new(visit)).unwrap();
            assert!(rows.iter().eq(reference_logits(&evaluated).into_iter().skip(30)));
            for (i, handle) in handles.into_iter().enumerate() {
                let answer = read(handle);
                let found = (answer.tokens, answer.text, answer.logprobs);
                assert!(found == alone[i], "{samples:?}, {streams} streams, {pages} pages, {i}");
            }
            let stats = bench.engine.stats();
            assert!(stats.cached_tokens > 0, "{stats:?}");
            assert_eq!(stats.preemptions > 0, pages == 13, "{stats:?}");
        }
    }
}

#[test]
fn a_nan_in_a_batch_ends_one_request() {
    for samples in [Samples::Host, Samples::Model] {
        // The fifth span computed is the second step's second.
        let act = |step| if (6..8).contains(&step) { Act::Logit(f32::NAN) } else { Act::Compute };
        let bench = Setup { act: Box::new(act), gated: true, ..together(2, 40, samples) }.start();
        let prompts = [prompt(1, 5), prompt(2, 6)];
        let handles: Vec<_> =
            prompts.iter().map(|p| bench.engine.submit(request(p, 12)).unwrap()).collect();
        bench.permit(100);
        let answers: Vec<_> = handles.into_iter().map(read).collect();
        let failed = answers.iter().filter(|answer| answer.end.is_err()).count();
        assert_eq!(failed, 1, "{answers:?}");
        for (answer, prompt) in answers.iter().zip(&prompts) {
            let expected = reference_answer(prompt, 12);
            assert!(expected.starts_with(&answer.tokens));
            assert!(answer.end.is_err() || answer.tokens == expected);
        }
        assert_eq!(bench.engine.health(), Health::Ready);
    }
}

#[test]
fn excluded_tokens_are_no_fault() {
    let bench = Setup { act: Box::new(|_| Act::Logit(f32::NEG_INFINITY)), ..Setup::default() };
    assert_eq!(bench.start().answer(request(&endless(30, 3), 3)).tokens.len(), 3);
}

/// All requests of an engine whose third step goes wrong end with the error that `check` knows.
fn all_fail(act: Act, kind: ErrorKind, check: impl Fn(&RequestError) -> bool) {
    let act = move |step| if step == 2 { act } else { Act::Compute };
    let bench = Setup { act: Box::new(act), gated: true, ..Setup::default() }.start();
    let prompt = endless(10, 9);
    let handles: Vec<_> =
        (0..4).map(|_| bench.engine.submit(request(&prompt, 9)).unwrap()).collect();
    bench.permit(3);
    for (i, handle) in handles.into_iter().enumerate() {
        let answer = read(handle);
        let error = answer.end.unwrap_err();
        assert!(check(&error), "{error}");
        assert_eq!(answer.tokens.len(), if i == 0 { 2 } else { 0 });
        assert_eq!(bench.engine.health(), Health::Failed(error));
    }
    assert_eq!(bench.engine.in_progress(), 0);
    let refused = bench.engine.submit(request(&prompt, 1)).unwrap_err();
    assert!(matches!(&refused, SubmitError::Unhealthy(error) if check(error)), "{refused}");
    assert_eq!(refused.kind(), kind);
    let refused = bench.engine.evaluate(prompt, 0, Box::new(|_, _| {})).unwrap_err();
    assert!(matches!(refused, EngineError::Submit(SubmitError::Unhealthy(_))), "{refused}");
}

#[test]
fn a_panic_ends_every_request_and_no_one_hangs() {
    all_fail(
        Act::Panic,
        ErrorKind::Internal,
        |error| matches!(error, RequestError::EngineEnded(text) if text.contains("told to panic")),
    );
}

#[test]
fn a_device_error_ends_every_request() {
    all_fail(Act::DeviceError, ErrorKind::Cuda, |error| {
        *error == RequestError::Device("it burns".to_owned())
    });
}

#[test]
fn a_damaged_file_ends_every_request() {
    let bench = Setup { gated: true, ..Setup::default() }.start();
    let handle = bench.engine.submit(request(&prompt(0, 10), 5)).unwrap();
    bench.damaged.store(true, Ordering::SeqCst);
    bench.permit(1);
    let error = RequestError::CheckpointDamaged("model.gguf was truncated".to_owned());
    assert_eq!(read(handle).end, Err(error.clone()));
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert_eq!(bench.engine.health(), Health::Failed(error));
}

#[test]
fn dropping_the_engine_ends_what_is_in_progress() {
    let bench = Setup { gated: true, ..Setup::default() }.start();
    let submit = |kind| bench.engine.submit(request(&prompt(kind, 100), 5)).unwrap();
    let handles = [submit(0), submit(1), submit(2)];
    bench.permit(1);
    drop(bench.gate); // opens the gate: the step under way ends
    drop(bench.engine);
    for handle in handles {
        let answer = read(handle);
        // A fast thread may have answered the first before it saw the end.
        let reason = answer.reason();
        assert!(reason == FinishReason::Cancelled || answer.tokens.len() == 5, "{reason:?}");
    }
}

#[test]
fn evaluation_shows_each_position_and_bounds_its_rows() {
    let bench = Setup::default().start();
    let tokens = prompt(4, 75);
    let expected = reference_logits(&tokens);
    bench.answer(request(&tokens, 3)); // its prefix must not be taken over
    for first in [0, 1, 19, 20, 40, 74] {
        let before = bench.steps.lock().unwrap().len();
        let seen = Arc::new(Mutex::new(vec![]));
        let visitor = seen.clone();
        let visit = move |position, logits: &[f32]| {
            visitor.lock().unwrap().push((position, logits.to_vec()));
        };
        bench.engine.evaluate(tokens.clone(), first, Box::new(visit)).unwrap();
        let seen = Arc::into_inner(seen).expect("the visitor is gone").into_inner().unwrap();
        let all: Vec<_> =
            (first..75).map(|position| (position, expected[position].clone())).collect();
        assert!(seen == all, "from {first}");
        let (rows, context_len) = bench.steps.lock().unwrap()[before];
        assert_eq!(rows, context_len, "the cache was not empty");
    }
    assert_eq!(bench.answer(request(&tokens, 3)).tokens, reference_answer(&tokens, 3));

    let refused = |tokens, first| bench.engine.evaluate(tokens, first, Box::new(|_, _| {}));
    assert_eq!(refused(vec![], 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(refused(vec![1; 201], 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(refused(vec![1, 2], 2).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(refused(vec![99], 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_evaluation_reports_bad_logits_and_dead_engines() {
    let act = |step| match step {
        1 => Act::Logit(f32::NAN),
        3 => Act::Panic,
        _ => Act::Compute,
    };
    let bench = Setup { act: Box::new(act), ..Setup::default() }.start();
    let evaluate = || bench.engine.evaluate(prompt(0, 14), 0, Box::new(|_, _| {})).unwrap_err();
    let error = evaluate();
    let EngineError::Request(RequestError::NonFiniteLogits { tokens: 13 }) = error else {
        panic!("{error}");
    };
    let error = evaluate();
    assert!(matches!(error, EngineError::Request(RequestError::EngineEnded(_))), "{error}");
}

#[test]
fn a_visitor_may_panic_without_anyone_hanging() {
    let bench = Setup::default().start();
    let visit = |position, _: &[f32]| assert!(position < 3, "enough");
    assert!(bench.engine.evaluate(prompt(0, 14), 0, Box::new(visit)).is_err());
}

#[test]
fn events_can_be_awaited() {
    let bench = Setup::default().start();
    let prompt = endless(10, 4);
    let mut handle = bench.engine.submit(request(&prompt, 4)).unwrap();
    let mut tokens = vec![];
    while let Some(event) = block_on(handle.recv()) {
        if let Event::Token { id, .. } = event {
            tokens.push(id);
        }
    }
    assert_eq!(tokens, reference_answer(&prompt, 4));
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::yield_now(),
        }
    }
}

/// A thousand requests, read, cancelled and dropped at random moments: those that ended by
/// themselves are right, nothing stays busy, and the scheduler checks its pages at each step.
#[test]
fn a_thousand_disconnects_leave_nothing_behind() {
    let bench = Arc::new(Setup::default().start());
    let (done, finished) = mpsc::channel();
    for client in 0..4u64 {
        let (bench, done) = (bench.clone(), done.clone());
        thread::spawn(move || {
            let mut random = client.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
            let mut next = |n: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % n
            };
            for _ in 0..250 {
                let prompt = prompt(next(4) as u32, 1 + next(60) as usize);
                let max_tokens = next(12) as usize;
                let mut handle = bench.engine.submit(request(&prompt, max_tokens)).unwrap();
                match next(4) {
                    0 => drop(handle),
                    1 => {
                        handle.cancel();
                        let answer = read(handle);
                        let expected = reference_answer(&prompt, max_tokens);
                        assert!(expected.starts_with(&answer.tokens));
                    }
                    2 => {
                        (0..next(4)).for_each(|_| drop(handle.blocking_recv()));
                    }
                    _ => {
                        let answer = read(handle);
                        assert_eq!(answer.tokens, reference_answer(&prompt, max_tokens));
                        assert_ne!(answer.reason(), FinishReason::Cancelled);
                    }
                }
            }
            done.send(client).unwrap();
        });
    }
    drop(done);
    let clients = finished.iter().count();
    assert_eq!(clients, 4, "a client failed");
    bench.wait_until_idle();
    assert_eq!(bench.engine.health(), Health::Ready);
}

/// Of length 1, in the direction of the sum.
fn direction(hidden: &[Vec<f64>]) -> Vec<f64> {
    let sum = |i: usize| hidden.iter().map(|row| row[i]).sum::<f64>();
    let sums: Vec<f64> = (0..hidden[0].len()).map(sum).collect();
    let length = sums.iter().map(|v| v * v).sum::<f64>().sqrt();
    sums.iter().map(|v| v / length).collect()
}

fn assert_is(vector: &[f32], expected: &[f64], what: &str) {
    assert_eq!(vector.len(), expected.len(), "{what}");
    let close = |(v, e): (&f32, &f64)| (f64::from(*v) - e).abs() < 1e-6;
    assert!(vector.iter().zip(expected).all(close), "{what}: {vector:?}, expected {expected:?}");
}

#[test]
fn embeddings_are_pooled_as_the_model_says_at_any_chunk_boundary() {
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        let bench = Setup { pooling, ..Setup::default() }.start();
        for len in [1, 6, 7, 8, 20, 21, 75, 200] {
            let tokens = prompt(len as u32, len);
            let hidden = reference_hidden(&tokens);
            let pooled = match pooling {
                Pooling::Mean => &hidden[..],
                Pooling::First => &hidden[..1],
                _ => &hidden[len - 1..],
            };
            // The second time what the first one computed is known.
            for again in [false, true] {
                let found = bench.engine.embed(tokens.clone()).unwrap().blocking_recv().unwrap();
                assert_is(&found.vector, &direction(pooled), &format!("{pooling} of {len}"));
                let known = again && pooling == Pooling::Last;
                assert_eq!(found.cached, if known { len - 1 } else { 0 }, "{pooling} of {len}");
            }
        }
        let computed: usize = bench.steps.lock().unwrap().iter().map(|(rows, _)| rows).sum();
        let all = 2 * (1 + 6 + 7 + 8 + 20 + 21 + 75 + 200);
        match pooling {
            Pooling::Mean => assert_eq!(computed, all),
            Pooling::First => assert_eq!(computed, 2 * 8),
            _ => assert!(computed < all * 2 / 3, "{computed} of {all}: prefixes are not shared"),
        }
    }
}

#[test]
fn embeddings_beside_answers_change_neither() {
    for (pooling, samples) in [(Pooling::Last, Samples::Model), (Pooling::Mean, Samples::Host)] {
        let mut setup = Setup { pooling, samples, kv_pages: Some(40), ..Setup::default() };
        setup.limits.max_running = 6;
        let bench = setup.start();
        let prompts: Vec<_> = (0..6).map(|kind| prompt(kind, 30 + 7 * kind as usize)).collect();
        let answers: Vec<_> =
            prompts.iter().map(|p| bench.engine.submit(request(p, 40)).unwrap()).collect();
        let texts: Vec<_> = (6..14).map(|kind| prompt(kind, 90 + kind as usize)).collect();
        let vectors: Vec<_> =
            texts.iter().map(|text| bench.engine.embed(text.clone()).unwrap()).collect();
        for (text, vector) in texts.iter().zip(vectors) {
            let hidden = reference_hidden(text);
            let from = if pooling == Pooling::Mean { 0 } else { text.len() - 1 };
            let vector = vector.blocking_recv().unwrap().vector;
            assert_is(&vector, &direction(&hidden[from..]), &pooling.to_string());
        }
        for (prompt, answer) in prompts.iter().zip(answers) {
            assert_eq!(read(answer).tokens, reference_answer(prompt, 40));
        }
        assert_eq!(bench.engine.in_progress(), 0);
    }
}

#[test]
fn embeddings_are_refused_fail_and_are_cancelled() {
    let bench = Setup { pooling: Pooling::Other("rank"), ..Setup::default() }.start();
    let refused = bench.engine.embed(vec![1]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("\"rank\""), "{refused}");

    let act = |step| match step {
        1 => Act::Logit(f32::NAN),
        3 => Act::Panic,
        _ => Act::Compute,
    };
    let bench = Setup { act: Box::new(act), ..Setup::default() }.start();
    for bad in [vec![], vec![1; 201], vec![99]] {
        assert_eq!(bench.engine.embed(bad).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let embed = |kind| bench.engine.embed(prompt(kind, 12)).unwrap().blocking_recv();
    embed(1).unwrap();
    assert_eq!(embed(2).unwrap_err(), RequestError::NonFiniteLogits { tokens: 11 });
    embed(2).unwrap();
    let error = embed(3).unwrap_err();
    assert!(matches!(error, RequestError::EngineEnded(_)), "{error}");

    let bench = Setup { gated: true, ..Setup::default() }.start();
    drop(bench.engine.embed(prompt(1, 30)).unwrap());
    bench.permit(9);
    bench.wait_until_idle();
    bench.engine.embed(prompt(2, 12)).unwrap().blocking_recv().unwrap();
    let steps = bench.steps.lock().unwrap();
    assert!(!steps.contains(&(10, 30)) && steps.contains(&(12, 12)), "{steps:?}");
}
