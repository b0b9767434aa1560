//! Models split over several GGUF files, `name-00001-of-0000N.gguf`.
//!
//! Any part leads to the others. The first holds the metadata; each says which part it is
//! (`split.no`, from 0), of how many (`split.count`), with how many tensors in all
//! (`split.tensors.count`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{GgufMetadata, parse};
use crate::checkpoint::{CheckpointError, Part, Source};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Which part of a split model a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    no: u32,
    count: u32,
}

/// Parses a GGUF file and, when it is a part of a split model, opens all the others. Returns the
/// metadata of the first part, and the parts in order.
pub(in crate::checkpoint) fn open(
    source: Source,
) -> Result<(GgufMetadata, Vec<Part>), CheckpointError> {
    let given = parse(&source.path, &source.bytes)?;
    let Some(place) = place(&given.metadata)? else {
        return Ok((given.metadata, vec![Part { source, entries: given.entries }]));
    };
    let path = source.path.clone();
    check_name(&path, place)?;

    let mut given = Some((source, given));
    let mut metadata: Option<GgufMetadata> = None;
    let mut parts = Vec::new();
    for no in 0..place.count {
        let (source, file) = match given.take_if(|_| no == place.no) {
            Some(given) => given,
            None => {
                let source = sibling(&path, Place { no, ..place })?;
                let file = parse(&source.path, &source.bytes)?;
                (source, file)
            }
        };
        check_place(&file.metadata, Place { no, ..place })?;
        match &metadata {
            Some(first) => check_same_model(first, &file.metadata)?,
            None => metadata = Some(file.metadata),
        }
        parts.push(Part { source, entries: file.entries });
    }
    let metadata = metadata.expect("a split model has at least two parts");
    check_tensors(&metadata, &parts)?;
    Ok((metadata, parts))
}

/// Like [`open`], for bytes that have no files beside them.
pub(in crate::checkpoint) fn single(
    source: Source,
) -> Result<(GgufMetadata, Vec<Part>), CheckpointError> {
    let file = parse(&source.path, &source.bytes)?;
    if let Some(place) = place(&file.metadata)? {
        let problem = format!("is {}, expected 1: this must be a whole model", place.count);
        return Err(file.metadata.wrong(COUNT, problem));
    }
    Ok((file.metadata, vec![Part { source, entries: file.entries }]))
}

/// `None` for a whole model, which a merged one also is: there `split.count` is 0.
fn place(metadata: &GgufMetadata) -> Result<Option<Place>, CheckpointError> {
    let count = metadata.u32(COUNT)?.unwrap_or(0);
    let no = metadata.u32(NO)?;
    match (count, no) {
        (0 | 1, None | Some(0)) => Ok(None),
        (0 | 1, Some(no)) => {
            Err(metadata.wrong(NO, format!("is {no}, expected 0 where split.count is {count}")))
        }
        (_, None) => {
            Err(metadata.wrong(COUNT, format!("is {count}, but there is no key \"{NO}\"")))
        }
        (_, Some(no)) if no >= count => {
            Err(metadata.wrong(NO, format!("is {no}, expected less than split.count, {count}")))
        }
        (_, Some(no)) => Ok(Some(Place { no, count })),
    }
}

/// The end of a part's file name.
fn suffix(place: Place) -> String {
    format!("-{:05}-of-{:05}.gguf", place.no + 1, place.count)
}

/// The file name without [`suffix`]; the parts differ only there.
fn stem(path: &Path, place: Place) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(&suffix(place))
}

fn check_name(path: &Path, place: Place) -> Result<(), CheckpointError> {
    if stem(path, place).is_some() {
        return Ok(());
    }
    let problem = format!(
        "says it is part {} of {} of a split model; its name must end with \"{}\", \
         or the other parts cannot be found",
        place.no + 1,
        place.count,
        suffix(place)
    );
    Err(CheckpointError::file(path, problem))
}

/// Opens the part of that number beside `given`, whose name was checked.
fn sibling(given: &Path, wanted: Place) -> Result<Source, CheckpointError> {
    let name = given.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = &name[..name.len() - suffix(wanted).len()]; // suffixes of a model are equally long
    let path: PathBuf = given.with_file_name(format!("{stem}{}", suffix(wanted)));
    if !path.exists() {
        let problem = format!(
            "is missing: part {} of {} of the split model that {} belongs to",
            wanted.no + 1,
            wanted.count,
            given.display()
        );
        return Err(CheckpointError::file(&path, problem));
    }
    Source::map(&path)
}

fn check_place(metadata: &GgufMetadata, expected: Place) -> Result<(), CheckpointError> {
    let Some(found) = place(metadata)? else {
        let problem = format!("is absent or below 2, expected {}", expected.count);
        return Err(metadata.wrong(COUNT, problem));
    };
    if found.count != expected.count {
        let problem = format!("is {}, expected {}", found.count, expected.count);
        return Err(metadata.wrong(COUNT, problem));
    }
    if found.no != expected.no {
        let problem = format!("is {}, expected {} by the file's name", found.no, expected.no);
        return Err(metadata.wrong(NO, problem));
    }
    Ok(())
}

/// Later parts mostly repeat nothing; what they do repeat must be equal.
fn check_same_model(first: &GgufMetadata, part: &GgufMetadata) -> Result<(), CheckpointError> {
    for (key, value) in part.iter().filter(|(key, _)| *key != NO) {
        match first.get(key) {
            Some(expected) if !expected.same(value) => {
                let problem = format!(
                    "is {value}, but {expected} in {}: parts of different models",
                    first.path().display()
                );
                return Err(part.wrong(key, problem));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_tensors(first: &GgufMetadata, parts: &[Part]) -> Result<(), CheckpointError> {
    let mut names = HashSet::new();
    for part in parts {
        let twice = part.entries.iter().find(|entry| !names.insert(entry.name.as_str()));
        if let Some(entry) = twice {
            let problem = "is in an earlier part too, expected once: parts of different models";
            return Err(CheckpointError::tensor(&part.source.path, &entry.name, problem));
        }
    }
    match first.u64(TENSORS)? {
        Some(total) if total != names.len() as u64 => {
            let found = names.len();
            Err(first.wrong(TENSORS, format!("is {total}, but the parts hold {found} tensors")))
        }
        _ => Ok(()),
    }
}
