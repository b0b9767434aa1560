//! The time from token to token of running streams, with and without new prompts beside them.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::Server;
use super::stats::{Sorted, ms};
use super::{Prompts, Serve, http, streams};
use crate::TaskError;
use crate::bench::table::Table;

/// From a token to the next, in all streams, while something was so.
struct Phase {
    name: &'static str,
    gaps: Sorted,
    /// Tokens a second in all streams.
    rate: f64,
}

impl Phase {
    fn of(name: &'static str, times: &[Vec<Instant>], from: Instant, to: Instant) -> Self {
        let within = |pair: &&[Instant]| pair[0] >= from && pair[1] <= to;
        let gaps = times.iter().flat_map(|times| times.windows(2)).filter(within);
        let gaps = Sorted::new(gaps.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect());
        let rate = gaps.len() as f64 / (to - from).as_secs_f64();
        Self { name, gaps, rate }
    }
    fn row(&self) -> Vec<String> {
        let mut row = vec![self.name.to_owned(), self.gaps.len().to_string()];
        row.extend([50, 90, 99, 100].map(|percent| ms(self.gaps.percentile(percent))));
        row.push(format!("{:.2}", self.spread()));
        row.push(format!("{:.0}", self.rate));
        row
    }
    /// How much longer than others the slow tokens take.
    fn spread(&self) -> f64 {
        self.gaps.percentile(99) / self.gaps.percentile(50)
    }
    fn json(&self) -> Value {
        json!({
            "phase": self.name,
            "gaps": self.gaps.len(),
            "median_s": self.gaps.percentile(50),
            "p90_s": self.gaps.percentile(90),
            "p99_s": self.gaps.percentile(99),
            "max_s": self.gaps.percentile(100),
            "p99_over_median": self.spread(),
            "tokens_per_second": self.rate,
        })
    }
}

/// Runs the test.
///
/// # Errors
/// When the server refuses something, or the streams end before the arrivals do.
pub fn measure(
    server: &Server,
    options: &Serve,
    prompts: &mut Prompts,
) -> Result<(String, Value), TaskError> {
    let running = prompts.several(options.streams, options.prompt);
    let arriving = prompts.several(options.arrivals, options.prompt);
    let another = prompts.one(options.prompt);
    let interval = Duration::from_millis(options.interval);
    let (times, (quiet, begin, first)) = streams::during(
        server.address,
        &running,
        options.tokens,
        |progress| {
            // Once for nothing, so that kernels are loaded.
            http::complete(server.address, &another, options.answer, |_| true)?;
            let quiet = Instant::now();
            thread::sleep(Duration::from_secs_f64(options.quiet.clamp(0.0, 600.0)));
            let begin = Instant::now();
            let first = arrivals(server, &arriving, options.answer, interval)?;
            if progress.one_ended() {
                let problem = "a stream ended before the last arrival was answered: raise --tokens, or \
                               lower --quiet, --arrivals or --interval";
                return Err(TaskError::Other(problem.into()));
            }
            Ok((quiet, begin, first))
        },
    )?;
    let end = times.iter().filter_map(|times| times.last()).max().copied().unwrap_or(begin);
    let phases = [
        Phase::of("without arrivals", &times, quiet, begin),
        Phase::of("with arrivals", &times, begin, end),
    ];
    let mut table = Table::new(&[
        "token to token, ms",
        "gaps",
        "median",
        "p90",
        "p99",
        "longest",
        "p99/median",
        "tokens/s",
    ]);
    phases.iter().for_each(|phase| table.row(phase.row()));
    let text = format!(
        "{} streams; {} prompts of {} tokens, one each {} ms, answers of {}; their first tokens after \
         {} ms (median), {} ms (p99)\n\n{table}",
        options.streams,
        options.arrivals,
        options.prompt,
        options.interval,
        options.answer,
        ms(first.percentile(50)),
        ms(first.percentile(99)),
    );
    let value = json!({
        "streams": options.streams,
        "prompt_tokens": options.prompt,
        "arrivals": options.arrivals,
        "interval_ms": options.interval,
        "answer_tokens": options.answer,
        "arrival_first_token_median_s": first.percentile(50),
        "arrival_first_token_p99_s": first.percentile(99),
        "phases": phases.iter().map(Phase::json).collect::<Vec<_>>(),
    });
    Ok((text, value))
}

/// Sends the prompts one after the other, without waiting for answers. Gives the times to their first
/// tokens when all are there.
fn arrivals(
    server: &Server,
    prompts: &[Vec<u32>],
    answer: usize,
    interval: Duration,
) -> Result<Sorted, TaskError> {
    let began = Instant::now();
    let first: Result<Vec<f64>, TaskError> = thread::scope(|scope| {
        let mut arrived = vec![];
        for (prompt, number) in prompts.iter().zip(0..) {
            thread::sleep((began + interval * number).saturating_duration_since(Instant::now()));
            let one = || http::complete(server.address, prompt, answer, |_| true);
            arrived.push(scope.spawn(move || one().map(|streamed| streamed.first)));
        }
        arrived.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    first.map(Sorted::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lie_within_their_phase() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let times = [vec![at(0), at(10), at(30), at(60)], vec![at(5), at(25)]];
        let phase = Phase::of("x", &times, at(5), at(40));
        assert_eq!(phase.gaps, Sorted::new(vec![0.020, 0.020]));
        assert!((phase.rate - 2.0 / 0.035).abs() < 1e-6);
        assert_eq!(phase.spread(), 1.0);
    }
}
