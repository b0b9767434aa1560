//! `cargo xtask ptx`: compiles the kernels to `ptx-cache/`, and checks that it is fresh.
//!
//! `ptx-cache/<arch>/<module>.ptx.gz` is committed, so that building imp needs no kernel compiler.
//! `manifest.toml` beside it says from what it was made: see [`manifest`].

mod cache;
mod check;
pub mod install;
mod manifest;
mod report;
mod rules;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use argh::FromArgs;
use cuda_builder::{ARCHS, Arch, Assembler, Compiler, CudaBuilder, KernelEntry, Resources, split};
use cuda_std::EntryInfo;

pub use self::manifest::hex;
use self::manifest::{Build, Manifest, Module, sha256};
use crate::{TaskError, root, write};

/// Compile the kernels to PTX in ptx-cache/.
#[derive(FromArgs)]
#[argh(subcommand, name = "ptx")]
pub struct Ptx {
    /// an architecture (sm_80, sm_89, sm_90, sm_120f), may be repeated (default: all)
    #[argh(option)]
    arch: Vec<String>,
    /// write nothing: fail if ptx-cache/ is not what the sources give
    #[argh(switch)]
    check: bool,
    /// print what each entry needs, as a Markdown table
    #[argh(switch)]
    report: bool,
}

/// PTX by module.
type Modules = BTreeMap<String, String>;
/// An architecture and its PTX.
type Built = (&'static Arch, Modules);
/// An architecture and what its entries need.
type Needs = (&'static Arch, Vec<Resources>);

/// Runs the task.
///
/// # Errors
/// When a compiler is missing or fails, an entry breaks a rule, or the cache is stale.
pub fn run(options: &Ptx) -> Result<(), TaskError> {
    let archs = chosen(&options.arch)?;
    let needs = if options.check { check::run(&archs)? } else { make(&archs)? };
    if options.report {
        if needs.is_empty() {
            assembler()?; // says what to install
        }
        print!("{}", report::table(&needs));
    }
    Ok(())
}

/// Checks `ptx-cache/` for all architectures.
///
/// # Errors
/// As [`run`].
pub fn check_all() -> Result<(), TaskError> {
    check::run(&chosen(&[])?).map(drop)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Arch>, TaskError> {
    if names.is_empty() {
        return Ok(ARCHS.iter().collect());
    }
    let known = || ARCHS.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let unknown = || TaskError::Other(format!("--arch {name}: not one of {}", known()));
        ARCHS.iter().find(|a| a.name == name).ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}

/// Compiles and assembles, and writes the cache when all is well.
fn make(archs: &[&'static Arch]) -> Result<Vec<Needs>, TaskError> {
    let compiler = Compiler::find()?;
    eprintln!("xtask: kernels with rustc {}", compiler.version);
    let built = build(&compiler, archs)?;
    let needs = match assembler() {
        Ok(assembler) => assemble(&assembler, &built)?,
        Err(e) => {
            eprintln!("xtask: not assembled: {e}");
            Vec::new()
        }
    };
    let mut manifest = if cache_folder().join(Manifest::FILE).exists() {
        Manifest::read(&cache_folder())?
    } else {
        Manifest::default()
    };
    let source = source::hash(&root().join("gpu-kernels"))?;
    for (arch, modules) in &built {
        write_arch(arch, modules)?;
        let build = Build::of(arch, &compiler, &source);
        manifest.builds.insert(arch.name.into(), build);
        manifest.archs.insert(arch.name.into(), records(modules));
    }
    write(&cache_folder().join(Manifest::FILE), &manifest.to_string())?;
    Ok(needs)
}

fn write_arch(arch: &Arch, modules: &Modules) -> Result<(), TaskError> {
    let dir = cache_folder().join(arch.name);
    let io = |source| TaskError::Io { path: dir.clone(), source };
    fs::create_dir_all(&dir).map_err(io)?;
    for name in stray(arch, modules.keys())? {
        fs::remove_file(dir.join(name)).map_err(io)?;
    }
    for (module, ptx) in modules {
        cache::write(&dir, module, ptx)?;
    }
    Ok(())
}

/// Names of files in an architecture's folder that no module has.
fn stray<'a>(
    arch: &Arch,
    modules: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, TaskError> {
    let dir = cache_folder().join(arch.name);
    let known: Vec<String> = modules.map(|m| cache::file_name(m)).collect();
    let files = fs::read_dir(&dir).map_err(|source| TaskError::Io { path: dir, source })?;
    let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    let mut stray: Vec<String> = names.filter(|name| !known.contains(name)).collect();
    stray.sort();
    Ok(stray)
}

/// Every kernel of imp.
fn entries() -> impl Iterator<Item = &'static EntryInfo> {
    gpu_kernels::kernels::ALL.iter().copied().flatten()
}

/// What the manifest says of modules: the hash of each, and its entries.
fn records(modules: &Modules) -> BTreeMap<String, Module> {
    let record = |(name, ptx): (&String, &String)| {
        let entries = entries().filter(|e| e.module == *name);
        let entries = entries.map(|e| (e.name.to_owned(), e.into())).collect();
        (name.clone(), Module { sha256: sha256(ptx.as_bytes()), entries })
    };
    modules.iter().map(record).collect()
}

/// The PTX of each architecture, as it stands in the cache.
fn build(compiler: &Compiler, archs: &[&'static Arch]) -> Result<Vec<Built>, TaskError> {
    let builder = builder();
    let one = |arch: &&'static Arch| -> Result<Built, TaskError> {
        let entries: Vec<KernelEntry<'_>> = entries()
            .map(|e| KernelEntry {
                name: e.name,
                module: e.module,
                max_threads: e.max_threads,
                min_ctas: rules::min_ctas(arch.name, e),
            })
            .collect();
        let ptx = builder.build(compiler, arch)?;
        Ok((*arch, split(&ptx, &entries)?))
    };
    parallel(archs, one).into_iter().collect()
}

/// What the entries need, once every rule is met.
fn assemble(assembler: &Assembler, built: &[Built]) -> Result<Vec<Needs>, TaskError> {
    let builder = builder();
    let mut jobs: Vec<(&Arch, &String, &String)> = Vec::new();
    for (arch, modules) in built {
        jobs.extend(modules.iter().map(|(module, ptx)| (*arch, module, ptx)));
    }
    // The longest first, so that no core waits for it at the end.
    jobs.sort_by_key(|(_, _, ptx)| std::cmp::Reverse(ptx.len()));
    let answers = parallel(&jobs, |(arch, module, ptx)| {
        let work = builder.arch_dir(arch).join("assembled");
        let resources = assembler.assemble(arch.name, module, ptx, &work)?;
        Ok::<_, cuda_builder::Error>((arch.name, resources))
    });
    let mut needs: Vec<Needs> = built.iter().map(|(arch, _)| (*arch, Vec::new())).collect();
    for answer in answers {
        let (name, resources) = answer?;
        let of_arch = needs.iter_mut().find(|(arch, _)| arch.name == name);
        of_arch.expect("answers are of these architectures").1.extend(resources);
    }
    let mut broken = Vec::new();
    for (arch, resources) in &mut needs {
        resources.sort_by(|a, b| a.entry.cmp(&b.entry));
        broken.extend(rules::RULES.check(arch.name, resources));
    }
    if broken.is_empty() {
        Ok(needs)
    } else {
        let rules = "fix the kernel, or add a row with its reason to xtask/src/ptx/rules.rs";
        Err(TaskError::Other(format!("{}\n{rules}", broken.join("\n"))))
    }
}

fn builder() -> CudaBuilder {
    CudaBuilder::new(root(), "gpu-kernels")
}

fn assembler() -> Result<Assembler, TaskError> {
    Ok(Assembler::find(&[install::tools()])?)
}

fn cache_folder() -> PathBuf {
    root().join("ptx-cache")
}

/// `f` of each item, in their order, on all cores.
fn parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(items.len()) {
            scope.spawn(|| {
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = f(item);
                    done.lock().expect("no thread panics while it holds this").push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics while it holds this");
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_items() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(parallel(&items, |i| i * 2), (0..200).step_by(2).collect::<Vec<_>>());
        assert!(parallel(&[], |i: &u32| *i).is_empty());
    }
    #[test]
    fn architectures_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), ARCHS.len());
        assert_eq!(chosen(&["sm_90".into()]).unwrap()[0].name, "sm_90");
        let e = chosen(&["sm_70".into()]).unwrap_err().to_string();
        assert!(e.contains("sm_70") && e.contains("sm_120f"), "{e}");
    }
    #[test]
    fn entry_names_are_unique() {
        let mut names: Vec<&str> = entries().map(|e| e.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
