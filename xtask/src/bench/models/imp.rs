//! The program being measured, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::{Rate, rates};
use crate::TaskError;

/// `imp-cli`.
pub struct Imp {
    program: PathBuf,
}

/// Runs a program to its end, and gives what it printed.
pub fn output(command: &mut Command) -> Result<String, TaskError> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let failed = |what: String| TaskError::Command { command: line.clone(), what };
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().take(5).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        return Err(failed(format!("{}\n  {last}", output.status)));
    }
    String::from_utf8(output.stdout).map_err(|e| failed(e.to_string()))
}

impl Imp {
    /// A program, or `imp-cli` in the folder of this one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn new(program: Option<PathBuf>) -> Result<Self, TaskError> {
        let program = crate::bench::program(program, "imp-cli", "--imp", "cli")?;
        Ok(Self { program })
    }

    /// Speeds with prompts of these lengths, and of generating `generate` tokens.
    ///
    /// # Errors
    /// When the program fails, or prints something else.
    pub fn bench(
        &self,
        model: &Path,
        prompts: &[usize],
        generate: usize,
        reps: usize,
    ) -> Result<Vec<Rate>, TaskError> {
        let mut all = vec![];
        for (prompt, generate) in runs(prompts, generate) {
            let mut command = Command::new(&self.program);
            command.arg("--model").arg(model).args(["--bench", "--json"]);
            command.args(["--bench-pp", &prompt.to_string()]);
            command.args(["--max-tokens", &generate.to_string()]);
            command.args(["--bench-reps", &reps.to_string()]);
            let printed = output(&mut command)?;
            let object: Value = serde_json::from_str(&printed).unwrap_or_default();
            let not = || TaskError::Other(format!("imp-cli --bench --json printed {printed}"));
            if object["backend"] == "CPU" {
                return Err(TaskError::Other("imp-cli computes on the CPU, not on the GPU".into()));
            }
            all.extend(rates(&object["results"]).ok_or_else(not)?);
        }
        Ok(all)
    }

    /// Seconds from the start of the process until it has printed one token and ended: the better of
    /// two, so that the file is in the system's memory.
    ///
    /// # Errors
    /// When the program fails.
    pub fn first_token(&self, model: &Path) -> Result<f64, TaskError> {
        let mut best = f64::INFINITY;
        for _ in 0..2 {
            let start = Instant::now();
            let mut command = Command::new(&self.program);
            command.arg("--model").arg(model).args(["--prompt-tokens", "1,2,3,4,5,6,7,8"]);
            output(command.args(["--max-tokens", "1", "--temperature", "0", "--json"]))?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}

/// Prompt and tokens to generate of each run: tokens are generated in the first alone.
fn runs(prompts: &[usize], generate: usize) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> =
        prompts.iter().enumerate().map(|(i, &p)| (p, if i == 0 { generate } else { 0 })).collect();
    if runs.is_empty() {
        runs.push((0, generate));
    }
    runs.retain(|run| *run != (0, 0));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_generated_once() {
        assert_eq!(runs(&[512, 2048], 128), [(512, 128), (2048, 0)]);
        assert_eq!(runs(&[], 128), [(0, 128)]);
        assert_eq!(runs(&[0], 0), []);
    }
    #[test]
    fn what_fails_is_told_with_its_last_words() {
        let failed = output(Command::new("sh").args(["-c", "echo no model >&2; exit 4"]));
        let error = failed.unwrap_err().to_string();
        assert!(error.contains("exit 4") && error.ends_with("\n  no model"), "{error}");
        assert_eq!(output(Command::new("echo").arg("7")).unwrap(), "7\n");
        assert!(Imp::new(Some("/no/such/program".into())).is_err());
    }
}
