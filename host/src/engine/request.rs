//! A request while it runs: its own sampler, text stream and stop strings. Nothing of it is
//! shared with another.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::banned::Banned;
use super::command::Slot;
use super::handle::Canceller;
use super::model::{TextStream, Vocabulary};
use super::{Event, FinishReason, Request, RequestError, SubmitError, Timings, TokenLogprob};
use crate::constrain::{Constraint, ConstraintError, ThinkBudget};
use crate::ops::{SampleRequest, Sampled};
use crate::sampling::{Sampler, top_logprobs};
use crate::text::StopMatcher;

/// Most stop strings of a request.
pub(super) const MAX_STOP_STRINGS: usize = 64;
/// Most bytes of a stop string.
pub(super) const MAX_STOP_BYTES: usize = 4096;

/// Most tokens that end an answer.
pub(super) const MAX_STOP_TOKENS: usize = 1024;

/// Events beside the tokens: `Prefilled`, and `Done` or `Failed`.
const OTHER_EVENTS: usize = 2;

/// The state of an answer.
pub(super) struct Generation {
    vocabulary: Option<Arc<dyn Vocabulary>>,
    sampler: Sampler,
    text: Option<Box<dyn TextStream>>,
    constraint: Option<Constraint>,
    think_budget: Option<ThinkBudget>,
    banned: Banned,
    stop: StopMatcher,
    stop_tokens: Vec<u32>,
    /// Tokens before which no stop string is looked for.
    min_tokens: usize,
    /// What stopped the answer is part of its text.
    include_stop: bool,
    /// Tokens to generate at most: what was asked for, or what the context holds.
    max_tokens: usize,
    logprobs: Option<usize>,
    events: mpsc::Sender<Event>,
    canceller: Canceller,
    prompt_len: usize,
    timings: Timings,
    began: Option<Instant>,
    /// The logits before samplers change them, when log-probabilities are wanted.
    unmodified: Vec<f32>,
    slot: Slot,
}

/// What follows a token.
pub(super) enum Next {
    /// The token goes back into the model.
    Continue(u32),
    /// The answer is complete.
    Done(FinishReason),
    /// It cannot go on.
    Failed(RequestError),
}

impl Generation {
    /// The state of a request that passed [`check`], its end of the events and the other one.
    pub fn new(
        request: &Request,
        vocabulary: Option<Arc<dyn Vocabulary>>,
        sizes: Sizes,
        slot: Slot,
    ) -> Result<(Self, mpsc::Receiver<Event>, Canceller), SubmitError> {
        let prompt_len = request.prompt.len();
        // The last token of a full context is never computed, so there is one more than room.
        let max_tokens = request.max_tokens.min(sizes.max_seq_len - prompt_len + 1);
        let (events, receiver) = mpsc::channel(max_tokens + OTHER_EVENTS);
        let canceller = Canceller::default();
        let breakers = breakers(request, vocabulary.as_deref())?;
        let mut sampler =
            Sampler::new(&request.sampling, &request.prompt, sizes.vocab_size, breakers)?;
        if let Some(vocabulary) = vocabulary.as_ref().filter(|_| request.ignore_eos) {
            // As llama.cpp does: such tokens are never chosen, so that the answer goes on.
            let ends = vocabulary.end_of_generation().iter().copied();
            let ends: Vec<u32> = ends.filter(|id| !request.stop_tokens.contains(id)).collect();
            sampler.exclude(&ends);
        }
        let banned = Banned::new(request, vocabulary.as_deref());
        if !banned.always().is_empty() {
            sampler.exclude(banned.always());
        }
        let think_budget = match (request.think_budget.clone(), &request.constraint) {
            (Some(budget), Some(constraint)) => budget.under(constraint),
            (budget, _) => budget,
        };
        let generation = Self {
            sampler,
            text: vocabulary.as_ref().map(|v| v.stream(&request.shown_tokens)),
            vocabulary,
            constraint: request.constraint.clone(),
            think_budget,
            banned,
            stop: StopMatcher::new(&request.stop),
            stop_tokens: request.stop_tokens.clone(),
            min_tokens: request.min_tokens,
            include_stop: request.include_stop,
            max_tokens,
            logprobs: request.logprobs,
            events,
            canceller: canceller.clone(),
            prompt_len,
            timings: Timings::default(),
            began: None,
            unmodified: vec![],
            slot,
        };
        Ok((generation, receiver, canceller))
    }

    /// Whether nobody wants the answer any more.
    pub fn is_cancelled(&self) -> bool {
        self.canceller.is_cancelled() || self.events.is_closed()
    }

    /// Most tokens of the answer.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Before the first step in a slot: what the model counts there was another's.
    pub fn enter_slot(&mut self) {
        self.sampler.forget_slot();
    }

    /// Before the first step, which finds `cached` prompt tokens computed.
    pub fn begin(&mut self, cached: usize, now: Instant) {
        self.timings.prompt_tokens = self.prompt_len - cached;
        self.began = Some(now);
    }

    /// After the step that computed the last of the prompt. `Some` when nothing is to follow.
    pub fn prefilled(&mut self, now: Instant) -> Option<FinishReason> {
        let began = self.began.unwrap_or(now);
        self.timings.prompt_ms = self.lap(now);
        let cached = self.prompt_len - self.timings.prompt_tokens;
        self.send(Event::Prefilled { cached, began });
        (self.max_tokens == 0).then_some(FinishReason::Length)
    }

    /// How the model can choose the token that follows; `None` where [`Generation::next`] must.
    pub fn sample_request(&mut self, slot: usize) -> Option<SampleRequest<'_>> {
        let rules = self.constraint.is_some() || self.forced().is_some();
        if rules || self.banned.now().next().is_some() {
            return None;
        }
        match self.logprobs {
            // Only that of the chosen token comes with it.
            None | Some(0) => self.sampler.device_request(slot),
            Some(_) => None,
        }
    }

    /// Takes what the model chose as [`Generation::sample_request`] said.
    pub fn next_sampled(&mut self, sampled: Sampled) -> Next {
        let Sampled::Token { id, logprob } = sampled else { return self.no_distribution() };
        self.sampler.accept_drawn(id);
        let logprob = self.logprobs.map(|_| TokenLogprob { logprob, top: vec![] });
        self.take(id, logprob)
    }

    /// Chooses the token that follows `logits` [vocab_size], which are scratch afterwards.
    pub fn next(&mut self, logits: &mut [f32]) -> Next {
        if !is_distribution(logits) {
            return self.no_distribution();
        }
        if self.logprobs.is_some() {
            self.unmodified.clear();
            self.unmodified.extend_from_slice(logits);
        }
        let id = match self.forced() {
            Some(id) => id,
            None => {
                if let Some(Err(error)) = self.constraint.as_mut().map(|c| c.mask(logits)) {
                    return self.unconstrained(error);
                }
                for id in self.banned.now() {
                    if let Some(logit) = logits.get_mut(id as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
                // Only a distribution without any token left fails here; a NaN was refused above.
                match (self.sampler.sample(logits), &self.constraint) {
                    (Ok(id), _) => id,
                    (Err(_), None) => return self.no_distribution(),
                    (Err(_), Some(_)) => {
                        let left = "no token is left that it allows, besides what bad_words, min_tokens and \
                                    logit_bias forbid";
                        return self.unconstrained(ConstraintError::Failed(left.to_owned()));
                    }
                }
            }
        };
        self.sampler.accept(id);
        let logprob = self.logprobs.map(|n| {
            let (logprob, top) = top_logprobs(&self.unmodified, id, n);
            TokenLogprob { logprob, top }
        });
        self.take(id, logprob)
    }

    /// The token that comes next without being chosen.
    fn forced(&self) -> Option<u32> {
        self.think_budget.as_ref().and_then(ThinkBudget::forced)
    }

    fn unconstrained(&self, error: ConstraintError) -> Next {
        let tokens = self.timings.generated_tokens;
        Next::Failed(RequestError::Constraint { tokens, error })
    }

    fn no_distribution(&self) -> Next {
        let tokens = self.timings.generated_tokens;
        Next::Failed(RequestError::NonFiniteLogits { tokens })
    }

    /// Shows the token that was chosen.
    fn take(&mut self, id: u32, logprob: Option<TokenLogprob>) -> Next {
        if let Some(budget) = &mut self.think_budget {
            budget.accept(id);
        }
        self.banned.accept(id);
        if let Some(Err(error)) = self.constraint.as_mut().map(|c| c.accept(id)) {
            return self.unconstrained(error);
        }
        let complete = self.constraint.as_ref().is_some_and(Constraint::is_complete);
        self.timings.generated_tokens += 1;
        let ended = self.vocabulary.as_deref().is_some_and(|v| v.end_of_generation().contains(&id));
        let stopped = !ended && self.stop_tokens.contains(&id);
        let silent = ended || stopped && !self.include_stop;
        let (text, stop) = if silent { (String::new(), None) } else { self.show(id) };
        self.send(Event::Token { id, text, logprob });
        if ended {
            Next::Done(FinishReason::EndOfGeneration)
        } else if let Some(stop) = stop {
            Next::Done(FinishReason::StopString(stop))
        } else if stopped {
            Next::Done(FinishReason::StopToken(id))
        } else if complete {
            Next::Done(FinishReason::EndOfGeneration)
        } else if self.timings.generated_tokens == self.max_tokens {
            Next::Done(FinishReason::Length)
        } else {
            Next::Continue(id)
        }
    }

    /// The text that `id` makes safe to show, and the stop string it completes.
    fn show(&mut self, id: u32) -> (String, Option<String>) {
        let Some(text) = &mut self.text else { return (String::new(), None) };
        let text = text.push(id);
        // Not yet looked for, a stop string is text like any other.
        if self.timings.generated_tokens <= self.min_tokens {
            return (text, None);
        }
        self.until_stop(&text)
    }

    /// What of a text can be shown, and the stop string that it completes.
    fn until_stop(&mut self, text: &str) -> (String, Option<String>) {
        let (mut text, stop) = self.stop.push(text);
        if let Some(stop) = stop.as_ref().filter(|_| self.include_stop) {
            text.push_str(stop);
        }
        (text, stop)
    }

    /// Ends the request: whatever text is still held back goes out.
    pub fn done(mut self, reason: FinishReason, now: Instant) {
        if self.timings.generated_tokens > 0 {
            self.timings.generate_ms = self.lap(now);
        }
        let (mut text, mut reason) = (String::new(), reason);
        if !matches!(reason, FinishReason::StopString(_)) {
            let rest = self.text.as_mut().map(|text| text.finish()).unwrap_or_default();
            let (shown, stop) = self.until_stop(&rest);
            text = shown;
            match stop {
                Some(stop) if reason != FinishReason::Cancelled => {
                    reason = FinishReason::StopString(stop);
                }
                Some(_) => {}
                None => text.push_str(&self.stop.finish()),
            }
        }
        let timings = self.timings;
        self.end(Event::Done { text, reason, timings });
    }

    /// Ends the request with an error.
    pub fn failed(self, error: RequestError) {
        self.end(Event::Failed(error));
    }

    /// Makes room for another request before this one is known to be over.
    fn end(self, event: Event) {
        let Self { slot, events, .. } = self;
        drop(slot);
        send(&events, event);
    }

    /// Milliseconds since the last lap.
    fn lap(&mut self, now: Instant) -> f64 {
        let since = self.began.replace(now);
        since.map_or(0.0, |since| now.duration_since(since).as_secs_f64() * 1e3)
    }

    fn send(&self, event: Event) {
        send(&self.events, event);
    }
}

/// Never waits: the channel has room for all events of a request. It may be closed, which
/// [`Generation::is_cancelled`] sees.
fn send(events: &mpsc::Sender<Event>, event: Event) {
    let sent = events.try_send(event);
    debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))));
}

/// Whether a token can be chosen: no NaN, no +∞, and not all −∞.
pub(super) fn is_distribution(logits: &[f32]) -> bool {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, &logit| {
        // `max` would pass over a NaN.
        if logit.is_nan() { f32::INFINITY } else { largest.max(logit) }
    });
    largest.is_finite()
}

/// Sizes of the engine that bound a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub vocab_size: usize,
    pub max_seq_len: usize,
}

/// Checks everything about a request but the sampling parameters, which their sampler checks.
pub(super) fn check(request: &Request, sizes: Sizes, has_text: bool) -> Result<(), SubmitError> {
    check_prompt(&request.prompt, sizes)?;
    let limit = |field, found, limit| {
        if found > limit { Err(SubmitError::Limit { field, found, limit }) } else { Ok(()) }
    };
    limit("number of stop strings", request.stop.len(), MAX_STOP_STRINGS)?;
    for stop in &request.stop {
        limit("length of a stop string in bytes", stop.len(), MAX_STOP_BYTES)?;
    }
    limit("number of stop_token_ids", request.stop_tokens.len(), MAX_STOP_TOKENS)?;
    for &id in &request.stop_tokens {
        limit("stop_token_ids", id as usize, sizes.vocab_size - 1)?;
    }
    limit("logprobs", request.logprobs.unwrap_or(0), sizes.vocab_size)?;
    if !has_text && request.stop.iter().any(|stop| !stop.is_empty()) {
        return Err(SubmitError::NoVocabulary { field: "stop" });
    }
    Ok(())
}

/// Checks the tokens of a prompt.
pub(super) fn check_prompt(prompt: &[u32], sizes: Sizes) -> Result<(), SubmitError> {
    let Sizes { vocab_size, max_seq_len } = sizes;
    if prompt.is_empty() {
        return Err(SubmitError::EmptyPrompt);
    }
    if prompt.len() > max_seq_len {
        return Err(SubmitError::PromptTooLong { tokens: prompt.len(), max_seq_len });
    }
    match prompt.iter().position(|&id| id as usize >= vocab_size) {
        Some(index) => Err(SubmitError::TokenOutOfRange { index, id: prompt[index], vocab_size }),
        None => Ok(()),
    }
}

/// The tokens of the strings that break a DRY sequence, when DRY is on.
fn breakers(
    request: &Request,
    vocabulary: Option<&dyn Vocabulary>,
) -> Result<Vec<Vec<u32>>, SubmitError> {
    let field = "dry_sequence_breakers";
    let params = &request.sampling;
    if params.dry_multiplier == 0.0 || params.dry_sequence_breakers.is_empty() {
        return Ok(vec![]);
    }
    // Bounds their number and length before each is tokenized.
    params.validate(usize::MAX)?;
    let vocabulary = vocabulary.ok_or(SubmitError::NoVocabulary { field })?;
    let encode = |text: &String| {
        let untokenizable =
            |reason| SubmitError::Untokenizable { field, text: text.clone(), reason };
        vocabulary.encode(text).map_err(untokenizable)
    };
    params.dry_sequence_breakers.iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Samples, Setup, read, request};
    use super::*;
    use crate::constrain::{GrammarSpec, Grammars};
    use crate::text::{ReasoningFormat, ThinkMarkers, ToolFormat, testing};

    fn prompt(seed: u32, len: u32) -> Vec<u32> {
        (0..len).map(|index| (seed + 7 * index) % 26).collect()
    }

    /// The fake model's logits go by id, and so do a published vocabulary's first tokens: `!` is the 17th.
    fn constrained(regex: &str) -> Request {
        let grammars = Grammars::new(testing::tokenizer("smollm2"));
        let constraint = grammars.compile(&GrammarSpec::Regex(regex.to_owned())).unwrap();
        Request { constraint: Some(constraint), ..request(&prompt(3, 20), 12) }
    }

    #[test]
    fn a_grammar_rules_its_own_answer_alone() {
        for samples in [Samples::Host, Samples::Model] {
            let free = Request { ignore_eos: true, ..request(&prompt(2, 30), 9) };
            let alone = Setup::default().start().answer(free.clone()).tokens;
            let bench = Setup { samples, ..Setup::default() }.start();
            let requests = [constrained("[!#]{3}\\+"), free, constrained("\"{4}")];
            let handles = requests.map(|request| bench.engine.submit(request).unwrap());
            let [first, second, third] = handles.map(read);
            let reads = bench.reads.load(std::sync::atomic::Ordering::Relaxed);
            assert!(first.tokens[..3].iter().all(|id| [17, 19].contains(id)), "{first:?}");
            assert_eq!((first.tokens[3], first.tokens.len()), (27, 4));
            assert_eq!(first.reason(), FinishReason::EndOfGeneration);
            assert_eq!(second.tokens, alone);
            assert_eq!(third.tokens, [18; 4]);
            if samples == Samples::Model {
                assert!(reads <= first.tokens.len() + third.tokens.len(), "{reads}");
            }
        }
    }

    #[test]
    fn an_answer_that_cannot_be_constrained_fails_alone() {
        let bench = Setup::default().start();
        // None of its tokens is among the fake model's.
        let failed = bench.answer(constrained("xyz")).end.unwrap_err();
        assert!(matches!(failed, RequestError::Constraint { tokens: 0, .. }), "{failed}");
        assert_eq!(bench.answer(constrained("!")).tokens, [17]);
    }

    /// Behind the marker a grammar holds, which knows nothing of what a model writes there.
    #[test]
    fn a_budget_ends_reasoning_where_the_grammar_begins() {
        let markers = ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE);
        let markers = ThinkMarkers { close: "+", end: "#+#", ..markers.unwrap() };
        let tokenizer = testing::tokenizer("smollm2");
        let plus = tokenizer.encode("+", false, true).unwrap();
        let bench = Setup { next: Some(|_| 5), ..Setup::default() }.start();
        let request = constrained("!!");
        let request = Request {
            think_budget: Some(ThinkBudget::new(tokenizer, &markers, true, 3).unwrap()),
            constraint: request.constraint.map(|c| c.after_reasoning(&markers, true)),
            ignore_eos: true,
            ..super::super::testing::request(&prompt(1, 8), 12)
        };
        let answer = bench.answer(request);
        assert_eq!(answer.tokens, [&[5, 5, 5], &plus[..], &[17, 17]].concat());
    }

    #[test]
    fn reasoning_beyond_its_budget_is_ended() {
        let markers = ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE);
        // Markers that the fake model has tokens for.
        let markers = ThinkMarkers { close: "+", end: "#+", ..markers.unwrap() };
        let tokenizer = testing::tokenizer("smollm2");
        let end = tokenizer.encode("#+", false, true).unwrap();
        for samples in [Samples::Host, Samples::Model] {
            let bench = Setup { samples, next: Some(|_| 5), ..Setup::default() }.start();
            let budget = ThinkBudget::new(tokenizer.clone(), &markers, true, 3).unwrap();
            let logprobs = Some(0);
            let request = Request {
                think_budget: Some(budget),
                logprobs,
                ignore_eos: true,
                ..request(&prompt(1, 8), 8)
            };
            let answer = bench.answer(request);
            let mut expected = vec![5, 5, 5];
            expected.extend(&end);
            expected.resize(8, 5);
            assert_eq!(answer.tokens, expected);
            assert_eq!(answer.logprobs.len(), 8);
        }
    }
}
