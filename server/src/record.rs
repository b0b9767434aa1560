//! The line of a request in `--log-requests`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::http::ApiError;
use crate::state::{App, now};
use crate::stream::{Choice, Collected};

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

/// The line of one request, with what is known of its answer. Dropped before its end, it says that
/// the client went away: nobody else drops a request.
pub struct Line {
    app: Arc<App>,
    /// What there is to write; nothing without a log.
    record: Option<Record>,
    arrived: Instant,
    /// The answer so far.
    pub collected: Collected,
}

/// A client that did not wait for its answer. The status is nginx's; nobody reads it but the log.
pub fn gone() -> ApiError {
    let status = StatusCode::from_u16(499).expect("three digits");
    ApiError::new(status, "the client went away")
}

impl Line {
    /// Of a request that begins to be answered.
    pub fn new(app: Arc<App>, record: Option<Record>, arrived: Instant) -> Self {
        let record = record.filter(|_| app.log.is_some());
        Self { app, record, arrived, collected: Collected::default() }
    }

    /// When its request came.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Whether there is a log.
    pub fn is_written(&self) -> bool {
        self.record.is_some()
    }

    /// Writes it, once: the answer is whole, or ended by this error.
    pub fn end(&mut self, error: Option<&ApiError>) {
        let (Some(log), Some(record)) = (&self.app.log, self.record.take()) else { return };
        let Collected { choices, totals } = &self.collected;
        log.write(json!({
            "time": now(),
            "request_id": record.id,
            "client": record.peer,
            "endpoint": record.endpoint,
            "request": record.request,
            "response": choices.iter().map(choice).collect::<Vec<_>>(),
            "status": error.map_or(StatusCode::OK, |error| error.status).as_u16(),
            "error": error.map(|error| &error.message),
            "prompt_tokens": totals.prompt_tokens,
            "cached_tokens": totals.cached_tokens,
            "completion_tokens": totals.completion_tokens,
            "prompt_ms": totals.timings.prompt_ms,
            "generate_ms": totals.timings.generate_ms,
            "total_ms": self.arrived.elapsed().as_secs_f64() * 1e3,
        }));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end(Some(&gone()));
    }
}

fn choice(choice: &Choice) -> Value {
    let tools: Vec<Value> = choice
        .tools()
        .iter()
        .map(|tool| json!({"name": tool.name, "arguments": tool.arguments}))
        .collect();
    json!({"content": choice.content(), "reasoning": choice.reasoning(), "tool_calls": tools})
}
