//! `--bench`: llama-bench's method. A warm-up, then repetitions of a prompt of random tokens
//! (`pp`) and of single-token steps from an empty cache (`tg`); mean and standard deviation.
//!
//! `pp` asks for one token and counts the time until the logits of the last prompt token are
//! there; `tg` starts from one token and counts the steps after the first. Sampling is greedy and
//! nothing ends early. No vocabulary is needed.

use host::engine::{Engine, ModelInfo, Request, Timings};
use host::sampling::SamplingParams;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::generate::{SecondPress, generate};
use crate::output;

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    /// Prompt tokens; 0 leaves `pp` out.
    pub(crate) prompt: usize,
    /// Tokens to generate; 0 leaves `tg` out.
    pub(crate) generate: usize,
    /// Timed repetitions.
    pub(crate) reps: usize,
    /// CPU threads, for the table.
    pub(crate) threads: usize,
}

impl BenchOptions {
    /// Context that the tests need.
    pub(crate) fn context(&self) -> usize {
        // one token more than either test computes: the one that is generated last
        self.prompt.saturating_add(1).max(self.generate.saturating_add(2))
    }

    /// Refuses a benchmark that would measure nothing.
    ///
    /// # Errors
    /// `BadArgument` naming the flags.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.prompt == 0 && self.generate == 0 {
            let message = "--bench: --bench-pp 0 and --max-tokens 0 leave nothing to measure";
            return Err(CliError::BadArgument(message.to_owned()));
        }
        if self.reps == 0 {
            return Err(CliError::BadArgument("--bench-reps: expected at least 1".to_owned()));
        }
        Ok(())
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    test: String,
    prompt: usize,
    generate: usize,
    /// Tokens a second of each repetition.
    rates: Vec<f64>,
}

/// Runs the benchmark and prints its table, or one JSON object.
///
/// # Errors
/// What the engine reports; `Cancelled`.
pub(crate) fn bench(engine: &Engine, options: BenchOptions, json: bool) -> Result<(), CliError> {
    let mut random = Random { state: 0x9e37_79b9_7f4a_7c15, prompts: 0 };
    let mut rows = Vec::new();
    let tests = [(options.prompt, 0), (0, options.generate)];
    for (prompt, steps) in tests.into_iter().filter(|test| *test != (0, 0)) {
        let test = if steps == 0 { format!("pp{prompt}") } else { format!("tg{steps}") };
        let mut rates = Vec::with_capacity(options.reps);
        for rep in 0..=options.reps {
            let warm_up = rep == 0;
            // as llama-bench: a warm-up of generation is one step
            let steps = if warm_up { steps.min(1) } else { steps };
            let timings = measure(engine, prompt.max(1), steps, &mut random)?;
            if !warm_up {
                rates.push(rate(prompt, steps, &timings)?);
            }
            note!(
                "{test}: {}",
                if warm_up { "warm-up".to_owned() } else { format!("{rep}/{}", options.reps) }
            );
        }
        rows.push(Row { test, prompt, generate: steps, rates });
    }
    if json {
        output::show_json(&to_json(engine.info(), options.threads, &rows))
    } else {
        output::show(&table(engine.info(), options.threads, &rows))
    }
}

fn measure(
    engine: &Engine,
    prompt: usize,
    steps: usize,
    random: &mut Random,
) -> Result<Timings, CliError> {
    let request = Request {
        prompt: random.prompt(prompt, engine.info().vocab_size as u64),
        max_tokens: steps + 1, // the first token comes from the prompt
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: Vec::new(),
        logprobs: None,
        ignore_eos: true,
        ..Request::default()
    };
    let answer = generate(engine, request, SecondPress::EndsProgram, &mut |_| Ok(()))?;
    if answer.reason == host::engine::FinishReason::Cancelled {
        return Err(CliError::Cancelled);
    }
    let t = answer.timings;
    // a request that ended early or found its prompt in the cache would be a wrong figure
    let computed = (t.prompt_tokens, t.generated_tokens, answer.cached);
    if computed != (prompt, steps + 1, 0) {
        let message =
            format!("--bench expected {prompt} prompt tokens and {steps} steps, got {computed:?}");
        return Err(CliError::Internal(message));
    }
    Ok(t)
}

fn rate(prompt: usize, steps: usize, timings: &Timings) -> Result<f64, CliError> {
    let (count, ms) =
        if steps == 0 { (prompt, timings.prompt_ms) } else { (steps, timings.generate_ms) };
    output::per_second(count, ms)
        .ok_or_else(|| CliError::Internal("--bench: no time passed".to_owned()))
}

/// xorshift64; which tokens are computed does not matter, only that no prompt begins like another.
struct Random {
    state: u64,
    prompts: u64,
}

impl Random {
    /// Token ids whose first one differs from prompt to prompt, so that no cache can serve it.
    fn prompt(&mut self, tokens: usize, vocab_size: u64) -> Vec<u32> {
        self.prompts += 1;
        let first = (self.prompts % vocab_size) as u32;
        std::iter::once(first)
            .chain((1..tokens).map(|_| (self.next() % vocab_size) as u32))
            .collect()
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 11
    }
}

/// Mean and sample standard deviation (0 for a single value).
fn mean_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let sum_sq: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (sum_sq / (n - 1.0)).sqrt())
}

/// Where it computes, as the table's `backend` column has it: `CPU` of `CPU (2 threads)`.
fn backend(info: &ModelInfo) -> &str {
    info.device.split(" (").next().unwrap_or(&info.device)
}

fn table(info: &ModelInfo, threads: usize, rows: &[Row]) -> String {
    let mut table = format!(
        "| {:<30} | {:>10} | {:>10} | {:<10} | {:>7} | {:>15} | {:>20} |\n",
        "model", "size", "params", "backend", "threads", "test", "t/s"
    );
    let rule = |width: usize| "-".repeat(width);
    table.push_str(&format!(
        "| {} | {}: | {}: | {} | {}: | {}: | {}: |\n",
        rule(30),
        rule(9),
        rule(9),
        rule(10),
        rule(6),
        rule(14),
        rule(19)
    ));
    for row in rows {
        let (mean, deviation) = mean_deviation(&row.rates);
        table.push_str(&format!(
            "| {:<30} | {:>10} | {:>10} | {:<10} | {threads:>7} | {:>15} | {:>20} |\n",
            info.description,
            size(info.weight_bytes),
            parameters(info.parameters),
            backend(info),
            row.test,
            format!("{mean:.2} ± {deviation:.2}"),
        ));
    }
    table
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1u64 << 20) as f64;
    if mib >= 1024.0 { format!("{:.2} GiB", mib / 1024.0) } else { format!("{mib:.2} MiB") }
}

fn parameters(count: u64) -> String {
    let millions = count as f64 / 1e6;
    if millions >= 1000.0 {
        format!("{:.2} B", millions / 1000.0)
    } else {
        format!("{millions:.2} M")
    }
}

fn to_json(info: &ModelInfo, threads: usize, rows: &[Row]) -> Value {
    let results: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (mean, deviation) = mean_deviation(&row.rates);
            json!({
                "test": row.test,
                "n_prompt": row.prompt,
                "n_gen": row.generate,
                "avg_ts": mean,
                "stddev_ts": deviation,
                "samples_ts": row.rates,
            })
        })
        .collect();
    json!({
        "model": info.name,
        "model_type": info.description,
        "model_size": info.weight_bytes,
        "model_n_params": info.parameters,
        "backend": backend(info),
        "device": info.device,
        "n_threads": threads,
        "results": results,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ModelInfo {
        ModelInfo {
            name: "SmolLM2".to_owned(),
            architecture: "llama".to_owned(),
            description: "llama 135M Q4_1".to_owned(),
            parameters: 134_515_008,
            weight_bytes: 98 << 20,
            vocab_size: 49152,
            num_layers: 30,
            hidden_size: 576,
            pooling: host::engine::Pooling::Last,
            max_seq_len: 640,
            device: "CPU (2 threads, AVX2)".to_owned(),
        }
    }

    fn rows() -> Vec<Row> {
        vec![
            Row {
                test: "pp512".to_owned(),
                prompt: 512,
                generate: 0,
                rates: vec![100.0, 104.0, 102.0],
            },
            Row { test: "tg128".to_owned(), prompt: 0, generate: 128, rates: vec![50.0] },
        ]
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_deviation(&[100.0, 104.0, 102.0]), (102.0, 2.0));
        assert_eq!(mean_deviation(&[5.0]), (5.0, 0.0));
    }

    #[test]
    fn the_table_has_the_layout_of_llama_bench() {
        let expected = "\
| model                          |       size |     params | backend    | threads |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |
| llama 135M Q4_1                |  98.00 MiB |   134.52 M | CPU        |       2 |           pp512 |        102.00 ± 2.00 |
| llama 135M Q4_1                |  98.00 MiB |   134.52 M | CPU        |       2 |           tg128 |         50.00 ± 0.00 |
";
        assert_eq!(table(&info(), 2, &rows()), expected);
    }

    #[test]
    fn the_object_holds_each_sample() {
        let object = to_json(&info(), 2, &rows());
        assert_eq!(object["model_n_params"], 134_515_008);
        assert_eq!(object["results"][0]["avg_ts"], 102.0);
        assert_eq!(object["results"][0]["samples_ts"], json!([100.0, 104.0, 102.0]));
        assert_eq!(object["results"][1]["n_gen"], 128);
    }

    #[test]
    fn sizes_and_counts_are_rounded_like_llama_bench() {
        assert_eq!(size(5 << 30), "5.00 GiB");
        assert_eq!(parameters(8_030_261_248), "8.03 B");
    }

    #[test]
    fn prompts_stay_in_the_vocabulary_and_begin_apart() {
        let mut random = Random { state: 1, prompts: 0 };
        let (a, b) = (random.prompt(64, 100), random.prompt(64, 100));
        assert_eq!((a.len(), b.len()), (64, 64));
        assert!(a.iter().chain(&b).all(|id| *id < 100));
        assert_ne!(a[0], b[0]);
        assert_ne!(a[1..], b[1..]);
        assert_eq!(random.prompt(1, 100).len(), 1);
    }

    #[test]
    fn nothing_to_measure_is_an_error() {
        let options = BenchOptions { prompt: 0, generate: 0, reps: 1, threads: 1 };
        assert_eq!(options.check().unwrap_err().code(), 1);
        assert_eq!(BenchOptions { prompt: 1, reps: 0, ..options }.check().unwrap_err().code(), 1);
        assert!(BenchOptions { prompt: 1, ..options }.check().is_ok());
    }
}
