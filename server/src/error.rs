//! How the server ends without success. Errors of requests are `http::ApiError`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use config::ConfigError;
use host::engine::{EngineError, ErrorKind};
use host::program::ModelPathError;
use host::sampling::SamplingError;

/// Every way the program ends without success.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A flag, its value or a combination of flags.
    #[error("{0}")]
    BadArgument(String),
    /// Something this build does not do.
    #[error("{0}")]
    Unsupported(String),
    /// imp.conf or `--set`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A sampling default outside its limits.
    #[error("a sampling flag is out of range")]
    Sampling(#[from] SamplingError),
    /// No model where `--model` points.
    #[error(transparent)]
    Model(#[from] ModelPathError),
    /// The model could not be loaded.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address is no address.
    #[error("--host {host} is not an address of this machine")]
    Address {
        /// What was given.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another program listens there.
    #[error("{address} is taken by another program; --port chooses another port, 0 any free one")]
    PortTaken {
        /// Where.
        address: SocketAddr,
    },
    /// The port cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The request log cannot be written.
    #[error("--log-requests {path}")]
    Log {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Threads, signals, output.
    #[error("{what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A promise of our own that was broken.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ServerError {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        let kind = match self {
            Self::BadArgument(_)
            | Self::Sampling(_)
            | Self::Address { .. }
            | Self::PortTaken { .. }
            | Self::Listen { .. } => ErrorKind::InvalidArgument,
            Self::Config(ConfigError::Read { source, .. }) | Self::Log { source, .. } => {
                ErrorKind::of_file(source)
            }
            Self::Config(_) => ErrorKind::InvalidArgument,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Model(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::System { .. } | Self::Internal(_) => ErrorKind::Internal,
        };
        kind.exit_code()
    }
}
