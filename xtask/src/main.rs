//! Everything a developer of imp runs: `cargo xtask demo`, `cargo xtask test` and what they need.

#![forbid(unsafe_code)]

mod bench;
mod clients;
mod fetch;
mod ptx;
mod run;
mod synth;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;

/// Developer tasks of imp.
#[derive(FromArgs)]
struct Args {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Task {
    Demo(Demo),
    Test(test::Test),
    FetchModels(FetchModels),
    Synth(synth::Synth),
    Bench(Box<bench::Bench>),
    Ptx(ptx::Ptx),
    Conf(Conf),
}

/// Fetch a small real model and run a prompt.
#[derive(FromArgs)]
#[argh(subcommand, name = "demo")]
struct Demo {
    /// the question (default: why the sky is blue)
    #[argh(option, default = "\"Why is the sky blue?\".into()")]
    prompt: String,
}

/// Fetch the models that the tests and the demo use into models/.
#[derive(FromArgs)]
#[argh(subcommand, name = "fetch-models")]
struct FetchModels {}

/// Write imp.conf.example and docs/CONFIG.md from the schema.
#[derive(FromArgs)]
#[argh(subcommand, name = "conf")]
struct Conf {}

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A program ended with an error, or could not be started.
    #[error("{command}: {what}")]
    Command {
        /// As typed in a shell.
        command: String,
        /// Exit status or reason.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A downloaded file is not the expected one.
    #[error("{path}: sha256 is {found}, expected {expected}; remove it and fetch again")]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: String,
        /// The published digest.
        expected: &'static str,
    },
    /// The kernels could not be built.
    #[error(transparent)]
    Kernels(#[from] cuda_builder::Error),
    /// Anything else, in a sentence.
    #[error("{0}")]
    Other(String),
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let result = match args.task {
        Task::Demo(demo) => run_demo(&demo),
        Task::Test(options) => test::run(&options),
        Task::FetchModels(_) => fetch::smollm2().map(|path| println!("{}", path.display())),
        Task::Ptx(options) => ptx::run(&options),
        Task::Synth(options) => synth::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Conf(_) => write_conf(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run_demo(demo: &Demo) -> Result<(), TaskError> {
    let model = fetch::smollm2()?;
    // Greedy, so that the first impression is the same everywhere.
    run::cargo(&["run", "--quiet", "--release", "--package", "cli", "--"])
        .arg("--model")
        .arg(&model)
        .args(["--temperature", "0", "--max-tokens", "200", "--prompt", &demo.prompt])
        .check()
}

fn write_conf() -> Result<(), TaskError> {
    write(&root().join("imp.conf.example"), &config::Config::example())?;
    write(&root().join("docs/CONFIG.md"), &config::Config::reference())
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the repository")
}

fn write(path: &Path, text: &str) -> Result<(), TaskError> {
    std::fs::write(path, text).map_err(|source| TaskError::Io { path: path.into(), source })
}
