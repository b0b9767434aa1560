//! What goes to standard output: streamed text or one JSON object.

use std::io::{self, Write};

use host::engine::{FinishReason, Timings};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::generate::Answer;

/// Writes text and shows it at once.
///
/// # Errors
/// `BrokenPipe` when the reader went away.
pub(crate) fn show(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::stdout)
}

/// Writes a line.
///
/// # Errors
/// Like [`show`].
pub(crate) fn show_line(text: &str) -> Result<(), CliError> {
    show(&format!("{text}\n"))
}

/// Writes a JSON value on one line.
///
/// # Errors
/// Like [`show`].
pub(crate) fn show_json(value: &Value) -> Result<(), CliError> {
    show_line(&value.to_string())
}

/// The object that `--json` prints for a prompt. Log-probabilities of −∞ become `null`.
pub(crate) fn answer_json(prompt: &[u32], answer: &Answer) -> Value {
    let mut object = json!({
        "text": answer.text,
        "prompt_tokens": prompt,
        "tokens": answer.tokens,
        "finish_reason": finish_reason(&answer.reason),
        "timings": timings_json(&answer.timings),
    });
    if let Some(logprobs) = &answer.logprobs {
        let entries = answer.tokens.iter().zip(logprobs).map(|(token, chosen)| {
            json!({"token": token, "logprob": chosen.logprob, "top": chosen.top})
        });
        object["logprobs"] = entries.collect();
    }
    object
}

fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfGeneration | FinishReason::StopString(_) => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

fn timings_json(timings: &Timings) -> Value {
    json!({
        "prompt_n": timings.prompt_tokens,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_second": per_second(timings.prompt_tokens, timings.prompt_ms),
        "predicted_n": timings.generated_tokens,
        "predicted_ms": timings.generate_ms,
        "predicted_per_second": per_second(timings.decode_steps(), timings.generate_ms),
    })
}

/// Counts a second; `None` when no time passed.
pub(crate) fn per_second(count: usize, ms: f64) -> Option<f64> {
    (ms > 0.0).then(|| count as f64 * 1e3 / ms)
}

/// The line on stderr after an answer.
pub(crate) fn timings_line(answer: &Answer) -> String {
    let t = &answer.timings;
    let rate = |count, ms| match per_second(count, ms) {
        Some(rate) => format!("{rate:.1} tok/s"),
        None => "-".to_owned(),
    };
    let cached = match answer.cached {
        0 => String::new(),
        cached => format!(" ({cached} more from the cache)"),
    };
    format!(
        "prompt: {} tokens{cached}, {:.1} ms, {}; answer: {} tokens, {:.1} ms, {}",
        t.prompt_tokens,
        t.prompt_ms,
        rate(t.prompt_tokens, t.prompt_ms),
        t.generated_tokens,
        t.generate_ms,
        rate(t.decode_steps(), t.generate_ms),
    )
}
