//! Compiled kernels on disk, so that the driver's compiler runs once for each driver and device.
//!
//! A file holds the cubin of one module: a magic number, the SHA-256 of the cubin, the cubin. Its
//! name is the SHA-256 of all that decides the result: the PTX, the driver's version, the device's
//! compute capability. So an entry is never wrong, only unused; a damaged one is compiled again.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use super::error::{Compute, CudaVersion};

/// Ahead of every file; its last digit is the version of the format.
const MAGIC: &[u8; 8] = b"impcub01";

/// Length of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// A folder of cubins.
#[derive(Debug)]
pub struct CubinCache {
    /// None: nothing is kept.
    folder: Option<PathBuf>,
    /// A folder that cannot be written is said once.
    warned: Once,
}

/// Name of a cubin in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CubinKey(String);

impl CubinKey {
    /// The key of `ptx`, compiled by a driver of `version` for a device of `compute`.
    pub fn new(ptx: &str, version: CudaVersion, compute: Compute) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("driver {version} compute {compute}\n"));
        hash.update(ptx);
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl CubinCache {
    /// The cache in the folder of the XDG base directory specification: `imp/cubin` in
    /// `$XDG_CACHE_HOME`, else in `~/.cache`. With neither variable set nothing is kept.
    pub fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        // The specification has relative paths ignored.
        let cache = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        let cache = cache.or_else(|| Some(variable("HOME")?.join(".cache")));
        Self { folder: cache.map(|cache| cache.join("imp/cubin")), warned: Once::new() }
    }
    /// A cache in `folder`, which is made when something is kept.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: Some(folder.into()), warned: Once::new() }
    }

    /// The cubin under `key`, if there is one and it is whole.
    pub fn get(&self, key: &CubinKey) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(&key.0);
        let mut bytes = std::fs::read(&path).ok()?;
        let head = MAGIC.len() + DIGEST_BYTES;
        let whole = bytes.len() > head
            && bytes.starts_with(MAGIC)
            && Sha256::digest(&bytes[head..])[..] == bytes[MAGIC.len()..head];
        if !whole {
            tracing::debug!("{} is damaged; its kernels are compiled again", path.display());
            return None;
        }
        bytes.drain(..head);
        Some(bytes)
    }

    /// Keeps `cubin` under `key`, in place of what was there. Readers see the old file or the new
    /// one, whole. That it cannot be written is a warning, once.
    pub fn put(&self, key: &CubinKey, cubin: &[u8]) {
        let Some(folder) = &self.folder else { return };
        if let Err(e) = write(folder, key, cubin) {
            self.warned.call_once(|| {
                tracing::warn!(
                    "{}: compiled kernels cannot be kept ({e}); they are compiled at every start",
                    folder.display()
                );
            });
        }
    }
}

fn write(folder: &Path, key: &CubinKey, cubin: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // Two that write the same entry must not share the unfinished file.
    static WRITES: AtomicU32 = AtomicU32::new(0);
    let (process, write) = (std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
    let unfinished = folder.join(format!("{}.{process}.{write}", key.0));
    let bytes = [MAGIC, &Sha256::digest(cubin)[..], cubin].concat();
    let result = std::fs::write(&unfinished, bytes)
        .and_then(|()| std::fs::rename(&unfinished, folder.join(&key.0)));
    if result.is_err() {
        // What is left of it, if anything; the first error is the one to tell.
        let _ = std::fs::remove_file(&unfinished);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own that goes away with the test.
    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("imp-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
        fn files(&self) -> Vec<PathBuf> {
            std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const CUDA_13: CudaVersion = CudaVersion { major: 13, minor: 0 };
    const HOPPER: Compute = Compute { major: 9, minor: 0 };

    #[test]
    fn what_was_kept_comes_back() {
        let folder = Folder::new("cubin-round-trip");
        let cache = CubinCache::in_folder(&folder.0);
        let key = CubinKey::new(".version 8.6", CUDA_13, HOPPER);
        assert_eq!(cache.get(&key), None);
        for cubin in [vec![1u8, 2, 3], (0..100_000u32).map(|i| i as u8).collect()] {
            cache.put(&key, &cubin);
            assert_eq!(cache.get(&key), Some(cubin));
            assert_eq!(folder.files().len(), 1, "the unfinished file is gone");
        }
    }

    #[test]
    fn a_key_depends_on_all_that_decides_the_result() {
        let key = CubinKey::new("ptx", CUDA_13, HOPPER);
        let others = [
            CubinKey::new("ptx ", CUDA_13, HOPPER),
            CubinKey::new("ptx", CudaVersion { major: 12, minor: 9 }, HOPPER),
            CubinKey::new("ptx", CUDA_13, Compute { major: 12, minor: 0 }),
        ];
        assert!(!others.contains(&key));
        assert_eq!(key.0.len(), 64);
    }

    #[test]
    fn a_damaged_file_is_not_used_and_is_replaced() {
        let folder = Folder::new("cubin-damage");
        let cache = CubinCache::in_folder(&folder.0);
        let key = CubinKey::new("ptx", CUDA_13, HOPPER);
        let cubin = vec![7u8; 1000];
        cache.put(&key, &cubin);
        let path = folder.0.join(&key.0);
        let whole = std::fs::read(&path).unwrap();
        let head = MAGIC.len() + DIGEST_BYTES;
        for cut in [0, 1, MAGIC.len(), head - 1, head, head + 1, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(cache.get(&key), None, "cut to {cut}");
        }
        for at in [0, MAGIC.len() - 1, MAGIC.len(), head - 1, head, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(cache.get(&key), None, "bit of byte {at}");
        }
        cache.put(&key, &cubin);
        assert_eq!(cache.get(&key), Some(cubin));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_failure() {
        let folder = Folder::new("cubin-unwritable");
        std::fs::write(&folder.0, "a file where the folder should be").unwrap();
        let cache = CubinCache::in_folder(&folder.0.join("cubin"));
        let key = CubinKey::new("ptx", CUDA_13, HOPPER);
        cache.put(&key, b"cubin");
        cache.put(&key, b"cubin");
        assert_eq!(cache.get(&key), None);
        std::fs::remove_file(&folder.0).unwrap();
    }

    /// Writers of one entry and its readers at the same time: what is read is always whole.
    #[test]
    fn readers_see_no_unfinished_file() {
        let folder = Folder::new("cubin-atomic");
        let cache = CubinCache::in_folder(&folder.0);
        let key = CubinKey::new("ptx", CUDA_13, HOPPER);
        let cubin = vec![3u8; 1 << 18];
        cache.put(&key, &cubin);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    cache.put(&key, &cubin);
                }
            });
            for _ in 0..50 {
                assert_eq!(cache.get(&key).as_deref(), Some(&cubin[..]));
            }
        });
    }
}
