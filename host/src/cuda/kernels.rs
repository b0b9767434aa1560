//! Modules and functions of a context: compiled or taken from the cache, and loaded.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cuda_std::EntryInfo;
use cust::module::Module;
use cust::sys::{CUfunction, CUlinkState};

use super::cache::{CubinCache, CubinKey};
use super::context::Context;
use super::driver::DeviceInfo;
use super::error::{Compute, CudaError, CudaVersion, DriverCode, check, checked};
use super::ptx::{self, Ptx};
use super::symbols::{self, Code};

/// What became of the modules that were used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModulesLoaded {
    /// Compiled by the driver.
    pub compiled: usize,
    /// Taken from the cache.
    pub cached: usize,
}

/// The kernels that a context can run.
pub(super) struct Kernels {
    arch: &'static str,
    version: CudaVersion,
    compute: Compute,
    shared_bytes_per_cta: u32,
    cache: CubinCache,
    functions: RwLock<HashMap<&'static str, Arc<LoadedFunction>>>,
    modules: HashMap<&'static str, Slot>,
    compiled: AtomicUsize,
    cached: AtomicUsize,
}

/// A module, loaded at its first use.
struct Slot {
    ptx: &'static Ptx,
    module: Mutex<Option<Arc<Module>>>,
}

/// A function of a loaded module. Lives in its context.
pub(super) struct LoadedFunction {
    pub(super) raw: CUfunction,
    /// What a launch may ask for beside the kernel's static shared memory.
    pub(super) max_dynamic_shared_bytes: u32,
    /// Of its parameters, as compiled.
    layout: u64,
    registers: u32,
    local_bytes: u32,
    static_shared_bytes: u32,
    /// CTAs of the most threads that fit on a multiprocessor, without dynamic shared memory.
    resident_ctas: u32,
    /// Keeps the function loaded.
    _module: Arc<Module>,
}

// SAFETY: a function is code; the driver's calls on it may come from any thread, also at once.
unsafe impl Send for LoadedFunction {}
// SAFETY: as above.
unsafe impl Sync for LoadedFunction {}

impl Kernels {
    /// Chooses the PTX for `device`; loads nothing yet.
    pub(super) fn new(
        device: &DeviceInfo,
        version: CudaVersion,
        cache: CubinCache,
    ) -> Result<Self, CudaError> {
        let (arch, chosen) = ptx::modules_for(device.compute, &device.name, ptx::EMBEDDED)?;
        let modules: HashMap<_, _> =
            chosen.map(|ptx| (ptx.module, Slot { ptx, module: Mutex::new(None) })).collect();
        // All modules of an architecture are of one PTX version.
        let one = modules.values().next().map(|slot| slot.ptx.text()).transpose()?;
        if let Some(needed) = one.as_deref().and_then(ptx::cuda_needed)
            && version < needed
        {
            let what = format!("the kernels for {arch} (compute capability {})", device.compute);
            return Err(CudaError::DriverTooOld { found: version, needed, what });
        }
        Ok(Self {
            arch,
            version,
            compute: device.compute,
            shared_bytes_per_cta: device.shared_bytes_per_cta,
            cache,
            functions: RwLock::default(),
            modules,
            compiled: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
        })
    }

    pub(super) fn arch(&self) -> &'static str {
        self.arch
    }
    pub(super) fn loaded(&self) -> ModulesLoaded {
        ModulesLoaded {
            compiled: self.compiled.load(Ordering::Relaxed),
            cached: self.cached.load(Ordering::Relaxed),
        }
    }

    /// The function of `entry`, which was compiled with its parameters.
    pub(super) fn function(
        &self,
        context: &Context,
        entry: &EntryInfo,
    ) -> Result<Arc<LoadedFunction>, CudaError> {
        // A panic elsewhere leaves the maps as they were, so a poisoned lock is still good.
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let function = match functions.get(entry.name) {
            Some(function) => function.clone(),
            None => {
                drop(functions);
                let function = Arc::new(self.load_function(context, entry)?);
                let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
                functions.entry(entry.name).or_insert(function).clone()
            }
        };
        if function.layout != entry.layout {
            let (kernel, module, arch) = (entry.name, entry.module, self.arch);
            return Err(CudaError::StaleKernel { kernel, module, arch });
        }
        Ok(function)
    }

    /// Loads modules, several at a time; those that there are not are found missing when used.
    pub(super) fn load(&self, context: &Context, modules: &[&str]) -> Result<(), CudaError> {
        let slots: Vec<&Slot> = modules.iter().filter_map(|name| self.modules.get(*name)).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let load_some = || -> Result<(), CudaError> {
            while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.module(context, slot)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers = threads.min(slots.len());
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(load_some)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().try_for_each(join)
        })
    }

    fn load_function(
        &self,
        context: &Context,
        entry: &EntryInfo,
    ) -> Result<LoadedFunction, CudaError> {
        let (kernel, module, arch) = (entry.name, entry.module, self.arch);
        let missing = || CudaError::NoKernel { kernel, module, arch };
        let slot = self.modules.get(module).ok_or_else(missing)?;
        let layout = slot.ptx.layout(kernel).ok_or_else(missing)?;
        let module = self.module(context, slot)?;
        let raw = checked("cuModuleGetFunction", module.get_function(kernel))?.to_raw();
        let registers = attribute(raw, attributes::REGISTERS)?;
        let local_bytes = attribute(raw, attributes::LOCAL_BYTES)?;
        let static_shared_bytes = attribute(raw, attributes::SHARED_BYTES)?;
        // All that the device gives: a limit, and not what a launch takes. Without it it is 48 KiB.
        let most = self.shared_bytes_per_cta.saturating_sub(static_shared_bytes);
        // SAFETY: the function was just found in a module that is loaded; no pointers.
        check("cuFuncSetAttribute", unsafe {
            symbols::cuFuncSetAttribute(raw, attributes::MAX_DYNAMIC_SHARED_BYTES, most as i32)
        })?;
        Ok(LoadedFunction {
            raw,
            max_dynamic_shared_bytes: most,
            layout,
            registers,
            local_bytes,
            static_shared_bytes,
            resident_ctas: occupancy(raw, entry.max_threads, 0)?,
            _module: module,
        })
    }

    /// The module of `slot`, loaded.
    fn module(&self, context: &Context, slot: &Slot) -> Result<Arc<Module>, CudaError> {
        let mut module = slot.module.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = &*module {
            return Ok(module.clone());
        }
        context.bind()?;
        let text = slot.ptx.text()?;
        let key = CubinKey::new(&text, self.version, self.compute);
        let cached = self.cache.get(&key).and_then(|cubin| Module::from_cubin(cubin, &[]).ok());
        let loaded = match cached {
            Some(loaded) => {
                self.cached.fetch_add(1, Ordering::Relaxed);
                loaded
            }
            // None, or one that this driver does not take, whatever the reason.
            None => {
                let cubin = compile(slot.ptx, &text)?;
                let loaded = checked("cuModuleLoadDataEx", Module::from_cubin(&cubin, &[]))?;
                self.compiled.fetch_add(1, Ordering::Relaxed);
                self.cache.put(&key, &cubin);
                loaded
            }
        };
        Ok(module.insert(Arc::new(loaded)).clone())
    }
}

/// `CUfunction_attribute`.
mod attributes {
    pub const SHARED_BYTES: u32 = 1;
    pub const LOCAL_BYTES: u32 = 3;
    pub const REGISTERS: u32 = 4;
    pub const MAX_DYNAMIC_SHARED_BYTES: u32 = 8;
}

fn attribute(function: CUfunction, attribute: u32) -> Result<u32, CudaError> {
    let mut value = 0;
    // SAFETY: the function is of a loaded module; `value` is a place for the result.
    let code = unsafe { symbols::cuFuncGetAttribute(&mut value, attribute, function) };
    check("cuFuncGetAttribute", code)?;
    // Counts and sizes; none is negative.
    Ok(value.unsigned_abs())
}

/// CTAs that fit on a multiprocessor of the current context together.
fn occupancy(function: CUfunction, threads: u32, shared_bytes: u32) -> Result<u32, CudaError> {
    let (mut ctas, threads) = (0, threads.min(i32::MAX as u32) as i32);
    let shared_bytes = shared_bytes as usize;
    // SAFETY: the function is of a loaded module; `ctas` is a place for the result.
    let code = unsafe {
        symbols::cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &mut ctas,
            function,
            threads,
            shared_bytes,
        )
    };
    check("cuOccupancyMaxActiveBlocksPerMultiprocessor", code)?;
    Ok(ctas.unsigned_abs())
}

/// Compiles PTX to a cubin for the device of the current context.
///
/// By the linker, since that gives the bytes for the cache; it runs on several threads at a time.
fn compile(ptx: &Ptx, text: &str) -> Result<Vec<u8>, CudaError> {
    /// `CU_JIT_ERROR_LOG_BUFFER` and `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`.
    const OPTIONS: [u32; 2] = [5, 6];
    /// `CU_JIT_INPUT_PTX`.
    const INPUT_PTX: u32 = 1;
    let mut log = vec![0u8; 8192];
    let failed = |call, code: Code, log: &[u8]| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]).into_owned();
        let (module, arch) = (ptx.module, ptx.arch);
        CudaError::Compile { call, code: DriverCode::new(code), module, arch, log }
    };
    let damaged = |e| CudaError::DamagedPtx {
        module: ptx.module,
        arch: ptx.arch,
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
    };
    let text = CString::new(text).map_err(damaged)?;
    let text = text.as_bytes_with_nul();

    let mut options = OPTIONS;
    // The second is a number where the driver's interface has pointers.
    let mut values: [*mut c_void; 2] =
        [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
    let mut state: CUlinkState = std::ptr::null_mut();
    // SAFETY: two options with a value each: a buffer, and its size. Options and buffer live until
    // the linker is destroyed, below.
    let code = unsafe {
        symbols::cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &mut state)
    };
    if code != symbols::SUCCESS {
        return Err(failed("cuLinkCreate", code, &log));
    }
    let linker = Linker(state);
    let name: *const c_char = c"kernels".as_ptr();
    let none = std::ptr::null_mut;
    // SAFETY: the linker is alive; `text` ends in 0, which its length counts, and is only read; there
    // are no further options.
    let code = unsafe {
        let data = text.as_ptr().cast_mut().cast();
        let (options, values) = (none(), std::ptr::null_mut());
        symbols::cuLinkAddData_v2(linker.0, INPUT_PTX, data, text.len(), name, 0, options, values)
    };
    if code != symbols::SUCCESS {
        return Err(failed("cuLinkAddData", code, &log));
    }
    let (mut cubin, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the linker is alive; both are places for results.
    let code = unsafe { symbols::cuLinkComplete(linker.0, &mut cubin, &mut bytes) };
    if code != symbols::SUCCESS || cubin.is_null() {
        return Err(failed("cuLinkComplete", code, &log));
    }
    // SAFETY: the driver gave `bytes` bytes at `cubin`, which belong to the linker; they are copied
    // while it lives.
    let cubin = unsafe { std::slice::from_raw_parts(cubin.cast::<u8>(), bytes) }.to_vec();
    drop(linker);
    Ok(cubin)
}

/// A linker of the driver.
struct Linker(CUlinkState);

impl Drop for Linker {
    fn drop(&mut self) {
        // SAFETY: the linker is alive, and this is its last use.
        let _ = unsafe { symbols::cuLinkDestroy(self.0) };
    }
}

/// A kernel as the device sees it, for reports.
#[derive(Clone)]
pub struct Function {
    context: Context,
    loaded: Arc<LoadedFunction>,
    entry: EntryInfo,
}

impl Function {
    pub(super) fn new(context: Context, loaded: Arc<LoadedFunction>, entry: EntryInfo) -> Self {
        Self { context, loaded, entry }
    }

    /// What it was asked for with.
    pub fn entry(&self) -> &EntryInfo {
        &self.entry
    }
    /// Registers a thread.
    pub fn registers(&self) -> u32 {
        self.loaded.registers
    }
    /// Bytes of local memory a thread; more than 0 means spills or arrays outside registers.
    pub fn local_bytes(&self) -> u32 {
        self.loaded.local_bytes
    }
    /// Bytes of shared memory a CTA, beside what a launch asks for.
    pub fn static_shared_bytes(&self) -> u32 {
        self.loaded.static_shared_bytes
    }
    /// Bytes of shared memory that a launch may ask for.
    pub fn max_dynamic_shared_bytes(&self) -> u32 {
        self.loaded.max_dynamic_shared_bytes
    }
    /// CTAs of `threads` threads with `shared_bytes` bytes of dynamic shared memory that fit on a
    /// multiprocessor together.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn ctas_per_multiprocessor(
        &self,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<u32, CudaError> {
        self.context.bind()?;
        occupancy(self.loaded.raw, threads, shared_bytes)
    }
    /// The same for the most threads that a CTA may have, without dynamic shared memory.
    pub fn resident_ctas(&self) -> u32 {
        self.loaded.resident_ctas
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Function({}, {} registers)", self.entry.name, self.loaded.registers)
    }
}
