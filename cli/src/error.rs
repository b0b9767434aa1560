//! What can go wrong at the edge, and the exit code of each.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::ConfigError;
use host::checkpoint::CheckpointError;
use host::engine::{EngineError, ErrorKind, RequestError, SubmitError};

/// Every way the program ends without success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A flag, its value or a combination of flags.
    #[error("{0}")]
    BadArgument(String),
    /// Something this build does not do.
    #[error("{0}")]
    Unsupported(String),
    /// imp.conf or `--set`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file named by a flag.
    #[error("{flag} {path}")]
    File {
        /// The flag that named it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No model where `--model` points.
    #[error("--model: there is no {places}{hint}")]
    ModelNotFound {
        /// Every path that was tried.
        places: String,
        /// The way out, if one is known.
        hint: &'static str,
    },
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be loaded or evaluated.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine did not take a request.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A request failed while it ran.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The prompt could not be made into text.
    #[error("{0} (--chat-template none takes the prompt as it is)")]
    Template(#[from] host::text::TemplateError),
    /// The prompt could not be made into tokens.
    #[error("the prompt cannot be tokenized")]
    Tokenizer(#[from] host::text::TokenizerError),
    /// Standard output or the terminal.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody reads standard output any more.
    #[error("standard output was closed")]
    BrokenPipe,
    /// Ctrl-C.
    #[error("cancelled")]
    Cancelled,
    /// A promise of our own that was broken.
    #[error("internal error: {0}")]
    Internal(String),
}

impl CliError {
    /// A file named by `flag` could not be read.
    pub(crate) fn file(flag: &'static str, path: &Path, source: io::Error) -> Self {
        CliError::File { flag, path: path.into(), source }
    }

    /// A failed write to standard output; a closed pipe is told apart.
    pub(crate) fn stdout(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            CliError::BrokenPipe
        } else {
            CliError::Io { what: "standard output cannot be written", source }
        }
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            CliError::BrokenPipe => 0,
            CliError::BadArgument(_) | CliError::Template(_) | CliError::Tokenizer(_) => {
                BAD_ARGUMENT
            }
            CliError::Config(ConfigError::Read { source, .. }) => file_code(source),
            CliError::Config(_) => BAD_ARGUMENT,
            CliError::File { source, .. } => file_code(source),
            CliError::ModelNotFound { .. } => NOT_FOUND,
            CliError::Unsupported(_) => UNSUPPORTED,
            CliError::Checkpoint(CheckpointError::Io { source, .. }) => file_code(source),
            CliError::Checkpoint(CheckpointError::Quantized { .. }) => UNSUPPORTED,
            CliError::Checkpoint(_) => BAD_MODEL,
            CliError::Engine(error) => kind_code(error.kind()),
            CliError::Submit(error) => kind_code(error.kind()),
            CliError::Request(error) => kind_code(error.kind()),
            CliError::Io { .. } | CliError::Internal(_) => INTERNAL,
            CliError::Cancelled => CANCELLED,
        }
    }

    /// Says on stderr what happened, unless nothing needs to be said; gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            CliError::BrokenPipe => {}
            CliError::Cancelled => note!("imp-cli: cancelled"),
            _ => note!("imp-cli: {}", chain(self)),
        }
        ExitCode::from(self.code())
    }
}

const BAD_ARGUMENT: u8 = 1;
const OUT_OF_MEMORY: u8 = 2;
const CUDA: u8 = 3;
const NOT_FOUND: u8 = 4;
const BAD_MODEL: u8 = 5;
const UNSUPPORTED: u8 = 6;
const INTERNAL: u8 = 7;
/// Ctrl-C ended the program.
pub(crate) const CANCELLED: u8 = 8;

fn file_code(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { BAD_ARGUMENT }
}

fn kind_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument => BAD_ARGUMENT,
        ErrorKind::OutOfMemory => OUT_OF_MEMORY,
        ErrorKind::Cuda => CUDA,
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::InvalidModel => BAD_MODEL,
        ErrorKind::Unsupported => UNSUPPORTED,
        ErrorKind::Internal => INTERNAL,
        ErrorKind::Cancelled => CANCELLED,
    }
}

/// The error and what caused it on one line. A level whose text the one above already quotes is
/// left out.
pub(crate) fn chain(error: &dyn Error) -> String {
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

    #[test]
    fn every_kind_has_the_exit_code_of_the_manual() {
        let kinds = [
            (ErrorKind::InvalidArgument, 1),
            (ErrorKind::OutOfMemory, 2),
            (ErrorKind::Cuda, 3),
            (ErrorKind::NotFound, 4),
            (ErrorKind::InvalidModel, 5),
            (ErrorKind::Unsupported, 6),
            (ErrorKind::Internal, 7),
            (ErrorKind::Cancelled, 8),
        ];
        for (kind, code) in kinds {
            assert_eq!(kind_code(kind), code, "{kind:?}");
        }
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let path = || PathBuf::from("f");
        let read =
            |source| ConfigError::Read { path: path(), named_by: "named by --config", source };
        let open = |source| CheckpointError::Io { path: path(), action: "open the model", source };
        for (error, code) in [
            (CliError::BrokenPipe, 0),
            (CliError::BadArgument(String::new()), 1),
            (CliError::file("--prompt-file", Path::new("f"), denied()), 1),
            (CliError::file("--prompt-file", Path::new("f"), not_found()), 4),
            (CliError::Config(read(not_found())), 4),
            (CliError::Config(read(denied())), 1),
            (CliError::ModelNotFound { places: String::new(), hint: "" }, 4),
            (CliError::Checkpoint(open(not_found())), 4),
            (CliError::Checkpoint(CheckpointError::Damaged { path: path() }), 5),
            (CliError::Request(RequestError::NonFiniteLogits { tokens: 1 }), 5),
            (CliError::Unsupported(String::new()), 6),
            (CliError::Request(RequestError::Device(String::new())), 3),
            (CliError::Internal(String::new()), 7),
            (CliError::Cancelled, 8),
        ] {
            assert_eq!(error.code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_told_apart() {
        assert!(matches!(CliError::stdout(io::ErrorKind::BrokenPipe.into()), CliError::BrokenPipe));
        assert_eq!(CliError::stdout(io::ErrorKind::StorageFull.into()).code(), 7);
    }
}
