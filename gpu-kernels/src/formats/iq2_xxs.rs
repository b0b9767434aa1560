//! IQ2_XXS: 256 weights in eights from a codebook of 256 points, 7 bits of signs an eight, 4-bit
//! scales for each 32. Source: ggml, `block_iq2_xxs`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::codebook::{SignedFit, Signs};
use super::scalar::F16Le;
use super::{Codec, array, even_signs, grid, signed_eight};

/// `w = d · (s + ½) / 4 · ±grid`.
pub struct Iq2Xxs;

/// One block of [`Iq2Xxs`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2Xxs {
    /// Scale of the scales.
    pub d: F16Le,
    /// The groups of 32.
    pub groups: [Iq2XxsGroup; 8],
}
const _: () = assert!(size_of::<BlockIq2Xxs>() == 66);

/// 32 weights of [`Iq2Xxs`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2XxsGroup {
    /// Codebook index of each eight.
    pub index: [u8; 4],
    /// Little-endian word: signs of each eight in 7 bits from the lowest, scale in the top 4.
    pub signs_and_scale: [u8; 4],
}

impl Codec for Iq2Xxs {
    type Block = BlockIq2Xxs;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -43;
    const Q_MAX: i8 = 43;

    #[inline]
    fn unpack(block: &BlockIq2Xxs, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let (q, scale) = (array::<_, 256>(q).as_chunks_mut::<8>().0, array::<_, 8>(scale));
        let d = block.d.get();
        for (g, group) in block.groups.iter().enumerate() {
            let word = u32::from_le_bytes(group.signs_and_scale);
            for k in 0..4 {
                let signs = even_signs((word >> (7 * k)) as u8);
                q[4 * g + k] = signed_eight(grid::IQ2_XXS[usize::from(group.index[k])], signs);
            }
            scale[g] = d * ((word >> 28) as f32 + 0.5) * 0.25;
        }
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockIq2Xxs {
        let fit = SignedFit::<8>::new(values, Signs::Even, &grid::IQ2_XXS, 0.125);
        let group = |g: usize| {
            let sign = |k: usize| u32::from(fit.signs[4 * g + k] & 127) << (7 * k);
            let word = (0..4).map(sign).sum::<u32>() | u32::from(fit.steps.code[g]) << 28;
            Iq2XxsGroup {
                index: from_fn(|k| fit.index(4 * g + k, &grid::IQ2_XXS) as u8),
                signs_and_scale: word.to_le_bytes(),
            }
        };
        BlockIq2Xxs { d: fit.steps.d, groups: from_fn(group) }
    }
}
