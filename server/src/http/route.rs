//! From a request to its response: identity, guards, the table of endpoints.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value};

use super::{ApiError, Body, Dialect, body, guard, reply};
use crate::api::{self, Context, Job};
use crate::record::{Line, Record};
use crate::state::App;
use crate::stream;

/// An endpoint: one row of [`ROUTES`].
struct Route {
    method: Method,
    path: &'static str,
    /// Open without a key.
    open: bool,
    handler: Handler,
}

/// What an endpoint does.
enum Handler {
    /// Answers at once.
    Get(fn(&App) -> Result<Response<Body>, ApiError>),
    /// Computes JSON from JSON, on a worker.
    Compute(fn(&Context<'_>, &Map<String, Value>) -> Result<Value, ApiError>),
    /// Asks the engine for vectors.
    Embed(fn(&Context<'_>, &Map<String, Value>) -> Result<api::embeddings::Job, ApiError>),
    /// Asks the engine for answers.
    Generate(fn(&Context<'_>, &Map<String, Value>) -> Result<Job, ApiError>),
}

use Handler::{Compute, Embed, Generate, Get};

const fn get(
    path: &'static str,
    open: bool,
    handler: fn(&App) -> Result<Response<Body>, ApiError>,
) -> Route {
    Route { method: Method::GET, path, open, handler: Get(handler) }
}

const fn post(path: &'static str, handler: Handler) -> Route {
    Route { method: Method::POST, path, open: false, handler }
}

/// Every endpoint but `/v1/models/{id}`.
const ROUTES: &[Route] = &[
    get("/", true, api::page::html),
    get("/page/style.css", true, api::page::style),
    get("/page/main.js", true, api::page::main_script),
    get("/page/api.js", true, api::page::api_script),
    get("/page/markdown.js", true, api::page::markdown_script),
    get("/health", true, api::status::health),
    get("/v1/health", true, api::status::health),
    get("/ready", true, api::status::ready),
    get("/metrics", false, api::status::metrics),
    get("/v1/models", false, api::models::list),
    get("/models", false, api::models::list),
    post("/v1/chat/completions", Generate(api::chat::prepare)),
    post("/chat/completions", Generate(api::chat::prepare)),
    post("/v1/completions", Generate(api::completions::prepare)),
    post("/v1/messages", Generate(api::messages::prepare)),
    post("/v1/messages/count_tokens", Compute(api::messages::count_tokens)),
    post("/v1/responses", Generate(api::responses::prepare)),
    post("/v1/embeddings", Embed(api::embeddings::prepare)),
    post("/tokenize", Compute(api::tokens::tokenize)),
    post("/detokenize", Compute(api::tokens::detokenize)),
    post("/apply-template", Compute(api::tokens::apply_template)),
];

/// Models by their id, which may hold slashes.
const MODEL: &str = "/v1/models/";

/// Answers a request.
pub async fn handle(app: Arc<App>, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let in_flight = app.enter();
    let arrived = Instant::now();
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let origin = app.origins.check(request.headers());
    let call = Call { app: app.clone(), peer, arrived, id: id.clone() };
    let answered = match &origin {
        Ok(_) => call.answer(&path, request).await,
        Err(refused) => Err(refused.clone()),
    };
    let mut response = answered.unwrap_or_else(|error| reply::error(&error, Dialect::of(&path)));
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value.clone());
        headers.insert("request-id", value); // where Anthropic's clients look
    }
    if let Ok(Some(origin)) = origin {
        guard::allow_origin(headers, origin, &method);
    }
    let status = response.status();
    app.metrics.requests.with_label_values(&[label(&path), status.as_str()]).inc();
    response.map(|body| body.counted(in_flight))
}

/// The endpoint's name in the metrics: one of a fixed set.
fn label(path: &str) -> &'static str {
    match ROUTES.iter().find(|route| route.path == path) {
        Some(route) => route.path,
        None if path.starts_with(MODEL) => "/v1/models/{id}",
        None => "other",
    }
}

/// The client's own id where it is short and printable, else a random one.
fn request_id(request: &Request<Incoming>) -> String {
    let given = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    match given {
        Some(id) if (1..=128).contains(&id.len()) => id.to_owned(),
        _ => format!("req_{}", random_id()),
    }
}

/// 24 hexadecimal digits that no other request has. Not a secret.
pub fn random_id() -> String {
    // each of these hashers has keys of its own, from the system's randomness
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:08x}", part(), part() as u32)
}

/// One request on its way.
struct Call {
    app: Arc<App>,
    peer: IpAddr,
    arrived: Instant,
    id: String,
}

impl Call {
    async fn answer(
        self,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ApiError> {
        let app = self.app.clone();
        if request.method() == Method::OPTIONS {
            return Ok(reply::respond(StatusCode::NO_CONTENT, "text/plain", ""));
        }
        let method = match request.method() {
            &Method::HEAD => Method::GET,
            method => method.clone(),
        };
        let known = || ROUTES.iter().filter(|route| route.path == path);
        let route = known().find(|route| route.method == method);
        if !route.is_some_and(|route| route.open) {
            app.keys.check(request.headers())?;
            app.rate.check(self.peer, self.arrived)?;
        }
        match route {
            Some(Route { handler: Get(handler), .. }) => handler(&app),
            Some(Route { handler, path, .. }) => {
                let received = body::read(request.into_body(), &app.bodies).await?;
                self.post(handler, path, received).await
            }
            None if path.starts_with(MODEL) && method == Method::GET => {
                api::models::one(&app, &path[MODEL.len()..])
            }
            None => Ok(unknown(path, &method, known().map(|route| &route.method).next())),
        }
    }

    /// Reads the body and makes the request of it on a worker: parsing, templates and
    /// tokenizing take time that other connections shall not wait for.
    async fn post(
        self,
        handler: &'static Handler,
        path: &'static str,
        received: body::Received,
    ) -> Result<Response<Body>, ApiError> {
        let app = self.app.clone();
        app.ready()?;
        let worker = app.workers.clone().acquire_owned().await;
        let worker = worker.map_err(|_| ApiError::unavailable("the server is stopping"))?;
        let shared = app.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let _worker = worker;
            let body::Received { bytes, mut share } = received;
            let fields = api::json::parse(&bytes)?;
            drop(bytes);
            let context = Context { app: &shared, loaded: shared.loaded()? };
            let logged = |fields| shared.log.is_some().then(|| Value::Object(fields));
            let mut keep = |bytes: usize| {
                if shared.log.is_none() {
                    share.shrink_to(bytes); // a log keeps the whole body
                }
            };
            match handler {
                Compute(compute) => compute(&context, &fields).map(Prepared::Value),
                Embed(prepare) => {
                    let job = prepare(&context, &fields)?;
                    keep(job.bytes());
                    Ok(Prepared::Embeddings(job, share, logged(fields)))
                }
                Generate(prepare) => {
                    let job = prepare(&context, &fields)?;
                    keep(job.generation.bytes());
                    Ok(Prepared::Job(Box::new(job), share, logged(fields)))
                }
                Get(_) => Err(ApiError::internal("a GET endpoint got a body")),
            }
        });
        let prepared = prepared.await.map_err(|error| {
            tracing::error!(%error, "a request could not be prepared");
            ApiError::internal("a bug of imp; please report it")
        })??;
        let line = |logged: Option<Value>| {
            let record = logged.map(|request| Record {
                request,
                id: self.id,
                peer: self.peer,
                endpoint: path,
            });
            Line::new(app.clone(), record, self.arrived)
        };
        match prepared {
            Prepared::Value(value) => Ok(reply::json(&value)),
            Prepared::Embeddings(job, share, logged) => {
                let line = line(logged);
                api::embeddings::run(app, job, share, line).await
            }
            Prepared::Job(job, share, logged) => {
                let line = line(logged);
                stream::run(app, *job, share, line).await
            }
        }
    }
}

/// What a worker made of a body.
enum Prepared {
    Value(Value),
    Embeddings(api::embeddings::Job, body::Share, Option<Value>),
    Job(Box<Job>, body::Share, Option<Value>),
}

/// 404, or 405 with the method that works.
fn unknown(path: &str, method: &Method, other: Option<&Method>) -> Response<Body> {
    let dialect = Dialect::of(path);
    let Some(other) = other else {
        let message = format!("there is no {path}");
        return reply::error(&ApiError::not_found(message).code("unknown_endpoint"), dialect);
    };
    let message = format!("{path} takes {other}, not {method}");
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message);
    let mut response = reply::error(&error, dialect);
    let allow = if other == Method::GET { "GET, HEAD" } else { "POST" };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_fixed_set() {
        assert_eq!(label("/v1/models/a/b"), "/v1/models/{id}");
        assert_eq!(label("/v1/messages"), "/v1/messages");
        assert_eq!(label("/etc/passwd"), "other");
    }

    #[test]
    fn ids_differ() {
        assert_ne!(random_id(), random_id());
        assert_eq!(random_id().len(), 24);
    }
}
