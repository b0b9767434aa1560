//! Q6_K: 256 weights of 6 bits around 32, 8-bit scales for each 16. Source: ggml, `block_q6_K`.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · s · (q − 32)`.
pub struct Q6K;

/// One block of [`Q6K`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// Low 4 bits: weight `128·c + 64·h + l` (l < 64) in nibble `h` of byte `64·c + l`.
    pub ql: [u8; 128],
    /// High 2 bits: weight `128·c + 32·j + l` in bits `2j` of byte `32·c + l`.
    pub qh: [u8; 64],
    /// Scale of each 16 weights.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl Codec for Q6K {
    type Block = BlockQ6K;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -32;
    const Q_MAX: i8 = 31;

    #[inline]
    fn unpack(block: &BlockQ6K, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for c in 0..2 {
            for j in 0..4 {
                for l in 0..32 {
                    let low = block.ql[64 * c + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15;
                    let high = block.qh[32 * c + l] >> (2 * j) & 3;
                    q[128 * c + 32 * j + l] = (low | high << 4) as i8 - 32;
                }
            }
        }
        let d = block.d.get();
        *array(scale) = block.scales.map(|s| d * f32::from(s));
        *array(min) = [0.0; 16];
    }

    fn encode(values: &[f32]) -> BlockQ6K {
        let groups = fit::SymmetricGroups::new(values, -32, 31, -128, 127);
        let mut block = BlockQ6K { d: groups.d, scales: groups.scale, ..BlockQ6K::zeroed() };
        for (i, &v) in values.iter().enumerate() {
            let code = (groups.code(i, v) + 32) as u8;
            let (c, j, l) = (i / 128, i / 32 % 4, i % 32);
            block.ql[64 * c + 32 * (j % 2) + l] |= (code & 15) << (4 * (j / 2));
            block.qh[32 * c + l] |= (code >> 4) << (2 * j);
        }
        block
    }
}
