//! What the programs around the engine share: where a model is, how an error is said, where
//! messages go. Nothing here knows a flag beyond `--model`.

pub mod log;
mod model;

use std::error::Error;
use std::io::Write;

pub use model::{ModelPathError, find_model};

/// Writes a line to stderr, after the name of the program. One that nobody can read is lost, which
/// is no reason to stop.
pub fn say(program: &str, message: &str) {
    let _ = writeln!(std::io::stderr(), "{program}: {message}");
}

/// The error and what caused it on one line. A level whose text the one above already quotes is
/// left out.
pub fn chain(error: &dyn Error) -> String {
    let mut line = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let text = one_line(&cause.to_string());
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

/// Control characters are escaped: what a file holds must not steer the terminal.
fn one_line(text: &str) -> String {
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    line.chars().fold(String::with_capacity(line.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer quotes inner cause")]
    struct Quoting(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Plain(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner cause")]
    struct Inner(#[source] io::Error);

    #[test]
    fn causes_follow_on_one_line_and_are_not_repeated() {
        let io = || io::Error::other("disk\n  full");
        assert_eq!(chain(&Plain(Inner(io()))), "outer: inner cause: disk full");
        assert_eq!(chain(&Quoting(Inner(io()))), "outer quotes inner cause: disk full");
    }
}
