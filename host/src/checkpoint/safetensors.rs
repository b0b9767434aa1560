//! SafeTensors files: the header, checked.
//!
//! Layout: header length (u64), JSON header, tensor data. The types and their sizes are those of
//! the `safetensors` crate; the checks are our own, so that an error names file and tensor, a
//! name that occurs twice is seen, and no sum can wrap. Source: the format section of the
//! `safetensors` repository's README.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use gpu_kernels::formats::Format;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{
    Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::{Bytes, CheckpointError, Entry, Storage};

/// The limit of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Far above any real file, low enough that a hostile one cannot fill the memory.
const MAX_TENSORS: usize = 1 << 20;
/// Dimensions of a tensor; models use four or five.
const MAX_DIMS: usize = 8;

/// Parses the header of a whole file; entries come in the order of their data.
pub(super) fn parse(path: &Path, file: &Bytes) -> Result<Vec<Entry>, CheckpointError> {
    let (header, data_start) = header(path, file)?;
    let mut rows = serde_json::from_slice::<Header>(header)
        .map_err(|source| CheckpointError::Json { path: path.into(), what: "the header", source })?
        .0;
    rows.sort_by_key(|row| row.data_offsets);
    check_names(path, &rows)?;

    let data_bytes = (file.len() - data_start) as u64;
    let mut end = 0; // of the tensors so far, in bytes of data
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let problem = |problem: String| CheckpointError::tensor(path, &row.name, problem);
        let (from, to) = row.data_offsets;
        if from > to || to > data_bytes {
            return Err(problem(format!(
                "has data_offsets [{from}, {to}], expected a range within the {data_bytes} bytes \
                 of data"
            )));
        }
        if from != end {
            let what = if from < end { "overlaps the tensor before it" } else { "leaves a hole" };
            return Err(problem(format!(
                "starts at byte {from} of the data, expected {end}: it {what}"
            )));
        }
        let storage = storage(&row.dtype).map_err(problem)?;
        let bytes = storage.bytes(&row.shape).map_err(problem)?;
        if bytes as u64 != to - from {
            return Err(problem(format!(
                "is {} {:?}, which takes {bytes} bytes, but data_offsets [{from}, {to}] hold {}",
                row.dtype,
                row.shape,
                to - from
            )));
        }
        end = to;
        let range = data_start + from as usize..data_start + to as usize; // within the file
        entries.push(Entry { name: row.name, storage, shape: row.shape, range });
    }
    if end != data_bytes {
        let problem = format!(
            "has {data_bytes} bytes of data, expected {end} by its header: it leaves a hole"
        );
        return Err(CheckpointError::file(path, problem));
    }
    Ok(entries)
}

/// The JSON text, and where the data starts.
fn header<'a>(path: &Path, file: &'a Bytes) -> Result<(&'a [u8], usize), CheckpointError> {
    let truncated = |what: &str, at: u64, needs| CheckpointError::Truncated {
        path: path.into(),
        what: what.into(),
        at,
        needs,
        left: file.len() as u64 - at,
    };
    let Some((len, rest)) = file.split_first_chunk::<8>() else {
        return Err(truncated("the header length", 0, 8));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER_BYTES {
        let problem = format!(
            "has a header of {len} bytes, at most {MAX_HEADER_BYTES} are allowed; \
             is it a SafeTensors file?"
        );
        return Err(CheckpointError::file(path, problem));
    }
    if len > rest.len() as u64 {
        return Err(truncated("the header", 8, len));
    }
    Ok((&rest[..len as usize], 8 + len as usize))
}

fn check_names(path: &Path, rows: &[Row]) -> Result<(), CheckpointError> {
    let mut names = HashSet::with_capacity(rows.len());
    match rows.iter().find(|row| !names.insert(row.name.as_str())) {
        Some(row) => Err(CheckpointError::tensor(path, &row.name, "is there twice, expected once")),
        None => Ok(()),
    }
}

/// What the crate knows of a type; one it does not know has no size to check.
fn storage(dtype: &str) -> Result<Storage, String> {
    let name: StrDeserializer<'_, NameError> = dtype.into_deserializer();
    match Dtype::deserialize(name) {
        Ok(Dtype::F32) => Ok(Storage::Weights(Format::F32)),
        Ok(Dtype::F16) => Ok(Storage::Weights(Format::F16)),
        Ok(Dtype::BF16) => Ok(Storage::Weights(Format::BF16)),
        Ok(other) => Ok(Storage::Other { name: other.to_string(), bits: other.bitsize() }),
        Err(error) => Err(format!("has an unknown dtype: {error}")),
    }
}

/// One tensor as the header lists it.
struct Row {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// All tensors in the order of the header, without `__metadata__`; names may repeat.
struct Header(Vec<Row>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut rows = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?; // free text about the file's origin
                continue;
            }
            if rows.len() == MAX_TENSORS {
                return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
            let Fields { dtype, shape, data_offsets } = map
                .next_value()
                .map_err(|e| A::Error::custom(format_args!("tensor {name:?}: {e}")))?;
            rows.push(Row { name, dtype, shape: shape.0, data_offsets });
        }
        Ok(Header(rows))
    }
}

/// The value of a header entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// A shape of at most [`MAX_DIMS`] dimensions: a list of millions is refused while it is read.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_DIMS} dimensions")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == MAX_DIMS {
                return Err(A::Error::invalid_length(MAX_DIMS + 1, &self));
            }
            dims.push(dim);
        }
        Ok(Shape(dims))
    }
}
