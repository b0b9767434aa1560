//! Whether `ptx-cache/` is what the sources give.
//!
//! Hashes are always compared: of the sources, of each file, and of the parameters' layouts. With a
//! compiler of the manifest's version the PTX itself is made anew and compared. Another version gives
//! other text for the same kernels, so its PTX is only assembled, which is said in a line; without
//! any compiler the PTX in the cache is assembled.

use std::collections::BTreeMap;

use cuda_builder::{Arch, Compiler};

use super::manifest::{Build, Entry, Manifest, Module, sha256};
use super::{
    Built, Modules, Needs, assemble, assembler, build, cache, cache_folder, entries, source, stray,
};
use crate::{TaskError, root};

/// Checks `archs`; gives what their entries need if ptxas is there.
///
/// # Errors
/// What differs, and the command that mends it.
pub fn run(archs: &[&'static Arch]) -> Result<Vec<Needs>, TaskError> {
    let manifest = Manifest::read(&cache_folder())?;
    let source = source::hash(&root().join("gpu-kernels"))?;
    let (mut stale, mut cached) = (Vec::new(), Vec::new());
    for arch in archs {
        let files = files(arch)?;
        stale.extend(differences(arch, &manifest, &source, &files));
        for name in stray(arch, files.keys())? {
            stale.push(format!("ptx-cache/{}/{name} is of no kernel", arch.name));
        }
        cached.push((*arch, files));
    }
    // Before minutes of compiling: a fresh build would only say it again.
    fail(&stale)?;
    let built = match Compiler::find() {
        Ok(compiler) => {
            let built = build(&compiler, archs)?;
            fail(&compare(&compiler, &manifest, &cached, &built))?;
            built
        }
        Err(e) => {
            eprintln!("xtask: ptx-cache was compared by its hashes only: {e}");
            cached
        }
    };
    match assembler() {
        Ok(assembler) => assemble(&assembler, &built),
        Err(e) => {
            eprintln!("xtask: the PTX was not assembled: {e}");
            Ok(Vec::new())
        }
    }
}

fn fail(stale: &[String]) -> Result<(), TaskError> {
    if stale.is_empty() {
        return Ok(());
    }
    Err(TaskError::Other(format!("{}\nrun `cargo xtask ptx`", stale.join("\n"))))
}

/// The PTX in the cache, of the modules that there should be; a missing file is an empty one.
fn files(arch: &Arch) -> Result<Modules, TaskError> {
    let mut files = Modules::new();
    for entry in entries() {
        if !files.contains_key(entry.module) {
            let text = cache::read(&cache_folder().join(arch.name), entry.module)?;
            files.insert(entry.module.into(), text);
        }
    }
    Ok(files)
}

/// What the manifest says that is not so.
fn differences(arch: &Arch, manifest: &Manifest, source: &str, files: &Modules) -> Vec<String> {
    let name = arch.name;
    let (Some(build), Some(modules)) = (manifest.builds.get(name), manifest.archs.get(name)) else {
        return vec![format!("the manifest has no {name}")];
    };
    let mut found = Vec::new();
    if build.source != source {
        found.push(format!("{name}: the kernel sources changed since its PTX was made"));
    }
    if build.ptx != arch.ptx || build.flags != arch.flags().join(" ") {
        found.push(format!("{name}: the compiler's flags changed since its PTX was made"));
    }
    for (module, text) in files {
        let recorded = modules.get(module);
        if recorded.is_none_or(|m| m.sha256 != sha256(text.as_bytes())) {
            found.push(format!("ptx-cache/{name}/{module}.ptx.gz is not the file that was made"));
        }
        let expected: BTreeMap<String, Entry> = entries()
            .filter(|e| e.module == module)
            .map(|e| (e.name.to_owned(), e.into()))
            .collect();
        if recorded.is_some_and(|m: &Module| m.entries != expected) {
            found.push(format!("{name}: entries of {module} changed since its PTX was made"));
        }
    }
    for module in modules.keys().filter(|m| !files.contains_key(*m)) {
        found.push(format!("{name}: the manifest has {module}, which is no module"));
    }
    found
}

/// The files that a build gives otherwise.
fn compare(
    compiler: &Compiler,
    manifest: &Manifest,
    cached: &[Built],
    built: &[Built],
) -> Vec<String> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for ((arch, old), (_, new)) in cached.iter().zip(built) {
        let record = manifest.builds.get(arch.name);
        let same = |b: &Build| b.rustc == compiler.version.to_string();
        match record {
            Some(build) if !same(build) => others.push(format!("{} by {}", arch.name, build.rustc)),
            _ => {
                let changed = new.iter().filter(|(module, ptx)| old.get(*module) != Some(*ptx));
                let say = |(module, _): (&String, _)| {
                    format!("ptx-cache/{}/{module}.ptx.gz differs from a fresh build", arch.name)
                };
                found.extend(changed.map(say));
            }
        }
    }
    if !others.is_empty() {
        let (others, version) = (others.join(", "), &compiler.version);
        eprintln!(
            "xtask: ptx-cache was compared by its hashes only: {others}; rustc here is {version}"
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::records;
    use super::*;

    const ARCH: &Arch = &cuda_builder::ARCHS[0];

    /// A cache as a build would leave it, without a compiler.
    fn sample() -> (Manifest, Modules) {
        let modules: Modules =
            entries().map(|e| (e.module.to_owned(), format!("// {}\n", e.module))).collect();
        let build = Build {
            source: "hash".into(),
            rustc: String::new(),
            ptx: ARCH.ptx.into(),
            flags: ARCH.flags().join(" "),
        };
        let mut manifest = Manifest::default();
        manifest.builds.insert(ARCH.name.into(), build);
        manifest.archs.insert(ARCH.name.into(), records(&modules));
        (manifest, modules)
    }

    #[test]
    fn a_fresh_cache_has_no_differences() {
        let (manifest, files) = sample();
        assert_eq!(differences(ARCH, &manifest, "hash", &files), Vec::<String>::new());
    }
    #[test]
    fn every_change_is_found() {
        let (manifest, files) = sample();
        let one = |manifest: &Manifest, source: &str, files: &Modules, says: &str| {
            let found = differences(ARCH, manifest, source, files);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(says), "{found:?}");
        };
        one(&Manifest::default(), "hash", &files, "no sm_80");
        one(&manifest, "other", &files, "sources changed");
        let mut edited = files.clone();
        edited.values_mut().next().unwrap().push('x');
        one(&manifest, "hash", &edited, "is not the file");
        let change = |f: fn(&mut Entry)| {
            let mut manifest = manifest.clone();
            let modules = manifest.archs.get_mut(ARCH.name).unwrap();
            let module = modules.values_mut().next().unwrap();
            f(module.entries.values_mut().next().unwrap());
            manifest
        };
        one(&change(|e| e.layout ^= 1), "hash", &files, "entries of");
        one(&change(|e| e.max_threads += 1), "hash", &files, "entries of");
        let mut flags = manifest.clone();
        flags.builds.get_mut(ARCH.name).unwrap().flags.push('x');
        one(&flags, "hash", &files, "flags changed");
        let mut more = manifest.clone();
        let module = Module { sha256: String::new(), entries: BTreeMap::new() };
        more.archs.get_mut(ARCH.name).unwrap().insert("gone".into(), module);
        one(&more, "hash", &files, "no module");
    }
}
