//! What goes to standard output: streamed text or one JSON object.

use std::io::{self, Write};

use host::engine::{FinishReason, Timings};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::generate::Answer;

/// Writes a line to stderr. One that nobody can read is lost, which is no reason to stop.
macro_rules! note {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arguments)*);
    }};
}

/// Writes text and shows it at once.
///
/// # Errors
/// `BrokenPipe` when the reader went away.
pub(crate) fn show(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::stdout)
}

/// Writes a line.
///
/// # Errors
/// Like [`show`].
pub(crate) fn show_line(text: &str) -> Result<(), CliError> {
    show(&format!("{text}\n"))
}

/// Writes a JSON value on one line.
///
/// # Errors
/// Like [`show`].
pub(crate) fn show_json(value: &Value) -> Result<(), CliError> {
    show_line(&value.to_string())
}

/// The object that `--json` prints for a prompt. Log-probabilities of −∞ become `null`.
pub(crate) fn answer_json(prompt: &[u32], answer: &Answer) -> Value {
    let mut object = json!({
        "text": answer.text,
        "prompt_tokens": prompt,
        "tokens": answer.tokens,
        "finish_reason": finish_reason(&answer.reason),
        "timings": timings_json(&answer.timings),
    });
    if let Some(logprobs) = &answer.logprobs {
        let entries = answer.tokens.iter().zip(logprobs).map(|(token, chosen)| {
            let top = chosen.top.iter().map(|(id, logprob)| json!([id, shortest(*logprob)]));
            let top: Value = top.collect();
            json!({"token": token, "logprob": shortest(chosen.logprob), "top": top})
        });
        object["logprobs"] = entries.collect();
    }
    object
}

/// The shortest decimal that is this F32, not the digits of its F64; `null` when not finite.
pub(crate) fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfGeneration
        | FinishReason::StopString(_)
        | FinishReason::StopToken(_) => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

fn timings_json(timings: &Timings) -> Value {
    json!({
        "prompt_n": timings.prompt_tokens,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_second": per_second(timings.prompt_tokens, timings.prompt_ms),
        "predicted_n": timings.generated_tokens,
        "predicted_ms": timings.generate_ms,
        "predicted_per_second": per_second(timings.decode_steps(), timings.generate_ms),
    })
}

/// Counts a second; `None` when nothing was counted or no time passed.
pub(crate) fn per_second(count: usize, ms: f64) -> Option<f64> {
    (count > 0 && ms > 0.0).then(|| count as f64 * 1e3 / ms)
}

/// The line on stderr after an answer.
pub(crate) fn timings_line(answer: &Answer) -> String {
    let t = &answer.timings;
    let rate = |count, ms| match per_second(count, ms) {
        Some(rate) => format!("{rate:.1} tok/s"),
        None => "-".to_owned(),
    };
    let cached = match answer.cached {
        0 => String::new(),
        cached => format!(" ({cached} more from the cache)"),
    };
    format!(
        "prompt: {} tokens{cached}, {:.1} ms, {}; answer: {} tokens, {:.1} ms, {}",
        t.prompt_tokens,
        t.prompt_ms,
        rate(t.prompt_tokens, t.prompt_ms),
        t.generated_tokens,
        t.generate_ms,
        rate(t.decode_steps(), t.generate_ms),
    )
}

#[cfg(test)]
mod tests {
    use host::engine::TokenLogprob;

    use super::*;

    fn answer(logprobs: Option<Vec<TokenLogprob>>) -> Answer {
        Answer {
            text: "a\n\"é\"".to_owned(),
            tokens: vec![7, 9],
            logprobs,
            cached: 3,
            reason: FinishReason::StopString("x".to_owned()),
            timings: Timings {
                prompt_tokens: 5,
                prompt_ms: 10.0,
                generated_tokens: 2,
                generate_ms: 4.0,
            },
        }
    }

    #[test]
    fn the_object_has_the_documented_fields() {
        let object = answer_json(&[1, 2], &answer(None));
        let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["text", "prompt_tokens", "tokens", "finish_reason", "timings"]);
        assert_eq!(object["text"], "a\n\"é\"");
        assert_eq!(object["prompt_tokens"], json!([1, 2]));
        assert_eq!(object["tokens"], json!([7, 9]));
        assert_eq!(object["finish_reason"], "stop");
        let timings = object["timings"].as_object().unwrap();
        let keys: Vec<&String> = timings.keys().collect();
        let expected = [
            "prompt_n",
            "prompt_ms",
            "prompt_per_second",
            "predicted_n",
            "predicted_ms",
            "predicted_per_second",
        ];
        assert_eq!(keys, expected);
        assert_eq!(timings["prompt_per_second"], 500.0);
        assert!(!object.to_string().contains('\n'), "one line");
    }

    #[test]
    fn log_probabilities_are_entries_a_token() {
        let entry = |logprob, top: &[(u32, f32)]| TokenLogprob { logprob, top: top.to_vec() };
        let logprobs = vec![entry(-0.5, &[(7, -0.5), (1, f32::NEG_INFINITY)]), entry(-1.0, &[])];
        let object = answer_json(&[1], &answer(Some(logprobs)));
        assert_eq!(
            object["logprobs"],
            json!([
                {"token": 7, "logprob": -0.5, "top": [[7, -0.5], [1, null]]},
                {"token": 9, "logprob": -1.0, "top": []},
            ])
        );
    }

    #[test]
    fn floats_are_written_short() {
        for (value, text) in [(0.1f32, "0.1"), (-1e-7, "-1e-7"), (f32::NAN, "null"), (3.0, "3.0")] {
            assert_eq!(shortest(value).to_string(), text);
        }
    }

    #[test]
    fn reasons_have_their_names() {
        for (reason, name) in [
            (FinishReason::EndOfGeneration, "stop"),
            (FinishReason::Length, "length"),
            (FinishReason::Cancelled, "cancelled"),
        ] {
            assert_eq!(finish_reason(&reason), name);
        }
    }

    #[test]
    fn no_time_gives_no_rate() {
        assert_eq!(per_second(5, 0.0), None);
        assert_eq!(per_second(0, 1.0), None);
        assert_eq!(per_second(5, 1000.0), Some(5.0));
        let line = timings_line(&answer(None));
        assert!(line.contains("5 tokens (3 more from the cache), 10.0 ms, 500.0 tok/s"), "{line}");
    }
}
