//! The time to the first token of a prompt that is new, that was there, and that begins like one.

use serde_json::{Value, json};

use super::server::Server;
use super::stats::{Sorted, ms};
use super::{Prompts, Serve, http};
use crate::TaskError;
use crate::bench::table::Table;

/// Tokens behind a known prefix.
const MORE: usize = 16;

/// Times of one kind of prompt.
#[derive(Default)]
struct Times {
    first: Vec<f64>,
    cached: usize,
}

impl Times {
    fn add(&mut self, server: &Server, prompt: &[u32]) -> Result<(), TaskError> {
        let streamed = http::complete(server.address, prompt, 1, |_| true)?;
        self.first.push(streamed.first);
        self.cached += streamed.cached;
        Ok(())
    }
}

/// Runs the test.
///
/// # Errors
/// When the server refuses something.
pub fn measure(
    server: &Server,
    options: &Serve,
    prompts: &mut Prompts,
) -> Result<(String, Value), TaskError> {
    // Once for nothing, so that kernels are loaded.
    Times::default().add(server, &prompts.one(options.prefix))?;
    let (mut new, mut again, mut longer) = (Times::default(), Times::default(), Times::default());
    for _ in 0..options.reps.max(1) {
        let prompt = prompts.one(options.prefix);
        new.add(server, &prompt)?;
        again.add(server, &prompt)?;
        let end = prompts.one(MORE);
        longer.add(server, &[prompt, end].concat())?;
    }
    let mut table =
        Table::new(&["first token, ms", "mean", "least", "most", "of the new", "cached tokens"]);
    let reference = Sorted::new(new.first.clone()).mean();
    let mut rows = vec![];
    let names = ["a new prompt", "the same again", "the same and 16 other tokens"];
    for (name, times) in names.into_iter().zip([new, again, longer]) {
        let cached = times.cached / times.first.len();
        let first = Sorted::new(times.first);
        let ratio = first.mean() / reference;
        table.row(vec![
            name.to_owned(),
            ms(first.mean()),
            ms(first.percentile(0)),
            ms(first.percentile(100)),
            format!("{ratio:.3}"),
            cached.to_string(),
        ]);
        rows.push(json!({
            "prompt": name,
            "mean_s": first.mean(),
            "over_new": ratio,
            "cached_tokens": cached,
        }));
    }
    let text =
        format!("prompts of {} tokens, {} of each kind\n\n{table}", options.prefix, options.reps);
    Ok((text, json!({"tokens": options.prefix, "reps": options.reps, "prompts": rows})))
}
