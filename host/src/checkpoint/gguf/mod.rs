//! GGUF files, versions 2 and 3, from bytes that nobody vouches for.
//!
//! Layout: magic, version, tensor count, key count; keys and values; tensor table; padding to
//! `general.alignment`; tensor data. Every count and length is checked against the bytes left
//! before anything is allocated for it. Source: ggml `docs/gguf.md`.

mod cursor;
mod metadata;
mod split;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::path::Path;

use gpu_kernels::formats::Format;

use self::cursor::Cursor;
pub use self::metadata::GgufMetadata;
pub(super) use self::split::{open, single};
pub use self::value::{Array, Strings, Value, ValueType};
use super::{Bytes, CheckpointError, Entry, Storage};

/// The first four bytes of a GGUF file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Where tensor data is aligned unless `general.alignment` says otherwise.
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
/// The largest `general.alignment` taken; real files use 32, some a page.
const MAX_ALIGNMENT: u32 = 1 << 20;
/// Far above any real file, low enough that a hostile one cannot fill the memory.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
/// Longest key or tensor name in bytes; the specification says 65535 and 64, but files with longer
/// tensor names exist.
const MAX_NAME_BYTES: u64 = 65535;
/// Dimensions of a tensor.
const MAX_DIMS: u32 = 4;

/// One parsed file.
#[derive(Debug)]
pub(super) struct GgufFile {
    pub(super) metadata: GgufMetadata,
    pub(super) entries: Vec<Entry>,
}

/// Parses a whole file; nothing is copied but names and shapes.
pub(super) fn parse(path: &Path, file: &Bytes) -> Result<GgufFile, CheckpointError> {
    let mut cursor = Cursor::new(path, file);
    magic_and_version(&mut cursor)?;
    let tensors = cursor.u64(format_args!("the tensor count"))?;
    let keys = cursor.u64(format_args!("the key count"))?;
    // A key takes 8 + 1 bytes for its name, 4 for the type and 1 for the value; a tensor 8 + 1 for
    // its name, 4 + 8 for a shape, 4 for the type and 8 for the offset.
    let claim = keys.saturating_mul(14).saturating_add(tensors.saturating_mul(33));
    cursor.expect(claim, format_args!("a header of {keys} keys and {tensors} tensors"))?;
    bounded(path, "keys", keys, MAX_KEYS)?;
    bounded(path, "tensors", tensors, MAX_TENSORS)?;

    let mut metadata = GgufMetadata::new(path);
    for i in 0..keys {
        let (key, value) = key_value(&mut cursor, i)?;
        metadata.insert(key, value)?;
    }
    let alignment = alignment(&metadata)?;
    let entries = tensor_table(&mut cursor, tensors, alignment)?;
    Ok(GgufFile { metadata, entries })
}

fn bounded(path: &Path, what: &str, count: u64, limit: u64) -> Result<(), CheckpointError> {
    if count <= limit {
        return Ok(());
    }
    Err(CheckpointError::file(path, format!("has {count} {what}, at most {limit} are read")))
}

fn magic_and_version(cursor: &mut Cursor<'_>) -> Result<(), CheckpointError> {
    let path = cursor.path();
    let magic = cursor.take(4, format_args!("the magic"))?;
    if magic == b"FUGG" {
        return Err(CheckpointError::file(path, BIG_ENDIAN));
    }
    if magic != MAGIC {
        return Err(CheckpointError::file(
            path,
            format!("starts with \"{}\", expected \"GGUF\"", magic.escape_ascii()),
        ));
    }
    match cursor.u32(format_args!("the version"))? {
        2 | 3 => Ok(()),
        1 => Err(CheckpointError::file(
            path,
            "is GGUF version 1, expected 2 or 3; convert the model again with a current tool",
        )),
        version if version != 0 && version & 0xffff == 0 => {
            Err(CheckpointError::file(path, BIG_ENDIAN))
        }
        version => {
            Err(CheckpointError::file(path, format!("is GGUF version {version}, expected 2 or 3")))
        }
    }
}

const BIG_ENDIAN: &str =
    "is a big-endian GGUF, expected little-endian; convert the model again without that option";

fn key_value(cursor: &mut Cursor<'_>, i: u64) -> Result<(String, Value), CheckpointError> {
    let path = cursor.path();
    let key = name(cursor, "key", i)?;
    let id = cursor.u32(format_args!("the type of key {key:?}"))?;
    let value = match value_type(path, &key, id)? {
        ValueType::String => {
            let range = cursor.string(format_args!("the string of key {key:?}"))?;
            Value::String(cursor.share(range))
        }
        ValueType::Array => Value::Array(array(cursor, &key)?),
        number => {
            let size = number.fixed_bytes().expect("neither string nor array") as u64;
            let bytes = cursor.take(size, format_args!("the {number} of key {key:?}"))?;
            Value::from_le(number, bytes).ok_or_else(|| {
                CheckpointError::key(path, &key, format!("is bool {}, expected 0 or 1", bytes[0]))
            })?
        }
    };
    Ok((key, value))
}

fn value_type(path: &Path, key: &str, id: u32) -> Result<ValueType, CheckpointError> {
    ValueType::from_id(id).ok_or_else(|| {
        CheckpointError::key(path, key, format!("has value type {id}, expected 0 to 12"))
    })
}

/// The name of key or tensor `i`: UTF-8, not empty.
fn name(cursor: &mut Cursor<'_>, what: &str, i: u64) -> Result<String, CheckpointError> {
    let path = cursor.path();
    let len = cursor.u64(format_args!("the name of {what} {i}"))?;
    if len > MAX_NAME_BYTES {
        let problem = format!(
            "{what} {i} has a name of {len} bytes, at most {MAX_NAME_BYTES} are read; \
             the file is damaged"
        );
        return Err(CheckpointError::file(path, problem));
    }
    let bytes = cursor.take(len, format_args!("the name of {what} {i}"))?;
    match std::str::from_utf8(bytes) {
        Ok("") => Err(CheckpointError::file(path, format!("{what} {i} has an empty name"))),
        Ok(name) => Ok(name.into()),
        Err(_) => Err(CheckpointError::file(
            path,
            format!("{what} {i} is named \"{}\", expected UTF-8", bytes.escape_ascii()),
        )),
    }
}

/// Checks the structure of an array and leaves its elements where they are.
fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, CheckpointError> {
    let path = cursor.path();
    let id = cursor.u32(format_args!("the element type of key {key:?}"))?;
    let element = value_type(path, key, id)?;
    let len = cursor.u64(format_args!("the length of key {key:?}"))?;
    let start = cursor.position();
    match (element, element.fixed_bytes()) {
        (ValueType::Array, _) => {
            return Err(CheckpointError::key(
                path,
                key,
                "is an array of arrays, expected an array of numbers, bools or strings",
            ));
        }
        (_, Some(size)) => {
            let bytes = len.saturating_mul(size as u64);
            let elements = cursor.take(bytes, format_args!("{len} × {element} of key {key:?}"))?;
            let bad = elements.iter().position(|&b| element == ValueType::Bool && b > 1);
            if let Some(i) = bad {
                let problem = format!("at [{i}] is bool {}, expected 0 or 1", elements[i]);
                return Err(CheckpointError::key(path, key, problem));
            }
        }
        (_, None) => {
            let least = len.saturating_mul(8); // each has at least its length
            cursor.expect(least, format_args!("{len} × {element} of key {key:?}"))?;
            for i in 0..len {
                cursor.string(format_args!("string {i} of key {key:?}"))?;
            }
        }
    }
    Ok(Array::new(element, len as usize, cursor.share(start..cursor.position())))
}

fn alignment(metadata: &GgufMetadata) -> Result<usize, CheckpointError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(DEFAULT_ALIGNMENT as usize),
        // From 8, as the specification says, so that every element of a tensor is aligned.
        Some(&Value::U32(v)) if v.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&v) => {
            Ok(v as usize)
        }
        Some(other) => Err(metadata.wrong(
            KEY,
            format!(
                "is {} {other}, expected u32, a power of two from 8 to {MAX_ALIGNMENT}",
                other.value_type()
            ),
        )),
    }
}

/// A row of the tensor table, its offset not yet checked against the file.
struct Row {
    name: String,
    storage: Storage,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

fn tensor_table(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: usize,
) -> Result<Vec<Entry>, CheckpointError> {
    let path = cursor.path();
    let mut rows = Vec::with_capacity(count as usize); // bounded by the caller
    for i in 0..count {
        rows.push(tensor_row(cursor, i)?);
    }
    let mut names = HashSet::with_capacity(rows.len());
    if let Some(twice) = rows.iter().find(|row| !names.insert(row.name.as_str())) {
        return Err(CheckpointError::tensor(path, &twice.name, "is there twice, expected once"));
    }
    // A position is at most isize::MAX and the alignment small, so this cannot overflow.
    let data_start = cursor.position().next_multiple_of(alignment);
    let file_end = cursor.position() + cursor.bytes_left() as usize;
    let entries = rows
        .into_iter()
        .map(|row| place(path, row, alignment, data_start, file_end))
        .collect::<Result<Vec<_>, _>>()?;
    no_overlap(path, &entries)?;
    Ok(entries)
}

fn tensor_row(cursor: &mut Cursor<'_>, i: u64) -> Result<Row, CheckpointError> {
    let path = cursor.path();
    let name = name(cursor, "tensor", i)?;
    let dims = cursor.u32(format_args!("the dimensions of tensor {name:?}"))?;
    if !(1..=MAX_DIMS).contains(&dims) {
        let problem = format!("has {dims} dimensions, expected 1 to {MAX_DIMS}");
        return Err(CheckpointError::tensor(path, &name, problem));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let dim = cursor.u64(format_args!("the shape of tensor {name:?}"))? as i64; // signed there
        shape.push(usize::try_from(dim).ok().filter(|&dim| dim > 0).ok_or_else(|| {
            let problem = format!("has a dimension of {dim}, expected at least 1");
            CheckpointError::tensor(path, &name, problem)
        })?);
    }
    shape.reverse(); // the file lists the innermost dimension first
    let id = cursor.u32(format_args!("the type of tensor {name:?}"))?;
    let storage = storage(id).ok_or_else(|| {
        let known: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
        let problem = format!("has type id {id}, known: {}", known.join(", "));
        CheckpointError::tensor(path, &name, problem)
    })?;
    let bytes =
        storage.bytes(&shape).map_err(|problem| CheckpointError::tensor(path, &name, problem))?;
    let offset = cursor.u64(format_args!("the offset of tensor {name:?}"))?;
    Ok(Row { name, storage, shape, bytes, offset })
}

/// How a tensor type id stores its elements; ids of plain numbers that are no weights are known
/// by name, so that a file may carry such a table.
fn storage(id: u32) -> Option<Storage> {
    let other = |name: &str, bits| Some(Storage::Other { name: name.into(), bits });
    match (Format::from_gguf_id(id), id) {
        (Some(format), _) => Some(Storage::Weights(format)),
        (None, 24) => other("I8", 8),
        (None, 25) => other("I16", 16),
        (None, 26) => other("I32", 32),
        (None, 27) => other("I64", 64),
        (None, 28) => other("F64", 64),
        (None, _) => None,
    }
}

fn place(
    path: &Path,
    row: Row,
    alignment: usize,
    data_start: usize,
    file_end: usize,
) -> Result<Entry, CheckpointError> {
    let Row { name, storage, shape, bytes, offset } = row;
    if !offset.is_multiple_of(alignment as u64) {
        let problem = format!("has offset {offset}, expected a multiple of {alignment}");
        return Err(CheckpointError::tensor(path, &name, problem));
    }
    let start = usize::try_from(offset).ok().and_then(|offset| data_start.checked_add(offset));
    let end = start.and_then(|start| start.checked_add(bytes)).filter(|&end| end <= file_end);
    let (Some(start), Some(end)) = (start, end) else {
        let problem = format!(
            "takes {bytes} bytes from offset {offset}, expected an end within the file, \
             whose data part has {} bytes",
            file_end.saturating_sub(data_start)
        );
        return Err(CheckpointError::tensor(path, &name, problem));
    };
    Ok(Entry { name, storage, shape, range: start..end })
}

fn no_overlap(path: &Path, entries: &[Entry]) -> Result<(), CheckpointError> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_unstable_by_key(|entry| entry.range.start);
    for pair in order.windows(2) {
        let [first, second] = pair else { unreachable!("windows of two") };
        if first.range.end > second.range.start {
            let problem = format!(
                "starts at byte {}, inside tensor {:?} which ends at {}",
                second.range.start, first.name, first.range.end
            );
            return Err(CheckpointError::tensor(path, &second.name, problem));
        }
    }
    Ok(())
}
