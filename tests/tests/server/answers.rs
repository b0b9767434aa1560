//! What each endpoint answers, streamed and in one piece.

use serde_json::{Value, json};

use tests::Scratch;

use crate::support::{Server, chat, tools_model, with};

/// Content of all chunks of a choice, put together.
fn joined(events: &[Value], choice: u64) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].as_array()).flatten();
    let deltas = choices.filter(|c| c["index"] == choice);
    deltas.filter_map(|c| c["delta"]["content"].as_str().or(c["text"].as_str())).collect()
}

#[test]
fn a_streamed_chat_is_the_collected_one() {
    let server = Server::start(&[]);
    for more in [
        json!({}),
        json!({"n": 3, "temperature": 1.0, "seed": 7}),
        json!({"stop": ["e", "a"], "n": 2, "temperature": 1.5, "seed": 3}),
        json!({"logprobs": true, "top_logprobs": 3}),
    ] {
        let body = with(chat("Tell me something", 24), more.clone());
        let whole = server.post("/v1/chat/completions", &body).json();
        let body = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
        let reply = server.post("/v1/chat/completions", &body);
        assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let events = reply.events();
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        let (done, usage) = (&events[events.len() - 1], &events[events.len() - 2]);
        assert_eq!(done, "[DONE]");
        assert_eq!(usage["choices"], json!([]));
        let counts = ["prompt_tokens", "completion_tokens", "total_tokens"];
        assert!(counts.iter().all(|c| usage["usage"][c] == whole["usage"][c]), "{usage}\n{whole}");
        for choice in whole["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap();
            let content = choice["message"]["content"].as_str().unwrap();
            assert_eq!(joined(&events, index), content, "{more}");
            let reasons = events
                .iter()
                .filter_map(|e| e["choices"].get(0))
                .filter(|c| c["index"] == index && !c["finish_reason"].is_null());
            let reasons: Vec<&Value> = reasons.map(|c| &c["finish_reason"]).collect();
            assert_eq!(reasons, [&choice["finish_reason"]]);
            let tokens = events.iter().filter_map(|e| e["choices"].get(0));
            let tokens = tokens.filter_map(|c| c["logprobs"]["content"].as_array()).flatten();
            let tokens: Vec<Value> = tokens.cloned().collect();
            let expected = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            assert_eq!(tokens, expected);
        }
        let ids: Vec<&Value> =
            events.iter().map(|e| &e["id"]).filter(|id| id.is_string()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "one id on every chunk");
    }
}

#[test]
fn choices_with_a_seed_differ_and_repeat() {
    let server = Server::start(&[]);
    let body = with(chat("Tell me something", 12), json!({"n": 4, "temperature": 1.5, "seed": 11}));
    let texts = |reply: Value| -> Vec<String> {
        let choices = reply["choices"].as_array().unwrap().iter();
        choices.map(|c| c["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let first = texts(server.post("/v1/chat/completions", &body).json());
    assert_eq!(first, texts(server.post("/v1/chat/completions", &body).json()));
    let single = with(body, json!({"n": 1, "seed": 13}));
    assert_eq!(texts(server.post("/v1/chat/completions", &single).json())[0], first[2]);
    assert!(first.iter().any(|text| *text != first[0]), "{first:?}");
}

#[test]
fn completions_score_prompts() {
    let server = Server::start(&[]);
    let text = "Once upon a time";
    let ids = server.post("/tokenize", &json!({"prompt": text})).json()["tokens"].clone();
    let count = ids.as_array().unwrap().len();
    let body = json!({
        "prompt": [text, ids], "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 2,
        "ignore_eos": true,
    });
    let reply = server.post("/v1/completions", &body).json();
    assert_eq!(reply["object"], "text_completion");
    let [a, b] = [&reply["choices"][0], &reply["choices"][1]];
    assert_eq!((a["index"].as_u64(), b["index"].as_u64()), (Some(0), Some(1)));
    assert_eq!(a["logprobs"], b["logprobs"], "text and its ids are the same prompt");
    let logprobs = &a["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), count + 1, "{list}");
    }
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    assert!(logprobs["token_logprobs"][1].as_f64().unwrap() < 0.0);
    // what is generated and what is scored afterwards are the same text
    let tokens = json!({"prompt": ids, "max_tokens": 4, "temperature": 0, "logprobs": 0, "ignore_eos": true});
    let generated = server.post("/v1/completions", &tokens).json();
    let text = format!("{text}{}", generated["choices"][0]["text"].as_str().unwrap());
    let scored = json!({"prompt": text, "max_tokens": 0, "echo": true, "logprobs": 0});
    let scored = server.post("/v1/completions", &scored).json();
    assert_eq!(scored["choices"][0]["text"].as_str().map(str::trim_start), Some(text.as_str()));
    assert_eq!(scored["usage"]["completion_tokens"], 0);
}

#[test]
fn streamed_completions_are_the_collected_ones() {
    let server = Server::start(&[]);
    let body = json!({"prompt": ["a b c", "hello"], "max_tokens": 10, "temperature": 0, "logprobs": 1,
        "echo": true, "ignore_eos": true});
    let whole = server.post("/v1/completions", &body).json();
    let events = server.post("/v1/completions", &with(body, json!({"stream": true}))).events();
    for choice in whole["choices"].as_array().unwrap() {
        let index = choice["index"].as_u64().unwrap();
        assert_eq!(joined(&events, index), choice["text"].as_str().unwrap());
        let offsets = events.iter().filter_map(|e| e["choices"].get(0));
        let offsets = offsets.filter(|c| c["index"] == index);
        let offsets = offsets.filter_map(|c| c["logprobs"]["text_offset"].as_array()).flatten();
        let offsets: Value = offsets.cloned().collect();
        assert_eq!(offsets, choice["logprobs"]["text_offset"]);
    }
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[test]
fn messages_have_their_events_in_order() {
    let server = Server::start(&[]);
    let body = json!({"model": "any", "max_tokens": 12, "temperature": 0,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]});
    let whole = server.post("/v1/messages?beta=true", &body).json();
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    let reply = server.post("/v1/messages", &with(body.clone(), json!({"stream": true})));
    let names = reply.names();
    assert_eq!(names[0], "message_start");
    assert_eq!(names[names.len() - 2..], ["message_delta", "message_stop"]);
    let events = reply.events();
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(whole["content"][0]["text"].as_str().unwrap_or_default(), text);
    let delta = &events[events.len() - 2];
    assert_eq!(delta["delta"]["stop_reason"], whole["stop_reason"]);
    assert_eq!(delta["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    let counted = server.post("/v1/messages/count_tokens", &body).json();
    let usage = &whole["usage"];
    let sum = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted["input_tokens"], sum);
}

#[test]
fn responses_are_numbered() {
    let server = Server::start(&[]);
    let body = json!({"input": "Hello", "max_output_tokens": 8, "temperature": 0});
    let whole = server.post("/v1/responses", &body).json();
    let events = server.post("/v1/responses", &with(body, json!({"stream": true}))).events();
    assert_eq!(events[0]["type"], "response.created");
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let last = events.last().unwrap();
    assert_eq!(last["type"], format!("response.{}", whole["status"].as_str().unwrap()));
    let text = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    assert_eq!(text(&last["response"]), text(&whole));
    assert_eq!(last["response"]["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
}

#[test]
fn tokens_and_templates_are_shown() {
    let server = Server::start(&["--alias", "org/name"]);
    let text = "Hello <s> there";
    let tokens = server.post("/tokenize", &json!({"content": "Hello there"})).json();
    let back = server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).json();
    assert_eq!(back["content"].as_str().map(str::trim_start), Some("Hello there"));
    assert_eq!(back["content"], back["prompt"]);
    let messages = json!({"messages": [{"role": "user", "content": text}]});
    let prompt = server.post("/apply-template", &messages).json()["prompt"].clone();
    assert!(prompt.as_str().unwrap().contains(text), "{prompt}");
    let models = server.get("/v1/models", "").json();
    assert_eq!(models["data"][0]["id"], "org/name");
    for path in ["/v1/models/org/name", "/v1/models/org%2Fname"] {
        assert_eq!(server.get(path, "").json()["id"], "org/name");
    }
    let missing = server.get("/v1/models/other", "");
    assert_eq!(
        (missing.status, &missing.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let page = server.get("/", "");
    assert!(page.text().contains("<title>imp</title>") && page.head.contains("text/html"));
    assert!(page.head.contains("content-security-policy"));
}

#[test]
fn control_tokens_that_are_said_are_text() {
    let server = Server::start(&[]);
    let tokens = |content: &str| {
        let messages = json!({"messages": [{"role": "user", "content": content}]});
        let reply = server.post("/tokenize", &messages).json();
        let ids = reply["tokens"].as_array().unwrap().clone();
        ids.iter().filter(|id| **id == 1 || **id == 2).count()
    };
    assert_eq!(tokens("a </s> b <s>"), tokens("a b"), "no more control tokens than before");
}

#[test]
fn constrained_answers_are_what_was_asked_for() {
    let server = Server::start(&[]);
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "yy"]}, "b": {"type": "boolean"}},
        "required": ["a", "b"], "additionalProperties": false});
    let body = json!({"messages": [{"role": "user", "content": "Answer"}], "max_tokens": 400, "temperature": 1.0,
        "seed": 4, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}});
    let whole = server.post("/v1/chat/completions", &body).json();
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(content).unwrap_or_else(|e| panic!("{e}: {content}"));
    assert!(["x", "yy"].contains(&value["a"].as_str().unwrap()) && value["b"].is_boolean());
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let events = server.post("/v1/chat/completions", &with(body, json!({"stream": true}))).events();
    assert_eq!(joined(&events, 0), content);
    for (path, field, prefix) in [
        ("/v1/chat/completions", json!({"guided_regex": "[0-9]{3}x"}), "choices/0/message/content"),
        (
            "/v1/completions",
            json!({"grammar": "root ::= [0-9] [0-9] [0-9] \"x\""}),
            "choices/0/text",
        ),
    ] {
        let body =
            with(with(chat("Answer", 50), field), json!({"prompt": "a", "ignore_eos": false}));
        let reply = server.post(path, &body).json();
        let text = reply.pointer(&format!("/{prefix}")).and_then(Value::as_str).unwrap();
        assert!(text.len() == 4 && text.ends_with('x'), "{text}");
    }
}

#[test]
fn tool_calls_that_are_asked_for_come_in_every_dialect() {
    let scratch = Scratch::new("tools");
    let model = tools_model(&scratch);
    let server = Server::start_with(&["--model", &model, "--threads", "1"]);
    assert_eq!(server.post("/apply-template", &chat("a", 1)).status, 200);
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Bern", "Rom"]}},
        "required": ["city"], "additionalProperties": false});
    let function = json!({"name": "weather", "description": "now", "parameters": schema});
    let body = with(
        chat("Weather?", 300),
        json!({"ignore_eos": false, "tool_choice": "required", "parallel_tool_calls": false,
            "tools": [{"type": "function", "function": function}]}),
    );
    let reply = server.post("/v1/chat/completions", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let whole = reply.json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
    let arguments = call["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert!(["Bern", "Rom"].contains(&arguments["city"].as_str().unwrap()));

    let events =
        server.post("/v1/chat/completions", &with(body.clone(), json!({"stream": true}))).events();
    let calls = events.iter().filter_map(|e| e["choices"].get(0)?["delta"]["tool_calls"].get(0));
    let calls: Vec<&Value> = calls.collect();
    assert!(calls.iter().all(|call| call["index"] == 0));
    assert_eq!(calls.iter().filter(|call| call.get("id").is_some()).count(), 1, "id comes once");
    let streamed: String =
        calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&streamed).unwrap(), arguments);

    let tools = json!([{"name": "weather", "description": "now", "input_schema": schema}]);
    let body = json!({"max_tokens": 300, "temperature": 0, "tool_choice": {"type": "any"}, "tools": tools,
        "messages": [{"role": "user", "content": "Weather?"}]});
    let whole = server.post("/v1/messages", &body).json();
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    let last = |message: &Value| message["content"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last(&whole)["input"], arguments);
    let events = server.post("/v1/messages", &with(body, json!({"stream": true}))).events();
    let json: String = events.iter().filter_map(|e| e["delta"]["partial_json"].as_str()).collect();
    assert!(serde_json::from_str::<Value>(&json).unwrap()["city"].is_string());

    let tools = json!([with(function, json!({"type": "function"}))]);
    let body = json!({"max_output_tokens": 300, "temperature": 0, "tool_choice": "required", "tools": tools,
        "input": "Weather?"});
    let whole = server.post("/v1/responses", &body).json();
    let item = whole["output"].as_array().unwrap().last().unwrap();
    assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("weather")));

    let body = with(
        chat("Weather?", 5),
        json!({"tool_choice": "none", "tools": [{"type": "function",
        "function": {"name": "weather"}}]}),
    );
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
}

#[test]
fn thoughts_come_apart_and_end_with_their_budget() {
    let Some(model) = tests::smollm2("thoughts_come_apart_and_end_with_their_budget") else {
        return;
    };
    let model = model.to_str().expect("a UTF-8 path");
    let args = ["--model", model, "--chat-template", "deepseek_r1", "--think-budget", "0.5"];
    let server = Server::start_with(&args);
    let body = with(chat("What is 2+2?", 24), json!({"ignore_eos": false}));
    let whole = server.post("/v1/chat/completions", &body).json();
    let message = &whole["choices"][0]["message"];
    let thoughts = message["reasoning_content"].as_str().unwrap();
    assert!(!thoughts.is_empty() && !thoughts.contains("think>"), "{message}");
    let content = message["content"].as_str().unwrap();
    assert!(
        !content.is_empty() && !content.contains("think>"),
        "the budget leaves room: {message}"
    );
    let streamed = with(body.clone(), json!({"stream": true}));
    let events = server.post("/v1/chat/completions", &streamed).events();
    let deltas = events.iter().filter_map(|e| e["choices"].get(0)).map(|c| &c["delta"]);
    let joined: String = deltas.filter_map(|d| d["reasoning_content"].as_str()).collect();
    assert_eq!(joined, thoughts);
    let message = server.post("/v1/messages", &body).json();
    assert_eq!(message["content"][0]["thinking"], thoughts);
    assert_eq!(message["content"][1]["text"], content);
    let inside = with(body, json!({"reasoning_format": "none"}));
    let inside = server.post("/v1/chat/completions", &inside).json();
    assert!(inside["choices"][0]["message"].get("reasoning_content").is_none());
}
