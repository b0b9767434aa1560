//! What the entries have to meet once they are assembled.

use cuda_builder::{Allowed, Expected, Rules};
use cuda_std::EntryInfo;

/// The rules of imp's kernels.
pub const RULES: Rules<'static> = Rules { allowed: ALLOWED, expected: EXPECTED };

/// CTAs of an entry that a multiprocessor shall hold: as many as it asks for, even at the price of spilled
/// registers, but for products with few rows on sm_120f. Theirs keep loads in flight: worth it where a
/// multiprocessor has 24 GB/s of the memory (H100), not where it has 11 (RTX 5090).
pub fn min_ctas(arch: &str, entry: &EntryInfo) -> u32 {
    if arch == "sm_120f" && entry.module.starts_with("gemv_") { 1 } else { entry.min_ctas }
}

/// Why a few registers in memory are right in products.
const SPILL: &str = "a few words once a stage or piece, in the first-level cache: another CTA on the \
    multiprocessor, or more sums in flight, are worth more";

/// Why they do not matter in the largest tile of quantized weights.
const STOOD_IN: &str = "not launched there: 96 tokens stand in for it";

/// Spills and stack frames that are known and right, with the reason.
const ALLOWED: &[Allowed<'static>] = &[
    Allowed { arch: "sm_80", entry: "gemm_*", reason: SPILL },
    Allowed { arch: "sm_89", entry: "gemm_*", reason: SPILL },
    Allowed { arch: "sm_90", entry: "gemm_*", reason: SPILL },
    Allowed { arch: "sm_120f", entry: "gemm_*q*_m128", reason: STOOD_IN },
    Allowed { arch: "sm_120f", entry: "gemm_*fp4_m128", reason: STOOD_IN },
    Allowed { arch: "sm_80", entry: "gemv_*", reason: SPILL },
    Allowed { arch: "sm_89", entry: "gemv_*", reason: SPILL },
    Allowed { arch: "sm_90", entry: "gemv_*", reason: SPILL },
    Allowed {
        arch: "sm_89",
        entry: "attn_prefill_f16_d128",
        reason: "not launched there: two of its CTAs do not fit a multiprocessor",
    },
];

/// Instructions that prove that entries take the path they were written for.
const EXPECTED: &[Expected<'static>] = &[
    Expected { arch: "*", entry: "gemm_*", mnemonic: "HMMA" },
    Expected { arch: "*", entry: "attn_prefill_*", mnemonic: "HMMA" },
    Expected { arch: "*", entry: "gemv_q*", mnemonic: "IDP" },
    Expected { arch: "*", entry: "peak_s8", mnemonic: "IMMA" },
    Expected { arch: "*", entry: "peak_f16", mnemonic: "HMMA" },
    // On sm_90 `mma.sync` widens FP8 to halves; the others have an instruction of their own.
    Expected { arch: "sm_89", entry: "peak_e4m3", mnemonic: "QMMA" },
    Expected { arch: "sm_120f", entry: "peak_e4m3", mnemonic: "QMMA" },
];
