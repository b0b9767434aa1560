//! Chat template: any source and any conversation end in a prompt or an error, within the limits.
//!
//! The input is the source; behind a byte 0xff the messages as JSON, and behind another the tools.
//! What is missing or no JSON array is replaced by the target's own.

#![no_main]

use host::text::template::{ChatInput, ChatTemplate, TemplateError, limits};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |&b| b == 0xff);
    let source = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let messages = array(parts.next());
    let tools = array(parts.next());
    let template = match ChatTemplate::from_source(&source, "<s>", "</s>") {
        Ok(template) => template,
        Err(error) => return check(&error),
    };
    let conversation = |messages: Vec<Value>, tools, add_generation_prompt: bool| {
        let mut extra = serde_json::Map::new();
        extra.insert("enable_thinking".into(), add_generation_prompt.into());
        ChatInput { messages, tools, add_generation_prompt, extra, now: 1_700_000_000 }
    };
    let inputs = match messages {
        Some(messages) => vec![conversation(messages, tools, true)],
        None => vec![conversation(own_messages(), None, true), conversation(vec![], tools, false)],
    };
    for input in inputs {
        let bytes = serde_json::to_string(&input.messages).expect("it is JSON").len()
            + serde_json::to_string(&input.tools).expect("it is JSON").len();
        match template.render(&input) {
            // The sizes in memory and as JSON differ by escapes and quotes at most.
            Ok(prompt) => assert!(prompt.len() <= limits::OUTPUT_BYTES + 64 * (1024 + bytes)),
            Err(error) => check(&error),
        }
    }
});

/// An error names the fault of the template, never one of the engine.
fn check(error: &TemplateError) {
    assert!(!matches!(error, TemplateError::Engine { .. }), "{error}");
    assert!(!error.to_string().is_empty());
}

fn array(part: Option<&[u8]>) -> Option<Vec<Value>> {
    serde_json::from_slice(part?).ok()
}

fn own_messages() -> Vec<Value> {
    let call = json!({"type": "function", "id": "1", "function":
        {"name": "f", "arguments": {"a": [1, 2.5, null, true, "é\n<"]}}});
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Hello <s>{{ 1 }}"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "1", "content": "4"}),
        json!({"role": "assistant", "content": "<think>x</think>4", "reasoning_content": "x"}),
        json!({"role": "user", "content": [{"type": "text", "text": "And?"}]}),
    ]
}
