//! Q5_1: 32 weights of 5 bits, an F16 scale and an F16 minimum. Source: ggml, `block_q5_1`.

use core::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array, five_bit_codes, pack_fifth_bits, pack_nibbles};

/// `w = d · q + m`.
pub struct Q5_1;

/// One block of [`Q5_1`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: F16Le,
    /// Value of code 0.
    pub m: F16Le,
    /// Bit `i` of this little-endian word is bit 4 of weight `i`.
    pub qh: [u8; 4],
    /// Low 4 bits: weight `i` in the low nibble of byte `i`, weight `i + 16` in its high nibble.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl Codec for Q5_1 {
    type Block = BlockQ5_1;
    const BLOCK_LEN: usize = 32;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = true;
    const Q_MIN: i8 = 0;
    const Q_MAX: i8 = 31;

    #[inline]
    fn unpack(block: &BlockQ5_1, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let eights = array::<_, 32>(q).as_chunks_mut::<8>().0.iter_mut();
        for (q, codes) in eights.zip(five_bit_codes(&block.qs, &block.qh)) {
            *q = codes.to_le_bytes().map(|code| code as i8);
        }
        *array(scale) = [block.d.get()];
        *array(min) = [-block.m.get()];
    }

    fn encode(values: &[f32]) -> BlockQ5_1 {
        let (low, high) = fit::range(values);
        let d = (high - low) / 31.0;
        let inverse = fit::inverse(d);
        let codes =
            from_fn(|i| ((values[i] - low) * inverse + 0.5).clamp(0.0, 31.0) as u8);
        BlockQ5_1 {
            d: F16Le::new(d),
            m: F16Le::new(low),
            qh: pack_fifth_bits(&codes),
            qs: pack_nibbles(&codes),
        }
    }
}
