//! Shared memory of the CTA that runs, checked.

use super::fault::{FaultKind, Mistake};
use super::memory::out_of_bounds;
use super::order::Order;
use super::run::{Line, attempt};
use super::shadow::{Access, Shadow, Trouble};

/// Bytes of static shared memory that PTX allows.
const STATIC_BYTES: usize = 48 << 10;
/// Bytes of shared memory of a CTA on the device that has the least (sm_89 and sm_120).
pub(super) const MOST_BYTES: usize = 99 << 10;

/// Addresses are `(region + 1) << REGION_BITS | offset`: region 0 is the dynamic memory, each piece of
/// static memory has one of its own.
const REGION_BITS: u32 = 20;

pub(super) struct SharedRegions {
    regions: Vec<Region>,
    pieces: Vec<Piece>,
}

/// A call that asks for static memory: where, and how many bytes.
pub(super) type Call = (Line, u32);

struct Region {
    bytes: Vec<u8>,
    shadow: Shadow,
}

/// A piece of static memory: the call in the source, its size, and which of the calls of a thread.
#[derive(PartialEq)]
struct Piece {
    line: Line,
    bytes: u32,
    nth: usize,
}

impl SharedRegions {
    pub fn new(dynamic_bytes: u32) -> Self {
        let regions = vec![Region::new(dynamic_bytes as usize)];
        Self { regions, pieces: Vec::new() }
    }

    /// Address of the piece of static memory of a call, with the calls of the thread up to now. The
    /// second call of one line is another piece, as where the compiler inlines it twice; so memory
    /// does not live on from one to the next.
    fn static_piece(&mut self, calls: &mut Vec<Call>, call: Call) -> Result<u32, Mistake> {
        let nth = calls.iter().filter(|c| **c == call).count();
        calls.push(call);
        let (line, bytes) = call;
        let piece = Piece { line, bytes, nth };
        let index = match self.pieces.iter().position(|p| *p == piece) {
            Some(index) => index,
            None => {
                let taken: usize = self.regions[1..].iter().map(|r| r.bytes.len()).sum();
                let whole = taken + bytes as usize;
                let total = whole + self.regions[0].bytes.len();
                if whole > STATIC_BYTES || total > MOST_BYTES {
                    let detail = format!(
                        "{whole} bytes of static shared memory, {total} with the dynamic; at most \
                         {STATIC_BYTES} and {MOST_BYTES}"
                    );
                    return Err((FaultKind::Launch, detail));
                }
                self.regions.push(Region::new(bytes as usize));
                self.pieces.push(piece);
                self.pieces.len() - 1
            }
        };
        Ok((index as u32 + 2) << REGION_BITS)
    }

    /// Checks an access and gives its place.
    #[inline]
    pub fn access(
        &mut self,
        order: &Order,
        address: u32,
        size: usize,
        access: Access,
    ) -> Result<&mut [u8], Mistake> {
        let region = (address >> REGION_BITS) as usize;
        let at = (address & ((1 << REGION_BITS) - 1)) as usize;
        let Some(region) = region.checked_sub(1).and_then(|i| self.regions.get_mut(i)) else {
            let detail = format!("address {address:#x} is in no shared memory");
            return Err((FaultKind::OutOfBounds, detail));
        };
        if at + size > region.bytes.len() {
            return Err(out_of_bounds("shared memory", region.bytes.len(), at, size));
        }
        if !at.is_multiple_of(size) {
            let detail = format!("shared access of {size} bytes at offset {at}");
            return Err((FaultKind::Misaligned, detail));
        }
        region
            .shadow
            .access(order, at, size, access, order.cta_start)
            .map_err(|trouble| describe(trouble, access))?;
        Ok(&mut region.bytes[at..at + size])
    }
}

impl Region {
    fn new(len: usize) -> Self {
        Self { bytes: vec![0; len], shadow: Shadow::new(len, false) }
    }
}

#[cold]
fn describe((at, trouble): (usize, Trouble), access: Access) -> Mistake {
    match trouble {
        Trouble::Uninitialized => (
            FaultKind::Uninitialized,
            format!("shared byte {at} is read before any thread of this CTA wrote it"),
        ),
        Trouble::Changed => unreachable!("shared memory is never constant"),
        Trouble::InFlight { thread } => (
            FaultKind::InFlight,
            format!(
                "{access:?} of shared byte {at}, to which a copy of thread {thread} is under way"
            ),
        ),
        Trouble::Race { write, thread, .. } => {
            let other = match thread {
                Some(thread) => format!("thread {thread}"),
                None => "several threads".to_string(),
            };
            let earlier = if write { "write" } else { "read" };
            let detail = format!(
                "{} of shared byte {at}, with no barrier between it and the {earlier} by {other}",
                access.name()
            );
            (FaultKind::Race, detail)
        }
    }
}

/// Loads `N` bytes for the running thread.
#[inline]
pub(crate) fn load<const N: usize>(address: u32, at: Line) -> [u8; N] {
    attempt(at, |run| {
        run.count_access()?;
        let bytes = run.shared.access(&run.order, address, N, Access::Read)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    })
}
/// Stores `N` bytes for the running thread.
#[inline]
pub(crate) fn store<const N: usize>(address: u32, value: [u8; N], at: Line) {
    attempt(at, |run| {
        run.count_access()?;
        let bytes = run.shared.access(&run.order, address, N, Access::Write)?;
        bytes.copy_from_slice(&value);
        Ok(())
    });
}
/// Adds to a word for the running thread, and gives what it was.
pub(crate) fn atomic_add(address: u32, value: u32, at: Line) -> u32 {
    attempt(at, |run| {
        run.count_access()?;
        let bytes = run.shared.access(&run.order, address, 4, Access::Atomic)?;
        let old = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.copy_from_slice(&old.wrapping_add(value).to_le_bytes());
        Ok(old)
    })
}
/// Address of the dynamic memory.
pub(crate) fn dynamic() -> u32 {
    1 << REGION_BITS
}
/// Address of a call's piece of static memory.
pub(crate) fn static_piece(bytes: u32, at: Line) -> u32 {
    attempt(at, |run| {
        let thread = usize::from(run.order.thread);
        run.shared.static_piece(&mut run.lanes[thread].static_calls, (at, bytes))
    })
}
