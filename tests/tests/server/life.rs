//! Clients that come and go, and the server's own end.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::Scratch;

use crate::support::{CHAT, DIALECTS, PATIENCE, Server, chat, read, request, with};

#[test]
fn clients_that_leave_free_their_place_and_change_no_answer() {
    let server = Server::start(&[]);
    let expected = server.post(CHAT, &chat("Tell me", 16)).json();
    let expected = &expected["choices"][0]["message"]["content"];
    // before the answer, while queued, while streaming, and after it
    for round in 0..1000u64 {
        let body = with(chat("Tell me", 400), json!({"stream": round % 2 == 0}));
        let mut stream = server.connect();
        stream.write_all(&request(CHAT, "", body.to_string().as_bytes())).unwrap();
        match round % 3 {
            0 => {}
            1 => std::thread::sleep(Duration::from_millis(round % 7)),
            _ => {
                let mut some = [0; 64];
                stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                let _ = stream.read(&mut some);
            }
        }
        drop(stream);
        if round % 100 == 0 {
            let answer = server.post(CHAT, &chat("Tell me", 16)).json();
            assert_eq!(&answer["choices"][0]["message"]["content"], expected);
        }
    }
    server.wait_idle();
    let answer = server.post(CHAT, &chat("Tell me", 16)).json();
    assert_eq!(&answer["choices"][0]["message"]["content"], expected);
}

#[test]
fn many_at_once_each_get_what_they_get_alone() {
    let server = &Server::start(&["--max-concurrent", "8"]);
    let body =
        |i: usize| with(chat(&format!("Number {i}"), 12), json!({"temperature": 1.0, "seed": i}));
    let text = |reply: Value| reply["choices"][0]["message"]["content"].clone();
    let ask = |i: usize| text(server.post(CHAT, &body(i)).json());
    let ask = &ask;
    let alone: Vec<Value> = (0..64).map(ask).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64).map(|i| scope.spawn(move || ask(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::start(&["--max-concurrent", "1"]);
    let longer = json!({"max_tokens": 100, "max_output_tokens": 100});
    // one runs and 256 wait; all are sent before any is read
    let sent: Vec<_> = (0..400)
        .map(|i| {
            let (path, body) = DIALECTS[i % DIALECTS.len()];
            let body = with(body("Tell me"), longer.clone()).to_string();
            let mut stream = server.connect();
            stream.write_all(&request(path, "", body.as_bytes())).unwrap();
            (path, stream)
        })
        .collect();
    let replies: Vec<_> = sent.into_iter().map(|(path, stream)| (path, read(stream))).collect();
    assert!(replies.iter().filter(|(_, reply)| reply.status == 200).count() >= 257);
    for (path, _) in DIALECTS {
        let refused = replies.iter().filter(|(of, reply)| *of == path && reply.status != 200);
        let refused: Vec<_> = refused.map(|(_, reply)| reply).collect();
        assert!(!refused.is_empty(), "{path}: the queue has no end");
        for reply in refused {
            assert_eq!(reply.status, if path == "/v1/messages" { 529 } else { 503 });
            reply.error(path, "256 requests wait");
            assert_eq!(reply.header("retry-after"), Some("1"));
        }
    }
    server.wait_idle();
    assert_eq!(server.post(CHAT, &chat("hi", 1)).status, 200);
}

#[test]
fn a_waiting_stream_says_that_it_lives() {
    let Some(model) = tests::smollm2("a_waiting_stream_says_that_it_lives") else { return };
    let model = model.to_str().expect("a UTF-8 path");
    let server = Server::start_with(&["--model", model, "--max-concurrent", "1"]);
    let ask = |path: &str, max_tokens: usize| {
        let body = with(chat("Tell me", max_tokens), json!({"stream": true})).to_string();
        let mut stream = server.connect();
        stream.write_all(&request(path, "", body.as_bytes())).unwrap();
        stream
    };
    let mut running = ask(CHAT, 7000);
    running.read_exact(&mut [0; 600]).unwrap();
    for (path, sign) in [(CHAT, ": keep-alive\n\n"), ("/v1/messages", "event: ping\n")] {
        let mut waiting = ask(path, 1);
        let (mut text, began) = (String::new(), Instant::now());
        // the first ping of a message stream is part of its beginning
        let expected = if path == CHAT { 1 } else { 2 };
        while text.matches(sign).count() < expected {
            let mut some = [0; 1024];
            let n = waiting.read(&mut some).unwrap();
            text.push_str(&String::from_utf8_lossy(&some[..n]));
            assert!(began.elapsed() < Duration::from_secs(15), "{text}");
        }
    }
    drop(running);
}

#[test]
fn a_signal_lets_started_answers_finish() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&[]);
        let expected = server.post(CHAT, &chat("Tell me", 300)).json();
        let body = with(chat("Tell me", 300), json!({"stream": true})).to_string();
        let mut stream = server.connect();
        stream.write_all(&request(CHAT, "", body.as_bytes())).unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        server.signal(signal);
        server.line("stopping");
        let mut rest = vec![];
        stream.read_to_end(&mut rest).unwrap();
        let text = String::from_utf8(rest).unwrap();
        assert!(text.contains("data: [DONE]"), "{text}");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let content: String = events
            .filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(expected["choices"][0]["message"]["content"], content);
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn answers_that_are_not_whole_in_time_end_with_an_error() {
    let mut server = Server::start(&["--grace", "0"]);
    let endless = json!({"prompt": vec!["a"; 200], "n": 16, "max_tokens": 500, "ignore_eos": true});
    let clients = [true, false].map(|streams| {
        let body = with(endless.clone(), json!({"stream": streams})).to_string();
        let mut client = server.connect();
        client.write_all(&request("/v1/completions", "", body.as_bytes())).unwrap();
        client
    });
    let began = Instant::now();
    while server.metric("imp_answers_running") == 0.0 {
        assert!(began.elapsed() < PATIENCE);
    }
    server.signal("-TERM");
    server.line("cut off");
    for (mut client, begin) in clients.into_iter().zip(["200", "503"]) {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {begin}")), "{text}");
        let told = text.contains("the server stopped before the answer was whole");
        assert!(told && text.contains("\"error\""), "{text}");
    }
    assert_eq!(server.end(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_the_end_up() {
    let mut server = Server::start(&[]);
    let idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let began = Instant::now();
    server.signal("-TERM");
    assert_eq!(server.end(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    drop(idle);
}

#[test]
fn a_client_that_goes_away_is_in_the_log() {
    let scratch = Scratch::new("log-of-the-gone");
    let path = scratch.file("log.jsonl", "");
    let server = Server::start(&["--log-requests", &path]);
    for (round, stream) in [false, true].into_iter().enumerate() {
        let body = with(chat("Tell me", 480), json!({"stream": stream}));
        let mut client = server.connect();
        client.write_all(&request(CHAT, "", body.to_string().as_bytes())).unwrap();
        let began = Instant::now();
        while server.metric("imp_answers_running") == 0.0 {
            assert!(began.elapsed().as_secs() < 20, "it does not begin");
        }
        drop(client);
        let line = loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Some(line) = text.lines().nth(round) {
                break serde_json::from_str::<Value>(line).unwrap();
            }
            assert!(began.elapsed().as_secs() < 20, "stream {stream}: no line");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(line["status"], 499, "{line}");
        assert_eq!(line["error"], "the client went away");
        assert_eq!(line["request"]["messages"][0]["content"], "Tell me");
    }
}

#[test]
fn clients_that_leave_the_queue_are_not_waited_for() {
    let server = Server::start(&["--max-concurrent", "1"]);
    let mut running = server.connect();
    let body = with(chat("Tell me", 480), json!({"stream": true}));
    running.write_all(&request(CHAT, "", body.to_string().as_bytes())).unwrap();
    running.read_exact(&mut [0; 200]).unwrap();
    let waiting: Vec<_> = DIALECTS
        .into_iter()
        .flat_map(|dialect| [(dialect, false), (dialect, true)])
        .map(|((path, body), stream)| {
            let mut client = server.connect();
            let body = with(body("hi"), json!({"stream": stream})).to_string();
            client.write_all(&request(path, "", body.as_bytes())).unwrap();
            client
        })
        .collect();
    let began = Instant::now();
    while server.metric("imp_requests_waiting") < 1.0 && server.metric("imp_answers_running") > 0.0
    {
        assert!(began.elapsed().as_secs() < 20, "none waits");
    }
    drop(waiting);
    drop(running);
    server.wait_idle();
    assert_eq!(server.post(CHAT, &chat("hi", 1)).status, 200);
}

#[test]
fn the_log_has_a_line_a_request_and_a_full_disk_ends_nothing() {
    let scratch = Scratch::new("request-log");
    let path = scratch.file("log.jsonl", "{\"before\":1}\n");
    let server = Server::start(&["--log-requests", &path]);
    let answer = server.post(CHAT, &chat("hi", 4)).json();
    let streamed = with(chat("hi", 4), json!({"stream": true}));
    server.post(CHAT, &streamed);
    server.wait_idle();
    let began = Instant::now();
    let lines = loop {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.len() == 3 {
            break lines;
        }
        assert!(began.elapsed().as_secs() < 20, "{text}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(lines[0]["before"], 1, "what was there stays");
    for line in &lines[1..] {
        assert_eq!((&line["status"], &line["error"]), (&json!(200), &Value::Null));
        assert_eq!(line["response"][0]["content"], answer["choices"][0]["message"]["content"]);
        assert_eq!(line["request"]["messages"][0]["content"], "hi");
        assert_eq!(line["completion_tokens"], 4);
    }
    let full = Server::start(&["--log-requests", "/dev/full"]);
    for _ in 0..3 {
        assert_eq!(full.post(CHAT, &chat("hi", 1)).status, 200);
    }
    full.line("--log-requests cannot be written");
}

#[test]
fn memory_does_not_grow_with_requests() {
    let server = Server::start(&[]);
    let ask = |count: usize| {
        for _ in 0..count {
            let mut stream = server.connect();
            let body = with(chat("hi", 2), json!({"stream": true})).to_string();
            stream.write_all(&request(CHAT, "", body.as_bytes())).unwrap();
            assert_eq!(read(stream).status, 200);
        }
    };
    ask(200);
    let before = server.resident_kib();
    ask(2000);
    let after = server.resident_kib();
    assert!(after < before + before / 50 + 1024, "{before} KiB became {after}");
}
