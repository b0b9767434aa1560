//! Q5_K: 256 weights of 5 bits, 6-bit scales and minima for each 32. Source: ggml, `block_q5_K`.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::q4_k::{pack_scales_and_minima, scales_and_minima};
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · s · q − dmin · m`.
pub struct Q5K;

/// One block of [`Q5K`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: F16Le,
    /// Scale of the minima.
    pub dmin: F16Le,
    /// Scales and minima, packed as in Q4_K.
    pub scales: [u8; 12],
    /// Bit 4 of weight `32·g + l` is bit `g` of byte `l`.
    pub qh: [u8; 32],
    /// Low 4 bits: weight `64·c + l` in the low nibble of byte `32·c + l`, `64·c + 32 + l` in its
    /// high nibble.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176);

impl Codec for Q5K {
    type Block = BlockQ5K;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = true;
    const Q_MIN: i8 = 0;
    const Q_MAX: i8 = 31;

    #[inline]
    fn unpack(block: &BlockQ5K, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for c in 0..4 {
            for l in 0..32 {
                let (byte, high) = (block.qs[32 * c + l], block.qh[l] >> (2 * c));
                q[64 * c + l] = (byte & 15 | (high & 1) << 4) as i8;
                q[64 * c + 32 + l] = (byte >> 4 | (high >> 1 & 1) << 4) as i8;
            }
        }
        let (d, dmin) = (block.d.get(), block.dmin.get());
        let (scales, minima) = scales_and_minima(&block.scales);
        *array(scale) = scales.map(|s| d * f32::from(s));
        *array(min) = minima.map(|m| dmin * f32::from(m));
    }

    fn encode(values: &[f32]) -> BlockQ5K {
        let groups = fit::AffineGroups::<8>::new(values, 31, 63);
        let scales = pack_scales_and_minima(&groups.scale, &groups.min);
        let mut block =
            BlockQ5K { d: groups.d, dmin: groups.dmin, scales, ..BlockQ5K::zeroed() };
        for (i, &v) in values.iter().enumerate() {
            let code = groups.code(i, v);
            block.qs[32 * (i / 64) + i % 32] |= (code & 15) << (4 * (i / 32 % 2));
            block.qh[i % 32] |= (code >> 4) << (i / 32);
        }
        block
    }
}
