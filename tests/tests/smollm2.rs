//! SmolLM2-135M-Instruct, a real model: exact mode against llama.cpp's exact computation (weights
//! dequantized, F32 activations and KV cache), the default mode by what integer activations may cost.

use std::slice::from_ref;

use serde_json::Value;
use tests::{Ran, greedy, greedy_together, json, open, open_for, prompts, run, smollm2};

const TEXT: &str = "real/ppl_text.txt";

/// The ten greedy continuations: five raw prompts, then five chats.
fn continuations() -> Vec<Value> {
    let reference = json("real/gen_smollm2_f32.json");
    let of = |key: &str| reference[key].as_array().expect("continuations").clone();
    [of("raw"), of("chat")].concat()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("ids").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn exact_mode_chooses_every_token_of_the_reference() {
    let Some(model) = smollm2("exact_mode_chooses_every_token_of_the_reference") else { return };
    let engine = open(&model, &["runtime.exact=true"]);
    for continuation in continuations() {
        let what = continuation["prompt"].to_string();
        let want = ids(&continuation["out"]);
        let tops = continuation["top20_first8"].as_array();
        let got = greedy(&engine, &ids(&continuation["ids"]), want.len(), 20);
        assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), want, "{what}");
        let logprobs = floats(&continuation["logprob"]);
        for (step, ((_, logprob, top), want)) in got.iter().zip(&logprobs).enumerate() {
            let off = (f64::from(*logprob) - want).abs();
            assert!(off < 0.02, "{what}, step {step}: log-probability off by {off}");
            let Some(expected) = tops.and_then(|tops| tops.get(step)) else { continue };
            let mut worst: f64 = 0.0;
            // Position by position: neighbours closer than the tolerance may trade places.
            for ((_, got), want) in top.iter().zip(expected.as_array().expect("20 pairs")) {
                worst = worst.max((f64::from(*got) - want[1].as_f64().expect("a number")).abs());
            }
            for pair in expected.as_array().expect("20 pairs") {
                let (id, want) = (pair[0].as_u64(), pair[1].as_f64().expect("a number"));
                match top.iter().find(|(token, _)| Some(u64::from(*token)) == id) {
                    Some((_, got)) => worst = worst.max((f64::from(*got) - want).abs()),
                    // Just below the twentieth there, just above it here.
                    None => worst = worst.max(want - f64::from(top[19].1)),
                }
            }
            assert!(worst < 0.02, "{what}, step {step}: a log-probability is off by {worst}");
        }
    }
}

#[test]
fn answers_do_not_depend_on_what_is_computed_beside_them() {
    let Some(model) = smollm2("answers_do_not_depend_on_what_is_computed_beside_them") else {
        return;
    };
    let prompts = prompts(64);
    let sets = ["runtime.max_seq_len=256"];
    let single = open(&model, &sets);
    let alone: Vec<_> =
        prompts.iter().map(|p| greedy_together(&single, from_ref(p), 8).remove(0)).collect();
    for streams in [8, 64] {
        let engine = open_for(&model, &sets, 0, streams);
        assert!(greedy_together(&engine, &prompts, 8) == alone, "{streams} streams");
    }
}

#[test]
fn default_mode_keeps_to_the_reference_where_it_is_clear() {
    let Some(model) = smollm2("default_mode_keeps_to_the_reference_where_it_is_clear") else {
        return;
    };
    let engine = open(&model, &[]);
    let mut wrong = vec![];
    for continuation in continuations() {
        let want = ids(&continuation["out"]);
        let gaps = floats(&continuation["gap"]);
        let clear = gaps.iter().position(|gap| *gap < 0.1).unwrap_or(want.len());
        if clear == 0 {
            continue; // the reference itself hardly prefers its first token
        }
        let got = greedy(&engine, &ids(&continuation["ids"]), clear, 0);
        let Some(step) = got.iter().zip(&want).position(|(got, want)| got.0 != *want) else {
            continue;
        };
        let (prompt, gap) = (&continuation["prompt"], gaps[step]);
        wrong.push(format!("{prompt} parts at step {step}, where the gap is {gap}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn program(model: &str, more: &[&str]) -> Ran {
    run(&[&["--model", model], more].concat())
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key}: {object}"))
}

#[test]
fn exact_perplexity_is_that_of_the_reference() {
    let Some(model) = smollm2("exact_perplexity_is_that_of_the_reference") else { return };
    let reference = json("real/ppl.json");
    let reference = &reference["smollm2"]["ppl_text.txt"]["dequantized-f32,f32kv,no-fa"];
    let flags = ["--perplexity", TEXT, "--json", "--set", "runtime.exact=true"];
    let object = program(model.to_str().expect("UTF-8"), &flags).json();
    for count in ["n_tokens", "n_chunks", "counted"] {
        assert_eq!(object[count], reference[count], "{count}");
    }
    let (got, want) = (number(&object, "ppl"), number(reference, "ppl"));
    assert!((got / want - 1.0).abs() < 0.001, "perplexity {got}, expected {want}");
    for (i, (got, want)) in floats(&object["chunk_mean_nll"])
        .iter()
        .zip(floats(&reference["chunk_mean_nll"]))
        .enumerate()
    {
        assert!((got - want).abs() < 0.001, "chunk {i}: {got}, expected {want}");
    }
}

#[test]
fn default_mode_costs_no_more_than_it_may() {
    let Some(model) = smollm2("default_mode_costs_no_more_than_it_may") else { return };
    let exact = json("real/ppl.json");
    let exact = &exact["smollm2"]["ppl_text.txt"]["dequantized-f32,f32kv,no-fa"];
    let flags = ["--kl-divergence", TEXT, "--json"];
    let object = program(model.to_str().expect("UTF-8"), &flags).json();
    assert_eq!(object["counted"], exact["counted"]);
    let mean = number(&object, "mean_kld");
    assert!(mean > 0.0 && mean <= 0.002, "mean KL divergence {mean}");
    let (got, want) = (number(&object, "ppl"), number(exact, "ppl"));
    assert!((got / want - 1.0).abs() < 0.005, "perplexity {got}, exact {want}");
    let base = number(&object, "ppl_base");
    assert!((base / want - 1.0).abs() < 0.001, "exact perplexity {base}, expected {want}");
}

#[test]
fn chats_become_the_tokens_of_the_reference() {
    let Some(model) = smollm2("chats_become_the_tokens_of_the_reference") else { return };
    let model = model.to_str().expect("UTF-8");
    let reference = json("real/gen_smollm2_f32.json");
    for (key, template) in [("raw", "none"), ("chat", "auto")] {
        for continuation in reference[key].as_array().expect("continuations") {
            let prompt = continuation["prompt"].as_str().expect("a text");
            let flags = ["--prompt", prompt, "--chat-template", template, "--max-tokens", "0"];
            let object = program(model, &[&flags[..], &["--json"]].concat()).json();
            assert_eq!(object["prompt_tokens"], continuation["ids"], "{prompt}");
        }
    }
}

#[test]
fn an_answer_is_the_text_of_the_reference() {
    let Some(model) = smollm2("an_answer_is_the_text_of_the_reference") else { return };
    let continuation = &continuations()[3]; // clear to its end, which is one of the model
    let prompt = continuation["prompt"].as_str().expect("a text");
    let flags = ["--chat-template", "none", "--temperature", "0", "--max-tokens", "48"];
    let ran = program(
        model.to_str().expect("UTF-8"),
        &[&["--prompt", prompt], &flags[..], &["--set", "runtime.exact=true"]].concat(),
    );
    let text = continuation["text"].as_str().expect("a text");
    let text = text.strip_suffix("<|im_end|>").expect("an end");
    assert_eq!(ran.out, format!("{text}\n"), "{}", ran.err);
}
