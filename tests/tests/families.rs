//! Every dense family computes what transformers computes, from both containers.

use tests::{Mode, data, json, judge, open};

const FAMILIES: [&str; 12] = [
    "llama",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "phi3_longrope",
    "smollm3",
    "granite",
    "olmo2",
];

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
