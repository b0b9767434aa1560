//! `/v1/embeddings`: a vector of each text.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::engine::{EmbeddingHandle, SubmitError};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::completions::prompts;
use super::json::Fields;
use super::sampling::refuse_unsupported;
use super::{Context, model};
use crate::answer::{Running, place};
use crate::http::body::Share;
use crate::http::{ApiError, Body, reply};
use crate::limits::{EMBEDDED_NUMBERS, EMBEDDINGS};
use crate::metrics::seconds;
use crate::record::Line;
use crate::state::App;

/// A request that is ready to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Token ids, a list a text.
    inputs: Vec<Vec<u32>>,
    /// Vectors as base64 of little-endian F32, instead of numbers.
    base64: bool,
    /// The model's name.
    model: String,
}

impl Job {
    /// Bytes that its texts take, as tokens.
    pub fn bytes(&self) -> usize {
        4 * self.inputs.iter().map(Vec::len).sum::<usize>()
    }
}

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field; 501 for a model whose pooling gives no vector of a text.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let (fields, loaded) = (Fields::new(body), context.loaded);
    refuse_unsupported(&fields)?;
    let model = model(&fields, loaded)?;
    let size = loaded.engine.info().hidden_size;
    if let Some(asked) = fields.count("dimensions", 1, u64::from(u32::MAX))?
        && asked != size as u64
    {
        let problem = format!(
            "is {asked}, but the model's vectors have {size}; shorter ones are for \
             models that were trained for them, which no model's files say"
        );
        return Err(fields.error("dimensions", problem));
    }
    let base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let problem = format!("is {other:?}, expected \"float\" or \"base64\"");
            return Err(fields.error("encoding_format", problem));
        }
    };
    let most = EMBEDDINGS.min(EMBEDDED_NUMBERS / size.max(1)).max(1);
    refuse_empty(&fields)?;
    let inputs = prompts(&fields, "input", most, &loaded.tokenizer)?;
    for (index, input) in inputs.iter().enumerate() {
        loaded.engine.check_embedding(input).map_err(|error| refused(error, index))?;
    }
    Ok(Job { inputs, base64, model })
}

/// A text that is empty would be nothing but the tokens that a tokenizer puts around one.
fn refuse_empty(fields: &Fields<'_>) -> Result<(), ApiError> {
    let texts = match fields.get("input") {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    match texts.iter().position(|text| text.as_str() == Some("")) {
        Some(index) => Err(ApiError::field(format!("input[{index}]"), "is empty")),
        None => Ok(()),
    }
}

/// What the engine says of an input.
fn refused(error: SubmitError, index: usize) -> ApiError {
    if let SubmitError::NoEmbeddings { .. } = error {
        let error = ApiError::new(StatusCode::NOT_IMPLEMENTED, error.to_string());
        return error.code("unsupported");
    }
    ApiError { param: Some(format!("input[{index}]")), ..error.into() }
}

/// Computes the vectors, several at a time, and tells them.
///
/// # Errors
/// 503 when too many wait; what ended a computation.
pub async fn run(
    app: Arc<App>,
    job: Job,
    share: Share,
    mut line: Line,
) -> Result<Response<Body>, ApiError> {
    let tokens: usize = job.inputs.iter().map(Vec::len).sum();
    line.collected.totals.prompt_tokens = tokens;
    let vectors = vectors(&app, &job.inputs, &mut line).await;
    drop(share);
    line.end(vectors.as_ref().err());
    let vectors = vectors?;
    // Millions of numbers become text: other connections shall not wait for that.
    let text = tokio::task::spawn_blocking(move || told(&job, &vectors, tokens));
    let text = text.await.map_err(|_| ApiError::internal("a bug of imp; please report it"))?;
    Ok(reply::respond(StatusCode::OK, "application/json", text))
}

/// The vectors of all inputs, as many at a time as the gate lets. Dropping it cancels what is not
/// there.
async fn vectors(
    app: &App,
    inputs: &[Vec<u32>],
    line: &mut Line,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let permit = app.gate.ticket(inputs.len())?.wait().await?;
    let mut vectors = Vec::with_capacity(inputs.len());
    let mut running = VecDeque::new();
    for input in inputs {
        if running.len() == permit.places() {
            vectors.extend(next(app, &mut running, line).await?);
        }
        let place = place(app).await?;
        let handle = app.loaded()?.engine.embed_in(place, input.clone())?;
        running.push_back((handle, Running::new(&app.metrics)));
        app.metrics.prompt_tokens.inc_by(input.len() as u64);
    }
    while !running.is_empty() {
        vectors.extend(next(app, &mut running, line).await?);
    }
    Ok(vectors)
}

/// Waits for the first of those that run.
async fn next(
    app: &App,
    running: &mut VecDeque<(EmbeddingHandle, Running)>,
    line: &mut Line,
) -> Result<Option<Vec<f32>>, ApiError> {
    let Some((handle, _running)) = running.pop_front() else { return Ok(None) };
    let embedded = handle.recv().await?;
    app.metrics.cached_tokens.inc_by(embedded.cached as u64);
    app.metrics.duration.observe(seconds(line.arrived().elapsed()));
    line.collected.totals.cached_tokens += embedded.cached;
    Ok(Some(embedded.vector))
}

/// The answer.
fn told(job: &Job, vectors: &[Vec<f32>], tokens: usize) -> String {
    let mut text = String::from("{\"object\":\"list\",\"data\":[");
    for (index, vector) in vectors.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":");
        match job.base64 {
            true => base64(vector, &mut text),
            false => numbers(vector, &mut text),
        }
        text.push('}');
    }
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let _ = write!(text, "],\"model\":{},\"usage\":{usage}}}", json!(job.model));
    text
}

/// The shortest decimals that are these F32.
fn numbers(vector: &[f32], text: &mut String) {
    text.push('[');
    for (i, value) in vector.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{value}"); // a String takes everything
    }
    text.push(']');
}

fn base64(vector: &[f32], text: &mut String) {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    text.push('"');
    STANDARD.encode_string(&bytes, text);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_told_as_numbers_and_as_bytes() {
        let vectors = [vec![0.6f32, -0.8], vec![1e-9, f32::MIN_POSITIVE]];
        let job = |base64| Job { inputs: vec![], base64, model: "m\"".into() };
        let parsed =
            |base64| -> Value { serde_json::from_str(&told(&job(base64), &vectors, 7)).unwrap() };
        let floats = parsed(false);
        assert_eq!(floats["object"], "list");
        assert_eq!(floats["model"], "m\"");
        assert_eq!(floats["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
        let coded = parsed(true);
        for (index, vector) in vectors.iter().enumerate() {
            assert_eq!(floats["data"][index]["index"], index);
            let numbers = floats["data"][index]["embedding"].as_array().unwrap();
            let read: Vec<f32> = numbers.iter().map(|v| v.as_f64().unwrap() as f32).collect();
            assert_eq!(&read, vector);
            let text = coded["data"][index]["embedding"].as_str().unwrap();
            let bytes = STANDARD.decode(text).unwrap();
            let read = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            assert_eq!(&read.collect::<Vec<f32>>(), vector);
        }
    }
}
