//! Every dense family computes what transformers computes, from both containers.

use tests::{FAMILIES, Mode, Scratch, argmax, data, greedy, json, judge, logits, open};

fn prompts(family: &str) -> serde_json::Value {
    json(&format!("tiny/{family}/oracle.json"))["prompts"].clone()
}

#[test]
fn safetensors_exact() {
    for family in FAMILIES {
        let engine = open(&data(&format!("tiny/{family}")), &["runtime.exact=true"]);
        judge(family, &engine, &prompts(family), Mode::Exact);
    }
}

#[test]
fn gguf_exact() {
    for family in FAMILIES {
        let path = data(&format!("tiny/{family}/{family}-f32.gguf"));
        let engine = open(&path, &["runtime.exact=true"]);
        judge(family, &engine, &prompts(family), Mode::Exact);
    }
}

/// In small chunks the layers with a window keep its pages only.
#[test]
fn windows_have_pages_of_their_own() {
    for family in ["gemma2", "gemma3_text"] {
        let sets = ["runtime.exact=true", "runtime.prefill_chunk_size=16"];
        let engine = open(&data(&format!("tiny/{family}")), &sets);
        let plan = engine.memory_plan();
        assert_eq!(plan.kv_groups.len(), 2, "{plan}");
        judge(&format!("{family} in chunks"), &engine, &prompts(family), Mode::Exact);
    }
}

/// Newer tools write other key names: `rope_parameters`, `layer_types`.
#[test]
fn newer_configurations_exact() {
    for family in FAMILIES {
        let scratch = Scratch::new(&format!("v5-{family}"));
        let copy = |from: &str, to: &str| {
            std::fs::copy(data(&format!("tiny/{family}/{from}")), scratch.dir().join(to))
                .expect(from);
        };
        for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            copy(file, file);
        }
        copy("config.v5.json", "config.json");
        let engine = open(scratch.dir(), &["runtime.exact=true"]);
        judge(&format!("{family} v5"), &engine, &prompts(family), Mode::Exact);
    }
}

/// LongRoPE turns all positions by other factors beyond 32 tokens here: an answer that crosses that
/// length is what the whole text gives at once.
#[test]
fn longrope_answers_cross_the_original_length() {
    let engine = open(&data("tiny/phi3_longrope"), &["runtime.exact=true"]);
    let mut text: Vec<u32> = (300..328).collect();
    let answer = greedy(&engine, &text, 12, 0);
    assert!(text.len() + answer.len() > 34, "the answer ends after {} tokens", answer.len());
    for (token, logprob, _) in answer {
        let row = logits(&engine, &text, text.len() - 1).pop().expect("one row");
        let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        let expected = f64::from(row[token as usize]) - sum.ln();
        assert_eq!(argmax(&row), token, "after {} tokens", text.len());
        assert!((f64::from(logprob) - expected).abs() < 1e-3, "after {} tokens", text.len());
        text.push(token);
    }
}
