//! Global memory: loads, stores and atomics, checked.

use super::fault::{FaultKind, Mistake};
use super::memory::{Allocation, INDEX_BITS, out_of_bounds};
use super::order::Order;
use super::run::{Line, attempt};
use super::shadow::{Access, Trouble};

/// The allocations of a [`super::Memory`] while a launch has them.
#[derive(Default)]
pub(super) struct GlobalMemory(pub Vec<Allocation>);

/// Index of the allocation that holds an address, and the offset in it.
#[inline]
pub(super) fn locate(allocations: &[Allocation], address: u64) -> Result<(usize, usize), Mistake> {
    let index = (address >> INDEX_BITS) as usize;
    let offset = (address & ((1 << INDEX_BITS) - 1)) as usize;
    match index.checked_sub(1).and_then(|i| allocations.get(i)) {
        Some(allocation) if allocation.live => Ok((index - 1, offset)),
        Some(_) => Err((FaultKind::Freed, format!("address {address:#x} was given back"))),
        None if index == 0 => {
            Err((FaultKind::Null, format!("address {address:#x} of a view of nothing")))
        }
        None => Err((FaultKind::OutOfBounds, format!("address {address:#x} is in no allocation"))),
    }
}

impl GlobalMemory {
    /// Checks an access of `size` bytes at an address divisible by `align`, and gives its place.
    /// `waited`: the thread passed the wait for the kernels before.
    #[inline]
    pub fn access(
        &mut self,
        order: &Order,
        waited: bool,
        address: u64,
        (size, align): (usize, usize),
        access: Access,
    ) -> Result<&mut [u8], Mistake> {
        let (index, at) = locate(&self.0, address)?;
        let allocation = &mut self.0[index];
        let len = allocation.bytes.len();
        if at + size > len {
            return Err(out_of_bounds("an allocation", len, at, size));
        }
        if !at.is_multiple_of(align) {
            return Err(misaligned(address, align));
        }
        match &mut allocation.shadow {
            Some(_) if !waited => {
                let detail = format!(
                    "{} of memory that kernels before may use, ahead of wait_for_previous_kernel",
                    access.name()
                );
                return Err((FaultKind::BeforeWait, detail));
            }
            Some(shadow) => shadow
                .access(order, at, size, access, 1)
                .map_err(|trouble| describe(order, trouble, access))?,
            None if matches!(access, Access::Read | Access::Constant) => {}
            None => {
                let detail = format!("{} at offset {at} of read-only memory", access.name());
                return Err((FaultKind::ReadOnly, detail));
            }
        }
        Ok(&mut allocation.bytes[at..at + size])
    }
}

pub(super) fn misaligned(address: u64, align: usize) -> Mistake {
    (FaultKind::Misaligned, format!("global address {address:#x} is not divisible by {align}"))
}

#[cold]
fn describe(order: &Order, (at, trouble): (usize, Trouble), access: Access) -> Mistake {
    match trouble {
        Trouble::Uninitialized => {
            (FaultKind::Uninitialized, format!("global byte {at} is read before anything wrote it"))
        }
        Trouble::Changed => {
            let detail = format!("global byte {at} is read as constant, but this kernel wrote it");
            (FaultKind::NotConstant, detail)
        }
        Trouble::InFlight { .. } => unreachable!("copies go to shared memory"),
        Trouble::Race { write, thread, tick } => {
            let other = match (thread, tick) {
                (_, 0) => "by several CTAs".to_string(),
                (Some(thread), _) if tick < order.cta_start => {
                    format!("by thread {thread} of CTA {} in order", order.cta_at(tick))
                }
                (None, _) if tick < order.cta_start => {
                    format!("by threads of CTA {} in order", order.cta_at(tick))
                }
                (Some(thread), _) => format!("by thread {thread} of this CTA"),
                (None, _) => "by several threads of this CTA".to_string(),
            };
            let earlier = if write { "write" } else { "read" };
            let detail = format!(
                "{} of global byte {at}, with nothing to order it after the {earlier} {other}",
                access.name()
            );
            (FaultKind::Race, detail)
        }
    }
}

/// Loads `N` bytes for the running thread.
#[inline]
pub(crate) fn load<const N: usize>(address: u64, at: Line) -> [u8; N] {
    load_as(Access::Read, address, at)
}
/// The same where nothing may write them during the launch.
#[inline]
pub(crate) fn load_constant<const N: usize>(address: u64, at: Line) -> [u8; N] {
    load_as(Access::Constant, address, at)
}
#[inline]
fn load_as<const N: usize>(access: Access, address: u64, at: Line) -> [u8; N] {
    attempt(at, |run| {
        run.count_access()?;
        let waited = run.current().waited;
        let bytes = run.global.access(&run.order, waited, address, (N, N), access)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    })
}
/// Stores `N` bytes for the running thread.
#[inline]
pub(crate) fn store<const N: usize>(address: u64, value: [u8; N], at: Line) {
    attempt(at, |run| {
        run.count_access()?;
        let waited = run.current().waited;
        let bytes = run.global.access(&run.order, waited, address, (N, N), Access::Write)?;
        bytes.copy_from_slice(&value);
        Ok(())
    });
}

/// Replaces a word by `f` of it for the running thread, and gives what it was.
pub(crate) fn atomic(address: u64, f: impl FnOnce(u32) -> u32, at: Line) -> u32 {
    attempt(at, |run| {
        run.count_access()?;
        let waited = run.current().waited;
        let bytes = run.global.access(&run.order, waited, address, (4, 4), Access::Atomic)?;
        let old = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.copy_from_slice(&f(old).to_le_bytes());
        run.order.atomic(address);
        Ok(old)
    })
}
