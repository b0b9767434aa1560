//! Model directories as published on model hubs: SafeTensors files and JSON beside them.

mod index;
mod metadata;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use self::metadata::HfMetadata;
use super::map::regular_file;
use super::{CheckpointError, Part, Source, safetensors};

/// Largest JSON file read whole. Real ones stay below 10 MB, but each of its bytes can cost
/// thirty once parsed.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Opens a directory: its metadata, and each SafeTensors file with its tensors.
pub(super) fn open(directory: &Path) -> Result<(HfMetadata, Vec<Part>), CheckpointError> {
    let metadata = HfMetadata::read_from(directory)?;
    refuse_quantized(directory, &metadata)?;
    let whole = directory.join("model.safetensors");
    let parts = if whole.exists() {
        let source = Source::map(&whole)?;
        let entries = safetensors::parse(&source.path, &source.bytes)?;
        vec![Part { source, entries }]
    } else {
        index::open(directory)?
    };
    Ok((metadata, parts))
}

/// Refuses a checkpoint that says its weights are quantized, by the name it gives.
fn refuse_quantized(directory: &Path, metadata: &HfMetadata) -> Result<(), CheckpointError> {
    let config = directory.join("config.json");
    for key in [
        "quantization_config.quant_method",
        "text_config.quantization_config.quant_method",
        "compression_config.quant_method",
    ] {
        let section = key.trim_end_matches(".quant_method");
        if metadata.get(section)?.is_none() {
            continue;
        }
        let method = metadata.str(key)?.unwrap_or("(absent)").into();
        return Err(CheckpointError::Quantized { path: config, key, method });
    }
    let path = directory.join("hf_quant_config.json");
    if path.exists() {
        let json: Map<String, Value> = read_json(&path)?;
        let algorithm = json.get("quantization").and_then(|q| q.get("quant_algo"));
        let method = algorithm.and_then(Value::as_str).unwrap_or("(absent)").into();
        return Err(CheckpointError::Quantized { path, key: "quantization.quant_algo", method });
    }
    Ok(())
}

/// Reads and parses a JSON file of bounded size. Nesting is bounded by the parser (128 levels).
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(&read_file(path)?).map_err(|source| CheckpointError::Json {
        path: path.into(),
        what: "the JSON",
        source,
    })
}

/// Reads a regular file of bounded size.
fn read_file(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    regular_file(path)?;
    let file = File::open(path).map_err(CheckpointError::io(path, "open the file"))?;
    let mut bytes = Vec::new();
    file.take(MAX_JSON_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(CheckpointError::io(path, "read the file"))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let problem = format!("has more than {MAX_JSON_BYTES} bytes, the most that is read");
        return Err(CheckpointError::file(path, problem));
    }
    Ok(bytes)
}
