//! Anthropic's `/v1/messages` and `/v1/messages/count_tokens`.

pub mod tell;

use host::constrain::GrammarSpec;
use host::constrain::tools::ToolChoice;
use serde_json::{Map, Value, json};

use super::json::{Fields, wrong};
use super::prompt::{self, Conversation};
use super::{Context, Job, model, sampling, shape, stops};
use crate::generation::Generation;
use crate::http::ApiError;
use crate::http::route::random_id;
use crate::limits::MESSAGES;
use crate::output::{Reading, Wish};
use tell::Message;

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let fields = Fields::new(body);
    let model = model(&fields, context.loaded)?;
    let missing = || fields.error("max_tokens", "is missing, expected a whole number");
    sampling::refuse_unsupported(&fields)?;
    let max_tokens = sampling::max_tokens(&fields, &["max_tokens"], 1)?;
    let max_tokens = max_tokens.ok_or_else(missing)?;
    let conversation = conversation(&fields)?;
    let (choice, parallel) = tool_choice(&fields)?;
    let wish = Wish {
        tools: conversation.tools.clone(),
        choice,
        parallel,
        grammar: shape::one_of(&fields, output_format(&fields)?)?,
        reasoning: None,
        think_budget: thinking(&fields)?.1,
    };
    let (prompt, text) = prompt::tokens(context.loaded, conversation)?;
    let input_tokens = prompt.len();
    let mut generation = Generation {
        prompts: vec![prompt],
        choices: 1,
        max_tokens,
        sampling: sampling::sampling(&fields, &context.app.defaults)?,
        stops: stops::stops(&fields, "stop_sequences", max_tokens)?,
        logprobs: None,
        ignore_eos: false,
        echo: false,
        reading: Reading::new(context.loaded, wish, &text, max_tokens)?,
    };
    generation.check(context.loaded, "messages")?;
    let id = format!("msg_{}", random_id());
    let teller = Message::new(id, model, input_tokens);
    Ok(Job { generation, teller: Box::new(teller), stream: fields.flag("stream", false)? })
}

/// `/v1/messages/count_tokens`.
///
/// # Errors
/// 400 naming the field.
pub fn count_tokens(context: &Context<'_>, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let (tokens, _) = prompt::tokens(context.loaded, conversation(&Fields::new(body))?)?;
    Ok(json!({"input_tokens": tokens.len()}))
}

/// `output_config.format`.
fn output_format(fields: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let config = fields.object("output_config")?;
    Ok(config.map(|config| shape::format(&config)).transpose()?.flatten())
}

/// `thinking`: whether the template shall ask for it, and how many tokens it may take.
fn thinking(fields: &Fields<'_>) -> Result<(Option<bool>, Option<usize>), ApiError> {
    let Some(thinking) = fields.object("thinking")? else { return Ok((None, None)) };
    match thinking.needed_text("type")? {
        "disabled" => Ok((Some(false), None)),
        "adaptive" => Ok((None, None)),
        "enabled" => Ok((Some(true), sampling::max_tokens(&thinking, &["budget_tokens"], 0)?)),
        other => {
            let problem = format!("is {other:?}, expected enabled, disabled or adaptive");
            Err(thinking.error("type", problem))
        }
    }
}

/// `tool_choice`, and whether several calls may come in one answer.
fn tool_choice(fields: &Fields<'_>) -> Result<(ToolChoice, bool), ApiError> {
    let Some(choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, true)) };
    let parallel = !choice.flag("disable_parallel_tool_use", false)?;
    let which = match choice.needed_text("type")? {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => ToolChoice::Named(choice.needed_text("name")?.to_owned()),
        other => {
            let problem = format!("is {other:?}, expected auto, any, tool or none");
            return Err(choice.error("type", problem));
        }
    };
    Ok((which, parallel))
}

fn conversation(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let mut messages = vec![];
    let system = system(fields)?;
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    let list = fields.list("messages", MESSAGES)?;
    let list = list.ok_or_else(|| fields.error("messages", "is missing, expected an array"))?;
    for (index, value) in list.iter().enumerate() {
        turn(&Fields::of(value, &format!("messages[{index}]"))?, &mut messages)?;
    }
    // an answer goes on with a last turn of the assistant
    let last = messages.last();
    let goes_on = last.is_some_and(|message| {
        message["role"] == "assistant" && message.get("tool_calls").is_none()
    });
    let mut variables = prompt::variables(fields)?;
    if let Some(enabled) = thinking(fields)?.0 {
        variables.entry("enable_thinking").or_insert(json!(enabled));
    }
    let tools = tools(fields)?;
    Ok(Conversation { messages, tools, variables, goes_on, head: true, field: "messages" })
}

/// The system prompt: text, or blocks of it.
fn system(fields: &Fields<'_>) -> Result<String, ApiError> {
    let blocks = match fields.get("system") {
        None => return Ok(String::new()),
        Some(Value::Array(blocks)) if blocks.iter().all(Value::is_object) => {
            let text = |block| prompt::text_of(&json!([block]), "system");
            blocks.iter().map(text).collect::<Result<Vec<_>, _>>()?
        }
        Some(value) => vec![prompt::text_of(value, "system")?],
    };
    let blocks: Vec<&str> = blocks.iter().map(|block| without_billing(block)).collect();
    Ok(blocks.into_iter().filter(|block| !block.is_empty()).collect::<Vec<_>>().join("\n"))
}

/// Claude Code begins its prompt with a line that differs in each request and says nothing to the
/// model; with it no prompt would share a prefix with the one before.
fn without_billing(text: &str) -> &str {
    if !text.trim_start().starts_with("x-anthropic-billing-header:") {
        return text;
    }
    text.trim_start().split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n'))
}

/// Adds a turn: results of tools become messages of their own, before what the user says.
fn turn(fields: &Fields<'_>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = match fields.needed_text("role")? {
        role @ ("user" | "assistant" | "system") => role,
        other => {
            return Err(fields.error("role", format!("is {other:?}, expected user or assistant")));
        }
    };
    let path = fields.path("content");
    let blocks = match fields.get("content") {
        Some(Value::String(text)) => {
            messages.push(json!({"role": role, "content": text}));
            return Ok(());
        }
        Some(Value::Array(blocks)) => blocks,
        Some(other) => return Err(wrong(&path, "a string or an array of blocks", other)),
        None => return Err(fields.error("content", "is missing, expected a string or blocks")),
    };
    let mut parts = Turn::default();
    for (index, block) in blocks.iter().enumerate() {
        parts.block(&Fields::of(block, &format!("{path}[{index}]"))?, messages)?;
    }
    if let Some(message) = parts.message(role) {
        messages.push(message);
    }
    Ok(())
}

/// What the blocks of a turn add up to.
#[derive(Default)]
struct Turn {
    texts: Vec<String>,
    thinking: Vec<String>,
    calls: Vec<Value>,
    results: usize,
}

impl Turn {
    fn block(&mut self, block: &Fields<'_>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
        match block.needed_text("type")? {
            "text" => self.texts.push(block.needed_text("text")?.to_owned()),
            "thinking" => self.thinking.push(block.needed_text("thinking")?.to_owned()),
            "redacted_thinking" => {} // nobody here can read it
            "tool_use" => self.calls.push(json!({
                "id": block.needed_text("id")?,
                "type": "function",
                "function": {
                    "name": block.needed_text("name")?,
                    "arguments": block.object("input")?.map(|i| i.map().clone()).unwrap_or_default(),
                },
            })),
            "tool_result" => {
                let content = match block.get("content") {
                    None => String::new(),
                    Some(content) => prompt::text_of(content, &block.path("content"))?,
                };
                let failed = block.flag("is_error", false)?;
                let content = if failed { format!("Error: {content}") } else { content };
                self.results += 1;
                messages.push(json!({
                    "role": "tool",
                    "tool_call_id": block.needed_text("tool_use_id")?,
                    "content": content,
                }));
            }
            other => {
                let problem = format!("is {other:?}: this model takes text only");
                return Err(block.error("type", problem).code("unsupported"));
            }
        }
        Ok(())
    }

    /// Nothing when the turn was results alone.
    fn message(self, role: &str) -> Option<Value> {
        if self.results > 0 && self.texts.is_empty() {
            return None;
        }
        let mut message = json!({"role": role, "content": self.texts.join("\n")});
        if !self.thinking.is_empty() {
            message["reasoning_content"] = json!(self.thinking.join("\n"));
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = Value::Array(self.calls);
        }
        Some(message)
    }
}

/// The client's own tools. Those that Anthropic runs have a type of their own, and do not exist
/// here.
fn tools(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    if tool_choice(fields)?.0 == ToolChoice::None {
        return Ok(vec![]);
    }
    let own = |tool: &Value| tool.get("type").is_none_or(|kind| kind.is_null() || kind == "custom");
    prompt::tools(fields, "input_schema", own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Conversation, ApiError> {
        conversation(&Fields::new(body.as_object().unwrap()))
    }

    #[test]
    fn history_takes_the_shape_of_the_templates() {
        let read = read(json!({
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=ab12;"},
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
            ],
            "messages": [
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "get", "input": {"city": "Bern"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "text", "text": "and now?"}]},
            ],
        }))
        .unwrap();
        assert_eq!(
            read.messages,
            [
                json!({"role": "system", "content": "Be brief."}),
                json!({"role": "user", "content": "weather?"}),
                json!({"role": "assistant", "content": "I look.", "reasoning_content": "hm",
                    "tool_calls": [{"id": "t1", "type": "function",
                        "function": {"name": "get", "arguments": {"city": "Bern"}}}]}),
                json!({"role": "tool", "tool_call_id": "t1", "content": "sun"}),
                json!({"role": "user", "content": "and now?"}),
            ]
        );
        assert!(!read.goes_on);
    }

    #[test]
    fn the_billing_line_goes_and_the_rest_of_its_block_stays() {
        assert_eq!(without_billing("x-anthropic-billing-header: a; cch=1;\nYou are"), "You are");
        assert_eq!(without_billing("x-anthropic-billing-header: a"), "");
        assert_eq!(
            without_billing("You are x-anthropic-billing-header:"),
            "You are x-anthropic-billing-header:"
        );
    }

    #[test]
    fn a_tool_is_named_by_its_own_place() {
        let tools = json!([{"type": "web_search_20250305", "name": "web_search"},
            {"name": "a", "input_schema": {}}, {"name": "b", "input_schema": []}, {"name": 5}]);
        let body = json!({"messages": [], "tools": tools});
        let error = read(body).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("tools[2].input_schema"));
        let body = json!({"messages": [], "tools": [{"type": "bash_20250124"}, {"name": 5}]});
        assert_eq!(read(body).unwrap_err().param.as_deref(), Some("tools[1].name"));
        let body = json!({"messages": [], "tools": ["x"]});
        assert_eq!(read(body).unwrap_err().param.as_deref(), Some("tools[0]"));
    }

    #[test]
    fn blocks_that_the_model_cannot_take_are_refused_by_name() {
        let image =
            json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]});
        let error = read(image).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].content[0].type"));
        let role = json!({"messages": [{"role": "tool", "content": "a"}]});
        assert_eq!(read(role).unwrap_err().param.as_deref(), Some("messages[0].role"));
    }
}
