//! `/v1/models`: the model that this server has.

use hyper::Response;
use serde_json::{Value, json};

use crate::http::{ApiError, Body, reply};
use crate::state::{App, Loaded};

/// All models.
///
/// # Errors
/// 503 while the model is being loaded.
pub fn list(app: &App) -> Result<Response<Body>, ApiError> {
    Ok(reply::json(&json!({"object": "list", "data": [object(app.loaded()?)]})))
}

/// The model of an id, which may be percent-encoded.
///
/// # Errors
/// 404 for another id, 503 while the model is being loaded.
pub fn one(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    let loaded = app.loaded()?;
    let id = decode(id);
    if id == loaded.id {
        return Ok(reply::json(&object(loaded)));
    }
    let message = format!("there is no model {id:?}; this server has {:?}", loaded.id);
    Err(ApiError::not_found(message).code("model_not_found"))
}

fn object(loaded: &Loaded) -> Value {
    let info = loaded.engine.info();
    json!({
        "id": loaded.id,
        "object": "model",
        "created": loaded.created,
        "owned_by": "imp",
        "max_model_len": info.max_seq_len,
        "meta": {
            "n_vocab": info.vocab_size,
            "n_ctx": info.max_seq_len,
            "n_embd": info.hidden_size,
            "n_params": info.parameters,
            "size": info.weight_bytes,
        },
    })
}

/// Percent-encoding undone; what is none stays.
fn decode(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn ids_are_decoded() {
        assert_eq!(decode("org%2Frepo:Q4"), "org/repo:Q4");
        assert_eq!(decode("a%2"), "a%2");
        assert_eq!(decode("a%zz%"), "a%zz%");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
