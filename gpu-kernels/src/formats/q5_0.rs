//! Q5_0: 32 weights of 5 bits around 16, one F16 scale. Source: ggml, `block_q5_0`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, ONES, array, five_bit_codes, pack_fifth_bits, pack_nibbles};

/// `w = d · (q − 16)`.
pub struct Q5_0;

/// One block of [`Q5_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: F16Le,
    /// Bit `i` of this little-endian word is bit 4 of weight `i`.
    pub qh: [u8; 4],
    /// Low 4 bits: weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl Codec for Q5_0 {
    type Block = BlockQ5_0;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -16;
    const Q_MAX: i8 = 15;

    #[inline]
    fn unpack(block: &BlockQ5_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let eights = array::<_, 32>(q).as_chunks_mut::<8>().0.iter_mut();
        for (q, codes) in eights.zip(five_bit_codes(&block.qs, &block.qh)) {
            let less_16 = (codes + 0x70 * ONES) ^ (0x80 * ONES); // +112 − 128, carrying nowhere
            *q = less_16.to_le_bytes().map(|byte| byte as i8);
        }
        *array(scale) = [block.d.get()];
        *array(min) = [0.0];
    }

    fn encode(values: &[f32]) -> BlockQ5_0 {
        let d = fit::extreme(values) / -16.0;
        let inverse = fit::inverse(d);
        let codes =
            from_fn(|i| (values[i] * inverse + 16.5).clamp(0.0, 31.0) as u8);
        BlockQ5_0 { d: F16Le::new(d), qh: pack_fifth_bits(&codes), qs: pack_nibbles(&codes) }
    }
}
