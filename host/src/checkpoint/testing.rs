//! What the tests of this module share.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Checkpoint, GgufWriter, Metadata};

/// A directory of its own for each test, removed with its files at the end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!(
            "imp-checkpoint-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The file of a writer whose tensors are all zeros.
pub(crate) fn gguf_file(writer: &GgufWriter) -> Vec<u8> {
    let mut file = Vec::new();
    let zeros = |i, out: &mut dyn Write| out.write_all(&vec![0; writer.tensor_bytes(i)]);
    writer.write(&mut file, zeros).unwrap();
    file
}

/// Reads everything a checkpoint offers, by every getter: none may panic, and every byte of a
/// tensor must be there.
pub(crate) fn exercise(checkpoint: &Checkpoint) {
    let mut sum = 0u64;
    for tensor in checkpoint.tensors() {
        let bytes = checkpoint.bytes(tensor);
        assert_eq!(bytes.len(), tensor.bytes);
        sum = bytes.iter().fold(sum, |sum, &b| sum.wrapping_add(b as u64));
        assert_eq!(checkpoint.require(&tensor.name).unwrap().offset, tensor.offset);
    }
    for other in checkpoint.others() {
        assert!(checkpoint.require(&other.name).is_err());
    }
    std::hint::black_box(sum);
    let Metadata::Gguf(m) = checkpoint.metadata() else { return };
    for (key, value) in m.iter() {
        assert!(value.to_string().len() < 4096);
        let strings = m.strings(key).map(|s| s.map(|s| s.map(<[u8]>::len).sum::<usize>()));
        std::hint::black_box(strings.ok());
        let results = [
            m.str(key).is_ok(),
            m.u32(key).is_ok(),
            m.u64(key).is_ok(),
            m.i32(key).is_ok(),
            m.f32(key).is_ok(),
            m.bool(key).is_ok(),
            m.u32s(key).is_ok(),
            m.i32s(key).is_ok(),
            m.f32s(key).is_ok(),
            m.bools(key).is_ok(),
            m.u32_per_layer(key, 3).is_ok(),
        ];
        std::hint::black_box(results);
    }
}
