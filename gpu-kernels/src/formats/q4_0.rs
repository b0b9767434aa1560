//! Q4_0: 32 weights of 4 bits around 8, one F16 scale. Source: ggml, `block_q4_0`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array, pack_nibbles, unpack_nibbles};

/// `w = d · (q − 8)`.
pub struct Q4_0;

/// One block of [`Q4_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: F16Le,
    /// Weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl Codec for Q4_0 {
    type Block = BlockQ4_0;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -8;
    const Q_MAX: i8 = 7;

    #[inline]
    fn unpack(block: &BlockQ4_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        unpack_nibbles(&block.qs, array(q), |n| n as i8 - 8);
        *array(scale) = [block.d.get()];
        *array(min) = [0.0];
    }

    fn encode(values: &[f32]) -> BlockQ4_0 {
        let d = fit::extreme(values) / -8.0;
        let inverse = fit::inverse(d);
        let code = |i: usize| (values[i] * inverse + 8.5).clamp(0.0, 15.0) as u8;
        BlockQ4_0 { d: F16Le::new(d), qs: pack_nibbles(&from_fn(code)) }
    }
}
