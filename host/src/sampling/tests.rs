//! The chain against llama.cpp's vectors and plain f64 references; windows, order, seeds, hostile input.

use std::collections::HashMap;

use serde_json::Value;

use super::candidates::{Candidates, settle};
use super::rng::Rng;
use super::*;

const VECTORS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/samplers/samplers.json"));

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// The settings that one step of a chain stands for. `None` for a step that does nothing: a penalty window that is
/// not positive disables penalties there, where here 0 means all tokens.
fn step_params(step: &Value) -> Option<SamplingParams> {
    let float = |i: usize| step[i].as_f64().unwrap() as f32;
    let int = |i: usize| step[i].as_i64().unwrap();
    let off = SamplingParams::default();
    Some(match step[0].as_str().unwrap() {
        "temp" => SamplingParams { temperature: float(1), ..off },
        "temp_ext" => SamplingParams {
            temperature: float(1),
            dynatemp_range: float(2),
            dynatemp_exponent: float(3),
            ..off
        },
        "top_k" => SamplingParams { top_k: int(1) as u32, ..off },
        "top_p" => SamplingParams { top_p: float(1), min_keep: int(2) as u32, ..off },
        "min_p" => SamplingParams { min_p: float(1), min_keep: int(2) as u32, ..off },
        "typical" => SamplingParams { typical_p: float(1), min_keep: int(2) as u32, ..off },
        "top_n_sigma" => SamplingParams { top_n_sigma: float(1), ..off },
        "penalties" if int(1) <= 0 => return None,
        "penalties" => SamplingParams {
            repeat_last_n: int(1) as u32,
            repeat_penalty: float(2),
            frequency_penalty: float(3),
            presence_penalty: float(4),
            ..off
        },
        "dry" => SamplingParams {
            dry_multiplier: float(1),
            dry_base: float(2),
            dry_allowed_length: int(3) as u32,
            dry_penalty_last_n: int(4) as u32,
            ..off
        },
        "logit_bias" => {
            let entries = step.as_array().unwrap()[1..].iter();
            let bias = |e: &Value| (e[0].as_u64().unwrap() as u32, e[1].as_f64().unwrap() as f32);
            SamplingParams { logit_bias: entries.map(bias).collect(), ..off }
        }
        other => panic!("unknown step {other}"),
    })
}

/// Survivors with their probabilities, most probable first.
fn run_chain(chain: &Value, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
    let mut logits = logits.to_vec();
    let mut candidates = Candidates::default();
    let rng = &mut Rng::new(0);
    let max = settle(&mut logits).unwrap();
    candidates.gather(&logits, max);
    for step in chain.as_array().unwrap() {
        let Some(params) = step_params(step) else { continue };
        params.validate(logits.len()).unwrap();
        let setup = Setup { params: &params, vocab_size: logits.len(), breakers: &[] };
        // A chain may change logits after candidates were gathered: spread what is left out again.
        logits.fill(f32::NEG_INFINITY);
        candidates.items.iter().for_each(|c| logits[c.id as usize] = c.logit);
        let mut adjusters: Vec<_> = ADJUSTERS.iter().filter_map(|make| make(&setup)).collect();
        for adjuster in &mut adjusters {
            (1..=history.len()).for_each(|len| adjuster.accept(&history[..len]));
            adjuster.adjust(&mut logits, history);
        }
        if params.top_k > 0 || !adjusters.is_empty() {
            let max = settle(&mut logits).unwrap();
            top_k::gather(&mut candidates, &logits, max, params.top_k as usize);
        }
        for mut narrower in NARROWERS.iter().filter_map(|make| make(&setup)) {
            narrower.narrow(&mut candidates, rng);
        }
    }
    let (_, total) = candidates.weigh();
    let mut out: Vec<_> =
        candidates.weighted().map(|(c, w)| (c.id, f64::from(w) / total)).collect();
    out.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    out
}

#[test]
fn vectors_of_llama_cpp() {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    let history = ids(&file["history"]);
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 104);
    let mut wrong = Vec::new();
    for case in cases {
        let shape = case["logits"].as_str().unwrap();
        let found = run_chain(&case["chain"], &floats(&file["logits"][shape]), &history);
        let probs = case["probs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap());
        let expected: Vec<_> = ids(&case["ids"]).into_iter().zip(probs).collect();
        // Six digits are printed, of f32 sums: half a digit, and a few units in the last place. What a normal f32
        // cannot hold is 0 here.
        let close = |(found, expected): (&(u32, f64), &(u32, f64))| {
            found.0 == expected.0 && (found.1 - expected.1).abs() < 1.5e-5 * expected.1 + 1e-37
        };
        let same = found.len() == case["n"].as_u64().unwrap() as usize
            && found.iter().zip(&expected).all(close)
            && found.len() >= expected.len();
        if !same {
            wrong.push(format!("{shape} {}\n  {found:?}\n  {expected:?}", case["chain"]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn sampler(params: SamplingParams, prompt: &[u32], vocab_size: usize) -> Sampler {
    Sampler::new(&params, prompt, vocab_size, Vec::new()).unwrap()
}

/// Pseudo-random logits that look like a model's: many low, a few high.
fn model_like(vocab_size: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let mut logit = || (-(rng.unit() + 1e-9).ln() * 2.0 - 6.0 + rng.unit()) as f32;
    (0..vocab_size).map(|_| logit()).collect()
}

/// Shares of each token in `draws` draws.
fn frequencies(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(params, &[], logits.len());
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(&mut logits.to_vec()).unwrap() as usize] += 1.0 / draws as f64;
    }
    counts
}

fn softmax(logits: impl Iterator<Item = f64>) -> Vec<f64> {
    let logits: Vec<_> = logits.collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    logits.iter().map(|x| (x - max).exp() / sum).collect()
}

/// Pearson's χ² of `draws` draws, over tokens expected at least five times, and their number.
fn chi_square(found: &[f64], expected: &[f64], draws: usize) -> (f64, f64) {
    let draws = draws as f64;
    found
        .iter()
        .zip(expected)
        .filter(|(_, e)| **e * draws >= 5.0)
        .fold((0.0, 0.0), |(sum, n), (f, e)| (sum + (f - e) * (f - e) * draws / e, n + 1.0))
}

#[test]
fn the_draw_follows_the_probabilities() {
    const DRAWS: usize = 100_000;
    for (seed, temperature, vocab_size) in [(1, 1.0, 64), (2, 0.7, 64), (3, 1.5, 600), (4, 1.0, 1)]
    {
        let logits = model_like(vocab_size, seed);
        let expected = softmax(logits.iter().map(|&x| f64::from(x) / f64::from(temperature)));
        let params = SamplingParams { temperature, seed: Some(seed), ..Default::default() };
        let found = frequencies(params, &logits, DRAWS);
        let (chi, n) = chi_square(&found, &expected, DRAWS);
        // Four standard deviations of a χ² with n degrees of freedom; with the seed fixed it never wavers.
        assert!(chi < n + 4.0 * (2.0 * n).sqrt(), "seed {seed}: χ² {chi} over {n} tokens");
    }
}

#[test]
fn a_narrowed_draw_keeps_proportions() {
    // Flattened, so that each of the seven is drawn often enough to count.
    let logits: Vec<f32> = model_like(300, 9).iter().map(|x| 0.3 * x).collect();
    let mut order: Vec<usize> = (0..300).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let kept = &order[..7];
    let all = softmax(logits.iter().map(|&x| f64::from(x)));
    let mass: f64 = kept.iter().map(|&i| all[i]).sum();
    let expected: Vec<_> =
        (0..300).map(|i| if kept.contains(&i) { all[i] / mass } else { 0.0 }).collect();
    let params = SamplingParams { top_k: 7, seed: Some(5), ..Default::default() };
    let found = frequencies(params, &logits, 50_000);
    assert!(found.iter().zip(&expected).all(|(f, e)| *e > 0.0 || *f == 0.0));
    let (chi, n) = chi_square(&found, &expected, 50_000);
    assert!(n == 7.0 && chi < n + 4.0 * (2.0 * n).sqrt(), "χ² {chi} over {n}");
}

#[test]
fn a_seed_gives_the_same_tokens_alone_or_among_others() {
    let params = |seed| SamplingParams {
        temperature: 1.1,
        top_p: 0.95,
        repeat_penalty: 1.2,
        xtc_probability: 0.5,
        seed: Some(seed),
        ..Default::default()
    };
    let step = |sampler: &mut Sampler, i: u64| {
        let token = sampler.sample(&mut model_like(500, i)).unwrap();
        sampler.accept(token);
        token
    };
    let alone = |seed| {
        let mut sampler = sampler(params(seed), &[1, 2, 3], 500);
        (0..60).map(|i| step(&mut sampler, i)).collect::<Vec<_>>()
    };
    let mut batch: Vec<_> = (0..5).map(|seed| sampler(params(seed), &[1, 2, 3], 500)).collect();
    let mut together = vec![Vec::new(); 5];
    for i in 0..60 {
        for (sampler, tokens) in batch.iter_mut().zip(&mut together) {
            tokens.push(step(sampler, i));
        }
    }
    for (seed, tokens) in together.iter().enumerate() {
        assert_eq!(*tokens, alone(seed as u64), "seed {seed}");
    }
    assert_ne!(together[0], together[1]);
}

#[test]
fn an_unseeded_request_can_be_repeated_by_its_seed() {
    let mut first = sampler(SamplingParams::default(), &[], 300);
    let seed = Some(first.seed());
    let mut again = sampler(SamplingParams { seed, ..Default::default() }, &[], 300);
    for i in 0..20 {
        let logits = model_like(300, i);
        assert_eq!(first.sample(&mut logits.clone()), again.sample(&mut logits.clone()));
    }
}

/// Pinned: these tokens may change only with a note in the changelog, as they change what users' seeds give.
#[test]
fn seeded_tokens_are_stable() {
    let logits: Vec<f32> = (0..32).map(|i| (i * 7 % 11) as f32 / 4.0).collect();
    let params = SamplingParams { seed: Some(42), ..Default::default() };
    let mut sampler = sampler(params, &[], 32);
    let tokens: Vec<_> = (0..8).map(|_| sampler.sample(&mut logits.clone()).unwrap()).collect();
    // By hand: u from xoshiro256++(SplitMix64(42)), the token where the running sum of exp passes u · total.
    let weights = softmax(logits.iter().map(|&x| f64::from(x)));
    let mut rng = Rng::new(42);
    let by_hand = |u: f64| {
        let mut sum = 0.0;
        weights.iter().position(|w| {
            sum += w;
            sum > u
        })
    };
    let expected: Vec<_> = (0..8).map(|_| by_hand(rng.unit()).unwrap() as u32).collect();
    assert_eq!(tokens, expected);
}

#[test]
fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
    let params = SamplingParams { temperature: 0.0, seed: Some(1), ..Default::default() };
    for vocab_size in [1, 15, 16, 17, 33, 1000] {
        for best in [0, vocab_size / 2, vocab_size - 1] {
            let mut logits = model_like(vocab_size, 3);
            logits[best..].iter_mut().step_by(5).for_each(|x| *x = 50.0);
            let mut sampler = sampler(params.clone(), &[], vocab_size);
            assert!(sampler.is_greedy());
            assert_eq!(sampler.sample(&mut logits), Ok(best as u32));
        }
    }
    // Samplers that narrow the choice, even XTC, leave greedy alone.
    let all = SamplingParams {
        xtc_probability: 1.0,
        typical_p: 0.1,
        top_n_sigma: 0.5,
        top_k: 3,
        top_p: 0.5,
        ..params.clone()
    };
    assert_eq!(sampler(all, &[], 4).sample(&mut [1.0, 1.1, 5.0, 4.9]), Ok(2));
    // Penalties do not.
    let penalised = SamplingParams { presence_penalty: 2.0, ..params };
    assert_eq!(sampler(penalised, &[2], 4).sample(&mut [1.0, 1.1, 5.0, 4.9]), Ok(3));
}

/// What one call does to the logits, seen through greedy choice: the penalised logits in order.
fn adjusted(params: &SamplingParams, history: &[u32], breakers: &[Vec<u32>]) -> Vec<f32> {
    let mut logits = vec![10.0, 10.0, 10.0, -10.0, 10.0, 10.0, 10.0, 10.0];
    let setup = Setup { params, vocab_size: logits.len(), breakers };
    for mut adjuster in ADJUSTERS.iter().filter_map(|make| make(&setup)) {
        (1..=history.len()).for_each(|len| adjuster.accept(&history[..len]));
        adjuster.adjust(&mut logits, history);
    }
    logits
}

#[test]
fn the_penalty_window_is_exact_and_0_is_all() {
    let history = [0, 1, 1, 2, 3, 1];
    for window in [0usize, 1, 2, 3, 4, 5, 6, 7, 100] {
        let params = SamplingParams {
            repeat_penalty: 2.0,
            frequency_penalty: 0.25,
            presence_penalty: 0.5,
            repeat_last_n: window as u32,
            ..Default::default()
        };
        let looked_at = if window == 0 { 6 } else { window.min(6) };
        let seen = &history[6 - looked_at..];
        let expected: Vec<f32> = (0..8)
            .map(|token| {
                let count = seen.iter().filter(|&&t| t == token).count() as f32;
                let logit = if token == 3 { -10.0 } else { 10.0 };
                let factor = if token == 3 { 2.0 } else { 0.5 };
                if count > 0.0 { logit * factor - count * 0.25 - 0.5 } else { logit }
            })
            .collect();
        assert_eq!(adjusted(&params, &history, &[]), expected, "window {window}");
    }
}

/// DRY as its author states it, by trying every earlier place.
fn plain_dry(params: &SamplingParams, history: &[u32], breakers: &[Vec<u32>]) -> HashMap<u32, f64> {
    let window = match params.dry_penalty_last_n {
        0 => history.len(),
        n => history.len().min(n as usize),
    };
    let text = &history[history.len() - window..];
    let allowed = params.dry_allowed_length as usize;
    let mut limit = text.len();
    'back: for start in (0..text.len()).rev() {
        let fits = |b: &&Vec<u32>| !b.is_empty() && text[start..].starts_with(b);
        if let Some(longest) = breakers.iter().filter(fits).map(Vec::len).max() {
            limit = text.len() - start - longest;
            break 'back;
        }
    }
    let mut longest: HashMap<u32, usize> = HashMap::new();
    for place in 1..text.len() {
        // text[place] came after text[..place]; how much of its end is the end of the text?
        let same = |n: &usize| text[..place].ends_with(&text[text.len() - n..]);
        let repeat = (0..=place.min(limit)).filter(same).max().unwrap();
        if repeat >= allowed {
            let entry = longest.entry(text[place]).or_default();
            *entry = repeat.max(*entry);
        }
    }
    if text.len() <= allowed || limit < allowed {
        longest.clear();
    }
    longest
        .into_iter()
        .filter(|(token, _)| !breakers.contains(&vec![*token]))
        .map(|(token, repeat)| {
            let power = f64::from(params.dry_base).powi((repeat - allowed) as i32);
            (token, f64::from(params.dry_multiplier) * power)
        })
        .collect()
}

#[test]
fn dry_agrees_with_the_plain_definition() {
    let mut rng = Rng::new(11);
    let mut below = |n: usize| (rng.unit() * n as f64) as usize;
    let mut penalised = 0;
    for round in 0..4000 {
        let alphabet = 1 + below(6);
        let history: Vec<u32> = (0..below(40)).map(|_| below(alphabet) as u32).collect();
        let breakers: Vec<Vec<u32>> =
            (0..below(3)).map(|_| (0..below(4)).map(|_| 2 + below(5) as u32).collect()).collect();
        let params = SamplingParams {
            dry_multiplier: 0.8,
            dry_base: 1.25,
            dry_allowed_length: below(5) as u32,
            dry_penalty_last_n: below(45) as u32,
            ..Default::default()
        };
        let expected = plain_dry(&params, &history, &breakers);
        penalised += usize::from(!expected.is_empty());
        for (token, logit) in adjusted(&params, &history, &breakers).into_iter().enumerate() {
            let start = if token == 3 { -10.0 } else { 10.0 };
            let exact = start - expected.get(&(token as u32)).copied().unwrap_or(0.0);
            assert!(
                (f64::from(logit) - exact).abs() <= 1e-6 * exact.abs().max(10.0),
                "round {round}: {params:?} {history:?} {breakers:?}: token {token}: {logit}, {exact}"
            );
        }
    }
    assert!(penalised > 1000, "{penalised}");
}

#[test]
fn dry_penalties_stay_finite() {
    let params = SamplingParams {
        temperature: 0.0,
        dry_multiplier: 100.0,
        dry_base: 100.0,
        ..Default::default()
    };
    let mut sampler = sampler(params, &[1; 5000], 3);
    assert_eq!(sampler.sample(&mut [0.0, 1.0, 0.5]), Ok(2));
    let params = SamplingParams { dry_multiplier: 100.0, dry_base: 100.0, ..Default::default() };
    assert_eq!(self::sampler(params, &[0; 5000], 1).sample(&mut [0.0]), Ok(0));
}

#[test]
fn samplers_apply_in_order() {
    let history = [0, 0, 0, 1];
    // Bias, then penalties: the repeat penalty halves the biased logit.
    let params =
        SamplingParams { logit_bias: vec![(0, 2.0)], repeat_penalty: 2.0, ..Default::default() };
    assert_eq!(adjusted(&params, &history, &[])[0], 6.0);
    // Top-k before top-p: of the two best, renormalised, the best alone has 0.9.
    let support = |params: SamplingParams, probs: &[f64]| {
        let logits: Vec<f32> = probs.iter().map(|p| p.ln() as f32).collect();
        let found = frequencies(SamplingParams { seed: Some(3), ..params }, &logits, 3000);
        (0..probs.len()).filter(|&i| found[i] > 0.0).collect::<Vec<_>>()
    };
    let params = SamplingParams { top_k: 2, top_p: 0.6, ..Default::default() };
    assert_eq!(support(params, &[0.3, 0.15, 0.14, 0.14, 0.14, 0.13]), [0]);
    // Top-p before min-p, and both before temperature: at temperature 100 nearly all is flat, yet two remain.
    let params = SamplingParams { temperature: 100.0, top_p: 0.75, ..Default::default() };
    assert_eq!(support(params, &[0.5, 0.3, 0.1, 0.06, 0.04]), [0, 1]);
    let params = SamplingParams { temperature: 100.0, min_p: 0.19, ..Default::default() };
    assert_eq!(support(params, &[0.5, 0.3, 0.1, 0.06, 0.04]), [0, 1, 2]);
    // Min-p before XTC: XTC would leave token 3 the best, if min-p had not removed it.
    let params = SamplingParams {
        min_p: 0.3,
        xtc_probability: 1.0,
        xtc_threshold: 0.2,
        ..Default::default()
    };
    assert_eq!(support(params, &[0.4, 0.25, 0.21, 0.1, 0.04]), [2]);
}

#[test]
fn xtc_acts_as_often_as_asked() {
    let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec();
    let xtc = |xtc_probability, xtc_threshold, min_keep| {
        let seed = Some(8);
        let params =
            SamplingParams { xtc_probability, xtc_threshold, min_keep, seed, ..Default::default() };
        frequencies(params, &logits, 40_000)
    };
    assert_eq!(xtc(1.0, 0.1, 0)[..2], [0.0, 0.0]);
    assert_eq!(xtc(1.0, 0.2, 0)[0], 0.0);
    // Half of the time token 0 is excluded, and 1, 2 and 3 share in proportion.
    let found = xtc(0.5, 0.2, 0);
    for (f, e) in found.iter().zip([0.25, 0.45, 0.225, 0.075]) {
        assert!((f - e).abs() < 0.01, "{found:?}");
    }
    for unchanged in [xtc(0.0, 0.1, 0), xtc(1.0, 0.51, 0), xtc(1.0, 0.4, 0), xtc(1.0, 0.1, 4)] {
        assert!((unchanged[0] - 0.5).abs() < 0.01, "{unchanged:?}");
    }
}

#[test]
fn mirostat_agrees_with_the_paper() {
    for (tau, eta, temperature) in
        [(3.0, 0.1, 1.0), (5.0, 0.1, 0.8), (0.5, 1.0, 1.0), (0.0, 0.5, 1.3)]
    {
        let params = SamplingParams {
            mirostat: 2,
            mirostat_tau: tau,
            mirostat_eta: eta,
            temperature,
            top_k: 1, // not used by Mirostat
            top_n_sigma: 0.01,
            seed: Some(77),
            ..Default::default()
        };
        let mut sampler = sampler(params, &[], 400);
        let mut rng = Rng::new(77);
        // Algorithm 2: μ = 2τ; each step: keep tokens of surprise ≤ μ, sample, e = S(X) − τ, μ ← μ − η·e.
        let mut mu = 2.0 * f64::from(tau);
        for step in 0..300 {
            let logits = model_like(400, step);
            let probs = softmax(logits.iter().map(|&x| f64::from(x) / f64::from(temperature)));
            let mut kept: Vec<usize> = (0..400).filter(|&i| -probs[i].log2() <= mu).collect();
            if kept.is_empty() {
                let best = (0..400).max_by(|&a, &b| probs[a].total_cmp(&probs[b]).then(b.cmp(&a)));
                kept.push(best.unwrap());
            }
            let mass: f64 = kept.iter().map(|&i| probs[i]).sum();
            let (u, mut sum) = (rng.unit(), 0.0);
            let drawn = kept.iter().find(|&&i| {
                sum += probs[i] / mass;
                sum > u
            });
            let token = *drawn.unwrap_or(kept.last().unwrap());
            let surprise = -(probs[token] / mass).log2();
            mu -= f64::from(eta) * (surprise - f64::from(tau));
            assert_eq!(
                sampler.sample(&mut logits.clone()),
                Ok(token as u32),
                "τ {tau}, step {step}"
            );
        }
    }
}

#[test]
fn damaged_logits_are_an_error_and_infinities_are_not() {
    let settings = [
        SamplingParams { temperature: 0.0, ..Default::default() },
        SamplingParams::default(),
        SamplingParams { top_k: 2, top_n_sigma: 1.0, ..Default::default() },
        SamplingParams { mirostat: 2, ..Default::default() },
        SamplingParams {
            typical_p: 0.5,
            top_p: 0.9,
            min_p: 0.1,
            xtc_probability: 1.0,
            temperature: 1e-30,
            ..Default::default()
        },
        SamplingParams { dynatemp_range: 1.0, repeat_penalty: 1.5, ..Default::default() },
    ];
    const INF: f32 = f32::INFINITY;
    for params in settings {
        let mut sampler = sampler(params, &[0, 1, 1], 20);
        for at in [0, 15, 16, 19] {
            let mut with = |value: f32, rest: f32| {
                let mut logits = [rest; 20];
                logits[at] = value;
                sampler.sample(&mut logits)
            };
            assert_eq!(with(f32::NAN, 0.0), Err(SamplingError::NonFinite));
            assert_eq!(with(-INF, -INF), Err(SamplingError::NonFinite));
            assert_eq!(with(INF, 3.0), Ok(at as u32));
            assert_eq!(with(-7.0, -INF), Ok(at as u32));
            assert_eq!(with(f32::MAX, f32::MIN), Ok(at as u32));
        }
        assert_eq!(
            sampler.sample(&mut [0.0; 19]),
            Err(SamplingError::LogitCount { found: 19, expected: 20 })
        );
        assert!(sampler.sample(&mut [f32::MAX; 20]).is_ok());
        assert!(sampler.sample(&mut [f32::MIN; 20]).is_ok());
        assert!(sampler.sample(&mut [INF; 20]).is_ok());
    }
    let banned = SamplingParams { logit_bias: vec![(1, -INF)], ..Default::default() };
    assert_eq!(sampler(banned.clone(), &[], 2).sample(&mut [0.0, INF]), Ok(0));
    let damaged = sampler(banned, &[], 2).sample(&mut [0.0, f32::NAN]);
    assert_eq!(damaged, Err(SamplingError::NonFinite));
    assert_eq!(
        Sampler::new(&SamplingParams::default(), &[], 0, Vec::new()).unwrap().sample(&mut []),
        Err(SamplingError::NonFinite)
    );
}

#[test]
fn hostile_settings_are_refused_by_name() {
    let huge = 1e300_f64 as f32;
    for bad in [f32::NAN, f32::INFINITY, -1.0, huge] {
        for (name, set) in [
            ("temperature", (|p, x| p.temperature = x) as fn(&mut SamplingParams, f32)),
            ("dynatemp_range", |p, x| p.dynatemp_range = x),
            ("dynatemp_exponent", |p, x| p.dynatemp_exponent = x),
            ("top_p", |p, x| p.top_p = x),
            ("min_p", |p, x| p.min_p = x),
            ("typical_p", |p, x| p.typical_p = x),
            ("xtc_probability", |p, x| p.xtc_probability = x),
            ("xtc_threshold", |p, x| p.xtc_threshold = x),
            ("repeat_penalty", |p, x| p.repeat_penalty = x),
            ("dry_multiplier", |p, x| p.dry_multiplier = x),
            ("dry_base", |p, x| p.dry_base = x),
            ("mirostat_tau", |p, x| p.mirostat_tau = x),
            ("mirostat_eta", |p, x| p.mirostat_eta = x),
            ("top_n_sigma", |p, x| p.top_n_sigma = if x < 0.0 { -1e9 } else { x }),
            ("frequency_penalty", |p, x| p.frequency_penalty = x * 101.0),
            ("presence_penalty", |p, x| p.presence_penalty = x * 101.0),
            ("logit_bias", |p, x| p.logit_bias = vec![(0, x * 1.1e6)]),
        ] {
            let mut params = SamplingParams::default();
            set(&mut params, bad);
            let message = params.validate(10).expect_err(name).to_string();
            assert!(message.starts_with(&format!("{name} is ")), "{message}");
            assert!(Sampler::new(&params, &[], 10, Vec::new()).is_err());
        }
    }
    let refused = |params: SamplingParams| params.validate(10).unwrap_err().to_string();
    let off = SamplingParams::default;
    assert_eq!(
        refused(SamplingParams { top_p: 1.5, ..off() }),
        "top_p is 1.5, expected a number from 0 to 1"
    );
    assert_eq!(
        refused(SamplingParams { mirostat: 1, ..off() }),
        "mirostat is 1, expected 0 (off) or 2 (version 2)"
    );
    assert_eq!(
        refused(SamplingParams { logit_bias: vec![(10, 1.0)], ..off() }),
        "logit_bias names token 10, expected one below 10 (the vocabulary)"
    );
    assert_eq!(
        refused(SamplingParams { logit_bias: vec![(1, 1.0); 11], ..off() }),
        "logit_bias has 11 entries, expected 0 to 10"
    );
    assert_eq!(
        refused(SamplingParams { dry_sequence_breakers: vec![String::new()], ..off() }),
        "dry_sequence_breakers has 0 bytes in a string, expected 1 to 256"
    );
    assert_eq!(
        refused(SamplingParams { dry_sequence_breakers: vec!["x".into(); 65], ..off() }),
        "dry_sequence_breakers has 65 strings, expected 0 to 64"
    );
    off().validate(0).unwrap();
    let largest = SamplingParams {
        top_k: u32::MAX,
        repeat_last_n: u32::MAX,
        dry_penalty_last_n: u32::MAX,
        dry_allowed_length: u32::MAX,
        min_keep: u32::MAX,
        dry_multiplier: 1.0,
        repeat_penalty: 1.1,
        top_p: 0.0,
        min_p: 1.0,
        typical_p: 0.0,
        xtc_probability: 1.0,
        seed: Some(u64::MAX),
        ..off()
    };
    // A prompt may hold ids beyond the vocabulary.
    assert!(sampler(largest, &[1, u32::MAX, 1, 1], 4).sample(&mut [0.0; 4]).is_ok());
}

#[test]
fn any_valid_settings_choose_a_token_that_was_not_excluded() {
    let mut rng = Rng::new(99);
    let mut chosen = 0;
    for round in 0..3000 {
        let mut unit = || rng.unit() as f32;
        // Often one of the ends, where formulas break.
        let mut within = |min: f32, max: f32| match (unit() * 5.0) as u32 {
            0 => min,
            1 => max,
            _ => min + (max - min) * unit(),
        };
        let params = SamplingParams {
            temperature: within(0.0, 2.0),
            dynatemp_range: within(0.0, 2.0),
            dynatemp_exponent: within(0.0, 100.0),
            top_k: within(0.0, 40.0) as u32,
            top_p: within(0.0, 1.0),
            min_p: within(0.0, 1.0),
            typical_p: within(0.0, 1.0),
            top_n_sigma: within(-1.0, 3.0),
            xtc_probability: within(0.0, 1.0),
            xtc_threshold: within(0.0, 1.0),
            min_keep: within(0.0, 5.0) as u32,
            repeat_penalty: within(0.01, 100.0),
            frequency_penalty: within(-100.0, 100.0),
            presence_penalty: within(-100.0, 100.0),
            repeat_last_n: within(0.0, 20.0) as u32,
            dry_multiplier: within(0.0, 100.0),
            dry_base: within(1.0, 100.0),
            dry_allowed_length: within(0.0, 4.0) as u32,
            dry_penalty_last_n: within(0.0, 20.0) as u32,
            mirostat: 2 * (within(0.0, 1.2) as u32),
            mirostat_tau: within(0.0, 100.0),
            mirostat_eta: within(0.0, 10.0),
            logit_bias: vec![(0, within(-1e6, 1e6))],
            seed: Some(round),
            ..Default::default()
        };
        let vocab_size = 1 + within(0.0, 300.0) as usize;
        let spread = [1e-3, 1.0, 30.0, 1e30][round as usize % 4];
        let logits: Vec<f32> = (0..vocab_size)
            .map(|_| match within(0.0, 10.0) {
                x if x < 1.0 => f32::NEG_INFINITY,
                x => spread * (x - 5.0),
            })
            .collect();
        let mut sampler = sampler(params.clone(), &[0, 1, 0, 1, 0], vocab_size);
        for _ in 0..8 {
            match sampler.sample(&mut logits.clone()) {
                Ok(token) => {
                    assert!(logits[token as usize] > f32::NEG_INFINITY, "{params:?} {logits:?}");
                    sampler.accept(token);
                    chosen += 1;
                }
                Err(error) => {
                    let none = logits.iter().all(|&x| x == f32::NEG_INFINITY);
                    assert!(none && error == SamplingError::NonFinite, "{params:?} {logits:?}");
                }
            }
        }
    }
    assert!(chosen > 20_000, "{chosen}");
}

#[test]
fn top_k_equals_a_full_sort() {
    for (vocab_size, seed) in [(1, 1), (63, 2), (64, 3), (65, 4), (1000, 5), (5000, 6)] {
        let mut logits = model_like(vocab_size, seed);
        // Ties, excluded tokens, and an order that raises the bar at every group.
        logits.iter_mut().step_by(3).for_each(|x| *x = (*x * 4.0).round() / 4.0);
        logits.iter_mut().step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
        logits[vocab_size / 2] = 1.0;
        for rising in [false, true] {
            if rising {
                logits.sort_by(f32::total_cmp);
            }
            let mut order: Vec<_> =
                (0..vocab_size).filter(|&i| logits[i] > f32::NEG_INFINITY).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let max = settle(&mut logits).unwrap();
            for k in [1, 2, 40, 63, 64, 65, 700, vocab_size - 1, vocab_size, usize::MAX >> 1] {
                if k == 0 {
                    continue;
                }
                let mut candidates = Candidates::default();
                top_k::gather(&mut candidates, &logits, max, k);
                candidates.sort();
                let found: Vec<_> = candidates.items.iter().map(|c| c.id as usize).collect();
                assert_eq!(found, order[..k.min(order.len())], "{k} of {vocab_size}");
            }
        }
    }
}

#[test]
fn top_p_equals_the_plain_definition() {
    for (vocab_size, seed) in [(1, 1), (50, 2), (3000, 3)] {
        let logits = model_like(vocab_size, seed);
        let probs = softmax(logits.iter().map(|&x| f64::from(x)));
        let mut order: Vec<_> = (0..vocab_size).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        for p in [0.0f32, 0.1, 0.5, 0.9, 0.99, 0.9999] {
            let mut sum = 0.0;
            let mut expected = Vec::new();
            for &token in &order {
                expected.push(token as u32);
                sum += probs[token];
                if sum >= f64::from(p) {
                    break;
                }
            }
            let params = SamplingParams { top_p: p, ..Default::default() };
            let setup = Setup { params: &params, vocab_size, breakers: &[] };
            let mut candidates = Candidates::default();
            candidates.gather(&logits, logits[order[0]]);
            top_p::make(&setup).unwrap().narrow(&mut candidates, &mut Rng::new(0));
            let found: Vec<_> = candidates.items.iter().map(|c| c.id).collect();
            assert_eq!(found, expected, "{p} of {vocab_size}");
        }
    }
}

#[test]
fn typical_p_agrees_with_the_plain_definition() {
    for (vocab_size, seed) in [(1, 1), (50, 2), (255, 3), (257, 4), (5000, 5)] {
        // Flattened, so that thousands are needed too.
        let logits: Vec<f32> = model_like(vocab_size, seed).iter().map(|x| 0.2 * x).collect();
        let probs = softmax(logits.iter().map(|&x| f64::from(x)));
        let entropy: f64 = probs.iter().map(|p| -p * p.ln()).sum();
        let distance = |i: &usize| (-probs[*i].ln() - entropy).abs();
        let mut order: Vec<_> = (0..vocab_size).collect();
        order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        for p in [0.0f32, 0.05, 0.5, 0.9, 0.999] {
            let mut sum = 0.0;
            let reached = |i: &usize| {
                sum += probs[*i];
                sum > f64::from(p)
            };
            let needed = order.iter().position(reached).map_or(vocab_size, |last| last + 1);
            let params = SamplingParams { typical_p: p, ..Default::default() };
            let setup = Setup { params: &params, vocab_size, breakers: &[] };
            let mut candidates = Candidates::default();
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            candidates.gather(&logits, max);
            typical_p::make(&setup).unwrap().narrow(&mut candidates, &mut Rng::new(0));
            let found: Vec<_> = candidates.items.iter().map(|c| c.id as usize).collect();
            // Distances that differ by less than an f32 rounding may change places at the edge.
            assert!(found.len().abs_diff(needed) <= 1, "{p} of {vocab_size}");
            let edge = distance(&order[needed - 1]);
            assert!(found.iter().all(|i| distance(i) <= edge + 1e-5), "{p} of {vocab_size}");
        }
    }
}

#[test]
fn log_probabilities_of_the_model() {
    let logits = model_like(2000, 4);
    let probs = softmax(logits.iter().map(|&x| f64::from(x)));
    let mut order: Vec<_> = (0..2000).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    for n in [0, 1, 20, 2000, 9999] {
        let (chosen, top) = top_logprobs(&logits, 77, n);
        assert!((f64::from(chosen) - probs[77].ln()).abs() < 1e-5);
        assert_eq!(top.len(), n.min(2000));
        for (&(id, logprob), &expected) in top.iter().zip(&order) {
            assert_eq!(id as usize, expected);
            assert!((f64::from(logprob) - probs[expected].ln()).abs() < 1e-5);
        }
    }
    let (chosen, top) = top_logprobs(&[f32::INFINITY, 2.0, f32::INFINITY, f32::NEG_INFINITY], 1, 4);
    assert_eq!(chosen, f32::NEG_INFINITY);
    assert_eq!(top[..2], [(0, 0.5f32.ln()), (2, 0.5f32.ln())]);
    assert_eq!(top_logprobs(&[3.0, f32::NEG_INFINITY], 0, 2), (0.0, vec![(0, 0.0)]));
}
