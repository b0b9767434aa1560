//! Products with few rows: `y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n]` for m up to 4.
//!
//! Decoding is bound by reading weights, so the kernels are built around loads in flight. A warp owns
//! a *group* of output rows and walks along `k`, a piece of 32 weights a lane; `split` warps of a CTA
//! share a group, each a part of `k`. The first weights are requested before waiting for the kernel
//! that writes `x`, so that the memory never rests between two launches, and a CTA that finishes a
//! group requests the next before it adds up the last. Up to three matrices of one format that read
//! the same operand go in one launch, their groups numbered through.
//!
//! One module of PTX a format, `gemv_<format>`, with an entry for 1, 2 and 4 rows: from five
//! on, tensor cores are faster (`kernels/gemm`).

#[cfg(not(target_arch = "nvptx64"))]
use cuda_std::{Entry, EntryInfo, Launch};
use cuda_std::{Global, GlobalMut, params};

use float::Float;
use quant::Quantized;
use walk::gemv;

use super::matrix::Matrix;
use super::operand::OperandIn;
use crate::formats;
#[cfg(not(target_arch = "nvptx64"))]
use crate::formats::Format;

pub mod float;
mod quant;
mod reduce;
mod walk;

/// Warps of a CTA.
const WARPS: u32 = 8;
/// Threads of a CTA.
pub const THREADS: u32 = 32 * WARPS;
/// Most rows of `x`.
pub const MAX_TOKENS: u32 = 4;
/// Most matrices of a launch.
pub const MAX_TARGETS: usize = 3;

/// Rows of weights in a group, for an entry of `m` rows of `x`: each piece of `x` that a lane reads
/// serves two or four. More would not fit the registers.
const fn group_rows(m: usize) -> usize {
    if m <= 2 { 4 } else { 2 }
}

/// One matrix of the launch and where its product goes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// [n, k]; `rows` is 0 where there is no matrix. All have the same `k`.
    pub weights: Matrix,
    /// [n], or null.
    pub bias: Global<f32>,
    /// Row `i` at `i · stride`, n long.
    pub y: GlobalMut<f32>,
    /// Elements from a row of `y` to the next.
    pub stride: u32,
}

impl Target {
    /// No matrix.
    pub const NONE: Target = Target {
        weights: Matrix { planes: [Global::null(); 4], rows: 0, cols: 0 },
        bias: Global::null(),
        y: GlobalMut::null(),
        stride: 0,
    };
}

params! {
    /// Parameters of the products with few rows.
    pub struct GemvParams {
        /// The integer forms for quantized weights, `float` for float weights.
        pub x: OperandIn,
        /// The matrices; unused ones last.
        pub targets: [Target; MAX_TARGETS],
        /// Codebook of the format, or null.
        pub tables: Global<u32>,
        /// Rows of `x`, from 1 to the entry's.
        pub tokens: u32,
        /// From [`Geometry`]; `32 · (2^split_log2 − 1)` is below the pieces of a row.
        pub split_log2: u32,
    }
}

/// What counts of a device.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Multiprocessors.
    pub sms: u32,
    /// CTAs of the entry that one of them holds: [`ctas`], where it was compiled so.
    pub ctas: u32,
}

/// How a product is spread over the device.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Shape of the launch.
    pub launch: Launch,
    /// For [`GemvParams::split_log2`].
    pub split_log2: u32,
}

#[cfg(not(target_arch = "nvptx64"))]
impl Geometry {
    /// For matrices of `format`, `rows` by `cols`, and `tokens` rows of `x`.
    pub fn new(
        format: Format,
        rows: [u32; MAX_TARGETS],
        cols: u32,
        tokens: u32,
        Device { sms, ctas }: Device,
    ) -> Geometry {
        let group_rows = group_rows(tokens as usize) as u32;
        let groups: u32 = rows.iter().map(|rows| rows.div_ceil(group_rows)).sum();
        let pieces = match format {
            Format::F32 => cols.div_ceil(4 * 64) * 32,
            Format::F16 | Format::BF16 => cols.div_ceil(8 * 64) * 32,
            _ => cols / 32,
        };
        let slots = sms * ctas;
        let units = |split_log2: u32| groups.div_ceil(WARPS >> split_log2).max(1);
        // A split that spreads the work evenly over the multiprocessors, gives each enough warps, and
        // leaves few lanes without a piece.
        let score = |split_log2: u32| {
            let units = units(split_log2);
            let even = units as f32 / (units.div_ceil(sms) * sms) as f32;
            let filled = (2.0 * units as f32 / slots as f32).min(1.0);
            let step = 32 << split_log2;
            let busy = pieces as f32 / (pieces.div_ceil(step) * step) as f32;
            even * filled * (0.5 + 0.5 * busy)
        };
        // The kernel needs a piece for each warp of a team.
        let possible =
            (1..=WARPS.ilog2()).filter(|split_log2| (1 << split_log2) <= pieces.div_ceil(32));
        let best = possible.fold(0, |a, b| if score(b) > score(a) { b } else { a });
        Geometry { launch: Launch::linear(units(best).min(slots), THREADS), split_log2: best }
    }
}

/// CTAs to a multiprocessor that the entry for `tokens` rows asks for, so that a thread has 80 or 128
/// registers.
pub const fn ctas(tokens: u32) -> u32 {
    match tokens {
        1 => 3,
        _ => 2,
    }
}

/// Declares the kernels of each format, and [`entry`].
macro_rules! products {
    ($($Format:ident => $file:ident, $Weights:ty, $module:literal: $m1:ident $m2:ident $m4:ident;)*) => {
        $(
            #[doc = concat!("Products on ", stringify!($Format), ".")]
            pub mod $file {
                use super::*;

                cuda_std::kernels! {
                    module $module;
                    /// One row.
                    pub M1: $m1(GemvParams), threads THREADS, ctas ctas(1) => gemv::<$Weights, { group_rows(1) }, 1>;
                    /// Two rows.
                    pub M2: $m2(GemvParams), threads THREADS, ctas ctas(2) => gemv::<$Weights, { group_rows(2) }, 2>;
                    /// Up to four rows.
                    pub M4: $m4(GemvParams), threads THREADS, ctas ctas(4) => gemv::<$Weights, { group_rows(4) }, 4>;
                }
            }
        )*

        /// The kernel for `tokens` rows, 1 to 4.
        #[cfg(not(target_arch = "nvptx64"))]
        pub fn entry(format: Format, tokens: u32) -> Option<&'static Entry<GemvParams>> {
            match format {
                $(Format::$Format => by_tokens([&$file::M1, &$file::M2, &$file::M4], tokens),)*
            }
        }

        /// Every kernel here.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const KERNELS: &[EntryInfo] =
            &[$($file::M1.info, $file::M2.info, $file::M4.info),*];
    };
}

#[cfg(not(target_arch = "nvptx64"))]
fn by_tokens(
    [m1, m2, m4]: [&'static Entry<GemvParams>; 3],
    tokens: u32,
) -> Option<&'static Entry<GemvParams>> {
    match tokens {
        1 => Some(m1),
        2 => Some(m2),
        3..=MAX_TOKENS => Some(m4),
        _ => None,
    }
}

products! {
    F32 => f32, Float<f32>, "gemv_f32": gemv_f32_m1 gemv_f32_m2 gemv_f32_m4;
    F16 => f16, Float<cuda_std::f16>, "gemv_f16": gemv_f16_m1 gemv_f16_m2 gemv_f16_m4;
    BF16 => bf16, Float<half::bf16>, "gemv_bf16": gemv_bf16_m1 gemv_bf16_m2 gemv_bf16_m4;
    Q4_0 => q4_0, Quantized<formats::q4_0::Q4_0>, "gemv_q4_0": gemv_q4_0_m1 gemv_q4_0_m2 gemv_q4_0_m4;
    Q4_1 => q4_1, Quantized<formats::q4_1::Q4_1>, "gemv_q4_1": gemv_q4_1_m1 gemv_q4_1_m2 gemv_q4_1_m4;
    Q5_0 => q5_0, Quantized<formats::q5_0::Q5_0>, "gemv_q5_0": gemv_q5_0_m1 gemv_q5_0_m2 gemv_q5_0_m4;
    Q5_1 => q5_1, Quantized<formats::q5_1::Q5_1>, "gemv_q5_1": gemv_q5_1_m1 gemv_q5_1_m2 gemv_q5_1_m4;
    Q8_0 => q8_0, Quantized<formats::q8_0::Q8_0>, "gemv_q8_0": gemv_q8_0_m1 gemv_q8_0_m2 gemv_q8_0_m4;
    Q2_K => q2_k, Quantized<formats::q2_k::Q2K>, "gemv_q2_k": gemv_q2_k_m1 gemv_q2_k_m2 gemv_q2_k_m4;
    Q3_K => q3_k, Quantized<formats::q3_k::Q3K>, "gemv_q3_k": gemv_q3_k_m1 gemv_q3_k_m2 gemv_q3_k_m4;
    Q4_K => q4_k, Quantized<formats::q4_k::Q4K>, "gemv_q4_k": gemv_q4_k_m1 gemv_q4_k_m2 gemv_q4_k_m4;
    Q5_K => q5_k, Quantized<formats::q5_k::Q5K>, "gemv_q5_k": gemv_q5_k_m1 gemv_q5_k_m2 gemv_q5_k_m4;
    Q6_K => q6_k, Quantized<formats::q6_k::Q6K>, "gemv_q6_k": gemv_q6_k_m1 gemv_q6_k_m2 gemv_q6_k_m4;
    Q8_K => q8_k, Quantized<formats::q8_k::Q8K>, "gemv_q8_k": gemv_q8_k_m1 gemv_q8_k_m2 gemv_q8_k_m4;
    IQ2_XXS => iq2_xxs, Quantized<formats::iq2_xxs::Iq2Xxs>, "gemv_iq2_xxs": gemv_iq2_xxs_m1 gemv_iq2_xxs_m2 gemv_iq2_xxs_m4;
    IQ2_XS => iq2_xs, Quantized<formats::iq2_xs::Iq2Xs>, "gemv_iq2_xs": gemv_iq2_xs_m1 gemv_iq2_xs_m2 gemv_iq2_xs_m4;
    IQ3_XXS => iq3_xxs, Quantized<formats::iq3_xxs::Iq3Xxs>, "gemv_iq3_xxs": gemv_iq3_xxs_m1 gemv_iq3_xxs_m2 gemv_iq3_xxs_m4;
    IQ1_S => iq1_s, Quantized<formats::iq1_s::Iq1S>, "gemv_iq1_s": gemv_iq1_s_m1 gemv_iq1_s_m2 gemv_iq1_s_m4;
    IQ4_NL => iq4_nl, Quantized<formats::iq4_nl::Iq4Nl>, "gemv_iq4_nl": gemv_iq4_nl_m1 gemv_iq4_nl_m2 gemv_iq4_nl_m4;
    IQ3_S => iq3_s, Quantized<formats::iq3_s::Iq3S>, "gemv_iq3_s": gemv_iq3_s_m1 gemv_iq3_s_m2 gemv_iq3_s_m4;
    IQ2_S => iq2_s, Quantized<formats::iq2_s::Iq2S>, "gemv_iq2_s": gemv_iq2_s_m1 gemv_iq2_s_m2 gemv_iq2_s_m4;
    IQ4_XS => iq4_xs, Quantized<formats::iq4_xs::Iq4Xs>, "gemv_iq4_xs": gemv_iq4_xs_m1 gemv_iq4_xs_m2 gemv_iq4_xs_m4;
    IQ1_M => iq1_m, Quantized<formats::iq1_m::Iq1M>, "gemv_iq1_m": gemv_iq1_m_m1 gemv_iq1_m_m2 gemv_iq1_m_m4;
    TQ1_0 => tq1_0, Quantized<formats::tq1_0::Tq1_0>, "gemv_tq1_0": gemv_tq1_0_m1 gemv_tq1_0_m2 gemv_tq1_0_m4;
    TQ2_0 => tq2_0, Quantized<formats::tq2_0::Tq2_0>, "gemv_tq2_0": gemv_tq2_0_m1 gemv_tq2_0_m2 gemv_tq2_0_m4;
    MXFP4 => mxfp4, Quantized<formats::mxfp4::Mxfp4>, "gemv_mxfp4": gemv_mxfp4_m1 gemv_mxfp4_m2 gemv_mxfp4_m4;
    NVFP4 => nvfp4, Quantized<formats::nvfp4::Nvfp4>, "gemv_nvfp4": gemv_nvfp4_m1 gemv_nvfp4_m2 gemv_nvfp4_m4;
    Q1_0 => q1_0, Quantized<formats::q1_0::Q1_0>, "gemv_q1_0": gemv_q1_0_m1 gemv_q1_0_m2 gemv_q1_0_m4;
    Q2_0 => q2_0, Quantized<formats::q2_0::Q2_0>, "gemv_q2_0": gemv_q2_0_m1 gemv_q2_0_m2 gemv_q2_0_m4;
}

#[cfg(test)]
pub(crate) mod tests;
