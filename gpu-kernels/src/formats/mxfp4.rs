//! MXFP4: 32 weights in FP4 (E2M1), one power-of-two scale (E8M0).
//!
//! Source: OCP Microscaling Formats v1.0; layout of ggml's `block_mxfp4`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::e8m0_half;
use super::{Codec, array, pack_nibbles, unpack_nibbles};

/// Twice the E2M1 value of each code, so that all are integers.
pub const FP4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `FP4_DOUBLED[code]` by arithmetic, which vectorizes where a look-up does not.
///
/// Magnitudes count up by one to 4, then by two to 8, and the last is 12.
#[inline(always)]
pub(super) fn fp4_doubled(code: u8) -> i8 {
    let m = code & 7;
    let magnitude = (m + m.saturating_sub(4) + if m == 7 { 2 } else { 0 }) as i8;
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// `w = 2^(e − 127) · fp4`.
pub struct Mxfp4;

/// One block of [`Mxfp4`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// Scale, E8M0.
    pub e: u8,
    /// Weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMxfp4>() == 17);

impl Codec for Mxfp4 {
    type Block = BlockMxfp4;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -12;
    const Q_MAX: i8 = 12;

    #[inline]
    fn unpack(block: &BlockMxfp4, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        unpack_nibbles(&block.qs, array(q), fp4_doubled);
        *array(scale) = [e8m0_half(block.e)];
        *array(min) = [0.0];
    }

    /// The largest magnitude falls in FP4's top octave, [4, 8) before rounding.
    fn encode(values: &[f32]) -> BlockMxfp4 {
        // The biased exponent of a normal F32 is floor(log2) + 127; below 2^-124 the scale is least.
        let exponent = (fit::abs_max(values).to_bits() >> 23).min(254);
        let e = exponent.saturating_sub(2) as u8;
        let d = e8m0_half(e);
        let code = |i: usize| fit::nearest(&FP4_DOUBLED, d, values[i]) as u8;
        BlockMxfp4 { e, qs: pack_nibbles(&from_fn(code)) }
    }
}
