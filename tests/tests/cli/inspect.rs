//! `--inspect`: every container, also models that nothing here runs.

use host::checkpoint::Value;
use serde_json::json;
use tests::{Scratch, run};

use crate::LLAMA;
use crate::synth::Model;

fn inspect(model: &str) -> (String, serde_json::Value) {
    let text = run(&["--model", model, "--inspect"]);
    assert_eq!((text.code, text.err.as_str()), (Some(0), ""), "{model}");
    (text.out, run(&["--model", model, "--inspect", "--json"]).json())
}

#[test]
fn a_gguf_file() {
    let (text, object) = inspect(LLAMA);
    for part in ["GGUF", "llama", "llama.embedding_length", "token_embd.weight", "F32", "[768, 64]"]
    {
        assert!(text.contains(part), "no {part}: {text}");
    }
    assert!(text.contains("768 ids") && text.contains("im_start"), "{text}");
    assert_eq!((&object["container"], &object["family"]), (&json!("GGUF"), &json!("llama")));
    assert_eq!(object["metadata"]["llama.block_count"], 3);
    assert_eq!(object["parameters"], 227_776); // by the numpy package gguf
    assert_eq!(object["tensors"].as_array().map(Vec::len), Some(30));
    assert_eq!(object["types"]["F32"]["tensors"], 30);
    assert_eq!(object["tokenizer"]["vocab_size"], 768);
    assert_eq!((&object["tokenizer"]["bos"], &object["tokenizer"]["eos"]), (&json!(1), &json!(2)));
    let template = object["chat_template"].as_str().expect("a template");
    let own = std::fs::read_to_string(tests::data("tiny/llama/chat_template.jinja")).unwrap();
    assert_eq!(template, own);
}

#[test]
fn a_directory() {
    let (text, object) = inspect("tiny/qwen3");
    assert!(text.contains("SafeTensors") && text.contains("qwen3"), "{text}");
    assert_eq!((&object["container"], &object["supported"]), (&json!("SafeTensors"), &json!(true)));
    assert_eq!(object["metadata"]["hidden_size"], 64);
    assert_eq!(object["tokenizer"]["error"], json!(null));
    let (_, sharded) = inspect("checkpoint/sharded");
    assert!(sharded["tensors"].as_array().is_some_and(|t| t.len() > 1), "{sharded}");
}

#[test]
fn a_split_model_is_one() {
    let scratch = Scratch::new("split");
    let whole = Model::llama();
    let (expected, tensors) = (inspect(&whole.file(&scratch)).1, whole.tensors.len());
    let (mut first, mut second) = (Model::llama(), Model::llama());
    first.tensors.truncate(5);
    second.tensors.drain(..5);
    second.keys.clear();
    let mut paths = vec![];
    for (no, part) in [first, second].into_iter().enumerate() {
        let part = part
            .key("split.no", Value::U16(no as u16))
            .key("split.count", Value::U16(2))
            .key("split.tensors.count", Value::I32(tensors as i32));
        paths.push(scratch.file(&format!("m-{:05}-of-00002.gguf", no + 1), part.bytes()));
    }
    let (_, object) = inspect(&paths[0]);
    assert_eq!(object["tensors"], expected["tensors"]);
    assert_eq!(object["supported"], true);
    // It also runs, as the whole file does.
    let answer = |model: &str| {
        let flags = ["--prompt-tokens", "3,5", "--temperature", "0", "--max-tokens", "8"];
        run(&[&["--model", model], &flags[..]].concat())
    };
    let split = answer(&paths[0]);
    assert_eq!(split.code, Some(0), "{}", split.err);
    assert_eq!(split.out, answer(&whole.file(&scratch)).out);
    // A part is missing.
    std::fs::remove_file(&paths[1]).unwrap();
    let ran = run(&["--model", &paths[0], "--inspect"]);
    assert!(matches!(ran.code, Some(4 | 5)), "{:?}: {}", ran.code, ran.err);
    assert!(ran.err.contains("m-00002-of-00002.gguf"), "{}", ran.err);
}

#[test]
fn a_model_that_nothing_here_runs() {
    let scratch = Scratch::new("unknown");
    let model = Model::llama().key("general.architecture", Value::string("frobnicator"));
    let model = model.file(&scratch);
    let (text, object) = inspect(&model);
    assert!(text.contains("not supported") && text.contains("frobnicator"), "{text}");
    assert_eq!((&object["supported"], &object["family"]), (&json!(false), &json!(null)));
    assert!(object["problem"].as_str().is_some_and(|p| p.contains("frobnicator")), "{object}");
    assert_eq!(object["tensors"].as_array().map(Vec::len), Some(12));
}

#[test]
fn a_file_does_not_steer_the_terminal() {
    let scratch = Scratch::new("escape");
    let name = Value::string("\u{1b}[2J\u{7}\r\nred");
    let model = Model::llama()
        .key("general.name", name.clone())
        .key("general.architecture", name)
        .key("tokenizer.chat_template", Value::string("\u{1b}]0;title\u{7}"));
    let (text, _) = inspect(&model.file(&scratch));
    assert!(!text.contains(['\u{1b}', '\u{7}', '\r']), "{text:?}");
    let ran = run(&["--model", &model.file(&scratch), "--prompt-tokens", "1"]);
    assert!(!ran.err.contains(['\u{1b}', '\u{7}']), "{:?}", ran.err);
}
