//! Q8_0: 32 weights of 8 bits, one F16 scale. Source: ggml, `block_q8_0`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · q`.
pub struct Q8_0;

/// One block of [`Q8_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: F16Le,
    /// Weights in order.
    pub qs: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl Codec for Q8_0 {
    type Block = BlockQ8_0;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -128;
    const Q_MAX: i8 = 127;

    #[inline]
    fn unpack(block: &BlockQ8_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        *array(q) = block.qs;
        *array(scale) = [block.d.get()];
        *array(min) = [0.0];
    }

    fn encode(values: &[f32]) -> BlockQ8_0 {
        let d = fit::abs_max(values) / 127.0;
        let inverse = fit::inverse(d);
        let qs = from_fn(|i| fit::round(values[i] * inverse) as i8);
        BlockQ8_0 { d: F16Le::new(d), qs }
    }
}
