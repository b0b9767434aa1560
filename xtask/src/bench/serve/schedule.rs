//! The time from a request to the step of the engine that begins it, as the server counts it.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;
use super::stats::{Sorted, ms};
use super::{Prompts, Serve, http};
use crate::TaskError;
use crate::bench::table::Table;

/// Tokens of a prompt.
const PROMPT: usize = 16;
/// Long enough for all threads to fall asleep.
const PAUSE: Duration = Duration::from_millis(5);

/// A histogram, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    sum: f64,
    count: f64,
    /// Those of at most a millisecond.
    within: f64,
}

impl Counted {
    /// Of the text of `/metrics`.
    fn of(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let begin = format!("imp_time_to_schedule_seconds_{name} ");
            text.lines().find_map(|line| line.strip_prefix(&begin)?.trim().parse().ok())
        };
        let within = value("bucket{le=\"0.001\"}")?;
        Some(Self { sum: value("sum")?, count: value("count")?, within })
    }
    fn read(server: &Server) -> Result<Self, TaskError> {
        let failed = |what: String| TaskError::Other(format!("/metrics: {what}"));
        let (status, text) =
            http::get(server.address, "/metrics").map_err(|e| failed(e.to_string()))?;
        Self::of(&text).ok_or_else(|| failed(format!("HTTP {status} without the time to schedule")))
    }
}

/// Runs the test.
///
/// # Errors
/// When the server refuses something, or does not count it.
pub fn measure(
    server: &Server,
    options: &Serve,
    prompts: &mut Prompts,
) -> Result<(String, Value), TaskError> {
    let before = Counted::read(server)?;
    let mut first = vec![];
    for prompt in prompts.several(options.requests.max(1), PROMPT) {
        thread::sleep(PAUSE);
        first.push(http::complete(server.address, &prompt, 1, |_| true)?.first);
    }
    let after = Counted::read(server)?;
    let count = after.count - before.count;
    let mean = (after.sum - before.sum) / count;
    let share = (after.within - before.within) / count;
    let first = Sorted::new(first);
    let mut table =
        Table::new(&["request to first step", "mean, ms", "within 1 ms", "first token, ms"]);
    table.row(vec![
        format!("{count} requests"),
        ms(mean),
        format!("{:.1} %", 100.0 * share),
        ms(first.percentile(50)),
    ]);
    let text = format!("prompts of {PROMPT} tokens, one after the other\n\n{table}");
    let value = json!({
        "requests": count,
        "mean_s": mean,
        "share_within_1ms": share,
        "first_token_median_s": first.percentile(50),
    });
    Ok((text, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_is_found_among_others() {
        let text = "\
imp_time_to_first_token_seconds_sum 9
imp_time_to_schedule_seconds_bucket{le=\"0.0005\"} 3
imp_time_to_schedule_seconds_bucket{le=\"0.001\"} 4
imp_time_to_schedule_seconds_sum 0.25
imp_time_to_schedule_seconds_count 5
";
        let expected = Counted { sum: 0.25, count: 5.0, within: 4.0 };
        assert_eq!(Counted::of(text), Some(expected));
        assert_eq!(Counted::of("imp_steps_total 3"), None);
    }
}
