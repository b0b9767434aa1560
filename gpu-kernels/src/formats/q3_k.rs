//! Q3_K: 256 weights of 3 bits around 4, 6-bit scales for each 16. Source: ggml, `block_q3_K`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · (s − 32) · (q − 4)`.
pub struct Q3K;

/// One block of [`Q3K`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// Bit 2 of weight `32·j + l` is bit `j` of byte `l`.
    pub hmask: [u8; 32],
    /// Low 2 bits: weight `128·c + 32·j + l` in bits `2j` of byte `32·c + l`.
    pub qs: [u8; 64],
    /// Scale `g`: low 4 bits in nibble `g / 8` of byte `g % 8`, high 2 bits at bit `2·(g / 4)` of
    /// byte `8 + g % 4`.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockQ3K>() == 110);

/// The 16 scales, 0 to 63.
#[inline(always)]
pub(super) fn scale_codes(packed: &[u8; 12]) -> [u8; 16] {
    from_fn(|g| {
        let low = packed[g % 8] >> (4 * (g / 8)) & 15;
        let high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
        low | high << 4
    })
}

fn pack_scale_codes(codes: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (g, code) in codes.iter().enumerate() {
        packed[g % 8] |= (code & 15) << (4 * (g / 8));
        packed[8 + g % 4] |= (code >> 4) << (2 * (g / 4));
    }
    packed
}

impl Codec for Q3K {
    type Block = BlockQ3K;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -4;
    const Q_MAX: i8 = 3;

    #[inline]
    fn unpack(block: &BlockQ3K, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for c in 0..2 {
            for j in 0..4 {
                for l in 0..32 {
                    let low = block.qs[32 * c + l] >> (2 * j) & 3;
                    let high = block.hmask[l] >> (4 * c + j) & 1;
                    q[128 * c + 32 * j + l] = (low | high << 2) as i8 - 4;
                }
            }
        }
        let d = block.d.get();
        *array(scale) = scale_codes(&block.scales).map(|s| d * f32::from(s as i8 - 32));
        *array(min) = [0.0; 16];
    }

    fn encode(values: &[f32]) -> BlockQ3K {
        let groups = fit::SymmetricGroups::new(values, -4, 3, -32, 31);
        let mut block = BlockQ3K { d: groups.d, ..BlockQ3K::zeroed() };
        block.scales = pack_scale_codes(&groups.scale.map(|s| (s + 32) as u8));
        for (i, &v) in values.iter().enumerate() {
            let code = (groups.code(i, v) + 4) as u8;
            block.qs[32 * (i / 128) + i % 32] |= (code & 3) << (2 * (i / 32 % 4));
            block.hmask[i % 32] |= (code >> 2) << (i / 32);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_packs_into_bits_of_its_own() {
        for g in 0..16 {
            for code in 0..64 {
                let mut codes = [0; 16];
                codes[g] = code;
                let packed = pack_scale_codes(&codes);
                assert_eq!(scale_codes(&packed), codes);
                codes = [63; 16];
                codes[g] = code;
                assert_eq!(scale_codes(&pack_scale_codes(&codes)), codes);
            }
        }
    }
}
