//! TQ2_0: 256 ternary weights of 2 bits, one F16 scale. Source: ggml, `block_tq2_0`.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · (q − 1)`.
pub struct Tq2_0;

/// One block of [`Tq2_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq2_0 {
    /// Weight `128·c + 32·j + l` in bits `2j` of byte `32·c + l`.
    pub qs: [u8; 64],
    /// Scale.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockTq2_0>() == 66);

impl Codec for Tq2_0 {
    type Block = BlockTq2_0;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -1;
    const Q_MAX: i8 = 2; // code 3 means nothing to an encoder, but decodes

    #[inline]
    fn unpack(block: &BlockTq2_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for c in 0..2 {
            for j in 0..4 {
                for l in 0..32 {
                    q[128 * c + 32 * j + l] = (block.qs[32 * c + l] >> (2 * j) & 3) as i8 - 1;
                }
            }
        }
        *array(scale) = [block.d.get(); 8];
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockTq2_0 {
        let d = fit::abs_max(values);
        let inverse = fit::inverse(d);
        let mut qs = [0; 64];
        for (i, &v) in values.iter().enumerate() {
            let (c, j, l) = (i / 128, i / 32 % 4, i % 32);
            qs[32 * c + l] |= ((fit::round(v * inverse) + 1) as u8) << (2 * j);
        }
        BlockTq2_0 { qs, d: F16Le::new(d) }
    }
}
