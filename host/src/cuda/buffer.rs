//! Memory: of the device, and page-locked memory of the system.

use std::ptr::NonNull;

use cuda_std::{Global, GlobalMut};
use cust::memory::{DevicePointer, cuda_free, cuda_free_locked, cuda_malloc, cuda_malloc_locked};

use super::context::Context;
use super::error::{CudaError, DriverCode, checked};
use super::event::Event;
use super::stream::Stream;
use super::symbols;

/// Bytes in the device's memory, freed with it.
///
/// The host holds no reference into it, so writing takes no `&mut`; order comes from streams.
/// Dropping it waits for the device first. Aligned to 256 bytes.
#[derive(Debug)]
pub struct DeviceBuffer {
    context: Context,
    /// 0 for no bytes.
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    pub(super) fn new(context: Context, bytes: usize) -> Result<Self, CudaError> {
        context.bind()?;
        if bytes == 0 {
            return Ok(Self { context, address: 0, bytes });
        }
        // SAFETY: allocating has no precondition; the pointer is only passed on to the driver.
        match unsafe { cuda_malloc::<u8>(bytes) } {
            Ok(pointer) => Ok(Self { context, address: pointer.as_raw(), bytes }),
            Err(e) if e as u32 == symbols::OUT_OF_MEMORY => {
                let memory = context.memory()?;
                let (free_bytes, total_bytes) = (memory.free_bytes, memory.total_bytes);
                Err(CudaError::OutOfMemory { bytes, free_bytes, total_bytes })
            }
            Err(e) => checked("cuMemAlloc", Err(e)),
        }
    }

    /// Where it starts in the device's memory.
    pub fn address(&self) -> u64 {
        self.address
    }
    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.bytes
    }
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
    /// Its context.
    pub fn context(&self) -> &Context {
        &self.context
    }
    /// It, as elements that a kernel reads, from byte `start` on.
    ///
    /// # Panics
    /// When `start` lies outside.
    pub fn view<T>(&self, start: usize) -> Global<T> {
        assert!(start <= self.bytes, "a view from byte {start} of {}", self.bytes);
        Global::from_address(self.address + start as u64)
    }
    /// It, as elements that a kernel writes, from byte `start` on.
    ///
    /// # Panics
    /// When `start` lies outside.
    pub fn view_mut<T>(&self, start: usize) -> GlobalMut<T> {
        assert!(start <= self.bytes, "a view from byte {start} of {}", self.bytes);
        GlobalMut::from_address(self.address + start as u64)
    }

    /// The address of `len` bytes from byte `start` on.
    pub(super) fn address_of(&self, start: usize, len: usize) -> Result<u64, CudaError> {
        in_range("device buffer", start, len, self.bytes)?;
        Ok(self.address + start as u64)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.address != 0 && self.context.bind().is_ok() {
            // SAFETY: the address came from `cuda_malloc` and this was its last use on the host; the
            // driver frees it when the device has done what was queued. That fails when the context
            // is lost, and then the memory is too.
            let _ = unsafe { cuda_free(DevicePointer::<u8>::from_raw(self.address)) };
        }
    }
}

/// Bytes in the system's memory that the device copies by itself while the host goes on.
///
/// While a copy is under way nobody touches them: [`bytes`](Self::bytes) and
/// [`bytes_mut`](Self::bytes_mut) wait for it, and so does dropping.
#[derive(Debug)]
pub struct PinnedBuffer {
    context: Context,
    start: NonNull<u8>,
    bytes: usize,
    /// Behind the last copy, and with it behind every earlier one.
    last_copy: Event,
    /// [`Stream::id`] of the stream of the last copy.
    last_stream: Option<u64>,
}

// SAFETY: the bytes belong to it alone, and it gives them out by its own borrows.
unsafe impl Send for PinnedBuffer {}
// SAFETY: as above.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    pub(super) fn new(context: Context, bytes: usize) -> Result<Self, CudaError> {
        let last_copy = Event::new(context.clone(), false)?;
        let mut start = NonNull::dangling();
        if bytes > 0 {
            let none = |code| CudaError::NoPinnedMemory { bytes, code: DriverCode::new(code) };
            // SAFETY: allocating has no precondition.
            let pointer = unsafe { cuda_malloc_locked::<u8>(bytes) };
            let pointer = pointer.map_err(|e| none(e as u32))?;
            start = NonNull::new(pointer).ok_or(none(symbols::OUT_OF_MEMORY))?;
            // SAFETY: `bytes` bytes from `start` on were just allocated.
            unsafe { start.write_bytes(0, bytes) };
        }
        Ok(Self { context, start, bytes, last_copy, last_stream: None })
    }

    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.bytes
    }
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
    /// Its bytes, once the copies under way have ended.
    ///
    /// # Errors
    /// [`CudaError::Call`], when a copy or anything before it failed.
    pub fn bytes(&self) -> Result<&[u8], CudaError> {
        self.wait()?;
        // SAFETY: `bytes` bytes from `start` on are ours and were written at the start; no copy is
        // under way, and a new one takes `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) })
    }
    /// Its bytes to be changed, once the copies under way have ended.
    ///
    /// # Errors
    /// As of [`PinnedBuffer::bytes`].
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], CudaError> {
        self.wait()?;
        // SAFETY: as in `bytes`, and `self` is borrowed alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) })
    }

    fn wait(&self) -> Result<(), CudaError> {
        if self.last_stream.is_some() { self.last_copy.synchronize() } else { Ok(()) }
    }

    /// The address of `len` bytes from byte `start` on, for a copy.
    pub(super) fn address_of(&self, start: usize, len: usize) -> Result<*mut u8, CudaError> {
        in_range("pinned buffer", start, len, self.bytes)?;
        // SAFETY: the result lies inside the allocation, or one past its end.
        Ok(unsafe { self.start.as_ptr().add(start) })
    }
    /// To be called before a copy is queued in `stream`: it comes after those in other streams, so
    /// that the mark behind it is behind all.
    pub(super) fn begin_copy(&self, stream: &Stream) -> Result<(), CudaError> {
        match self.last_stream {
            Some(id) if id != stream.id() => stream.wait_for(&self.last_copy),
            _ => Ok(()),
        }
    }
    /// To be called after a copy was queued in `stream`.
    pub(super) fn end_copy(&mut self, stream: &Stream) -> Result<(), CudaError> {
        let marked = stream.record(&self.last_copy);
        match marked {
            Ok(()) => self.last_stream = Some(stream.id()),
            // Without a mark nobody could wait for the copy later.
            Err(_) => stream.synchronize()?,
        }
        marked
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // That fails only when the context is lost, and its copies with it.
        let _ = self.wait();
        if self.bytes > 0 && self.context.bind().is_ok() {
            // SAFETY: the pointer came from `cuda_malloc_locked`, and nobody uses it any more.
            let _ = unsafe { cuda_free_locked(self.start.as_ptr()) };
        }
    }
}

fn in_range(buffer: &'static str, start: usize, len: usize, bytes: usize) -> Result<(), CudaError> {
    match start.checked_add(len) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(CudaError::OutOfRange { buffer, start, len, bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_inside() {
        for (start, len, bytes, good) in [
            (0, 0, 0, true),
            (0, 8, 8, true),
            (8, 0, 8, true),
            (1, 8, 8, false),
            (9, 0, 8, false),
            (usize::MAX, 1, 8, false),
            (1, usize::MAX, 8, false),
        ] {
            let result = in_range("device buffer", start, len, bytes);
            assert_eq!(result.is_ok(), good, "{start}, {len} of {bytes}");
        }
    }
}
