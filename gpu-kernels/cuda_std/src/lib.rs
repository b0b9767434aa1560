//! The seam between kernels and what runs them: thread indices, barriers, warp operations, shared
//! and global memory, asynchronous copies and matrix instructions, with the names of Rust-CUDA.
//!
//! Kernel sources are written against this crate alone. On `nvptx64` each operation is one PTX
//! instruction or an intrinsic (`nvptx/`); elsewhere it is an exact definition that a SIMT emulator
//! (`emu/`) executes and checks. The public half is the same: [`Thread`], [`Global`], [`Shared`],
//! [`mma`], [`math`], [`kernel`].
//!
//! It knows no kernel, no model and no driver.

#![cfg_attr(target_arch = "nvptx64", no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    allow(internal_features),
    feature(asm_experimental_arch, stdarch_nvptx)
)]

#[cfg(target_arch = "nvptx64")]
#[path = "nvptx/mod.rs"]
pub(crate) mod arch;

#[cfg(not(target_arch = "nvptx64"))]
#[path = "emu/arch.rs"]
pub(crate) mod arch;

#[cfg(not(target_arch = "nvptx64"))]
pub mod emu;

pub mod async_copy;
mod global;
pub mod kernel;
pub mod math;
pub mod mma;
mod shared;
pub mod thread;

pub use global::{Global, GlobalMut, Scalar};
pub use half::f16;
pub use kernel::{Entry, EntryInfo, Launch, Params};
pub use shared::{Shared, SharedMemory};
pub use thread::Thread;
