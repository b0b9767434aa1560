//! What clients of vLLM and llama.cpp ask for beside OpenAI's own fields.

use serde_json::{Value, json};
use tests::Scratch;

use crate::support::{CHAT, DIALECTS, Server, chat, tools_model, with};

/// A token whose text is that token again, so that it can be asked for and forbidden by its text.
fn token_with_text(server: &Server) -> (u64, String) {
    for id in 300..768u64 {
        let text = server.post("/detokenize", &json!({"tokens": [id]})).json()["content"].clone();
        let text = text.as_str().unwrap().trim().to_owned();
        let spaced = server.post("/tokenize", &json!({"content": text})).json()["tokens"].clone();
        if text.len() > 1 && spaced == json!([id]) {
            return (id, text);
        }
    }
    panic!("no token has a text of its own");
}

fn text(reply: &Value) -> &str {
    reply["choices"][0]["text"].as_str().unwrap()
}

#[test]
fn tokens_end_answers_and_answers_may_not_end_too_soon() {
    let server = Server::start(&[]);
    let (id, word) = token_with_text(&server);
    // the model wants nothing else
    let bias = json!({id.to_string(): 100});
    let ask = |more: Value| {
        let body = json!({"prompt": "a b c", "max_tokens": 10, "temperature": 0, "ignore_eos": true,
            "logit_bias": bias, "logprobs": 0});
        let body = with(body, more);
        let whole = server.post("/v1/completions", &body).json();
        let events = server.post("/v1/completions", &with(body, json!({"stream": true}))).events();
        let streamed: String =
            events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(streamed, text(&whole));
        whole
    };
    let free = ask(json!({}));
    assert_eq!(text(&free).matches(&word).count(), 10);
    let stopped = ask(json!({"stop_token_ids": [id]}));
    assert_eq!(text(&stopped), "");
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let shown = ask(json!({"stop_token_ids": [id], "include_stop_str_in_output": true}));
    assert_eq!(text(&shown).trim(), word);
    let later = ask(json!({"stop_token_ids": [id], "min_tokens": 3}));
    assert_eq!(later["usage"]["completion_tokens"], 4);
    assert!(!text(&later).contains(&word), "the token could not come before: {later}");
    // a string is text until it may end the answer
    let string = ask(json!({"stop": [word]}));
    assert!(!text(&string).contains(&word) && string["usage"]["completion_tokens"] == 1);
    let string = ask(json!({"stop": [word], "include_stop_str_in_output": true}));
    assert_eq!(text(&string).trim(), word);
    let string = ask(json!({"stop": [word], "min_tokens": 3}));
    assert_eq!(string["usage"]["completion_tokens"], 4);
    assert_eq!(text(&string).matches(&word).count(), 3);
    let banned = ask(json!({"bad_words": [word]}));
    assert_eq!(banned["usage"]["completion_tokens"], 10);
    assert!(!text(&banned).contains(&word), "{banned}");
}

#[test]
fn every_dialect_takes_what_ends_an_answer() {
    let server = Server::start(&[]);
    let (id, _) = token_with_text(&server);
    for (path, body) in DIALECTS {
        let bias =
            json!({"temperature": 0, "logit_bias": {id.to_string(): 100}, "stop_token_ids": [id]});
        let reply = server.post(path, &with(body("hi"), bias.clone())).json();
        let usage = &reply["usage"];
        let tokens = usage.get("completion_tokens").unwrap_or(&usage["output_tokens"]);
        assert_eq!(tokens, 1, "{path}: {reply}");
        let reply =
            server.post(path, &with(body("hi"), with(bias, json!({"min_tokens": 2})))).json();
        let usage = &reply["usage"];
        let tokens = usage.get("completion_tokens").unwrap_or(&usage["output_tokens"]);
        assert_eq!(tokens, 3, "{path}: {reply}");
    }
}

#[test]
fn an_answer_is_one_of_the_choices() {
    let server = Server::start(&[]);
    let choices = ["positive", "negative", "a \"third\"\n/"];
    let body = |seed: u64, field: &Value| {
        let body = with(
            chat("Which?", 60),
            json!({"temperature": 1.5, "seed": seed, "ignore_eos": false}),
        );
        with(body, field.clone())
    };
    for field in
        [json!({"guided_choice": choices}), json!({"structured_outputs": {"choice": choices}})]
    {
        for seed in 0..6 {
            let reply = server.post(CHAT, &body(seed, &field)).json();
            let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
            assert!(choices.contains(&content), "{content:?}");
            assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        }
    }
    let body = json!({"prompt": "a", "max_tokens": 60, "guided_choice": ["xx", "xxyy"]});
    let reply = server.post("/v1/completions", &body).json();
    assert!(["xx", "xxyy"].contains(&text(&reply)), "{reply}");
}

#[test]
fn a_shape_and_tools_that_may_be_called_go_together() {
    let scratch = Scratch::new("shape-and-tools");
    let model = tools_model(&scratch);
    let server = Server::start_with(&["--model", &model, "--threads", "1"]);
    let object = |property: Value| {
        json!({"type": "object", "properties": property,
        "required": ["a"], "additionalProperties": false})
    };
    let shape = object(json!({"a": {"enum": ["x", "y"]}}));
    let parameters = object(json!({"a": {"type": "boolean"}}));
    let function = json!({"name": "get", "parameters": parameters});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": shape}});
    let (mut called, mut said) = (0, 0);
    let opener =
        server.post("/tokenize", &json!({"content": "<tool_call>"})).json()["tokens"][0].clone();
    for seed in 0..20 {
        // every other answer would rather call
        let bias = if seed % 2 == 0 { json!({}) } else { json!({opener.to_string(): 100}) };
        let more = json!({"logit_bias": bias, "temperature": 1.5, "seed": seed, "ignore_eos": false, "response_format": format,
            "tools": [{"type": "function", "function": function}], "tool_choice": "auto"});
        let reply = server.post(CHAT, &with(chat("What?", 120), more));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = reply.json();
        let (choice, message) = (&reply["choices"][0], &reply["choices"][0]["message"]);
        match (&choice["finish_reason"], message["tool_calls"].as_array()) {
            (reason, Some(calls)) if reason == "tool_calls" => {
                for call in calls {
                    let arguments = call["function"]["arguments"].as_str().unwrap();
                    let arguments: Value = serde_json::from_str(arguments).unwrap();
                    assert!(arguments["a"].is_boolean(), "{message}");
                }
                called += 1;
            }
            (reason, None) if reason == "stop" => {
                let content = message["content"].as_str().unwrap();
                let value: Value = serde_json::from_str(content).unwrap();
                assert!(["x", "y"].contains(&value["a"].as_str().unwrap()), "{content}");
                said += 1;
            }
            (reason, _) => assert_eq!(reason, "length", "{choice}"),
        }
    }
    assert!(said > 0 && called > 0, "{called} called, {said} said");
    // in the other dialects too
    let tools = json!([{"name": "get", "input_schema": parameters}]);
    let body = with(
        chat("What?", 120),
        json!({"tools": tools, "output_config": {"format": {"type": "json_schema", "schema": shape}}}),
    );
    assert_eq!(server.post("/v1/messages", &body).status, 200);
    let body = json!({"input": "What?", "max_output_tokens": 120,
        "tools": [with(function, json!({"type": "function"}))],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": shape}}});
    assert_eq!(server.post("/v1/responses", &body).status, 200);
}
