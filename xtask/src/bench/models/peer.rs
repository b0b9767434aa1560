//! llama-bench, the peer.

use std::path::Path;
use std::process::Command;

use super::imp::output;
use super::{Rate, rates};
use crate::TaskError;

/// Speeds with prompts of these lengths, and of generating `generate` tokens.
///
/// # Errors
/// When the program fails, or prints something else.
pub fn bench(
    program: &Path,
    model: &Path,
    prompts: &[usize],
    generate: usize,
    reps: usize,
) -> Result<Vec<Rate>, TaskError> {
    let prompts: Vec<String> = prompts.iter().map(usize::to_string).collect();
    let mut command = Command::new(program);
    command.arg("-m").arg(model).args(["-ngl", "99", "-fa", "1", "-o", "json"]);
    command.args(["-p", &if prompts.is_empty() { "0".into() } else { prompts.join(",") }]);
    command.args(["-n", &generate.to_string(), "-r", &reps.to_string()]);
    let printed = output(&mut command)?;
    let results = serde_json::from_str(&printed).unwrap_or_default();
    rates(&results).ok_or_else(|| TaskError::Other(format!("llama-bench printed {printed}")))
}
