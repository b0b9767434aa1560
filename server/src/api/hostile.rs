//! Bodies that nobody would write, against every endpoint: each is taken or refused, and nothing else.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{Context, chat, completions, messages, responses, tokens};
use crate::http::ApiError;
use crate::testing;

/// What the endpoints read, at any level.
const NAMES: &[&str] = &[
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "tools",
    "parameters",
    "input_schema",
    "properties",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "json_schema",
    "schema",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "choice",
    "grammar",
    "$ref",
    "$defs",
    "pattern",
    "enum",
    "items",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "stop",
    "stop_sequences",
    "stop_token_ids",
    "bad_words",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "best_of",
    "seed",
    "temperature",
    "top_k",
    "dry_sequence_breakers",
    "stream",
    "stream_options",
    "system",
    "thinking",
    "budget_tokens",
    "thinking_budget_tokens",
    "reasoning_format",
    "input",
    "instructions",
    "reasoning",
    "prompt",
    "echo",
    "tokens",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
    "output_config",
    "format",
    "call_id",
    "id",
    "tool_use_id",
    "is_error",
    "output",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "\u{0}",
    "\u{10fffd}",
    "<|im_end|>",
    "</s>",
    "user",
    "assistant",
    "system",
    "tool",
    "function",
    "text",
    "auto",
    "required",
    "any",
    "enabled",
    "json_object",
    "json_schema",
    "tool_use",
    "tool_result",
    "thinking",
    "message",
    "function_call",
    "function_call_output",
    "image_url",
    "object",
    "string",
    "#/$defs/a",
    "(?=a)b",
    "(a|b){1,9}",
    "start: \"a\"",
    "root ::= \"a\" root?",
    "{\"a\":1}",
    "{{ 1 // 0 }}",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => select(vec![0, 1, 2, -1, -2, 17, 768, i64::MAX, i64::MIN, 1 << 31]).prop_map(Value::from),
        1 => select(vec![0.5, -0.0, 1e300, -1e300, 1e-300, 2.0]).prop_map(Value::from),
        5 => select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((select(NAMES), inner), 0..5)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

/// A good request of any endpoint, and some of its fields made odd, at the top or in a message.
fn body() -> impl Strategy<Value = Map<String, Value>> {
    let odd = proptest::collection::vec((select(NAMES), value()), 0..6);
    let inner = proptest::collection::vec((select(NAMES), value()), 0..3);
    (odd, inner, any::<bool>()).prop_map(|(odd, inner, tools)| {
        let mut message = json!({"role": "user", "content": "hi"});
        inner.into_iter().for_each(|(name, value)| message[name] = value);
        let mut body = json!({"max_tokens": 4, "messages": [message], "prompt": "a", "input": [message],
            "tokens": [1]});
        if tools {
            let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
            let function = json!({"name": "f", "parameters": schema});
            body["tools"] = json!([{"type": "function", "function": function}]);
        }
        odd.into_iter().for_each(|(name, value)| body[name] = value);
        body.as_object().cloned().unwrap_or_default()
    })
}

#[test]
fn any_body_is_taken_or_refused() {
    let app = testing::app(1, 0);
    let context = Context { app: &app, loaded: app.loaded().unwrap() };
    let settings =
        ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() };
    let taken = std::cell::RefCell::new([0; 7]);
    proptest::test_runner::TestRunner::new(settings)
        .run(&body(), |body| {
            // there it names what is kept elsewhere
            let mut without_prompt = body.clone();
            without_prompt.remove("prompt");
            let ends: [Result<(), ApiError>; 7] = [
                chat::prepare(&context, &body).map(drop),
                completions::prepare(&context, &body).map(drop),
                messages::prepare(&context, &body).map(drop),
                responses::prepare(&context, &without_prompt).map(drop),
                messages::count_tokens(&context, &body).map(drop),
                tokens::tokenize(&context, &body).map(drop),
                tokens::apply_template(&context, &body).map(drop),
            ];
            for (end, taken) in ends.into_iter().zip(taken.borrow_mut().iter_mut()) {
                match end {
                    Ok(()) => *taken += 1,
                    Err(error) => prop_assert_eq!(error.status, 400, "{}", error.message),
                }
            }
            Ok(())
        })
        .unwrap();
    let taken = taken.into_inner();
    assert!(taken.iter().all(|count| *count > 20), "{taken:?}");
}
