//! Launching kernels.

use std::ffi::c_void;

use cuda_std::{Entry, EntryInfo, Launch, Params};

use super::error::{CudaError, DriverCode};
use super::stream::Stream;
use super::symbols::{self, LaunchAttribute, LaunchConfig};

/// CTAs in x, y, z that a grid may have. Source: CUDA C++ Programming Guide 13.0, section "Compute
/// Capabilities", the table of technical specifications.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// Whether there is anything to launch: nothing, when the grid is empty.
///
/// # Errors
/// [`CudaError::BadLaunch`], when the kernel or a device that gives `shared_limit` bytes of dynamic
/// shared memory cannot take it.
fn check(entry: &EntryInfo, launch: &Launch, shared_limit: u32) -> Result<bool, CudaError> {
    let bad = |what| Err(CudaError::BadLaunch { kernel: entry.name, what });
    let Launch { grid, threads, shared_bytes } = *launch;
    if grid.contains(&0) {
        return Ok(false);
    }
    if threads == 0 || threads > entry.max_threads {
        return bad(format!("{threads} threads a CTA; it takes 1 to {}", entry.max_threads));
    }
    if let Some(axis) = (0..3).find(|&axis| grid[axis] > MAX_GRID[axis]) {
        let (ctas, most) = (grid[axis], MAX_GRID[axis]);
        return bad(format!("{ctas} CTAs in {}; at most {most}", ["x", "y", "z"][axis]));
    }
    if shared_bytes > shared_limit {
        return bad(format!(
            "{shared_bytes} bytes of shared memory a CTA; the device gives {shared_limit}"
        ));
    }
    Ok(true)
}

impl Stream {
    /// Queues a kernel. An empty grid queues nothing.
    ///
    /// Where [overlap](Stream::set_overlap) is on, it may start before the kernel ahead has ended.
    ///
    /// # Errors
    /// [`CudaError::BadLaunch`]; those of loading the kernel ([`Context::function`]); otherwise
    /// [`CudaError::Call`], also for what failed before. Then nothing was queued.
    ///
    /// [`Context::function`]: super::Context::function
    pub fn launch<P: Params>(
        &self,
        entry: &Entry<P>,
        launch: Launch,
        params: &P,
    ) -> Result<(), CudaError> {
        // The entry's own hash is what the PTX was compared with; the types must agree as well.
        assert_eq!(
            entry.info.layout,
            P::LAYOUT,
            "{} is declared with other parameters",
            entry.info.name
        );
        let function = self.context().loaded_function(&entry.info)?;
        if !check(&entry.info, &launch, function.max_dynamic_shared_bytes)? {
            return Ok(());
        }
        self.context().bind()?;
        let attribute = LaunchAttribute {
            id: symbols::PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            // The `int` at the start of the union, which is 1 for yes (little-endian).
            value: [1, 0, 0, 0, 0, 0, 0, 0],
        };
        let config = LaunchConfig {
            grid: launch.grid,
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            stream: self.raw(),
            attributes: &attribute,
            attribute_count: u32::from(self.overlap()),
        };
        // One parameter: the struct, by value.
        let mut parameters = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: function and stream are alive and of the context that is current. The kernel's one
        // parameter has the size and layout of `P`, since the hash of the PTX it was compiled with is
        // that of `P` (`loaded_function` and the assertion); it is copied during the call. Shape and
        // shared memory are within the kernel's and the device's limits (`check`). For views that lie
        // inside live buffers, which whoever made `params` answers for, the body stays inside them
        // (emulator tests); others are a fault of the device.
        let code = unsafe {
            symbols::cuLaunchKernelEx(
                &config,
                function.raw,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        match code {
            symbols::SUCCESS => Ok(()),
            code => Err(CudaError::Call {
                call: "cuLaunchKernelEx",
                code: DriverCode::new(code),
                kernel: Some(entry.info.name),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: EntryInfo =
        EntryInfo { name: "scale_f32", module: "scale", max_threads: 256, min_ctas: 1, layout: 0 };
    const LIMIT: u32 = 101_376;

    fn refused(launch: Launch) -> String {
        check(&ENTRY, &launch, LIMIT).unwrap_err().to_string()
    }

    #[test]
    fn launches_within_the_limits_pass() {
        for launch in [
            Launch::linear(1, 1),
            Launch::linear(i32::MAX as u32, 256),
            Launch::plane(1, 65_535, 32).shared(LIMIT),
        ] {
            assert!(check(&ENTRY, &launch, LIMIT).unwrap(), "{launch:?}");
        }
    }

    #[test]
    fn an_empty_grid_is_nothing_to_launch() {
        for grid in [[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]] {
            let launch = Launch { grid, threads: 0, shared_bytes: 0 };
            assert!(!check(&ENTRY, &launch, LIMIT).unwrap(), "{grid:?}");
        }
    }

    #[test]
    fn what_goes_beyond_is_named() {
        let error = refused(Launch::linear(1, 257));
        assert_eq!(error, "scale_f32 cannot be launched: 257 threads a CTA; it takes 1 to 256");
        assert!(refused(Launch::linear(1, 0)).contains("0 threads"));
        let error = refused(Launch::linear(1, 32).shared(LIMIT + 1));
        assert!(error.contains("101377 bytes of shared memory"), "{error}");
        assert!(refused(Launch::plane(1, 65_536, 32)).contains("65536 CTAs in y"));
        assert!(refused(Launch::linear(1 << 31, 32)).contains("in x; at most 2147483647"));
    }
}
