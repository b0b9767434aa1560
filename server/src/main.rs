//! `imp-server`: the engine over HTTP, in the dialects of OpenAI and Anthropic.
//!
//! ```text
//! connection ─▶ route ─▶ guards ─▶ body ─▶ adapter (api/*) ─▶ Generation ─▶ Answer ─▶ adapter ─▶ SSE
//!  listen       route    guard     body    parse, template,    internal     engine    or JSON
//!                                          tokenize            request      events
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `args`, `error`, `start` | the program: flags, exit codes, loading, signals |
//! | `http` | connections, bodies, guards, routes; errors in the dialect spoken |
//! | `api` | one file a dialect: JSON → [`generation::Generation`], updates → events or JSON |
//! | `answer` | the engine's events of all choices of a request, as updates |
//! | `stream` | an answer sent as it comes, or collected |
//! | `record` | the line of a request in the log |
//! | `output` | how answers are bound and read: grammars, tool calls, thoughts |
//! | `gate` | how many requests run, and how many wait |
//! | `limits` | every bound |
//!
//! Only this crate knows HTTP. No model, device or cache is named here: a request is submitted, its
//! events are read, and dropping them cancels it.

#![forbid(unsafe_code)]

mod answer;
mod api;
mod args;
mod error;
mod gate;
mod generation;
mod http;
mod limits;
mod metrics;
mod output;
mod record;
mod request_log;
mod start;
mod state;
mod stream;
#[cfg(test)]
mod testing;

use std::io::Write;
use std::process::ExitCode;

use args::Parsed;
use error::ServerError;
use host::program::{chain, say};

/// What messages begin with.
const PROGRAM: &str = "imp-server";

fn main() -> ExitCode {
    // a panic has printed its message; what is left is the exit code of "internal error"
    let ended = std::panic::catch_unwind(run)
        .unwrap_or_else(|_| Err(ServerError::Internal("a bug of imp; please report it".into())));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(PROGRAM, &chain(&error));
            ExitCode::from(error.code())
        }
    }
}

fn run() -> Result<(), ServerError> {
    let arguments: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let arguments = arguments.map_err(|argument| {
        ServerError::BadArgument(format!("the argument {argument:?} is not UTF-8"))
    })?;
    match args::parse(&arguments)? {
        Parsed::Help(text) => print(text.trim_end()),
        Parsed::Args(args) if args.version => {
            print(concat!("imp-server ", env!("CARGO_PKG_VERSION")))
        }
        Parsed::Args(args) => {
            args.check()?;
            start::start(&args)
        }
    }
}

fn print(text: &str) -> Result<(), ServerError> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(ServerError::System { what: "standard output cannot be written", source })
        }
        _ => Ok(()), // a reader that went away has read enough
    }
}
