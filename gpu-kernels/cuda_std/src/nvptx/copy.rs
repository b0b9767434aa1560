//! Asynchronous copies.

use core::arch::asm;

#[inline(always)]
pub fn copy_async16(to: u32, from: u64, bytes: u32) {
    // SAFETY: the launch answers for the addresses.
    unsafe {
        asm!("cp.async.cg.shared.global [{0}], [{1}], 16, {2};", in(reg32) to, in(reg64) from,
            in(reg32) bytes, options(nostack))
    }
}
#[inline(always)]
pub fn copy_async16_whole(to: u32, from: u64) {
    // SAFETY: the launch answers for the addresses.
    unsafe {
        asm!("cp.async.cg.shared.global [{0}], [{1}], 16;", in(reg32) to, in(reg64) from,
            options(nostack))
    }
}
#[inline(always)]
pub fn copy_async_commit() {
    // SAFETY: closes a group.
    unsafe { asm!("cp.async.commit_group;", options(nostack)) }
}
#[inline(always)]
pub fn copy_async_wait<const PENDING: u32>() {
    // SAFETY: waits.
    unsafe { asm!("cp.async.wait_group {0};", const PENDING, options(nostack)) }
}
