//! Model directories: a good one by another implementation, and every kind of bad one.

use std::error::Error;
use std::fs;
use std::path::Path;

use gpu_kernels::formats::Format;
use serde_json::json;

use super::HfMetadata;
use crate::checkpoint::testing::TempDir;
use crate::checkpoint::{Checkpoint, CheckpointError, Metadata};

/// Written by `tests/data/checkpoint/make.py` with the public `safetensors` package.
const SHARDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/checkpoint/sharded");

const PART_1: &str = "model-00001-of-00002.safetensors";
const PART_2: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A SafeTensors file without tensors.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

/// A copy of the sharded model, to be damaged.
fn sharded() -> TempDir {
    let dir = TempDir::new();
    for name in ["config.json", INDEX, PART_1, PART_2] {
        dir.file(name, &fs::read(Path::new(SHARDED).join(name)).unwrap());
    }
    dir
}

/// A directory with these files and an empty `model.safetensors`.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new();
    dir.file("model.safetensors", EMPTY);
    for (name, text) in files {
        dir.file(name, text.as_bytes());
    }
    dir
}

fn metadata(dir: &TempDir) -> HfMetadata {
    HfMetadata::read_from(dir.path()).unwrap()
}

/// Display of the error and of its source.
fn error_of(dir: &TempDir) -> String {
    let error = Checkpoint::open(dir.path()).unwrap_err();
    let source = error.source().map(|s| format!(": {s}")).unwrap_or_default();
    format!("{error}{source}")
}

#[track_caller]
fn assert_error(dir: &TempDir, expected: &str) {
    let error = error_of(dir);
    assert!(error.starts_with(dir.path().to_str().unwrap()), "{error}");
    assert!(error.contains(expected), "{error}\nis not\n{expected}");
}

#[test]
fn a_sharded_model_of_the_reference_writer_reads_as_written() {
    let checkpoint = Checkpoint::open(Path::new(SHARDED)).unwrap();
    let table: Vec<_> = checkpoint
        .tensors()
        .iter()
        .map(|t| {
            let file = checkpoint.file(t).file_name().unwrap().to_str().unwrap();
            (t.name.as_str(), t.format, t.shape.as_slice(), file)
        })
        .collect();
    assert_eq!(
        table,
        [
            ("a.f32", Format::F32, &[2, 3][..], PART_1),
            ("a.bf16", Format::BF16, &[2, 2], PART_1),
            ("b.scalar", Format::F32, &[], PART_2),
            ("b.f16", Format::F16, &[1, 4], PART_2),
        ]
    );
    let scalar = checkpoint.require("b.scalar").unwrap();
    assert_eq!(*checkpoint.bytes(scalar), 2.5f32.to_le_bytes());
    let error = checkpoint.require("b.f8").unwrap_err().to_string();
    assert!(error.contains(PART_2), "{error}");
    assert!(error.contains("tensor \"b.f8\" is F8_E4M3, expected weights: F32, F16"), "{error}");
    let Metadata::HuggingFace(m) = checkpoint.metadata() else { panic!("not a directory") };
    assert_eq!(m.str("model_type").unwrap(), Some("test"));
    assert_eq!(m.f32("text_config.rope_theta").unwrap(), Some(10000.0));
}

#[test]
fn an_index_is_held_against_its_files() {
    let cases: &[(&str, &str)] = &[
        (
            r#"{"weight_map":{"a.f32":"../model.safetensors"}}"#,
            "tensor \"a.f32\" is in \"../model.safetensors\" by the index, expected the name of a file beside the index",
        ),
        (
            r#"{"weight_map":{"a.f32":"/etc/passwd"}}"#,
            "is in \"/etc/passwd\" by the index, expected the name",
        ),
        (r#"{"weight_map":{"a.f32":".."}}"#, "is in \"..\" by the index, expected the name"),
        (r#"{"weight_map":{"a.f32":"."}}"#, "is in \".\" by the index, expected the name"),
        (r#"{"weight_map":{"a.f32":""}}"#, "is in \"\" by the index, expected the name"),
        (
            r#"{"weight_map":{"a.f32":"sub/model.safetensors"}}"#,
            "expected the name of a file beside",
        ),
        (
            r#"{"weight_map":{"a.f32":"./model-00001-of-00002.safetensors"}}"#,
            "expected the name of a file beside",
        ),
        (r#"{"weight_map":{"a.f32":"..\\x.safetensors"}}"#, "expected the name of a file beside"),
        (r#"{"weight_map":{"a.f32":"C:\\x.safetensors"}}"#, "expected the name of a file beside"),
        (r#"{"weight_map":{"a.f32":"x\u0000"}}"#, "expected the name of a file beside"),
        (
            r#"{"weight_map":{"a.f32":"absent.safetensors"}}"#,
            "tensor \"a.f32\" is in \"absent.safetensors\" by the index, but there is no such file",
        ),
        (
            r#"{"weight_map":{"b.f16":"model-00001-of-00002.safetensors"}}"#,
            "tensor \"b.f16\" is in \"model-00001-of-00002.safetensors\" by the index, but not in that file",
        ),
        (r#"{"weight_map":{"a.f32":"config.json"}}"#, "config.json: has a header of "),
        (r#"{"weight_map":{}}"#, "key \"weight_map\" names no tensor"),
        (r#"{"weight_map":{"a":"x","a":"y"}}"#, "weight_map lists tensor \"a\" twice"),
        (
            r#"{"weight_map":{"a":1}}"#,
            "the JSON is not valid: invalid type: integer `1`, expected a string",
        ),
        (
            r#"{"weight_map":[]}"#,
            "invalid type: sequence, expected an object of tensor and file names",
        ),
        (r#"{}"#, "missing field `weight_map`"),
        ("", "the JSON is not valid: EOF"),
    ];
    for (index, expected) in cases {
        let dir = sharded();
        dir.file(INDEX, index.as_bytes());
        assert_error(&dir, expected);
    }
}

#[test]
fn shards_that_are_missing_or_repeat_tensors_are_refused() {
    let dir = sharded();
    fs::remove_file(dir.path().join(PART_2)).unwrap();
    assert_error(&dir, &format!("is in {PART_2:?} by the index, but there is no such file"));

    let dir = sharded();
    dir.file(PART_2, &fs::read(dir.path().join(PART_1)).unwrap());
    assert_error(&dir, &format!("{PART_2}: tensor \"a.i64\" is in "));
    assert_error(&dir, &format!("{PART_1} too, expected once"));

    let dir = sharded();
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    assert_error(&dir, "has neither model.safetensors nor model.safetensors.index.json");
}

#[test]
fn a_configuration_that_cannot_be_read_is_an_error() {
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    for (config, expected) in [
        ("", "config.json: the JSON is not valid: EOF while parsing a value at line 1 column 0"),
        ("{\"a\": }", "the JSON is not valid: expected value at line 1 column 7"),
        ("[]", "the JSON is not valid: invalid type: sequence, expected a map"),
        ("{\"a\": \"\u{1}\"}", "control character"),
        (&deep, "recursion limit exceeded"),
    ] {
        assert_error(&directory(&[("config.json", config)]), expected);
        assert_error(
            &directory(&[("config.json", "{}"), ("tokenizer_config.json", config)]),
            "tokenizer_config.json: the JSON is not valid",
        );
    }
    assert_error(&directory(&[]), "config.json: cannot open the file: No such file");

    let dir = directory(&[("config.json", "{}")]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    fs::create_dir(dir.path().join("config.json")).unwrap();
    assert_error(&dir, "config.json: is a directory, expected a file");

    let dir = directory(&[]);
    let huge = fs::File::create(dir.path().join("config.json")).unwrap();
    huge.set_len((64 << 20) + 1).unwrap(); // sparse
    assert_error(&dir, "config.json: has more than 67108864 bytes, the most that is read");
}

#[test]
fn quantized_checkpoints_are_refused_by_name() {
    let config = |json: serde_json::Value| directory(&[("config.json", &json.to_string())]);
    for (dir, expected) in [
        (
            config(json!({"quantization_config": {"quant_method": "fp8"}})),
            "config.json: quantization_config.quant_method = \"fp8\" is not supported yet, known: none",
        ),
        (
            config(json!({"text_config": {"quantization_config": {"quant_method": "gptq"}}})),
            "text_config.quantization_config.quant_method = \"gptq\" is not supported yet",
        ),
        (
            config(json!({"compression_config": {}})),
            "compression_config.quant_method = \"(absent)\" is not supported yet",
        ),
        (
            config(json!({"quantization_config": "awq"})),
            "key \"quantization_config\" is the string \"awq\", expected an object",
        ),
        (
            config(json!({"quantization_config": {"quant_method": 4}})),
            "key \"quantization_config.quant_method\" is 4, expected a string",
        ),
        (
            directory(&[
                ("config.json", "{}"),
                ("hf_quant_config.json", r#"{"quantization": {"quant_algo": "NVFP4"}}"#),
            ]),
            "hf_quant_config.json: quantization.quant_algo = \"NVFP4\" is not supported yet",
        ),
    ] {
        assert_error(&dir, expected);
    }
    let plain = config(json!({"quantization_config": null, "text_config": {}}));
    assert!(Checkpoint::open(plain.path()).is_ok());
}

#[test]
fn the_other_files_are_found_where_they_are() {
    let dir = directory(&[
        ("config.json", "{}"),
        ("generation_config.json", r#"{"eos_token_id": [1, 2]}"#),
        ("tokenizer_config.json", r#"{"chat_template": "inner", "bos_token": "<s>"}"#),
        ("tokenizer.json", "never parsed here"),
    ]);
    let m = metadata(&dir);
    assert_eq!(m.generation_config["eos_token_id"], json!([1, 2]));
    assert_eq!(m.tokenizer_config["bos_token"], "<s>");
    assert_eq!(m.tokenizer_json, Some(dir.path().join("tokenizer.json")));
    assert_eq!(m.chat_template.as_deref(), Some("inner"));

    dir.file("chat_template.jinja", "outer".as_bytes());
    assert_eq!(metadata(&dir).chat_template.as_deref(), Some("outer"));

    dir.file("chat_template.jinja", b"\xff");
    assert_error(&dir, "chat_template.jinja: is not UTF-8 after 0 bytes, expected text");

    let bare = metadata(&directory(&[("config.json", "{}")]));
    assert!(bare.generation_config.is_empty());
    assert!(bare.tokenizer_config.is_empty());
    assert!(bare.tokenizer_json.is_none());
    assert!(bare.chat_template.is_none());
}

#[test]
fn a_list_of_templates_has_a_default() {
    let with = |template: serde_json::Value| {
        let config = json!({ "chat_template": template }).to_string();
        directory(&[("config.json", "{}"), ("tokenizer_config.json", &config)])
    };
    let list = json!([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]);
    assert_eq!(metadata(&with(list)).chat_template.as_deref(), Some("b"));
    for (template, expected) in [
        (
            json!([{"name": "tool_use", "template": "a"}]),
            "is a list without a template named \"default\"",
        ),
        (json!([1, {"name": "default"}]), "is a list without a template named \"default\""),
        (json!(7), "is 7, expected a string or a list of templates"),
    ] {
        let expected = format!("tokenizer_config.json: key \"chat_template\" {expected}");
        assert_error(&with(template), &expected);
    }
}

#[test]
fn getters_name_file_key_found_and_expected() {
    let config = json!({
        "count": 7, "negative": -1, "wide": 1u64 << 40, "float": 0.5, "huge": 1e300, "yes": true,
        "text": "x", "nothing": null, "long": "é".repeat(100),
        "words": ["a", "b"], "counts": [1, 2], "mixed": [1, "x"], "flags": [true],
        "inner": {"count": 8, "inner": {"count": 9}},
    });
    let m = metadata(&directory(&[("config.json", &config.to_string())]));
    assert_eq!(m.u32("count").unwrap(), Some(7));
    assert_eq!(m.u32("inner.count").unwrap(), Some(8));
    assert_eq!(m.u32("inner.inner.count").unwrap(), Some(9));
    assert_eq!(m.u64("wide").unwrap(), Some(1 << 40));
    assert_eq!(m.f32("float").unwrap(), Some(0.5));
    assert_eq!(m.f32("count").unwrap(), Some(7.0)); // JSON has one kind of number
    assert_eq!(m.bool("yes").unwrap(), Some(true));
    assert_eq!(m.str("text").unwrap(), Some("x"));
    assert_eq!(m.strings("words").unwrap().unwrap(), ["a", "b"]);
    assert_eq!(m.u32s("counts").unwrap().unwrap(), [1, 2]);
    assert_eq!(m.f32s("counts").unwrap().unwrap(), [1.0, 2.0]);
    assert_eq!(m.bools("flags").unwrap().unwrap(), [true]);
    assert_eq!(m.array("mixed").unwrap().unwrap().len(), 2);
    assert_eq!(m.object("inner").unwrap().unwrap().len(), 2);
    for absent in ["absent", "nothing", "absent.inner", "nothing.inner", "inner.absent", ""] {
        assert_eq!(m.u32(absent).unwrap(), None, "{absent}");
    }

    let error = |r: Result<bool, CheckpointError>| r.unwrap_err().to_string();
    for (found, expected) in [
        (error(m.u32("negative").map(|_| true)), "\"negative\" is -1, expected an integer from 0"),
        (
            error(m.u32("wide").map(|_| true)),
            "is 1099511627776, expected an integer from 0 to 2^32",
        ),
        (error(m.u32("float").map(|_| true)), "is 0.5, expected an integer from 0 to 2^32"),
        (error(m.u64("negative").map(|_| true)), "is -1, expected an integer from 0 to 2^64"),
        (error(m.f32("huge").map(|_| true)), "is 1e+300, expected a number that fits 32 bits"),
        (error(m.f32("text").map(|_| true)), "is the string \"x\", expected a number"),
        (error(m.bool("count").map(|_| true)), "is 7, expected true or false"),
        (error(m.str("inner").map(|_| true)), "is an object of 2 keys, expected a string"),
        (error(m.str("yes").map(|_| true)), "is true, expected a string"),
        (error(m.u32("long").map(|_| true)), "é\"…, expected an integer"),
        (error(m.array("text").map(|_| true)), "is the string \"x\", expected an array"),
        (error(m.object("words").map(|_| true)), "is an array of 2 elements, expected an object"),
        (error(m.strings("mixed").map(|_| true)), "\"mixed\" at [0] is 1, expected a string"),
        (error(m.u32s("mixed").map(|_| true)), "\"mixed\" at [1] is the string \"x\", expected an"),
        (
            error(m.u32("text.inner").map(|_| true)),
            "key \"text\" is the string \"x\", expected an object",
        ),
        (
            error(m.u32("inner.count.deep").map(|_| true)),
            "key \"inner.count\" is 8, expected an object",
        ),
    ] {
        assert!(found.contains("config.json: key \""), "{found}");
        assert!(found.contains(expected), "{found}\nis not\n{expected}");
    }
}
