//! Checkpoints on disk: GGUF files and SafeTensors directories, memory-mapped.
//!
//! [`Checkpoint::open`] finds out which it is, checks everything the file claims against what it
//! holds, and gives typed metadata and tensors. It knows no device and no model: what a key or a
//! tensor means is decided in `models/` and `weights/`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gpu_kernels::formats::Format;

/// An opened model: metadata and tensors, every byte still in its mapped file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

/// What the checkpoint says about itself, in the dialect of its container.
#[derive(Debug)]
pub enum Metadata {
    /// Keys and values of a GGUF header.
    Gguf(GgufMetadata),
    /// The JSON files of a model directory.
    HuggingFace(HfMetadata),
}

/// Typed keys and values of a GGUF header. Getters return `Ok(None)` for a missing key and an
/// error that names file, key, found and expected type for a wrong one.
#[derive(Debug)]
pub struct GgufMetadata {}

/// The JSON files beside a SafeTensors model.
#[derive(Debug, Default)]
pub struct HfMetadata {
    /// `config.json`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// `generation_config.json`, empty when absent.
    pub generation_config: serde_json::Map<String, serde_json::Value>,
    /// `tokenizer_config.json`, empty when absent.
    pub tokenizer_config: serde_json::Map<String, serde_json::Value>,
    /// Path of `tokenizer.json`, when present.
    pub tokenizer_json: Option<PathBuf>,
    /// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

/// Name, shape, format and place of one tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// How its weights are stored.
    pub format: Format,
    /// Dimensions, outermost first: a matrix is [rows, cols], cols contiguous.
    pub shape: Vec<usize>,
    /// Bytes it occupies.
    pub bytes: usize,
    /// Index of the file (split checkpoints have several).
    pub(crate) file: usize,
    /// First byte in that file.
    pub(crate) offset: usize,
}

/// Bytes that stay valid while held: a range of a mapped file, or owned memory.
#[derive(Clone, Debug)]
pub struct Bytes {
    owner: Arc<Vec<u8>>,
    range: std::ops::Range<usize>,
}

impl Bytes {
    /// Takes ownership of bytes made in memory.
    pub fn owned(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Arc::new(bytes), range }
    }
    /// A part of these bytes; panics when out of range.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end);
        assert!(range.end <= self.range.len());
        let start = self.range.start + range.start;
        Self { owner: self.owner.clone(), range: start..start + range.len() }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner[self.range.clone()]
    }
}

/// Why a checkpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Placeholder until the readers exist.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one) or a SafeTensors directory.
    ///
    /// # Errors
    /// Names the file, what was found and what was expected.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Err(CheckpointError::Invalid { path: path.into(), what: "no reader".into() })
    }
    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// What the checkpoint says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }
    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }
    /// The bytes of a tensor, shared with the mapping.
    pub fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        Bytes::owned(vec![0; tensor.bytes])
    }
}
