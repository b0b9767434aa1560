//! Asynchronous copies: they read and land when they are waited for, never earlier.
//!
//! From its start until then the target may not be touched by anyone; after it, it counts as written
//! by the thread that waited, so that the others need a barrier. A device reads the source at any time
//! between: it must be readable at the start and hold the same at the end. A kernel that ends with
//! copies under way is at fault although devices allow it: what it fetched was never used, and most
//! often a wait is missing.

use std::collections::VecDeque;

use super::fault::{FaultKind, Mistake};
use super::global::misaligned;
use super::run::{Line, Run, attempt};
use super::shadow::Access;

/// Bytes of a copy.
const SIZE: usize = 16;

/// The copies of a thread.
#[derive(Default)]
pub(super) struct Copies {
    open: Vec<Pending>,
    groups: VecDeque<Vec<Pending>>,
}

#[derive(Clone, Copy)]
struct Pending {
    to: u32,
    from: u64,
    bytes: usize,
    /// The source at the start.
    data: [u8; SIZE],
}

impl Copies {
    /// Whether some were not waited for.
    pub fn under_way(&self) -> bool {
        !self.open.is_empty() || self.groups.iter().any(|group| !group.is_empty())
    }
}

/// The first `bytes` bytes of a copy's source, then zeros.
fn source(run: &mut Run, from: u64, bytes: usize) -> Result<[u8; SIZE], Mistake> {
    let mut data = [0; SIZE];
    if bytes > 0 {
        let waited = run.current().waited;
        let size = (bytes, SIZE);
        let from = run.global.access(&run.order, waited, from, size, Access::Read)?;
        data[..bytes].copy_from_slice(from);
    } else if !from.is_multiple_of(SIZE as u64) {
        return Err(misaligned(from, SIZE));
    }
    Ok(data)
}

/// Starts a copy of the running thread.
pub(crate) fn start(to: u32, from: u64, bytes: u32, at: Line) {
    attempt(at, |run| {
        run.count_access()?;
        if bytes > SIZE as u32 {
            let detail = format!("asynchronous copy of 16 bytes, {bytes} of them from the source");
            return Err((FaultKind::OutOfBounds, detail));
        }
        let bytes = bytes as usize;
        let data = source(run, from, bytes)?;
        run.shared.access(&run.order, to, SIZE, Access::CopyStart)?;
        run.current().copies.open.push(Pending { to, from, bytes, data });
        Ok(())
    });
}

/// Closes a group.
pub(crate) fn commit(at: Line) {
    attempt(at, |run| {
        let copies = &mut run.current().copies;
        let group = std::mem::take(&mut copies.open);
        copies.groups.push_back(group);
        Ok(())
    });
}

/// Lets all groups but the latest `pending` land.
pub(crate) fn wait(pending: u32, at: Line) {
    attempt(at, |run| {
        while run.current().copies.groups.len() > pending as usize {
            let group = run.current().copies.groups.pop_front().unwrap_or_default();
            for copy in group {
                if source(run, copy.from, copy.bytes)? != copy.data {
                    let detail = format!(
                        "the source of an asynchronous copy at {:#x} changed while it was under way",
                        copy.from
                    );
                    return Err((FaultKind::InFlight, detail));
                }
                let bytes = run.shared.access(&run.order, copy.to, SIZE, Access::CopyEnd)?;
                bytes.copy_from_slice(&copy.data);
            }
        }
        Ok(())
    });
}
