//! What can be wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file; line and column count from 1, the column in characters.
    File {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// In a `--set` argument, given.
    Set(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Set(argument) => write!(f, "--set {}", argument.escape_debug()),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}, {named_by}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Who asked for it.
        named_by: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is longer than a configuration can be.
    #[error("{}: larger than {limit} bytes, which no imp.conf is; is it another file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes read.
        limit: u64,
    },
    /// The file is not text.
    #[error("{origin}: not UTF-8; an imp.conf is UTF-8 text")]
    NotUtf8 {
        /// First bad byte.
        origin: Origin,
    },
    /// The file is not TOML.
    #[error("{origin}: {message}{hint}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        message: String,
        /// The way out, where one is known, with its separator.
        hint: String,
    },
    /// A `--set` argument is not `section.key=value`.
    #[error("{origin}: expected section.key=value, as in kv_cache.dtype=fp16")]
    SetSyntax {
        /// The argument.
        origin: Origin,
    },
    /// No such section.
    #[error("{origin}: unknown section [{}]; {suggestion}", section.escape_debug())]
    UnknownSection {
        /// Where.
        origin: Origin,
        /// As written.
        section: String,
        /// The nearest one, or all.
        suggestion: String,
    },
    /// No such key in the section.
    #[error("{origin}: unknown key {}; {suggestion}", key.escape_debug())]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// `section.key` as written.
        key: String,
        /// The nearest one, or all of the section.
        suggestion: String,
    },
    /// A value of another type, or outside the limits.
    #[error("{origin}: {key} is {found}, expected {expected}")]
    Value {
        /// Where.
        origin: Origin,
        /// `section.key`.
        key: String,
        /// Type and text as written.
        found: String,
        /// What may be written.
        expected: String,
    },
    /// Two settings exclude each other, whatever wrote them.
    #[error("{first} conflicts with {second}; {way_out}")]
    Conflict {
        /// One, as `section.key = value`.
        first: String,
        /// The other.
        second: String,
        /// What to change.
        way_out: &'static str,
    },
}
