//! Embedding: rows of a matrix, decoded to F32 and multiplied by a number.
//!
//! One module of PTX a format, `embed_<format>`.

#[cfg(not(target_arch = "nvptx64"))]
use cuda_std::{Entry, EntryInfo, Launch};
use cuda_std::{Global, GlobalMut, Thread, params};

use super::decode::{Blocks, Decode, Plain};
use super::matrix::Matrix;
use crate::formats;
#[cfg(not(target_arch = "nvptx64"))]
use crate::formats::Format;

/// Threads of a CTA.
const THREADS: u32 = 128;

params! {
    /// Parameters of the embedding.
    pub struct EmbedParams {
        /// Row of the matrix for each row of `y`; one past the last is the last.
        pub tokens: Global<u32>,
        /// [vocab_size, hidden_size].
        pub weights: Matrix,
        /// Codebook of the format, or null.
        pub tables: Global<u32>,
        /// F32 [tokens, hidden_size].
        pub y: GlobalMut<f32>,
        /// What each weight is multiplied with.
        pub scale: f32,
    }
}

/// The launch for `tokens` rows of `cols`.
#[cfg(not(target_arch = "nvptx64"))]
pub fn launch(tokens: u32, cols: u32) -> Launch {
    Launch::plane(tokens, cols.div_ceil(32 * THREADS), THREADS)
}

#[inline(always)]
fn embed<D: Decode>(t: Thread, p: &EmbedParams) {
    let cols = p.weights.cols;
    let piece = t.cta_id_y() * THREADS + t.id();
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    if piece * 32 < cols {
        let token = p.tokens.get(t.cta_id() as usize).min(p.weights.rows - 1);
        let w = D::decode(&p.weights, token, piece, p.tables);
        let y = p.y.at(t.cta_id() as usize * cols as usize);
        repeat!(8, k, {
            repeat!(4, j, {
                let (i, at) = (4 * k + j, 32 * piece + 4 * k as u32 + j as u32);
                if at < cols {
                    y.set(at as usize, w[i] * p.scale);
                }
            });
        });
    }
}

macro_rules! embeddings {
    ($($Format:ident => $file:ident, $Decode:ty, $module:literal $entry:ident;)*) => {
        $(
            #[doc = concat!("The embedding of ", stringify!($Format), ".")]
            pub mod $file {
                use super::*;

                cuda_std::kernels! {
                    module $module;
                    /// Rows by token.
                    pub ENTRY: $entry(EmbedParams), threads THREADS, ctas 4 => embed::<$Decode>;
                }
            }
        )*

        /// The kernel for a format.
        #[cfg(not(target_arch = "nvptx64"))]
        pub fn entry(format: Format) -> &'static Entry<EmbedParams> {
            match format {
                $(Format::$Format => &$file::ENTRY,)*
            }
        }

        /// Every kernel here.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const KERNELS: &[EntryInfo] = &[$($file::ENTRY.info),*];
    };
}

embeddings! {
    F32 => f32, Plain<f32>, "embed_f32" embed_f32;
    F16 => f16, Plain<cuda_std::f16>, "embed_f16" embed_f16;
    BF16 => bf16, Plain<half::bf16>, "embed_bf16" embed_bf16;
    Q4_0 => q4_0, Blocks<formats::q4_0::Q4_0>, "embed_q4_0" embed_q4_0;
    Q4_1 => q4_1, Blocks<formats::q4_1::Q4_1>, "embed_q4_1" embed_q4_1;
    Q5_0 => q5_0, Blocks<formats::q5_0::Q5_0>, "embed_q5_0" embed_q5_0;
    Q5_1 => q5_1, Blocks<formats::q5_1::Q5_1>, "embed_q5_1" embed_q5_1;
    Q8_0 => q8_0, Blocks<formats::q8_0::Q8_0>, "embed_q8_0" embed_q8_0;
    Q2_K => q2_k, Blocks<formats::q2_k::Q2K>, "embed_q2_k" embed_q2_k;
    Q3_K => q3_k, Blocks<formats::q3_k::Q3K>, "embed_q3_k" embed_q3_k;
    Q4_K => q4_k, Blocks<formats::q4_k::Q4K>, "embed_q4_k" embed_q4_k;
    Q5_K => q5_k, Blocks<formats::q5_k::Q5K>, "embed_q5_k" embed_q5_k;
    Q6_K => q6_k, Blocks<formats::q6_k::Q6K>, "embed_q6_k" embed_q6_k;
    Q8_K => q8_k, Blocks<formats::q8_k::Q8K>, "embed_q8_k" embed_q8_k;
    IQ2_XXS => iq2_xxs, Blocks<formats::iq2_xxs::Iq2Xxs>, "embed_iq2_xxs" embed_iq2_xxs;
    IQ2_XS => iq2_xs, Blocks<formats::iq2_xs::Iq2Xs>, "embed_iq2_xs" embed_iq2_xs;
    IQ3_XXS => iq3_xxs, Blocks<formats::iq3_xxs::Iq3Xxs>, "embed_iq3_xxs" embed_iq3_xxs;
    IQ1_S => iq1_s, Blocks<formats::iq1_s::Iq1S>, "embed_iq1_s" embed_iq1_s;
    IQ4_NL => iq4_nl, Blocks<formats::iq4_nl::Iq4Nl>, "embed_iq4_nl" embed_iq4_nl;
    IQ3_S => iq3_s, Blocks<formats::iq3_s::Iq3S>, "embed_iq3_s" embed_iq3_s;
    IQ2_S => iq2_s, Blocks<formats::iq2_s::Iq2S>, "embed_iq2_s" embed_iq2_s;
    IQ4_XS => iq4_xs, Blocks<formats::iq4_xs::Iq4Xs>, "embed_iq4_xs" embed_iq4_xs;
    IQ1_M => iq1_m, Blocks<formats::iq1_m::Iq1M>, "embed_iq1_m" embed_iq1_m;
    TQ1_0 => tq1_0, Blocks<formats::tq1_0::Tq1_0>, "embed_tq1_0" embed_tq1_0;
    TQ2_0 => tq2_0, Blocks<formats::tq2_0::Tq2_0>, "embed_tq2_0" embed_tq2_0;
    MXFP4 => mxfp4, Blocks<formats::mxfp4::Mxfp4>, "embed_mxfp4" embed_mxfp4;
    NVFP4 => nvfp4, Blocks<formats::nvfp4::Nvfp4>, "embed_nvfp4" embed_nvfp4;
    Q1_0 => q1_0, Blocks<formats::q1_0::Q1_0>, "embed_q1_0" embed_q1_0;
    Q2_0 => q2_0, Blocks<formats::q2_0::Q2_0>, "embed_q2_0" embed_q2_0;
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use cuda_std::emu::Memory;

    use super::*;
    use crate::kernels::gemv::tests::{upload_any, weights};

    fn check(format: Format, cols: usize) {
        const ROWS: usize = 5;
        let tokens = [4, 0, 4, 2];
        let mut memory = Memory::new();
        let bytes = weights(format, 3, ROWS, cols);
        let mut w = vec![0.0; ROWS * cols];
        format.decode(&bytes, &mut w);
        let params = EmbedParams {
            tokens: memory.upload(&tokens),
            weights: upload_any(&mut memory, format, &bytes, ROWS, cols),
            tables: memory.upload(format.table()),
            y: memory.uninit(tokens.len() * cols),
            scale: 1.5,
        };
        let launch = launch(tokens.len() as u32, cols as u32);
        memory.launch(entry(format), launch, &params).unwrap();
        let rows = tokens.iter().map(|&t| &w[t as usize * cols..][..cols]);
        let want: Vec<f32> = rows.flatten().map(|w| w * 1.5).collect();
        assert_eq!(memory.read(params.y), want, "{format:?} {cols}");
    }

    #[test]
    fn every_format_embeds_bit_for_bit() {
        for &format in Format::ALL {
            check(format, 2 * format.block_len().max(32));
        }
    }

    #[test]
    fn odd_and_long_rows_embed() {
        for cols in [1, 33, 4097] {
            check(Format::F16, cols);
            check(Format::F32, cols);
        }
        check(Format::Q8_0, 4128);
    }
}
