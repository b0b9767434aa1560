//! What each endpoint answers, streamed and in one piece.

use serde_json::{Value, json};

use crate::support::{Server, chat, with};

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
