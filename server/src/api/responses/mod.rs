//! OpenAI's `/v1/responses`, without memory: nothing is stored, and nothing can be referred to.

pub mod tell;

use host::constrain::GrammarSpec;
use serde_json::{Map, Value, json};

use super::chat::tool_choice;
use super::json::{Fields, wrong};
use super::prompt::{self, Conversation};
use super::{Context, Job, model, sampling, shape, shortest, stops};
use crate::generation::Generation;
use crate::http::ApiError;
use crate::http::route::random_id;
use crate::limits::MESSAGES;
use crate::output::{Reading, Wish};
use crate::state::now;
use tell::Response;

/// Makes a request of a body.
///
/// # Errors
/// 400 naming the field.
pub fn prepare(context: &Context<'_>, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let fields = Fields::new(body);
    let model = model(&fields, context.loaded)?;
    refuse_unsupported(&fields)?;
    sampling::refuse_unsupported(&fields)?;
    let conversation = conversation(&fields)?;
    let wish = Wish {
        tools: conversation.tools.clone(),
        choice: tool_choice(&fields)?,
        parallel: fields.flag("parallel_tool_calls", true)?,
        grammar: grammar(&fields)?,
        reasoning: None,
        think_budget: None,
    };
    let (prompt, text) = prompt::tokens(context.loaded, conversation)?;
    let max_tokens = sampling::max_tokens(&fields, &["max_output_tokens"], 1)?;
    let mut generation = Generation {
        prompts: vec![prompt],
        choices: 1,
        max_tokens: max_tokens.unwrap_or(usize::MAX),
        sampling: sampling::sampling(&fields, &context.app.defaults)?,
        stops: stops::stops(&fields, "stop", max_tokens.unwrap_or(usize::MAX))?,
        logprobs: None,
        ignore_eos: false,
        echo: false,
        reading: Reading::new(context.loaded, wish, &text, max_tokens.unwrap_or(usize::MAX))?,
    };
    generation.check(context.loaded, "input")?;
    let echoed = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let fixed = json!({
        "id": format!("resp_{}", random_id()),
        "object": "response",
        "created_at": now(),
        "model": model,
        "instructions": echoed("instructions", Value::Null),
        "max_output_tokens": max_tokens,
        "metadata": echoed("metadata", json!({})),
        "parallel_tool_calls": echoed("parallel_tool_calls", json!(true)),
        "previous_response_id": null,
        "reasoning": echoed("reasoning", json!({"effort": null, "summary": null})),
        "store": false,
        "temperature": shortest(generation.sampling.temperature),
        "text": echoed("text", json!({"format": {"type": "text"}})),
        "tool_choice": echoed("tool_choice", json!("auto")),
        "tools": echoed("tools", json!([])),
        "top_p": shortest(generation.sampling.top_p),
        "truncation": "disabled",
    });
    let teller = Response::new(fixed);
    Ok(Job { generation, teller: Box::new(teller), stream: fields.flag("stream", false)? })
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in ["previous_response_id", "conversation", "prompt"] {
        if fields.get(name).is_some() {
            let problem = "is not supported: this server keeps no responses; send the whole input";
            return Err(fields.error(name, problem).code("unsupported"));
        }
    }
    if fields.flag("background", false)? {
        return Err(fields.error("background", "is not supported").code("unsupported"));
    }
    let include = fields.list("include", 64)?.unwrap_or(&[]);
    if include.iter().any(|what| what == "message.output_text.logprobs") {
        let problem =
            "message.output_text.logprobs is not supported; /v1/chat/completions has them";
        return Err(fields.error("include", problem).code("unsupported"));
    }
    Ok(())
}

/// `text.format`.
fn grammar(fields: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let text = fields.object("text")?;
    let format = text.map(|text| shape::format(&text)).transpose()?.flatten();
    shape::one_of(fields, format)
}

fn conversation(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let mut messages = vec![];
    if let Some(text) = fields.text("instructions")?.filter(|text| !text.is_empty()) {
        messages.push(json!({"role": "system", "content": text}));
    }
    match fields.get("input") {
        None => return Err(fields.error("input", "is missing, expected a string or items")),
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(_)) => {
            for (index, value) in fields.list("input", MESSAGES)?.unwrap_or(&[]).iter().enumerate()
            {
                item(&Fields::of(value, &format!("input[{index}]"))?, &mut messages)?;
            }
        }
        Some(other) => return Err(wrong("input", "a string or an array of items", other)),
    }
    let mut variables = prompt::variables(fields)?;
    if let Some(effort) = fields.object("reasoning")?.and_then(|r| r.get("effort").cloned()) {
        variables.entry("reasoning_effort").or_insert(effort);
    }
    let tools = tools(fields)?;
    Ok(Conversation { messages, tools, variables, goes_on: false, head: true, field: "input" })
}

/// Adds an item of the input. Calls and thoughts belong to one turn of the assistant.
fn item(fields: &Fields<'_>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    match fields.text("type")?.unwrap_or("message") {
        "message" => {
            let role = match fields.needed_text("role")? {
                "developer" => "system",
                role @ ("system" | "user" | "assistant") => role,
                other => {
                    let problem =
                        format!("is {other:?}, expected system, developer, user or assistant");
                    return Err(fields.error("role", problem));
                }
            };
            let content =
                fields.get("content").ok_or_else(|| fields.error("content", "is missing"))?;
            let content = prompt::text_of(content, &fields.path("content"))?;
            match messages.last_mut() {
                // the thoughts before it
                Some(last) if role == "assistant" && is_open(last) => {
                    last["content"] = json!(content)
                }
                _ => messages.push(json!({"role": role, "content": content})),
            }
        }
        "function_call" => {
            let call = json!({
                "id": fields.needed_text("call_id")?,
                "type": "function",
                "function": {
                    "name": fields.needed_text("name")?,
                    "arguments": prompt::arguments(fields.text("arguments")?.unwrap_or("{}")),
                },
            });
            assistant(messages)["tool_calls"]
                .as_array_mut()
                .map(|calls| calls.push(call.clone()))
                .unwrap_or_else(|| assistant(messages)["tool_calls"] = json!([call]));
        }
        "function_call_output" => {
            let output =
                fields.get("output").ok_or_else(|| fields.error("output", "is missing"))?;
            messages.push(json!({
                "role": "tool",
                "tool_call_id": fields.needed_text("call_id")?,
                "content": prompt::text_of(output, &fields.path("output"))?,
            }));
        }
        "reasoning" => {
            let content = fields.list("content", MESSAGES)?.unwrap_or(&[]);
            let texts = content.iter().filter_map(|part| part["text"].as_str());
            let text = texts.collect::<Vec<_>>().join("\n");
            if !text.is_empty() {
                messages
                    .push(json!({"role": "assistant", "content": "", "reasoning_content": text}));
            }
        }
        other => {
            let problem = format!("is {other:?}, which is not supported");
            return Err(fields.error("type", problem).code("unsupported"));
        }
    }
    Ok(())
}

/// A turn of the assistant that only holds thoughts yet.
fn is_open(message: &Value) -> bool {
    message["role"] == "assistant"
        && message["content"] == ""
        && message.get("reasoning_content").is_some()
        && message.get("tool_calls").is_none()
}

/// The last message, which becomes one of the assistant if it is none.
fn assistant(messages: &mut Vec<Value>) -> &mut Value {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant", "content": ""}));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

/// Functions; tools of other types run at OpenAI and do not exist here.
fn tools(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    if fields.get("tool_choice").is_some_and(|choice| choice == "none") {
        return Ok(vec![]);
    }
    prompt::tools(fields, "parameters", |tool| tool["type"] == "function")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_turns() {
        let body = json!({"instructions": "i", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\":1}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "o"}]},
        ]});
        let read = conversation(&Fields::new(body.as_object().unwrap())).unwrap();
        assert_eq!(read.messages.len(), 4);
        assert_eq!(read.messages[0], json!({"role": "system", "content": "i"}));
        assert_eq!(read.messages[2]["reasoning_content"], "r");
        assert_eq!(read.messages[2]["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!(read.messages[3]["content"], "o");
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": 1}), "input"),
            (json!({"input": [{"type": "image_generation_call"}]}), "input[0].type"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
            (
                json!({"input": "a", "tools": [{"type": "web_search"}, {"type": "function"}]}),
                "tools[1].name",
            ),
        ] {
            let error = conversation(&Fields::new(body.as_object().unwrap())).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param));
        }
    }
}
