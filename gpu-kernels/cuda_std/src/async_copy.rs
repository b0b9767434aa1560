//! Copies from global to shared memory that go on beside the computation (`cp.async`).
//!
//! A thread's copies belong to the group it commits next; [`wait`] returns when at most so many of
//! its latest groups are still under way. A barrier after it makes the copies of all threads visible.

use crate::{Global, Shared, Thread, arch};

/// Starts copying 16 bytes, of which the first `bytes` come from `from` and the rest are zeros; with 0
/// nothing is read. Both addresses are divisible by 16.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn copy16<T, U>(_: Thread, to: Shared<T>, from: Global<U>, bytes: u32) {
    arch::copy_async16(to.address(), from.address(), bytes);
}

/// Starts copying 16 bytes. Both addresses are divisible by 16.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn copy16_whole<T, U>(_: Thread, to: Shared<T>, from: Global<U>) {
    arch::copy_async16_whole(to.address(), from.address());
}

/// Closes the group of the copies started since the last.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn commit(_: Thread) {
    arch::copy_async_commit();
}

/// Waits until at most the latest `PENDING` groups of this thread are under way.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn wait<const PENDING: u32>(_: Thread) {
    arch::copy_async_wait::<PENDING>();
}
