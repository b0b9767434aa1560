//! Q4_K: 256 weights of 4 bits, 6-bit scales and minima for each 32. Source: ggml, `block_q4_K`.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · s · q − dmin · m`.
pub struct Q4K;

/// One block of [`Q4K`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: F16Le,
    /// Scale of the minima.
    pub dmin: F16Le,
    /// Scales and minima; see [`scales_and_minima`].
    pub scales: [u8; 12],
    /// Weight `64·c + l` in the low nibble of byte `32·c + l`, `64·c + 32 + l` in its high nibble.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

/// The 8 scales and 8 minima of a Q4_K or Q5_K block, 0 to 63, from their 12 bytes.
///
/// Those of groups 0–3 fill the low 6 bits of bytes 0–3 (scales) and 4–7 (minima). Groups 4–7 have
/// their low 4 bits in bytes 8–11 (scale low, minimum high nibble) and their high 2 bits on top of
/// bytes 0–3 and 4–7.
#[inline(always)]
pub fn scales_and_minima(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for g in 0..4 {
        scales[g] = packed[g] & 63;
        minima[g] = packed[g + 4] & 63;
        scales[g + 4] = packed[g + 8] & 15 | packed[g] >> 6 << 4;
        minima[g + 4] = packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4;
    }
    (scales, minima)
}

/// The inverse of [`scales_and_minima`].
pub(super) fn pack_scales_and_minima(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for g in 0..4 {
        packed[g] = scales[g] | scales[g + 4] >> 4 << 6;
        packed[g + 4] = minima[g] | minima[g + 4] >> 4 << 6;
        packed[g + 8] = scales[g + 4] & 15 | minima[g + 4] << 4;
    }
    packed
}

impl Codec for Q4K {
    type Block = BlockQ4K;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = true;
    const Q_MIN: i8 = 0;
    const Q_MAX: i8 = 15;

    #[inline]
    fn unpack(block: &BlockQ4K, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for c in 0..4 {
            for j in 0..2 {
                for l in 0..32 {
                    q[64 * c + 32 * j + l] = (block.qs[32 * c + l] >> (4 * j) & 15) as i8;
                }
            }
        }
        let (d, dmin) = (block.d.get(), block.dmin.get());
        let (scales, minima) = scales_and_minima(&block.scales);
        *array(scale) = scales.map(|s| d * f32::from(s));
        *array(min) = minima.map(|m| dmin * f32::from(m));
    }

    fn encode(values: &[f32]) -> BlockQ4K {
        let groups = fit::AffineGroups::<8>::new(values, 15, 63);
        let scales = pack_scales_and_minima(&groups.scale, &groups.min);
        let mut block = BlockQ4K { d: groups.d, dmin: groups.dmin, scales, qs: [0; 128] };
        for (i, &v) in values.iter().enumerate() {
            block.qs[32 * (i / 64) + i % 32] |= groups.code(i, v) << (4 * (i / 32 % 2));
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_and_minimum_packs_into_bits_of_its_own() {
        for g in 0..8 {
            for code in 0..64 {
                for rest in [0, 63] {
                    let mut codes = [rest; 8];
                    codes[g] = code;
                    let other = [63 - rest; 8];
                    let packed = pack_scales_and_minima(&codes, &other);
                    assert_eq!(scales_and_minima(&packed), (codes, other));
                    let packed = pack_scales_and_minima(&other, &codes);
                    assert_eq!(scales_and_minima(&packed), (other, codes));
                }
            }
        }
    }
}
