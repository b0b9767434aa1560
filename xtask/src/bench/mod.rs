//! `cargo xtask bench`: what the kernels compute, how fast they are, and how fast whole models are.
//!
//! It measures, and decides nothing: `check` compares every kernel with plain loops on the host,
//! `kernels` says what share of the device each reaches, `models` how fast whole models are, `serve`
//! how the server serves.

mod bed;
mod ceilings;
mod check;
mod kernels;
mod models;
mod operand;
mod plot;
mod random;
mod reference;
mod sequences;
mod serve;
mod table;
mod weights;

use std::path::{Path, PathBuf};

use argh::FromArgs;

use crate::TaskError;

/// Check and measure, mostly on a GPU.
#[derive(FromArgs)]
#[argh(subcommand, name = "bench")]
pub struct Bench {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Check(check::Check),
    Kernels(kernels::Kernels),
    Models(models::Models),
    Serve(serve::Serve),
}

/// Runs the task.
///
/// # Errors
/// When there is no GPU, a kernel is wrong, or a program or file cannot be used.
pub fn run(bench: &Bench) -> Result<(), TaskError> {
    match &bench.what {
        What::Check(options) => check::run(options),
        What::Kernels(options) => kernels::run(options),
        What::Models(options) => models::run(options),
        What::Serve(options) => serve::run(options),
    }
}

/// Numbers with commas between them.
#[derive(Clone, Debug, PartialEq)]
struct List(Vec<usize>);

fn list(text: &str) -> Result<List, String> {
    let number = |part: &str| part.trim().parse().map_err(|e| format!("{part}: {e}"));
    text.split(',').map(number).collect::<Result<_, _>>().map(List)
}

/// The program that was named by `flag`, or the one of this name in the folder of this one.
fn program(
    named: Option<PathBuf>,
    name: &str,
    flag: &str,
    package: &str,
) -> Result<PathBuf, TaskError> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name(name));
    let program = named.or_else(beside).unwrap_or_else(|| name.into());
    if program.exists() {
        return Ok(program);
    }
    let path = program.display();
    let hint = format!("name it with {flag}, or build it: cargo build --release -p {package}");
    Err(TaskError::Other(format!("{path} is not there; {hint}")))
}

/// Writes a file of a report into `folder`, which is made if it is not there.
fn save(folder: &Path, name: &str, text: &str) -> Result<(), TaskError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| TaskError::Io { path: folder.into(), source })?;
    let path = folder.join(name);
    crate::write(&path, text)?;
    eprintln!("xtask: wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_commas() {
        assert_eq!(list("1, 8"), Ok(List(vec![1, 8])));
        assert!(list("1,x").is_err());
    }
    #[test]
    fn programs_that_are_missing_are_told_with_what_to_do() {
        let error = program(Some("/no/such/program".into()), "imp-cli", "--imp", "cli");
        assert!(error.unwrap_err().to_string().contains("--imp, or build it"));
    }
}
