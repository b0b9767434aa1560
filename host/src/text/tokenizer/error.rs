//! Why a tokenizer could not be built, or a text not be encoded.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;

/// Why a tokenizer could not be built, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The metadata could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A key (or a field of a JSON file) says something that cannot be.
    #[error("{origin}: {key} {problem}")]
    Key {
        /// File that holds it.
        origin: String,
        /// Key, or path of the JSON field.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tokenizer model nobody here can run.
    #[error("{origin}: unknown tokenizer model {name:?}; known: {known}")]
    UnknownModel {
        /// File that names it.
        origin: String,
        /// The name found.
        name: String,
        /// Names that work.
        known: String,
    },
    /// A pre-tokenizer that is not in the table.
    #[error("{origin}: unknown pre-tokenizer {name:?}; known: {known}")]
    UnknownPreTokenizer {
        /// File that names it.
        origin: String,
        /// The name found.
        name: String,
        /// Names that work.
        known: String,
    },
    /// A file could not be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file could not be parsed.
    #[error("{}: not the JSON of a tokenizer", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// The `tokenizers` crate refused something that was built from `origin`.
    #[error("{origin}: {what}")]
    Library {
        /// File or step concerned.
        origin: String,
        /// What was being done.
        what: &'static str,
        /// What the crate said.
        source: tokenizers::Error,
    },
    /// The vocabulary has no token for a piece of text.
    #[error(
        "the vocabulary has no token for {text:?}, nor a byte or unknown token to stand for it"
    )]
    Inexpressible {
        /// The piece, shortened.
        text: String,
    },
}

impl TokenizerError {
    /// The piece of text that no token expresses, shortened to what fits in a message.
    pub(super) fn inexpressible(text: &str) -> Self {
        Self::Inexpressible { text: text.chars().take(40).collect() }
    }
}
