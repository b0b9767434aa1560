//! IQ2_XS: 256 weights in eights from a codebook of 512 points, 7 bits of signs an eight, 4-bit
//! scales for each 16. Source: ggml, `block_iq2_xs`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::codebook::{SignedFit, Signs};
use super::scalar::F16Le;
use super::{Codec, array, even_signs, grid, low_then_high, pack_low_then_high, signed_eight};

/// `w = d · (s + ½) / 4 · ±grid`.
pub struct Iq2Xs;

/// One block of [`Iq2Xs`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2Xs {
    /// Scale of the scales.
    pub d: F16Le,
    /// Little-endian word of each eight: codebook index in the low 9 bits, signs in the high 7.
    pub qs: [[u8; 2]; 32],
    /// Scales, two a byte, in order from the low nibble.
    pub scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIq2Xs>() == 74);

impl Codec for Iq2Xs {
    type Block = BlockIq2Xs;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -43;
    const Q_MAX: i8 = 43;

    #[inline]
    fn unpack(block: &BlockIq2Xs, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        for (q, word) in array::<_, 256>(q).as_chunks_mut::<8>().0.iter_mut().zip(block.qs) {
            let word = u16::from_le_bytes(word);
            let signs = even_signs((word >> 9) as u8);
            *q = signed_eight(grid::IQ2_XS[usize::from(word & 511)], signs);
        }
        let d = block.d.get();
        *array::<_, 16>(scale) =
            low_then_high(&block.scales).map(|s| d * (f32::from(s) + 0.5) * 0.25);
        *array(min) = [0.0; 16];
    }

    fn encode(values: &[f32]) -> BlockIq2Xs {
        let fit = SignedFit::<16>::new(values, Signs::Even, &grid::IQ2_XS, 0.125);
        let word = |k: usize| {
            let index = fit.index(k, &grid::IQ2_XS) as u16;
            (index | u16::from(fit.signs[k] & 127) << 9).to_le_bytes()
        };
        let scales = pack_low_then_high(&fit.steps.code);
        BlockIq2Xs { d: fit.steps.d, qs: from_fn(word), scales }
    }
}
