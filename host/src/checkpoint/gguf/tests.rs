//! GGUF files: good ones by another implementation, and every kind of bad one.

use std::path::Path;

use gpu_kernels::formats::Format;

use super::{Value, ValueType};
use crate::checkpoint::testing::{TempDir, gguf_file};
use crate::checkpoint::{Bytes, Checkpoint, CheckpointError, GgufMetadata, GgufWriter, Metadata};

/// Written by `tests/data/checkpoint/make.py` with the public `gguf` package.
const EVERY_TYPE: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/checkpoint/every_type.gguf"
));

fn parse(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_gguf(Path::new("m.gguf"), Bytes::owned(bytes.to_vec()))
}

fn metadata(checkpoint: &Checkpoint) -> &GgufMetadata {
    match checkpoint.metadata() {
        Metadata::Gguf(metadata) => metadata,
        Metadata::HuggingFace(_) => panic!("not a GGUF"),
    }
}

/// Bytes of a header under construction: what the writer would never write.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }
    fn u8(self, v: u8) -> Self {
        self.bytes(&[v])
    }
    fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }
    fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn str(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }
    fn tensor(self, name: &str, dims: &[u64], id: u32, offset: u64) -> Self {
        let head = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(head, |raw, &d| raw.u64(d)).u32(id).u64(offset)
    }
    /// Pads to the default alignment and adds `len` bytes of data.
    fn data(mut self, len: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len, 0);
        self
    }
    /// So that no claim about counts fails before what the test is about.
    fn slack(self) -> Self {
        self.bytes(&[0; 200])
    }
}

#[test]
fn a_file_of_the_reference_writer_reads_as_written() {
    let checkpoint = parse(EVERY_TYPE).unwrap();
    let m = metadata(&checkpoint);
    for (key, expected) in [
        ("a.u8", 255),
        ("a.i8", -128),
        ("a.u16", 65535),
        ("a.i16", -32768),
        ("a.u32", (1 << 32) - 1),
        ("a.i32", -(1 << 31)),
        ("a.u64", (1 << 64) - 1),
        ("a.i64", -(1 << 63)),
    ] {
        assert_eq!(m.get(key).unwrap().as_integer(), Some(expected), "{key}");
    }
    assert_eq!(m.str("general.architecture").unwrap(), Some("test"));
    assert_eq!(m.u32("general.alignment").unwrap(), Some(64));
    assert_eq!(m.f32("a.f32").unwrap(), Some(0.1));
    assert_eq!(m.get("a.f64").unwrap().as_f64(), Some(0.1));
    assert_eq!(m.bool("a.true").unwrap(), Some(true));
    assert_eq!(m.bool("a.false").unwrap(), Some(false));
    assert_eq!(m.str("a.string").unwrap(), Some("Grüße, 世界 🌍"));
    let strings: Vec<_> = m.strings("b.strings").unwrap().unwrap().collect();
    assert_eq!(strings, ["one", "zwei", "三", " four"].map(str::as_bytes));
    assert_eq!(m.i32s("b.i32s").unwrap().unwrap(), [-1, 0, i32::MAX]);
    assert_eq!(m.f32s("b.f32s").unwrap().unwrap(), [0.5, -1.5]);
    assert_eq!(m.bools("b.bools").unwrap().unwrap(), [true, false, true]);

    let table: Vec<_> = checkpoint
        .tensors()
        .iter()
        .map(|t| (t.name.as_str(), t.format, t.shape.as_slice(), t.offset, t.bytes))
        .collect();
    // As the package's own reader lists them.
    assert_eq!(
        table,
        [
            ("f32", Format::F32, &[3, 5][..], 832, 60),
            ("f16", Format::F16, &[2, 3, 4], 896, 48),
            ("vector", Format::F32, &[1], 960, 4),
            ("q8_0", Format::Q8_0, &[2, 64], 1088, 136),
        ]
    );
    let f32_bytes: Vec<u8> = (0..15).flat_map(|i| (i as f32).to_le_bytes()).collect();
    assert_eq!(*checkpoint.bytes(checkpoint.tensor("f32").unwrap()), *f32_bytes);
}

#[test]
fn a_tensor_of_integers_is_listed_and_refused_as_weights() {
    let checkpoint = parse(EVERY_TYPE).unwrap();
    let [other] = checkpoint.others() else { panic!("{:?}", checkpoint.others()) };
    assert_eq!((other.name.as_str(), other.dtype.as_str()), ("i32", "I32"));
    assert_eq!((other.shape.as_slice(), other.bytes), (&[2, 3][..], 24));
    assert!(checkpoint.tensor("i32").is_none());
    assert!(checkpoint.require("f32").is_ok());
    let error = checkpoint.require("i32").unwrap_err().to_string();
    assert!(
        error.starts_with("m.gguf: tensor \"i32\" is I32, expected weights: F32, F16, "),
        "{error}"
    );
    let error = checkpoint.require("absent").unwrap_err().to_string();
    assert_eq!(error, "m.gguf: tensor \"absent\" is missing");
}

#[test]
fn version_2_reads_like_version_3() {
    let mut bytes = EVERY_TYPE.to_vec();
    bytes[4] = 2;
    assert_eq!(parse(&bytes).unwrap().tensors().len(), 4);
}

#[test]
fn a_vocabulary_only_file_needs_no_data_part() {
    let file = gguf_file(GgufWriter::new().key("a", Value::U8(1)));
    let unpadded = Raw::header(0, 1).str("a").u32(0).u8(1).0;
    assert!(file.starts_with(&unpadded));
    for bytes in [file, unpadded] {
        let checkpoint = parse(&bytes).unwrap();
        assert!(checkpoint.tensors().is_empty());
        assert_eq!(metadata(&checkpoint).u32("a").unwrap(), Some(1));
    }
}

/// Prefixes of a valid file, each a file cut at that byte.
#[test]
fn every_truncation_is_an_error() {
    // Without the padding at the end, which nothing needs.
    let whole = &EVERY_TYPE[..1088 + 136];
    assert!(parse(whole).is_ok());
    for len in 0..whole.len() {
        let error = parse(&whole[..len]).unwrap_err();
        let expected =
            matches!(error, CheckpointError::Truncated { .. } | CheckpointError::Tensor { .. });
        assert!(expected, "{len} bytes: {error}");
    }
}

#[test]
fn truncated_files_say_where_and_how_much() {
    for (bytes, expected) in [
        (vec![], "m.gguf: the magic at byte 0 needs 4 bytes, 0 left in the file"),
        (b"GGUF".to_vec(), "m.gguf: the version at byte 4 needs 4 bytes, 0 left in the file"),
        (
            Raw::header(0, 1).str("a").u32(8).u64(1 << 40).slack().0,
            "m.gguf: the string of key \"a\" at byte 45 needs 1099511627776 bytes, \
             200 left in the file",
        ),
    ] {
        assert_eq!(parse(&bytes).unwrap_err().to_string(), expected);
    }
}

#[test]
fn claims_are_checked_before_anything_is_allocated() {
    const HUGE: [u64; 6] = [u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 62, 1 << 40, 1 << 32];
    for n in HUGE {
        let array = |element| Raw::header(0, 1).str("a").u32(9).u32(element).u64(n);
        for (what, raw) in [
            ("keys", Raw::header(0, n).slack()),
            ("tensors", Raw::header(n, 0).slack()),
            ("both", Raw::header(n, n).slack()),
            ("key length", Raw::header(0, 1).u64(n).slack()),
            ("string length", Raw::header(0, 1).str("a").u32(8).u64(n).slack()),
            ("array of u8", array(0).slack()),
            ("array of f64", array(12).slack()),
            ("array of strings", array(8).slack()),
            ("array of f64 in a file of 45 bytes", array(12)),
            ("array element", Raw::header(0, 1).str("a").u32(9).u32(8).u64(1).u64(n).slack()),
            ("tensor name", Raw::header(1, 0).u64(n).slack()),
        ] {
            assert!(parse(&raw.0).is_err(), "{what} of {n}");
        }
    }
}

#[test]
fn headers_that_are_wrong_are_refused_by_what_they_say() {
    let key = |key: &str, id: u32| Raw::header(0, 1).str(key).u32(id);
    let u32_key = |v: u32| key("general.alignment", 4).u32(v).slack();
    let many = |keys: u64| {
        (0..keys).fold(Raw::header(0, keys), |r, i| r.str(&format!("k{i:05}")).u32(0).u8(0))
    };
    for (raw, expected) in [
        (Raw(b"GGML".to_vec()), "starts with \"GGML\", expected \"GGUF\""),
        (Raw(b"\x7fELF".to_vec()), "starts with \"\\x7fELF\", expected \"GGUF\""),
        (Raw(b"FUGG".to_vec()), "is a big-endian GGUF, expected little-endian"),
        (Raw(b"GGUF\0\0\0\x03".to_vec()), "is a big-endian GGUF, expected little-endian"),
        (Raw(b"GGUF".to_vec()).u32(0), "is GGUF version 0, expected 2 or 3"),
        (Raw(b"GGUF".to_vec()).u32(1), "is GGUF version 1, expected 2 or 3; convert"),
        (Raw(b"GGUF".to_vec()).u32(4), "is GGUF version 4, expected 2 or 3"),
        (many(65537), "has 65537 keys, at most 65536 are read"),
        (key("a", 13).slack(), "key \"a\" has value type 13, expected 0 to 12"),
        (key("a", u32::MAX).slack(), "key \"a\" has value type 4294967295, expected 0 to 12"),
        (key("a", 7).u8(2).slack(), "key \"a\" is bool 2, expected 0 or 1"),
        (key("a", 9).u32(7).u64(2).u8(1).u8(9).slack(), "key \"a\" at [1] is bool 9, expected 0"),
        (key("a", 9).u32(13).slack(), "key \"a\" has value type 13, expected 0 to 12"),
        (
            key("a", 9).u32(9).u64(1).slack(),
            "key \"a\" is an array of arrays, expected an array of",
        ),
        (key("", 0).u8(1).slack(), "key 0 has an empty name"),
        (
            Raw::header(0, 1).u64(2).bytes(b"\xff\xfe").u32(0).slack(),
            "key 0 is named \"\\xff\\xfe\", expected UTF-8",
        ),
        (Raw::header(0, 1).u64(65536).slack(), "key 0 has a name of 65536 bytes, at most 65535"),
        (
            Raw::header(0, 2).str("a").u32(0).u8(1).str("a").u32(0).u8(1),
            "key \"a\" is there twice, expected once",
        ),
        (u32_key(0), "key \"general.alignment\" is u32 0, expected u32, a power of two from 8"),
        (u32_key(4), "is u32 4, expected u32, a power of two from 8 to 1048576"),
        (u32_key(33), "is u32 33, expected u32, a power of two from 8 to 1048576"),
        (u32_key(1 << 31), "is u32 2147483648, expected u32, a power of two from 8 to 1048576"),
        (key("general.alignment", 10).u64(32).slack(), "is u64 32, expected u32, a power of two"),
        (key("general.alignment", 5).u32(32).slack(), "is i32 32, expected u32, a power of two"),
        (key("general.alignment", 8).str("32").slack(), "is string \"32\", expected u32, a power"),
    ] {
        let error = parse(&raw.0).unwrap_err().to_string();
        assert!(error.starts_with("m.gguf: "), "{error}");
        assert!(error.contains(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn tensors_that_are_wrong_are_refused_by_name() {
    let one = |dims: &[u64], id, offset| Raw::header(1, 0).tensor("t", dims, id, offset).data(64);
    let two = |a: u64, b: u64| {
        Raw::header(2, 0).tensor("a", &[16], 0, a).tensor("b", &[16], 0, b).data(128)
    };
    let unknown = "tensor \"t\" has type id 4, known: F32, F16, ";
    for (raw, expected) in [
        (one(&[], 0, 0), "tensor \"t\" has 0 dimensions, expected 1 to 4"),
        (one(&[1; 5], 0, 0), "tensor \"t\" has 5 dimensions, expected 1 to 4"),
        (one(&[0], 0, 0), "tensor \"t\" has a dimension of 0, expected at least 1"),
        (one(&[4, 0, 4], 0, 0), "tensor \"t\" has a dimension of 0, expected at least 1"),
        (one(&[u64::MAX], 0, 0), "tensor \"t\" has a dimension of -1, expected at least 1"),
        (one(&[1 << 63], 0, 0), "has a dimension of -9223372036854775808, expected at least 1"),
        (one(&[16], 4, 0), unknown),
        (one(&[16], 31, 0), "tensor \"t\" has type id 31, known: "),
        (one(&[16], 1000, 0), "tensor \"t\" has type id 1000, known: "),
        (
            one(&[31], 8, 0),
            "tensor \"t\" has rows of 31 weights, expected a multiple of 32 for Q8_0",
        ),
        (one(&[16, 2], 8, 0), "has rows of 16 weights, expected a multiple of 32 for Q8_0"),
        (one(&[1 << 32, 1 << 32], 0, 0), "whose size overflows"),
        (one(&[1 << 62], 0, 0), "whose size overflows"),
        (one(&[1 << 62, 2], 24, 0), "whose size overflows"),
        (one(&[1 << 61], 0, 0), "takes 9223372036854775808 bytes from offset 0"),
        (
            one(&[17], 0, 0),
            "takes 68 bytes from offset 0, expected an end within the file, whose data part has 64 bytes",
        ),
        (one(&[16], 0, 32), "takes 64 bytes from offset 32, expected an end within the file"),
        (one(&[16], 0, 16), "tensor \"t\" has offset 16, expected a multiple of 32"),
        (one(&[16], 0, 1 << 63), "from offset 9223372036854775808, expected an end within"),
        (one(&[16], 0, u64::MAX - 31), "from offset 18446744073709551584, expected an end within"),
        (two(0, 32), "tensor \"b\" starts at byte 128, inside tensor \"a\" which ends at 160"),
        (two(64, 32), "tensor \"a\" starts at byte 160, inside tensor \"b\" which ends at 192"),
        (two(0, 0), "inside tensor"),
        (
            Raw::header(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(64),
            "tensor \"t\" is there twice, expected once",
        ),
        (Raw::header(1, 0).tensor("", &[8], 0, 0).data(64), "tensor 0 has an empty name"),
        (
            Raw::header(1, 0).u64(1).bytes(b"\xff").u32(1).u64(8).u32(0).u64(0).data(64),
            "tensor 0 is named \"\\xff\", expected UTF-8",
        ),
    ] {
        let error = parse(&raw.0).unwrap_err().to_string();
        assert!(error.starts_with("m.gguf: "), "{error}");
        assert!(error.contains(expected), "{error}\nis not\n{expected}");
    }
    assert!(parse(&one(&[16], 0, 0).0).is_ok());
    assert!(parse(&two(64, 0).0).is_ok()); // order in the table is free
    let long = "n".repeat(65); // one more than the specification allows; such files exist
    assert!(parse(&Raw::header(1, 0).tensor(&long, &[16], 0, 0).data(64).0).is_ok());
}

#[test]
fn strings_need_not_be_text_until_they_are_read_as_text() {
    let raw = Raw::header(0, 1).str("a").u32(8).u64(2).bytes(b"\xffx");
    let checkpoint = parse(&raw.0).unwrap();
    let m = metadata(&checkpoint);
    assert!(matches!(m.get("a"), Some(Value::String(bytes)) if **bytes == *b"\xffx"));
    assert!(m.str("a").is_err());
}

/// A vocabulary of the largest size in use must load in a blink; the limit is generous, since
/// tests share the machine.
#[test]
fn a_large_vocabulary_is_quick_to_open_and_read() {
    let words: Vec<String> = (0..262_144).map(|i| format!("token {i}")).collect();
    let file = gguf_file(
        GgufWriter::new()
            .key("tokens", Value::strings(&words))
            .key("scores", Value::f32s(&vec![-1.0; words.len()])),
    );
    let dir = TempDir::new();
    let path = dir.file("vocabulary.gguf", &file);
    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tokens = metadata(&checkpoint).strings("tokens").unwrap().unwrap();
    assert_eq!(tokens.len(), words.len());
    assert!(tokens.eq(words.iter().map(|w| w.as_bytes())));
    assert_eq!(metadata(&checkpoint).f32s("scores").unwrap().unwrap().len(), words.len());
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
}

#[test]
fn files_of_other_kinds_are_refused_with_the_way_out() {
    let dir = TempDir::new();
    for (name, expected) in [
        ("model.safetensors", "is a part of a SafeTensors model; give the directory"),
        ("model.safetensors.index.json", "is a part of a SafeTensors model; give the directory"),
        ("model.bin", "starts with \"PK\\x03\\x04\", expected \"GGUF\""),
    ] {
        let error = Checkpoint::open(&dir.file(name, b"PK\x03\x04")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = Checkpoint::open(&dir.path().join("absent.gguf")).unwrap_err();
    assert!(error.to_string().ends_with("absent.gguf: cannot open the model"));
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("No such file"));
}

#[test]
#[cfg(unix)]
fn a_model_cut_while_open_reads_as_zeros_and_reports_it() {
    let dir = TempDir::new();
    let mut writer = GgufWriter::new();
    writer.tensor("t", Format::F32, &[1024, 64]).unwrap();
    let mut file = Vec::new();
    writer.write(&mut file, |_, out| out.write_all(&[0x3f; 1024 * 64 * 4])).unwrap();
    let path = dir.file("cut.gguf", &file);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(checkpoint.check_intact().is_ok());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let bytes = checkpoint.bytes(&checkpoint.tensors()[0]);
    assert!(bytes[65536..].iter().all(|&b| b == 0));
    assert_eq!(checkpoint.damaged(), Some(path.as_path()));
    let error = checkpoint.check_intact().unwrap_err().to_string();
    assert!(error.ends_with(
        "cut.gguf: the file was truncated while in use, or its disk failed; restore it and load the model again"
    ));
}

/// Part `no` of a split model with one tensor, and the keys given.
fn part(no: u16, count: u16, tensor: &str, keys: &[(&str, Value)]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.key("split.no", Value::U16(no)).key("split.count", Value::U16(count));
    for (key, value) in keys {
        writer.key(*key, value.clone());
    }
    writer.tensor(tensor, Format::F32, &[8]).unwrap();
    let mut file = Vec::new();
    writer.write(&mut file, |_, out| out.write_all(&[no as u8 + 1; 32])).unwrap();
    file
}

fn part_name(no: u16, count: u16) -> String {
    format!("m-{:05}-of-{count:05}.gguf", no + 1)
}

#[test]
fn any_part_of_a_split_model_opens_all_of_it() {
    let dir = TempDir::new();
    let total = ("split.tensors.count", Value::I32(3));
    let name = ("general.name", Value::string("split"));
    for (no, tensor, keys) in [
        (0, "a", vec![total.clone(), name.clone()]),
        (1, "b", vec![total.clone(), name]),
        (2, "c", vec![total]),
    ] {
        dir.file(&part_name(no, 3), &part(no, 3, tensor, &keys));
    }
    for given in 0..3 {
        let path = dir.path().join(part_name(given, 3));
        let checkpoint = Checkpoint::open(&path).unwrap();
        let names: Vec<_> = checkpoint.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        for (i, tensor) in checkpoint.tensors().iter().enumerate() {
            assert_eq!(*checkpoint.bytes(tensor), [i as u8 + 1; 32]);
            assert_eq!(checkpoint.file(tensor), dir.path().join(part_name(i as u16, 3)));
        }
        assert_eq!(metadata(&checkpoint).str("general.name").unwrap(), Some("split"));
        assert_eq!(metadata(&checkpoint).u32("split.no").unwrap(), Some(0));
    }
}

#[test]
fn split_models_that_are_wrong_are_refused() {
    let total = |n| ("split.tensors.count", Value::I32(n));
    let name = |n: &str| ("general.name", Value::string(n));
    let good = |no, tensor: &str| part(no, 2, tensor, &[total(2)]);
    /// File name and content of each part; the first is the one opened.
    type Case = (&'static str, Vec<(String, Vec<u8>)>, &'static str);
    let at = |no, count, bytes: Vec<u8>| (part_name(no, count), bytes);
    let cases: Vec<Case> = vec![
        (
            "missing part",
            vec![at(0, 2, good(0, "a"))],
            "m-00002-of-00002.gguf: is missing: part 2 of 2 of the split model that",
        ),
        (
            "missing first part",
            vec![at(1, 2, good(1, "b"))],
            "m-00001-of-00002.gguf: is missing: part 1 of 2",
        ),
        (
            "renamed",
            vec![("model.gguf".into(), good(0, "a"))],
            "model.gguf: says it is part 1 of 2 of a split model; its name must end with \
             \"-00001-of-00002.gguf\"",
        ),
        (
            "named as another part",
            vec![at(1, 2, good(0, "a")), at(0, 2, good(1, "b"))],
            "says it is part 1 of 2 of a split model; its name must end with",
        ),
        (
            "swapped part",
            vec![at(0, 2, good(0, "a")), at(1, 2, good(0, "b"))],
            "m-00002-of-00002.gguf: key \"split.no\" is 0, expected 1 by the file's name",
        ),
        (
            "another count",
            vec![at(0, 2, good(0, "a")), at(1, 2, part(1, 3, "b", &[total(2)]))],
            "m-00002-of-00002.gguf: key \"split.count\" is 3, expected 2",
        ),
        (
            "a whole model as part",
            vec![at(0, 2, good(0, "a")), at(1, 2, gguf_file(&GgufWriter::new()))],
            "m-00002-of-00002.gguf: key \"split.count\" is absent or below 2, expected 2",
        ),
        (
            "wrong total",
            vec![at(0, 2, part(0, 2, "a", &[total(3)])), at(1, 2, part(1, 2, "b", &[]))],
            "key \"split.tensors.count\" is 3, but the parts hold 2 tensors",
        ),
        (
            "parts that disagree about a key",
            vec![
                at(0, 2, part(0, 2, "a", &[name("first")])),
                at(1, 2, part(1, 2, "b", &[name("second")])),
            ],
            "m-00002-of-00002.gguf: key \"general.name\" is \"second\", but \"first\" in",
        ),
        (
            "parts with the same tensor",
            vec![at(0, 2, good(0, "a")), at(1, 2, good(1, "a"))],
            "m-00002-of-00002.gguf: tensor \"a\" is in an earlier part too, expected once",
        ),
        (
            "a number beyond the count",
            vec![at(2, 2, part(2, 2, "a", &[]))],
            "key \"split.no\" is 2, expected less than split.count, 2",
        ),
        (
            "a part of one",
            vec![at(0, 1, part(1, 1, "a", &[]))],
            "key \"split.no\" is 1, expected 0 where split.count is 1",
        ),
        (
            "no number",
            vec![at(0, 2, gguf_file(GgufWriter::new().key("split.count", Value::U16(2))))],
            "key \"split.count\" is 2, but there is no key \"split.no\"",
        ),
        (
            "a count of the wrong type",
            vec![at(0, 2, gguf_file(GgufWriter::new().key("split.count", Value::string("2"))))],
            "key \"split.count\" is string \"2\", expected an integer",
        ),
    ];
    for (what, files, expected) in cases {
        let dir = TempDir::new();
        for (name, bytes) in &files {
            dir.file(name, bytes);
        }
        let error = Checkpoint::open(&dir.path().join(&files[0].0)).unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}\nis not\n{expected}");
    }
    let error = parse(&good(0, "a")).unwrap_err().to_string();
    assert_eq!(error, "m.gguf: key \"split.count\" is 2, expected 1: this must be a whole model");
}

#[test]
fn a_merged_model_says_it_has_no_parts() {
    for count in [0, 1] {
        let mut writer = GgufWriter::new();
        writer.key("split.no", Value::U16(0)).key("split.count", Value::U16(count));
        assert!(parse(&gguf_file(&writer)).is_ok());
    }
}

#[test]
fn value_types_have_the_sizes_of_the_specification() {
    let sizes: Vec<_> = (0..13).map(|id| ValueType::from_id(id).unwrap().fixed_bytes()).collect();
    let expected = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8].map(|n| Some(n).filter(|&n| n > 0));
    assert_eq!(sizes, expected);
}
