//! `model.safetensors.index.json`: which tensor lies in which file.
//!
//! The headers of the files decide what there is; the index names the files and is checked
//! against them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::{Part, Source, read_json, safetensors};
use crate::checkpoint::CheckpointError;

const NAME: &str = "model.safetensors.index.json";

/// Opens the files that the index of `directory` names, in the order of their names.
pub(super) fn open(directory: &Path) -> Result<Vec<Part>, CheckpointError> {
    let path = directory.join(NAME);
    if !path.exists() {
        let problem = format!("has neither model.safetensors nor {NAME}");
        return Err(CheckpointError::file(directory, problem));
    }
    let index: Index = read_json(&path)?;
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map.0 {
        by_file.entry(file).or_default().push(tensor);
    }
    if by_file.is_empty() {
        return Err(CheckpointError::key(&path, "weight_map", "names no tensor"));
    }
    let mut parts: Vec<Part> = Vec::with_capacity(by_file.len());
    let mut homes: HashMap<String, usize> = HashMap::new();
    for (file, tensors) in &by_file {
        let source = shard(directory, &path, file, &tensors[0])?;
        let entries = safetensors::parse(&source.path, &source.bytes)?;
        for entry in &entries {
            if let Some(earlier) = homes.insert(entry.name.clone(), parts.len()) {
                let earlier = parts[earlier].source.path.display();
                let problem = format!("is in {earlier} too, expected once");
                return Err(CheckpointError::tensor(&source.path, &entry.name, problem));
            }
        }
        let absent = tensors.iter().find(|&tensor| homes.get(tensor) != Some(&parts.len()));
        if let Some(tensor) = absent {
            let problem = format!("is in {file:?} by the index, but not in that file");
            return Err(CheckpointError::tensor(&path, tensor, problem));
        }
        parts.push(Part { source, entries });
    }
    Ok(parts)
}

/// Maps a file the index names for `tensor`: a file of the same directory and nothing else.
fn shard(
    directory: &Path,
    index: &Path,
    file: &str,
    tensor: &str,
) -> Result<Source, CheckpointError> {
    let plain = Path::new(file).components().eq([Component::Normal(file.as_ref())]);
    if !plain || file.contains(['/', '\\', '\0']) {
        let problem =
            format!("is in {file:?} by the index, expected the name of a file beside the index");
        return Err(CheckpointError::tensor(index, tensor, problem));
    }
    let path = directory.join(file);
    if !path.exists() {
        let problem = format!("is in {file:?} by the index, but there is no such file");
        return Err(CheckpointError::tensor(index, tensor, problem));
    }
    Source::map(&path)
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor and file names in order; a tensor that is listed twice is an error.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensor and file names")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut weights = BTreeMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            if weights.contains_key(&tensor) {
                let problem = format_args!("weight_map lists tensor {tensor:?} twice");
                return Err(A::Error::custom(problem));
            }
            weights.insert(tensor, file);
        }
        Ok(WeightMap(weights))
    }
}
