//! `/v1/embeddings`: a vector of each text.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::engine::{EmbeddingHandle, SubmitError};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::completions::prompts;
use super::json::Fields;
use super::{Context, model};
use crate::answer::Running;
use crate::http::{ApiError, Body, reply};
use crate::limits::{EMBEDDED_NUMBERS, EMBEDDINGS};
use crate::metrics::seconds;
use crate::state::{App, now};
use crate::stream::Record;

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

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field; 501 for a model whose pooling gives no vector of a text.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let (fields, loaded) = (Fields::new(body), context.loaded);
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
    arrived: Instant,
    record: Option<Record>,
) -> Result<Response<Body>, ApiError> {
    let ticket = app.gate.ticket(job.inputs.len())?;
    let tokens: usize = job.inputs.iter().map(Vec::len).sum();
    let vectors = async {
        let permit = ticket.wait().await?;
        vectors(&app, &job.inputs, permit.places(), arrived).await
    };
    let vectors = vectors.await;
    log(&app, record, &vectors, tokens, arrived);
    let vectors = vectors?;
    // Millions of numbers become text: other connections shall not wait for that.
    let text = tokio::task::spawn_blocking(move || told(&job, &vectors, tokens));
    let text = text.await.map_err(|_| ApiError::internal("a bug of imp; please report it"))?;
    Ok(reply::respond(StatusCode::OK, "application/json", text))
}

/// The vectors of all inputs, `places` at a time. Dropping it cancels what is not there.
async fn vectors(
    app: &App,
    inputs: &[Vec<u32>],
    places: usize,
    arrived: Instant,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let mut vectors = Vec::with_capacity(inputs.len());
    let mut running = VecDeque::new();
    for input in inputs {
        if running.len() == places {
            vectors.extend(next(app, &mut running, arrived).await?);
        }
        running.push_back((submit(app, input).await?, Running::new(&app.metrics)));
        app.metrics.prompt_tokens.inc_by(input.len() as u64);
    }
    while !running.is_empty() {
        vectors.extend(next(app, &mut running, arrived).await?);
    }
    Ok(vectors)
}

/// Waits for the first of those that run.
async fn next(
    app: &App,
    running: &mut VecDeque<(EmbeddingHandle, Running)>,
    arrived: Instant,
) -> Result<Option<Vec<f32>>, ApiError> {
    let Some((handle, _running)) = running.pop_front() else { return Ok(None) };
    let embedded = handle.recv().await?;
    app.metrics.cached_tokens.inc_by(embedded.cached as u64);
    app.metrics.duration.observe(seconds(arrived.elapsed()));
    Ok(Some(embedded.vector))
}

/// Hands an input to the engine. A request that was just dropped holds its place there until the
/// current step is over, so a full engine is asked again for a while.
async fn submit(app: &App, input: &[u32]) -> Result<EmbeddingHandle, ApiError> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let began = Instant::now();
    loop {
        match app.loaded()?.engine.embed(input.to_vec()) {
            Ok(handle) => return Ok(handle),
            Err(SubmitError::Busy { .. }) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
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

/// Writes the line of a request that was answered or failed.
fn log(
    app: &App,
    record: Option<Record>,
    vectors: &Result<Vec<Vec<f32>>, ApiError>,
    tokens: usize,
    arrived: Instant,
) {
    let (Some(log), Some(record)) = (&app.log, record) else { return };
    log.write(json!({
        "time": now(),
        "request_id": record.id,
        "client": record.peer,
        "endpoint": record.endpoint,
        "request": record.request,
        "embeddings": vectors.as_ref().map_or(0, Vec::len),
        "error": vectors.as_ref().err().map(|error| &error.message),
        "prompt_tokens": tokens,
        "total_ms": arrived.elapsed().as_secs_f64() * 1e3,
    }));
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
