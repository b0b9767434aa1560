//! `/`: a chat page, inside the program.

use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};

use crate::http::{ApiError, Body, reply};
use crate::state::App;

/// What the page may do: its own script and style, requests to its own server.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The page.
///
/// # Errors
/// None.
pub fn page(_: &App) -> Result<Response<Body>, ApiError> {
    let mut response =
        reply::respond(StatusCode::OK, "text/html; charset=utf-8", include_str!("page.html"));
    let headers = response.headers_mut();
    headers.insert("content-security-policy", HeaderValue::from_static(POLICY));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}
