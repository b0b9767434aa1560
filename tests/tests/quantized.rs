//! Quantized files against llama.cpp on the same files: exact arithmetic and the default
//! mode both stay within the bound that llama.cpp's 8-bit activations keep.

use tests::{Mode, data, json, judge, open};

#[test]
fn quantized_llama_matches_llama_cpp() {
    check("llama", &["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]);
}

#[test]
fn k_quants_match_llama_cpp() {
    check("llama_k256", &["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"]);
}

fn check(model: &str, formats: &[&str]) {
    let prompts = json("tiny/llama/oracle.json")["prompts"].clone();
    let reference = json(&format!("tiny/{model}/oracle_gguf.json"));
    for format in formats {
        let mut expected = reference[format].clone();
        for (e, p) in expected.as_array_mut().expect("prompts").iter_mut().zip(ids(model, &prompts))
        {
            e["ids"] = p;
        }
        let path = data(&format!("tiny/{model}/{model}-{}.gguf", format.to_lowercase()));
        for exact in ["runtime.exact=true", "runtime.exact=false"] {
            judge(&format!("{format} {exact}"), &open(&path, &[exact]), &expected, Mode::Quantized);
        }
    }
}

/// The token ids of the reference's prompts: those of the model itself.
fn ids(model: &str, llama: &serde_json::Value) -> Vec<serde_json::Value> {
    let own;
    let prompts = if model == "llama" {
        llama
    } else {
        own = json(&format!("tiny/{model}/ids.json"));
        &own
    };
    prompts.as_array().expect("prompts").iter().map(|p| p["ids"].clone()).collect()
}
