//! The functions of the driver, found in `libcuda.so.1` when the program runs.
//!
//! The program links no CUDA library, so the same binary starts where there is no driver. Every call
//! goes through a slot: empty, it answers `CUDA_ERROR_NOT_INITIALIZED`; [`load`] fills them all.
//! `cust` links against the driver's names, so those that it uses are defined here under the same
//! names (`linked`); the rest are plain functions, among them calls that are newer than its bindings.
//!
//! Results are plain numbers here: a newer driver may answer with a code that the published bindings
//! do not list, and theirs is an enum. What reaches `cust` is cut down to the codes it knows.

#![allow(non_snake_case, non_upper_case_globals)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use cust::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode,
    CUlinkState, CUmodule, CUstream, CUuuid,
};

/// Result of a call: `CUresult` as a number.
pub type Code = u32;

/// `CUDA_SUCCESS`.
pub const SUCCESS: Code = 0;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: Code = 2;
/// `CUDA_ERROR_NOT_INITIALIZED`.
pub const NOT_INITIALIZED: Code = 3;
/// `CUDA_ERROR_NO_DEVICE`.
pub const NO_DEVICE: Code = 100;
/// `CUDA_ERROR_UNKNOWN`.
const UNKNOWN: Code = 999;

/// What a launch asks for beside its shape: `CUlaunchAttribute` of CUDA 12.
#[repr(C)]
pub struct LaunchAttribute {
    pub id: c_uint,
    pub pad: [u8; 4],
    /// A union of 64 bytes; the attribute used here is an `int` at its start.
    pub value: [u64; 8],
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: the kernel may start before the one
/// before it in the stream has ended.
pub const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;

/// Shape and attributes of a launch: `CUlaunchConfig` of CUDA 12.
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: CUstream,
    pub attributes: *const LaunchAttribute,
    pub attribute_count: c_uint,
}

// As in cuda.h on 64-bit systems.
const _: () = assert!(size_of::<LaunchAttribute>() == 72);
const _: () = assert!(size_of::<LaunchConfig>() == 56);

macro_rules! driver_calls {
    (
        linked { $($lname:ident($($larg:ident: $LType:ty),*);)* }
        own { $($name:ident($($arg:ident: $Type:ty),*);)* }
    ) => {
        mod slots {
            use super::*;
            $(pub static $lname: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());)*
            $(pub static $name: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());)*
        }
        driver_calls! { @functions $($lname($($larg: $LType),*);)* $($name($($arg: $Type),*);)* }

        /// What `cust` links to.
        mod linked {
            use super::*;
            $(
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $lname($($larg: $LType),*) -> Code {
                    // SAFETY: the caller keeps the contract of the driver's function.
                    known(unsafe { super::$lname($($larg),*) })
                }
            )*
        }

        // A shared library made of this crate must not offer these names: a program that uses CUDA by
        // itself would find them in place of the driver's. A reference in a section that is not
        // loaded makes the assembler note the visibility, whichever object the functions are in.
        std::arch::global_asm!(
            $(concat!(".hidden ", stringify!($lname)),)*
            r#".pushsection .imp_hidden, "", @progbits"#,
            $(concat!(".quad ", stringify!($lname)),)*
            ".popsection",
        );

        /// Fills every slot from `library`; gives the names that it does not have.
        fn fill(library: &libloading::Library) -> Vec<&'static str> {
            let mut missing = Vec::new();
            for (name, slot) in [
                $((stringify!($lname), &slots::$lname),)*
                $((stringify!($name), &slots::$name),)*
            ] {
                // SAFETY: the symbol is only kept as an address; the call above gives it its type.
                match unsafe { library.get::<*mut c_void>(name) } {
                    Ok(symbol) => slot.store(*symbol, Ordering::Release),
                    Err(_) => missing.push(name),
                }
            }
            missing
        }
    };
    (@functions $($name:ident($($arg:ident: $Type:ty),*);)*) => {
        $(
            /// The driver's function of this name.
            ///
            /// # Safety
            /// As documented for it in the CUDA Driver API.
            #[allow(clippy::too_many_arguments)] // the driver's
            pub unsafe fn $name($($arg: $Type),*) -> Code {
                let address = slots::$name.load(Ordering::Acquire);
                if address.is_null() {
                    return NOT_INITIALIZED;
                }
                // SAFETY: `fill` found the address under this name in the driver, and the signature
                // is the one that cuda.h declares for the name.
                let call: unsafe extern "C" fn($($Type),*) -> Code = unsafe {
                    std::mem::transmute(address)
                };
                // SAFETY: the caller keeps the contract of the driver's function.
                unsafe { call($($arg),*) }
            }
        )*
    };
}

// `_v2` and the like are the versions that cuda.h of CUDA 12 maps the plain names to.
driver_calls! {
    linked {
        cuInit(flags: c_uint);
        cuDriverGetVersion(version: *mut c_int);
        cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
        cuDeviceGetCount(count: *mut c_int);
        cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
        cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
        cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: CUdevice);
        cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
        cuDevicePrimaryCtxRelease_v2(device: CUdevice);
        cuCtxSetCurrent(context: CUcontext);
        cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
        cuStreamDestroy_v2(stream: CUstream);
        cuStreamSynchronize(stream: CUstream);
        cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, count: c_uint,
            options: *mut c_uint, values: *mut *mut c_void);
        cuModuleUnload(module: CUmodule);
        cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
        cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
        cuMemFree_v2(address: CUdeviceptr);
        cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize);
        cuMemFreeHost(address: *mut c_void);
    }
    own {
        cuGetErrorName(code: Code, text: *mut *const c_char);
        cuGetErrorString(code: Code, text: *mut *const c_char);
        cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice);
        cuCtxSynchronize();
        cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
        cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
        cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
        cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
        cuMemsetD8Async(to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream);
        cuEventCreate(event: *mut CUevent, flags: c_uint);
        cuEventDestroy_v2(event: CUevent);
        cuEventRecord(event: CUevent, stream: CUstream);
        cuEventSynchronize(event: CUevent);
        cuEventElapsedTime(milliseconds: *mut f32, from: CUevent, to: CUevent);
        cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
        cuStreamBeginCapture_v2(stream: CUstream, mode: c_uint);
        cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
        cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize);
        cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
        cuGraphUpload(exec: CUgraphExec, stream: CUstream);
        cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
        cuGraphExecDestroy(exec: CUgraphExec);
        cuGraphDestroy(graph: CUgraph);
        cuLinkCreate_v2(count: c_uint, options: *mut c_uint, values: *mut *mut c_void,
            state: *mut CUlinkState);
        cuLinkAddData_v2(state: CUlinkState, kind: c_uint, data: *mut c_void, bytes: usize,
            name: *const c_char, count: c_uint, options: *mut c_uint, values: *mut *mut c_void);
        cuLinkComplete(state: CUlinkState, cubin: *mut *mut c_void, bytes: *mut usize);
        cuLinkDestroy(state: CUlinkState);
        cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: CUfunction);
        cuFuncSetAttribute(function: CUfunction, attribute: c_uint, value: c_int);
        cuOccupancyMaxActiveBlocksPerMultiprocessor(ctas: *mut c_int, function: CUfunction,
            threads: c_int, shared_bytes: usize);
        cuLaunchKernelEx(config: *const LaunchConfig, function: CUfunction,
            parameters: *mut *mut c_void, extra: *mut *mut c_void);
    }
}

/// Loads the driver `library` for the rest of the program's life.
///
/// Gives the names of the functions that it lacks: none, unless it is older than CUDA 12.
///
/// # Errors
/// The loader's, when there is no such library or it cannot be loaded.
pub fn load(library: &str) -> Result<Vec<&'static str>, libloading::Error> {
    // SAFETY: the initialisation of the driver's library is what NVIDIA made to be loaded this way.
    let library = unsafe { libloading::Library::new(library) }?;
    let missing = fill(&library);
    // The slots hold addresses inside it, for good.
    std::mem::forget(library);
    Ok(missing)
}

/// `code`, if `cust`'s enum of results has it; otherwise `CUDA_ERROR_UNKNOWN`.
fn known(code: Code) -> Code {
    match code {
        0..=8 | 34 | 100..=102 | 200..=202 | 205..=224 | 300..=304 | 400..=401 | 500 | 600 => code,
        700..=705 | 708..=720 | 800..=809 | 900..=911 | 999 => code,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_answers_and_does_not_crash() {
        // A name that nothing calls, so that no other test fills or needs it.
        driver_call_of_tests::check();
    }

    /// Slots of their own, which no test fills.
    mod driver_call_of_tests {
        use super::super::*;

        pub fn check() {
            mod slots {
                use super::*;
                pub static cuNothing: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            }
            driver_calls! { @functions cuNothing(a: u64, b: *mut c_void); }
            // SAFETY: the slot is empty, so nothing is called.
            assert_eq!(unsafe { cuNothing(1, std::ptr::null_mut()) }, NOT_INITIALIZED);
        }
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = load("libcuda-that-is-not-there.so.1").unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("libcuda-that-is-not-there.so.1"), "{reason}");
    }

    /// Every code that `cust` is given is a value of its enum.
    #[test]
    fn codes_that_the_bindings_lack_become_unknown() {
        for code in [203, 204, 225, 299, 402, 706, 721, 812, 912, 1000, u32::MAX] {
            assert_eq!(known(code), UNKNOWN, "{code}");
        }
        for code in [SUCCESS, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE, 222, 700, 719, 900] {
            assert_eq!(known(code), code);
        }
    }
}
