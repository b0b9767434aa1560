//! Whole tokenizers against the output of other implementations.
//!
//! `tests/data/tokenizer/README.md` says where the vocabularies and the expected ids come from.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::{Algorithm, Tokenizer};
use crate::checkpoint::{Bytes, Checkpoint};
use crate::text::DetokenStream;

fn data(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tokenizer")).join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

/// A vocabulary of the test data, unpacked in memory.
fn vocabulary(name: &str) -> Tokenizer {
    let packed = std::fs::read(data(&format!("{name}.gguf.gz"))).unwrap();
    let mut bytes = vec![];
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    let checkpoint = Checkpoint::from_gguf(Path::new(name), Bytes::owned(bytes)).unwrap();
    let start = Instant::now();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap().unwrap();
    eprintln!("{name}: built in {:?}", start.elapsed());
    tokenizer
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// All disagreements, so that one run shows them.
fn assert_none(name: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{name}: {} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn compare(
    tokenizer: &Tokenizer,
    text: &str,
    (special, parse): (bool, bool),
    expected: &[u32],
    wrong: &mut Vec<String>,
) {
    let found = tokenizer.encode(text, special, parse).unwrap();
    if found != expected {
        wrong.push(format!("{text:?} ({special}, {parse}): {found:?}, expected {expected:?}"));
    }
}

/// Every string of `vocabs.json` and of the `.inp` file, and the properties of the vocabulary.
fn check_vocabulary(name: &str) -> Tokenizer {
    let tokenizer = vocabulary(name);
    let all = json("vocabs.json");
    let reference = &all["vocabs"][format!("ggml-vocab-{name}.gguf")];
    assert_eq!(tokenizer.vocab_size() as u64, reference["n_vocab"].as_u64().unwrap());
    assert_eq!(tokenizer.bos().map_or(-1, i64::from), reference["bos"].as_i64().unwrap());
    assert_eq!(tokenizer.eos().map_or(-1, i64::from), reference["eos"].as_i64().unwrap());
    assert_eq!(tokenizer.adds_bos(), reference["add_bos"].as_bool().unwrap());
    let mut wrong = vec![];
    let strings = json("strings.json");
    let cases = reference["ff_ft_tf"].as_array().unwrap();
    assert_eq!(strings.as_array().unwrap().len(), cases.len());
    for (text, case) in strings.as_array().unwrap().iter().zip(cases) {
        let text = text.as_str().unwrap();
        for (i, flags) in [(false, false), (false, true), (true, false)].into_iter().enumerate() {
            // What is left out is as without flags.
            let expected = if case[i].is_null() { &case[0] } else { &case[i] };
            compare(&tokenizer, text, flags, &ids(expected), &mut wrong);
        }
    }
    let input = std::fs::read_to_string(data(&format!("{name}.inp"))).unwrap();
    let output = std::fs::read_to_string(data(&format!("{name}.out"))).unwrap();
    let separator = "\n__ggml_vocab_test__\n";
    let texts: Vec<_> = input.strip_suffix(separator).unwrap_or(&input).split(separator).collect();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(texts.len(), lines.len());
    for (text, line) in texts.iter().zip(lines) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        compare(&tokenizer, text, (false, false), &expected, &mut wrong);
    }
    assert_none(name, &wrong);
    tokenizer
}

/// Encoding loses nothing: decoding gives every string back.
fn check_round_trip(tokenizer: &Tokenizer) {
    let byte_level = matches!(&tokenizer.algorithm, Algorithm::Bpe(bpe) if bpe.byte_level);
    for text in json("strings.json").as_array().unwrap() {
        let text = text.as_str().unwrap();
        // Where U+2581 stands for a space, it cannot stand for itself.
        if !byte_level && text.contains('\u{2581}') {
            continue;
        }
        for parse in [false, true] {
            // SentencePiece puts a space behind each control token, which only the first loses.
            if parse && tokenizer.strip_first_space {
                continue;
            }
            let ids = tokenizer.encode(text, false, parse).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
        let ids = tokenizer.encode(text, true, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, true), text);
        // The stream keeps the space that SentencePiece put in front.
        let mut stream = DetokenStream::default();
        let mut streamed: String = ids.iter().map(|id| stream.push(tokenizer, *id)).collect();
        streamed += &stream.finish();
        let streamed = match tokenizer.strip_first_space {
            true => streamed.strip_prefix(' ').unwrap_or(&streamed),
            false => &streamed,
        };
        assert_eq!(streamed, text);
    }
}

#[test]
fn smollm2() {
    let tokenizer = vocabulary("smollm2");
    let reference = json("smollm2.json");
    assert_eq!(tokenizer.kind(), "BPE (smollm)");
    assert_eq!(tokenizer.vocab_size() as u64, reference["n_vocab"].as_u64().unwrap());
    assert_eq!(tokenizer.bos(), Some(1));
    assert_eq!(tokenizer.eos(), Some(2));
    assert!(!tokenizer.adds_bos());
    assert_eq!(tokenizer.end_of_generation(), ids(&reference["eog"]));
    let mut wrong = vec![];
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 70);
    for case in cases {
        for key in ["ff", "ft", "tf", "tt"] {
            let flags = (key.starts_with('t'), key.ends_with('t'));
            let expected = case.get(key).unwrap_or(&case["ff"]);
            compare(&tokenizer, case["s"].as_str().unwrap(), flags, &ids(expected), &mut wrong);
        }
    }
    for (id, hex) in reference["pieces_hex"].as_object().unwrap() {
        let found: String =
            tokenizer.piece(id.parse().unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        if found != hex.as_str().unwrap() {
            wrong.push(format!("piece {id}: {found}, expected {hex}"));
        }
    }
    assert_none("smollm2", &wrong);
    check_round_trip(&tokenizer);
}

#[test]
fn llama_bpe() {
    check_round_trip(&check_vocabulary("llama-bpe"));
}

#[test]
fn gpt_2() {
    check_round_trip(&check_vocabulary("gpt-2"));
}

#[test]
fn qwen2() {
    check_round_trip(&check_vocabulary("qwen2"));
}

#[test]
fn deepseek_llm() {
    check_round_trip(&check_vocabulary("deepseek-llm"));
}

#[test]
fn gemma_4() {
    check_round_trip(&check_vocabulary("gemma-4"));
}

#[test]
fn llama_spm() {
    check_round_trip(&check_vocabulary("llama-spm"));
}

#[test]
fn phi_3() {
    check_vocabulary("phi-3");
}

#[test]
fn bert_bge() {
    check_vocabulary("bert-bge");
}
