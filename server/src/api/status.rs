//! `/health`, `/ready`, `/metrics`.

use hyper::{Response, StatusCode};
use serde_json::json;

use crate::http::{ApiError, Body, reply};
use crate::state::App;

/// Whether the engine works.
///
/// # Errors
/// 503 while the model is being loaded, and after a fault.
pub fn health(app: &App) -> Result<Response<Body>, ApiError> {
    app.healthy()?;
    Ok(reply::json(&json!({"status": "ok"})))
}

/// Whether new requests should be sent here.
///
/// # Errors
/// 503 as [`health`], and while the server stops.
pub fn ready(app: &App) -> Result<Response<Body>, ApiError> {
    app.ready()?;
    Ok(reply::json(&json!({"status": "ready"})))
}

/// The metrics in the text format of Prometheus.
///
/// # Errors
/// 500 when they cannot be encoded.
pub fn metrics(app: &App) -> Result<Response<Body>, ApiError> {
    let text = app
        .metrics
        .text(app.loaded().ok().map(|loaded| loaded.engine.stats()))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(reply::respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}
