//! `--list-devices` and `--version`: what this machine and this build have.

use host::cuda::{DeviceInfo, Driver};
use host::plan::bytes_text;
use serde_json::json;

use crate::error::CliError;
use crate::output;

/// Prints the GPUs that the driver sees, and the CPU.
///
/// # Errors
/// What stdout reports.
pub(crate) fn list(json: bool) -> Result<(), CliError> {
    let threads = available_threads();
    let features = cpu_features();
    let driver = Driver::load();
    if json {
        let cpu = json!({"threads": threads, "arch": std::env::consts::ARCH, "features": features});
        let value = match &driver {
            Ok(driver) => {
                let cuda: Vec<_> = driver.devices().iter().map(device_json).collect();
                json!({"cuda": cuda, "cuda_version": driver.version().to_string(), "cpu": cpu})
            }
            Err(error) => json!({"cuda": [], "cuda_note": error.to_string(), "cpu": cpu}),
        };
        return output::show_json(&value);
    }
    match &driver {
        Ok(driver) => {
            for device in driver.devices() {
                output::show_line(&format!(
                    "GPU {} {}, compute capability {}, {} multiprocessors, {}",
                    device.ordinal,
                    device.name,
                    device.compute,
                    device.multiprocessors,
                    bytes_text(device.total_bytes as u64)
                ))?;
            }
        }
        Err(error) => output::show_line(&format!("GPU   none: {error}"))?,
    }
    let arch = std::env::consts::ARCH;
    output::show_line(&format!("CPU   {threads} threads, {arch}, {}", join(&features)))
}

fn device_json(device: &DeviceInfo) -> serde_json::Value {
    json!({
        "device": device.ordinal,
        "name": device.name,
        "uuid": device.uuid,
        "compute_capability": device.compute.to_string(),
        "multiprocessors": device.multiprocessors,
        "total_bytes": device.total_bytes,
    })
}

/// Prints version and features.
///
/// # Errors
/// What stdout reports.
pub(crate) fn version() -> Result<(), CliError> {
    let formats = gpu_kernels::formats::Format::ALL.len();
    let target = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    output::show_line(&format!(
        "imp-cli {}\nbackends: CPU, CUDA (kernels for {})\nweight formats: {formats}\nmodel families: {}\ntarget: {target}",
        env!("CARGO_PKG_VERSION"),
        archs(),
        join(&host::models::FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>()),
    ))
}

/// Architectures that kernels were built in for.
fn archs() -> String {
    let archs = host::cuda::archs();
    if archs.is_empty() { "no architecture".to_owned() } else { archs.join(", ") }
}

/// Cores the process may use.
pub(crate) fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn join(words: &[&str]) -> String {
    if words.is_empty() { "no SIMD extensions".to_owned() } else { words.join(", ") }
}

/// SIMD extensions that kernels are chosen by.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("F16C", std::arch::is_x86_feature_detected!("f16c")),
        ("AVX-512", std::arch::is_x86_feature_detected!("avx512f")),
        ("AVX-512-VNNI", std::arch::is_x86_feature_detected!("avx512vnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [("NEON", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&str, bool); 0] = [];
    features.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}
