//! Runs cargo and rustc for one architecture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Compiler, Error, output};

const TARGET: &str = "nvptx64-nvidia-cuda";

/// An architecture that PTX is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// As `.target` names it.
    pub name: &'static str,
    /// PTX version, as `.version` names it.
    pub ptx: &'static str,
    /// `cfg`s that kernel sources see.
    pub cfgs: &'static [&'static str],
}

/// The architectures. FP8 matrix instructions want PTX 8.4, block-scaled ones `sm_120f` and 8.8.
pub const ARCHS: &[Arch] = &[
    Arch { name: "sm_80", ptx: "8.0", cfgs: &[] },
    Arch { name: "sm_89", ptx: "8.6", cfgs: &["device_e4m3"] },
    Arch { name: "sm_90", ptx: "8.6", cfgs: &["device_e4m3", "device_pdl"] },
    Arch { name: "sm_120f", ptx: "8.8", cfgs: &["device_e4m3", "device_pdl"] },
];

impl Arch {
    /// Flags of rustc, the same on every machine and in every directory.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("-Ctarget-cpu={}", self.name),
            format!("-Ctarget-feature=+ptx{}", self.ptx.replace('.', "")),
            // PTX is text: nothing is linked, so the linker is the program `true`.
            "-Clinker=true".into(),
            "-Clinker-flavor=llbc".into(),
            "-Zunstable-options".into(),
            // No path of this machine may come into the PTX by way of a panic's place.
            "-Zlocation-detail=none".into(),
        ];
        flags.extend(self.cfgs.iter().map(|cfg| format!("--cfg={cfg}")));
        flags
    }
}

/// Compiles a crate of kernels.
#[derive(Clone, Debug)]
pub struct CudaBuilder {
    workspace: PathBuf,
    package: String,
    target_dir: PathBuf,
}

impl CudaBuilder {
    /// For `package` of the workspace (or crate) that lies at `workspace`.
    pub fn new(workspace: impl Into<PathBuf>, package: impl Into<String>) -> Self {
        let workspace = workspace.into();
        let target_dir = workspace.join("target/ptx");
        Self { workspace, package: package.into(), target_dir }
    }
    /// Where to build, a folder an architecture; `target/ptx` of the workspace if not said.
    pub fn target_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.target_dir = dir.into();
        self
    }
    /// Where an architecture is built.
    pub fn arch_dir(&self, arch: &Arch) -> PathBuf {
        self.target_dir.join(arch.name)
    }

    /// The PTX of all kernels as rustc wrote it. What was compiled before is used again.
    ///
    /// # Errors
    /// When cargo fails, with what it printed.
    pub fn build(&self, compiler: &Compiler, arch: &Arch) -> Result<String, Error> {
        let release = self.arch_dir(arch).join(TARGET).join("release");
        let ptx = release.join("deps").join(self.package.replace('-', "_")).with_extension("s");
        output(&mut self.command(compiler, arch))?;
        if !ptx.exists() {
            // Cargo does not know of this file, so it does not make a lost one again.
            self.forget(&release)?;
            output(&mut self.command(compiler, arch))?;
        }
        fs::read_to_string(&ptx).map_err(|source| Error::Io { path: ptx, source })
    }

    fn command(&self, compiler: &Compiler, arch: &Arch) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(&self.workspace)
            // `core` has to be built for the target, which a release allows only with this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", &compiler.rustc)
            // What is set for the host's builds must not reach the kernels.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_ENCODED_RUSTFLAGS", arch.flags().join("\u{1f}"))
            .args(["rustc", "--quiet", "--release", "--lib", "--crate-type", "cdylib"])
            .args(["-Zbuild-std=core", "--target", TARGET, "--package", &self.package])
            .arg("--target-dir")
            .arg(self.arch_dir(arch));
        for option in [
            "panic=\"abort\"",
            "lto=\"fat\"",
            "codegen-units=1",
            "debug=false",
            "opt-level=3",
            "debug-assertions=false",
            "overflow-checks=false",
        ] {
            command.arg("--config").arg(format!("profile.release.{option}"));
        }
        command.args(["--", "--emit=asm"]);
        command
    }

    /// Makes cargo compile the package anew, and nothing else.
    fn forget(&self, release: &Path) -> Result<(), Error> {
        let dir = release.join(".fingerprint");
        let io = |source| Error::Io { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.strip_prefix(&self.package).is_some_and(|rest| rest.starts_with('-')) {
                fs::remove_dir_all(&path).map_err(io)?;
            }
        }
        Ok(())
    }
}
