//! The driver and the devices it sees.

use std::sync::OnceLock;

use cust::device::{Device, DeviceAttribute};
use cust::sys::CUuuid;

use super::context::Context;
use super::error::{Compute, CudaError, CudaVersion, check, checked};
use super::symbols;

/// Where the loader looks for the driver.
const LIBRARY: &str = "libcuda.so.1";

/// The oldest CUDA whose driver has every call that is used here.
const CUDA_12: CudaVersion = CudaVersion { major: 12, minor: 0 };

/// A device, as the driver describes it.
///
/// What is free of its memory is not here, since asking takes a context: [`Context::memory`].
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its number, from 0.
    pub ordinal: usize,
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Its identity, as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Its compute capability.
    pub compute: Compute,
    /// Bytes of memory.
    pub total_bytes: usize,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a CTA may have, when it asks for it.
    pub shared_bytes_per_cta: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: usize,
    /// Clock of the multiprocessors in kHz, at most.
    pub clock_khz: u32,
    /// Peak of the memory in bytes a second, from its clock and width; 0 where the driver does not
    /// tell the clock.
    pub memory_bytes_per_second: u64,
    /// Whether a kernel can start before the one ahead of it has ended (compute capability 9.0).
    pub overlaps_launches: bool,
}

/// The NVIDIA driver, loaded and initialised.
#[derive(Clone, Debug)]
pub struct Driver {
    version: CudaVersion,
    devices: Vec<DeviceInfo>,
}

impl Driver {
    /// Loads the driver and asks what devices there are.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::DriverTooOld`], [`CudaError::NoDevice`], or
    /// [`CudaError::Call`] when the driver cannot be initialised.
    pub fn load() -> Result<Self, CudaError> {
        Self::load_from(LIBRARY)
    }

    fn load_from(library: &'static str) -> Result<Self, CudaError> {
        let missing = library_functions(library)?;
        let version = version()?;
        if version < CUDA_12 || !missing.is_empty() {
            let mut what = String::from("the kernels and their launches");
            if let Some(name) = missing.first().filter(|_| version >= CUDA_12) {
                what = format!("calls that it lacks, such as {name},");
            }
            return Err(CudaError::DriverTooOld { found: version, needed: CUDA_12, what });
        }
        // SAFETY: no pointers; 0 is the only value that the call takes.
        match unsafe { symbols::cuInit(0) } {
            symbols::NO_DEVICE => return Err(CudaError::NoDevice),
            code => check("cuInit", code)?,
        }
        let count = checked("cuDeviceGetCount", Device::num_devices())?;
        if count == 0 {
            return Err(CudaError::NoDevice);
        }
        let devices = (0..count as usize).map(describe).collect::<Result<_, _>>()?;
        Ok(Self { version, devices })
    }

    /// The CUDA that the driver supports.
    pub fn version(&self) -> CudaVersion {
        self.version
    }
    /// Every device, by number.
    pub fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }
    /// The device with the number `ordinal`.
    ///
    /// # Errors
    /// [`CudaError::BadDevice`], naming how many there are.
    pub fn device(&self, ordinal: usize) -> Result<&DeviceInfo, CudaError> {
        let bad = CudaError::BadDevice { ordinal, count: self.devices.len() };
        self.devices.get(ordinal).ok_or(bad)
    }
    /// Opens the device with the number `ordinal`; see [`Context::open`].
    ///
    /// # Errors
    /// As of [`Driver::device`] and [`Context::open`].
    pub fn open(&self, ordinal: usize) -> Result<Context, CudaError> {
        Context::open(self.device(ordinal)?.clone(), self.version)
    }
}

/// Loads the library, once; gives the names of calls that it lacks.
fn library_functions(library: &'static str) -> Result<&'static [&'static str], CudaError> {
    static MISSING: OnceLock<Vec<&'static str>> = OnceLock::new();
    if let Some(missing) = MISSING.get() {
        return Ok(missing);
    }
    let missing = symbols::load(library);
    let missing = missing.map_err(|source| CudaError::NoDriver { library, source })?;
    Ok(MISSING.get_or_init(|| missing))
}

fn version() -> Result<CudaVersion, CudaError> {
    let mut number = 0;
    // SAFETY: `number` is a place for the result.
    check("cuDriverGetVersion", unsafe { symbols::cuDriverGetVersion(&mut number) })?;
    Ok(CudaVersion::from_number(number.unsigned_abs()))
}

fn describe(ordinal: usize) -> Result<DeviceInfo, CudaError> {
    let device = checked("cuDeviceGet", Device::get_device(ordinal as u32))?;
    let attribute = |attribute| {
        let value = checked("cuDeviceGetAttribute", device.get_attribute(attribute))?;
        // Counts, sizes and clocks; none is negative.
        Ok::<_, CudaError>(value.unsigned_abs())
    };
    let compute = Compute {
        major: attribute(DeviceAttribute::ComputeCapabilityMajor)?,
        minor: attribute(DeviceAttribute::ComputeCapabilityMinor)?,
    };
    let memory_khz = u64::from(attribute(DeviceAttribute::MemoryClockRate).unwrap_or(0));
    let bus_bits = u64::from(attribute(DeviceAttribute::GlobalMemoryBusWidth)?);
    Ok(DeviceInfo {
        ordinal,
        name: checked("cuDeviceGetName", device.name())?,
        uuid: uuid(device)?,
        compute,
        total_bytes: checked("cuDeviceTotalMem", device.total_memory())?,
        multiprocessors: attribute(DeviceAttribute::MultiprocessorCount)?,
        shared_bytes_per_cta: optin_shared_bytes(device)?,
        l2_bytes: attribute(DeviceAttribute::L2CacheSize)? as usize,
        clock_khz: attribute(DeviceAttribute::ClockRate).unwrap_or(0),
        // Two transfers a clock, in every kind of memory that these devices have.
        memory_bytes_per_second: 2 * memory_khz * 1000 * bus_bits / 8,
        overlaps_launches: compute.major >= 9,
    })
}

/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`, which `cust` does not name.
fn optin_shared_bytes(device: Device) -> Result<u32, CudaError> {
    const ATTRIBUTE: u32 = 97;
    let mut bytes = 0;
    // SAFETY: `bytes` is a place for the result; the device came from the driver.
    let code = unsafe { symbols::cuDeviceGetAttribute(&mut bytes, ATTRIBUTE, device.as_raw()) };
    check("cuDeviceGetAttribute", code)?;
    Ok(bytes.unsigned_abs())
}

fn uuid(device: Device) -> Result<String, CudaError> {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: `uuid` is a place for the result; the device came from the driver.
    let code = unsafe { symbols::cuDeviceGetUuid_v2(&mut uuid, device.as_raw()) };
    check("cuDeviceGetUuid", code)?;
    let hex = |range: std::ops::Range<usize>| -> String {
        uuid.bytes[range].iter().map(|byte| format!("{:02x}", *byte as u8)).collect()
    };
    let (a, b, c, d, e) = (hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16));
    Ok(format!("GPU-{a}-{b}-{c}-{d}-{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_driver_is_said_as_such() {
        match Driver::load_from("libcuda-that-is-not-there.so.1") {
            Err(e @ CudaError::NoDriver { .. }) => {
                let text = e.to_string();
                assert!(text.starts_with("no NVIDIA driver was found"), "{text}");
                assert!(std::error::Error::source(&e).is_some());
            }
            // Another test of this process has loaded the real one.
            other => drop(other),
        }
    }

    /// Without a driver, what `cust` links to answers that nothing is initialised.
    #[test]
    fn cust_answers_without_a_driver() {
        if matches!(Driver::load(), Err(CudaError::NoDriver { .. })) {
            let error = cust::init(cust::CudaFlags::empty()).unwrap_err();
            assert_eq!(error, cust::error::CudaError::NotInitialized);
            assert_eq!(Device::num_devices().unwrap_err(), cust::error::CudaError::NotInitialized);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_the_count() {
        let driver = Driver { version: CUDA_12, devices: Vec::new() };
        let error = driver.device(3).unwrap_err().to_string();
        assert_eq!(error, "there is no GPU 3: this machine has 0, numbered from 0");
    }
}
