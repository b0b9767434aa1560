//! The official clients against the real server, from a Python environment of their own.

use std::path::Path;

use crate::run::program;
use crate::{TaskError, fetch, root};

/// The clients, in the versions that were read and tried.
const PACKAGES: [&str; 2] = ["openai==3.57.0", "anthropic==2.14.0"];

/// Runs `tests/clients.py` on the real model; says so when that or Python is missing.
///
/// # Errors
/// When a client does not get what it expects.
pub fn run(model: Option<&Path>) -> Result<(), TaskError> {
    let Some(model) = model else {
        eprintln!("xtask: skipped tests/clients.py: no model");
        return Ok(());
    };
    let Some(python) = environment() else {
        eprintln!("xtask: skipped tests/clients.py: it needs python3 with venv, and pip's index");
        return Ok(());
    };
    eprintln!("xtask: tests/clients.py");
    program(&python)
        .arg("tests/clients.py")
        .arg(root().join("target/debug/imp-server"))
        .arg(model)
        .check()
}

/// The Python that has the clients; made on the first call.
fn environment() -> Option<String> {
    let folder = root().join("target/clients");
    let python = folder.join("bin/python").to_string_lossy().into_owned();
    let has_all = || {
        let wanted = PACKAGES.join("\n");
        let have = program(&python).args(["-m", "pip", "freeze"]).output().unwrap_or_default();
        wanted.lines().all(|package| have.lines().any(|line| line == package))
    };
    if !has_all() {
        eprintln!("xtask: fetching {} with pip", PACKAGES.join(" and "));
        program(fetch::python()?).args(["-m", "venv"]).arg(&folder).check().ok()?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        program(&python).args(pip).args(PACKAGES).check().ok()?;
    }
    Some(python)
}
