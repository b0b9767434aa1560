//! One hash of everything that PTX is made from.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::manifest::hex;
use crate::TaskError;

/// What no kernel is compiled from: the emulator, the builder, and tests in files of their own.
const LEFT_OUT: &[&str] = &["emu", "cuda_builder", "tests", "tests.rs", "target"];

/// SHA-256 over the `.rs` files and `Cargo.toml`s under `dir`: names and text, sorted, the same
/// whatever ends a line in the checkout.
///
/// # Errors
/// When a file cannot be read.
pub fn hash(dir: &Path) -> Result<String, TaskError> {
    let mut files = Vec::new();
    collect(dir, "", &mut files)?;
    files.sort();
    let mut hasher = Sha256::new();
    for name in files {
        let path = dir.join(&name);
        let text = fs::read_to_string(&path).map_err(|source| TaskError::Io { path, source })?;
        let text = text.replace("\r\n", "\n");
        // With its length, so that text cannot move from one file to the next unseen.
        hasher.update(format!("{name} {}\n{text}", text.len()));
    }
    Ok(hex(&hasher.finalize()))
}

/// Names relative to the first folder, with `/` on every system.
fn collect(dir: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), TaskError> {
    let io = |source| TaskError::Io { path: dir.into(), source };
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().map_err(io)?.is_dir() {
            collect(&entry.path(), &format!("{prefix}{name}/"), files)?;
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            files.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("imp-{name}-{}", std::process::id()));
            let tree = Self(dir);
            for (name, text) in files {
                let path = tree.0.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            tree
        }
        fn hash(&self) -> String {
            hash(&self.0).unwrap()
        }
    }
    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_what_reaches_a_kernel_changes_it() {
        let base = &[("src/lib.rs", "a\nb\n"), ("Cargo.toml", "c\n"), ("src/x/mod.rs", "d")];
        let tree = Tree::new("hash-a", base);
        let first = tree.hash();
        // By Python's hashlib, of "Cargo.toml 2\nc\n", "src/lib.rs 4\na\nb\n", "src/x/mod.rs 1\nd".
        let sum = "90bf435f0e80cd39b905da88bdc7758cc31b9d7a9a1f657f42260d52b04daa71";
        assert_eq!(first, sum);
        for (name, text, same) in [
            ("src/lib.rs", "a\r\nb\r\n", true),
            ("src/emu/mod.rs", "e", true),
            ("src/x/tests.rs", "e", true),
            ("README.md", "e", true),
            ("src/lib.rs", "a\nb\nc\n", false),
            ("src/lib.rs", "a\nb\n", true),
            ("src/y.rs", "", false),
        ] {
            let path = tree.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            assert_eq!(tree.hash() == first, same, "{name}");
        }
    }
    #[test]
    fn text_does_not_move_between_files_unseen() {
        let one = Tree::new("hash-b", &[("a.rs", "x\n"), ("b.rs", "")]);
        let other = Tree::new("hash-c", &[("a.rs", ""), ("b.rs", "x\n")]);
        assert_ne!(one.hash(), other.hash());
    }
}
