//! The plain float formats. They hold no blocks and no scales, so they have no codec.

use half::{bf16, f16};

use super::Stored;

/// A float of `N` little-endian bytes.
pub(super) trait Float<const N: usize> {
    fn get(bytes: [u8; N]) -> f32;
    fn put(value: f32) -> [u8; N];
}

macro_rules! floats {
    ($($(#[$doc:meta])* $Name:ident, $bytes:literal, $get:expr, $put:expr;)*) => {$(
        $(#[$doc])*
        pub struct $Name;

        impl Float<$bytes> for $Name {
            #[inline(always)]
            fn get(bytes: [u8; $bytes]) -> f32 {
                ($get)(bytes)
            }
            #[inline(always)]
            fn put(value: f32) -> [u8; $bytes] {
                ($put)(value)
            }
        }

        impl Stored for $Name {
            const BLOCK_LEN: usize = 1;
            const BLOCK_BYTES: usize = $bytes;

            fn decode_blocks(bytes: &[u8], out: &mut [f32]) {
                for (&bytes, out) in bytes.as_chunks::<$bytes>().0.iter().zip(out) {
                    *out = Self::get(bytes);
                }
            }
            fn encode_blocks(values: &[f32], out: &mut [u8]) {
                for (&value, out) in values.iter().zip(out.as_chunks_mut::<$bytes>().0) {
                    *out = Self::put(value);
                }
            }
        }
    )*};
}

floats! {
    /// 32-bit float.
    F32, 4, f32::from_le_bytes, f32::to_le_bytes;
    /// IEEE half; encodes to the nearest, ties to even.
    F16, 2,
        |b| super::scalar::f16_bits_to_f32(u16::from_le_bytes(b)),
        |v| f16::from_f32_const(v).to_le_bytes();
    /// bfloat16; encodes to the nearest, ties to even.
    BF16, 2,
        |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16),
        |v| bf16::from_f32_const(v).to_le_bytes();
}
