//! Q1_0: 128 signs, one F16 scale. Source: ggml, `block_q1_0`.

use bytemuck::{Pod, Zeroable};

use super::scalar::F16Le;
use super::{Codec, ONES, array, signed_eight};

/// `w = ±d`.
pub struct Q1_0;

/// One block of [`Q1_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: F16Le,
    /// Bit `i % 8` of byte `i / 8` is set where weight `i` is positive.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ1_0>() == 18);

impl Codec for Q1_0 {
    type Block = BlockQ1_0;
    const BLOCK_LEN: usize = 128;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -1;
    const Q_MAX: i8 = 1;

    #[inline]
    fn unpack(block: &BlockQ1_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        for (q, bits) in array::<_, 128>(q).as_chunks_mut::<8>().0.iter_mut().zip(block.qs) {
            *q = signed_eight(ONES, !bits);
        }
        *array(scale) = [block.d.get(); 4];
        *array(min) = [0.0; 4];
    }

    fn encode(values: &[f32]) -> BlockQ1_0 {
        let d = values.iter().map(|v| v.abs()).sum::<f32>() / 128.0;
        let mut qs = [0; 16];
        for (i, &v) in values.iter().enumerate() {
            qs[i / 8] |= u8::from(v >= 0.0) << (i % 8);
        }
        BlockQ1_0 { d: F16Le::new(d), qs }
    }
}

