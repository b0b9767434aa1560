//! Shared memory of a CTA.

use core::marker::PhantomData;

use crate::{Scalar, Thread, arch};

/// Elements in shared memory, by their 32-bit address.
pub struct Shared<T>(u32, PhantomData<*mut T>);

impl<T> Clone for Shared<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    /// Where it starts.
    #[inline(always)]
    pub fn address(self) -> u32 {
        self.0
    }
    /// From element `i` on.
    #[inline(always)]
    pub fn at(self, i: u32) -> Self {
        Shared(self.0 + i * size_of::<T>() as u32, PhantomData)
    }
    /// The same memory as elements of another type; an access must be aligned to it.
    #[inline(always)]
    pub fn cast<U>(self) -> Shared<U> {
        Shared(self.0, PhantomData)
    }
}

impl<T: Scalar> Shared<T> {
    /// Element `i`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn get(self, i: u32) -> T {
        T::load_shared(self.at(i).0)
    }
    /// Sets element `i`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn set(self, i: u32, value: T) {
        T::store_shared(self.at(i).0, value);
    }
}

impl Shared<u32> {
    /// Adds to element `i` and gives what it was, as one operation among the threads of the CTA.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn atomic_add(self, i: u32, value: u32) -> u32 {
        arch::atomic_add_shared_u32(self.at(i).0, value)
    }
}

/// Hands out the dynamic shared memory of the launch, piece by piece.
#[derive(Debug)]
pub struct SharedMemory {
    next: u32,
}

impl SharedMemory {
    /// All of it: `Launch::shared_bytes`, at an address divisible by 128.
    #[inline(always)]
    pub fn dynamic(_: Thread) -> Self {
        Self { next: arch::dynamic_shared() }
    }
    /// The next `len` elements, at an address divisible by 16.
    #[inline(always)]
    pub fn take<T>(&mut self, len: u32) -> Shared<T> {
        let start = self.next;
        self.next += (len * size_of::<T>() as u32).next_multiple_of(16);
        Shared(start, PhantomData)
    }
}

impl Thread {
    /// `BYTES` of static shared memory, the same for all threads of the CTA, at an address divisible
    /// by 16. Each call in the source is memory of its own.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn static_shared<T, const BYTES: u32>(self) -> Shared<T> {
        Shared(arch::static_shared::<BYTES>(), PhantomData)
    }
}
