//! The engine's events of all choices of a request, in the order in which they come, as
//! [`Update`]s. Streamed and collected answers both read these, so they cannot differ.
//!
//! Dropping an [`Answer`] cancels what it still waits for.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use host::engine::{
    Canceller, Event, FinishReason, Place, RequestHandle, SubmitError, Timings, TokenLogprob,
};
use host::sampling::top_logprobs;
use host::text::{OutputParser, Tokenizer};

use tokio::sync::watch;

use crate::gate::{Permit, Ticket};
use crate::generation::Generation;
use crate::http::ApiError;
use crate::http::route::random_id;
use crate::metrics::{Metrics, seconds};
use crate::output::Piece;
use crate::state::App;

/// What became known of one choice.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Which one.
    pub choice: usize,
    /// What it goes on with.
    pub pieces: Vec<Piece>,
    /// The tokens behind it, when log-probabilities were asked for.
    pub tokens: Vec<TokenEntry>,
    /// Set in its last update.
    pub end: Option<End>,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEntry {
    /// Its bytes; the spelling of a control token.
    pub bytes: Vec<u8>,
    /// `None` for the first token of a prompt, which nothing precedes.
    pub logprob: Option<f32>,
    /// The best tokens of its place.
    pub top: Vec<(Vec<u8>, f32)>,
    /// Whether it has no text in the answer: it ends it, or begins the prompt.
    pub silent: bool,
}

/// How a choice ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Why; never cancelled.
    pub reason: FinishReason,
    /// The context, not `max_tokens`, ended it.
    pub context_full: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Those of them that were thoughts.
    pub reasoning_tokens: usize,
    /// How long it took.
    pub timings: Timings,
}

/// The updates of a request.
pub struct Answer {
    app: Arc<App>,
    cut: watch::Receiver<bool>,
    generation: Generation,
    arrived: Instant,
    ticket: Option<Ticket>,
    permit: Option<Permit>,
    /// Answers not yet submitted.
    pending: VecDeque<usize>,
    running: Vec<Run>,
    /// Whose event is looked for first, so that none starves.
    turn: usize,
    ready: VecDeque<Update>,
}

/// A submitted choice.
struct Run {
    choice: usize,
    handle: RequestHandle,
    parser: OutputParser,
    /// Whether several tools may be called.
    parallel: bool,
    prompt_tokens: usize,
    cached_tokens: usize,
    completion_tokens: usize,
    reasoning_tokens: usize,
    last_token: Option<Instant>,
    _running: Running,
}

impl Answer {
    /// An answer that begins to be computed with the first call of [`Answer::next`].
    pub fn new(app: Arc<App>, generation: Generation, ticket: Ticket, arrived: Instant) -> Self {
        let pending = (0..generation.answers()).collect();
        let ticket = Some(ticket);
        let (permit, running, ready) = (None, vec![], VecDeque::new());
        let cut = app.cut();
        Self { app, cut, generation, arrived, ticket, permit, pending, running, turn: 0, ready }
    }

    /// The next update; `None` after the end of the last choice. Must be driven to its end: one
    /// that is dropped half-way takes its place in the queue with it.
    ///
    /// # Errors
    /// What ended the whole request.
    pub async fn next(&mut self) -> Result<Option<Update>, ApiError> {
        let mut cut = self.cut.clone();
        tokio::select! {
            biased;
            next = self.more() => next,
            _ = cut.wait_for(|cut| *cut) => {
                Err(ApiError::unavailable("the server stopped before the answer was whole"))
            }
        }
    }

    async fn more(&mut self) -> Result<Option<Update>, ApiError> {
        if let Some(ticket) = self.ticket.take() {
            self.permit = Some(ticket.wait().await?);
            if self.generation.echo {
                self.echo().await?;
            }
        }
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(Some(update));
            }
            let places = self.permit.as_ref().map_or(1, Permit::places);
            while self.running.len() < places
                && let Some(choice) = self.pending.pop_front()
            {
                self.submit(choice).await?;
            }
            if self.running.is_empty() {
                return Ok(None);
            }
            let (index, event) = next_event(&mut self.running, self.turn).await;
            self.turn = index + 1;
            if let Some(update) = self.take(index, event)? {
                return Ok(Some(update));
            }
        }
    }

    /// Hands a choice to the engine.
    async fn submit(&mut self, choice: usize) -> Result<(), ApiError> {
        let place = place(&self.app).await?;
        let engine = &self.app.loaded()?.engine;
        let handle = engine.submit_to(place, self.generation.request(choice))?;
        let prompt_tokens = self.generation.prompts[choice / self.generation.choices].len();
        if choice.is_multiple_of(self.generation.choices) {
            self.app.metrics.prompt_tokens.inc_by(prompt_tokens as u64);
        }
        self.running.push(Run {
            choice,
            handle,
            parser: OutputParser::new(self.generation.reading.settings.clone()),
            parallel: self.generation.reading.parallel,
            prompt_tokens,
            cached_tokens: 0,
            completion_tokens: 0,
            reasoning_tokens: 0,
            last_token: None,
            _running: Running::new(&self.app.metrics),
        });
        Ok(())
    }

    /// Makes an update of an event of `running[index]`.
    fn take(&mut self, index: usize, event: Option<Event>) -> Result<Option<Update>, ApiError> {
        let run = &mut self.running[index];
        let choice = run.choice;
        match event {
            Some(Event::Prefilled { cached, began }) => {
                run.cached_tokens = cached;
                let waited = began.saturating_duration_since(self.arrived);
                self.app.metrics.schedule.observe(seconds(waited));
                self.app.metrics.cached_tokens.inc_by(cached as u64);
                Ok(None)
            }
            Some(Event::Token { id, text, logprob }) => {
                run.count(&self.app.metrics, self.arrived);
                let pieces = run.split(&text);
                let tokenizer = &self.app.loaded()?.tokenizer;
                let stops = &self.generation.stops;
                let ends = !stops.include && stops.tokens.contains(&id);
                let entry = |logprob| {
                    let entry = entry(tokenizer, id, logprob);
                    TokenEntry { silent: entry.silent || ends, ..entry }
                };
                let tokens = logprob.iter().map(entry).collect();
                let update = Update { choice, pieces, tokens, end: None };
                let silent = update.pieces.is_empty() && update.tokens.is_empty();
                Ok((!silent).then_some(update))
            }
            Some(Event::Done { reason: FinishReason::Cancelled, .. }) => {
                Err(ApiError::unavailable("the server is stopping"))
            }
            Some(Event::Done { text, reason, timings }) => {
                let mut run = self.running.remove(index);
                let mut pieces = run.split(&text);
                pieces.extend(run.finish());
                self.app.metrics.duration.observe(seconds(self.arrived.elapsed()));
                let end = run.end(reason, timings, self.generation.max_tokens);
                Ok(Some(Update { choice, pieces, tokens: vec![], end: Some(end) }))
            }
            Some(Event::Failed(error)) => Err(error.into()),
            None => Err(ApiError::internal("an answer went on after its end")),
        }
    }

    /// Queues the prompts as the beginning of their answers, with log-probabilities if wanted.
    async fn echo(&mut self) -> Result<(), ApiError> {
        for (index, prompt) in self.generation.prompts.iter().enumerate() {
            let tokenizer = &self.app.loaded()?.tokenizer;
            let said = if begins(tokenizer, prompt) { &prompt[1..] } else { prompt };
            let text = tokenizer.decode(said, false);
            let tokens = match self.generation.logprobs {
                Some(top) => evaluate(self.app.clone(), prompt.clone(), top).await?,
                None => vec![],
            };
            for choice in 0..self.generation.choices {
                let choice = index * self.generation.choices + choice;
                let pieces = vec![Piece::Content(text.clone())];
                self.ready.push_back(Update { choice, pieces, tokens: tokens.clone(), end: None });
            }
        }
        Ok(())
    }
}

/// A place in the engine. A request that was just dropped holds its own until the current step is
/// over, so a full engine is asked again for a while.
pub async fn place(app: &App) -> Result<Place, ApiError> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let began = Instant::now();
    loop {
        match app.loaded()?.engine.place() {
            Ok(place) => return Ok(place),
            Err(SubmitError::Busy { .. }) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next event of any run, looking from `turn` on.
async fn next_event(running: &mut [Run], turn: usize) -> (usize, Option<Event>) {
    std::future::poll_fn(|cx| {
        let count = running.len();
        for offset in 0..count {
            let index = (turn + offset) % count;
            // a receive that is dropped while it waits loses nothing
            if let Poll::Ready(event) = pin!(running[index].handle.recv()).poll(cx) {
                return Poll::Ready((index, event));
            }
        }
        Poll::Pending
    })
    .await
}

impl Run {
    fn count(&mut self, metrics: &Metrics, arrived: Instant) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => metrics.first_token.observe(seconds(now - arrived)),
            Some(last) => metrics.inter_token.observe(seconds(now - last)),
        }
        metrics.generated_tokens.inc();
        self.completion_tokens += 1;
    }

    fn split(&mut self, text: &str) -> Vec<Piece> {
        let pieces = self.parser.push(text);
        if pieces.iter().any(|piece| matches!(piece, Piece::Reasoning(_))) {
            self.reasoning_tokens += 1;
        }
        self.told(pieces)
    }

    fn finish(&mut self) -> Vec<Piece> {
        let pieces = self.parser.finish();
        self.told(pieces)
    }

    /// What the client is told: one call at most where it asked for no more.
    fn told(&self, pieces: Vec<Piece>) -> Vec<Piece> {
        let further = |piece: &Piece| {
            matches!(
                piece,
                Piece::ToolStart { index: 1.., .. } | Piece::ToolArguments { index: 1.., .. }
            )
        };
        let told = pieces.into_iter().filter(|piece| self.parallel || !further(piece));
        told.map(named).collect()
    }

    fn end(&self, reason: FinishReason, timings: Timings, max_tokens: usize) -> End {
        End {
            context_full: reason == FinishReason::Length && self.completion_tokens < max_tokens,
            reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            reasoning_tokens: self.reasoning_tokens,
            timings,
        }
    }
}

/// Gives a tool call an id where the model did not.
fn named(piece: Piece) -> Piece {
    match piece {
        Piece::ToolStart { index, id: None, name } => {
            Piece::ToolStart { index, id: Some(format!("call_{}", random_id())), name }
        }
        piece => piece,
    }
}

fn entry(tokenizer: &Tokenizer, id: u32, logprob: &TokenLogprob) -> TokenEntry {
    let bytes = |id| tokenizer.piece(id).to_vec();
    TokenEntry {
        bytes: bytes(id),
        logprob: Some(logprob.logprob),
        top: logprob.top.iter().map(|&(id, logprob)| (bytes(id), logprob)).collect(),
        silent: tokenizer.is_end_of_generation(id),
    }
}

/// Whether a prompt starts with the token that the tokenizer put there.
fn begins(tokenizer: &Tokenizer, prompt: &[u32]) -> bool {
    tokenizer.adds_bos() && prompt.first() == tokenizer.bos().as_ref()
}

/// Log-probabilities of a prompt's own tokens.
async fn evaluate(
    app: Arc<App>,
    prompt: Vec<u32>,
    top: usize,
) -> Result<Vec<TokenEntry>, ApiError> {
    // Whoever drops this future wants no scores any more.
    let wanted = CancelOnDrop(Canceller::default());
    let canceller = wanted.0.clone();
    let place = place(&app).await?;
    let work = move || {
        let loaded = app.loaded()?;
        let first = TokenEntry {
            bytes: loaded.tokenizer.piece(prompt[0]).to_vec(),
            logprob: None,
            top: vec![],
            silent: begins(&loaded.tokenizer, &prompt),
        };
        let mut entries = vec![first];
        if prompt.len() == 1 {
            return Ok(entries);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let following = prompt[1..].to_vec();
        let visit = move |position: usize, logits: &[f32]| {
            if let Some(&id) = following.get(position) {
                let (logprob, top) = top_logprobs(logits, id, top);
                let _ = sender.send((id, TokenLogprob { logprob, top })); // the receiver waits
            }
        };
        let evaluated = loaded.engine.evaluate_in(place, prompt, 0, Box::new(visit), canceller);
        evaluated.map_err(|error| match error {
            host::engine::EngineError::Submit(error) => error.into(),
            host::engine::EngineError::Request(error) => error.into(),
            other => ApiError::internal(host::program::chain(&other)),
        })?;
        let tokenizer = &loaded.tokenizer;
        entries.extend(receiver.iter().map(|(id, logprob)| entry(tokenizer, id, &logprob)));
        Ok(entries)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ApiError::internal("a bug of imp; please report it"))?
}

/// Cancels what was begun for it when it goes.
struct CancelOnDrop(Canceller);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Counts an answer as running while it lives.
pub struct Running(Arc<Metrics>);

impl Running {
    /// One more.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.running.inc();
        Self(metrics.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// Frees the only place of an engine after a while.
    fn occupy(app: &Arc<App>) -> tokio::task::JoinHandle<()> {
        let held = app.loaded().unwrap().engine.place().unwrap();
        assert!(app.loaded().unwrap().engine.place().is_err(), "it has one place");
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            drop(held);
        })
    }

    #[test]
    fn a_full_engine_is_asked_again_for_answers_and_for_scores() {
        testing::run(async {
            let app = testing::app(1, 0);
            let freed = occupy(&app);
            let scores = evaluate(app.clone(), vec![1, 5, 9], 0).await.unwrap();
            assert_eq!(scores.len(), 3);
            freed.await.unwrap();
            let freed = occupy(&app);
            let ticket = app.gate.ticket(1).unwrap();
            let generation = testing::generation(vec![1, 5, 9], 2);
            let mut answer = Answer::new(app.clone(), generation, ticket, Instant::now());
            let mut ended = false;
            while let Some(update) = answer.next().await.unwrap() {
                ended |= update.end.is_some();
            }
            assert!(ended);
            freed.await.unwrap();
        });
    }
}
