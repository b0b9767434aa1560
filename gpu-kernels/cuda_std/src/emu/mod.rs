//! The emulator: runs kernels on the host, stricter than any device.
//!
//! [`Memory`] is a device's memory; [`Memory::launch`] runs a kernel on it, CTA after CTA, each thread
//! of a CTA a coroutine that runs until it has to wait for others. Every access is checked, and what a
//! device would let pass silently is a [`Fault`] that names kernel, CTA, thread and line:
//!
//! - global and shared memory out of bounds, misaligned, read before it was written, or accessed by
//!   two threads, one of them writing, with no barrier between (`shadow.rs`);
//! - a barrier or an operation of the warp that some threads do not reach (`cta.rs`);
//! - the target of an asynchronous copy used before the copy was waited for, or a source that changes
//!   meanwhile (`copy.rs`); its data arrive at the wait, not earlier;
//! - memory that kernels before may still write, ahead of `wait_for_previous_kernel`.
//!
//! It does not model time, caches, bank conflicts or the order in which CTAs run: a kernel whose CTAs
//! wait for each other ends as [`FaultKind::Endless`].

pub(crate) mod copy;
mod cta;
mod fault;
pub(crate) mod global;
pub(crate) mod math;
pub(crate) mod matrix;
mod memory;
mod order;
pub(crate) mod run;
mod shadow;
pub(crate) mod shared;
mod tensor_core;

#[cfg(test)]
mod tests;

pub use fault::{Fault, FaultKind};
pub use memory::{Memory, View};
