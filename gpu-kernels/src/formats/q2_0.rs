//! Q2_0: 64 weights of 2 bits, one F16 scale. Source: ggml, `block_q2_0`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · (q − 1)`.
pub struct Q2_0;

/// One block of [`Q2_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: F16Le,
    /// Four weights a byte, in order from the low bits.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ2_0>() == 18);

impl Codec for Q2_0 {
    type Block = BlockQ2_0;
    const BLOCK_LEN: usize = 64;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -1;
    const Q_MAX: i8 = 2;

    #[inline]
    fn unpack(block: &BlockQ2_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        for (q, codes) in array::<_, 64>(q).as_chunks_mut::<4>().0.iter_mut().zip(block.qs) {
            *q = from_fn(|j| (codes >> (2 * j) & 3) as i8 - 1);
        }
        *array(scale) = [block.d.get(); 2];
        *array(min) = [0.0; 2];
    }

    /// The scale is the largest magnitude, so that code 3 (twice the scale) stays unused.
    fn encode(values: &[f32]) -> BlockQ2_0 {
        let d = fit::abs_max(values);
        let inverse = fit::inverse(d);
        let mut qs = [0; 16];
        for (i, &v) in values.iter().enumerate() {
            let code = (fit::round(v * inverse) + 1).clamp(0, 3) as u8;
            qs[i / 4] |= code << (2 * (i % 4));
        }
        BlockQ2_0 { d: F16Le::new(d), qs }
    }
}
