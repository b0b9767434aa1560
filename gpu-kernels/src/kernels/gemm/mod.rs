//! Products with many rows: `y[m, n] = row_scale[m] · (x[m, k] · w[n, k]ᵀ) + bias[n]`.
//!
//! `x` is in halves, weights in any 16-bit or quantized format; products of halves are summed in F32 by
//! the tensor cores (`mma.sync`, the fastest way that every architecture has). There are two kernels:
//!
//! - `body`: weights go from memory to registers and become halves there; neither memory nor shared
//!   memory ever holds them so. For quantized weights, and for few tokens.
//! - `float`: 16-bit floats go through shared memory like the activations. For many tokens.
//!
//! One module of PTX a format, `gemm_<format>`, with an entry for each of its [`tiles`];
//! [`Geometry::new`] picks one. Up to three matrices of one format that read the same operand go in one
//! launch, their tiles numbered through.

#[cfg(not(target_arch = "nvptx64"))]
use cuda_std::{Entry, EntryInfo};
use cuda_std::{Global, GlobalMut, params};

use super::gemv::{MAX_TARGETS, Target};
use super::operand::OperandIn;
#[cfg(not(target_arch = "nvptx64"))]
use crate::formats::Format;

#[macro_use]
mod unroll;

mod body;
mod cta;
mod float;
#[cfg(not(target_arch = "nvptx64"))]
mod geometry;
pub mod slab;
#[cfg(test)]
mod tests;
pub mod tile;
#[cfg(not(target_arch = "nvptx64"))]
mod tiles;
mod weights;

#[cfg(not(target_arch = "nvptx64"))]
pub use geometry::{Device, Geometry, MAX_COUNTERS, MAX_PARTIAL_BYTES, Shape, supports};
#[cfg(not(target_arch = "nvptx64"))]
pub use tiles::{Tile, Way, tiles};

params! {
    /// Parameters of the products with many rows.
    pub struct GemmParams {
        /// `half` and `row_scale` are read.
        pub x: OperandIn,
        /// The matrices; unused ones last. Rows of 16-bit floats are padded to 16 bytes.
        pub targets: [Target; MAX_TARGETS],
        /// Powers of two that the weights of each are multiplied by before they are rounded to halves,
        /// and the sums divided by: 1 for F16, else [`WEIGHT_SCALE`], unless weights exceed 65504 over
        /// it.
        pub weight_scale: [f32; MAX_TARGETS],
        /// Codebook of the format, or null.
        pub tables: Global<u32>,
        /// Sums of the splits, [`Geometry::partial_bytes`]; null when there is one.
        pub partial: GlobalMut<[f32; 4]>,
        /// CTAs of each tile that have left their sums, [`Geometry::counters`]; zeros before and after.
        pub arrived: GlobalMut<u32>,
        /// Rows of `x`.
        pub tokens: u32,
        /// Parts that `k` is cut into: CTAs of the grid in y.
        pub splits: u32,
        /// Stages of [`tile::STAGE_K`] of each part; the last part may have fewer, but not none.
        pub stages_per_split: u32,
    }
}

/// The usual [`GemmParams::weight_scale`]: halves are normal down to 6e-5, scales of 8-bit weights around
/// 1e-4 are not far from that, and no weight of a model is near 255.
pub const WEIGHT_SCALE: f32 = 256.0;

/// Declares the kernels of a 16-bit float: entries in the order of `FLOAT_TILES`.
macro_rules! float {
    ($Weights:ty, $module:literal:
        $m16:ident $m32:ident $m64:ident $m128:ident) => {
        use super::weights;
        use super::{GemmParams, body, float};

        cuda_std::kernels! {
            module $module;
            /// 16 rows, 128 features, 4 warps.
            pub M16: $m16(GemmParams), threads 128, ctas 3 => body::gemm::<$Weights, 2, 4, 4>;
            /// 32 rows, 128 features, 4 warps.
            pub M32: $m32(GemmParams), threads 128, ctas 3 => body::gemm::<$Weights, 4, 4, 4>;
            /// 64 rows, 128 features, 4 warps.
            pub M64: $m64(GemmParams), threads 128, ctas 2 => body::gemm::<$Weights, 8, 4, 3>;
            /// 128 rows, 256 features, 8 warps.
            pub M128: $m128(GemmParams), threads 256, ctas 1 => float::gemm::<$Weights, 2, 4, 4, 8>;
        }
        /// The kernel of each tile.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const BY_TILE: [&cuda_std::Entry<GemmParams>; super::tiles::FLOAT_TILES.len()] =
            [&M16, &M32, &M64, &M128];
    };
}

/// Declares the kernels of a quantized format: entries in the order of `QUANTIZED_TILES`.
macro_rules! quantized {
    ($Weights:ty, $module:literal: $m16:ident $m32:ident $m64:ident $m96:ident $m128:ident) => {
        use super::weights::Quantized;
        use super::{GemmParams, body::gemm};
        use crate::formats;

        cuda_std::kernels! {
            module $module;
            /// 16 rows, 4 warps.
            pub M16: $m16(GemmParams), threads 128, ctas 3 => gemm::<$Weights, 2, 4, 4>;
            /// 32 rows, 4 warps.
            pub M32: $m32(GemmParams), threads 128, ctas 3 => gemm::<$Weights, 4, 4, 4>;
            /// 64 rows, 4 warps.
            pub M64: $m64(GemmParams), threads 128, ctas 2 => gemm::<$Weights, 8, 4, 3>;
            /// 96 rows, 8 warps.
            pub M96: $m96(GemmParams), threads 256, ctas 1 => gemm::<$Weights, 12, 8, 3>;
            /// 128 rows, 8 warps.
            pub M128: $m128(GemmParams), threads 256, ctas 1 => gemm::<$Weights, 16, 8, 3>;
        }
        /// The kernel of each tile.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const BY_TILE: [&cuda_std::Entry<GemmParams>; super::tiles::QUANTIZED_TILES.len()] =
            [&M16, &M32, &M64, &M96, &M128];
    };
}

#[cfg(not(target_arch = "nvptx64"))]
const fn joined_len(lists: &[&[EntryInfo]]) -> usize {
    let (mut len, mut i) = (0, 0);
    while i < lists.len() {
        len += lists[i].len();
        i += 1;
    }
    len
}
/// The lists one after the other.
#[cfg(not(target_arch = "nvptx64"))]
const fn joined<const LEN: usize>(lists: &[&[EntryInfo]]) -> [EntryInfo; LEN] {
    let mut all = [lists[0][0]; LEN];
    let (mut len, mut i) = (0, 0);
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            all[len] = lists[i][j];
            (len, j) = (len + 1, j + 1);
        }
        i += 1;
    }
    all
}

/// Declares the kernels of each format, and [`entry`].
macro_rules! products {
    ($($Format:ident => $file:ident, $kind:ident($($kernels:tt)*);)*) => {
        $(
            #[doc = concat!("Products on ", stringify!($Format), ".")]
            pub mod $file {
                $kind! { $($kernels)* }
            }
        )*

        /// The kernel of tile `tile` of [`tiles`] for weights of a format.
        #[cfg(not(target_arch = "nvptx64"))]
        pub fn entry(format: Format, tile: usize) -> Option<&'static Entry<GemmParams>> {
            match format {
                $(Format::$Format => $file::BY_TILE.get(tile).copied(),)*
                _ => None,
            }
        }

        /// Every kernel here.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const KERNELS: &[EntryInfo] = {
            const BY_FORMAT: &[&[EntryInfo]] = &[$($file::KERNELS),*];
            &joined::<{ joined_len(BY_FORMAT) }>(BY_FORMAT)
        };
    };
}

products! {
    F16 => f16, float(weights::F16, "gemm_f16":
        gemm_f16_m16 gemm_f16_m32 gemm_f16_m64 gemm_f16_m128);
    BF16 => bf16, float(weights::BF16, "gemm_bf16":
        gemm_bf16_m16 gemm_bf16_m32 gemm_bf16_m64 gemm_bf16_m128);
    Q4_0 => q4_0, quantized(Quantized<formats::q4_0::Q4_0>, "gemm_q4_0": gemm_q4_0_m16 gemm_q4_0_m32 gemm_q4_0_m64 gemm_q4_0_m96 gemm_q4_0_m128);
    Q4_1 => q4_1, quantized(Quantized<formats::q4_1::Q4_1>, "gemm_q4_1": gemm_q4_1_m16 gemm_q4_1_m32 gemm_q4_1_m64 gemm_q4_1_m96 gemm_q4_1_m128);
    Q5_0 => q5_0, quantized(Quantized<formats::q5_0::Q5_0>, "gemm_q5_0": gemm_q5_0_m16 gemm_q5_0_m32 gemm_q5_0_m64 gemm_q5_0_m96 gemm_q5_0_m128);
    Q5_1 => q5_1, quantized(Quantized<formats::q5_1::Q5_1>, "gemm_q5_1": gemm_q5_1_m16 gemm_q5_1_m32 gemm_q5_1_m64 gemm_q5_1_m96 gemm_q5_1_m128);
    Q8_0 => q8_0, quantized(Quantized<formats::q8_0::Q8_0>, "gemm_q8_0": gemm_q8_0_m16 gemm_q8_0_m32 gemm_q8_0_m64 gemm_q8_0_m96 gemm_q8_0_m128);
    Q2_K => q2_k, quantized(Quantized<formats::q2_k::Q2K>, "gemm_q2_k": gemm_q2_k_m16 gemm_q2_k_m32 gemm_q2_k_m64 gemm_q2_k_m96 gemm_q2_k_m128);
    Q3_K => q3_k, quantized(Quantized<formats::q3_k::Q3K>, "gemm_q3_k": gemm_q3_k_m16 gemm_q3_k_m32 gemm_q3_k_m64 gemm_q3_k_m96 gemm_q3_k_m128);
    Q4_K => q4_k, quantized(Quantized<formats::q4_k::Q4K>, "gemm_q4_k": gemm_q4_k_m16 gemm_q4_k_m32 gemm_q4_k_m64 gemm_q4_k_m96 gemm_q4_k_m128);
    Q5_K => q5_k, quantized(Quantized<formats::q5_k::Q5K>, "gemm_q5_k": gemm_q5_k_m16 gemm_q5_k_m32 gemm_q5_k_m64 gemm_q5_k_m96 gemm_q5_k_m128);
    Q6_K => q6_k, quantized(Quantized<formats::q6_k::Q6K>, "gemm_q6_k": gemm_q6_k_m16 gemm_q6_k_m32 gemm_q6_k_m64 gemm_q6_k_m96 gemm_q6_k_m128);
    Q8_K => q8_k, quantized(Quantized<formats::q8_k::Q8K>, "gemm_q8_k": gemm_q8_k_m16 gemm_q8_k_m32 gemm_q8_k_m64 gemm_q8_k_m96 gemm_q8_k_m128);
    IQ2_XXS => iq2_xxs, quantized(Quantized<formats::iq2_xxs::Iq2Xxs>, "gemm_iq2_xxs": gemm_iq2_xxs_m16 gemm_iq2_xxs_m32 gemm_iq2_xxs_m64 gemm_iq2_xxs_m96 gemm_iq2_xxs_m128);
    IQ2_XS => iq2_xs, quantized(Quantized<formats::iq2_xs::Iq2Xs>, "gemm_iq2_xs": gemm_iq2_xs_m16 gemm_iq2_xs_m32 gemm_iq2_xs_m64 gemm_iq2_xs_m96 gemm_iq2_xs_m128);
    IQ3_XXS => iq3_xxs, quantized(Quantized<formats::iq3_xxs::Iq3Xxs>, "gemm_iq3_xxs": gemm_iq3_xxs_m16 gemm_iq3_xxs_m32 gemm_iq3_xxs_m64 gemm_iq3_xxs_m96 gemm_iq3_xxs_m128);
    IQ1_S => iq1_s, quantized(Quantized<formats::iq1_s::Iq1S>, "gemm_iq1_s": gemm_iq1_s_m16 gemm_iq1_s_m32 gemm_iq1_s_m64 gemm_iq1_s_m96 gemm_iq1_s_m128);
    IQ4_NL => iq4_nl, quantized(Quantized<formats::iq4_nl::Iq4Nl>, "gemm_iq4_nl": gemm_iq4_nl_m16 gemm_iq4_nl_m32 gemm_iq4_nl_m64 gemm_iq4_nl_m96 gemm_iq4_nl_m128);
    IQ3_S => iq3_s, quantized(Quantized<formats::iq3_s::Iq3S>, "gemm_iq3_s": gemm_iq3_s_m16 gemm_iq3_s_m32 gemm_iq3_s_m64 gemm_iq3_s_m96 gemm_iq3_s_m128);
    IQ2_S => iq2_s, quantized(Quantized<formats::iq2_s::Iq2S>, "gemm_iq2_s": gemm_iq2_s_m16 gemm_iq2_s_m32 gemm_iq2_s_m64 gemm_iq2_s_m96 gemm_iq2_s_m128);
    IQ4_XS => iq4_xs, quantized(Quantized<formats::iq4_xs::Iq4Xs>, "gemm_iq4_xs": gemm_iq4_xs_m16 gemm_iq4_xs_m32 gemm_iq4_xs_m64 gemm_iq4_xs_m96 gemm_iq4_xs_m128);
    IQ1_M => iq1_m, quantized(Quantized<formats::iq1_m::Iq1M>, "gemm_iq1_m": gemm_iq1_m_m16 gemm_iq1_m_m32 gemm_iq1_m_m64 gemm_iq1_m_m96 gemm_iq1_m_m128);
    TQ1_0 => tq1_0, quantized(Quantized<formats::tq1_0::Tq1_0>, "gemm_tq1_0": gemm_tq1_0_m16 gemm_tq1_0_m32 gemm_tq1_0_m64 gemm_tq1_0_m96 gemm_tq1_0_m128);
    TQ2_0 => tq2_0, quantized(Quantized<formats::tq2_0::Tq2_0>, "gemm_tq2_0": gemm_tq2_0_m16 gemm_tq2_0_m32 gemm_tq2_0_m64 gemm_tq2_0_m96 gemm_tq2_0_m128);
    MXFP4 => mxfp4, quantized(Quantized<formats::mxfp4::Mxfp4>, "gemm_mxfp4": gemm_mxfp4_m16 gemm_mxfp4_m32 gemm_mxfp4_m64 gemm_mxfp4_m96 gemm_mxfp4_m128);
    NVFP4 => nvfp4, quantized(Quantized<formats::nvfp4::Nvfp4>, "gemm_nvfp4": gemm_nvfp4_m16 gemm_nvfp4_m32 gemm_nvfp4_m64 gemm_nvfp4_m96 gemm_nvfp4_m128);
    Q1_0 => q1_0, quantized(Quantized<formats::q1_0::Q1_0>, "gemm_q1_0": gemm_q1_0_m16 gemm_q1_0_m32 gemm_q1_0_m64 gemm_q1_0_m96 gemm_q1_0_m128);
    Q2_0 => q2_0, quantized(Quantized<formats::q2_0::Q2_0>, "gemm_q2_0": gemm_q2_0_m16 gemm_q2_0_m32 gemm_q2_0_m64 gemm_q2_0_m96 gemm_q2_0_m128);
}
