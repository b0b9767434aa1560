//! Several sequences at once, beside llama-batched-bench.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use host::engine::{Engine, EngineOptions, Event, LoadProgress, Request, RequestHandle};
use host::sampling::SamplingParams;
use serde_json::{Value, json};

use super::imp::output;
use crate::TaskError;
use crate::bench::bed::chain;
use crate::bench::random::Random;
use crate::bench::table::Table;

/// Prompt tokens and generated tokens of each sequence.
const PROMPT: usize = 512;
const GENERATE: usize = 128;

/// Some sequences at once.
#[derive(Clone, Debug)]
pub struct Batch {
    model: String,
    sequences: usize,
    imp: Speeds,
    peer: Option<Speeds>,
}

/// Tokens a second over all sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speeds {
    prompt: f64,
    generate: f64,
}

impl Batch {
    pub fn json(&self) -> Value {
        json!({
            "model": self.model,
            "sequences": self.sequences,
            "imp_pp_ts": self.imp.prompt,
            "imp_tg_ts": self.imp.generate,
            "llama_pp_ts": self.peer.map(|p| p.prompt),
            "llama_tg_ts": self.peer.map(|p| p.generate),
        })
    }
}

/// Both programs with each number of sequences.
///
/// # Errors
/// When one fails.
pub fn measure(
    program: &Path,
    model: &Path,
    name: &str,
    sizes: &[usize],
) -> Result<Vec<Batch>, TaskError> {
    eprintln!("xtask: {name}: {sizes:?} sequences at once");
    let most = sizes.iter().max().copied().unwrap_or(1);
    // A page is 16 tokens, and each sequence may fill one in part.
    let tokens = most * (PROMPT + GENERATE + 16);
    let imp = imp(model, sizes, tokens)?;
    let sizes_text = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(program);
    command.arg("-m").arg(model).args(["-ngl", "99", "-fa", "1"]);
    command.args(["-c", &tokens.to_string(), "-npl", &sizes_text]);
    command.args(["-npp", &PROMPT.to_string(), "-ntg", &GENERATE.to_string()]);
    let printed = output(&mut command)?;
    let batch = |(&sequences, imp): (&usize, Speeds)| Batch {
        model: name.to_owned(),
        sequences,
        imp,
        peer: peer(&printed, sequences),
    };
    Ok(sizes.iter().zip(imp).map(batch).collect())
}

struct Silent;
impl LoadProgress for Silent {
    fn tensor(&mut self, _: &str, _: u64, _: u64) {}
}

fn imp(model: &Path, sizes: &[usize], tokens: usize) -> Result<Vec<Speeds>, TaskError> {
    // Settings as they come: no file is searched.
    let environment = config::Environment::default();
    let config = config::Config::load_in(&environment, None, &[]);
    let config = config.map_err(|e| TaskError::Other(chain(&e)))?.config;
    let options = EngineOptions {
        model: model.to_owned(),
        config,
        // A GPU that cannot be used is an error.
        device: Some(0),
        gpu_layers: -1,
        threads: 0,
        max_seq_len: Some(PROMPT + GENERATE + 1),
        min_kv_tokens: Some(tokens),
        chat_template: "none".into(),
    };
    let engine = Engine::load(options, &mut Silent).map_err(|e| TaskError::Other(chain(&e)))?;
    let mut random = Random(7);
    // Once for nothing, so that kernels are loaded and recorded.
    together(&engine, &mut random, sizes.iter().max().copied().unwrap_or(1))?;
    sizes.iter().map(|&sequences| together(&engine, &mut random, sequences)).collect()
}

/// Sequences that start together. Prefill ends when all have a token.
fn together(engine: &Engine, random: &mut Random, sequences: usize) -> Result<Speeds, TaskError> {
    let vocab = engine.info().vocab_size;
    let start = Instant::now();
    let mut handles: Vec<RequestHandle> = vec![];
    for _ in 0..sequences {
        let request = Request {
            prompt: (0..PROMPT).map(|_| random.below(vocab) as u32).collect(),
            max_tokens: GENERATE + 1, // the first comes from the prompt
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            stop: vec![],
            logprobs: None,
            ignore_eos: true,
            ..Request::default()
        };
        let handle = engine.submit(request);
        handles.push(handle.map_err(|e| TaskError::Other(chain(&e)))?);
    }
    let seconds: Vec<Result<[f64; 2], TaskError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = handles
            .into_iter()
            .map(|handle| scope.spawn(move || first_and_last(handle, start)))
            .collect();
        threads.into_iter().map(|t| t.join().expect("it does not panic")).collect()
    });
    let (mut prefilled, mut ended) = (0.0f64, 0.0f64);
    for seconds in seconds {
        let [first, last] = seconds?;
        (prefilled, ended) = (prefilled.max(first), ended.max(last));
    }
    let all = |tokens: usize| (sequences * tokens) as f64;
    Ok(Speeds { prompt: all(PROMPT) / prefilled, generate: all(GENERATE) / (ended - prefilled) })
}

/// Seconds from `start` to a request's first token, and to its end.
fn first_and_last(mut handle: RequestHandle, start: Instant) -> Result<[f64; 2], TaskError> {
    let mut first = None;
    while let Some(event) = handle.blocking_recv() {
        let now = start.elapsed().as_secs_f64();
        match event {
            Event::Token { .. } => {
                first.get_or_insert(now);
            }
            Event::Done { .. } => return Ok([first.unwrap_or(now), now]),
            Event::Failed(e) => return Err(TaskError::Other(chain(&e))),
            Event::Prefilled { .. } => {}
        }
    }
    Err(TaskError::Other("a request ended without an end".into()))
}

/// A row of the table that llama-batched-bench prints:
/// `| PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |`.
fn peer(printed: &str, sequences: usize) -> Option<Speeds> {
    printed.lines().find_map(|line| {
        let cells = line.split('|').map(|cell| cell.trim().parse::<f64>());
        let numbers: Vec<f64> = cells.filter_map(Result::ok).collect();
        let of_size = numbers.len() == 10 && numbers[2] == sequences as f64;
        of_size.then(|| Speeds { prompt: numbers[5], generate: numbers[7] })
    })
}

/// For the report; empty without batches.
pub fn table(batches: &[Batch]) -> Table {
    let mut table = Table::new(&[
        "model",
        "sequences",
        "imp pp t/s",
        "llama.cpp",
        "ratio",
        "imp tg t/s",
        "llama.cpp",
        "ratio",
    ]);
    for b in batches {
        let compared = |imp: f64, peer: Option<f64>| {
            [
                format!("{imp:.0}"),
                peer.map_or("-".into(), |p| format!("{p:.0}")),
                peer.map_or("-".into(), |p| format!("{:.2}", imp / p)),
            ]
        };
        let mut row = vec![b.model.clone(), b.sequences.to_string()];
        row.extend(compared(b.imp.prompt, b.peer.map(|p| p.prompt)));
        row.extend(compared(b.imp.generate, b.peer.map(|p| p.generate)));
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   512 |    128 |    1 |    640 |    0.055 |  9309.09 |    0.711 |   180.03 |    0.766 |   835.51 |
|   512 |    128 |    8 |   5120 |    0.440 |  9309.10 |    1.000 |  1024.00 |    1.440 |  3555.56 |
";

    #[test]
    fn rows_are_found_by_their_sequences() {
        let one = peer(PRINTED, 1).unwrap();
        assert_eq!(one, Speeds { prompt: 9309.09, generate: 180.03 });
        assert_eq!(peer(PRINTED, 8).unwrap().generate, 1024.0);
        assert!(peer(PRINTED, 2).is_none() && peer("", 1).is_none());
    }
    #[test]
    fn both_programs_are_in_the_table() {
        let batch = Batch {
            model: "m".into(),
            sequences: 8,
            imp: Speeds { prompt: 9000.0, generate: 1536.0 },
            peer: peer(PRINTED, 8),
        };
        let printed = table(&[batch]).to_string();
        assert!(printed.ends_with(" 1.50 |\n"), "{printed}");
        assert!(table(&[]).is_empty());
    }
}
