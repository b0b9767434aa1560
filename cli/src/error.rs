//! What can go wrong at the edge, and the exit code of each.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::ConfigError;
use host::checkpoint::CheckpointError;
use host::engine::{EngineError, ErrorKind, RequestError, SubmitError};
use host::program::{ModelPathError, chain};

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
    #[error(transparent)]
    Model(#[from] ModelPathError),
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
        let kind = match self {
            CliError::BrokenPipe => return 0,
            CliError::BadArgument(_) | CliError::Template(_) | CliError::Tokenizer(_) => {
                ErrorKind::InvalidArgument
            }
            CliError::Config(ConfigError::Read { source, .. })
            | CliError::File { source, .. }
            | CliError::Checkpoint(CheckpointError::Io { source, .. }) => {
                ErrorKind::of_file(source)
            }
            CliError::Config(_) => ErrorKind::InvalidArgument,
            CliError::Model(error) => error.kind(),
            CliError::Unsupported(_) | CliError::Checkpoint(CheckpointError::Quantized { .. }) => {
                ErrorKind::Unsupported
            }
            CliError::Checkpoint(_) => ErrorKind::InvalidModel,
            CliError::Engine(error) => error.kind(),
            CliError::Submit(error) => error.kind(),
            CliError::Request(error) => error.kind(),
            CliError::Io { .. } | CliError::Internal(_) => ErrorKind::Internal,
            CliError::Cancelled => ErrorKind::Cancelled,
        };
        kind.exit_code()
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(kind.exit_code(), code, "{kind:?}");
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
            (CliError::Model(ModelPathError::NotFound { places: String::new(), hint: "" }), 4),
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
