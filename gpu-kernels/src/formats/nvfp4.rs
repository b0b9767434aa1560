//! NVFP4: 64 weights in FP4 (E2M1), an unsigned E4M3 scale for each 16.
//!
//! The scale of the whole tensor is a tensor of its own and not part of the block.
//! Source: ggml, `block_nvfp4`.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::mxfp4::{FP4_DOUBLED, fp4_doubled};
use super::scalar::{to_ue4m3, ue4m3_half};
use super::{Codec, array};

/// `w = ue4m3 · fp4`.
pub struct Nvfp4;

/// One block of [`Nvfp4`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockNvfp4 {
    /// Scale of each 16 weights, unsigned E4M3.
    pub d: [u8; 4],
    /// Weight `16·s + j` in the low nibble of byte `8·s + j`, weight `16·s + 8 + j` in its high.
    pub qs: [[u8; 8]; 4],
}
const _: () = assert!(size_of::<BlockNvfp4>() == 36);

impl Codec for Nvfp4 {
    type Block = BlockNvfp4;
    const BLOCK_LEN: usize = 64;
    const GROUP_LEN: usize = 16;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -12;
    const Q_MAX: i8 = 12;

    #[inline]
    fn unpack(block: &BlockNvfp4, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let mut codes = [0; 64];
        for (codes, qs) in codes.as_chunks_mut::<16>().0.iter_mut().zip(&block.qs) {
            let (low, high) = codes.split_at_mut(8);
            low.copy_from_slice(&qs.map(|byte| byte & 15));
            high.copy_from_slice(&qs.map(|byte| byte >> 4));
        }
        for (q, code) in array::<_, 64>(q).iter_mut().zip(codes) {
            *q = fp4_doubled(code);
        }
        *array(scale) = block.d.map(ue4m3_half);
        *array(min) = [0.0; 4];
    }

    fn encode(values: &[f32]) -> BlockNvfp4 {
        let mut block = BlockNvfp4::zeroed();
        for (s, values) in values.chunks_exact(16).enumerate() {
            block.d[s] = to_ue4m3(fit::abs_max(values) / 6.0);
            let d = ue4m3_half(block.d[s]);
            for j in 0..8 {
                let low = fit::nearest(&FP4_DOUBLED, d, values[j]) as u8;
                let high = fit::nearest(&FP4_DOUBLED, d, values[j + 8]) as u8;
                block.qs[s][j] = low | high << 4;
            }
        }
        block
    }
}
