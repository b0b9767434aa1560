//! IQ2_S: 256 weights in eights from a codebook of 1024 points, a sign bit a weight, 4-bit scales
//! for each 16. Source: ggml, `block_iq2_s`.

use bytemuck::{Pod, Zeroable};

use super::codebook::{SignedFit, Signs};
use super::scalar::F16Le;
use super::{Codec, array, grid, low_then_high, pack_low_then_high, signed_eight};

/// `w = d · (s + ½) / 4 · ±grid`.
pub struct Iq2S;

/// One block of [`Iq2S`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2S {
    /// Scale of the scales.
    pub d: F16Le,
    /// Low 8 bits of the codebook index of each eight.
    pub qs: [u8; 32],
    /// Signs of each eight, weight 0 in the lowest bit; set is negative.
    pub signs: [u8; 32],
    /// High 2 bits of the indices, four a byte, in order from the lowest.
    pub qh: [u8; 8],
    /// Scales, two a byte, in order from the low nibble.
    pub scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIq2S>() == 82);

impl Codec for Iq2S {
    type Block = BlockIq2S;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -43;
    const Q_MAX: i8 = 43;

    #[inline]
    fn unpack(block: &BlockIq2S, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q).as_chunks_mut::<8>().0;
        for (k, q) in q.iter_mut().enumerate() {
            let high = usize::from(block.qh[k / 4] >> (2 * (k % 4)) & 3);
            let index = usize::from(block.qs[k]) | high << 8;
            *q = signed_eight(grid::IQ2_S[index], block.signs[k]);
        }
        let d = block.d.get();
        *array::<_, 16>(scale) =
            low_then_high(&block.scales).map(|s| d * (f32::from(s) + 0.5) * 0.25);
        *array(min) = [0.0; 16];
    }

    fn encode(values: &[f32]) -> BlockIq2S {
        let fit = SignedFit::<16>::new(values, Signs::Free, &grid::IQ2_S, 0.125);
        let mut block = BlockIq2S { d: fit.steps.d, signs: fit.signs, ..BlockIq2S::zeroed() };
        for k in 0..32 {
            let index = fit.index(k, &grid::IQ2_S);
            block.qs[k] = index as u8;
            block.qh[k / 4] |= (index >> 8 << (2 * (k % 4))) as u8;
        }
        block.scales = pack_low_then_high(&fit.steps.code);
        block
    }
}
