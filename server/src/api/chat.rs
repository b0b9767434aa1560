//! `/v1/chat/completions`.

use serde_json::{Map, Value, json};

use super::json::Fields;
use super::prompt::{self, Conversation};
use super::{
    Context, FINGERPRINT, Job, logprob_entry, model, sampling, shape, stops, timings, usage,
};
use crate::answer::{End, TokenEntry, Update};
use crate::generation::Generation;
use crate::http::route::random_id;
use crate::http::{ApiError, Dialect};
use crate::limits::{CHOICES, TOP_LOGPROBS};
use crate::output::{Piece, Reading, Wish};
use crate::state::now;
use crate::stream::{Choice, Frames, Teller, ToolCall, Totals};
use host::constrain::tools::ToolChoice;
use host::engine::FinishReason;
use host::text::ReasoningFormat;

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let fields = Fields::new(body);
    let model = model(&fields, context.loaded)?;
    sampling::refuse_unsupported(&fields)?;
    let choices = fields.count("n", 1, CHOICES)?.unwrap_or(1) as usize;
    let conversation = conversation(&fields)?;
    let wish = Wish {
        tools: conversation.tools.clone(),
        choice: tool_choice(&fields)?,
        parallel: fields.flag("parallel_tool_calls", true)?,
        grammar: shape::grammar(&fields)?,
        reasoning: reasoning_format(&fields)?,
        think_budget: think_budget(&fields)?,
    };
    let (prompt, text) = prompt::tokens(context.loaded, conversation)?;
    let max_tokens =
        sampling::max_tokens(&fields, &["max_completion_tokens", "max_tokens", "n_predict"], 1)?
            .unwrap_or(usize::MAX);
    let options = fields.object("stream_options")?;
    let include_usage = options.map(|o| o.flag("include_usage", false)).transpose()?;
    let mut generation = Generation {
        prompts: vec![prompt],
        choices,
        max_tokens,
        sampling: sampling::sampling(&fields, &context.app.defaults)?,
        stops: stops::stops(&fields, "stop", max_tokens)?,
        logprobs: logprobs(&fields)?,
        ignore_eos: fields.flag("ignore_eos", false)?,
        echo: false,
        reading: Reading::new(context.loaded, wish, &text, max_tokens)?,
    };
    generation.check(context.loaded, "messages")?;
    let head = Head::new("chatcmpl", model);
    let wants_logprobs = generation.logprobs.is_some();
    let teller = Chat::new(head, choices, wants_logprobs, include_usage.unwrap_or(false));
    Ok(Job { generation, teller: Box::new(teller), stream: fields.flag("stream", false)? })
}

/// The conversation of a body, also for endpoints that only look at it.
///
/// # Errors
/// 400 naming the field.
pub fn conversation(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let goes_on = fields.flag("continue_final_message", false)?;
    let head = fields.flag("add_generation_prompt", !goes_on)?;
    if goes_on && head {
        let problem = "excludes add_generation_prompt";
        return Err(fields.error("continue_final_message", problem));
    }
    Ok(Conversation {
        messages: prompt::messages(fields)?,
        tools: tools(fields)?,
        variables: prompt::variables(fields)?,
        goes_on,
        head,
        field: "messages",
    })
}

/// The tools that may be called; `tool_choice` "none" takes them away.
fn tools(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let tools = prompt::tools(fields, "parameters", |_| true)?;
    if fields.get("tool_choice").is_some_and(|choice| choice == "none") {
        return Ok(vec![]);
    }
    Ok(tools)
}

/// `logprobs: true` with `top_logprobs`.
fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let top = fields.count("top_logprobs", 0, TOP_LOGPROBS)?;
    let wanted = fields.flag("logprobs", false)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, Some(1..)) => Err(fields.error("top_logprobs", "needs logprobs: true")),
        (false, _) => Ok(None),
    }
}

/// `reasoning_format`, as llama.cpp calls it.
fn reasoning_format(fields: &Fields<'_>) -> Result<Option<ReasoningFormat>, ApiError> {
    let parse = |name: &str| name.parse().map_err(|p: String| fields.error("reasoning_format", p));
    fields.text("reasoning_format")?.map(parse).transpose()
}

/// Most tokens of thoughts, as llama.cpp and vLLM call it; −1 is no bound of the request's own.
fn think_budget(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    sampling::max_tokens(fields, &["thinking_budget_tokens", "thinking_token_budget"], 0)
}

/// `tool_choice`: a word, or the function to call, under `function` or (in the responses API) itself.
///
/// # Errors
/// 400 naming the field.
pub fn tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, ApiError> {
    match fields.get("tool_choice") {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            other => {
                let problem = format!("is {other:?}, expected none, auto, required or a function");
                Err(fields.error("tool_choice", problem))
            }
        },
        Some(value) => {
            let choice = Fields::of(value, &fields.path("tool_choice"))?;
            match choice.needed_text("type")? {
                "function" => {
                    let inner = choice.object("function")?;
                    let name = inner.as_ref().unwrap_or(&choice).needed_text("name")?;
                    Ok(ToolChoice::Named(name.to_owned()))
                }
                other => {
                    let problem = format!("is {other:?}, and only \"function\" is supported");
                    Err(choice.error("type", problem).code("unsupported"))
                }
            }
        }
    }
}

/// What all chunks of an answer have in common.
pub struct Head {
    id: String,
    created: i64,
    model: String,
}

impl Head {
    /// Of an answer that begins now.
    pub fn new(prefix: &str, model: String) -> Self {
        Self { id: format!("{prefix}-{}", random_id()), created: now(), model }
    }

    /// An object of this kind with these choices.
    pub fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    /// The end of a stream of such objects, with what all choices took if that was asked for.
    pub fn close(&self, kind: &str, include_usage: bool, totals: &Totals, frames: &mut Frames) {
        if include_usage {
            let mut chunk = self.object(kind, json!([]));
            chunk["usage"] = usage(totals);
            frames.data(&chunk);
        }
        frames.done();
    }
}

/// Why a choice ended, in OpenAI's words.
pub fn finish_reason(end: &End, called: bool) -> &'static str {
    match end.reason {
        FinishReason::Length => "length",
        _ if called => "tool_calls",
        _ => "stop",
    }
}

/// Tells an answer as `chat.completion`.
pub struct Chat {
    head: Head,
    choices: usize,
    logprobs: bool,
    include_usage: bool,
    /// Whether a choice has called a tool.
    called: Vec<bool>,
    /// A choice's chunk of text as JSON, before and behind the text: most chunks are of this kind,
    /// and nothing else in them changes.
    around_text: Vec<(String, String)>,
}

impl Chat {
    /// Of this many choices.
    pub fn new(head: Head, choices: usize, logprobs: bool, include_usage: bool) -> Self {
        let called = vec![false; choices];
        let mut chat = Self { head, choices, logprobs, include_usage, called, around_text: vec![] };
        let mark = random_id();
        let around = |choice| {
            let chunk = chat.chunk(choice, json!({"content": mark}), Value::Null, None).to_string();
            let around = chunk.split_once(&format!("\"{mark}\""));
            around.map(|(before, behind)| (before.to_owned(), behind.to_owned()))
        };
        chat.around_text = (0..choices).filter_map(around).collect();
        chat
    }

    fn text(&self, choice: usize, text: &str, frames: &mut Frames) {
        let (before, behind) = &self.around_text[choice];
        frames.data_text(&format!("{before}{}{behind}", json!(text)));
    }

    fn chunk(&self, choice: usize, delta: Value, logprobs: Value, reason: Option<&str>) -> Value {
        let choice =
            json!({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason});
        let mut chunk = self.head.object("chat.completion.chunk", json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// `logprobs` of a chunk or choice. The token that ends an answer is not in its text.
    fn logprobs(&self, tokens: &[TokenEntry]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let content: Value =
            tokens.iter().filter(|token| !token.silent).map(logprob_entry).collect();
        json!({"content": content, "refusal": null})
    }
}

/// The piece as a delta. Id and name of a call come once: clients add strings up.
fn delta(piece: &Piece) -> Value {
    match piece {
        Piece::Reasoning(text) => json!({"reasoning_content": text}),
        Piece::Content(text) => json!({"content": text}),
        Piece::ToolStart { index, id, name } => json!({"tool_calls": [{
            "index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": ""},
        }]}),
        Piece::ToolArguments { index, fragment } => {
            json!({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})
        }
    }
}

impl Teller for Chat {
    fn open(&mut self, frames: &mut Frames) {
        for choice in 0..self.choices {
            let delta = json!({"role": "assistant", "content": ""});
            frames.data(&self.chunk(choice, delta, Value::Null, None));
        }
    }

    fn update(&mut self, update: &Update, frames: &mut Frames) {
        let choice = update.choice;
        let mut logprobs = match update.tokens.iter().any(|token| !token.silent) {
            true => self.logprobs(&update.tokens),
            false => Value::Null,
        };
        for piece in &update.pieces {
            self.called[choice] |= matches!(piece, Piece::ToolStart { .. });
            if let (Piece::Content(text), true) = (piece, logprobs.is_null()) {
                self.text(choice, text, frames);
                continue;
            }
            frames.data(&self.chunk(choice, delta(piece), logprobs.take(), None));
        }
        if !logprobs.is_null() {
            // the token's text is held back, or part of a character
            frames.data(&self.chunk(choice, json!({"content": ""}), logprobs, None));
        }
        if let Some(end) = &update.end {
            let reason = finish_reason(end, self.called[choice]);
            let mut chunk = self.chunk(choice, json!({}), Value::Null, Some(reason));
            chunk["timings"] = timings(end);
            frames.data(&chunk);
        }
    }

    fn close(&mut self, totals: &Totals, frames: &mut Frames) {
        self.head.close("chat.completion.chunk", self.include_usage, totals, frames);
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&error.body(Dialect::OpenAi));
    }

    fn whole(&self, choices: &[Choice], totals: &Totals) -> Value {
        let list = choices.iter().enumerate().map(|(index, choice)| {
            let message = message(choice);
            let called = message.get("tool_calls").is_some();
            let reason = choice.end.as_ref().map(|end| finish_reason(end, called));
            json!({
                "index": index,
                "message": message,
                "logprobs": self.logprobs(&choice.tokens),
                "finish_reason": reason,
            })
        });
        let mut object = self.head.object("chat.completion", list.collect());
        object["usage"] = usage(totals);
        if let Some(end) = choices.last().and_then(|choice| choice.end.as_ref()) {
            object["timings"] = timings(end);
        }
        object
    }
}

/// The shape of OpenAI's message keeps no order between its parts.
fn message(choice: &Choice) -> Value {
    let (content, reasoning, tools) = (choice.content(), choice.reasoning(), choice.tools());
    let only_calls = content.is_empty() && !tools.is_empty();
    let content = if only_calls { Value::Null } else { json!(content) };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !reasoning.is_empty() {
        message["reasoning_content"] = json!(reasoning);
    }
    if !tools.is_empty() {
        message["tool_calls"] = tools.iter().map(tool_call).collect();
    }
    message
}

fn tool_call(tool: &ToolCall) -> Value {
    json!({
        "id": tool.id,
        "type": "function",
        "function": {"name": tool.name, "arguments": tool.arguments},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_text_are_like_all_others() {
        for include_usage in [false, true] {
            let head = Head::new("chatcmpl", "a \"model\"".to_owned());
            let chat = Chat::new(head, 2, false, include_usage);
            let text = "\"\n\u{0}é";
            let mut fast = Frames::default();
            chat.text(1, text, &mut fast);
            let mut plain = Frames::default();
            plain.data(&chat.chunk(1, json!({"content": text}), Value::Null, None));
            assert_eq!(fast.text(), plain.text());
        }
    }
}
