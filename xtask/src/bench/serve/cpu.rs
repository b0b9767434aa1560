//! What a token costs the processor beside the engine.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;
use super::{Prompts, Serve, streams};
use crate::TaskError;
use crate::bench::List;
use crate::bench::table::Table;

/// Tokens of a prompt.
const PROMPT: usize = 16;

/// Runs the test.
///
/// # Errors
/// When the server refuses something, or the system does not tell times.
pub fn measure(
    server: &Server,
    options: &Serve,
    prompts: &mut Prompts,
) -> Result<(String, Value), TaskError> {
    let List(sizes) = &options.cpu_streams;
    let mut table = Table::new(&[
        "processor, µs a token",
        "tokens",
        "HTTP",
        "the engine's threads",
        "tokens/s",
    ]);
    let (mut rows, mut exact) = (vec![], true);
    for &size in sizes {
        let running = prompts.several(size, PROMPT);
        let (_, (cpu, tokens, seconds)) =
            streams::during(server.address, &running, options.cpu_tokens, |progress| {
                let (before, first) = (server.cpu()?, progress.tokens());
                let began = std::time::Instant::now();
                while !progress.one_ended() {
                    thread::sleep(Duration::from_millis(1));
                }
                let seconds = began.elapsed().as_secs_f64();
                Ok((server.cpu()?.since(&before), progress.tokens() - first, seconds))
            })?;
        exact &= cpu.exact;
        let each = |seconds: f64| seconds * 1e6 / tokens as f64;
        table.row(vec![
            format!("{size} stream{}", if size == 1 { "" } else { "s" }),
            tokens.to_string(),
            format!("{:.1}", each(cpu.http())),
            format!("{:.1}", each(cpu.engine())),
            format!("{:.0}", tokens as f64 / seconds),
        ]);
        rows.push(json!({
            "streams": size,
            "tokens": tokens,
            "http_us_per_token": each(cpu.http()),
            "engine_us_per_token": each(cpu.engine()),
            "exact": cpu.exact,
        }));
    }
    let note = match exact {
        true => "times to the nanosecond",
        false => "times to a tick of 10 ms: the system has no schedstat, so raise --cpu-tokens",
    };
    Ok((format!("{note}\n\n{table}"), json!(rows)))
}
