//! `cargo xtask bench`: what the kernels compute, how fast they are, and how fast whole models are.
//!
//! It measures, and decides nothing: `check` compares every kernel with plain loops on the host,
//! `kernels` says what share of the device each reaches.

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
mod table;
mod weights;

use std::path::Path;

use argh::FromArgs;

use crate::TaskError;

/// Check and measure on a GPU.
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
    }
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
