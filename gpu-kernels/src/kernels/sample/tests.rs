//! Against the chain of the host written plainly in F64, llama.cpp's vectors, and statistics.

use std::collections::BTreeMap;
use std::format;
use std::vec;
use std::vec::Vec;

use cuda_std::emu::Memory;
use serde_json::Value;

use super::*;

/// A row to sample: its logits, settings, and the tokens seen.
#[derive(Clone, Debug)]
struct Case {
    logits: Vec<f32>,
    row: SampleRow,
    bias: Vec<(u32, f32)>,
    seen: Vec<u32>,
}

impl Case {
    fn new(logits: Vec<f32>, row: SampleRow) -> Self {
        Self { logits, row, bias: vec![], seen: vec![] }
    }
}

/// What the kernels say of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    token: u32,
    status: u32,
    logprob: f32,
}

/// Samples all rows in one go.
fn sample(cases: &[Case]) -> Vec<Found> {
    let (rows, vocab) = (cases.len(), cases[0].logits.len());
    let mut mem = Memory::new();
    let (mut words, mut bias, mut changes) = (vec![], vec![], vec![]);
    for (slot, case) in (0..).zip(cases) {
        let mut row = case.row;
        assert!(row.supports(vocab as u32));
        (row.bias_start, row.bias_len) = (bias.len() as u32, case.bias.len() as u32);
        bias.extend(case.bias.iter().map(|(token, bias)| [*token, bias.to_bits()]));
        if !case.seen.is_empty() {
            row.counts = Some(slot);
            // One too often, and taken back.
            changes.extend(case.seen.iter().map(|token| [slot, *token, 1, 0]));
            changes.push([slot, 0, 3, 0]);
            changes.push([slot, 0, -3i32 as u32, 0]);
        }
        words.extend(row.words(vocab as u32, row.min_p.ln()));
    }
    let counts = mem.upload_mut(&vec![0u32; rows * vocab]);
    let n = changes.len() as u32;
    let change = CountParams { changes: mem.upload(&changes), counts, vocab: vocab as u32, n };
    if n > 0 {
        mem.launch(&COUNT, count_launch(n), &change).unwrap();
    }
    let logits: Vec<f32> = cases.iter().flat_map(|case| case.logits.clone()).collect();
    let parts = parts(vocab as u32) as usize;
    let p = SampleParams {
        logits: mem.upload(&logits),
        rows: mem.upload(&words),
        bias: mem.upload(&bias),
        counts: counts.read(),
        adjusted: mem.uninit(rows * vocab),
        scanned: mem.uninit(rows * parts),
        summary: mem.uninit(rows),
        sums: mem.uninit(rows * parts),
        candidates: mem.uninit(rows * parts * MAX_CANDIDATES as usize),
        tickets: mem.upload_mut(&vec![0u32; rows]),
        out: mem.uninit(rows),
        vocab: vocab as u32,
    };
    let shape = launch(rows as u32, vocab as u32);
    mem.launch(&SCAN, shape, &p).unwrap();
    mem.launch(&DRAW, shape, &p).unwrap();
    assert_eq!(mem.read(p.tickets), vec![0; rows]);
    let found: Vec<[u32; 4]> = mem.read(p.out);
    found
        .iter()
        .map(|&[token, status, logprob, _]| Found {
            token,
            status,
            logprob: f32::from_bits(logprob),
        })
        .collect()
}

/// Tokens with their probabilities in the order of the draw: the host's chain in F64, with logits
/// adjusted in F32 as there.
fn chain(case: &Case) -> Vec<(u32, f64)> {
    let row = &case.row;
    let mut logits = case.logits.clone();
    for &(token, bias) in &case.bias {
        logits[token as usize] += bias;
    }
    let mut counts = BTreeMap::new();
    case.seen.iter().for_each(|token| *counts.entry(*token).or_insert(0u32) += 1);
    for (&token, &count) in &counts {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        let repeat = row.repeat_penalty;
        *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
        *logit -= count as f32 * row.frequency_penalty + row.presence_penalty;
    }
    let all = (0..).zip(&logits).map(|(id, &logit)| (id, f64::from(logit)));
    let mut items: Vec<(u32, f64)> = all.filter(|(_, x)| *x > f64::NEG_INFINITY).collect();
    let best_first = |items: &mut Vec<(u32, f64)>| {
        items.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    };
    let max = items.iter().fold(f64::NEG_INFINITY, |max, x| max.max(x.1));
    if row.temperature == 0.0 {
        best_first(&mut items);
        return vec![(items[0].0, 1.0)];
    }
    if 0 < row.top_k && (row.top_k as usize) < logits.len() {
        best_first(&mut items);
        items.truncate(row.top_k as usize);
    }
    let min_keep = row.min_keep as usize;
    if row.top_p < 1.0 {
        best_first(&mut items);
        let total: f64 = items.iter().map(|(_, x)| (x - max).exp()).sum();
        let mut sum = 0.0;
        let needed = items.iter().position(|(_, x)| {
            sum += (x - max).exp();
            sum >= f64::from(row.top_p) * total
        });
        items.truncate(needed.map_or(items.len(), |last| last + 1).max(min_keep));
    }
    if row.min_p > 0.0 {
        let line = max + f64::from(row.min_p).ln();
        if min_keep > 1 {
            best_first(&mut items);
            let kept = items.iter().filter(|(_, x)| *x >= line).count();
            items.truncate(kept.max(min_keep));
        } else {
            items.retain(|(_, x)| *x >= line);
        }
    }
    let temperature = f64::from(row.temperature);
    let weights: Vec<f64> = items.iter().map(|(_, x)| ((x - max) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    items.iter().zip(weights).map(|((id, _), w)| (*id, w / total)).collect()
}

fn logprob(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x.into()));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    f64::from(logits[token as usize]) - max - sum.ln()
}

/// Draws from `case` with many numbers and compares each token with the chain's.
fn check(case: &Case, draws: usize, name: &str) {
    let expected = chain(case);
    let uniform = |i: usize| (i as f64 + 0.37) / draws as f64;
    let with = |i| Case { row: SampleRow { uniform: uniform(i), ..case.row }, ..case.clone() };
    let cases: Vec<Case> = (0..draws).map(with).collect();
    for (i, found) in sample(&cases).into_iter().enumerate() {
        let u = uniform(i);
        let mut sum = 0.0;
        let token = expected.iter().find(|(_, p)| {
            sum += p;
            sum > u
        });
        let token = token.unwrap_or(expected.last().unwrap()).0;
        assert_eq!(found.status, CHOSEN, "{name} {u}");
        // The weights of F32 may move a border.
        let mut sum = 0.0;
        let near = expected.iter().any(|(id, p)| {
            let from = sum;
            sum += p;
            *id == found.token && from - 1e-6 <= u && u <= sum + 1e-6
        });
        assert!(found.token == token || near, "{name} {u}: {found:?}, expected {token}");
        let exact = logprob(&case.logits, found.token);
        let error = (f64::from(found.logprob) - exact).abs();
        assert!(error <= 4e-6 * exact.abs().max(1.0), "{name} {u}: {found:?}, expected {exact}");
    }
}

/// Logits as models give them: most near each other, a few far ahead; many equal.
fn logits(seed: u32, vocab: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX)
    };
    (0..vocab)
        .map(|_| {
            let bell = (0..6).map(|_| next()).sum::<f64>() - 3.0;
            let ahead = if next() < 0.004 { 6.0 * next() } else { 0.0 };
            ((3.0 * bell + ahead) * 16.0).round() as f32 / 16.0
        })
        .collect()
}

/// Settings that cover each way through the kernels.
fn settings() -> Vec<(&'static str, SampleRow)> {
    let plain = SampleRow::plain(1.0, 0.0);
    vec![
        ("greedy", SampleRow { temperature: 0.0, top_k: 3, ..plain }),
        ("plain", plain),
        ("cool", SampleRow { temperature: 0.3, ..plain }),
        ("tiny temperature", SampleRow { temperature: 1e-30, ..plain }),
        ("min-p", SampleRow { min_p: 0.05, temperature: 2.0, ..plain }),
        ("min-p of 1", SampleRow { min_p: 1.0, ..plain }),
        ("top-k of 1", SampleRow { top_k: 1, ..plain }),
        ("top-k", SampleRow { top_k: 40, temperature: 0.8, ..plain }),
        ("large top-k", SampleRow { top_k: 1000, temperature: 1.5, ..plain }),
        ("largest top-k", SampleRow { top_k: 1024, ..plain }),
        ("top-k of all", SampleRow { top_k: u32::MAX, ..plain }),
        ("top-p", SampleRow { top_p: 0.6, ..plain }),
        ("top-p of 0", SampleRow { top_p: 0.0, ..plain }),
        ("keep", SampleRow { top_p: 0.0, min_keep: 5, min_p: 0.9, temperature: 3.0, ..plain }),
        ("keep alone", SampleRow { min_keep: 5, min_p: 0.9, ..plain }),
        (
            "all",
            SampleRow { top_k: 50, top_p: 0.9, min_p: 0.1, min_keep: 2, temperature: 0.7, ..plain },
        ),
    ]
}

#[test]
fn each_setting_of_each_size() {
    for (vocab, draws) in [(1, 1), (31, 3), (33, 1), (1001, 3), (4096, 1), (4097, 2), (9000, 2)] {
        for (name, row) in settings() {
            let case = Case::new(logits(vocab as u32, vocab), row);
            check(&case, draws, &format!("{name} of {vocab}"));
        }
    }
}

#[test]
fn bias_and_penalties() {
    for (name, row) in settings() {
        for (repeat, frequency, presence) in [(1.0, 0.0, 0.0), (1.3, 0.0, 0.0), (0.9, 0.5, 0.25)] {
            let mut case = Case::new(logits(3, 5000), row);
            case.row.repeat_penalty = repeat;
            case.row.frequency_penalty = frequency;
            case.row.presence_penalty = presence;
            case.bias = vec![(4999, 3.0), (0, f32::NEG_INFINITY), (17, -2.5), (4096, 11.0)];
            // The last is not in the vocabulary, as image positions are not.
            case.seen = vec![4096, 3, 3, 3, 17, 4096, 4998, 60_000];
            check(&case, 2, &format!("{name} {repeat} {frequency} {presence}"));
        }
    }
}

#[test]
fn equal_logits_rank_by_id() {
    let mut logits = vec![-1.0f32; 9000];
    for i in (5..9000).step_by(3) {
        logits[i] = 2.0;
    }
    let plain = SampleRow::plain(1.0, 0.999_999);
    for (k, token) in [(1, 5), (2, 8), (1000, 5 + 999 * 3)] {
        let row = SampleRow { top_k: k, ..plain };
        assert_eq!(sample(&[Case::new(logits.clone(), row)])[0].token, token, "{k}");
    }
    let greedy = SampleRow::plain(0.0, 0.0);
    assert_eq!(sample(&[Case::new(logits, greedy)])[0].token, 5);
    let zeros = vec![-0.0f32, 0.0, 0.0, -3.0];
    assert_eq!(sample(&[Case::new(zeros, greedy)])[0].token, 0);
}

#[test]
fn what_is_no_distribution_is_reported() {
    let plain = SampleRow::plain(1.0, 0.5);
    let sorted = SampleRow { top_k: 4, ..plain };
    for row in [SampleRow::plain(0.0, 0.5), plain, sorted] {
        let ok = Case::new(logits(1, 5000), row);
        let mut cases = vec![ok.clone()];
        for (at, poison) in [(0, f32::NAN), (4999, -f32::NAN), (4096, f32::INFINITY)] {
            let mut case = ok.clone();
            case.logits[at] = poison;
            cases.push(case);
        }
        cases.push(Case::new(vec![f32::NEG_INFINITY; 5000], row));
        let mut excluded = Case::new(vec![f32::NEG_INFINITY; 5000], row);
        excluded.logits[7] = 1.0;
        cases.push(excluded.clone());
        excluded.bias = vec![(7, f32::NEG_INFINITY)];
        cases.push(excluded);
        let status: Vec<u32> = sample(&cases).iter().map(|found| found.status).collect();
        let bad = NO_DISTRIBUTION;
        assert_eq!(status, [CHOSEN, bad, bad, bad, bad, CHOSEN, bad]);
    }
}

#[test]
fn too_many_candidates_are_left_to_the_host() {
    let flat = vec![0.0f32; 5000];
    let plain = SampleRow::plain(1.0, 0.5);
    let needs = |row: SampleRow| sample(&[Case::new(flat.clone(), row)])[0].status;
    assert_eq!(needs(SampleRow { top_p: 0.9, ..plain }), NEEDS_HOST);
    assert_eq!(needs(SampleRow { top_p: 0.1, ..plain }), CHOSEN);
    assert_eq!(needs(SampleRow { min_p: 0.5, min_keep: 2, ..plain }), NEEDS_HOST);
    assert_eq!(needs(plain), CHOSEN);
    // Min-p draws its line among the candidates, wherever that of top-p is.
    let mut steps = flat;
    steps[100..200].fill(5.0);
    let row = SampleRow { top_p: 0.99, min_p: 0.5, ..plain };
    assert_eq!(sample(&[Case::new(steps, row)])[0].status, CHOSEN);
}

#[test]
fn settings_beyond_the_kernels_are_refused() {
    let plain = SampleRow::plain(1.0, 0.5);
    assert!(plain.supports(MAX_VOCAB) && !plain.supports(MAX_VOCAB + 1));
    assert!(!SampleRow { top_k: 1025, ..plain }.supports(1 << 17));
    assert!(SampleRow { top_k: 1025, ..plain }.supports(1025));
    assert!(!SampleRow { min_keep: 1025, ..plain }.supports(1 << 17));
    assert_eq!(SampleRow::check_bias(&mut [3, 1, 2]), Ok(()));
    assert_eq!(SampleRow::check_bias(&mut [3, 1, 3]), Err(BiasError::Repeated(3)));
}

#[test]
fn draws_follow_the_probabilities() {
    // Five tokens, 150 random numbers: each count within 5 standard deviations.
    let logits = vec![1.0f32, 0.0, 2.0, -1.0, 1.5];
    for row in [SampleRow::plain(0.7, 0.0), SampleRow { top_k: 4, ..SampleRow::plain(0.7, 0.0) }] {
        let case = Case::new(logits.clone(), row);
        let mut state = 88_172_645_463_325_252u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let draws = 150;
        let with = |uniform| Case { row: SampleRow { uniform, ..row }, ..case.clone() };
        let cases: Vec<Case> = (0..draws).map(|_| with(uniform())).collect();
        let mut counts = [0u32; 5];
        sample(&cases).iter().for_each(|found| counts[found.token as usize] += 1);
        for (token, p) in chain(&case) {
            let mean = p * f64::from(draws);
            let sigma = (mean * (1.0 - p)).sqrt();
            let count = f64::from(counts[token as usize]);
            assert!((count - mean).abs() < 5.0 * sigma, "{row:?} {token}: {count}, not {mean}");
        }
    }
}

const VECTORS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/samplers/samplers.json"));

/// The settings of a chain; `None` for one with a sampler or an order that is not here.
fn settings_of(chain: &[Value], history: &[u32], case: &mut Case) -> Option<()> {
    const ORDER: [&str; 6] = ["logit_bias", "penalties", "top_k", "top_p", "min_p", "temp"];
    let mut at = 0;
    for step in chain {
        let name = step[0].as_str().unwrap();
        at += ORDER[at..].iter().position(|other| *other == name)? + 1;
        let float = |i: usize| step[i].as_f64().unwrap() as f32;
        let int = |i: usize| step[i].as_i64().unwrap();
        match name {
            "temp" => case.row.temperature = float(1),
            "top_k" => case.row.top_k = int(1) as u32,
            "top_p" => {
                case.row.top_p = float(1);
                case.row.min_keep = int(2) as u32;
            }
            "min_p" => {
                // One `min_keep` for both.
                if case.row.top_p < 1.0 && case.row.min_keep != int(2) as u32 {
                    return None;
                }
                case.row.min_p = float(1);
                case.row.min_keep = int(2) as u32;
            }
            "penalties" if int(1) <= 0 => {}
            "penalties" => {
                let window = history.len().min(int(1) as usize);
                case.seen = history[history.len() - window..].to_vec();
                case.row.repeat_penalty = float(2);
                case.row.frequency_penalty = float(3);
                case.row.presence_penalty = float(4);
            }
            _ => {
                let bias = |e: &Value| (e[0].as_u64().unwrap() as u32, e[1].as_f64().unwrap());
                let entries = step.as_array().unwrap()[1..].iter().map(bias);
                case.bias = entries.map(|(token, bias)| (token, bias as f32)).collect();
            }
        }
    }
    Some(())
}

#[test]
fn vectors_of_llama_cpp() {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let ids = |value: &Value| -> Vec<u32> {
        list(value).iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let history = ids(&file["history"]);
    let mut covered = 0;
    for vector in list(&file["cases"]) {
        let values = list(&file["logits"][vector["logits"].as_str().unwrap()]);
        let logits = values.iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let mut case = Case::new(logits, SampleRow::plain(1.0, 0.0));
        if settings_of(&list(&vector["chain"]), &history, &mut case).is_none() {
            continue;
        }
        covered += 1;
        let probs = list(&vector["probs"]).into_iter().map(|p| p.as_f64().unwrap());
        let mut survivors: Vec<(u32, f64)> = ids(&vector["ids"]).into_iter().zip(probs).collect();
        if survivors.len() < vector["n"].as_u64().unwrap() as usize {
            continue; // only the best are printed: the borders of the draw are not known
        }
        let row = case.row;
        if row.top_k == 0 && row.top_p >= 1.0 && row.min_keep <= 1 {
            survivors.sort_unstable_by_key(|survivor| survivor.0);
        }
        // In the middle of the share of some tokens, the first and the last among them.
        let last = survivors.len() - 1;
        let (mut sum, mut cases, mut tokens) = (0.0, vec![], vec![]);
        for (i, (token, p)) in survivors.into_iter().enumerate() {
            if p > 1e-4 && (i < 2 || i == last || i % 16 == 7) {
                let uniform = sum + 0.5 * p;
                cases.push(Case { row: SampleRow { uniform, ..row }, ..case.clone() });
                tokens.push(token);
            }
            sum += p;
        }
        let found: Vec<u32> = sample(&cases).iter().map(|found| found.token).collect();
        assert_eq!(found, tokens, "{}", vector["chain"]);
    }
    assert!(covered >= 40, "{covered}");
}
