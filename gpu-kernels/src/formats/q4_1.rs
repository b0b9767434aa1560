//! Q4_1: 32 weights of 4 bits, an F16 scale and an F16 minimum. Source: ggml, `block_q4_1`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array, pack_nibbles, unpack_nibbles};

/// `w = d · q + m`.
pub struct Q4_1;

/// One block of [`Q4_1`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: F16Le,
    /// Value of code 0.
    pub m: F16Le,
    /// Weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl Codec for Q4_1 {
    type Block = BlockQ4_1;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = true;
    const Q_MIN: i8 = 0;
    const Q_MAX: i8 = 15;

    #[inline]
    fn unpack(block: &BlockQ4_1, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        unpack_nibbles(&block.qs, array(q), |n| n as i8);
        *array(scale) = [block.d.get()];
        *array(min) = [-block.m.get()];
    }

    fn encode(values: &[f32]) -> BlockQ4_1 {
        let (low, high) = fit::range(values);
        let d = (high - low) / 15.0;
        let inverse = fit::inverse(d);
        let code = |i: usize| ((values[i] - low) * inverse + 0.5).clamp(0.0, 15.0) as u8;
        let qs = pack_nibbles(&from_fn(code));
        BlockQ4_1 { d: F16Le::new(d), m: F16Le::new(low), qs }
    }
}
