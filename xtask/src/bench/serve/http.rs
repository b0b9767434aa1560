//! Requests over sockets: HTTP/1.1 as far as a measurement needs it, so that nothing of a client
//! stands between the socket and the clock.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::TaskError;

/// Longest silence of a server.
const PATIENCE: Duration = Duration::from_secs(120);

/// A response whose head was read.
struct Response {
    status: u16,
    reader: BufReader<TcpStream>,
    framing: Framing,
}

/// How the length of a body is told.
enum Framing {
    Length(usize),
    Chunks,
}

impl Response {
    fn read(stream: TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let status = line(&mut reader)?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| bad("no status line"))?;
        let mut framing = Framing::Length(0);
        loop {
            let header = line(&mut reader)?.to_ascii_lowercase();
            match header.split_once(':') {
                Some(("content-length", length)) => {
                    let length = length.trim().parse().map_err(|_| bad("content-length"))?;
                    framing = Framing::Length(length);
                }
                Some(("transfer-encoding", _)) => framing = Framing::Chunks,
                Some(_) => {}
                None => return Ok(Self { status, reader, framing }),
            }
        }
    }

    /// The next piece of the body; `None` at its end.
    fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = match &mut self.framing {
            Framing::Length(length) => std::mem::take(length),
            Framing::Chunks => {
                let size = line(&mut self.reader)?;
                usize::from_str_radix(size.trim(), 16).map_err(|_| bad("size of a chunk"))?
            }
        };
        let mut piece = vec![0; length];
        self.reader.read_exact(&mut piece)?;
        if matches!(self.framing, Framing::Chunks) {
            line(&mut self.reader)?;
        }
        Ok((length > 0).then_some(piece))
    }

    fn text(&mut self) -> io::Result<String> {
        let mut all = vec![];
        while let Some(piece) = self.piece()? {
            all.extend(piece);
        }
        String::from_utf8(all).map_err(|_| bad("text"))
    }
}

/// A line without its end.
fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {what} in a response"))
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What a path answers: status and body.
///
/// # Errors
/// What the socket says.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut response = Response::read(stream)?;
    Ok((response.status, response.text()?))
}

/// What came of a stream.
#[derive(Clone, Debug, Default)]
pub struct Streamed {
    /// From the request's last byte to the first event, in seconds.
    pub first: f64,
    /// Tokens that the server counted; 0 in a stream that was left early.
    pub tokens: usize,
    /// Prompt tokens that it had computed before.
    pub cached: usize,
}

/// Completes a prompt greedily, past the end of an answer. `each` hears when a token's text came, and
/// says whether to go on.
///
/// # Errors
/// What the socket says; an answer that is an error, or ends before its end.
pub fn complete(
    address: SocketAddr,
    prompt: &[u32],
    max_tokens: usize,
    mut each: impl FnMut(Instant) -> bool,
) -> Result<Streamed, TaskError> {
    let failed = |error: io::Error| TaskError::Other(format!("a completion: {error}"));
    let body = json!({
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
    .to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = connect(address).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let sent = Instant::now();
    let mut response = Response::read(stream).map_err(failed)?;
    if response.status != 200 {
        let text = response.text().map_err(failed)?;
        return Err(TaskError::Other(format!("a completion: HTTP {}: {text}", response.status)));
    }
    let mut streamed = Streamed { first: f64::NAN, ..Streamed::default() };
    let mut events = Events::default();
    while let Some(piece) = response.piece().map_err(failed)? {
        let now = Instant::now();
        for event in events.take(&piece) {
            if streamed.first.is_nan() {
                streamed.first = (now - sent).as_secs_f64();
            }
            if event == "[DONE]" {
                return Ok(streamed);
            }
            match Said::of(&event)? {
                Said::Text if !each(now) => return Ok(streamed),
                Said::Usage { tokens, cached } => {
                    (streamed.tokens, streamed.cached) = (tokens, cached)
                }
                _ => {}
            }
        }
    }
    Err(TaskError::Other("a completion ended without its end".into()))
}

/// Cuts pieces of a stream into the data of its events.
#[derive(Default)]
struct Events {
    rest: String,
}

impl Events {
    fn take(&mut self, piece: &[u8]) -> Vec<String> {
        self.rest.push_str(&String::from_utf8_lossy(piece));
        let mut events = vec![];
        while let Some(end) = self.rest.find("\n\n") {
            let event: String = self.rest.drain(..end + 2).collect();
            events.extend(event.trim_end().strip_prefix("data: ").map(str::to_owned));
        }
        events
    }
}

/// What an event says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Text,
    Usage { tokens: usize, cached: usize },
    Other,
}

impl Said {
    fn of(event: &str) -> Result<Self, TaskError> {
        let value: Value = serde_json::from_str(event).unwrap_or_default();
        if value.is_null() || !value["error"].is_null() {
            return Err(TaskError::Other(format!("a completion: {event}")));
        }
        let count = |value: &Value| value.as_u64().unwrap_or(0) as usize;
        let usage = &value["usage"];
        Ok(match value["choices"][0]["text"].as_str() {
            Some(text) if !text.is_empty() => Said::Text,
            _ if usage.is_object() => Said::Usage {
                tokens: count(&usage["completion_tokens"]),
                cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
            },
            _ => Said::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn events_are_whole_wherever_they_are_cut() {
        let text = "data: {\"a\":1}\n\n: keep-alive\n\ndata: [DONE]\n\n";
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut all = events.take(&text.as_bytes()[..cut]);
            all.extend(events.take(&text.as_bytes()[cut..]));
            assert_eq!(all, ["{\"a\":1}", "[DONE]"], "{cut}");
        }
    }

    #[test]
    fn events_say_text_usage_or_an_error() {
        let text = r#"{"choices":[{"text":" w"}]}"#;
        assert_eq!(Said::of(text).unwrap(), Said::Text);
        let end = r#"{"choices":[{"text":"","finish_reason":"length"}]}"#;
        assert_eq!(Said::of(end).unwrap(), Said::Other);
        let usage = r#"{"choices":[],"usage":{"completion_tokens":3,
            "prompt_tokens_details":{"cached_tokens":2}}}"#;
        assert_eq!(Said::of(usage).unwrap(), Said::Usage { tokens: 3, cached: 2 });
        for bad in [r#"{"error":{"message":"no"}}"#, "{"] {
            assert!(Said::of(bad).is_err(), "{bad}");
        }
    }

    /// A server that says one thing to everybody.
    fn says(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                let _ = stream.write_all(response.as_bytes());
                // Closed with a part of the request unread, the connection would be reset.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = io::copy(&mut stream, &mut io::sink());
            }
        });
        address
    }

    #[test]
    fn bodies_have_a_length_or_come_in_chunks() {
        let address = says("HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nyes");
        assert_eq!(get(address, "/").unwrap(), (503, "yes".into()));
        let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                      2\r\nye\r\n1\r\ns\r\n0\r\n\r\n";
        assert_eq!(get(says(chunks), "/").unwrap(), (200, "yes".into()));
        assert!(get(says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nyes"), "/").is_err());
        assert!(get(says("SSH-2.0\r\n\r\n"), "/").is_err());
    }

    #[test]
    fn errors_of_a_completion_are_told() {
        let address = says("HTTP/1.1 400 Bad Request\r\ncontent-length: 8\r\n\r\ntoo long");
        let error = complete(address, &[1], 1, |_| true).unwrap_err().to_string();
        assert!(error.contains("HTTP 400: too long"), "{error}");
    }
}
