//! What asks the real server as its users do: the official clients and a browser, from a Python
//! environment of their own.

use std::path::Path;

use crate::run::program;
use crate::{TaskError, fetch, root};

/// The clients, in the versions that were read and tried, and what drives the browser.
const PACKAGES: [&str; 3] = ["openai==3.57.0", "anthropic==2.14.0", "playwright==1.65.2"];

/// Names that Chromium and its relatives have.
const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Runs `tests/clients.py` and `tests/page.py` on the real model.
///
/// # Errors
/// When a client or the page does not get what it expects; under `CI` also when the model, Python or
/// a browser is missing. Elsewhere that is said, with the way to get it.
pub fn run(model: Option<&Path>) -> Result<(), TaskError> {
    let Some(model) = model else {
        return skip("tests/clients.py and tests/page.py", "no model");
    };
    let Some(python) = environment() else {
        let why = "they need python3 with venv, and pip's index";
        return skip("tests/clients.py and tests/page.py", why);
    };
    let script = |path: &str| {
        eprintln!("xtask: {path}");
        program(&python).arg(path).arg(root().join("target/debug/imp-server")).arg(model)
    };
    script("tests/clients.py").check()?;
    match browser() {
        Some(browser) => script("tests/page.py").arg(browser).check(),
        None => {
            let why =
                "it needs Chromium or Chrome: install it (Debian: `apt-get install chromium`)";
            skip("tests/page.py", why)
        }
    }
}

/// Says what does not run; under `CI` nothing is left out.
fn skip(what: &str, why: &str) -> Result<(), TaskError> {
    if std::env::var_os("CI").is_some() {
        return Err(TaskError::Other(format!("{what} did not run: {why}")));
    }
    eprintln!("xtask: skipped {what}: {why}");
    Ok(())
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
        eprintln!("xtask: fetching {} with pip", PACKAGES.join(", "));
        program(fetch::python()?).args(["-m", "venv"]).arg(&folder).check().ok()?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        program(&python).args(pip).args(PACKAGES).check().ok()?;
    }
    Some(python)
}

/// The browser of this machine. Where there is none and this is root on Debian, it is
/// installed.
fn browser() -> Option<&'static str> {
    let found = || BROWSERS.into_iter().find(|browser| program(browser).arg("--version").works());
    found().or_else(|| {
        let is_root = program("id").arg("-u").output().is_some_and(|id| id.trim() == "0");
        if !is_root || !program("apt-get").arg("--version").works() {
            return None;
        }
        eprintln!("xtask: installing chromium with apt-get");
        // a stale list of packages is no reason to stop: the next line tells
        let _ = apt(&["update"]);
        apt(&["install", "--yes", "--no-install-recommends", "chromium"]).ok()?;
        found()
    })
}

fn apt(args: &[&str]) -> Result<(), TaskError> {
    program("env").args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]).args(args).check()
}
