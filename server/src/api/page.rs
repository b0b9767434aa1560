//! `/`: a chat page, inside the program. It asks this server like any other client.

use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};

use crate::http::{ApiError, Body, reply};
use crate::state::App;

/// What the page may do: scripts and style of this server, requests to this server, and no way from
/// text to markup but the DOM's own nodes.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// What is on the page.
///
/// # Errors
/// None.
pub fn html(_: &App) -> Result<Response<Body>, ApiError> {
    file("text/html; charset=utf-8", include_str!("page/page.html"))
}

/// What it looks like.
///
/// # Errors
/// None.
pub fn style(_: &App) -> Result<Response<Body>, ApiError> {
    file("text/css; charset=utf-8", include_str!("page/style.css"))
}

/// What it does.
///
/// # Errors
/// None.
pub fn main_script(_: &App) -> Result<Response<Body>, ApiError> {
    file(SCRIPT, include_str!("page/main.js"))
}

/// How it asks the server.
///
/// # Errors
/// None.
pub fn api_script(_: &App) -> Result<Response<Body>, ApiError> {
    file(SCRIPT, include_str!("page/api.js"))
}

/// How it shows Markdown.
///
/// # Errors
/// None.
pub fn markdown_script(_: &App) -> Result<Response<Body>, ApiError> {
    file(SCRIPT, include_str!("page/markdown.js"))
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

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
