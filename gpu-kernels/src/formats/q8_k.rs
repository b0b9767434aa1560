//! Q8_K: 256 weights of 8 bits, one F32 scale. Source: ggml, `block_q8_K`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::{Codec, array};

/// `w = d · q`.
pub struct Q8K;

/// One block of [`Q8K`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8K {
    /// Scale, a little-endian F32.
    pub d: [u8; 4],
    /// Weights in order.
    pub qs: [i8; 256],
    /// Sums of 16 codes each, little-endian i16: for dot products, unused by decoding.
    pub bsums: [[u8; 2]; 16],
}
const _: () = assert!(size_of::<BlockQ8K>() == 292);

impl Codec for Q8K {
    type Block = BlockQ8K;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -128;
    const Q_MAX: i8 = 127;

    #[inline]
    fn unpack(block: &BlockQ8K, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        *array(q) = block.qs;
        *array(scale) = [f32::from_le_bytes(block.d); 8];
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockQ8K {
        let inverse = -127.0 * fit::inverse(fit::extreme(values));
        let qs: [i8; 256] = from_fn(|i| fit::round(values[i] * inverse) as i8);
        let sum = |g: usize| qs[16 * g..][..16].iter().map(|&q| i16::from(q)).sum::<i16>();
        BlockQ8K {
            d: fit::inverse(inverse).to_le_bytes(),
            qs,
            bsums: from_fn(|g| sum(g).to_le_bytes()),
        }
    }
}
