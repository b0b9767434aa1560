//! `/tokenize`, `/detokenize`, `/apply-template` in the spellings of llama.cpp and vLLM.

use serde_json::{Map, Value, json};

use super::completions::token_ids;
use super::json::Fields;
use super::{Context, chat, prompt, token_text};
use crate::http::ApiError;
use crate::limits::LISTED_TOKENS;

/// Text or messages → token ids.
///
/// # Errors
/// 400 naming the field.
pub fn tokenize(context: &Context<'_>, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let fields = Fields::new(body);
    let loaded = context.loaded;
    let tokens = if fields.get("messages").is_some() {
        prompt::tokens(loaded, chat::conversation(&fields)?)?.0
    } else {
        // llama.cpp's spelling adds no special tokens unless asked, vLLM's does
        let (name, add) = match fields.get("content") {
            Some(_) => ("content", fields.flag("add_special", false)?),
            None => ("prompt", fields.flag("add_special_tokens", true)?),
        };
        let parse = fields.flag("parse_special", true)?;
        let encoded = loaded.tokenizer.encode(fields.needed_text(name)?, add, parse);
        encoded.map_err(|error| fields.error(name, error.to_string()))?
    };
    let count = tokens.len();
    if count > LISTED_TOKENS {
        let problem = format!("the text has {count} tokens, the limit is {LISTED_TOKENS}");
        return Err(ApiError::bad(problem));
    }
    let listed = if fields.flag("with_pieces", false)? {
        let piece = |id: &u32| {
            let bytes = loaded.tokenizer.piece(*id);
            match std::str::from_utf8(bytes) {
                Ok(text) => json!({"id": id, "piece": text}),
                Err(_) => json!({"id": id, "piece": bytes}),
            }
        };
        tokens.iter().map(piece).collect()
    } else {
        json!(tokens)
    };
    let max_model_len = loaded.engine.info().max_seq_len;
    Ok(json!({"tokens": listed, "count": count, "max_model_len": max_model_len}))
}

/// Token ids → text.
///
/// # Errors
/// 400 naming the field.
pub fn detokenize(context: &Context<'_>, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let fields = Fields::new(body);
    let missing = || fields.error("tokens", "is missing, expected an array of token ids");
    let list = fields.list("tokens", usize::MAX)?.ok_or_else(missing)?;
    let ids = token_ids(list, "tokens")?;
    let tokenizer = &context.loaded.tokenizer;
    let vocab_size = tokenizer.vocab_size();
    if let Some(index) = ids.iter().position(|&id| id as usize >= vocab_size) {
        let problem = format!("is {}, expected one below {vocab_size}", ids[index]);
        return Err(ApiError::field(format!("tokens[{index}]"), problem));
    }
    let mut bytes = vec![];
    ids.iter().for_each(|&id| bytes.extend_from_slice(tokenizer.piece(id)));
    let text = token_text(&bytes);
    Ok(json!({"content": text, "prompt": text}))
}

/// Messages → the prompt as text.
///
/// # Errors
/// 400 naming the field.
pub fn apply_template(context: &Context<'_>, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let (text, literals) = prompt::render(context.loaded, chat::conversation(&Fields::new(body))?)?;
    Ok(json!({"prompt": literals.restore(&text)}))
}
