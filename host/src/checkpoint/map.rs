//! Files mapped into memory, and the bytes handed out of them.
//!
//! A mapping reads like a slice, but its file can shrink under it; [`super::sigbus`] turns that
//! into zeros and a flag instead of a dead process.

use std::fmt;
use std::fs::{self, File};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::CheckpointError;
use super::sigbus;

/// A file mapped read-only, guarded against being cut while mapped.
pub(super) struct Mapping {
    // Declared before `mmap`: fields drop in order, and the range must leave the registry before
    // its addresses can be given to somebody else.
    guard: sigbus::Guard,
    mmap: Mmap,
    file: File,
    path: PathBuf,
}

impl Mapping {
    /// Maps a regular file whole.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, CheckpointError> {
        regular_file(path)?;
        let file = File::open(path).map_err(CheckpointError::io(path, "open the file"))?;
        // SAFETY: the mapping is read-only, and every reader treats the bytes as untrusted: what
        // another process writes into the file changes values, never a bound that was checked
        // against the length of the mapping. A file that shrinks is answered by the guard below.
        let mmap = unsafe { Mmap::map(&file) }
            .map_err(CheckpointError::io(path, "map the file into memory"))?;
        let guard = sigbus::Guard::new(mmap.as_ptr() as usize, mmap.len())
            .map_err(CheckpointError::io(path, "guard the mapped file against truncation"))?;
        Ok(Arc::new(Self { guard, mmap, file, path: path.into() }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file lost bytes since it was mapped. One `fstat`: a cut inside the last page
    /// reads as zeros without any signal, so the flag alone would miss it.
    pub(super) fn damaged(&self) -> bool {
        let shorter = match self.file.metadata() {
            Ok(metadata) => metadata.len() < self.mmap.len() as u64,
            Err(_) => true,
        };
        self.guard.tripped() || shorter
    }

    /// All bytes of the file.
    pub(super) fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes { range: 0..self.mmap.len(), owner: Owner::Mapped(self.clone()) }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({}, {} bytes)", self.path.display(), self.mmap.len())
    }
}

/// Refuses directories, pipes and devices before they are opened: opening a pipe would wait for
/// its writer, and a device may never end.
pub(super) fn regular_file(path: &Path) -> Result<(), CheckpointError> {
    let metadata = fs::metadata(path).map_err(CheckpointError::io(path, "open the file"))?;
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() { "a directory" } else { "a pipe, socket or device" };
    Err(CheckpointError::file(path, format!("is {found}, expected a file")))
}

/// Who keeps the bytes alive.
#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mapping>),
    Memory(Arc<Vec<u8>>),
    /// Bytes at an address divisible by eight.
    Aligned(Arc<Vec<u64>>),
}

impl Owner {
    fn all(&self) -> &[u8] {
        match self {
            Owner::Mapped(mapping) => &mapping.mmap,
            Owner::Memory(bytes) => bytes,
            Owner::Aligned(words) => bytemuck::cast_slice(words),
        }
    }
}

/// Bytes that stay valid while held: a range of a mapped file, or owned memory. Cloning shares.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

impl Bytes {
    /// Takes ownership of bytes made in memory.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Memory(Arc::new(bytes)) }
    }

    /// A copy that starts at an address divisible by eight.
    pub(super) fn aligned_copy(&self) -> Self {
        let mut words = vec![0u64; self.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..self.len()].copy_from_slice(self);
        Self { range: 0..self.len(), owner: Owner::Aligned(Arc::new(words)) }
    }

    /// A part of these bytes; panics when out of range.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end);
        assert!(range.end <= self.range.len());
        let start = self.range.start + range.start;
        Self { owner: self.owner.clone(), range: start..start + range.len() }
    }

    /// Whether they lie in a mapped file rather than in memory of their own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner.all()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "Bytes({} {kind})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing::TempDir;

    #[test]
    fn slices_share_and_keep_their_owner() {
        let whole = Bytes::owned((0..100).collect());
        let part = whole.slice(10..20).slice(5..7);
        drop(whole);
        assert_eq!(&*part, &[15, 16]);
        assert_eq!(&*part.slice(2..2), &[] as &[u8]);
    }

    #[test]
    #[should_panic]
    fn a_slice_cannot_leave_its_parent() {
        Bytes::owned(vec![0; 100]).slice(10..20).slice(5..11);
    }

    #[test]
    fn an_aligned_copy_holds_the_same_bytes() {
        for len in [0, 1, 7, 8, 9, 100] {
            let odd = Bytes::owned((0..101).collect()).slice(1..1 + len);
            let copy = odd.aligned_copy();
            assert_eq!(*copy, *odd);
            assert_eq!(copy.as_ptr() as usize % 8, 0);
        }
    }

    #[test]
    fn a_mapping_reads_the_file_and_refuses_what_is_none() {
        let dir = TempDir::new();
        let path = dir.file("data", &[7; 5000]);
        let mapping = Mapping::open(&path).unwrap();
        let bytes = mapping.bytes();
        drop(mapping);
        assert_eq!(*bytes, [7; 5000]);
        assert!(bytes.is_mapped());

        let error = Mapping::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is a directory, expected a file"), "{error}");
        assert!(matches!(
            Mapping::open(&dir.path().join("absent")),
            Err(CheckpointError::Io { .. })
        ));
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let dir = TempDir::new();
        let mapping = Mapping::open(&dir.file("empty", &[])).unwrap();
        assert_eq!(mapping.bytes().len(), 0);
        assert!(!mapping.damaged());
    }

    #[test]
    #[cfg(unix)]
    fn a_file_cut_while_mapped_reads_as_zeros_and_says_so() {
        let dir = TempDir::new();
        let page = 65536; // at least one page on every system
        let path = dir.file("data", &vec![7; 4 * page]);
        let mapping = Mapping::open(&path).unwrap();
        let other = Mapping::open(&dir.file("other", &vec![9; 4 * page])).unwrap();
        let bytes = mapping.bytes();
        assert!(!mapping.damaged());
        File::options().write(true).open(&path).unwrap().set_len(page as u64).unwrap();

        // From several threads, backwards and forwards, as loading and computing would.
        std::thread::scope(|scope| {
            for i in 0..4 {
                let bytes = &bytes;
                scope.spawn(move || {
                    let at = (3 - i) * page + 5;
                    assert_eq!(bytes[at], if i == 3 { 7 } else { 0 });
                });
            }
        });
        assert!(bytes[page..].iter().all(|&b| b == 0));
        assert!(bytes[..page].iter().all(|&b| b == 7));
        assert!(mapping.damaged());
        assert!(mapping.guard.tripped());
        assert!(other.bytes().iter().all(|&b| b == 9));
        assert!(!other.damaged());
    }

    #[test]
    #[cfg(unix)]
    fn a_cut_inside_the_last_page_is_seen_too() {
        let dir = TempDir::new();
        let path = dir.file("data", &[7; 100]);
        let mapping = Mapping::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(50).unwrap();
        assert_eq!(mapping.bytes()[99], 0);
        assert!(mapping.damaged());
    }
}
