//! Everything that must pass, in the order in which it fails fastest.

use argh::FromArgs;

use crate::run::cargo;
use crate::{TaskError, clients, fetch, ptx};

/// Run everything that must pass: format, lints, kernels, tests of all crates and of the programs.
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
pub struct Test {}

/// Runs all checks; the first failure ends it.
///
/// # Errors
/// The command that failed.
pub fn run(_: &Test) -> Result<(), TaskError> {
    for (component, args) in [
        ("rustfmt", &["fmt", "--all", "--check"][..]),
        ("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ] {
        let tool = args[0];
        if cargo(&[tool, "--version"]).works() {
            eprintln!("xtask: cargo {}", args.join(" "));
            cargo(args).check()?;
        } else {
            eprintln!("xtask: skipped cargo {tool}: `rustup component add {component}` first");
        }
    }
    ptx::install::run();
    eprintln!("xtask: cargo xtask ptx --check");
    ptx::check_all()?;
    let model = match fetch::smollm2() {
        Ok(model) => Some(model),
        Err(e @ TaskError::Checksum { .. }) => return Err(e),
        Err(e) => {
            eprintln!("xtask: {e}");
            eprintln!("xtask: tests that need the real model will say that they were skipped");
            None
        }
    };
    // The whole-program tests run these binaries.
    cargo(&["build", "--package", "cli", "--package", "server"]).check()?;
    cargo(&["test", "--workspace"]).check()?;
    clients::run(model.as_deref())
}
