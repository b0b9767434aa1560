//! The device half: one PTX instruction an operation.
//!
//! Loads and stores are volatile to LLVM, so their order in the source stands; ptxas schedules them.
//! `cfg(device_pdl)` is set for architectures with programmatic dependent launch (sm_90 on),
//! `cfg(device_e4m3)` for those with FP8 matrix instructions (sm_89 on).

use core::arch::{asm, nvptx as nv};

mod copy;
mod math;
mod memory;
mod mma;

pub use copy::*;
pub use math::*;
pub use memory::*;
pub use mma::*;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the kernel with an error.
    unsafe { nv::trap() }
}

#[inline(always)]
pub fn thread_id() -> u32 {
    // SAFETY: reads a register.
    (unsafe { nv::_thread_idx_x() }) as u32
}
#[inline(always)]
pub fn thread_count() -> u32 {
    // SAFETY: reads a register.
    (unsafe { nv::_block_dim_x() }) as u32
}
#[inline(always)]
pub fn cta_id<const AXIS: u32>() -> u32 {
    // SAFETY: reads a register.
    (unsafe {
        match AXIS {
            0 => nv::_block_idx_x(),
            1 => nv::_block_idx_y(),
            _ => nv::_block_idx_z(),
        }
    }) as u32
}
#[inline(always)]
pub fn cta_count<const AXIS: u32>() -> u32 {
    // SAFETY: reads a register.
    (unsafe {
        match AXIS {
            0 => nv::_grid_dim_x(),
            1 => nv::_grid_dim_y(),
            _ => nv::_grid_dim_z(),
        }
    }) as u32
}

#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    let r;
    // SAFETY: a move. Not `pure`, so it stays where it is.
    unsafe { asm!("mov.b32 {0}, {1};", out(reg32) r, in(reg32) value, options(nomem, nostack)) }
    r
}

#[inline(always)]
pub fn barrier() {
    // SAFETY: every thread of the CTA comes here, which the emulator checks.
    unsafe { nv::_syncthreads() }
}
#[inline(always)]
pub fn warp_barrier() {
    // SAFETY: every lane of the warp comes here.
    unsafe { asm!("bar.warp.sync 0xffffffff;", options(nostack)) }
}
#[inline(always)]
pub fn fence() {
    // SAFETY: orders memory.
    unsafe { asm!("fence.acq_rel.gpu;", options(nostack)) }
}
#[inline(always)]
pub fn grid_dependency_wait() {
    #[cfg(device_pdl)]
    // SAFETY: waits.
    unsafe {
        asm!("griddepcontrol.wait;", options(nostack))
    }
}
#[inline(always)]
pub fn grid_dependency_launch() {
    #[cfg(device_pdl)]
    // SAFETY: a hint.
    unsafe {
        asm!("griddepcontrol.launch_dependents;", options(nostack))
    }
}

#[inline(always)]
pub fn shuffle_xor(value: u32, mask: u32) -> u32 {
    let r;
    // SAFETY: all lanes take part.
    unsafe {
        asm!("shfl.sync.bfly.b32 {0}, {1}, {2}, 0x1f, 0xffffffff;",
            out(reg32) r, in(reg32) value, in(reg32) mask, options(nostack))
    }
    r
}
#[inline(always)]
pub fn shuffle(value: u32, lane: u32) -> u32 {
    let r;
    // SAFETY: all lanes take part.
    unsafe {
        asm!("shfl.sync.idx.b32 {0}, {1}, {2}, 0x1f, 0xffffffff;",
            out(reg32) r, in(reg32) value, in(reg32) lane, options(nostack))
    }
    r
}
#[inline(always)]
pub fn shuffle_up(value: u32, delta: u32) -> u32 {
    let r;
    // SAFETY: all lanes take part.
    unsafe {
        asm!("shfl.sync.up.b32 {0}, {1}, {2}, 0x0, 0xffffffff;",
            out(reg32) r, in(reg32) value, in(reg32) delta, options(nostack))
    }
    r
}
#[inline(always)]
pub fn ballot(predicate: bool) -> u32 {
    let r;
    // SAFETY: all lanes take part.
    unsafe {
        asm!("{{ .reg .pred p; setp.ne.u32 p, {1}, 0; vote.sync.ballot.b32 {0}, p, 0xffffffff; }}",
            out(reg32) r, in(reg32) predicate as u32, options(nostack))
    }
    r
}
