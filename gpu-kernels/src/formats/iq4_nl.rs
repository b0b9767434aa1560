//! IQ4_NL: 32 weights of 4 bits on an uneven scale of 16 levels. Source: ggml, `block_iq4_nl`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array, pack_nibbles, unpack_nibbles};

/// The value of each code: denser near zero, where weights are.
pub const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `LEVELS[code]` by comparing with every code, which vectorizes where a look-up does not.
#[inline(always)]
pub(super) fn level(code: u8) -> i8 {
    let mut value = 0;
    for (k, &level) in (0..).zip(&LEVELS) {
        value |= if code == k { level } else { 0 };
    }
    value
}

/// `w = d · LEVELS[q]`.
pub struct Iq4Nl;

/// One block of [`Iq4Nl`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Nl {
    /// Scale.
    pub d: F16Le,
    /// Weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

impl Codec for Iq4Nl {
    type Block = BlockIq4Nl;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -127;
    const Q_MAX: i8 = 113;

    #[inline]
    fn unpack(block: &BlockIq4Nl, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        unpack_nibbles(&block.qs, array(q), level);
        *array(scale) = [block.d.get()];
        *array(min) = [0.0];
    }

    fn encode(values: &[f32]) -> BlockIq4Nl {
        let d = F16Le::new(fit::uneven(values, &LEVELS));
        let code = |i: usize| fit::nearest(&LEVELS, d.get(), values[i]) as u8;
        BlockIq4Nl { d, qs: pack_nibbles(&from_fn(code)) }
    }
}
