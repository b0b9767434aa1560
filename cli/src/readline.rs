//! Lines from a terminal (edited, with history) or from a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use crate::error::CliError;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line without its end.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// No more input.
    End,
}

/// Where the lines come from.
pub(crate) enum Reader {
    /// Someone types.
    Terminal {
        /// The line editor; boxed, since it is large.
        editor: Box<DefaultEditor>,
        /// Where inputs are remembered, if anywhere.
        history: Option<PathBuf>,
    },
    /// A pipe or a file.
    Pipe,
}

impl Reader {
    /// Reads from stdin, editing lines when it is a terminal.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub(crate) fn open() -> Result<Self, CliError> {
        if !io::stdin().is_terminal() {
            return Ok(Reader::Pipe);
        }
        // the terminal itself, so that a redirected stdout holds nothing but answers
        let config = Config::builder().behavior(Behavior::PreferTerm).build();
        let mut editor = Box::new(DefaultEditor::with_config(config).map_err(terminal)?);
        let history = history_file();
        match &history {
            Some(path) => match editor.load_history(path) {
                Ok(()) => {}
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    note!("imp-cli: the history {} cannot be read: {error}", path.display())
                }
            },
            None => {
                note!("imp-cli: neither XDG_STATE_HOME nor HOME is set; no history is kept")
            }
        }
        Ok(Reader::Terminal { editor, history })
    }

    /// The next line; `continued` when it belongs to an input that has begun.
    ///
    /// # Errors
    /// When the input cannot be read or is not UTF-8.
    pub(crate) fn line(&mut self, continued: bool) -> Result<Line, CliError> {
        match self {
            Reader::Terminal { editor, .. } => {
                match editor.readline(if continued { "… " } else { "> " }) {
                    Ok(line) => Ok(Line::Text(line)),
                    Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                    Err(ReadlineError::Eof) => Ok(Line::End),
                    Err(error) => Err(terminal(error)),
                }
            }
            Reader::Pipe => read_line(&mut io::stdin().lock()),
        }
    }

    /// Keeps an input in the history. A history that cannot be written is reported once.
    pub(crate) fn remember(&mut self, input: &str) {
        let Reader::Terminal { editor, history } = self else { return };
        if matches!(editor.add_history_entry(input), Ok(false)) {
            return; // empty or the same as the last
        }
        let Some(path) = history else { return };
        let directory =
            path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(ReadlineError::Io);
        if let Err(error) = directory.and_then(|()| editor.append_history(path.as_path())) {
            note!("imp-cli: the history {} cannot be written: {error}", path.display());
            *history = None;
        }
    }
}

fn read_line(input: &mut impl BufRead) -> Result<Line, CliError> {
    let mut bytes = Vec::new();
    let read = input.read_until(b'\n', &mut bytes);
    if read.map_err(|source| CliError::Io { what: "standard input cannot be read", source })? == 0 {
        return Ok(Line::End);
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(line) => Ok(Line::Text(line.to_owned())),
        Err(_) => Err(CliError::BadArgument("standard input is not UTF-8".to_owned())),
    }
}

fn terminal(error: ReadlineError) -> CliError {
    let source = match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    };
    CliError::Io { what: "the terminal cannot be used", source }
}

/// `imp/history` in the state directory of the XDG base directory specification.
fn history_file() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("imp/history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_lines_lose_their_ends_and_nothing_else() {
        let mut input: &[u8] = b"a \r\n\n\xc3\xa9\n\xff\nlast";
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(read_line(&mut input).unwrap(), text("a "));
        assert_eq!(read_line(&mut input).unwrap(), text(""));
        assert_eq!(read_line(&mut input).unwrap(), text("é"));
        assert_eq!(read_line(&mut input).unwrap_err().code(), 1);
        assert_eq!(read_line(&mut input).unwrap(), text("last"));
        assert_eq!(read_line(&mut input).unwrap(), Line::End);
    }
}
