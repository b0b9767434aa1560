//! What can go wrong with a GPU.

use std::ffi::{CStr, c_char};
use std::fmt;

use super::symbols::{self, Code};

/// A result of the driver: `CUresult` with its name and its meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DriverCode(Code);

impl DriverCode {
    /// The code with this number.
    pub(super) const fn new(code: Code) -> Self {
        Self(code)
    }
    /// Its number in `cuda.h`.
    pub const fn number(self) -> u32 {
        self.0
    }
    /// Whether the device's context is lost: every later call on it fails likewise, and only a new
    /// process helps. Such are faults of kernels and of the hardware.
    pub const fn is_sticky(self) -> bool {
        matches!(self.0, 214 | 220 | 226 | 700 | 702 | 709..=710 | 714..=719 | 721)
    }
}

impl fmt::Display for DriverCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = text(self.0, symbols::cuGetErrorName);
        let what = text(self.0, symbols::cuGetErrorString);
        match (name, what) {
            (Some(name), Some(what)) => write!(f, "{what} ({name}, {})", self.0),
            (Some(name), None) => write!(f, "{name} ({})", self.0),
            _ => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for DriverCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What the driver says about a code; nothing when it does not know it or is not loaded.
fn text(code: Code, call: unsafe fn(Code, *mut *const c_char) -> Code) -> Option<&'static str> {
    let mut text = std::ptr::null();
    // SAFETY: `text` is a place for the pointer that the call gives.
    let result = unsafe { call(code, &mut text) };
    if result != symbols::SUCCESS || text.is_null() {
        return None;
    }
    // SAFETY: the driver gives a string that ends in 0 and lives as long as the driver.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// Version of CUDA that a driver supports or that something needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// 12 of 12.4.
    pub major: u32,
    /// 4 of 12.4.
    pub minor: u32,
}

impl CudaVersion {
    /// From the driver's number, such as 12040.
    pub(super) const fn from_number(number: u32) -> Self {
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Compute capability of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Compute {
    /// 9 of 9.0.
    pub major: u32,
    /// 0 of 9.0.
    pub minor: u32,
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a GPU cannot be used, or stopped working.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no NVIDIA driver, or not one that can be loaded.
    #[error("no NVIDIA driver was found ({library} cannot be loaded)")]
    NoDriver {
        /// The library looked for.
        library: &'static str,
        /// What the loader said.
        source: libloading::Error,
    },
    /// The driver does not support what is needed.
    #[error("the NVIDIA driver supports CUDA {found}; {what} need {needed} or newer")]
    DriverTooOld {
        /// What it supports.
        found: CudaVersion,
        /// What is needed.
        needed: CudaVersion,
        /// What needs it.
        what: String,
    },
    /// The driver is loaded and sees no device.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// A device number that this machine does not have.
    #[error("there is no GPU {ordinal}: this machine has {count}, numbered from 0")]
    BadDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A device that the kernels were not compiled for.
    #[error("{device} has compute capability {compute}; the kernels need 8.0 or newer")]
    UnsupportedDevice {
        /// Its name.
        device: String,
        /// What it has.
        compute: Compute,
    },
    /// The program was built without kernels that the device could run.
    #[error(
        "the program was built without kernels for compute capability {compute}: {missing} is \
         not in ptx-cache/ (cargo xtask ptx writes it)"
    )]
    NoPtx {
        /// What the device has.
        compute: Compute,
        /// The folder that should have been there.
        missing: &'static str,
    },
    /// A call of the driver failed. After a fault of a kernel this may be any later call.
    #[error("{call} failed{}: {code}", of_kernel(.kernel))]
    Call {
        /// Name of the driver's function.
        call: &'static str,
        /// Its result.
        code: DriverCode,
        /// The kernel concerned.
        kernel: Option<&'static str>,
    },
    /// The device's memory does not suffice.
    #[error(
        "the GPU is out of memory: {bytes} bytes were asked for, {free_bytes} of {total_bytes} are \
         free"
    )]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that are free.
        free_bytes: usize,
        /// Bytes that the device has.
        total_bytes: usize,
    },
    /// The system gives no page-locked memory.
    #[error("the system gives no {bytes} bytes of page-locked memory: {code}")]
    NoPinnedMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What the driver said.
        code: DriverCode,
    },
    /// The PTX does not hold the kernel.
    #[error("the PTX {arch}/{module} does not hold the kernel {kernel}; cargo xtask ptx writes it")]
    NoKernel {
        /// Entry of the kernel.
        kernel: &'static str,
        /// Module it should be in.
        module: &'static str,
        /// Architecture that was chosen.
        arch: &'static str,
    },
    /// The PTX was compiled with other parameters than the program.
    #[error(
        "the PTX {arch}/{module} was compiled with other parameters of {kernel} than this program; \
         cargo xtask ptx writes it anew"
    )]
    StaleKernel {
        /// Entry of the kernel.
        kernel: &'static str,
        /// Module it is in.
        module: &'static str,
        /// Architecture that was chosen.
        arch: &'static str,
    },
    /// The PTX inside the program cannot be read.
    #[error("the PTX {arch}/{module} inside the program is damaged")]
    DamagedPtx {
        /// Module concerned.
        module: &'static str,
        /// Architecture that was chosen.
        arch: &'static str,
        /// What the decoder said.
        source: std::io::Error,
    },
    /// The driver's compiler refuses a module.
    #[error("{call} failed for the PTX {arch}/{module}: {code}{}", log_line(.log))]
    Compile {
        /// Name of the driver's function.
        call: &'static str,
        /// Its result.
        code: DriverCode,
        /// Module concerned.
        module: &'static str,
        /// Architecture that was chosen.
        arch: &'static str,
        /// What the compiler said.
        log: String,
    },
    /// A launch that the kernel or the device cannot take; nothing was launched.
    #[error("{kernel} cannot be launched: {what}")]
    BadLaunch {
        /// Entry of the kernel.
        kernel: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A range outside a buffer; nothing was changed.
    #[error("bytes {start}..{} were asked for in a {buffer} of {bytes} bytes",
        .start.saturating_add(*.len))]
    OutOfRange {
        /// Kind of buffer.
        buffer: &'static str,
        /// First byte.
        start: usize,
        /// Bytes.
        len: usize,
        /// What the buffer holds.
        bytes: usize,
    },
    /// Something that cannot be recorded into a graph.
    #[error("{what} cannot be part of a graph")]
    NotCapturable {
        /// The operation.
        what: &'static str,
    },
}

impl CudaError {
    /// Whether the device is lost to this process; see [`DriverCode::is_sticky`].
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Call { code, .. } if code.is_sticky())
    }
}

fn of_kernel(kernel: &Option<&'static str>) -> String {
    kernel.map(|name| format!(" for {name}")).unwrap_or_default()
}

fn log_line(log: &str) -> String {
    let log = log.split('\n').map(str::trim).filter(|line| !line.is_empty());
    let log = log.collect::<Vec<_>>().join("; ");
    if log.is_empty() { log } else { format!(" ({log})") }
}

/// The result of the driver's function `call`.
pub(super) fn check(call: &'static str, code: Code) -> Result<(), CudaError> {
    match code {
        symbols::SUCCESS => Ok(()),
        code => Err(CudaError::Call { call, code: DriverCode(code), kernel: None }),
    }
}

/// The result of one of `cust`'s functions, which is `call` underneath.
pub(super) fn checked<T>(
    call: &'static str,
    result: cust::error::CudaResult<T>,
) -> Result<T, CudaError> {
    result.map_err(|e| CudaError::Call { call, code: DriverCode(e as Code), kernel: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_and_where() {
        let error = CudaError::Call {
            call: "cuLaunchKernelEx",
            // No driver has it, so the text is the same with one and without.
            code: DriverCode(60_000),
            kernel: Some("gemv_q4_k"),
        };
        assert_eq!(error.to_string(), "cuLaunchKernelEx failed for gemv_q4_k: error 60000");
        let error =
            CudaError::OutOfRange { buffer: "device buffer", start: 8, len: usize::MAX, bytes: 9 };
        assert!(error.to_string().contains("in a device buffer of 9 bytes"), "{error}");
        assert_eq!(log_line("\n  line 1: bad\n\n line 2 \n"), " (line 1: bad; line 2)");
        assert_eq!(CudaVersion::from_number(12_040).to_string(), "12.4");
        assert_eq!(CudaVersion::from_number(13_000).to_string(), "13.0");
    }

    #[test]
    fn faults_are_told_from_refusals() {
        let sticky = |code| check("cuCall", code).unwrap_err().is_sticky();
        assert!([700, 715, 716, 719].into_iter().all(sticky));
        assert!(![1, 2, 3, 222, 701, 900].into_iter().any(sticky));
    }
}
