//! IQ3_S: 256 weights in fours from a codebook of 512 points, a sign bit a weight, 4-bit scales
//! for each 32. Source: ggml, `block_iq3_s`.

use bytemuck::{Pod, Zeroable};

use super::codebook::{SignedFit, Signs};
use super::scalar::F16Le;
use super::{Codec, array, grid, low_then_high, pack_low_then_high, signed_eight, two_fours};

/// `w = d · (2s + 1) · ±grid`.
pub struct Iq3S;

/// One block of [`Iq3S`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq3S {
    /// Scale of the scales.
    pub d: F16Le,
    /// Low 8 bits of the codebook index of each four.
    pub qs: [u8; 64],
    /// Bit 8 of the indices, eight a byte, in order from the lowest.
    pub qh: [u8; 8],
    /// Signs of each eight, weight 0 in the lowest bit; set is negative.
    pub signs: [u8; 32],
    /// Scales, two a byte, in order from the low nibble.
    pub scales: [u8; 4],
}
const _: () = assert!(size_of::<BlockIq3S>() == 110);

impl Codec for Iq3S {
    type Block = BlockIq3S;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -15;
    const Q_MAX: i8 = 15;

    #[inline]
    fn unpack(block: &BlockIq3S, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q).as_chunks_mut::<8>().0;
        for (k, q) in q.iter_mut().enumerate() {
            let four = |i: usize| {
                let high = usize::from(block.qh[i / 8] >> (i % 8) & 1);
                grid::IQ3_S[usize::from(block.qs[i]) | high << 8]
            };
            *q = signed_eight(two_fours(four(2 * k), four(2 * k + 1)), block.signs[k]);
        }
        let d = block.d.get();
        *array::<_, 8>(scale) = low_then_high(&block.scales).map(|s| d * f32::from(2 * s + 1));
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockIq3S {
        let fit = SignedFit::<8>::new(values, Signs::Free, &grid::IQ3_S, 1.0);
        let mut block = BlockIq3S { d: fit.steps.d, signs: fit.signs, ..BlockIq3S::zeroed() };
        for k in 0..64 {
            let index = fit.index(k, &grid::IQ3_S);
            block.qs[k] = index as u8;
            block.qh[k / 8] |= (index >> 8 << (k % 8)) as u8;
        }
        block.scales = pack_low_then_high(&fit.steps.code);
        block
    }
}
