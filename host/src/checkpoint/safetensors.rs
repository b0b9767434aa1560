//! SafeTensors files: the header, checked.
//!
//! Layout: header length (u64), JSON header, tensor data. The types and their sizes are those of
//! the `safetensors` crate; the checks are our own, so that an error names file and tensor, a
//! name that occurs twice is seen, and no sum can wrap. Source: the format section of the
//! `safetensors` repository's README.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use gpu_kernels::formats::Format;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};

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
    let mut rows = serde_json::from_str::<Header>(header)
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
fn header<'a>(path: &Path, file: &'a Bytes) -> Result<(&'a str, usize), CheckpointError> {
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
    let text = std::str::from_utf8(&rest[..len as usize]).map_err(|e| {
        let at = e.valid_up_to();
        CheckpointError::file(path, format!("has a header that is not UTF-8 after {at} bytes"))
    })?;
    Ok((text, 8 + len as usize))
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
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                // Free text about the file's origin, of no use here.
                let _: Option<HashMap<String, String>> = map
                    .next_value()
                    .map_err(|e| A::Error::custom(format_args!("__metadata__: {e}")))?;
                if std::mem::replace(&mut metadata_seen, true) {
                    return Err(A::Error::duplicate_field("__metadata__"));
                }
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

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::*;

    /// Written by `tests/data/checkpoint/make.py` with the public `safetensors` package.
    const PART_1: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/checkpoint/sharded/model-00001-of-00002.safetensors"
    ));

    fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::from_safetensors(Path::new("m.safetensors"), Bytes::owned(bytes.to_vec()))
    }

    fn file(header: &str, data_bytes: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data_bytes, 0);
        file
    }

    #[test]
    fn a_file_of_the_reference_writer_reads_as_written() {
        let checkpoint = open(PART_1).unwrap();
        let table: Vec<_> = checkpoint
            .tensors()
            .iter()
            .map(|t| (t.name.as_str(), t.format, t.shape.as_slice(), t.bytes))
            .collect();
        let expected =
            [("a.f32", Format::F32, &[2, 3][..], 24), ("a.bf16", Format::BF16, &[2, 2], 8)];
        assert_eq!(table, expected);
        let others: Vec<_> = checkpoint
            .others()
            .iter()
            .map(|t| (t.name.as_str(), t.dtype.as_str(), t.shape.as_slice(), t.bytes))
            .collect();
        assert_eq!(others, [("a.i64", "I64", &[2][..], 16), ("a.u8", "U8", &[3], 3)]);

        let f32_bytes: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        assert_eq!(*checkpoint.bytes(checkpoint.tensor("a.f32").unwrap()), *f32_bytes);
        let bf16_bytes = checkpoint.bytes(checkpoint.tensor("a.bf16").unwrap());
        assert_eq!(*bf16_bytes, [0x80, 0x3f, 0x00, 0x40, 0x40, 0x40, 0x80, 0x40]);
        let error = checkpoint.require("a.i64").unwrap_err().to_string();
        assert!(error.contains("tensor \"a.i64\" is I64, expected weights: F32, "), "{error}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        assert!(open(PART_1).is_ok());
        for len in 0..PART_1.len() {
            assert!(open(&PART_1[..len]).is_err(), "{len} bytes");
        }
        let mut longer = PART_1.to_vec();
        longer.push(0);
        let error = open(&longer).unwrap_err().to_string();
        assert!(error.contains("has 52 bytes of data, expected 51 by its header"), "{error}");
    }

    #[test]
    fn bytes_are_aligned_even_where_the_file_is_not() {
        for pad in 0..8 {
            let header = format!(
                r#"{{"f":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},
                     "h":{{"dtype":"F16","shape":[1],"data_offsets":[8,10]}}}}{:pad$}"#,
                ""
            );
            let mut bytes = file(&header, 10);
            let data = bytes.len() - 10;
            bytes[data..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
            let checkpoint = open(&bytes).unwrap();
            let [f, h] = checkpoint.tensors() else { panic!("two tensors") };
            let (f, h) = (checkpoint.bytes(f), checkpoint.bytes(h));
            assert_eq!((f.as_ptr() as usize % 4, h.as_ptr() as usize % 2), (0, 0));
            assert_eq!((&*f, &*h), (&[1, 2, 3, 4, 5, 6, 7, 8][..], &[9, 10][..]));
        }
    }

    #[test]
    fn what_the_format_allows_is_read() {
        for (header, data_bytes) in [
            ("{}", 0),
            (r#"{"__metadata__":{"format":"pt"}}"#, 0),
            (r#"{"__metadata__":null}"#, 0),
            ("{}        ", 0), // padded to eight bytes
            (r#"{"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}"#, 0),
            (r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, 4),
            (
                r#"{"b":{"data_offsets":[2,4],"shape":[1],"dtype":"F16"},
                 "a":{"data_offsets":[0,2],"shape":[1],"dtype":"F16"}}"#,
                4,
            ),
            (r#"{"f":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#, 2),
        ] {
            open(&file(header, data_bytes)).unwrap();
        }
    }

    #[test]
    fn files_that_are_wrong_are_refused_by_what_they_say() {
        let t = |fields: &str| format!(r#"{{"t":{{{fields}}}}}"#);
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},
                     "b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        for (header, data_bytes, expected) in [
            (
                t(r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#),
                4,
                "tensor \"t\" is F32 [2], which takes 8 bytes, but data_offsets [0, 4] hold 4",
            ),
            (
                t(r#""dtype":"F32","shape":[1],"data_offsets":[0,8]"#),
                4,
                "tensor \"t\" has data_offsets [0, 8], expected a range within the 4 bytes",
            ),
            (
                t(r#""dtype":"F32","shape":[1],"data_offsets":[4,0]"#),
                4,
                "tensor \"t\" has data_offsets [4, 0], expected a range",
            ),
            (
                t(
                    r#""dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]"#,
                ),
                4,
                "expected a range within the 4 bytes",
            ),
            (
                t(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]"#),
                4,
                "whose size overflows",
            ),
            (
                t(r#""dtype":"U8","shape":[9223372036854775808,2],"data_offsets":[0,4]"#),
                4,
                "whose size overflows",
            ),
            (
                t(r#""dtype":"F4","shape":[3],"data_offsets":[0,4]"#),
                4,
                "has 12 bits of F4, expected whole bytes",
            ),
            (
                t(r#""dtype":"F33","shape":[1],"data_offsets":[0,4]"#),
                4,
                "tensor \"t\" has an unknown dtype: unknown variant `F33`, expected one of `BOOL`",
            ),
            (
                t(r#""dtype":"F32","shape":[1],"data_offsets":[0,4]"#),
                8,
                "has 8 bytes of data, expected 4 by its header: it leaves a hole",
            ),
            (
                two("[0,4]", "[5,9]"),
                9,
                "tensor \"b\" starts at byte 5 of the data, expected 4: it leaves a hole",
            ),
            (
                two("[0,4]", "[3,7]"),
                7,
                "tensor \"b\" starts at byte 3 of the data, expected 4: it overlaps the tensor before it",
            ),
            (
                two("[0,4]", "[0,4]"),
                4,
                "tensor \"b\" starts at byte 0 of the data, expected 4: it overlaps",
            ),
            (
                two("[1,5]", "[5,9]"),
                9,
                "tensor \"a\" starts at byte 1 of the data, expected 0: it leaves a hole",
            ),
            (
                two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""),
                8,
                "tensor \"a\" is there twice, expected once",
            ),
        ] {
            let error = open(&file(&header, data_bytes)).unwrap_err().to_string();
            assert!(error.starts_with("m.safetensors: "), "{error}");
            assert!(error.contains(expected), "{error}\nis not\n{expected}");
        }
    }

    #[test]
    fn headers_that_are_not_what_they_must_be_say_where() {
        let deep = "[".repeat(10_000);
        let many_dims = format!(r#"{{"t":{{"shape":[{}1]}}}}"#, "1,".repeat(100));
        for (header, expected) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("not json", "expected ident at line 1 column 2"),
            ("[]", "invalid type: sequence, expected an object of tensors"),
            ("{\"\u{0}\":1}", "control character"),
            (r#"{"t":1}"#, "tensor \"t\": invalid type: integer `1`, expected struct Fields"),
            (r#"{"t":{}}"#, "tensor \"t\": missing field `dtype`"),
            (r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, "invalid length 1"),
            (
                r#"{"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
                "tensor \"t\": invalid value: integer `-1`, expected usize",
            ),
            (
                r#"{"t":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
                "floating point `1.5`, expected usize",
            ),
            (
                r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}"#,
                "integer `-4`, expected u64",
            ),
            (
                r#"{"t":{"dtype":5,"shape":[1],"data_offsets":[0,4]}}"#,
                "integer `5`, expected a string",
            ),
            (
                r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#,
                "unknown field `x`",
            ),
            (
                r#"{"t":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}"#,
                "duplicate field `shape`",
            ),
            (&many_dims, "tensor \"t\": invalid length 9, expected at most 8 dimensions"),
            (
                &format!(r#"{{"__metadata__":{{"a":{deep}"#),
                "__metadata__: invalid type: sequence, expected a string",
            ),
            (r#"{"__metadata__":{},"__metadata__":{}}"#, "duplicate field `__metadata__`"),
        ] {
            let error = open(&file(header, 4)).unwrap_err();
            assert_eq!(error.to_string(), "m.safetensors: the header is not valid");
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(expected), "{source}\nis not\n{expected}");
        }
    }

    #[test]
    fn the_header_length_is_checked_before_the_header() {
        for (len, expected) in [
            (3, "the header at byte 8 needs 3 bytes, 2 left in the file"),
            (100_000_000, "the header at byte 8 needs 100000000 bytes, 2 left in the file"),
            (100_000_001, "has a header of 100000001 bytes, at most 100000000 are allowed"),
            (1 << 63, "has a header of 9223372036854775808 bytes, at most 100000000 are allowed"),
            (u64::MAX, "has a header of 18446744073709551615 bytes, at most 100000000 are allowed"),
        ] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend(b"{}");
            let error = open(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nis not\n{expected}");
        }
        let error = open(b"\x03\0\0\0\0\0\0\0{}\xff").unwrap_err().to_string();
        assert!(error.contains("has a header that is not UTF-8 after 2 bytes"), "{error}");
        let error = open(&[0; 7]).unwrap_err().to_string();
        assert!(error.contains("the header length at byte 0 needs 8 bytes, 7 left"), "{error}");
    }
}
