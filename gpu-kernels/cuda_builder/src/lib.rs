//! Compiles a crate of kernels to PTX, as any build script may: [`Compiler`] finds a rustc that can,
//! [`CudaBuilder`] runs it, [`split`] makes one PTX file a module, [`Assembler`] proves by `ptxas`
//! that each is accepted and says what its entries need.
//!
//! The name is that of Rust-CUDA's builder, and so is the idea; underneath is rustc's own back end
//! for `nvptx64-nvidia-cuda`, with no CUDA toolkit. It knows no kernel: entries, launch bounds and
//! what is expected of them come from the caller.

#![forbid(unsafe_code)]

mod assemble;
mod build;
mod compiler;
mod resources;
mod split;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

pub use assemble::Assembler;
pub use build::{ARCHS, Arch, CudaBuilder};
pub use compiler::{Compiler, OLDEST, Version};
pub use resources::{Allowed, Expected, Resources, Rules};
pub use split::{KernelEntry, split};

/// Why kernels could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No rustc on this machine can compile to PTX.
    #[error(
        "no compiler for kernels: `apt-get install rustc-web rust-web-src` (Debian, {OLDEST} or \
         newer), or `rustup toolchain install nightly --component rust-src`, or set \
         {} (looked at: {})", Compiler::VARIABLE, .tried.join("; ")
    )]
    NoCompiler {
        /// Each candidate and what it lacks.
        tried: Vec<String>,
    },
    /// No ptxas was found.
    #[error(
        "no ptxas: `pip install {}`, or set {} (looked at: {})",
        Assembler::WHEELS.join(" "), Assembler::VARIABLE, .tried.join("; ")
    )]
    NoAssembler {
        /// Each candidate and what it lacks.
        tried: Vec<String>,
    },
    /// A program ended with an error, or could not be started.
    #[error("{command}: {what}")]
    Command {
        /// As typed in a shell.
        command: String,
        /// Exit status or reason, with what it printed.
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
    /// PTX that is not understood.
    #[error("PTX line {line}: {what}")]
    Ptx {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The PTX and the list of entries differ.
    #[error("entries differ: not in the PTX: [{}]; in the PTX but not listed: [{}]",
        .missing.join(", "), .unlisted.join(", "))]
    Entries {
        /// Listed, but not compiled.
        missing: Vec<String>,
        /// Compiled, but not listed.
        unlisted: Vec<String>,
    },
}

/// What a program printed on its standard output and error, together.
fn output(command: &mut Command) -> Result<(String, String), Error> {
    let failed = |command: &Command, what: String| Error::Command { command: line(command), what };
    let output = command.output().map_err(|e| failed(command, e.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() {
        Ok((out, err))
    } else {
        Err(failed(command, format!("{}\n{out}{err}", output.status)))
    }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
