//! Vectors of texts, over HTTP.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use tests::Scratch;

use crate::support::{Server, request, with};

const PATH: &str = "/v1/embeddings";

fn vector(object: &Value) -> Vec<f64> {
    let numbers = object["embedding"].as_array().unwrap_or_else(|| panic!("{object}"));
    numbers.iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn texts_and_token_ids_alone_and_together_have_the_same_vectors() {
    let server = Server::start(&[]);
    let texts = ["The sky is blue.", "One", "Two words more, and then some of them again."];
    let whole = server.post(PATH, &json!({"input": texts, "model": "any", "user": "u"})).json();
    assert_eq!((&whole["object"], &whole["model"]), (&json!("list"), &json!("llama-f32")));
    let data = whole["data"].as_array().expect("a list");
    assert_eq!(data.len(), 3);
    let (mut ids, mut tokens) = (vec![], 0);
    for (index, (text, object)) in texts.iter().zip(data).enumerate() {
        assert_eq!((&object["object"], &object["index"]), (&json!("embedding"), &json!(index)));
        let expected = vector(object);
        assert_eq!(expected.len(), 64);
        let length: f64 = expected.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        let alone = server.post(PATH, &json!({"input": text})).json();
        assert_eq!(vector(&alone["data"][0]), expected, "{text}");
        let encoded = server.post("/tokenize", &json!({"prompt": text})).json();
        let of_ids = server.post(PATH, &json!({"input": encoded["tokens"], "dimensions": 64}));
        assert_eq!(vector(&of_ids.json()["data"][0]), expected, "{text}");
        assert_eq!(alone["usage"]["prompt_tokens"], encoded["count"]);
        tokens += encoded["count"].as_u64().expect("a number");
        ids.push(encoded["tokens"].clone());
    }
    assert_eq!(whole["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    assert_eq!(server.post(PATH, &json!({"input": ids})).json()["data"], whole["data"]);

    let coded = server.post(PATH, &json!({"input": texts, "encoding_format": "base64"})).json();
    for (object, numbers) in coded["data"].as_array().expect("a list").iter().zip(data) {
        let bytes = decode(object["embedding"].as_str().expect("text"));
        let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4")));
        let numbers = vector(numbers);
        assert!(floats.eq(numbers.iter().map(|&v| v as f32)));
    }
}

/// Base64 with padding.
fn decode(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |c: u8| DIGITS.iter().position(|&d| d == c).map_or(0, |d| d as u32);
    let mut bytes = vec![];
    for four in text.as_bytes().chunks_exact(4) {
        let number = four.iter().fold(0, |n, &c| n << 6 | digit(c));
        let padding = four.iter().filter(|&&c| c == b'=').count();
        bytes.extend_from_slice(&number.to_be_bytes()[1..4 - padding]);
    }
    bytes
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    let server = Server::start(&[]);
    let long: Vec<u32> = (0..600).map(|i| i % 500 + 1).collect();
    let many = vec!["a"; 2049];
    for (body, param, text) in [
        (json!({}), "input", "is missing"),
        (json!({"input": ""}), "input[0]", "is empty"),
        (json!({"input": ["a", ""]}), "input[1]", "is empty"),
        (json!({"input": []}), "input", "is empty"),
        (json!({"input": [[]]}), "input[0]", "empty"),
        (json!({"input": {"text": "a"}}), "input", "expected a string"),
        (json!({"input": [1, "a"]}), "input[1]", "no token id"),
        (json!({"input": [99999]}), "input[0]", "99999"),
        (json!({"input": many}), "input", "2049"),
        (json!({"input": "a", "dimensions": 32}), "dimensions", "64"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format", "base64"),
    ] {
        let reply = server.post(PATH, &body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().expect("text").contains(text), "{error}");
    }
    let reply = server.post(PATH, &json!({"input": ["a", long]}));
    let error = reply.json()["error"].clone();
    assert_eq!((reply.status, &error["param"]), (400, &json!("input[1]")));
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("600") && message.contains("512"), "{message}");
    assert_eq!(server.get(PATH, "").status, 405);
}

#[test]
fn a_client_that_leaves_is_computed_for_no_longer() {
    let server = Server::start(&[]);
    let text: Vec<u32> = (0..500).map(|i| i % 499 + 1).collect();
    let texts: Vec<Vec<u32>> = (0..2000).map(|i| [&[i % 499 + 1][..], &text].concat()).collect();
    let body = json!({"input": texts}).to_string();
    let mut stream = server.connect();
    stream.write_all(&request(PATH, "", body.as_bytes())).expect("it is taken");
    let began = std::time::Instant::now();
    while server.metric("imp_answers_running") == 0.0 {
        assert!(began.elapsed() < crate::support::PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stream);
    server.wait_idle();
    let rows = server.metric("imp_rows_total");
    assert!(rows < 500_000.0, "{rows} rows were computed of a million");
    assert_eq!(server.post(PATH, &json!({"input": "still there"})).status, 200);
}

#[test]
fn requests_are_logged() {
    let scratch = Scratch::new("embeddings-log");
    let log = scratch.dir().join("log.jsonl");
    let server = Server::start(&["--log-requests", log.to_str().expect("UTF-8")]);
    let body = json!({"input": ["one", "two"]});
    server.post(PATH, &with(body.clone(), json!({"model": "m"})));
    let began = std::time::Instant::now();
    let line = loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if let Some(line) = text.lines().next() {
            break serde_json::from_str::<Value>(line).expect("JSON");
        }
        assert!(began.elapsed() < crate::support::PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!((&line["endpoint"], &line["status"]), (&json!(PATH), &json!(200)));
    assert!(line["prompt_tokens"].as_u64().is_some_and(|tokens| tokens >= 2), "{line}");
    assert_eq!(line["request"]["input"], body["input"]);
    assert!(line["error"].is_null());
}
