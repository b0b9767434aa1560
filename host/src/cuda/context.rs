//! A device opened for use.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cuda_std::EntryInfo;

use super::buffer::{DeviceBuffer, PinnedBuffer};
use super::cache::CubinCache;
use super::driver::DeviceInfo;
use super::error::{CudaError, CudaVersion, check, checked};
use super::event::Event;
use super::kernels::{Function, Kernels, LoadedFunction, ModulesLoaded};
use super::stream::Stream;
use super::symbols;

/// Memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that can be allocated.
    pub free_bytes: usize,
    /// Bytes that the device has.
    pub total_bytes: usize,
}

/// A device opened for use: its primary context, with the kernels loaded into it.
///
/// A clone is the same context; everything made from one holds it. It may be used on any thread.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    // Dropped before `raw`: modules are unloaded from a live context.
    kernels: Kernels,
    raw: cust::context::Context,
    /// Of this process, never given twice; an address of a context may be.
    id: u64,
    device: DeviceInfo,
}

thread_local! {
    /// [`Inner::id`] of the context that is current on this thread; 0 is none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

impl Context {
    /// Opens `device` for a driver of `version`; compiled kernels are kept in the user's cache.
    ///
    /// # Errors
    /// [`CudaError::UnsupportedDevice`], [`CudaError::NoPtx`] and [`CudaError::DriverTooOld`] when
    /// the kernels cannot run there; [`CudaError::Call`] when the device cannot be used.
    pub fn open(device: DeviceInfo, version: CudaVersion) -> Result<Self, CudaError> {
        Self::open_with_cache(device, version, CubinCache::of_user())
    }

    /// The same, with compiled kernels kept in `cache`.
    ///
    /// # Errors
    /// As of [`Context::open`].
    pub fn open_with_cache(
        device: DeviceInfo,
        version: CudaVersion,
        cache: CubinCache,
    ) -> Result<Self, CudaError> {
        // Before the context, which takes memory of the device and a good part of a second.
        let kernels = Kernels::new(&device, version, cache)?;
        let number = device.ordinal as u32;
        let handle = checked("cuDeviceGet", cust::device::Device::get_device(number))?;
        // It makes itself current.
        CURRENT.set(0);
        let raw = checked("cuDevicePrimaryCtxRetain", cust::context::Context::new(handle))?;
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let context = Self(Arc::new(Inner { kernels, raw, id, device }));
        context.bind()?;
        Ok(context)
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.0.device
    }
    /// The architecture whose PTX runs, such as `sm_90`.
    pub fn arch(&self) -> &'static str {
        self.0.kernels.arch()
    }

    /// Memory of the device, as of now; other processes take from it too.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn memory(&self) -> Result<MemoryInfo, CudaError> {
        self.bind()?;
        let mut info = MemoryInfo { free_bytes: 0, total_bytes: 0 };
        // SAFETY: both are places for results.
        let code = unsafe { symbols::cuMemGetInfo_v2(&mut info.free_bytes, &mut info.total_bytes) };
        check("cuMemGetInfo", code)?;
        Ok(info)
    }

    /// A buffer of `bytes` bytes in the device's memory; what it holds is not defined.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn alloc(&self, bytes: usize) -> Result<DeviceBuffer, CudaError> {
        DeviceBuffer::new(self.clone(), bytes)
    }
    /// A buffer of `bytes` zero bytes in the system's memory, from where copies run by themselves.
    ///
    /// # Errors
    /// [`CudaError::NoPinnedMemory`].
    pub fn alloc_pinned(&self, bytes: usize) -> Result<PinnedBuffer, CudaError> {
        PinnedBuffer::new(self.clone(), bytes)
    }
    /// A queue of work.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn stream(&self) -> Result<Stream, CudaError> {
        Stream::new(self.clone())
    }
    /// A mark to put into streams, with a time.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn event(&self) -> Result<Event, CudaError> {
        Event::new(self.clone(), true)
    }
    /// Waits until the device has done everything that was queued in this context. Not while a
    /// stream of it records a graph.
    ///
    /// # Errors
    /// [`CudaError::Call`], for anything that failed in the meantime.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: no arguments; the context is current.
        check("cuCtxSynchronize", unsafe { symbols::cuCtxSynchronize() })
    }

    /// Loads modules of kernels, compiling several at a time what is not in the cache.
    ///
    /// # Errors
    /// The first one met: [`CudaError::Compile`], [`CudaError::Call`].
    pub fn load_modules(&self, modules: &[&str]) -> Result<(), CudaError> {
        self.0.kernels.load(self, modules)
    }
    /// What became of the modules that were used so far.
    pub fn modules_loaded(&self) -> ModulesLoaded {
        self.0.kernels.loaded()
    }
    /// The kernel `entry`; its module is loaded at the first use.
    ///
    /// # Errors
    /// [`CudaError::NoKernel`], [`CudaError::StaleKernel`], and those of loading a module.
    pub fn function(&self, entry: &EntryInfo) -> Result<Function, CudaError> {
        Ok(Function::new(self.clone(), self.loaded_function(entry)?, *entry))
    }
    pub(super) fn loaded_function(
        &self,
        entry: &EntryInfo,
    ) -> Result<Arc<LoadedFunction>, CudaError> {
        self.0.kernels.function(self, entry)
    }

    /// Makes it the context of this thread, which all calls of the driver go to.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.0.bind()
    }
}

impl Inner {
    fn bind(&self) -> Result<(), CudaError> {
        if CURRENT.get() == self.id {
            return Ok(());
        }
        let result = cust::context::CurrentContext::set_current(&self.raw);
        checked("cuCtxSetCurrent", result)?;
        CURRENT.set(self.id);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // If it fails, the context is lost, and the modules with it.
        let _ = self.bind();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context(GPU {}, {})", self.0.device.ordinal, self.0.device.name)
    }
}
