//! The dialects: each file turns the JSON of its API into a [`Generation`], and the updates of an
//! answer into that API's events and objects.

pub mod chat;
pub mod completions;
pub mod embeddings;
#[cfg(test)]
mod hostile;
pub mod json;
pub mod messages;
pub mod models;
pub mod page;
mod prompt;
pub mod responses;
#[cfg(test)]
mod same;
mod sampling;
mod shape;
pub mod status;
mod stops;
pub mod tokens;

use serde_json::{Value, json};

use crate::answer::TokenEntry;
use crate::generation::Generation;
use crate::http::ApiError;
use crate::state::{App, Loaded};
use crate::stream::{Teller, Totals};
use json::Fields;

/// What a worker has when it makes a request of a body.
pub struct Context<'a> {
    /// The server.
    pub app: &'a App,
    /// Its model.
    pub loaded: &'a Loaded,
}

/// A request that is ready to run.
pub struct Job {
    /// What to compute.
    pub generation: Generation,
    /// How to tell it.
    pub teller: Box<dyn Teller>,
    /// As it comes, or in one piece.
    pub stream: bool,
}

/// Checks `model`: this server has one. Clients send a name of their own at times, so any name is
/// taken, and the answer carries the true one.
///
/// # Errors
/// 400 unless it is text.
fn model(fields: &Fields<'_>, loaded: &Loaded) -> Result<String, ApiError> {
    fields.text("model")?;
    Ok(loaded.id.clone())
}

/// The system fingerprint of OpenAI's objects: what computes.
const FINGERPRINT: &str = concat!("imp-", env!("CARGO_PKG_VERSION"));

/// `usage` of OpenAI's completions.
fn usage(totals: &Totals) -> Value {
    json!({
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "total_tokens": totals.prompt_tokens + totals.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": totals.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": totals.reasoning_tokens},
    })
}

/// `timings` of llama.cpp.
fn timings(end: &crate::answer::End) -> Value {
    let t = &end.timings;
    let rate = |count: usize, ms: f64| {
        if count > 0 && ms > 0.0 { count as f64 * 1e3 / ms } else { 0.0 }
    };
    let per_token = |count: usize, ms: f64| if count > 0 { ms / count as f64 } else { 0.0 };
    json!({
        "cache_n": end.cached_tokens,
        "prompt_n": t.prompt_tokens,
        "prompt_ms": t.prompt_ms,
        "prompt_per_token_ms": per_token(t.prompt_tokens, t.prompt_ms),
        "prompt_per_second": rate(t.prompt_tokens, t.prompt_ms),
        "predicted_n": t.generated_tokens,
        "predicted_ms": t.generate_ms,
        "predicted_per_token_ms": per_token(t.decode_steps(), t.generate_ms),
        "predicted_per_second": rate(t.decode_steps(), t.generate_ms),
    })
}

/// The shortest decimal that is this F32; −∞ becomes the least that clients take.
fn shortest(value: f32) -> Value {
    let value = if value.is_finite() { value } else { -9999.0 };
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// A token's bytes as text; parts of a character become U+FFFD.
fn token_text(entry: &[u8]) -> String {
    String::from_utf8_lossy(entry).into_owned()
}

/// An entry of `logprobs.content`.
fn logprob_entry(entry: &TokenEntry) -> Value {
    let one = |bytes: &[u8], logprob: f32| json!({"token": token_text(bytes), "logprob": shortest(logprob), "bytes": bytes});
    let mut object = one(&entry.bytes, entry.logprob.unwrap_or(0.0));
    object["top_logprobs"] = entry.top.iter().map(|(bytes, lp)| one(bytes, *lp)).collect();
    object
}
