//! Checkpoints on disk: GGUF files and SafeTensors directories, memory-mapped.
//!
//! [`Checkpoint::open`] finds out which it is, checks everything the file claims against what it
//! holds, and gives typed metadata and tensors. It knows no device and no model: what a key or a
//! tensor means is decided in `models/` and `weights/`.

mod error;
mod gguf;
mod hf;
mod map;
#[cfg(test)]
mod properties;
mod safetensors;
mod sigbus;
mod tensor;
#[cfg(test)]
pub(crate) mod testing;
mod write;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gpu_kernels::formats::Format;

pub use self::error::CheckpointError;
pub use self::gguf::{Array, GgufMetadata, Strings, Value, ValueType};
pub use self::hf::HfMetadata;
pub use self::map::Bytes;
use self::map::Mapping;
use self::tensor::{Entry, Storage};
pub use self::tensor::{OtherTensor, TensorInfo};
pub use self::write::GgufWriter;

/// An opened model: metadata and tensors, every byte still in its mapped file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    others: Vec<OtherTensor>,
    index: HashMap<String, Found>,
    files: Vec<Source>,
}

/// What the checkpoint says about itself, in the dialect of its container.
#[derive(Debug)]
pub enum Metadata {
    /// Keys and values of a GGUF header.
    Gguf(GgufMetadata),
    /// The JSON files of a model directory.
    HuggingFace(HfMetadata),
}

/// Where a name leads: the index of a tensor, or of another one.
#[derive(Clone, Copy, Debug)]
enum Found {
    Tensor(usize),
    Other(usize),
}

/// One file of a checkpoint.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    bytes: Bytes,
    /// `None` for bytes that were in memory already.
    mapping: Option<Arc<Mapping>>,
}

/// A file and the tensors in it.
#[derive(Debug)]
struct Part {
    source: Source,
    entries: Vec<Entry>,
}

impl Source {
    fn map(path: &Path) -> Result<Self, CheckpointError> {
        let mapping = Mapping::open(path)?;
        Ok(Self { path: path.into(), bytes: mapping.bytes(), mapping: Some(mapping) })
    }
    fn memory(path: &Path, bytes: Bytes) -> Self {
        Self { path: path.into(), bytes, mapping: None }
    }
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one) or a SafeTensors directory.
    ///
    /// # Errors
    /// Names the file, what was found and what was expected.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let kind = fs::metadata(path).map_err(CheckpointError::io(path, "open the model"))?;
        let checkpoint = if kind.is_dir() {
            let (metadata, parts) = hf::open(path)?;
            Self::new(path, Metadata::HuggingFace(metadata), parts)
        } else {
            let source = Source::map(path)?;
            refuse_other_containers(&source)?;
            let (metadata, parts) = gguf::open(source)?;
            Self::new(path, Metadata::Gguf(metadata), parts)
        };
        // Cut while it was read: what was parsed may be zeros.
        checkpoint.check_intact()?;
        Ok(checkpoint)
    }

    /// Reads a whole GGUF model from bytes; `path` only names it in errors.
    ///
    /// # Errors
    /// Like [`Checkpoint::open`]; a part of a split model is refused.
    pub fn from_gguf(path: &Path, bytes: Bytes) -> Result<Self, CheckpointError> {
        let (metadata, parts) = gguf::single(Source::memory(path, bytes))?;
        Ok(Self::new(path, Metadata::Gguf(metadata), parts))
    }

    /// Reads a single SafeTensors file from bytes, without the JSON files that belong to a model;
    /// `path` only names it in errors.
    ///
    /// # Errors
    /// Like [`Checkpoint::open`].
    pub fn from_safetensors(path: &Path, bytes: Bytes) -> Result<Self, CheckpointError> {
        let entries = safetensors::parse(path, &bytes)?;
        let metadata = Metadata::HuggingFace(HfMetadata::default());
        let part = Part { source: Source::memory(path, bytes), entries };
        Ok(Self::new(path, metadata, vec![part]))
    }

    /// Tensor names must be unique, which the readers have checked.
    fn new(path: &Path, metadata: Metadata, parts: Vec<Part>) -> Self {
        let mut this = Self {
            path: path.into(),
            metadata,
            tensors: Vec::new(),
            others: Vec::new(),
            index: HashMap::new(),
            files: Vec::new(),
        };
        for Part { source, entries } in parts {
            for entry in entries {
                this.add(entry);
            }
            this.files.push(source);
        }
        this
    }

    fn add(&mut self, Entry { name, storage, shape, range }: Entry) {
        let (file, bytes, offset) = (self.files.len(), range.len(), range.start);
        let found = match storage {
            Storage::Weights(format) => {
                let name = name.clone();
                self.tensors.push(TensorInfo { name, format, shape, bytes, file, offset });
                Found::Tensor(self.tensors.len() - 1)
            }
            Storage::Other { name: dtype, .. } => {
                let name = name.clone();
                self.others.push(OtherTensor { name, dtype, shape, bytes, file });
                Found::Other(self.others.len() - 1)
            }
        };
        let earlier = self.index.insert(name, found);
        assert!(earlier.is_none());
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// What the checkpoint says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
    /// All tensors of weights, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }
    /// Tensors whose type is not a weight format, such as tables of integers. They are listed, and
    /// an error only when [required](Self::require) as weights.
    pub fn others(&self) -> &[OtherTensor] {
        &self.others
    }
    /// The tensor of that name; `None` also for one of the [others](Self::others).
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        match self.index.get(name) {
            Some(&Found::Tensor(i)) => Some(&self.tensors[i]),
            _ => None,
        }
    }
    /// The tensor of that name.
    ///
    /// # Errors
    /// Says whether it is missing, or there with a type that is no weight format.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        match self.index.get(name) {
            Some(&Found::Tensor(i)) => Ok(&self.tensors[i]),
            Some(&Found::Other(i)) => {
                let other = &self.others[i];
                let known: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
                let problem = format!("is {}, expected weights: {}", other.dtype, known.join(", "));
                Err(CheckpointError::tensor(&self.files[other.file].path, name, problem))
            }
            None => Err(CheckpointError::tensor(&self.path, name, "is missing")),
        }
    }
    /// The file a tensor lies in, for errors.
    pub fn file(&self, tensor: &TensorInfo) -> &Path {
        &self.files[tensor.file].path
    }
    /// The bytes of a tensor of this checkpoint, shared with the mapping.
    ///
    /// They start at a multiple of two for 16-bit floats and of four for all other formats, so
    /// that they can be viewed as elements and blocks. A SafeTensors file need not keep to that;
    /// where it does not, they are a copy in memory.
    pub fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        let source = &self.files[tensor.file];
        let bytes = source.bytes.slice(tensor.offset..tensor.offset + tensor.bytes);
        let align = if matches!(tensor.format, Format::F16 | Format::BF16) { 2 } else { 4 };
        if (bytes.as_ptr() as usize).is_multiple_of(align) {
            return bytes;
        }
        let path = source.path.display();
        tracing::warn!(%path, tensor = tensor.name, align, "not aligned in its file: copied");
        bytes.aligned_copy()
    }

    /// The file that lost bytes since it was opened, if any did: weights read from it since may
    /// be zeros. Cheap enough to ask once a step (one `fstat` a file).
    pub fn damaged(&self) -> Option<&Path> {
        let mappings = self.files.iter().filter_map(|file| file.mapping.as_ref());
        mappings.into_iter().find(|mapping| mapping.damaged()).map(|mapping| mapping.path())
    }
    /// [`damaged`](Self::damaged) as an error.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when a file was cut.
    pub fn check_intact(&self) -> Result<(), CheckpointError> {
        match self.damaged() {
            Some(path) => Err(CheckpointError::Damaged { path: path.into() }),
            None => Ok(()),
        }
    }
}

/// Says what to give instead when a path leads to a file of another container.
fn refuse_other_containers(source: &Source) -> Result<(), CheckpointError> {
    let path = &source.path;
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let gguf = source.bytes.starts_with(&gguf::MAGIC);
    if !gguf && (name.ends_with(".safetensors") || name.ends_with(".json")) {
        let problem = "is a part of a SafeTensors model; give the directory that holds it";
        return Err(CheckpointError::file(path, problem));
    }
    Ok(())
}
