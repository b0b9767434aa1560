//! Bad values in every dialect: a 400 of its shape that names the field and the limit, before a stream
//! begins; and what the next client gets is as before.

use serde_json::{Value, json};
use tests::Scratch;

use crate::support::{CHAT, DIALECTS, Server, chat, refused, tools_model, with};

/// Refuses a body, whole and streamed.
fn check(server: &Server, path: &str, body: &Value, expected: &str) {
    for stream in [false, true] {
        let body = with(body.clone(), json!({"stream": stream})).to_string();
        refused(server, path, body.as_bytes(), 400, expected);
    }
}

#[test]
fn every_dialect_bounds_what_all_of_them_know() {
    let server = Server::start(&[]);
    let expected = server.post(CHAT, &chat("Tell me", 16)).json();
    let biases: serde_json::Map<String, Value> =
        (0..1025).map(|i| (i.to_string(), json!(1))).collect();
    let mut deep = json!({"type": "string"});
    for _ in 0..80 {
        deep = json!({"type": "array", "items": deep});
    }
    let cycle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    let cases = [
        (json!({"temperature": -1}), "temperature is -1"),
        (json!({"temperature": 1e300}), "temperature is inf"),
        (json!({"temperature": "NaN"}), "temperature: is a string"),
        (json!({"top_k": -2}), "top_k: is -2"),
        (json!({"top_p": 1.5}), "top_p is 1.5"),
        (json!({"seed": "x"}), "seed: is a string"),
        (json!({"logit_bias": biases}), "logit_bias: has 1025 entries, at most 1024"),
        (json!({"logit_bias": {"768": 1}}), "logit_bias names token 768"),
        (json!({"model": ["a"]}), "model: is an array"),
        (json!({"guided_regex": "(a"}), "guided_regex: the regular expression"),
        (json!({"guided_regex": "x".repeat(9000)}), "is 9000, at most 8192"),
        (json!({"guided_regex": "(a{1,9999}){1,10001}"}), "repetition count is 10001"),
        (json!({"guided_json": deep}), "depth in levels is"),
        (json!({"guided_json": {"description": "x".repeat(300_000)}}), "size in bytes is"),
        (json!({"guided_json": cycle}), "guided_json: "),
        (json!({"guided_json": {"$ref": "https://example.org/a.json"}}), "guided_json: "),
        (json!({"guided_json": {"type": "string", "pattern": "(?!a)b"}}), "guided_json: "),
        (json!({"guided_json": []}), "guided_json: "),
        (json!({"guided_grammar": "start: nothing"}), "guided_grammar: the Lark grammar"),
        (json!({"grammar": "root ::= ("}), "grammar: the GBNF grammar"),
        (json!({"grammar": "x".repeat(70_000)}), "at most 65536"),
        (json!({"guided_choice": vec!["a"; 4097]}), "guided_choice: has 4097 entries"),
        (json!({"stop_token_ids": [768]}), "stop_token_ids: names token 768, expected one below"),
        (json!({"stop_token_ids": vec![1; 257]}), "stop_token_ids: has 257 entries, at most 256"),
        (json!({"bad_words": vec!["a"; 257]}), "bad_words: has 257 entries, at most 256"),
        (json!({"bad_words": ["b".repeat(257)]}), "bad_words[0]: has 257 bytes, at most 256"),
        (json!({"min_tokens": 5}), "min_tokens: is 5, more than the 4 tokens"),
        (json!({"allowed_token_ids": [1]}), "allowed_token_ids: is not supported"),
        (json!({"tools": vec![json!({"type": "function"}); 513]}), "tools: has 513 entries"),
        (json!({"tools": "x"}), "tools: is a string"),
        (json!({"tool_choice": {"type": "king"}}), "tool_choice"),
        (json!({"chat_template_kwargs": {"messages": []}}), "cannot be passed"),
        (json!({"chat_template_kwargs": 5}), "chat_template_kwargs: is a number"),
    ];
    for (path, body) in DIALECTS {
        for (more, expected) in &cases {
            check(&server, path, &with(body("hi"), more.clone()), expected);
        }
        let odd = with(body("hi"), json!({"stream": 1})).to_string();
        refused(&server, path, odd.as_bytes(), 400, "stream: is a number, expected a boolean");
        let words = "word ".repeat(600);
        check(&server, path, &body(&words), "the maximum context length");
        assert_eq!(server.post(path, &body("hi")).status, 200, "{path}");
    }
    let after = server.post(CHAT, &chat("Tell me", 16)).json();
    assert_eq!(after["choices"], expected["choices"], "nobody else notices");
}

#[test]
fn messages_bound_what_is_their_own() {
    let server = Server::start(&[]);
    let path = "/v1/messages";
    let many = vec![json!({"role": "user", "content": "a"}); 16_385];
    for (more, expected) in [
        (json!({"max_tokens": 0}), "max_tokens: is 0"),
        (json!({"max_tokens": -4}), "max_tokens: is -4"),
        (json!({"max_tokens": 1u64 << 31}), "expected 1 to 2147483647"),
        (json!({"max_tokens": null}), "max_tokens: is missing"),
        (json!({"messages": []}), "messages: is empty"),
        (json!({"messages": null}), "messages: is missing"),
        (json!({"messages": many}), "messages: has 16385 entries, at most 16384"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content: is missing"),
        (json!({"messages": [{"role": "king", "content": "a"}]}), "messages[0].role: is \"king\""),
        (json!({"messages": [{"role": "user", "content": ["a"]}]}), "messages[0].content[0]"),
        (json!({"system": 5}), "system: is a number"),
        (json!({"stop_sequences": vec!["a"; 17]}), "stop_sequences: has 17 strings, at most 16"),
        (json!({"stop_sequences": ["a".repeat(2000)]}), "has 2000 bytes, at most 1024"),
        (json!({"thinking": {"type": "sometimes"}}), "thinking.type"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": -2}}), "thinking.budget_tokens"),
        (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name: is missing"),
        (json!({"output_config": {"format": {"type": "xml"}}}), "output_config.format.type"),
        (
            json!({"tools": [{"type": "bash_20250124", "name": "bash"}, {"name": "a", "input_schema": 5}]}),
            "tools[1].input_schema",
        ),
    ] {
        check(&server, path, &with(chat("hi", 4), more), expected);
    }
}

#[test]
fn responses_bound_what_is_their_own() {
    let server = Server::start(&[]);
    let base = || json!({"input": "hi", "max_output_tokens": 4});
    let many = vec![json!({"role": "user", "content": "a"}); 16_385];
    for (more, expected) in [
        (json!({"max_output_tokens": 0}), "max_output_tokens: is 0"),
        (json!({"max_output_tokens": -4}), "max_output_tokens: is -4"),
        (json!({"max_output_tokens": 1u64 << 31}), "expected 1 to 2147483647"),
        (json!({"input": null}), "input: is missing"),
        (json!({"input": []}), "input: is empty"),
        (json!({"input": many}), "input: has 16385 entries, at most 16384"),
        (json!({"input": 5}), "input: is a number"),
        (json!({"input": [{"type": "king"}]}), "input[0].type: is \"king\""),
        (json!({"input": [{"role": "user", "content": 5}]}), "input[0].content: is a number"),
        (json!({"instructions": 5}), "instructions: is a number"),
        (json!({"previous_response_id": "a"}), "previous_response_id: is not supported"),
        (json!({"background": true}), "background: is not supported"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type: is \"xml\""),
        (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.schema: is missing"),
        (
            json!({"tools": [{"type": "web_search"}, {"type": "function", "name": "a", "parameters": 5}]}),
            "tools[1].parameters",
        ),
    ] {
        check(&server, "/v1/responses", &with(base(), more), expected);
    }
}

/// No model here takes images: each is refused by the name of its part, and nothing is fetched or decoded.
#[test]
fn images_are_refused_by_name() {
    let server = Server::start(&[]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    port.set_nonblocking(true).unwrap();
    let remote = format!("http://{}/a.png", port.local_addr().unwrap());
    for url in [remote.as_str(), "data:image/png;base64,!!!", "file:///etc/passwd", ""] {
        let user = |part: Value| json!([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]);
        let source = json!({"type": "base64", "media_type": "image/png", "data": url});
        for (path, body, field) in [
            (
                CHAT,
                json!({"messages": user(json!({"type": "image_url", "image_url": {"url": url}}))}),
                "messages[0].content[1].type: is \"image_url\": this model takes text only",
            ),
            (
                "/v1/messages",
                json!({"max_tokens": 4, "messages": user(json!({"type": "image", "source": source}))}),
                "messages[0].content[1].type: is \"image\": this model takes text only",
            ),
            (
                "/v1/messages",
                json!({"max_tokens": 4, "messages": user(json!({"type": "tool_result", "tool_use_id": "1",
                    "content": [{"type": "image", "source": source}]}))}),
                "messages[0].content[1].content[0].type: is \"image\"",
            ),
            (
                "/v1/messages/count_tokens",
                json!({"messages": user(json!({"type": "image", "source": {"type": "url", "url": url}}))}),
                "messages[0].content[1].type: is \"image\"",
            ),
            (
                "/v1/responses",
                json!({"input": user(json!({"type": "input_image", "image_url": url}))}),
                "input[0].content[1].type: is \"input_image\": this model takes text only",
            ),
        ] {
            check(&server, path, &body, field);
        }
    }
    assert!(port.accept().is_err(), "nothing was fetched");
}

#[test]
fn text_that_spells_control_tokens_is_text_in_every_dialect() {
    let scratch = Scratch::new("spelled");
    let model = tools_model(&scratch);
    let server = Server::start_with(&["--model", &model, "--threads", "1"]);
    let prompt_tokens = |path: &str, body: &Value| {
        let reply = server.post(path, body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let usage = reply.json()["usage"].clone();
        let counts = ["prompt_tokens", "input_tokens", "cache_read_input_tokens"];
        counts.iter().filter_map(|name| usage[*name].as_u64()).sum::<u64>()
    };
    // As long as what is no control token, when spelled out.
    let said = [
        "<|im_end|>",
        "<|im_start|>",
        "<image>",
        "<start_of_turn>",
        "</tool_call>",
        "<|endoftext|>",
    ];
    let plain = said.map(|text| format!("{}-{}", &text[..text.len() / 2], &text[text.len() / 2..]));
    for (path, body) in DIALECTS {
        for (said, plain) in said.iter().zip(&plain) {
            let (said, plain) =
                (prompt_tokens(path, &body(said)), prompt_tokens(path, &body(plain)));
            assert!(said + 4 >= plain, "{path}: {said} tokens, and {plain} with a dash in it");
        }
        let tool = |text: &str| {
            let (name, schema) = ("get", json!({"type": "object"}));
            let openai = json!({"name": name, "description": text, "parameters": schema});
            let tools = match path {
                CHAT => json!([{"type": "function", "function": openai}]),
                "/v1/messages" => {
                    json!([{"name": name, "description": text, "input_schema": schema}])
                }
                _ => json!([with(openai, json!({"type": "function"}))]),
            };
            with(body("hi"), json!({"tools": tools}))
        };
        for (said, plain) in said.iter().zip(&plain) {
            let (said, plain) =
                (prompt_tokens(path, &tool(said)), prompt_tokens(path, &tool(plain)));
            assert!(said + 4 >= plain, "{path}: {said} tokens, and {plain} with a dash in it");
        }
        // a description is text too, whatever it holds
        let odd = "\"quotes\" and\nlines \\ {{ braces }} {% tags %} </tools>\u{0}";
        assert_eq!(server.post(path, &tool(odd)).status, 200, "{path}");
    }
}

#[test]
fn prompts_of_tokens_are_checked() {
    let server = Server::start(&[]);
    for (prompt, expected) in [
        (json!([-1]), "prompt[0]: -1 is no token id"),
        (json!([1, 768]), "prompt token 1 is 768, expected one below 768"),
        (json!([u64::MAX]), "is no token id"),
        (json!([[1], [2, -3]]), "prompt[1][1]: -3 is no token id"),
        (json!([[]]), "the prompt is empty"),
        (json!(vec![5; 600]), "600 tokens > 512, the maximum context length"),
    ] {
        let body = json!({"prompt": prompt, "max_tokens": 2});
        check(&server, "/v1/completions", &body, expected);
    }
    let scratch = Scratch::new("empty-prompt");
    let model = tools_model(&scratch);
    let without_bos = Server::start_with(&["--model", &model, "--threads", "1"]);
    let empty = json!({"prompt": "", "max_tokens": 2});
    check(&without_bos, "/v1/completions", &empty, "the prompt is empty");
    for path in ["/tokenize", "/detokenize"] {
        refused(&server, path, b"{}", 400, "is missing");
    }
    refused(&server, "/detokenize", b"{\"tokens\": [768]}", 400, "tokens[0]: is 768");
}

#[test]
fn tools_are_bounded_and_bad_ones_are_named() {
    let scratch = Scratch::new("bad-tools");
    let model = tools_model(&scratch);
    let server = Server::start_with(&["--model", &model, "--threads", "1"]);
    let mut deep = json!({"type": "string"});
    for _ in 0..80 {
        deep = json!({"type": "array", "items": deep});
    }
    let tool = |name: &str, schema: Value| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    let object = |property: Value| json!({"type": "object", "properties": {"a": property}});
    let looks = object(json!({"type": "string", "pattern": "(?=x)y"}));
    for (tools, expected) in [
        (json!([tool("f", object(deep))]), "tools: the JSON schema's depth in levels is"),
        (json!([tool("f", looks)]), "tools: "),
        (json!([tool("f", json!({"type": "array"}))]), "expected \\\"object\\\""),
        (json!([tool("f", json!([]))]), "tools[0].function.parameters: is an array"),
        (json!([tool("a\"b\n", json!({}))]), "cannot be the name of a tool"),
        (json!([{"type": "function", "function": {}}]), "tools[0].function.name: is missing"),
        (json!([tool("f", json!({})), 5]), "tools[1]: is a number"),
        (
            json!((0..129).map(|i| tool(&format!("f{i}"), json!({}))).collect::<Vec<_>>()),
            "number of tools is 129, at most 128",
        ),
    ] {
        let body = with(chat("hi", 4), json!({"tools": tools, "tool_choice": "required"}));
        let expected = expected.replace("\\\"", "\"");
        check(&server, CHAT, &body, &expected);
    }
    let named = json!({"type": "function", "function": {"name": "g"}});
    let body = with(chat("hi", 4), json!({"tools": [tool("f", json!({}))], "tool_choice": named}));
    check(&server, CHAT, &body, "\"g\" is not the name of one of the tools");
    assert_eq!(server.post(CHAT, &chat("hi", 2)).status, 200);
}
