//! What can go wrong, and of which kind it is.

use std::io;

use super::RequestError;
use crate::checkpoint::CheckpointError;
use crate::cuda::CudaError;
use crate::models::LoadError;
use crate::ops::OpsError;
use crate::plan::PlanError;
use crate::sampling::SamplingError;
use crate::text::{TemplateError, TokenizerError};

/// What an error means to the outside: an exit code, an HTTP status, a C error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A flag, field or value that cannot be honoured.
    InvalidArgument,
    /// Memory does not suffice.
    OutOfMemory,
    /// The GPU or its driver.
    Cuda,
    /// A file that is not there.
    NotFound,
    /// A model file that is not what it should be.
    InvalidModel,
    /// Something that this build does not do.
    Unsupported,
    /// Our own fault.
    Internal,
    /// The caller ended it.
    Cancelled,
}

impl ErrorKind {
    /// Of a file that could not be opened: it is not there, or cannot be used.
    pub fn of_file(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::InvalidArgument,
        }
    }

    /// The exit code of a program that ends with it, as the manual lists them.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument => 1,
            Self::OutOfMemory => 2,
            Self::Cuda => 3,
            Self::NotFound => 4,
            Self::InvalidModel => 5,
            Self::Unsupported => 6,
            Self::Internal => 7,
            Self::Cancelled => 8,
        }
    }
}

/// Why a model could not be loaded or evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model's files.
    #[error("the model cannot be opened")]
    Checkpoint(#[from] CheckpointError),
    /// The model in them.
    #[error("the model cannot be loaded")]
    Load(#[from] LoadError),
    /// Its vocabulary.
    #[error("the tokenizer cannot be built")]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template.
    #[error("the model's chat template cannot be used; --chat-template chooses another or none")]
    Template(#[from] TemplateError),
    /// A template name that is not one.
    #[error("--chat-template {name} is not known; known: {known}")]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// What would work.
        known: String,
    },
    /// It does not fit.
    #[error("the memory cannot be planned")]
    Plan(#[from] PlanError),
    /// The GPU.
    #[error("the GPU cannot be used; --gpu-layers 0 computes on the CPU")]
    Gpu(#[source] CudaError),
    /// The backend.
    #[error("the device cannot hold the model")]
    Ops(#[from] OpsError),
    /// A setting that this build cannot honour.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// Flag or key, with its value.
        what: String,
        /// Why, and the way out.
        reason: String,
    },
    /// A setting that contradicts another, or itself.
    #[error("{what}: {reason}")]
    Setting {
        /// Flag or key, with its value.
        what: String,
        /// Why, and the way out.
        reason: String,
    },
    /// The engine thread could not be started.
    #[error("the engine thread cannot be started")]
    Thread(#[source] io::Error),
    /// An evaluation that was not taken.
    #[error("the tokens cannot be evaluated")]
    Submit(#[from] SubmitError),
    /// An evaluation that failed while it ran.
    #[error("the evaluation failed")]
    Request(#[from] RequestError),
}

impl EngineError {
    /// What it means to the outside.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Checkpoint(error) => checkpoint_kind(error),
            Self::Load(LoadError::Checkpoint(error)) => checkpoint_kind(error),
            Self::Load(LoadError::UnknownArchitecture { .. }) => ErrorKind::Unsupported,
            Self::Load(LoadError::Ops(error)) | Self::Ops(error) => ops_kind(error),
            Self::Gpu(error) => match error {
                CudaError::BadDevice { .. } => ErrorKind::InvalidArgument,
                CudaError::UnsupportedDevice { .. } => ErrorKind::Unsupported,
                CudaError::OutOfMemory { .. } => ErrorKind::OutOfMemory,
                _ => ErrorKind::Cuda,
            },
            Self::Load(_) | Self::Tokenizer(_) | Self::Template(_) => ErrorKind::InvalidModel,
            Self::UnknownTemplate { .. }
            | Self::Setting { .. }
            | Self::Plan(PlanError::Impossible { .. }) => ErrorKind::InvalidArgument,
            Self::Plan(PlanError::OutOfMemory { .. }) => ErrorKind::OutOfMemory,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Thread(_) => ErrorKind::Internal,
            Self::Submit(error) => error.kind(),
            Self::Request(error) => error.kind(),
        }
    }
}

fn checkpoint_kind(error: &CheckpointError) -> ErrorKind {
    match error {
        CheckpointError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ErrorKind::NotFound
        }
        CheckpointError::Quantized { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::InvalidModel,
    }
}

fn ops_kind(error: &OpsError) -> ErrorKind {
    match error {
        OpsError::OutOfMemory { .. } | OpsError::DeviceOutOfMemory(_) => ErrorKind::OutOfMemory,
        OpsError::Device(_) => ErrorKind::Cuda,
    }
}

/// Why a request was not taken. Nothing was computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No token to begin with.
    #[error("the prompt is empty; at least one token is needed")]
    EmptyPrompt,
    /// A token the model does not have.
    #[error("prompt token {index} is {id}, expected one below {vocab_size} (the vocabulary)")]
    TokenOutOfRange {
        /// Its place in the prompt.
        index: usize,
        /// The token.
        id: u32,
        /// Tokens there are.
        vocab_size: usize,
    },
    /// More tokens than a sequence may have.
    #[error(
        // words by which agents know that they must shorten the conversation
        "the prompt is too long: {tokens} tokens > {max_seq_len}, the maximum context length; \
         see --max-seq-len"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens a sequence may have.
        max_seq_len: usize,
    },
    /// A sampling parameter.
    #[error("a sampling parameter is out of range: {0}")]
    Sampling(#[from] SamplingError),
    /// A list or number beyond its bound.
    #[error("{field} is {found}, at most {limit} works")]
    Limit {
        /// The field.
        field: &'static str,
        /// What was asked for.
        found: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Text was asked of a model that has only token ids.
    #[error("{field} needs text, and the model has no vocabulary")]
    NoVocabulary {
        /// The field.
        field: &'static str,
    },
    /// A string that the vocabulary cannot express.
    #[error("{field}: {text:?} cannot be tokenized: {reason}")]
    Untokenizable {
        /// The field.
        field: &'static str,
        /// The string.
        text: String,
        /// Why.
        reason: String,
    },
    /// Nothing was asked of an evaluation.
    #[error("positions from {first} of {tokens} tokens were asked for: there are none")]
    NothingToEvaluate {
        /// First position asked for.
        first: usize,
        /// Tokens there are.
        tokens: usize,
    },
    /// The model's files name a pooling that makes no vector of a text.
    #[error(
        "the model gives no embeddings here: its pooling is {pooling:?}, and mean, cls and last are known"
    )]
    NoEmbeddings {
        /// Its name.
        pooling: &'static str,
    },
    /// As many requests are in progress as may be.
    #[error("the engine is busy: {limit} requests are in progress; try again later")]
    Busy {
        /// Most requests at a time.
        limit: usize,
    },
    /// The engine ended.
    #[error("the engine takes no requests any more: {0}")]
    Unhealthy(RequestError),
}

impl SubmitError {
    /// What it means to the outside.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } => ErrorKind::Internal,
            Self::Unhealthy(error) => error.kind(),
            Self::NoEmbeddings { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

impl RequestError {
    /// What it means to the outside.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NonFiniteLogits { .. } | Self::CheckpointDamaged(_) => ErrorKind::InvalidModel,
            Self::Device(_) => ErrorKind::Cuda,
            Self::EngineEnded(_) | Self::Constraint { .. } => ErrorKind::Internal,
        }
    }
}
