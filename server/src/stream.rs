//! Sends an answer: event by event while it comes, or collected at its end.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use host::engine::Timings;
use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::answer::{Answer, End, TokenEntry, Update};
use crate::api::Job;
use crate::http::{ApiError, Body, reply};
use crate::limits::KEEP_ALIVE;
use crate::output::Piece;
use crate::state::{App, now};

/// Frames that wait for the client, beyond what the connection buffers.
const FRAMES: usize = 16;

/// How a dialect tells an answer.
pub trait Teller: Send {
    /// What comes before anything is known.
    fn open(&mut self, frames: &mut Frames);
    /// What an update becomes.
    fn update(&mut self, update: &Update, frames: &mut Frames);
    /// What comes last.
    fn close(&mut self, totals: &Totals, frames: &mut Frames);
    /// What shows that the connection lives.
    fn ping(&mut self, frames: &mut Frames) {
        frames.comment("keep-alive");
    }
    /// The end of a stream that failed.
    fn fail(&mut self, error: &ApiError, frames: &mut Frames);
    /// The answer in one piece.
    fn whole(&self, choices: &[Choice], totals: &Totals) -> Value;
}

/// Server-sent events that go out together.
#[derive(Debug, Default)]
pub struct Frames(String);

impl Frames {
    /// An event without a name.
    pub fn data(&mut self, value: &Value) {
        let _ = write!(self.0, "data: {value}\n\n"); // a String takes everything
    }
    /// An event without a name whose JSON is written already.
    pub fn data_text(&mut self, json: &str) {
        let _ = write!(self.0, "data: {json}\n\n");
    }
    /// An event with a name.
    pub fn event(&mut self, name: &str, value: &Value) {
        let _ = write!(self.0, "event: {name}\ndata: {value}\n\n");
    }
    /// The end of OpenAI's streams.
    pub fn done(&mut self) {
        self.0.push_str("data: [DONE]\n\n");
    }
    /// What clients skip.
    pub fn comment(&mut self, text: &str) {
        let _ = write!(self.0, ": {text}\n\n");
    }
    /// What is there.
    #[cfg(test)]
    pub fn text(&self) -> &str {
        &self.0
    }
    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.0))
    }
}

/// A collected choice.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Its thoughts.
    pub reasoning: String,
    /// What it says.
    pub content: String,
    /// Its tool calls.
    pub tools: Vec<ToolCall>,
    /// Its tokens, when log-probabilities were asked for.
    pub tokens: Vec<TokenEntry>,
    /// How it ended.
    pub end: Option<End>,
}

/// A collected tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

impl Choice {
    fn take(&mut self, update: Update) {
        for piece in update.pieces {
            match piece {
                Piece::Reasoning(text) => self.reasoning.push_str(&text),
                Piece::Content(text) => self.content.push_str(&text),
                Piece::ToolStart { id, name, .. } => {
                    let id = id.unwrap_or_default();
                    self.tools.push(ToolCall { id, name, arguments: String::new() });
                }
                Piece::ToolArguments { index, fragment } => {
                    if let Some(tool) = self.tools.get_mut(index) {
                        tool.arguments.push_str(&fragment);
                    }
                }
            }
        }
        self.tokens.extend(update.tokens);
        self.end = update.end.or(self.end.take());
    }
}

/// What all choices took together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Tokens of all prompts, each counted once.
    pub prompt_tokens: usize,
    /// Those of them that were in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Those of them that were thoughts.
    pub reasoning_tokens: usize,
    /// Of the choice that ended last.
    pub timings: Timings,
    choices: usize,
}

impl Totals {
    fn new(choices: usize) -> Self {
        Self { choices, ..Self::default() }
    }
    fn add(&mut self, update: &Update) {
        let Some(end) = &update.end else { return };
        if update.choice.is_multiple_of(self.choices) {
            self.prompt_tokens += end.prompt_tokens;
            self.cached_tokens += end.cached_tokens;
        }
        self.completion_tokens += end.completion_tokens;
        self.reasoning_tokens += end.reasoning_tokens;
        self.timings = end.timings;
    }
}

/// A request as the log tells it.
pub struct Record {
    /// The body.
    pub request: Value,
    /// Its id.
    pub id: String,
    /// Who asked.
    pub peer: IpAddr,
    /// What was asked.
    pub endpoint: &'static str,
}

/// Answers a request, as a stream or in one piece.
///
/// # Errors
/// 503 when too many wait; without streaming, also what ended the request.
pub async fn run(
    app: Arc<App>,
    job: Job,
    arrived: Instant,
    record: Option<Record>,
) -> Result<Response<Body>, ApiError> {
    let Job { generation, mut teller, stream } = job;
    let ticket = app.gate.ticket(generation.answers())?;
    let (answers, per_prompt) = (generation.answers(), generation.choices);
    let answer = Answer::new(app.clone(), generation, ticket, arrived);
    let mut collected = Collected {
        choices: vec![Choice::default(); if stream && record.is_none() { 0 } else { answers }],
        totals: Totals::new(per_prompt),
    };
    if stream {
        let (sender, receiver) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            let mut telling = Telling { answer, teller: teller.as_mut(), sender };
            let ended = telling.tell(&mut collected).await;
            log(&app, record, &collected, &ended, arrived);
        });
        return Ok(reply::events(receiver));
    }
    let ended = collect(answer, &mut collected).await;
    log(&app, record, &collected, &ended, arrived);
    ended?;
    Ok(reply::json(&teller.whole(&collected.choices, &collected.totals)))
}

/// What is kept of an answer.
struct Collected {
    choices: Vec<Choice>,
    totals: Totals,
}

impl Collected {
    fn take(&mut self, update: Update) {
        self.totals.add(&update);
        if let Some(choice) = self.choices.get_mut(update.choice) {
            choice.take(update);
        }
    }
}

async fn collect(mut answer: Answer, collected: &mut Collected) -> Result<(), ApiError> {
    while let Some(update) = answer.next().await? {
        collected.take(update);
    }
    Ok(())
}

/// A stream on its way to a client.
struct Telling<'a> {
    answer: Answer,
    teller: &'a mut dyn Teller,
    sender: mpsc::Sender<Bytes>,
}

/// The client went away.
const GONE: &str = "the client went away";

impl Telling<'_> {
    async fn tell(&mut self, collected: &mut Collected) -> Result<(), ApiError> {
        let mut frames = Frames::default();
        self.teller.open(&mut frames);
        loop {
            self.send(&mut frames).await?;
            match self.update(&mut frames).await {
                Ok(Some(update)) => {
                    self.teller.update(&update, &mut frames);
                    collected.take(update);
                }
                Ok(None) => {
                    self.teller.close(&collected.totals, &mut frames);
                    return self.send(&mut frames).await;
                }
                Err(error) => {
                    self.teller.fail(&error, &mut frames);
                    let _ = self.send(&mut frames).await; // the first error is told
                    return Err(error);
                }
            }
        }
    }

    /// The next update; says that the connection lives while it waits.
    async fn update(&mut self, frames: &mut Frames) -> Result<Option<Update>, ApiError> {
        let mut ticks = interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = std::pin::pin!(self.answer.next());
        loop {
            tokio::select! {
                biased;
                update = next.as_mut() => return update,
                () = self.sender.closed() => return Err(ApiError::bad(GONE)),
                _ = ticks.tick() => {
                    self.teller.ping(frames);
                    let _ = self.sender.try_send(frames.take()); // a full channel is no silence
                }
            }
        }
    }

    async fn send(&mut self, frames: &mut Frames) -> Result<(), ApiError> {
        if frames.0.is_empty() {
            return Ok(());
        }
        self.sender.send(frames.take()).await.map_err(|_| ApiError::bad(GONE))
    }
}

/// Writes the line of a request that was answered or failed.
fn log(
    app: &App,
    record: Option<Record>,
    collected: &Collected,
    ended: &Result<(), ApiError>,
    arrived: Instant,
) {
    let (Some(log), Some(record)) = (&app.log, record) else { return };
    let totals = &collected.totals;
    let choices: Vec<Value> = collected.choices.iter().map(choice_line).collect();
    log.write(json!({
        "time": now(),
        "request_id": record.id,
        "client": record.peer,
        "endpoint": record.endpoint,
        "request": record.request,
        "response": choices,
        "error": ended.as_ref().err().map(|error| &error.message),
        "prompt_tokens": totals.prompt_tokens,
        "cached_tokens": totals.cached_tokens,
        "completion_tokens": totals.completion_tokens,
        "prompt_ms": totals.timings.prompt_ms,
        "generate_ms": totals.timings.generate_ms,
        "total_ms": arrived.elapsed().as_secs_f64() * 1e3,
    }));
}

fn choice_line(choice: &Choice) -> Value {
    let tools: Vec<Value> = choice
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "arguments": tool.arguments}))
        .collect();
    json!({"content": choice.content, "reasoning": choice.reasoning, "tool_calls": tools})
}
