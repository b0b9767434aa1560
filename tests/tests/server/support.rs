//! A server while a test runs, and the plainest client there is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Scratch, data, imp_server};

/// Random weights, a vocabulary of 768 tokens, a context of 512, a chat template.
pub const MODEL: &str = "tiny/llama/llama-f32.gguf";

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running server; a test that fails leaves no process behind.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    lines: Mutex<Receiver<String>>,
}

impl Server {
    /// Starts one on a free port, and waits until it answers.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(&[&["--model", MODEL, "--threads", "1"], args].concat())
    }

    /// The same with another model.
    pub fn start_with(args: &[&str]) -> Self {
        let mut child = imp_server()
            .args(["--port", "0", "--gpu-layers", "0"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server can be started");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server =
            Self { child, address: ([127, 0, 0, 1], 0).into(), lines: Mutex::new(lines) };
        let listening = server.line("listening on http://");
        let (_, address) = listening.rsplit_once('/').expect("an address");
        server.address = address.parse().expect("an address");
        server.line("ready");
        server
    }

    /// Waits for a line on stderr that holds `text`.
    pub fn line(&self, text: &str) -> String {
        loop {
            let line = self
                .lines
                .lock()
                .expect("no test failed")
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(!line.contains("panicked"), "{line}");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(sent.expect("kill can be run").success());
    }

    /// Waits for its end; gives the exit code.
    pub fn end(&mut self) -> Option<i32> {
        self.child.wait().expect("a child can be waited for").code()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is listed");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    /// Sends bytes and reads to the end of the connection. What cannot be sent any more, because
    /// the server has answered and left, is not sent.
    pub fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        read(stream)
    }

    /// A request without a body.
    pub fn get(&self, path: &str, headers: &str) -> Reply {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{headers}\r\n")
                .as_bytes(),
        )
    }

    /// A request with these bytes.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Reply {
        self.raw(&request(path, "", body))
    }

    /// A request with JSON.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// What `/metrics` says of one metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", "").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().expect("a number")
    }

    /// Waits until nothing is computed.
    pub fn wait_idle(&self) {
        let began = std::time::Instant::now();
        while self.metric("imp_answers_running") + self.metric("imp_requests_waiting") > 0.0 {
            assert!(began.elapsed() < PATIENCE, "answers go on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // both fail when it has ended
        let _ = self.child.wait();
    }
}

/// The bytes of a POST.
pub fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads a response to the end of its connection.
pub fn read(mut stream: TcpStream) -> Reply {
    let mut bytes = vec![];
    let _ = stream.read_to_end(&mut bytes); // what came before a reset counts
    Reply::parse(&bytes)
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let Some(split) = split else {
            return Self { status: 0, head: String::new(), body: bytes.to_vec() };
        };
        let head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = &bytes[split + 4..];
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_vec() };
        Self { status, head, body }
    }

    /// The error in it, in the shape of the path's dialect, with a message that holds `expected`.
    pub fn error(&self, path: &str, expected: &str) -> Value {
        let json = self.json();
        let error = &json["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{path}: {message:?}, expected {expected:?}");
        let anthropic = path.starts_with("/v1/messages");
        assert_eq!(json["type"] == "error", anthropic, "{json}");
        assert!(error["type"].is_string(), "{json}");
        assert_eq!(error.get("param").is_some() && error.get("code").is_some(), !anthropic);
        json
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The JSON of each event of a stream; `[DONE]` becomes a string.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
    }

    /// Names of a stream's events.
    pub fn names(&self) -> Vec<String> {
        let text = self.text();
        text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
    }
}

/// Chunked encoding undone, as far as it came.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = vec![];
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap_or("0");
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = bytes.get(end + 2..end + 2 + size).filter(|_| size > 0) else { break };
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    body
}

/// A short greedy chat.
pub fn chat(content: &str, max_tokens: usize) -> Value {
    json!({
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": true,
    })
}

/// `base` with these fields set.
pub fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        base[key] = value.clone();
    }
    base
}

/// A tiny model with a template that writes calls as Hermes does; gives its path.
pub fn tools_model(scratch: &Scratch) -> String {
    for entry in std::fs::read_dir(data("tiny/qwen3")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, scratch.dir().join(path.file_name().unwrap())).unwrap();
    }
    scratch.file("chat_template.jinja", HERMES);
    scratch.dir().to_str().expect("a UTF-8 path").to_owned()
}

const HERMES: &str = r#"{%- if tools %}{{ tools | tojson }}
Call one: <tool_call>{"name": a name, "arguments": an object}</tool_call>
{% endif %}{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"#;

/// A path, and the body of a small request there that says something.
pub type Dialect = (&'static str, fn(&str) -> Value);

/// Every dialect that has conversations.
pub const DIALECTS: [Dialect; 3] = [
    (CHAT, |content| chat(content, 4)),
    ("/v1/messages", |content| chat(content, 4)),
    ("/v1/responses", |content| json!({"input": content, "max_output_tokens": 4})),
];

/// The path of OpenAI's chats.
pub const CHAT: &str = "/v1/chat/completions";

/// Checks an error: its status, a message that holds `expected`, the shape of the path's dialect.
pub fn refused(server: &Server, path: &str, body: &[u8], status: u16, expected: &str) -> Value {
    let reply = server.post_bytes(path, body);
    assert_eq!(reply.status, status, "{path}, {expected:?}: {}", reply.text());
    reply.error(path, expected)
}
