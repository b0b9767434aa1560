//! IQ1_S: 256 weights in eights from a codebook of 2048 ternary points, all shifted up or down by
//! an eighth; 3-bit scales for each 32. Source: ggml, `block_iq1_s`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::codebook::{Shift, ShiftedFit};
use super::scalar::F16Le;
use super::{Codec, array, grid, shifted_eight};

/// `w = d · (2s + 1) · (grid ± ⅛)`; unpacked as `d · (2s + 1) / 8 · (8·grid ± 1)`.
pub struct Iq1S;

/// One block of [`Iq1S`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq1S {
    /// Scale of the scales.
    pub d: F16Le,
    /// Low 8 bits of the codebook index of each eight.
    pub qs: [u8; 32],
    /// Per 32 weights a little-endian word: bits 8–10 of four indices from the lowest, the scale
    /// in bits 12–14, and bit 15 set where the shift is down.
    pub qh: [[u8; 2]; 8],
}
const _: () = assert!(size_of::<BlockIq1S>() == 50);

impl Codec for Iq1S {
    type Block = BlockIq1S;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -9;
    const Q_MAX: i8 = 9;

    #[inline]
    fn unpack(block: &BlockIq1S, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let (q, scale) = (array::<_, 256>(q).as_chunks_mut::<8>().0, array::<_, 8>(scale));
        let d = block.d.get();
        for g in 0..8 {
            let word = u16::from_le_bytes(block.qh[g]);
            let down = (word >> 15) as u8;
            for k in 0..4 {
                let high = usize::from(word >> (3 * k) & 7);
                let index = usize::from(block.qs[4 * g + k]) | high << 8;
                q[4 * g + k] = shifted_eight(grid::IQ1[index], down);
            }
            // Dividing by 8 is exact here: d is a half, far above the F32 subnormals.
            scale[g] = d * f32::from(2 * (word >> 12 & 7) + 1) * 0.125;
        }
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockIq1S {
        let fit = ShiftedFit::<8>::new(values, Shift::PerGroup, &grid::IQ1);
        let word = |g: usize| {
            let high = |k: usize| (fit.eights[4 * g + k].0 as u16 >> 8) << (3 * k);
            let down = u16::from(fit.eights[4 * g].1 < 0);
            let scale = u16::from(fit.steps.code[g]);
            ((0..4).map(high).sum::<u16>() | scale << 12 | down << 15).to_le_bytes()
        };
        let qs = fit.eights.map(|(index, _)| index as u8);
        BlockIq1S { d: fit.steps.d, qs, qh: from_fn(word) }
    }
}
