//! One request: submitted, read to its end, stopped by Ctrl-C.

use host::engine::{Engine, Event, FinishReason, Request, Timings, TokenLogprob};

use crate::error::CliError;
use crate::interrupt;

/// A finished answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its text.
    pub(crate) text: String,
    /// Ids of the tokens generated.
    pub(crate) tokens: Vec<u32>,
    /// One entry a token, when the request asked for them.
    pub(crate) logprobs: Option<Vec<TokenLogprob>>,
    /// Prompt tokens that were in the cache.
    pub(crate) cached: usize,
    /// Why it ended.
    pub(crate) reason: FinishReason,
    /// How long it took.
    pub(crate) timings: Timings,
}

/// What Ctrl-C does to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecondPress {
    /// The first stops the answer, the second ends the program.
    EndsProgram,
    /// Only ever stops the answer.
    Ignored,
}

/// Runs a request; `on_text` gets each piece of text as it becomes safe to show.
///
/// # Errors
/// `Submit` when the engine does not take it, `Request` when it fails, and what `on_text`
/// returns, after which the request is cancelled.
pub(crate) fn generate(
    engine: &Engine,
    request: Request,
    second_press: SecondPress,
    on_text: &mut dyn FnMut(&str) -> Result<(), CliError>,
) -> Result<Answer, CliError> {
    let wants_logprobs = request.logprobs.is_some();
    let mut handle = engine.submit(request)?;
    let canceller = handle.canceller();
    let _guard =
        interrupt::stops(move || canceller.cancel(), second_press == SecondPress::EndsProgram);

    let (mut text, mut tokens, mut logprobs, mut cached) = (String::new(), vec![], vec![], 0);
    let mut take = |piece: &str, text: &mut String| {
        text.push_str(piece);
        if piece.is_empty() { Ok(()) } else { on_text(piece) }
    };
    while let Some(event) = handle.blocking_recv() {
        match event {
            Event::Prefilled { cached: found, .. } => cached = found,
            Event::Token { id, text: piece, logprob } => {
                tokens.push(id);
                logprobs.extend(logprob);
                take(&piece, &mut text)?; // dropping the handle cancels
            }
            Event::Done { text: piece, reason, timings } => {
                take(&piece, &mut text)?;
                let logprobs = wants_logprobs.then_some(logprobs);
                return Ok(Answer { text, tokens, logprobs, cached, reason, timings });
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Err(CliError::Internal("the engine thread ended without an answer".to_owned()))
}
