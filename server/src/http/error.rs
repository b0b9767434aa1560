//! What a request is refused with, in the shape of the API that it speaks.

use host::engine::{ErrorKind, RequestError, SubmitError};
use host::sampling::SamplingError;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::limits::RETRY_AFTER_S;

/// The API whose shapes an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {message, type, param, code}}`.
    OpenAi,
    /// `{"type": "error", "error": {type, message}}`.
    Anthropic,
}

impl Dialect {
    /// The dialect of a path.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }
}

/// A refusal or failure of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What happened, with the way out.
    pub message: String,
    /// The field concerned.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error without field or code.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// 400 naming a field.
    pub fn field(param: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("{param}: {}", problem.as_ref());
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400 without a field.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 503 of a server that is not ready or has too much to do.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let retry_after_s = Some(RETRY_AFTER_S);
        Self { retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same with a word for programs.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Status as the dialect wants it: Anthropic has one of its own for overload.
    pub fn status_in(&self, dialect: Dialect) -> StatusCode {
        match (dialect, self.status) {
            (Dialect::Anthropic, StatusCode::SERVICE_UNAVAILABLE) => {
                StatusCode::from_u16(529).expect("three digits")
            }
            (_, status) => status,
        }
    }

    /// The body in a dialect.
    pub fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.openai_type(),
                "param": self.param,
                "code": self.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": self.anthropic_type(), "message": self.message},
            }),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            501 => "not_supported_error",
            503 => "unavailable_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }
}

impl From<SamplingError> for ApiError {
    fn from(error: SamplingError) -> Self {
        let param = match &error {
            SamplingError::Range { field, .. } | SamplingError::Length { field, .. } => field,
            SamplingError::Mirostat(_) => "mirostat",
            SamplingError::BiasToken { .. } => "logit_bias",
            SamplingError::NonFinite | SamplingError::LogitCount { .. } => {
                return Self::internal(error.to_string());
            }
        };
        Self { param: Some(param.to_owned()), ..Self::bad(error.to_string()) }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        let param = |param: &str| Some(param.to_owned());
        match error {
            SubmitError::Sampling(error) => error.into(),
            SubmitError::Busy { .. } => Self::unavailable(message),
            SubmitError::Unhealthy(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("engine_failed")
            }
            SubmitError::PromptTooLong { .. } => {
                Self { param: param("messages"), ..Self::bad(message) }
                    .code("context_length_exceeded")
            }
            SubmitError::Limit { field, .. }
            | SubmitError::NoVocabulary { field }
            | SubmitError::Untokenizable { field, .. } => {
                Self { param: param(field), ..Self::bad(message) }
            }
            _ => Self { param: param("prompt"), ..Self::bad(message) },
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        if let RequestError::Constraint { .. } = error {
            // What the request forbids leaves nothing to say: asking again would not help.
            return Self::bad(error.to_string()).code("constraint_failed");
        }
        match error.kind() {
            ErrorKind::InvalidModel => Self::internal(error.to_string()).code("invalid_model"),
            _ => Self::internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_shape() {
        let error = ApiError::field("n", "is 99, at most 16 works");
        let body = error.body(Dialect::OpenAi);
        assert_eq!(body["error"]["param"], "n");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(body["error"]["code"].is_null());
        let body = error.body(Dialect::Anthropic);
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!(body["error"]["message"], "n: is 99, at most 16 works");
    }

    #[test]
    fn overload_has_the_status_of_the_dialect_and_says_when_to_come_back() {
        let error = ApiError::unavailable("busy");
        assert_eq!(error.status_in(Dialect::OpenAi), 503);
        assert_eq!(error.status_in(Dialect::Anthropic), 529);
        assert_eq!(error.retry_after_s, Some(RETRY_AFTER_S));
    }
}
