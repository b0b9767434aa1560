//! `ptx-cache/manifest.toml`: from what the PTX was made, and what it holds.
//!
//! ```toml
//! [build.sm_90]
//! source = "<SHA-256 over the kernel sources>"
//! rustc = "1.96.0 (2026-05-25, LLVM 22.1.8)"
//! ptx = "8.6"
//! flags = "-Ctarget-cpu=sm_90 …"
//!
//! [arch.sm_90.gated]
//! sha256 = "<of the PTX in ptx-cache/sm_90/gated.ptx.gz>"
//!
//! [arch.sm_90.gated.entries]
//! gated_silu_f32 = "<layout of its parameters, in hexadecimal>"
//!
//! [arch.sm_90.gated.bounds]
//! gated_silu_f32 = [256, 1] # threads of a CTA, CTAs of a multiprocessor
//! ```
//! Each architecture has all of it to itself, because each may be built alone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use cuda_builder::{Arch, Compiler};
use cuda_std::EntryInfo;
use sha2::{Digest, Sha256};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use crate::TaskError;

/// The manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// By architecture: from what.
    pub builds: BTreeMap<String, Build>,
    /// By architecture and module: what.
    pub archs: BTreeMap<String, BTreeMap<String, Module>>,
}

/// From what the PTX of an architecture was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Hash of the kernel sources.
    pub source: String,
    /// Version of the compiler.
    pub rustc: String,
    /// PTX version.
    pub ptx: String,
    /// Flags of the compiler.
    pub flags: String,
}

/// A file of PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Hash of the file.
    pub sha256: String,
    /// Its entries by name.
    pub entries: BTreeMap<String, Entry>,
}

/// What the PTX of an entry was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// [`EntryInfo::layout`].
    pub layout: u64,
    /// [`EntryInfo::max_threads`].
    pub max_threads: u32,
    /// [`EntryInfo::min_ctas`].
    pub min_ctas: u32,
}

impl From<&EntryInfo> for Entry {
    fn from(info: &EntryInfo) -> Self {
        let EntryInfo { layout, max_threads, min_ctas, .. } = *info;
        Self { layout, max_threads, min_ctas }
    }
}

impl Build {
    /// Of `compiler`, for `arch`, from sources with the hash `source`.
    pub fn of(arch: &Arch, compiler: &Compiler, source: &str) -> Self {
        Self {
            source: source.into(),
            rustc: compiler.version.to_string(),
            ptx: arch.ptx.into(),
            flags: arch.flags().join(" "),
        }
    }
}

impl Manifest {
    /// Its name in `ptx-cache/`.
    pub const FILE: &str = "manifest.toml";

    /// Reads it from `ptx-cache/`.
    ///
    /// # Errors
    /// When it cannot be read, or is not a manifest.
    pub fn read(cache: &Path) -> Result<Self, TaskError> {
        let path = cache.join(Self::FILE);
        let text = fs::read_to_string(&path)
            .map_err(|source| TaskError::Io { path: path.clone(), source })?;
        let bad = |what| TaskError::Other(format!("{}: {what}", path.display()));
        Self::parse(&text).map_err(bad)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let document: DocumentMut = text.parse().map_err(|e| format!("{e}"))?;
        let mut manifest = Self::default();
        for (arch, build) in tables(document.as_table(), "build")? {
            let part = |key| string(build, arch, key);
            let build = Build {
                source: part("source")?,
                rustc: part("rustc")?,
                ptx: part("ptx")?,
                flags: part("flags")?,
            };
            manifest.builds.insert(arch.into(), build);
        }
        let archs = tables(document.as_table(), "arch")?;
        for (arch, modules) in archs {
            let mut by_name = BTreeMap::new();
            for (name, item) in modules.iter() {
                let module = item.as_table_like().ok_or(format!("{arch}.{name} is no table"))?;
                by_name.insert(name.to_owned(), Module::parse(name, module)?);
            }
            manifest.archs.insert(arch.into(), by_name);
        }
        Ok(manifest)
    }
}

impl Module {
    fn parse(name: &str, table: &dyn TableLike) -> Result<Self, String> {
        let part = |key: &str| {
            let part = table.get(key).and_then(Item::as_table_like);
            part.ok_or(format!("{name}.{key} is missing"))
        };
        let (layouts, bounds) = (part("entries")?, part("bounds")?);
        let mut entries = BTreeMap::new();
        for (entry, layout) in layouts.iter() {
            let layout = layout.as_str().and_then(|s| u64::from_str_radix(s, 16).ok());
            let layout = layout.ok_or(format!("{entry}: its layout is no hexadecimal number"))?;
            let bound = |i: usize| {
                let number = bounds.get(entry)?.as_array()?.get(i)?.as_integer()?;
                u32::try_from(number).ok()
            };
            let (Some(max_threads), Some(min_ctas)) = (bound(0), bound(1)) else {
                return Err(format!("{entry}: its bounds are not two numbers"));
            };
            entries.insert(entry.to_owned(), Entry { layout, max_threads, min_ctas });
        }
        Ok(Self { sha256: string(table, name, "sha256")?, entries })
    }

    fn to_table(&self) -> Table {
        let (mut layouts, mut bounds) = (Table::new(), Table::new());
        for (name, entry) in &self.entries {
            layouts[name] = value(format!("{:016x}", entry.layout));
            let pair = [entry.max_threads, entry.min_ctas].map(i64::from);
            bounds[name] = value(Array::from_iter(pair));
        }
        let mut table = Table::new();
        table["sha256"] = value(&self.sha256);
        table["entries"] = Item::Table(layouts);
        table["bounds"] = Item::Table(bounds);
        table
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = || {
            let mut table = Table::new();
            table.set_implicit(true);
            table
        };
        let (mut builds, mut archs) = (group(), group());
        for (arch, build) in &self.builds {
            let mut table = Table::new();
            table["source"] = value(&build.source);
            table["rustc"] = value(&build.rustc);
            table["ptx"] = value(&build.ptx);
            table["flags"] = value(&build.flags);
            builds[arch] = Item::Table(table);
        }
        for (arch, modules) in &self.archs {
            let mut table = group();
            for (name, module) in modules {
                table[name] = Item::Table(module.to_table());
            }
            archs[arch] = Item::Table(table);
        }
        let mut document = DocumentMut::new();
        document["build"] = Item::Table(builds);
        document["arch"] = Item::Table(archs);
        write!(f, "# Written by `cargo xtask ptx`.\n\n{document}")
    }
}

fn tables<'a>(table: &'a Table, key: &str) -> Result<Vec<(&'a str, &'a dyn TableLike)>, String> {
    let group = table.get(key).and_then(Item::as_table_like).ok_or(format!("no [{key}]"))?;
    let one = |(name, item): (&'a str, &'a Item)| {
        Ok((name, item.as_table_like().ok_or(format!("{key}.{name} is no table"))?))
    };
    group.iter().map(one).collect()
}

fn string(table: &dyn TableLike, of: &str, key: &str) -> Result<String, String> {
    let text = table.get(key).and_then(Item::as_str);
    text.map(str::to_owned).ok_or(format!("{of}.{key} is missing"))
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A digest as it is written.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let entry = |layout| Entry { layout, max_threads: 256, min_ctas: 2 };
        let module = Module {
            sha256: sha256(b"ptx"),
            entries: [("gemm_f16".into(), entry(1)), ("gemm_q4_k".into(), entry(u64::MAX))].into(),
        };
        let build = Build {
            source: sha256(b"source"),
            rustc: "1.96.0 (2026-05-25, LLVM 22.1.8)".into(),
            ptx: "8.6".into(),
            flags: "-Ctarget-cpu=sm_90 --cfg=device_pdl".into(),
        };
        Manifest {
            builds: [("sm_90".into(), build.clone()), ("sm_120f".into(), build)].into(),
            archs: [("sm_90".into(), [("gemm".into(), module)].into())].into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = sample().to_string();
        assert_eq!(Manifest::parse(&text).unwrap(), sample());
        assert!(text.contains("[arch.sm_90.gemm.entries]\ngemm_f16 = \"0000000000000001\"\n"));
        assert!(text.contains("gemm_q4_k = [256, 2]\n"), "{text}");
        assert!(!text.contains("[arch]") && !text.contains("[arch.sm_90]\n"), "{text}");
    }
    #[test]
    fn a_damaged_manifest_says_where() {
        let text = sample().to_string();
        for (from, to, says) in [
            ("ptx = \"8.6\"", "", "sm_120f.ptx is missing"),
            ("\"ffffffffffffffff\"", "\"fish\"", "gemm_q4_k: its layout"),
            ("[256, 2]", "[256]", "gemm_f16: its bounds"),
            ("[arch.sm_90.gemm.bounds]", "[arch.sm_90.gemm.other]", "gemm.bounds is missing"),
        ] {
            let e = Manifest::parse(&text.replacen(from, to, 1)).unwrap_err();
            assert!(e.contains(says), "{from}: {e}");
        }
        assert!(Manifest::parse("").is_err());
    }
    #[test]
    fn sha256_is_sha256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc); // FIPS 180-4, the example of "abc"
    }
}
