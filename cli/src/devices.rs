//! `--list-devices` and `--version`: what this machine and this build have.

use serde_json::json;

use crate::error::CliError;
use crate::output;

/// Why no CUDA device is listed.
const NO_CUDA: &str = "none: this build computes on the CPU";

/// Prints the devices that can compute.
///
/// # Errors
/// What stdout reports.
pub(crate) fn list(json: bool) -> Result<(), CliError> {
    let threads = available_threads();
    let features = cpu_features();
    if json {
        let cpu = json!({"threads": threads, "arch": std::env::consts::ARCH, "features": features});
        return output::show_json(&json!({"cuda": [], "cuda_note": NO_CUDA, "cpu": cpu}));
    }
    output::show_line(&format!("CUDA  {NO_CUDA}"))?;
    let arch = std::env::consts::ARCH;
    output::show_line(&format!("CPU   {threads} threads, {arch}, {}", join(&features)))
}

/// Prints version and features.
///
/// # Errors
/// What stdout reports.
pub(crate) fn version() -> Result<(), CliError> {
    let formats = gpu_kernels::formats::Format::ALL.len();
    let target = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    output::show_line(&format!(
        "imp-cli {}\nbackends: CPU\nweight formats: {formats}\nmodel families: {}\ntarget: {target}",
        env!("CARGO_PKG_VERSION"),
        join(&host::models::FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>()),
    ))
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
