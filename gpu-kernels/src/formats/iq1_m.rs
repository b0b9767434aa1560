//! IQ1_M: 256 weights in eights from the codebook of IQ1_S, each eight shifted up or down by an
//! eighth; 3-bit scales for each 16. Source: ggml, `block_iq1_m`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::codebook::{Shift, ShiftedFit};
use super::scalar::f16_bits_to_f32;
use super::{Codec, array, grid, shifted_eight};

/// `w = d · (2s + 1) · (grid ± ⅛)`; unpacked as `d · (2s + 1) / 8 · (8·grid ± 1)`.
pub struct Iq1M;

/// One block of [`Iq1M`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq1M {
    /// Low 8 bits of the codebook index of each eight.
    pub qs: [u8; 32],
    /// A nibble an eight, in order from the low one: bits 8–10 of the index, and bit 3 set where
    /// the shift is down.
    pub qh: [u8; 16],
    /// Little-endian words of four 3-bit scales from the lowest; their top 4 bits, from the first
    /// word to the last, are the nibbles of the F16 scale of the scales from the lowest.
    pub scales: [[u8; 2]; 4],
}
const _: () = assert!(size_of::<BlockIq1M>() == 56);

impl BlockIq1M {
    /// The scale of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        let top = |i: usize| u16::from(self.scales[i][1] >> 4) << (4 * i);
        f16_bits_to_f32(top(0) | top(1) | top(2) | top(3))
    }
}

impl Codec for Iq1M {
    type Block = BlockIq1M;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -9;
    const Q_MAX: i8 = 9;

    #[inline]
    fn unpack(block: &BlockIq1M, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q).as_chunks_mut::<8>().0;
        for (k, q) in q.iter_mut().enumerate() {
            let high = block.qh[k / 2] >> (4 * (k % 2));
            let index = usize::from(block.qs[k]) | usize::from(high & 7) << 8;
            *q = shifted_eight(grid::IQ1[index], high >> 3 & 1);
        }
        let d = block.d();
        *array::<_, 16>(scale) = from_fn(|g| {
            let code = u16::from_le_bytes(block.scales[g / 4]) >> (3 * (g % 4)) & 7;
            // Dividing by 8 is exact here: d is a half, far above the F32 subnormals.
            d * f32::from(2 * code + 1) * 0.125
        });
        *array(min) = [0.0; 16];
    }

    fn encode(values: &[f32]) -> BlockIq1M {
        let fit = ShiftedFit::<16>::new(values, Shift::PerEight, &grid::IQ1);
        let high = |k: usize| {
            let (index, shift) = fit.eights[k];
            (index >> 8) as u8 | u8::from(shift < 0) << 3
        };
        let d = u16::from_le_bytes(fit.steps.d.0);
        let word = |i: usize| {
            let scale = |g: usize| u16::from(fit.steps.code[4 * i + g]) << (3 * g);
            ((0..4).map(scale).sum::<u16>() | (d >> (4 * i) & 15) << 12).to_le_bytes()
        };
        BlockIq1M {
            qs: fit.eights.map(|(index, _)| index as u8),
            qh: from_fn(|i| high(2 * i) | high(2 * i + 1) << 4),
            scales: from_fn(word),
        }
    }
}
