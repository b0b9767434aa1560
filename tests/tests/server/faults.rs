//! What goes wrong beside a request: the device, the memory of many bodies, the neighbours in a batch.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Scratch, data};

use crate::support::{CHAT, DIALECTS, MODEL, Server, chat, read, request, with};

/// The model's file is cut while it is mapped: what is computed from then on is worth nothing.
#[test]
fn a_fault_ends_what_runs_and_nothing_is_answered_afterwards() {
    let scratch = Scratch::new("fault");
    let path = scratch.file("model.gguf", std::fs::read(data(MODEL)).unwrap());
    let server = Server::start_with(&["--model", &path, "--threads", "1"]);
    let mut running: Vec<_> = DIALECTS
        .map(|(path, body)| {
            let long = json!({"stream": true, "max_tokens": 480, "max_output_tokens": 480,
                "ignore_eos": true, "temperature": 0});
            let body = with(body("Tell me"), long).to_string();
            let mut stream = server.connect();
            stream.write_all(&request(path, "", body.as_bytes())).unwrap();
            (path, stream)
        })
        .into();
    for (_, stream) in &mut running {
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    for (path, stream) in running {
        let mut text = String::new();
        let mut stream = stream;
        stream.read_to_string(&mut text).unwrap();
        let sign = match path {
            CHAT => "data: {\"error\":",
            "/v1/messages" => "event: error\n",
            _ => "event: response.failed\n",
        };
        assert!(text.contains(sign), "{path}: {text}");
        assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "{path}: {text}");
    }
    let health = server.get("/health", "");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["error"]["code"], "engine_failed");
    assert_eq!(server.get("/ready", "").status, 503);
    for (path, body) in DIALECTS {
        let reply = server.post(path, &body("hi"));
        assert_eq!(reply.status, if path == "/v1/messages" { 529 } else { 503 }, "{path}");
        reply.error(path, "must be started again");
    }
    assert_eq!(server.get("/v1/models", "").status, 200, "it still speaks");
}

/// Bodies that are kept, here for the log, count until their requests are answered.
#[test]
fn all_bodies_together_are_bounded_also_while_they_wait() {
    let scratch = Scratch::new("bodies-log");
    let log = scratch.dir().join("log.jsonl");
    let log = log.to_str().expect("UTF-8");
    let server = Server::start(&["--max-concurrent", "1", "--log-requests", log]);
    let mut running = server.connect();
    let many = json!({"prompt": vec!["a"; 256], "n": 16, "max_tokens": 500, "ignore_eos": true, "stream": true});
    running.write_all(&request("/v1/completions", "", many.to_string().as_bytes())).unwrap();
    running.read_exact(&mut [0; 100]).unwrap();
    let ask = |mib: usize| {
        let large = json!({"stream": true, "user": "x".repeat(mib << 20)});
        let large = with(chat("hi", 1), large).to_string();
        let mut client = server.connect();
        client.write_all(&request(CHAT, "", large.as_bytes())).unwrap();
        let mut head = [0; 12];
        client.read_exact(&mut head).unwrap();
        let status: u16 = std::str::from_utf8(&head[9..]).unwrap().parse().unwrap();
        (client, status)
    };
    // the streams begin at once, and their answers wait
    let waiting: Vec<_> = (0..8).map(|_| ask(30)).collect();
    assert!(waiting.iter().all(|(_, status)| *status == 200));
    let began = Instant::now();
    assert_eq!(server.metric("imp_requests_waiting"), 8.0, "the first is still running");
    // its last bytes are too many
    let (mut client, status) = ask(16);
    assert_eq!(status, 503);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("too many large requests at once") && rest.contains("retry-after"));
    assert_eq!(server.post(CHAT, &json!({"messages": []})).status, 400, "small ones go on");
    drop((waiting, running));
    server.wait_idle();
    while ask(16).1 != 200 {
        assert!(began.elapsed().as_secs() < 60, "their room is not given back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Different settings side by side: each answer is the one that it is alone.
#[test]
fn neighbours_in_a_batch_share_no_state() {
    let server = &Server::start(&["--max-concurrent", "8"]);
    let settings = [
        json!({}),
        json!({"temperature": 1.2, "seed": 5, "repeat_penalty": 1.4}),
        json!({"temperature": 1.0, "seed": 6, "frequency_penalty": 1.5, "presence_penalty": 1.0}),
        json!({"guided_regex": "([0-9]{3}-){2,4}x", "temperature": 1.0, "seed": 7, "ignore_eos": false}),
        json!({"guided_json": {"type": "object", "properties": {"a": {"type": "integer"}},
            "required": ["a"]}, "temperature": 1.0, "seed": 8, "ignore_eos": false}),
        json!({"dry_multiplier": 0.8, "temperature": 0.9, "seed": 9}),
        json!({"logprobs": true, "top_logprobs": 3, "temperature": 1.0, "seed": 10}),
        json!({"logit_bias": {"301": 5, "302": 5, "303": 5}, "bad_words": ["ab", "the"], "seed": 11}),
        json!({"stop": ["e"], "min_tokens": 6, "temperature": 1.0, "seed": 12}),
        json!({"mirostat": 2, "temperature": 1.0, "seed": 13}),
    ];
    let body =
        |i: usize| with(chat(&format!("Number {i}"), 24), settings[i % settings.len()].clone());
    let answer = |reply: Value| reply["choices"][0].clone();
    let ask = |i: usize| answer(server.post(CHAT, &body(i)).json());
    let ask = &ask;
    let count = 4 * settings.len();
    let alone: Vec<Value> = (0..count).map(ask).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|i| scope.spawn(move || ask(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone, together);
        assert!(alone["message"]["content"].is_string(), "{alone}");
    }
}

#[test]
fn scores_of_prompts_that_nobody_waits_for_are_dropped() {
    let server = Server::start(&["--max-concurrent", "2"]);
    let prompts: Vec<Vec<u32>> =
        (0..64).map(|i| (0..500).map(|k| (k * 7 + i) % 700 + 3).collect()).collect();
    let body = json!({"prompt": prompts, "max_tokens": 0, "echo": true, "logprobs": 0}).to_string();
    for _ in 0..20 {
        let mut stream = server.connect();
        stream.write_all(&request("/v1/completions", "", body.as_bytes())).unwrap();
        std::thread::sleep(Duration::from_millis(15));
        drop(stream);
    }
    let began = Instant::now();
    let mut stream = server.connect();
    stream.write_all(&request(CHAT, "", chat("hi", 1).to_string().as_bytes())).unwrap();
    assert_eq!(read(stream).status, 200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    server.wait_idle();
}
