//! Why a checkpoint could not be opened or read.

use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be opened or read: which file, which key or tensor, what was found
/// and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused; `source()` says why.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// The file ends inside something, or claims more than it holds.
    #[error("{}: {what} at byte {at} needs {needs} bytes, {left} left in the file", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it starts.
        at: u64,
        /// Bytes it claims, at least.
        needs: u64,
        /// Bytes that remain.
        left: u64,
    },
    /// A key of the metadata is wrong.
    #[error("{}: key {key:?} {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key; a dotted path for JSON.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tensor is wrong.
    #[error("{}: tensor {tensor:?} {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A JSON file that is not JSON, or not of the expected form; `source()` says where.
    #[error("{}: {what} is not valid", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Which part of the file.
        what: &'static str,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// The weights are quantized in a way that is not read yet.
    #[error(
        "{}: {key} = {method:?} is not supported yet, known: none (F32, F16 and BF16 weights); \
         use the original checkpoint or a GGUF of it",
        path.display()
    )]
    Quantized {
        /// The file that says so.
        path: PathBuf,
        /// The key, such as `quantization_config.quant_method`.
        key: &'static str,
        /// The method it names.
        method: String,
    },
    /// A mapped file lost bytes that were there when it was opened; what was read since may be
    /// zeros.
    #[error("{}: the file was truncated while in use, or its disk failed; restore it and load the model again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl CheckpointError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), action, source }
    }
    pub(super) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self::File { path: path.into(), problem: problem.into() }
    }
    pub(super) fn key(path: &Path, key: &str, problem: impl Into<String>) -> Self {
        Self::Key { path: path.into(), key: key.into(), problem: problem.into() }
    }
    pub(super) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), problem: problem.into() }
    }
}
