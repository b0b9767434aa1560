//! The plain product: `y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n]` with weights decoded to F32, activations
//! in F32 and fused multiply-adds, for any m.
//!
//! Slow, and what the fast products are measured against; exact mode runs on it. A warp computes one
//! element, each lane sums every 32nd piece of 32, so that a sum has k / 32 terms and then six: its
//! error stays near 1e-6 of the sum of magnitudes.
//!
//! One module of PTX a format, `exact_<format>`.

#[cfg(not(target_arch = "nvptx64"))]
use cuda_std::{Entry, EntryInfo, Launch};
use cuda_std::{Global, Thread, params};

use super::decode::{Blocks, Decode, Plain, multiply};
use super::gemv::Target;
use crate::formats;
#[cfg(not(target_arch = "nvptx64"))]
use crate::formats::Format;

/// Warps of a CTA.
const WARPS: u32 = 8;

params! {
    /// Parameters of the plain product.
    pub struct ExactParams {
        /// F32 [m, k].
        pub x: Global<f32>,
        /// The matrix, the bias and the output.
        pub target: Target,
        /// Codebook of the format, or null.
        pub tables: Global<u32>,
    }
}

/// The launch for `tokens` rows of `x` on a matrix of `rows`; at most 65535 tokens.
#[cfg(not(target_arch = "nvptx64"))]
pub fn launch(rows: u32, tokens: u32) -> Launch {
    Launch::plane(rows.div_ceil(WARPS), tokens, 32 * WARPS)
}

#[inline(always)]
fn exact<D: Decode>(t: Thread, p: &ExactParams) {
    let (row, token) = (t.cta_id() * WARPS + t.warp(), t.cta_id_y());
    let weights = &p.target.weights;
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    if row >= weights.rows {
        return;
    }
    let x = p.x.at(token as usize * weights.cols as usize);
    let mut sum = 0.0;
    let mut piece = t.lane();
    while piece * 32 < weights.cols {
        let w = D::decode(weights, row, piece, p.tables);
        sum = multiply(sum, &w, x, 32 * piece, weights.cols);
        piece += 32;
    }
    let sum = t.warp_sum(sum);
    if t.lane() == 0 {
        let bias = if p.target.bias.is_null() { 0.0 } else { p.target.bias.get(row as usize) };
        p.target.y.set(token as usize * p.target.stride as usize + row as usize, sum + bias);
    }
}

macro_rules! products {
    ($($Format:ident => $file:ident, $Decode:ty, $module:literal $entry:ident;)*) => {
        $(
            #[doc = concat!("The plain product on ", stringify!($Format), ".")]
            pub mod $file {
                use super::*;

                cuda_std::kernels! {
                    module $module;
                    /// Any number of rows.
                    pub ENTRY: $entry(ExactParams), threads 32 * WARPS, ctas 2 => exact::<$Decode>;
                }
            }
        )*

        /// The kernel for a format.
        #[cfg(not(target_arch = "nvptx64"))]
        pub fn entry(format: Format) -> &'static Entry<ExactParams> {
            match format {
                $(Format::$Format => &$file::ENTRY,)*
            }
        }

        /// Every kernel here.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const KERNELS: &[EntryInfo] = &[$($file::ENTRY.info),*];
    };
}

products! {
    F32 => f32, Plain<f32>, "exact_f32" linear_exact_f32;
    F16 => f16, Plain<cuda_std::f16>, "exact_f16" linear_exact_f16;
    BF16 => bf16, Plain<half::bf16>, "exact_bf16" linear_exact_bf16;
    Q4_0 => q4_0, Blocks<formats::q4_0::Q4_0>, "exact_q4_0" linear_exact_q4_0;
    Q4_1 => q4_1, Blocks<formats::q4_1::Q4_1>, "exact_q4_1" linear_exact_q4_1;
    Q5_0 => q5_0, Blocks<formats::q5_0::Q5_0>, "exact_q5_0" linear_exact_q5_0;
    Q5_1 => q5_1, Blocks<formats::q5_1::Q5_1>, "exact_q5_1" linear_exact_q5_1;
    Q8_0 => q8_0, Blocks<formats::q8_0::Q8_0>, "exact_q8_0" linear_exact_q8_0;
    Q2_K => q2_k, Blocks<formats::q2_k::Q2K>, "exact_q2_k" linear_exact_q2_k;
    Q3_K => q3_k, Blocks<formats::q3_k::Q3K>, "exact_q3_k" linear_exact_q3_k;
    Q4_K => q4_k, Blocks<formats::q4_k::Q4K>, "exact_q4_k" linear_exact_q4_k;
    Q5_K => q5_k, Blocks<formats::q5_k::Q5K>, "exact_q5_k" linear_exact_q5_k;
    Q6_K => q6_k, Blocks<formats::q6_k::Q6K>, "exact_q6_k" linear_exact_q6_k;
    Q8_K => q8_k, Blocks<formats::q8_k::Q8K>, "exact_q8_k" linear_exact_q8_k;
    IQ2_XXS => iq2_xxs, Blocks<formats::iq2_xxs::Iq2Xxs>, "exact_iq2_xxs" linear_exact_iq2_xxs;
    IQ2_XS => iq2_xs, Blocks<formats::iq2_xs::Iq2Xs>, "exact_iq2_xs" linear_exact_iq2_xs;
    IQ3_XXS => iq3_xxs, Blocks<formats::iq3_xxs::Iq3Xxs>, "exact_iq3_xxs" linear_exact_iq3_xxs;
    IQ1_S => iq1_s, Blocks<formats::iq1_s::Iq1S>, "exact_iq1_s" linear_exact_iq1_s;
    IQ4_NL => iq4_nl, Blocks<formats::iq4_nl::Iq4Nl>, "exact_iq4_nl" linear_exact_iq4_nl;
    IQ3_S => iq3_s, Blocks<formats::iq3_s::Iq3S>, "exact_iq3_s" linear_exact_iq3_s;
    IQ2_S => iq2_s, Blocks<formats::iq2_s::Iq2S>, "exact_iq2_s" linear_exact_iq2_s;
    IQ4_XS => iq4_xs, Blocks<formats::iq4_xs::Iq4Xs>, "exact_iq4_xs" linear_exact_iq4_xs;
    IQ1_M => iq1_m, Blocks<formats::iq1_m::Iq1M>, "exact_iq1_m" linear_exact_iq1_m;
    TQ1_0 => tq1_0, Blocks<formats::tq1_0::Tq1_0>, "exact_tq1_0" linear_exact_tq1_0;
    TQ2_0 => tq2_0, Blocks<formats::tq2_0::Tq2_0>, "exact_tq2_0" linear_exact_tq2_0;
    MXFP4 => mxfp4, Blocks<formats::mxfp4::Mxfp4>, "exact_mxfp4" linear_exact_mxfp4;
    NVFP4 => nvfp4, Blocks<formats::nvfp4::Nvfp4>, "exact_nvfp4" linear_exact_nvfp4;
    Q1_0 => q1_0, Blocks<formats::q1_0::Q1_0>, "exact_q1_0" linear_exact_q1_0;
    Q2_0 => q2_0, Blocks<formats::q2_0::Q2_0>, "exact_q2_0" linear_exact_q2_0;
}

#[cfg(test)]
mod tests {
    use std::vec;

    use cuda_std::GlobalMut;
    use cuda_std::emu::Memory;

    use super::*;
    use crate::kernels::gemv::tests::{error, numbers, upload_any, weights};

    fn check(format: Format, rows: usize, cols: usize, tokens: usize, bias: bool) {
        let mut memory = Memory::new();
        let bytes = weights(format, 3, rows, cols);
        let mut w = vec![0.0; rows * cols];
        format.decode(&bytes, &mut w);
        let (x, b) = (numbers(5, tokens * cols), numbers(6, rows));
        let mut want = vec![];
        for x in x.chunks_exact(cols) {
            for (w, b) in w.chunks_exact(cols).zip(&b) {
                let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                want.push(sum + if bias { f64::from(*b) } else { 0.0 });
            }
        }
        let y: GlobalMut<f32> = memory.uninit(tokens * rows);
        let target = Target {
            weights: upload_any(&mut memory, format, &bytes, rows, cols),
            bias: if bias { memory.upload(&b) } else { Global::null() },
            y,
            stride: rows as u32,
        };
        let tables = memory.upload(format.table());
        let params = ExactParams { x: memory.upload(&x), target, tables };
        memory.launch(entry(format), launch(rows as u32, tokens as u32), &params).unwrap();
        let error = error(&memory.read(y), &want);
        assert!(error < 1e-12, "{format:?} {rows} x {cols}, {tokens} tokens: {error:e}");
    }

    #[test]
    fn every_format_multiplies_exactly() {
        for &format in Format::ALL {
            check(format, 9, 2 * format.block_len().max(32), 3, true);
        }
    }

    #[test]
    fn odd_lengths_multiply() {
        for cols in [1, 7, 31, 33, 64, 1025] {
            for format in [Format::F32, Format::F16, Format::BF16] {
                check(format, 3, cols, 2, false);
            }
        }
        check(Format::Q8_0, 1, 33 * 32, 1, false);
    }
}
