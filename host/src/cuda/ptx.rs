//! The PTX inside the program, and which of it a device runs.

use std::io::Read;

use super::error::{Compute, CudaError, CudaVersion};

/// A module of kernels for one architecture.
#[derive(Debug)]
pub struct Ptx {
    /// Architecture it was compiled for, such as `sm_90`.
    pub arch: &'static str,
    /// Its name, as in [`cuda_std::EntryInfo::module`].
    pub module: &'static str,
    /// Its kernels with the layout hashes of their parameters.
    pub entries: &'static [(&'static str, u64)],
    /// Bytes of the text.
    pub len: usize,
    /// The text, deflated.
    pub deflated: &'static [u8],
}

/// Every module that was in `ptx-cache/` when the program was built.
pub const EMBEDDED: &[Ptx] = include!(concat!(env!("OUT_DIR"), "/ptx_table.rs"));

impl Ptx {
    /// The text.
    ///
    /// # Errors
    /// [`CudaError::DamagedPtx`], when the program's own bytes cannot be inflated.
    pub fn text(&self) -> Result<String, CudaError> {
        let mut text = String::with_capacity(self.len);
        flate2::read::DeflateDecoder::new(self.deflated).read_to_string(&mut text).map_err(
            |source| CudaError::DamagedPtx { module: self.module, arch: self.arch, source },
        )?;
        Ok(text)
    }
    /// The layout hash with which the entry's parameters were compiled.
    pub fn layout(&self, entry: &str) -> Option<u64> {
        self.entries.iter().find(|(name, _)| *name == entry).map(|(_, layout)| *layout)
    }
}

/// The architecture whose PTX a device of `compute` runs.
///
/// Its own, else the newest earlier plain one. `sm_120f` is for its family: any 12.x, and nothing
/// else, since what it adds to the plain instruction set is in no later family.
///
/// Nothing for devices older than 8.0.
pub fn arch_for(compute: Compute) -> Option<&'static str> {
    match (compute.major, compute.minor) {
        (0..=7, _) => None,
        (8, 0..=8) => Some("sm_80"),
        (8, _) => Some("sm_89"),
        (12, _) => Some("sm_120f"),
        _ => Some("sm_90"),
    }
}

/// The modules of `all` that a device of `compute` runs, and their architecture.
///
/// # Errors
/// [`CudaError::UnsupportedDevice`] for an older device, [`CudaError::NoPtx`] when the architecture
/// is not among `all`.
pub fn modules_for<'a>(
    compute: Compute,
    device: &str,
    all: &'a [Ptx],
) -> Result<(&'static str, impl Iterator<Item = &'a Ptx>), CudaError> {
    let unsupported = || CudaError::UnsupportedDevice { device: device.into(), compute };
    let arch = arch_for(compute).ok_or_else(unsupported)?;
    if !all.iter().any(|ptx| ptx.arch == arch) {
        return Err(CudaError::NoPtx { compute, missing: arch });
    }
    Ok((arch, all.iter().filter(move |ptx| ptx.arch == arch)))
}

/// What a driver must support to take PTX, from the `.version` line in its head.
///
/// Source: PTX ISA 9.0, section "Release Notes", the table of PTX releases.
pub fn cuda_needed(ptx: &str) -> Option<CudaVersion> {
    let line = ptx.lines().find_map(|line| line.trim().strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let (major, minor) = match (major, minor) {
        (..8, _) => (11, 0),
        (8, 0..=5) => (12, minor),
        (8, _) => (12, minor + 1),
        (major, minor) => (major + 4, minor),
    };
    Some(CudaVersion { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn compute(major: u32, minor: u32) -> Compute {
        Compute { major, minor }
    }

    #[test]
    fn each_device_gets_its_own_or_the_newest_earlier_plain_ptx() {
        for (device, arch) in [
            ((8, 0), "sm_80"),
            ((8, 6), "sm_80"),
            ((8, 7), "sm_80"),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90"),
            ((10, 0), "sm_90"),
            ((10, 3), "sm_90"),
            ((11, 0), "sm_90"),
            ((12, 0), "sm_120f"),
            ((12, 1), "sm_120f"),
            ((13, 0), "sm_90"),
        ] {
            assert_eq!(arch_for(compute(device.0, device.1)), Some(arch), "{device:?}");
        }
        for device in [(0, 0), (3, 5), (6, 1), (7, 0), (7, 5)] {
            assert_eq!(arch_for(compute(device.0, device.1)), None, "{device:?}");
        }
    }

    #[test]
    fn what_cannot_run_is_named() {
        const ALL: &[Ptx] =
            &[Ptx { arch: "sm_90", module: "gated", entries: &[("a", 7)], len: 0, deflated: &[] }];
        let (arch, modules) = modules_for(compute(10, 0), "B200", ALL).unwrap();
        assert_eq!((arch, modules.count()), ("sm_90", 1));
        assert_eq!((ALL[0].layout("a"), ALL[0].layout("b")), (Some(7), None));

        let error = modules_for(compute(7, 5), "NVIDIA T4", ALL).err().unwrap().to_string();
        assert_eq!(error, "NVIDIA T4 has compute capability 7.5; the kernels need 8.0 or newer");
        let error = modules_for(compute(12, 0), "RTX 5090", ALL).err().unwrap().to_string();
        assert!(error.contains("sm_120f is not in ptx-cache/"), "{error}");
    }

    #[test]
    fn ptx_versions_become_cuda_versions() {
        let needed = |version: &str| {
            cuda_needed(&format!("//\n// head\n//\n\n.version {version}\n.target sm_90\n"))
                .map(|v| v.to_string())
        };
        assert_eq!(needed("8.0").as_deref(), Some("12.0"));
        assert_eq!(needed("8.5").as_deref(), Some("12.5"));
        assert_eq!(needed("8.6").as_deref(), Some("12.7"));
        assert_eq!(needed("8.8").as_deref(), Some("12.9"));
        assert_eq!(needed("9.0").as_deref(), Some("13.0"));
        assert_eq!((needed("x"), cuda_needed("")), (None, None));
    }

    /// The table that this program was built with can be read.
    #[test]
    fn embedded_modules_inflate() {
        for ptx in EMBEDDED {
            let text = ptx.text().unwrap();
            assert_eq!(text.len(), ptx.len, "{}/{}", ptx.arch, ptx.module);
            assert!(cuda_needed(&text).is_some(), "{}/{}", ptx.arch, ptx.module);
            for (entry, _) in ptx.entries {
                assert!(text.contains(&format!(".entry {entry}")), "{}: {entry}", ptx.module);
            }
        }
    }
}
