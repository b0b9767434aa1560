//! [`Memory`]: the device memory that a test fills, launches kernels on and reads back.

use bytemuck::{AnyBitPattern, NoUninit};

use super::fault::{Fault, FaultKind, Mistake};
use super::order::Order;
use super::shadow::Shadow;
use super::{cta, global};
use crate::{Entry, Global, GlobalMut, Launch, Params};

/// Memory of an emulated device.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) allocations: Vec<Allocation>,
    pub(super) order: Order,
}

/// A piece of it. Its addresses are `(index + 1) << INDEX_BITS | offset`: an index that runs out of one
/// piece does not reach another, and 0 is in none.
#[derive(Debug)]
pub(super) struct Allocation {
    pub bytes: Vec<u8>,
    /// None where kernels may only read.
    pub shadow: Option<Shadow>,
    pub live: bool,
}

pub(super) const INDEX_BITS: u32 = 40;

/// A view of global memory, read-only or not.
pub trait View<T> {
    /// Where it starts.
    fn start(&self) -> u64;
}
impl<T> View<T> for Global<T> {
    fn start(&self) -> u64 {
        self.address()
    }
}
impl<T> View<T> for GlobalMut<T> {
    fn start(&self) -> u64 {
        self.address()
    }
}

impl Memory {
    /// Without any allocation.
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, bytes: Vec<u8>, shadow: Option<Shadow>) -> u64 {
        self.allocations.push(Allocation { bytes, shadow, live: true });
        (self.allocations.len() as u64) << INDEX_BITS
    }

    /// Data that kernels only read: weights, or what another kernel would have made.
    pub fn upload<T: NoUninit>(&mut self, data: &[T]) -> Global<T> {
        Global::from_address(self.add(bytemuck::cast_slice(data).to_vec(), None))
    }
    /// Data that kernels read and write.
    pub fn upload_mut<T: NoUninit>(&mut self, data: &[T]) -> GlobalMut<T> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let shadow = Shadow::new(bytes.len(), true);
        GlobalMut::from_address(self.add(bytes.to_vec(), Some(shadow)))
    }
    /// `len` elements that must be written before they are read.
    pub fn uninit<T>(&mut self, len: usize) -> GlobalMut<T> {
        let bytes = len * size_of::<T>();
        // What a kernel that overlooks it would compute with should look wrong.
        GlobalMut::from_address(self.add(vec![0xa5; bytes], Some(Shadow::new(bytes, false))))
    }
    /// Gives the allocation that a view starts in back; using it from now on is a fault.
    pub fn free<T>(&mut self, view: impl View<T>) {
        let allocation = self.find_mut(view.start()).0;
        allocation.live = false;
        allocation.bytes = Vec::new();
        allocation.shadow = None;
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// The first fault. What the kernel wrote up to then stays written.
    pub fn launch<P: Params>(
        &mut self,
        entry: &Entry<P>,
        shape: Launch,
        params: &P,
    ) -> Result<(), Fault> {
        cta::launch(self, entry, shape, params)
    }

    /// The elements from the start of a view to the end of its allocation.
    ///
    /// # Panics
    /// If one of them was never written.
    #[track_caller]
    pub fn read<T: AnyBitPattern>(&self, view: impl View<T>) -> Vec<T> {
        let read = self.read_written(view);
        let missing = read.iter().filter(|v| v.is_none()).count();
        let Some(first) = read.iter().position(Option::is_none) else {
            return read.into_iter().flatten().collect();
        };
        panic!("{missing} of {} elements were never written, the first at {first}", read.len());
    }
    /// The same, `None` for elements that were never written.
    #[track_caller]
    pub fn read_written<T: AnyBitPattern>(&self, view: impl View<T>) -> Vec<Option<T>> {
        let (allocation, start) = self.find(view.start());
        let size = size_of::<T>();
        (0..allocation.bytes.len().saturating_sub(start) / size)
            .map(|i| {
                let at = start + i * size;
                let written = allocation.shadow.as_ref().is_none_or(|s| s.written(at, size));
                written.then(|| bytemuck::pod_read_unaligned(&allocation.bytes[at..at + size]))
            })
            .collect()
    }
    /// Sets the elements from the start of a view on, as a copy from the host between launches.
    #[track_caller]
    pub fn write<T: NoUninit>(&mut self, view: GlobalMut<T>, data: &[T]) {
        let (allocation, start) = self.find_mut(view.start());
        let data: &[u8] = bytemuck::cast_slice(data);
        allocation.bytes[start..start + data.len()].copy_from_slice(data);
        if let Some(shadow) = &mut allocation.shadow {
            shadow.set_written(start, data.len());
        }
    }

    #[track_caller]
    fn find(&self, address: u64) -> (&Allocation, usize) {
        match global::locate(&self.allocations, address) {
            Ok((index, offset)) => (&self.allocations[index], offset),
            Err((_, detail)) => panic!("{detail}"),
        }
    }
    #[track_caller]
    fn find_mut(&mut self, address: u64) -> (&mut Allocation, usize) {
        match global::locate(&self.allocations, address) {
            Ok((index, offset)) => (&mut self.allocations[index], offset),
            Err((_, detail)) => panic!("{detail}"),
        }
    }
}

/// The mistake of an access outside of what there is.
pub(super) fn out_of_bounds(what: &str, len: usize, at: usize, size: usize) -> Mistake {
    let detail = format!("{size} bytes at offset {at} of {what} of {len} bytes");
    (FaultKind::OutOfBounds, detail)
}
