//! IQ3_XXS: 256 weights in fours from a codebook of 256 points, 7 bits of signs an eight, 4-bit
//! scales for each 32. Source: ggml, `block_iq3_xxs`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::codebook::{SignedFit, Signs};
use super::scalar::F16Le;
use super::{Codec, array, even_signs, grid, signed_eight, two_fours};

/// `w = d · (s + ½) / 2 · ±grid`.
pub struct Iq3Xxs;

/// One block of [`Iq3Xxs`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq3Xxs {
    /// Scale of the scales.
    pub d: F16Le,
    /// Codebook index of each four.
    pub qs: [u8; 64],
    /// Per 32 weights a little-endian word: signs of each eight in 7 bits from the lowest, scale
    /// in the top 4.
    pub signs_and_scale: [[u8; 4]; 8],
}
const _: () = assert!(size_of::<BlockIq3Xxs>() == 98);

impl Codec for Iq3Xxs {
    type Block = BlockIq3Xxs;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -62;
    const Q_MAX: i8 = 62;

    #[inline]
    fn unpack(block: &BlockIq3Xxs, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let (q, scale) = (array::<_, 256>(q).as_chunks_mut::<8>().0, array::<_, 8>(scale));
        let d = block.d.get();
        for g in 0..8 {
            let word = u32::from_le_bytes(block.signs_and_scale[g]);
            for k in 0..4 {
                let four = |i: usize| grid::IQ3_XXS[usize::from(block.qs[8 * g + 2 * k + i])];
                let signs = even_signs((word >> (7 * k)) as u8);
                q[4 * g + k] = signed_eight(two_fours(four(0), four(1)), signs);
            }
            scale[g] = d * ((word >> 28) as f32 + 0.5) * 0.5;
        }
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockIq3Xxs {
        let fit = SignedFit::<8>::new(values, Signs::Even, &grid::IQ3_XXS, 0.25);
        let word = |g: usize| {
            let sign = |k: usize| u32::from(fit.signs[4 * g + k] & 127) << (7 * k);
            let word = (0..4).map(sign).sum::<u32>() | u32::from(fit.steps.code[g]) << 28;
            word.to_le_bytes()
        };
        BlockIq3Xxs {
            d: fit.steps.d,
            qs: from_fn(|k| fit.index(k, &grid::IQ3_XXS) as u8),
            signs_and_scale: from_fn(word),
        }
    }
}
