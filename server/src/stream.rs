//! Sends an answer: event by event while it comes, or collected at its end.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use host::engine::Timings;
use host::text::output::join;
use hyper::Response;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::answer::{Answer, End, TokenEntry, Update};
use crate::api::Job;
use crate::http::body::Share;
use crate::http::{ApiError, Body, reply};
use crate::limits::KEEP_ALIVE;
use crate::output::Piece;
use crate::record::{Line, gone};
use crate::state::App;

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
    /// What it consists of, in the order in which it came; neighbours of one kind are one piece.
    pub pieces: Vec<Piece>,
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
    /// Takes what became known of it.
    pub fn take(&mut self, update: Update) {
        update.pieces.into_iter().for_each(|piece| join(&mut self.pieces, piece));
        self.tokens.extend(update.tokens);
        self.end = update.end.or(self.end.take());
    }

    /// All of its thoughts.
    pub fn reasoning(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Reasoning(text) => Some(text.clone()),
            _ => None,
        };
        self.pieces.iter().filter_map(text).collect()
    }

    /// All that it says.
    pub fn content(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Content(text) => Some(text.clone()),
            _ => None,
        };
        self.pieces.iter().filter_map(text).collect()
    }

    /// Its tool calls.
    pub fn tools(&self) -> Vec<ToolCall> {
        let mut tools: Vec<ToolCall> = vec![];
        for piece in &self.pieces {
            match piece {
                Piece::ToolStart { id, name, .. } => {
                    let (id, name) = (id.clone().unwrap_or_default(), name.clone());
                    tools.push(ToolCall { id, name, arguments: String::new() });
                }
                Piece::ToolArguments { index, fragment } => {
                    if let Some(tool) = tools.get_mut(*index) {
                        tool.arguments.push_str(fragment);
                    }
                }
                Piece::Reasoning(_) | Piece::Content(_) => {}
            }
        }
        tools
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

/// Answers a request, as a stream or in one piece. Its body's `share` of the budget is held until
/// the answer is over.
///
/// # Errors
/// 503 when too many wait; without streaming, also what ended the request.
pub async fn run(
    app: Arc<App>,
    job: Job,
    share: Share,
    mut line: Line,
) -> Result<Response<Body>, ApiError> {
    let Job { generation, mut teller, stream } = job;
    let (answers, per_prompt) = (generation.answers(), generation.choices);
    let ticket = match app.gate.ticket(answers) {
        Ok(ticket) => ticket,
        Err(error) => {
            line.end(Some(&error));
            return Err(error);
        }
    };
    let answer = Answer::new(app, generation, ticket, line.arrived());
    let kept = if stream && !line.is_written() { 0 } else { answers };
    line.collected = Collected::new(kept, per_prompt);
    if stream {
        let (sender, receiver) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            let _share = share;
            let mut telling = Telling { answer, teller: teller.as_mut(), sender };
            let ended = telling.tell(&mut line.collected).await;
            line.end(ended.as_ref().err());
        });
        return Ok(reply::events(receiver));
    }
    let ended = collect(answer, &mut line.collected).await;
    drop(share);
    line.end(ended.as_ref().err());
    ended?;
    Ok(reply::json(&teller.whole(&line.collected.choices, &line.collected.totals)))
}

/// What is kept of an answer.
#[derive(Debug, Default)]
pub struct Collected {
    /// Its choices, where they are wanted.
    pub choices: Vec<Choice>,
    /// What they took.
    pub totals: Totals,
}

impl Collected {
    fn new(choices: usize, per_prompt: usize) -> Self {
        Self { choices: vec![Choice::default(); choices], totals: Totals::new(per_prompt) }
    }

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
                () = self.sender.closed() => return Err(gone()),
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
        self.sender.send(frames.take()).await.map_err(|_| gone())
    }
}
