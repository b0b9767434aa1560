//! Bad requests: each gets its own clear error, and the server goes on.

use std::io::Write;

use serde_json::json;

use crate::support::{
    CHAT, DIALECTS, Dialect, PATIENCE, Server, chat, read, refused, request, with,
};

#[test]
fn bodies_that_are_no_json_object() {
    let server = Server::start(&[]);
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let many = format!("{{\"prompt\":[{}1]}}", "1,".repeat(1 << 20));
    for path in [CHAT, "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize"] {
        refused(&server, path, b"\xff\xfe", 400, "not UTF-8");
        refused(&server, path, b"", 400, "not JSON");
        refused(&server, path, b"{\"a\":", 400, "not JSON");
        refused(&server, path, b"{\"temperature\": NaN}", 400, "not JSON");
        refused(&server, path, b"[]", 400, "expected a JSON object");
        refused(&server, path, deep.as_bytes(), 400, "recursion");
        refused(&server, path, many.as_bytes(), 400, "JSON values");
    }
    assert_eq!(server.post(CHAT, &chat("hi", 1)).status, 200);
}

#[test]
fn a_body_beyond_the_limit_is_refused_before_it_comes() {
    let server = Server::start(&[]);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\ncontent-length: 1073741824\r\n\r\n");
    assert_eq!(server.raw(head.as_bytes()).status, 413);
    let anthropic = head.replace(CHAT, "/v1/messages");
    let reply = server.raw(anthropic.as_bytes());
    assert_eq!(reply.json()["error"]["type"], "request_too_large");
    // nor does it come in chunks
    let mut stream = server.connect();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    let sent = (0..64).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 64, "the server takes 64 MiB");
    assert!(server.resident_kib() < 600 << 10);
}

#[test]
fn values_beyond_their_limits_name_field_and_limit() {
    let server = Server::start(&[]);
    let long = "x".repeat(4096);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let cases = [
        (json!({"n": 17}), "n: is 17, expected 1 to 16"),
        (json!({"n": 0}), "n: is 0"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs: is 21, expected 0 to 20"),
        (json!({"max_tokens": 0}), "max_tokens: is 0"),
        (json!({"max_tokens": -5}), "max_tokens: is -5"),
        (json!({"max_tokens": 1u64 << 31}), "expected 1 to 2147483647"),
        (json!({"max_tokens": "9"}), "max_tokens: is a string"),
        (json!({"temperature": -1}), "temperature is -1"),
        (json!({"temperature": 1e300}), "temperature is inf"),
        (json!({"temperature": []}), "temperature: is an array, expected a number"),
        (json!({"top_p": 2}), "top_p is 2"),
        (json!({"stop": vec!["a"; 17]}), "stop: has 17 strings, at most 16"),
        (json!({"stop": long}), "at most 1024"),
        (json!({"logit_bias": {"99999": 1}}), "logit_bias names token 99999"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias.-1"),
        (json!({"messages": []}), "messages: is empty"),
        (json!({"messages": "hi"}), "messages: is a string"),
        (json!({"messages": null}), "messages: is missing"),
        (json!({"messages": [{"role": "user", "content": {"a": 1}}]}), "messages[0].content"),
        (json!({"stream": "yes"}), "stream: is a string, expected a boolean"),
        (json!({"model": 5}), "model: is a number"),
        (json!({"tools": vec![json!({}); 513]}), "tools: has 513 entries, at most 512"),
        (json!({"tools": [{"type": "function", "function": {"name": "a\"\n"}}]}), "tools: "),
        (json!({"tools": tools, "tool_choice": "maybe"}), "tool_choice: is \"maybe\""),
        (
            json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tools: the model's chat template writes no tool calls",
        ),
        (json!({"response_format": {"type": "xml"}}), "response_format.type: is \"xml\""),
        (json!({"response_format": {"type": "json_schema", "json_schema": {}}}), "is missing"),
        (json!({"json_schema": {"$ref": "#/nowhere"}}), "json_schema: "),
        (json!({"json_schema": {"type": "string", "pattern": "(?=a)b"}}), "json_schema: "),
        (json!({"guided_regex": "(a"}), "guided_regex: "),
        (json!({"grammar": "root ::= nothing"}), "grammar: "),
        (json!({"grammar": "root ::= \"a\"", "guided_regex": "a"}), "cannot be combined"),
        (json!({"guided_choice": ["a", 5]}), "guided_choice[1]: is a number"),
        (json!({"chat_template_kwargs": {"messages": []}}), "cannot be passed"),
    ];
    for (more, expected) in cases {
        let body = with(chat("hi", 2), more);
        refused(&server, CHAT, body.to_string().as_bytes(), 400, expected);
    }
    for (body, expected) in [
        (json!({"prompt": []}), "prompt: is empty"),
        (json!({"prompt": [-1]}), "prompt[0]: -1 is no token id"),
        (json!({"prompt": [1, 768]}), "prompt token 1 is 768, expected one below 768"),
        (json!({"prompt": [1.5]}), "1.5 is no token id"),
        (json!({"prompt": [["a"]]}), "prompt[0][0]"),
        (json!({"prompt": vec!["a"; 257]}), "has 257 prompts, at most 256"),
        (json!({"prompt": {"a": 1}}), "prompt: is an object"),
        (json!({}), "prompt: is missing"),
        (json!({"prompt": "a", "best_of": 5}), "best_of"),
        (json!({"prompt": "a", "suffix": "b"}), "suffix"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs: is 21"),
    ] {
        refused(&server, "/v1/completions", body.to_string().as_bytes(), 400, expected);
    }
    let image = json!({"max_tokens": 5, "messages": [{"role": "user",
        "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]}]});
    refused(&server, "/v1/messages", image.to_string().as_bytes(), 400, "text only");
    let none = json!({"messages": [{"role": "user", "content": "a"}]});
    refused(&server, "/v1/messages", none.to_string().as_bytes(), 400, "max_tokens: is missing");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_both_numbers() {
    let server = Server::start(&[]);
    let body = chat(&"word ".repeat(600), 2).to_string();
    let error = refused(&server, CHAT, body.as_bytes(), 400, "tokens > 512, the maximum");
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    // a stream has not begun either
    let body = with(chat(&"word ".repeat(600), 2), json!({"stream": true})).to_string();
    refused(&server, CHAT, body.as_bytes(), 400, "tokens > 512, the maximum");
}

#[test]
fn what_is_not_known_is_ignored() {
    let server = Server::start(&[]);
    for (path, body) in DIALECTS {
        let unknown = json!({"unheard_of": {"a": [1]}, "store": true, "user": "u", "tools": null});
        let reply = server.post(path, &with(body("hi"), unknown));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[test]
fn paths_in_a_request_open_no_files() {
    let scratch = tests::Scratch::new("paths");
    // whoever opens it waits for a writer
    let pipe = scratch.dir().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo can be run");
    assert!(made.success());
    let fresh = scratch.dir().join("fresh");
    let server = Server::start(&[]);
    let others: [Dialect; 3] = [
        ("/v1/completions", |text| json!({"prompt": text, "max_tokens": 2})),
        ("/tokenize", |text| json!({"content": text})),
        ("/v1/messages/count_tokens", |text| chat(text, 1)),
    ];
    for (path, body) in DIALECTS.into_iter().chain(others) {
        for file in [&pipe, &fresh] {
            let file = file.to_str().unwrap();
            let named = json!({"model": file, "lora": file, "log": file, "mmproj": file,
                "chat_template_kwargs": {"path": file}, "draft_model": file});
            let reply = server.post(path, &with(body("hi"), named));
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert!(!reply.text().contains(file), "{}", reply.text());
        }
    }
    assert!(!fresh.exists(), "nothing is written");
    let body = with(chat("hi", 2), json!({"model": "../../etc/passwd"}));
    assert_eq!(server.post(CHAT, &body).json()["model"], "llama-f32");
    for path in ["/v1/models/../../etc/passwd", "/v1/models/..%2F..%2Fetc%2Fpasswd"] {
        assert_eq!(server.get(path, "").status, 404);
    }
    assert_eq!(server.get("/../../etc/passwd", "").status, 404);
}

#[test]
fn heads_are_bounded() {
    let server = Server::start(&[]);
    let reply = server.get("/health", &"x: y\r\n".repeat(200));
    assert!(matches!(reply.status, 400 | 431), "{reply:?}");
    let reply = server.get("/health", &format!("x: {}\r\n", "y".repeat(1 << 20)));
    assert!(matches!(reply.status, 0 | 400 | 431), "{}", reply.status);
    assert_eq!(server.raw(b"\x16\x03\x01 this is TLS\r\n\r\n").status, 400);
    assert_eq!(server.get("/health", "").status, 200);
}

#[test]
fn idle_and_slow_sockets_change_nothing_and_are_closed() {
    let server = Server::start(&[]);
    let idle: Vec<_> = (0..150).map(|_| server.connect()).collect();
    let mut slow: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nx-slow").unwrap();
    }
    let began = std::time::Instant::now();
    assert_eq!(server.post(CHAT, &chat("hi", 4)).status, 200);
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    for stream in idle.into_iter().chain(slow) {
        // the server closes it: its end comes before the patience ends
        read(stream);
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[test]
fn a_body_that_does_not_come_is_waited_for_a_minute() {
    let server = Server::start(&[]);
    let mut slow: Vec<_> = DIALECTS
        .map(|(path, body)| {
            let mut stream = server.connect();
            let bytes = request(path, "", body("hi").to_string().as_bytes());
            stream.write_all(&bytes[..bytes.len() - 5]).unwrap();
            (path, stream)
        })
        .into();
    let began = std::time::Instant::now();
    assert_eq!(server.post(CHAT, &chat("hi", 4)).status, 200);
    for (path, stream) in slow.drain(..) {
        let reply = read(stream);
        assert_eq!(reply.status, 408, "{path}: {reply:?}");
        reply.error(path, "within 60 seconds");
    }
    assert!((55..90).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[test]
fn a_body_that_breaks_off_costs_nothing() {
    let server = Server::start(&[]);
    for _ in 0..50 {
        let mut stream = server.connect();
        let bytes = request(CHAT, "", chat("hi", 2).to_string().as_bytes());
        stream.write_all(&bytes[..bytes.len() - 5]).unwrap();
    }
    assert_eq!(server.post(CHAT, &chat("hi", 1)).status, 200);
    server.wait_idle();
}
