//! `/`: a chat page, inside the program. It asks this server like any other client.

use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};

use crate::http::{ApiError, Body, reply};

/// What the page may do: scripts and style of this server, requests to this server, and no way from
/// text to markup but the DOM's own nodes.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The page.
///
/// # Errors
/// None.
pub fn html() -> Result<Response<Body>, ApiError> {
    file("text/html; charset=utf-8", include_str!("page/page.html"))
}

/// Its style.
///
/// # Errors
/// None.
pub fn style() -> Result<Response<Body>, ApiError> {
    file("text/css; charset=utf-8", include_str!("page/style.css"))
}

/// A script.
///
/// # Errors
/// None.
pub fn script(text: &'static str) -> Result<Response<Body>, ApiError> {
    file("text/javascript; charset=utf-8", text)
}

/// The conversation.
pub const MAIN: &str = include_str!("page/main.js");
/// The requests.
pub const API: &str = include_str!("page/api.js");
/// Markdown on the page.
pub const MARKDOWN: &str = include_str!("page/markdown.js");

fn file(content_type: &'static str, text: &'static str) -> Result<Response<Body>, ApiError> {
    let mut response = reply::respond(StatusCode::OK, content_type, text);
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"), // a newer server has a newer page
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
