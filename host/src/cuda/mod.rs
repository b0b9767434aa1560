//! The one driver module: GPUs through the NVIDIA driver, as safe types. The only user of `cust`.
//!
//! ```text
//! Driver ─ open ▶ Context ─┬─ stream ▶ Stream ─ launch(&Entry<P>, Launch, &P), copies, capture
//!                          ├─ alloc  ▶ DeviceBuffer      PinnedBuffer, Event, Graph, GraphExec
//!                          └─ function(&EntryInfo) ▶ Function (registers, occupancy)
//! ```
//!
//! - The driver is found when the program runs (`symbols`): one binary for machines with and without.
//! - The PTX is inside the program (`ptx`); the driver compiles it once for each driver and device
//!   (`cache`), a module at its first use or several at once by [`Context::load_modules`].
//! - Everything holds its [`Context`] alive and makes it current on whatever thread it is used.
//!
//! **What a launch can break.** Host memory that a copy reads or writes is held until the copy has
//! ended. Views in the parameters of a kernel are addresses: whoever makes them from buffers answers
//! for their extents, as [`cuda_std::Global`] says. A kernel that leaves the device's memory is
//! stopped by the device, and every later call gives an error that
//! [is sticky](CudaError::is_sticky).
//!
//! It knows no model, no operation and no kernel by name.

mod buffer;
mod cache;
mod context;
mod driver;
mod error;
mod event;
mod graph;
mod kernels;
mod launch;
mod ptx;
mod stream;
mod symbols;

pub use buffer::{DeviceBuffer, PinnedBuffer};
pub use cache::CubinCache;
pub use context::{Context, MemoryInfo};
pub use driver::{DeviceInfo, Driver};
pub use error::{Compute, CudaError, CudaVersion, DriverCode};
pub use event::Event;
pub use graph::{Graph, GraphExec};
pub use kernels::{Function, ModulesLoaded};
pub use stream::Stream;

/// The architectures whose kernels are inside the program.
pub fn archs() -> Vec<&'static str> {
    let mut archs: Vec<_> = ptx::EMBEDDED.iter().map(|ptx| ptx.arch).collect();
    archs.sort_unstable();
    archs.dedup();
    archs
}
