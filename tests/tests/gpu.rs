//! The GPU computes what the references say: every dense family, quantized files and SmolLM2, with all
//! layers there, with the first half, with recorded steps and without. Skipped, and said so, where
//! there is no GPU.

use std::slice::from_ref;

use host::cuda::Driver;
use host::engine::Engine;
use tests::{
    Mode, data, greedy, greedy_together, json, judge, logits, open, open_for, open_on, prompts,
    skipped, smollm2,
};

const FAMILIES: [(&str, i32); 12] = [
    ("llama", 3),
    ("llama3", 3),
    ("mistral", 3),
    ("qwen2", 3),
    ("qwen3", 3),
    ("gemma2", 4),
    ("gemma3_text", 7),
    ("phi3", 3),
    ("phi3_longrope", 3),
    ("smollm3", 4),
    ("granite", 3),
    ("olmo2", 3),
];

/// Whether there is a GPU; says what is skipped otherwise.
fn gpu(test: &str) -> bool {
    match Driver::load() {
        Ok(_) => true,
        Err(error) => {
            skipped(test, &error.to_string());
            false
        }
    }
}

#[test]
fn families_exact() {
    if !gpu("families_exact") {
        return;
    }
    for (family, layers) in FAMILIES {
        let prompts = json(&format!("tiny/{family}/oracle.json"))["prompts"].clone();
        for model in [format!("tiny/{family}"), format!("tiny/{family}/{family}-f32.gguf")] {
            for (gpu_layers, graphs) in [(-1, "auto"), (-1, "never"), (layers / 2, "auto")] {
                let sets = ["runtime.exact=true", &format!("runtime.cuda_graphs={graphs}")];
                let engine = open_on(&data(&model), &sets, gpu_layers);
                let what = format!("{model}, {gpu_layers} layers, graphs {graphs}");
                judge(&what, &engine, &prompts, Mode::Exact);
            }
        }
    }
}

/// Layers with a window keep its pages only, where a prompt is computed in small chunks.
#[test]
fn windows_have_pages_of_their_own() {
    if !gpu("windows_have_pages_of_their_own") {
        return;
    }
    for family in ["gemma2", "gemma3_text"] {
        let prompts = json(&format!("tiny/{family}/oracle.json"))["prompts"].clone();
        let sets = ["runtime.exact=true", "runtime.prefill_chunk_size=16"];
        let engine = open_on(&data(&format!("tiny/{family}")), &sets, -1);
        let plan = engine.memory_plan();
        assert_eq!(plan.kv_groups.len(), 2, "{plan}");
        judge(&format!("{family} in chunks"), &engine, &prompts, Mode::Exact);
    }
}

/// Equal prompts at the same time: those after the first take its pages over, and copy the one that is
/// not full.
#[test]
fn siblings_answer_alike() {
    if !gpu("siblings_answer_alike") {
        return;
    }
    let sets = ["runtime.deterministic=true", "runtime.prefill_chunk_size=100"];
    for model in ["tiny/qwen3", "tiny/gemma2"] {
        let prompt: Vec<u32> = (0..43).map(|i| i * 7 % 500).collect();
        let engine = open_for(&data(model), &sets, -1, 8);
        let found = greedy_together(&engine, &vec![prompt.clone(); 8], 16);
        let alone = greedy_together(&open_on(&data(model), &sets, -1), &[prompt], 16);
        assert!(found.iter().all(|answer| *answer == alone[0]), "{model}");
        assert!(engine.stats().cached_tokens >= 7 * 42, "{model}: {:?}", engine.stats());
    }
}

/// Of the default mode from exact arithmetic, on the reference's prompts: the largest mean KL
/// divergence that is allowed.
const DIVERGENCE: f64 = 0.002;

#[test]
fn families_default_stay_near_exact() {
    if !gpu("families_default_stay_near_exact") {
        return;
    }
    for (family, layers) in FAMILIES {
        let prompts = json(&format!("tiny/{family}/oracle.json"))["prompts"].clone();
        let model = data(&format!("tiny/{family}"));
        let exact = open(&model, &["runtime.exact=true"]);
        for gpu_layers in [-1, layers / 2] {
            let engine = open_on(&model, &[], gpu_layers);
            for prompt in prompts.as_array().expect("prompts") {
                let ids: Vec<u32> = prompt["ids"]
                    .as_array()
                    .expect("ids")
                    .iter()
                    .map(|id| id.as_u64().expect("an id") as u32)
                    .collect();
                let (p, q) = (logits(&exact, &ids, 0), logits(&engine, &ids, 0));
                let mean =
                    p.iter().zip(&q).map(|(p, q)| divergence(p, q)).sum::<f64>() / p.len() as f64;
                assert!(mean < DIVERGENCE, "{family}, {gpu_layers} layers: KL divergence {mean}");
            }
        }
    }
}

#[test]
fn quantized_files_match_llama_cpp() {
    if !gpu("quantized_files_match_llama_cpp") {
        return;
    }
    let prompts = json("tiny/llama/oracle.json")["prompts"].clone();
    for (model, formats) in [
        ("llama", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]),
        ("llama_k256", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"]),
    ] {
        let reference = json(&format!("tiny/{model}/oracle_gguf.json"));
        let own = if model == "llama" {
            prompts.clone()
        } else {
            json(&format!("tiny/{model}/ids.json"))
        };
        for format in formats {
            let mut expected = reference[format].clone();
            let pairs = expected.as_array_mut().expect("prompts").iter_mut();
            for (expected, prompt) in pairs.zip(own.as_array().expect("prompts")) {
                expected["ids"] = prompt["ids"].clone();
            }
            let path = data(&format!("tiny/{model}/{model}-{}.gguf", format.to_lowercase()));
            for exact in ["runtime.exact=true", "runtime.exact=false"] {
                let engine = open_on(&path, &[exact], -1);
                judge(&format!("{format} {exact}"), &engine, &expected, Mode::Quantized);
            }
        }
    }
}

#[test]
fn smollm2_exact_chooses_every_token_of_the_reference() {
    let test = "smollm2_exact_chooses_every_token_of_the_reference";
    let (true, Some(model)) = (gpu(test), smollm2(test)) else { return };
    let reference = json("real/gen_smollm2_f32.json");
    for (gpu_layers, graphs) in [(-1, "auto"), (-1, "never"), (15, "auto")] {
        let sets = ["runtime.exact=true", &format!("runtime.cuda_graphs={graphs}")];
        let engine = open_on(&model, &sets, gpu_layers);
        for key in ["raw", "chat"] {
            for continuation in reference[key].as_array().expect("continuations") {
                let numbers = |key: &str| -> Vec<u32> {
                    let list = continuation[key].as_array().expect("ids").iter();
                    list.map(|id| id.as_u64().expect("an id") as u32).collect()
                };
                let want = numbers("out");
                let got = greedy(&engine, &numbers("ids"), want.len(), 0);
                let got: Vec<u32> = got.iter().map(|chosen| chosen.0).collect();
                assert_eq!(
                    got, want,
                    "{gpu_layers} layers, graphs {graphs}: {}",
                    continuation["prompt"]
                );
            }
        }
    }
}

/// Greedy answers of tiny models at 1, 8 and 64 streams, with the prompts' keys in the cache and not.
#[test]
fn deterministic_answers_do_not_depend_on_the_batch() {
    if !gpu("deterministic_answers_do_not_depend_on_the_batch") {
        return;
    }
    let prompts = prompts(64);
    for model in ["tiny/qwen3", "tiny/gemma2", "tiny/llama_k256/llama_k256-q4_k_m.gguf"] {
        for exact in ["runtime.exact=false", "runtime.exact=true"] {
            let sets = ["runtime.deterministic=true", "runtime.prefill_chunk_size=100", exact];
            let alone: Vec<_> = {
                let engine = open_on(&data(model), &sets, -1);
                prompts
                    .iter()
                    .map(|p| greedy_together(&engine, from_ref(p), 16).remove(0))
                    .collect()
            };
            for streams in [1, 8, 64] {
                let engine = open_for(&data(model), &sets, -1, streams);
                for round in 0..2 {
                    let found = greedy_together(&engine, &prompts, 16);
                    assert!(found == alone, "{model}, {exact}, {streams} streams, round {round}");
                }
            }
        }
    }
}

/// Without that, answers may part where two tokens are nearly equal; most do not, and none is lost.
#[test]
fn batches_answer_like_single_requests() {
    if !gpu("batches_answer_like_single_requests") {
        return;
    }
    let prompts = prompts(64);
    for model in ["tiny/qwen3", "tiny/llama_k256/llama_k256-q4_k_m.gguf"] {
        let single = greedy_together(&open_on(&data(model), &[], -1), &prompts, 16);
        for graphs in ["runtime.cuda_graphs=auto", "runtime.cuda_graphs=never"] {
            let engine = open_for(&data(model), &[graphs], -1, 64);
            for _ in 0..2 {
                let found = greedy_together(&engine, &prompts, 16);
                let firsts = found.iter().zip(&single).filter(|(a, b)| a[0] == b[0]).count();
                assert!(firsts >= 56, "{model}, {graphs}: {firsts} of 64 begin alike");
            }
        }
    }
}

/// KL divergence of `q` from `p`, both given as logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let normal = |row: &[f32]| {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
        f64::from(max) + sum.ln()
    };
    let (np, nq) = (normal(p), normal(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (lp, lq) = (f64::from(p) - np, f64::from(q) - nq);
        lp.exp() * (lp - lq)
    });
    terms.sum()
}

/// Hidden states are read from what a step leaves of the stream: also of one that is recorded and
/// repeated, and of one whose other rows are an answer's.
#[test]
fn embeddings_are_those_of_the_cpu() {
    if !gpu("embeddings_are_those_of_the_cpu") {
        return;
    }
    let texts = [prompts(8), vec![vec![7], vec![300]], prompts(8)].concat();
    for (family, layers) in FAMILIES {
        let model = data(&format!("tiny/{family}"));
        let vectors = |engine: &Engine| -> Vec<Vec<f32>> {
            let handles = texts.iter().map(|text| engine.embed(text.clone()).expect("room"));
            let handles: Vec<_> = handles.collect();
            greedy_together(engine, &texts[..4], 12);
            handles.into_iter().map(|h| h.blocking_recv().expect("a vector").vector).collect()
        };
        let expected = vectors(&open(&model, &["runtime.exact=true"]));
        for (gpu_layers, exact, graphs) in [
            (-1, true, "auto"),
            (-1, true, "never"),
            (layers / 2, true, "auto"),
            (-1, false, "auto"),
        ] {
            let sets = [format!("runtime.exact={exact}"), format!("runtime.cuda_graphs={graphs}")];
            let engine = open_for(&model, &sets.each_ref().map(String::as_str), gpu_layers, 5);
            for (i, (found, expected)) in vectors(&engine).iter().zip(&expected).enumerate() {
                let dot = found.iter().zip(expected).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let (cosine, least) = (dot.sum::<f64>(), if exact { 0.99999 } else { 0.999 });
                let what = format!("{family}, text {i}, {gpu_layers} layers, graphs {graphs}");
                assert!(cosine > least, "{what}: cosine {cosine}, expected {least}");
            }
        }
    }
}
