//! IQ4_XS: 256 weights on the levels of IQ4_NL, 6-bit scales for each 32.
//!
//! Source: ggml, `block_iq4_xs`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::iq4_nl::{LEVELS, level};
use super::scalar::F16Le;
use super::{Codec, array, pack_nibbles, unpack_nibbles};

/// `w = d · (s − 32) · LEVELS[q]`.
pub struct Iq4Xs;

/// One block of [`Iq4Xs`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Xs {
    /// Scale of the scales.
    pub d: F16Le,
    /// Bits 4 and 5 of scale `g` at bit `2·g` of this little-endian word.
    pub scales_h: [u8; 2],
    /// Low 4 bits of the scales, two a byte, in order from the low nibble.
    pub scales_l: [u8; 4],
    /// Per group of 32: weight `i` in the low nibble of byte `i`, `i + 16` in its high nibble.
    pub qs: [[u8; 16]; 8],
}
const _: () = assert!(size_of::<BlockIq4Xs>() == 136);

impl Codec for Iq4Xs {
    type Block = BlockIq4Xs;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -127;
    const Q_MAX: i8 = 113;

    #[inline]
    fn unpack(block: &BlockIq4Xs, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        for (q, qs) in array::<_, 256>(q).as_chunks_mut::<32>().0.iter_mut().zip(&block.qs) {
            unpack_nibbles(qs, q, level);
        }
        let (d, high) = (block.d.get(), u16::from_le_bytes(block.scales_h));
        *array::<_, 8>(scale) = from_fn(|g| {
            let low = block.scales_l[g / 2] >> (4 * (g % 2)) & 15;
            let code = low | ((high >> (2 * g) & 3) as u8) << 4;
            d * f32::from(code as i8 - 32)
        });
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockIq4Xs {
        let groups = values.as_chunks::<32>().0;
        let scales: [f32; 8] = from_fn(|g| fit::uneven(&groups[g], &LEVELS));
        let d = F16Le::new(fit::extreme(&scales) / -32.0);
        let inverse = fit::inverse(d.get());
        let mut block = BlockIq4Xs { d, ..BlockIq4Xs::zeroed() };
        let mut high = 0;
        for g in 0..8 {
            let step = fit::round(scales[g] * inverse).clamp(-32, 31);
            let code = (step + 32) as u16;
            block.scales_l[g / 2] |= (code as u8 & 15) << (4 * (g % 2));
            high |= (code >> 4) << (2 * g);
            let scale = d.get() * step as f32;
            let nearest = |i: usize| fit::nearest(&LEVELS, scale, groups[g][i]) as u8;
            block.qs[g] = pack_nibbles(&from_fn(nearest));
        }
        block.scales_h = high.to_le_bytes();
        block
    }
}
