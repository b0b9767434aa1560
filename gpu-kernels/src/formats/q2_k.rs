//! Q2_K: 256 weights of 2 bits, 4-bit scales and minima for each 16. Source: ggml, `block_q2_K`.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · s · q − dmin · m`.
pub struct Q2K;

/// One block of [`Q2K`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2K {
    /// Scale in the low nibble, minimum in the high nibble.
    pub scales: [u8; 16],
    /// Weight `128·c + 32·j + l` in bits `2j` of byte `32·c + l`.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16Le,
    /// Scale of the minima.
    pub dmin: F16Le,
}
const _: () = assert!(size_of::<BlockQ2K>() == 84);

impl Codec for Q2K {
    type Block = BlockQ2K;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = true;
    const Q_MIN: i8 = 0;
    const Q_MAX: i8 = 3;

    #[inline]
    fn unpack(block: &BlockQ2K, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for c in 0..2 {
            for j in 0..4 {
                for l in 0..32 {
                    q[128 * c + 32 * j + l] = (block.qs[32 * c + l] >> (2 * j) & 3) as i8;
                }
            }
        }
        let (d, dmin) = (block.d.get(), block.dmin.get());
        *array(scale) = block.scales.map(|s| d * f32::from(s & 15));
        *array(min) = block.scales.map(|s| dmin * f32::from(s >> 4));
    }

    fn encode(values: &[f32]) -> BlockQ2K {
        let groups = fit::AffineGroups::<16>::new(values, 3, 15);
        let mut block = BlockQ2K { d: groups.d, dmin: groups.dmin, ..BlockQ2K::zeroed() };
        for g in 0..16 {
            block.scales[g] = groups.scale[g] | groups.min[g] << 4;
        }
        for (i, &v) in values.iter().enumerate() {
            block.qs[32 * (i / 128) + i % 32] |= groups.code(i, v) << (2 * (i / 32 % 4));
        }
        block
    }
}
