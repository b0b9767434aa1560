//! Finds a rustc that can compile to PTX: one with the sources of `core` beside it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, output};

/// The oldest compiler whose PTX back end has what kernels use.
pub const OLDEST: Release = Release(1, 96);

/// Major and minor number of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What `rustc -vV` says: two compilers with the same are taken to give the same PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `1.96.0`, `1.97.0-nightly`.
    pub release: String,
    /// Day of its newest commit, which tells nightlies apart.
    pub date: String,
    /// Of its back end.
    pub llvm: String,
}

impl Version {
    /// Reads the output of `rustc -vV`; `None` if a part is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|l| Some(l.strip_prefix(name)?.strip_prefix(": ")?.trim().to_owned()))
        };
        Some(Self {
            release: field("release")?,
            date: field("commit-date")?,
            llvm: field("LLVM version")?,
        })
    }
    /// Its major and minor number.
    pub fn number(&self) -> Option<Release> {
        let mut parts = self.release.split(['.', '-']).map(|p| p.parse().ok());
        Some(Release(parts.next()??, parts.next()??))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, LLVM {})", self.release, self.date, self.llvm)
    }
}

/// A compiler that was found.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The program.
    pub rustc: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Compiler {
    /// Environment variable that names the rustc to use.
    pub const VARIABLE: &str = "IMP_KERNEL_RUSTC";

    /// The compiler named by [`Compiler::VARIABLE`]; else `/usr/bin/rustc`, where Debian's package
    /// `rustc-web` puts it; else one of rustup's toolchains, nightlies first.
    ///
    /// # Errors
    /// [`Error::NoCompiler`] with what each candidate lacks.
    pub fn find() -> Result<Self, Error> {
        let candidates = match std::env::var_os(Self::VARIABLE) {
            Some(named) => vec![PathBuf::from(named)],
            None => std::iter::once("/usr/bin/rustc".into()).chain(rustup()).collect(),
        };
        let mut tried = Vec::new();
        for rustc in candidates {
            match Self::at(&rustc) {
                Ok(found) => return Ok(found),
                Err(lack) => tried.push(format!("{}: {lack}", rustc.display())),
            }
        }
        Err(Error::NoCompiler { tried })
    }

    fn at(rustc: &Path) -> Result<Self, String> {
        let ask = |args: &[&str]| output(Command::new(rustc).args(args)).map(|(out, _)| out);
        let text = ask(&["-vV"]).map_err(|_| "cannot be run".to_owned())?;
        let version = Version::parse(&text).ok_or("its version is not understood")?;
        if version.number().is_none_or(|n| n < OLDEST) {
            return Err(format!("is {}, {OLDEST} is needed", version.release));
        }
        let sysroot = ask(&["--print", "sysroot"]).map_err(|e| e.to_string())?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.exists() {
            return Err("has no sources of core beside it".into());
        }
        Ok(Self { rustc: rustc.into(), version })
    }
}

/// The compilers of rustup's toolchains. A release works as well as a nightly: `RUSTC_BOOTSTRAP`
/// opens it.
fn rustup() -> Vec<PathBuf> {
    let ask = |args: &[&str]| output(Command::new("rustup").args(args)).ok().map(|(out, _)| out);
    let Some(list) = ask(&["toolchain", "list"]) else { return Vec::new() };
    let mut names: Vec<&str> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    let which = |name: &&str| ask(&["which", "--toolchain", *name, "rustc"]);
    names.iter().filter_map(which).map(|path| PathBuf::from(path.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
        binary: rustc\ncommit-hash: ac68faa20\ncommit-date: 2026-05-25\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.4\n";

    #[test]
    fn a_version_is_read_from_its_fields() {
        let version = Version::parse(DEBIAN).unwrap();
        assert_eq!(version.to_string(), "1.96.0 (2026-05-25, LLVM 22.1.4)");
        assert_eq!(version.number(), Some(OLDEST));
        let nightly = DEBIAN.replace("release: 1.96.0", "release: 1.101.0-nightly");
        assert!(Version::parse(&nightly).unwrap().number().unwrap() > OLDEST);
        let old = DEBIAN.replace("release: 1.96.0", "release: 1.85.1");
        assert!(Version::parse(&old).unwrap().number().unwrap() < OLDEST);
    }
    #[test]
    fn half_a_version_is_none() {
        assert_eq!(Version::parse("rustc 1.96.0\nrelease: 1.96.0\n"), None);
        let odd = Version { release: "dev".into(), date: String::new(), llvm: String::new() };
        assert_eq!(odd.number(), None);
    }
}
