//! `--bench`, `--perplexity` and `--kl-divergence` against plain loops over the engine's logits.

use serde_json::Value;
use tests::{Scratch, data, logits, open, run};

use crate::LLAMA;
use crate::synth::Model;

const QUANTIZED: &str = "tiny/llama/llama-q4_0.gguf";
const TEXT: &str = "real/ppl_text.txt";

#[test]
fn a_benchmark_needs_no_vocabulary() {
    let scratch = Scratch::new("bench");
    let model = Model::llama().file(&scratch);
    let line = ["--model", &model, "--bench", "--bench-pp", "24", "--max-tokens", "6"];
    let ran = run(&[&line[..], &["--bench-reps", "2", "--threads", "2"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let rows: Vec<Vec<&str>> =
        ran.out.lines().map(|l| l.split('|').map(str::trim).collect()).collect();
    let [header, rule, pp, tg] = rows.as_slice() else { panic!("{}", ran.out) };
    let columns = ["", "model", "size", "params", "backend", "threads", "test", "t/s", ""];
    assert_eq!(*header, columns);
    assert!(rule[1].starts_with("---") && rule[7].ends_with("-:"), "{rule:?}");
    assert_eq!((pp[4], pp[5], pp[6]), ("CPU", "2", "pp24"));
    assert_eq!((tg[4], tg[5], tg[6]), ("CPU", "2", "tg6"));
    for row in [pp, tg] {
        let (mean, deviation) = row[7].split_once(" ± ").expect(row[7]);
        assert!(mean.parse::<f64>().unwrap() > 0.0 && deviation.parse::<f64>().unwrap() >= 0.0);
    }

    let object = run(&[&line[..], &["--bench-reps", "3", "--json"]].concat()).json();
    assert_eq!(object["model"], "synthetic");
    let parameters = 2 * 96 * 32 + 3 * 32 * 32 + 3 * 64 * 32 + 3 * 32;
    assert_eq!(object["model_n_params"], parameters);
    assert_eq!(object["model_size"], parameters * 4);
    let results = object["results"].as_array().expect("results");
    let shape: Vec<_> =
        results.iter().map(|r| (r["n_prompt"].as_u64(), r["n_gen"].as_u64())).collect();
    assert_eq!(shape, [(Some(24), Some(0)), (Some(0), Some(6))]);
    for row in results {
        let samples: Vec<f64> =
            row["samples_ts"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(samples.len(), 3);
        let mean = samples.iter().sum::<f64>() / 3.0;
        assert!((row["avg_ts"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9, "{row}");
    }
    // One of the two tests alone.
    for (line, test) in
        [("--bench-pp 0 --max-tokens 3", "tg3"), ("--max-tokens 0 --bench-pp 9", "pp9")]
    {
        let flags: Vec<&str> = line.split(' ').collect();
        let base = ["--model", &model, "--bench", "--bench-reps", "1", "--json"];
        let object = run(&[&base[..], &flags].concat()).json();
        assert_eq!(object["results"].as_array().map(Vec::len), Some(1));
        assert_eq!(object["results"][0]["test"], test);
    }
}

/// The scored positions of a text in chunks of `n_ctx`: logits there, and the token that came.
fn positions(model: &str, sets: &[&str], tokens: &[u32], n_ctx: usize) -> Vec<(Vec<f64>, usize)> {
    let engine = open(&data(model), sets);
    let mut scored = vec![];
    for chunk in tokens.chunks_exact(n_ctx) {
        let mut chunk = chunk.to_vec();
        chunk[0] = 1; // BOS
        let rows = logits(&engine, &chunk, n_ctx / 2);
        for (row, next) in rows.iter().zip(&chunk[n_ctx / 2 + 1..]) {
            scored.push((row.iter().map(|v| f64::from(*v)).collect(), *next as usize));
        }
    }
    scored
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let total = row.iter().map(|v| v.exp()).sum::<f64>().ln();
    row.iter().map(|v| v - total).collect()
}

/// A text of about 200 tokens, and those.
fn text(scratch: &Scratch) -> (String, Vec<u32>) {
    let all = std::fs::read_to_string(data(TEXT)).expect("a text");
    let text: String = all.chars().take(600).collect();
    let flags = ["--chat-template", "none", "--max-tokens", "0", "--json", "--max-seq-len", "9999"];
    let object = run(&[&["--model", LLAMA, "--prompt", &text], &flags[..]].concat()).json();
    let tokens = object["prompt_tokens"].as_array().expect("ids").iter();
    let tokens = tokens.map(|id| id.as_u64().expect("an id") as u32).collect();
    (scratch.file("text.txt", text), tokens)
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key}: {object}"))
}

fn close(found: f64, expected: f64, what: &str) {
    let tolerance = 1e-5 * expected.abs().max(1e-4);
    assert!((found - expected).abs() <= tolerance, "{what} is {found}, expected {expected}");
}

#[test]
fn perplexity_is_that_of_a_plain_loop() {
    let scratch = Scratch::new("perplexity");
    let (path, tokens) = text(&scratch);
    let n_ctx = 32;
    let nlls: Vec<f64> = positions(LLAMA, &[], &tokens, n_ctx)
        .iter()
        .map(|(row, next)| -log_softmax(row)[*next])
        .collect();
    let chunks = tokens.len() / n_ctx;
    assert!(chunks >= 4, "{} tokens", tokens.len());
    let counted = chunks * (n_ctx / 2 - 1);
    assert_eq!(nlls.len(), counted);
    let mean = nlls.iter().sum::<f64>() / counted as f64;

    let line = ["--model", LLAMA, "--perplexity", &path, "--max-seq-len", "32"];
    let object = run(&[&line[..], &["--json"]].concat()).json();
    let counts = ["n_tokens", "n_ctx", "n_chunks", "counted"].map(|key| number(&object, key));
    assert_eq!(counts, [tokens.len(), n_ctx, chunks, counted].map(|n| n as f64));
    close(number(&object, "nll"), mean, "nll");
    close(number(&object, "ppl"), mean.exp(), "ppl");
    let chunk_means = object["chunk_mean_nll"].as_array().expect("a list");
    assert_eq!(chunk_means.len(), chunks);
    let first = nlls[..n_ctx / 2 - 1].iter().sum::<f64>() / (n_ctx / 2 - 1) as f64;
    close(chunk_means[0].as_f64().unwrap(), first, "the first chunk");

    let ran = run(&line);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let estimate = format!("Final estimate: PPL = {:.4} +/- ", number(&object, "ppl"));
    assert!(ran.out.starts_with(&estimate), "{:?}, expected {estimate}", ran.out);
    assert_eq!(ran.out.lines().count(), 1);

    let short = scratch.file("short.txt", "a");
    let ran = run(&["--model", LLAMA, "--perplexity", &short]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("512") && ran.err.contains(&short), "{}", ran.err);
}

#[test]
fn divergence_is_that_of_a_plain_loop() {
    let scratch = Scratch::new("divergence");
    let (path, tokens) = text(&scratch);
    let base = positions(QUANTIZED, &["runtime.exact=true"], &tokens, 32);
    let test = positions(QUANTIZED, &[], &tokens, 32);
    let best = |row: &[f64]| (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let (mut divergences, mut same) = (vec![], 0);
    for ((b, _), (t, _)) in base.iter().zip(&test) {
        let (log_p, log_q) = (log_softmax(b), log_softmax(t));
        divergences.push(log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
        same += usize::from(best(b) == best(t));
    }
    let n = divergences.len() as f64;
    let mean = divergences.iter().sum::<f64>() / n;
    assert!(mean > 0.0, "integer activations change something");

    let line = ["--model", QUANTIZED, "--kl-divergence", &path, "--max-seq-len", "32"];
    let object = run(&[&line[..], &["--json"]].concat()).json();
    assert_eq!(number(&object, "counted"), n);
    close(number(&object, "mean_kld"), mean, "mean_kld");
    close(number(&object, "max_kld"), divergences.iter().copied().fold(0.0, f64::max), "max_kld");
    close(number(&object, "same_top"), same as f64 / n, "same_top");
    let nll = |rows: &[(Vec<f64>, usize)]| {
        rows.iter().map(|(row, next)| -log_softmax(row)[*next]).sum::<f64>() / n
    };
    close(number(&object, "ppl_base"), nll(&base).exp(), "ppl_base");
    close(number(&object, "ppl"), nll(&test).exp(), "ppl");

    let ran = run(&line);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for part in
        ["Perplexity statistics", "Mean    KLD:", "Maximum KLD:", "Median  KLD:", "Same top p:"]
    {
        assert!(ran.out.contains(part), "no {part}: {}", ran.out);
    }
    // Exact mode does not diverge from itself.
    let exact = run(&[&line[..], &["--json", "--set", "runtime.exact=true"]].concat());
    assert!(exact.err.contains("compared with itself"), "{}", exact.err);
    assert_eq!(number(&exact.json(), "mean_kld"), 0.0);
    assert_eq!(number(&exact.json(), "same_top"), 1.0);
}

#[test]
fn a_text_may_be_piped() {
    let mut command = tests::imp_cli();
    command.args(["--model", LLAMA, "--perplexity", "-", "--max-seq-len", "32", "--json"]);
    let text = std::fs::read(data(TEXT)).expect("a text");
    let ran = tests::Running::start(&mut command, &text[..400]).end();
    assert!(number(&ran.json(), "ppl") > 1.0);
}
