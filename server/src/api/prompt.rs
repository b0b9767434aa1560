//! Conversations → token ids: messages in OpenAI's shape, through the model's template.

use host::text::{ChatInput, Literals, TemplateError, Tokenizer};
use serde_json::{Map, Value, json};

use super::json::{Fields, wrong};
use crate::http::ApiError;
use crate::limits::{MESSAGES, TOOLS};
use crate::state::Loaded;

/// A conversation.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Messages that [`messages`] made, or another dialect in their shape: the content is text.
    pub messages: Vec<Value>,
    /// Tools in OpenAI's shape.
    pub tools: Vec<Value>,
    /// `chat_template_kwargs`.
    pub variables: Map<String, Value>,
    /// The answer goes on with the last message instead of beginning one.
    pub goes_on: bool,
    /// Ends with the head of the answer.
    pub head: bool,
    /// The dialect's name of the messages.
    pub field: &'static str,
}

/// The prompt as text, and with it what was said in it.
///
/// # Errors
/// 400 without a template, or what the template says against the conversation.
pub fn render(
    loaded: &Loaded,
    mut conversation: Conversation,
) -> Result<(String, Literals), ApiError> {
    let Some(template) = loaded.engine.template() else {
        return Err(ApiError::bad(
            "the model has no chat template: use /v1/completions, or start the server with \
             --chat-template",
        )
        .code("no_chat_template"));
    };
    let field = conversation.field;
    if conversation.messages.is_empty() {
        return Err(ApiError::field(field, "is empty, expected at least one message"));
    }
    join_system(&mut conversation.messages);
    for value in conversation.messages.iter().chain(&conversation.tools) {
        check_names(&loaded.tokenizer, value, field)?;
    }
    let mut said = vec![];
    conversation.messages.iter_mut().for_each(|message| said_by(message, &mut said));
    conversation.tools.iter_mut().for_each(|tool| said_in(tool, &mut said));
    let literals = Literals::shield(&loaded.tokenizer, &mut said)
        .map_err(|error| ApiError::field(field, error.to_string()))?;
    if conversation.goes_on {
        mark_end(conversation.messages.last_mut());
    }
    let input = ChatInput {
        messages: conversation.messages,
        tools: (!conversation.tools.is_empty()).then_some(conversation.tools),
        add_generation_prompt: conversation.head && !conversation.goes_on,
        extra: conversation.variables,
        now: local_now(),
    };
    let mut text = template.render(&input).map_err(|error| template_error(error, field))?;
    if conversation.goes_on {
        // what the template puts behind the last message would end it
        let end = text.rfind(END).ok_or_else(|| {
            ApiError::field(field, "the last message cannot be gone on with: the template drops it")
        })?;
        text.truncate(end);
    }
    Ok((text, literals))
}

/// Makes one message of several that the conversation begins with: agents send more than one, and
/// templates drop or refuse all but the first or the last.
fn join_system(messages: &mut Vec<Value>) {
    let is_system = |message: &Value| message["role"] == "system" && message["content"].is_string();
    let count = messages.iter().take_while(|message| is_system(message)).count();
    if count > 1 {
        let texts = messages[..count].iter().filter_map(|message| message["content"].as_str());
        messages[0]["content"] = json!(texts.collect::<Vec<_>>().join("\n\n"));
        messages.drain(1..count);
    }
}

/// Stands behind the text that an answer goes on with while the template is rendered; nothing that was
/// said comes behind it.
const END: char = '\u{10fffd}';

fn mark_end(message: Option<&mut Value>) {
    if let Some(content) = message.and_then(|message| message.get_mut("content")) {
        let text = content.as_str().unwrap_or_default();
        *content = Value::String(format!("{}{END}", text.trim_end()));
    }
}

/// The prompt as token ids, and as text.
///
/// # Errors
/// As [`render`].
pub fn tokens(loaded: &Loaded, conversation: Conversation) -> Result<(Vec<u32>, String), ApiError> {
    let field = conversation.field;
    let (text, literals) = render(loaded, conversation)?;
    let tokenizer = &loaded.tokenizer;
    let bos = tokenizer.bos().map(|id| tokenizer.piece(id)).unwrap_or_default();
    let has_bos = !bos.is_empty() && text.as_bytes().starts_with(bos);
    let ids = literals
        .encode(tokenizer, &text, !has_bos)
        .map_err(|error| ApiError::field(field, error.to_string()))?;
    Ok((ids, text))
}

/// Every string of a message but its own role: text that somebody said.
fn said_by<'a>(message: &'a mut Value, said: &mut Vec<&'a mut String>) {
    if let Value::Object(map) = message {
        let parts = map.iter_mut().filter(|(key, _)| *key != "role");
        parts.for_each(|(_, value)| said_in(value, said));
    }
}

/// Every string of a value.
fn said_in<'a>(value: &'a mut Value, said: &mut Vec<&'a mut String>) {
    match value {
        Value::String(text) => said.push(text),
        Value::Array(list) => list.iter_mut().for_each(|value| said_in(value, said)),
        Value::Object(map) => map.iter_mut().for_each(|(_, value)| said_in(value, said)),
        _ => {}
    }
}

/// Refuses names in objects that spell a control token: unlike strings they cannot be shielded.
fn check_names(tokenizer: &Tokenizer, value: &Value, field: &str) -> Result<(), ApiError> {
    match value {
        Value::Array(list) => list.iter().try_for_each(|v| check_names(tokenizer, v, field)),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            let ids = if plain { Ok(vec![]) } else { tokenizer.encode(name, false, true) };
            let ids = ids.map_err(|error| ApiError::field(field, error.to_string()))?;
            if ids.iter().any(|&id| tokenizer.is_special(id)) {
                let problem = format!("has the name {name:?}, which spells a control token");
                return Err(ApiError::field(field, problem));
            }
            check_names(tokenizer, value, field)
        }),
        _ => Ok(()),
    }
}

fn template_error(error: TemplateError, field: &str) -> ApiError {
    match error {
        TemplateError::Engine { .. } => ApiError::internal(error.to_string()),
        TemplateError::Reserved { .. } => {
            ApiError::field("chat_template_kwargs", error.to_string())
        }
        _ => ApiError::field(field, error.to_string()),
    }
}

/// Seconds since the epoch on a local clock: what templates write dates from.
fn local_now() -> i64 {
    let now = jiff::ZonedDateTime::now();
    now.timestamp().as_second() + i64::from(now.offset().seconds())
}

/// The messages of OpenAI's chat API.
///
/// # Errors
/// 400 naming the message and field.
pub fn messages(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let list = fields.list("messages", MESSAGES)?;
    let list = list.ok_or_else(|| fields.error("messages", "is missing, expected an array"))?;
    let path = |index| format!("{}[{index}]", fields.path("messages"));
    list.iter().enumerate().map(|(i, value)| message(&Fields::of(value, &path(i))?)).collect()
}

fn message(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let role = match fields.needed_text("role")? {
        "developer" => "system", // the name that templates know
        role @ ("system" | "user" | "assistant" | "tool") => role,
        other => {
            let problem =
                format!("is {other:?}, expected system, developer, user, assistant or tool");
            return Err(fields.error("role", problem));
        }
    };
    let calls = match role {
        "assistant" => tool_calls(fields)?,
        _ => vec![],
    };
    let content = match fields.get("content") {
        None if calls.is_empty() && role != "assistant" => {
            return Err(fields.error("content", "is missing, expected a string or parts"));
        }
        None => String::new(),
        Some(value) => text_of(value, &fields.path("content"))?,
    };
    let mut message = json!({"role": role, "content": content});
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.text(name)? {
            message[name] = json!(text);
        }
    }
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    Ok(message)
}

/// Calls of earlier turns. Templates expect the arguments as an object.
fn tool_calls(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let list = fields.list("tool_calls", TOOLS)?.unwrap_or(&[]);
    let call = |(index, value): (usize, &Value)| {
        let path = format!("{}[{index}]", fields.path("tool_calls"));
        let call = Fields::of(value, &path)?;
        let missing = || call.error("function", "is missing, expected an object");
        let function = call.object("function")?.ok_or_else(missing)?;
        let arguments = arguments(function.text("arguments")?.unwrap_or("{}"));
        Ok(json!({
            "id": call.text("id")?.unwrap_or_default(),
            "type": "function",
            "function": {"name": function.needed_text("name")?, "arguments": arguments},
        }))
    };
    list.iter().enumerate().map(call).collect()
}

/// The arguments of a call; text that is no object stays text.
pub fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => Value::String(text.to_owned()),
    }
}

/// Content: a string, or parts of which all are text.
///
/// # Errors
/// 400 naming the part.
pub fn text_of(value: &Value, path: &str) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(path, "a string or an array of parts", other)),
    };
    let part = |(index, value): (usize, &Value)| {
        let part = Fields::of(value, &format!("{path}[{index}]"))?;
        match part.needed_text("type")? {
            "text" | "input_text" | "output_text" => Ok(part.needed_text("text")?.to_owned()),
            "refusal" => Ok(part.needed_text("refusal")?.to_owned()),
            other => {
                let problem = format!("is {other:?}: this model takes text only");
                Err(part.error("type", problem).code("unsupported"))
            }
        }
    };
    let parts: Result<Vec<String>, ApiError> = parts.iter().enumerate().map(part).collect();
    Ok(parts?.join("\n"))
}

/// Tools in the shape `{"type": "function", "function": {name, description, parameters}}`, from
/// `tools`, whose entries hold these fields under `function`, or themselves with the schema called
/// `schema`. Entries that are not `wanted` are left out.
///
/// # Errors
/// 400 naming the tool and field.
pub fn tools(
    fields: &Fields<'_>,
    schema: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>, ApiError> {
    let list = fields.list("tools", TOOLS)?.unwrap_or(&[]);
    let tool = |(index, value): (usize, &Value)| {
        let entry = Fields::of(value, &format!("{}[{index}]", fields.path("tools")))?;
        let inner = entry.object("function")?;
        let inner = inner.as_ref().unwrap_or(&entry);
        let parameters = inner.object(schema)?.map(|object| object.map().clone());
        Ok(json!({"type": "function", "function": {
            "name": inner.needed_text("name")?,
            "description": inner.text("description")?.unwrap_or_default(),
            "parameters": parameters.unwrap_or_default(),
        }}))
    };
    list.iter().enumerate().filter(|(_, value)| wanted(value)).map(tool).collect()
}

/// `chat_template_kwargs`, and `reasoning_effort`, which is for the template as well.
///
/// # Errors
/// 400 for the wrong type.
pub fn variables(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let given = fields.object("chat_template_kwargs")?;
    let mut variables = given.map(|given| given.map().clone()).unwrap_or_default();
    if let Some(effort) = fields.text("reasoning_effort")? {
        variables.entry("reasoning_effort").or_insert(json!(effort));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages_json: Value) -> Result<Vec<Value>, ApiError> {
        let body = json!({"messages": messages_json});
        messages(&Fields::new(body.as_object().unwrap()))
    }

    #[test]
    fn messages_come_in_one_shape() {
        let read = read(json!([
            {"role": "developer", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "d"},
        ]))
        .unwrap();
        assert_eq!(read[0], json!({"role": "system", "content": "a"}));
        assert_eq!(read[1]["content"], "b\nc");
        assert_eq!(read[2]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(read[3], json!({"role": "tool", "content": "d", "tool_call_id": "1"}));
    }

    #[test]
    fn system_messages_at_the_beginning_are_one() {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let (user, late) = (message("user", "u"), message("system", "c"));
        let mut messages = vec![message("system", "a"), message("system", "b"), user.clone(), late];
        join_system(&mut messages);
        assert_eq!(messages, [message("system", "a\n\nb"), user.clone(), message("system", "c")]);
        let mut messages = vec![user.clone()];
        join_system(&mut messages);
        assert_eq!(messages, [user]);
    }

    #[test]
    fn wrong_messages_are_named() {
        for (messages, param) in [
            (json!("x"), "messages"),
            (json!([1]), "messages[0]"),
            (json!([{"content": "a"}]), "messages[0].role"),
            (json!([{"role": "king", "content": "a"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": 1}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
                "messages[0].content[0].type",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
                "messages[0].tool_calls[0].function",
            ),
        ] {
            let error = read(messages).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
    }

    #[test]
    fn what_is_said_is_everything_but_roles() {
        let call = json!({"id": "b", "function": {"arguments": {"role": "c"}}});
        let mut message = json!({"role": "user", "content": "a", "tool_calls": [call]});
        let mut said = vec![];
        said_by(&mut message, &mut said);
        assert_eq!(said, ["a", "b", "c"]);
    }
}
