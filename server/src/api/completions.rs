//! `/v1/completions`: text goes on with text. With `echo` and `logprobs` it scores given text,
//! which is how evaluation harnesses use it.

use host::text::Tokenizer;
use serde_json::{Map, Value, json};

use super::chat::{Head, finish_reason};
use super::json::{Fields, wrong};
use super::{Context, Job, model, sampling, shape, shortest, stops, timings, token_text, usage};
use crate::answer::{TokenEntry, Update};
use crate::generation::Generation;
use crate::http::{ApiError, Dialect};
use crate::limits::{CHOICES, PROMPT_SCORES, PROMPTS, TOP_LOGPROBS};
use crate::output::{Piece, Reading};
use crate::stream::{Choice, Frames, Teller, Totals};

/// OpenAI's default.
const MAX_TOKENS: usize = 16;

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let fields = Fields::new(body);
    let model = model(&fields, context.loaded)?;
    sampling::refuse_unsupported(&fields)?;
    let choices = fields.count("n", 1, CHOICES)?.unwrap_or(1);
    if fields.count("best_of", 1, CHOICES)?.is_some_and(|best_of| best_of != choices) {
        return Err(fields.error("best_of", "is not supported unless it equals n"));
    }
    let asked = fields.integer("max_tokens")?.or(fields.integer("n_predict")?);
    let unlimited = asked == Some(-1);
    let default = if unlimited { usize::MAX } else { MAX_TOKENS };
    let logprobs = fields.count("logprobs", 0, TOP_LOGPROBS)?.map(|top| top as usize);
    let options = fields.object("stream_options")?;
    let include_usage = options.map(|o| o.flag("include_usage", false)).transpose()?;
    let max_tokens = sampling::max_tokens(&fields, &["max_tokens", "n_predict"], 0)?;
    let max_tokens = max_tokens.unwrap_or(default);
    let mut generation = Generation {
        prompts: prompts(&fields, "prompt", PROMPTS, &context.loaded.tokenizer)?,
        choices: choices as usize,
        max_tokens,
        sampling: sampling::sampling(&fields, &context.app.defaults)?,
        stops: stops::stops(&fields, "stop", max_tokens)?,
        logprobs,
        ignore_eos: fields.flag("ignore_eos", false)?,
        echo: fields.flag("echo", false)?,
        reading: Reading::constrained(context.loaded, shape::grammar(&fields)?)?,
    };
    if let (true, Some(top)) = (generation.echo, logprobs) {
        check_scores(&fields, &generation, top)?;
    }
    generation.check(context.loaded, "prompt")?;
    let teller = Completion {
        head: Head::new("cmpl", model),
        logprobs: logprobs.is_some(),
        include_usage: include_usage.unwrap_or(false),
        offsets: vec![0; generation.answers()],
    };
    Ok(Job { generation, teller: Box::new(teller), stream: fields.flag("stream", false)? })
}

/// Refuses more log-probabilities of prompts than fit an answer.
fn check_scores(fields: &Fields<'_>, generation: &Generation, top: usize) -> Result<(), ApiError> {
    let tokens: usize = generation.prompts.iter().map(Vec::len).sum();
    let scores = tokens.saturating_mul(top + 1).saturating_mul(generation.choices);
    if scores > PROMPT_SCORES {
        let problem = format!(
            "with echo asks for {scores} log-probabilities of prompts, the limit is {PROMPT_SCORES}"
        );
        return Err(fields.error("logprobs", problem));
    }
    Ok(())
}

/// A string, a list of strings, token ids, or a list of lists of token ids: at most `most` of them.
///
/// # Errors
/// 400 naming the field.
pub fn prompts(
    fields: &Fields<'_>,
    name: &str,
    most: usize,
    tokenizer: &Tokenizer,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let path = fields.path(name);
    let value = fields.get(name);
    let value = value.ok_or_else(|| fields.error(name, "is missing"))?;
    let list = match value {
        Value::String(text) => return Ok(vec![encode(text, tokenizer, &path)?]),
        Value::Array(list) => list,
        other => return Err(wrong(&path, "a string, token ids, or an array of either", other)),
    };
    match list.first() {
        None => Err(fields.error(name, "is empty; at least one token is needed")),
        Some(Value::Number(_)) => Ok(vec![token_ids(list, &path)?]),
        Some(_) if list.len() > most => {
            Err(fields.error(name, format!("has {} {name}s, at most {most} work", list.len())))
        }
        Some(_) => list
            .iter()
            .enumerate()
            .map(|(i, v)| one(v, tokenizer, &format!("{path}[{i}]")))
            .collect(),
    }
}

fn one(value: &Value, tokenizer: &Tokenizer, path: &str) -> Result<Vec<u32>, ApiError> {
    match value {
        Value::String(text) => encode(text, tokenizer, path),
        Value::Array(ids) => token_ids(ids, path),
        other => Err(wrong(path, "a string or an array of token ids", other)),
    }
}

/// A raw prompt: control tokens spelled in it are control tokens.
fn encode(text: &str, tokenizer: &Tokenizer, path: &str) -> Result<Vec<u32>, ApiError> {
    tokenizer.encode(text, true, true).map_err(|error| ApiError::field(path, error.to_string()))
}

/// Token ids.
///
/// # Errors
/// 400 naming the place of what is none.
pub fn token_ids(list: &[Value], path: &str) -> Result<Vec<u32>, ApiError> {
    let id = |(index, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            ApiError::field(format!("{path}[{index}]"), format!("{value} is no token id"))
        })
    };
    list.iter().enumerate().map(id).collect()
}

/// Tells an answer as `text_completion`.
struct Completion {
    head: Head,
    logprobs: bool,
    include_usage: bool,
    /// Characters of each choice that are told.
    offsets: Vec<usize>,
}

impl Completion {
    fn chunk(&self, choice: usize, text: &str, logprobs: Value, reason: Option<&str>) -> Value {
        let choice =
            json!({"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason});
        let mut chunk = self.head.object("text_completion", json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// `logprobs` of tokens whose text begins at a character, and where it ends.
    fn logprobs(&self, tokens: &[TokenEntry], mut offset: usize) -> (Value, usize) {
        if !self.logprobs {
            return (Value::Null, offset);
        }
        let (mut texts, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let text = token_text(&token.bytes);
            offsets.push(offset);
            offset += if token.silent { 0 } else { text.chars().count() };
            logprobs.push(token.logprob.map(shortest));
            tops.push(top(token, &text));
            texts.push(text);
        }
        let value = json!({
            "tokens": texts,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        });
        (value, offset)
    }
}

/// The best tokens and the chosen one, by their text. Tokens that share a text share its entry,
/// where the better one stays.
fn top(token: &TokenEntry, text: &str) -> Option<Map<String, Value>> {
    let logprob = token.logprob?;
    let mut map = Map::new();
    for (bytes, logprob) in &token.top {
        map.entry(token_text(bytes)).or_insert_with(|| shortest(*logprob));
    }
    map.entry(text).or_insert_with(|| shortest(logprob));
    Some(map)
}

impl Teller for Completion {
    fn open(&mut self, _: &mut Frames) {}

    fn update(&mut self, update: &Update, frames: &mut Frames) {
        let choice = update.choice;
        let mut text = String::new();
        for piece in &update.pieces {
            if let Piece::Content(content) = piece {
                text.push_str(content);
            }
        }
        let logprobs = match update.tokens.is_empty() {
            true => Value::Null,
            false => {
                let (value, offset) = self.logprobs(&update.tokens, self.offsets[choice]);
                self.offsets[choice] = offset;
                value
            }
        };
        if !text.is_empty() || !logprobs.is_null() {
            frames.data(&self.chunk(choice, &text, logprobs, None));
        }
        if let Some(end) = &update.end {
            let mut chunk = self.chunk(choice, "", Value::Null, Some(finish_reason(end, false)));
            chunk["timings"] = timings(end);
            frames.data(&chunk);
        }
    }

    fn close(&mut self, totals: &Totals, frames: &mut Frames) {
        self.head.close("text_completion", self.include_usage, totals, frames);
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&error.body(Dialect::OpenAi));
    }

    fn whole(&self, choices: &[Choice], totals: &Totals) -> Value {
        let list = choices.iter().enumerate().map(|(index, choice)| {
            json!({
                "index": index,
                "text": choice.content(),
                "logprobs": self.logprobs(&choice.tokens, 0).0,
                "finish_reason": choice.end.as_ref().map(|end| finish_reason(end, false)),
            })
        });
        let mut object = self.head.object("text_completion", list.collect());
        object["usage"] = usage(totals);
        if let Some(end) = choices.last().and_then(|choice| choice.end.as_ref()) {
            object["timings"] = timings(end);
        }
        object
    }
}
