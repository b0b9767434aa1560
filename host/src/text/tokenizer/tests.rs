//! Whole tokenizers against the output of other implementations.
//!
//! `tests/data/tokenizer/README.md` says where the vocabularies and the expected ids come from.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::{Algorithm, Tokenizer, gguf, hf, pretokenizers};
use crate::checkpoint::{Bytes, Checkpoint, HfMetadata, Metadata};
use crate::text::DetokenStream;

fn data(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tokenizer")).join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

/// An unpacked `.gz` file of the test data.
fn unpacked(name: &str) -> Vec<u8> {
    let packed = std::fs::read(data(&format!("{name}.gz"))).unwrap();
    let mut bytes = vec![];
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

fn open(name: &str) -> Checkpoint {
    let bytes = unpacked(&format!("{name}.gguf"));
    Checkpoint::from_gguf(Path::new(name), Bytes::owned(bytes)).unwrap()
}

/// A vocabulary of the test data.
fn vocabulary(name: &str) -> Tokenizer {
    let checkpoint = open(name);
    Tokenizer::from_checkpoint(&checkpoint).unwrap().unwrap()
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

/// (add_special, parse_special) in the order of `more.json` and `hf/expected.json`.
const FLAGS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn more() -> Value {
    serde_json::from_slice(&unpacked("more.json")).unwrap()
}

/// The strings of `more.json` on one of its vocabularies.
fn check_more(name: &str) -> Tokenizer {
    let (all, tokenizer) = (more(), vocabulary(name));
    let reference = &all[name];
    assert_eq!(tokenizer.vocab_size() as u64, reference["n_vocab"].as_u64().unwrap());
    assert_eq!(tokenizer.adds_bos(), reference["add_bos"].as_bool().unwrap());
    assert_eq!(tokenizer.end_of_generation(), ids(&reference["eog"]));
    let mut wrong = vec![];
    let (strings, cases) =
        (all["strings"].as_array().unwrap(), reference["cases"].as_array().unwrap());
    assert_eq!((strings.len(), cases.len()), (85, 85));
    for (text, case) in strings.iter().zip(cases) {
        for (i, flags) in FLAGS.into_iter().enumerate() {
            let expected = if case[i].is_null() { &case[0] } else { &case[i] };
            compare(&tokenizer, text.as_str().unwrap(), flags, &ids(expected), &mut wrong);
        }
    }
    assert_none(name, &wrong);
    tokenizer
}

#[test]
fn falcon_starcoder_and_deepseek_coder() {
    for name in ["falcon", "starcoder", "deepseek-coder"] {
        check_more(name);
    }
}

#[test]
fn unigram() {
    let tokenizer = check_more("unigram");
    assert_eq!(tokenizer.kind(), "SentencePiece unigram");
    let ids = tokenizer.encode("Hello world", true, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "Hello world");
}

/// Every pre-tokenizer on a vocabulary that joins neighbouring bytes at random, so that each cut
/// shows in the ids.
#[test]
fn every_pre_tokenizer_cuts_where_its_models_do() {
    let checkpoint = open("pairs");
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("not a GGUF") };
    let mut source = gguf::read(metadata).unwrap();
    let all = more();
    let strings = all["strings"].as_array().unwrap();
    let mut checked = vec!["gemma4"]; // has a vocabulary of its own above
    let mut wrong = vec![];
    let rows = all["pre"].as_array().unwrap();
    for row in rows {
        for name in row["names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            source.pre = Some(name);
            source.add_bos = Some(false);
            let tokenizer = source.build().unwrap();
            let mut differ = vec![];
            for (text, expected) in strings.iter().zip(row["ids"].as_array().unwrap()) {
                let text = text.as_str().unwrap();
                compare(&tokenizer, text, (false, false), &ids(expected), &mut differ);
            }
            wrong.extend(differ.into_iter().map(|line| format!("{name}: {line}")));
            checked.push(name);
        }
    }
    assert_none("pre-tokenizers", &wrong);
    for name in pretokenizers::TABLE.iter().flat_map(|row| row.names) {
        assert!(checked.contains(name), "{name} has no expectation");
    }
}

#[test]
fn tokenizer_json() {
    let all: Value = serde_json::from_slice(&unpacked("hf/expected.json")).unwrap();
    let mut wrong = vec![];
    for (name, cases) in all["cases"].as_object().unwrap() {
        let path = data(&format!("hf/{name}.json"));
        let metadata = HfMetadata { tokenizer_json: Some(path), ..HfMetadata::default() };
        let tokenizer = hf::load(&metadata).unwrap().unwrap();
        let mut differ = vec![];
        for (text, case) in all["strings"].as_array().unwrap().iter().zip(cases.as_array().unwrap())
        {
            let text = text.as_str().unwrap();
            for (i, flags) in FLAGS.into_iter().enumerate() {
                compare(&tokenizer, text, flags, &ids(&case["ids"][i]), &mut differ);
            }
            let decoded = tokenizer.decode(&ids(&case["ids"][0]), true);
            if case["decoded"].as_str().is_some_and(|expected| expected != decoded) {
                differ.push(format!("decoded {decoded:?}, expected {}", case["decoded"]));
            }
        }
        wrong.extend(differ.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert_none("tokenizer.json", &wrong);
}

/// Each tiny checkpoint, where the reference data is at hand, from its directory and from every GGUF beside it.
#[test]
fn tiny_checkpoints() {
    let root = std::env::var_os("IMP_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
        PathBuf::from,
    );
    let Ok(directories) = std::fs::read_dir(root.join("tiny")) else {
        eprintln!("skipped: tiny_checkpoints ({} has no tiny/)", root.display());
        return;
    };
    let mut wrong = vec![];
    for directory in directories.map(|entry| entry.unwrap().path()) {
        let Ok(oracle) = std::fs::read(directory.join("oracle.json")) else { continue };
        let oracle: Value = serde_json::from_slice(&oracle).unwrap();
        let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let ggufs = files.filter(|p| name(p).ends_with(".gguf") && !name(p).starts_with("mmproj"));
        let metadata = HfMetadata {
            tokenizer_json: Some(directory.join("tokenizer.json")),
            ..HfMetadata::default()
        };
        let mut tokenizers = vec![(name(&directory), hf::load(&metadata).unwrap().unwrap())];
        for path in ggufs {
            let checkpoint = Checkpoint::open(&path).unwrap();
            tokenizers
                .push((name(&path), Tokenizer::from_checkpoint(&checkpoint).unwrap().unwrap()));
        }
        for (name, tokenizer) in tokenizers {
            let mut differ = vec![];
            for prompt in oracle["prompts"].as_array().unwrap() {
                // Prompts with an image have no text of their own.
                let Some(text) = prompt["text"].as_str() else { continue };
                compare(&tokenizer, text, (true, false), &ids(&prompt["ids"]), &mut differ);
                if prompt["ids_no_special"].is_null() {
                    continue;
                }
                let plain = ids(&prompt["ids_no_special"]);
                compare(&tokenizer, text, (false, false), &plain, &mut differ);
                let decoded = tokenizer.decode(&plain, true);
                if prompt["decoded"].as_str().is_some_and(|expected| expected != decoded) {
                    differ.push(format!("decoded {decoded:?}, expected {}", prompt["decoded"]));
                }
            }
            wrong.extend(differ.into_iter().map(|line| format!("{name}: {line}")));
        }
    }
    assert_none("tiny checkpoints", &wrong);
}

/// A prompt of a megabyte without a place to cut: anything quadratic would take minutes.
#[test]
fn a_megabyte_of_one_character_is_encoded() {
    let from_json = |name: &str| {
        let path = data(&format!("hf/{name}.json"));
        let metadata = HfMetadata { tokenizer_json: Some(path), ..HfMetadata::default() };
        (name.to_owned(), hf::load(&metadata).unwrap().unwrap())
    };
    let from_gguf = |name: &str| (name.to_owned(), vocabulary(name));
    let ggufs = ["smollm2", "llama-spm", "unigram", "bert-bge"].map(from_gguf);
    for (name, tokenizer) in ggufs.into_iter().chain(["llama", "unigram"].map(from_json)) {
        for c in ["a", " "] {
            let start = Instant::now();
            let ids = tokenizer.encode(&c.repeat(1 << 20), true, true).unwrap();
            assert!(start.elapsed().as_secs() < 20, "{name}: {c:?} took {:?}", start.elapsed());
            assert!(ids.len() <= (1 << 20) + 3);
        }
    }
}

#[test]
fn threads_may_share_a_tokenizer() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
}
