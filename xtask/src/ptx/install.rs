//! Puts a kernel compiler and ptxas on the machine where that is ours to do.

use std::path::{Path, PathBuf};

use cuda_builder::{Assembler, Compiler};

use crate::run::program;
use crate::{TaskError, root};

/// Where pip puts ptxas and its companions: removed with `target/`, and of no Python environment.
pub fn tools() -> PathBuf {
    root().join("target/cuda-tools")
}

/// Installs what is missing: the compiler with apt on Debian, as root only; ptxas with pip under
/// `target/`. What cannot be installed is said, with what to do, and is no error.
pub fn run() {
    if let Err(missing) = Compiler::find() {
        if is_debian() && is_root() {
            eprintln!("xtask: apt-get install rustc-web rust-web-src");
            report("the kernel compiler", apt());
        } else {
            eprintln!("xtask: {missing}");
        }
    }
    if Assembler::find(&[tools()]).is_err() {
        eprintln!("xtask: pip install {}", Assembler::WHEELS.join(" "));
        report("ptxas", pip());
    }
}

fn report(what: &str, result: Result<(), TaskError>) {
    if let Err(e) = result {
        eprintln!("xtask: {what} was not installed: {e}");
    }
}

fn apt() -> Result<(), TaskError> {
    // The list of a fresh image is old: it may know only a compiler that is too old.
    program("apt-get").args(["update", "-qq"]).check()?;
    program("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends", "rustc-web", "rust-web-src"])
        .check()
}

fn pip() -> Result<(), TaskError> {
    program("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--target"])
        .arg(tools())
        // A new major release may drop an architecture.
        .args(Assembler::WHEELS.iter().map(|wheel| format!("{wheel}==13.*")))
        .check()
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && program("apt-get").arg("--version").works()
}

fn is_root() -> bool {
    program("id").arg("-u").output().is_some_and(|out| out.trim() == "0")
}
