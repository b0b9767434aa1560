//! Weight formats: one file each, one row each in the table below.
//!
//! Every quantized format unpacks into the same shape: 8-bit integers, and for each group of
//! [`Codec::GROUP_LEN`] weights a scale and a minimum, so that `w = scale · q − min`. Decoding to
//! F32, the CPU dot products and the GEMM panels are all written against that shape.
//!
//! Blocks are arrays of bytes in file order, so they may lie at any address, and a slice of bytes
//! of the right length is a slice of blocks.

use core::array::from_fn;

use bytemuck::Pod;

use device::DeviceVisitor;

mod codebook;
pub mod device;
mod fit;
mod float;
pub mod grid;
pub mod scalar;
#[cfg(test)]
pub(crate) mod tests;

/// A quantized format: fixed-size blocks of [`BLOCK_LEN`](Self::BLOCK_LEN) weights.
pub trait Codec: 'static {
    /// One block as it lies in the file, little-endian; its alignment is 1.
    type Block: Pod;
    /// Weights in a block: 32, 64, 128 or 256.
    const BLOCK_LEN: usize;
    /// Weights that share one scale and minimum: 16 or 32. Formats whose scale reaches further
    /// repeat it.
    const GROUP_LEN: usize;
    /// Whether minima occur. Where false, [`unpack`](Self::unpack) always writes `min` as zeros,
    /// and `w = scale · q`.
    const HAS_MIN: bool;
    /// The least `q` that any block unpacks to.
    const Q_MIN: i8;
    /// The greatest `q` that any block unpacks to.
    const Q_MAX: i8;

    /// Unpacks one block: weight `i` is `scale[i / GROUP_LEN] · q[i] − min[i / GROUP_LEN]`, in F32
    /// with one rounding after the product and one after the subtraction, and equals the
    /// reference decoder bit for bit.
    ///
    /// Any bytes are a valid block: garbage gives some numbers, perhaps infinite or NaN.
    ///
    /// Shapes: `q` \[BLOCK_LEN\], `scale` and `min` \[BLOCK_LEN / GROUP_LEN\].
    ///
    /// # Panics
    /// When a slice has another length.
    fn unpack(block: &Self::Block, q: &mut [i8], scale: &mut [f32], min: &mut [f32]);

    /// Quantizes BLOCK_LEN finite values by a plain reference method (round to nearest).
    ///
    /// # Panics
    /// May panic when `values` has another length.
    fn encode(values: &[f32]) -> Self::Block;
}

/// Receives the codec type of a [`Format`] chosen at run time; see [`Format::with_codec`].
pub trait CodecVisitor {
    /// What the visit returns.
    type Output;
    /// Called with the codec of the format.
    fn visit<C: Codec>(self) -> Self::Output;
}

/// What a table row's type offers, float or quantized. Sizes were checked by the caller.
trait Stored {
    const BLOCK_LEN: usize;
    const BLOCK_BYTES: usize;
    fn decode_blocks(bytes: &[u8], out: &mut [f32]);
    fn encode_blocks(values: &[f32], out: &mut [u8]);
}

impl<C: Codec> Stored for C {
    const BLOCK_LEN: usize = C::BLOCK_LEN;
    const BLOCK_BYTES: usize = size_of::<C::Block>();

    fn decode_blocks(bytes: &[u8], out: &mut [f32]) {
        const { assert!(align_of::<C::Block>() == 1, "blocks lie at any address") };
        let groups = C::BLOCK_LEN / C::GROUP_LEN;
        let (q, scale, min) = (&mut [0; 256][..C::BLOCK_LEN], &mut [0.0; 16], &mut [0.0; 16]);
        let (scale, min) = (&mut scale[..groups], &mut min[..groups]);
        let blocks: &[C::Block] = bytemuck::cast_slice(bytes);
        for (block, out) in blocks.iter().zip(out.chunks_exact_mut(C::BLOCK_LEN)) {
            C::unpack(block, q, scale, min);
            let groups = out.chunks_exact_mut(C::GROUP_LEN).zip(q.chunks_exact(C::GROUP_LEN));
            for ((out, q), (scale, min)) in groups.zip(scale.iter().zip(&*min)) {
                for (out, q) in out.iter_mut().zip(q) {
                    *out = scale * f32::from(*q) - min;
                }
            }
        }
    }

    fn encode_blocks(values: &[f32], out: &mut [u8]) {
        let blocks: &mut [C::Block] = bytemuck::cast_slice_mut(out);
        for (values, block) in values.chunks_exact(C::BLOCK_LEN).zip(blocks) {
            *block = C::encode(values);
        }
    }
}

/// Yields [`Format`] and everything that depends on it from one table.
///
/// A row is `Name => kind file::Type, GGUF id;` where the kind is `float` or `codec`.
macro_rules! formats {
    ($($(#[$doc:meta])* $Name:ident => $kind:ident $file:ident::$Type:ident, $id:literal;)*) => {
        $(formats!(@module $kind $file);)*

        /// How the weights of a tensor are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names that GGUF tools print")]
        pub enum Format {
            $($(#[$doc])* $Name,)*
        }

        impl Format {
            /// Every format, in the order of the GGUF ids.
            pub const ALL: &'static [Format] = &[$(Format::$Name),*];

            /// The format of a GGUF tensor type id, if imp knows it.
            pub fn from_gguf_id(id: u32) -> Option<Format> {
                match id {
                    $($id => Some(Format::$Name),)*
                    _ => None,
                }
            }
            /// The GGUF tensor type id.
            pub fn gguf_id(self) -> u32 {
                match self { $(Format::$Name => $id),* }
            }
            /// The name as GGUF tools print it, such as `Q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(Format::$Name => stringify!($Name)),* }
            }
            /// Weights in a block; 1 for float formats.
            pub fn block_len(self) -> usize {
                match self { $(Format::$Name => <$file::$Type as Stored>::BLOCK_LEN),* }
            }
            /// Bytes in a block.
            pub fn block_bytes(self) -> usize {
                match self { $(Format::$Name => <$file::$Type as Stored>::BLOCK_BYTES),* }
            }
            /// Calls `visitor` with the codec type; `None` for the float formats, which have none.
            pub fn with_codec<V: CodecVisitor>(self, visitor: V) -> Option<V::Output> {
                match self { $(Format::$Name => formats!(@visit $kind $file::$Type, visitor)),* }
            }

            /// Calls `visitor` with the type as a format of the device; `None` for the float formats.
            pub fn with_device_format<V: DeviceVisitor>(self, visitor: V) -> Option<V::Output> {
                match self { $(Format::$Name => formats!(@visit $kind $file::$Type, visitor)),* }
            }

            fn decode_checked(self, bytes: &[u8], out: &mut [f32]) {
                match self { $(Format::$Name => <$file::$Type as Stored>::decode_blocks(bytes, out)),* }
            }
            fn encode_checked(self, values: &[f32], out: &mut [u8]) {
                match self { $(Format::$Name => <$file::$Type as Stored>::encode_blocks(values, out)),* }
            }
        }
    };
    (@module float $file:ident) => {};
    (@module codec $file:ident) => { pub mod $file; };
    (@visit float $Type:ty, $visitor:ident) => { None };
    (@visit codec $Type:ty, $visitor:ident) => { Some($visitor.visit::<$Type>()) };
}

formats! {
    /// 32-bit float.
    F32 => float float::F32, 0;
    /// IEEE half.
    F16 => float float::F16, 1;
    /// 4 bits, scale per 32.
    Q4_0 => codec q4_0::Q4_0, 2;
    /// 4 bits, scale and minimum per 32.
    Q4_1 => codec q4_1::Q4_1, 3;
    /// 5 bits, scale per 32.
    Q5_0 => codec q5_0::Q5_0, 6;
    /// 5 bits, scale and minimum per 32.
    Q5_1 => codec q5_1::Q5_1, 7;
    /// 8 bits, scale per 32.
    Q8_0 => codec q8_0::Q8_0, 8;
    /// 2 bits, quantized scales and minima per 16.
    Q2_K => codec q2_k::Q2K, 10;
    /// 3 bits, quantized scales per 16.
    Q3_K => codec q3_k::Q3K, 11;
    /// 4 bits, quantized scales and minima per 32.
    Q4_K => codec q4_k::Q4K, 12;
    /// 5 bits, quantized scales and minima per 32.
    Q5_K => codec q5_k::Q5K, 13;
    /// 6 bits, quantized scales per 16.
    Q6_K => codec q6_k::Q6K, 14;
    /// 8 bits, F32 scale per 256.
    Q8_K => codec q8_k::Q8K, 15;
    /// 2.06 bits: codebook of 256 eights, scales per 32.
    IQ2_XXS => codec iq2_xxs::Iq2Xxs, 16;
    /// 2.31 bits: codebook of 512 eights, scales per 16.
    IQ2_XS => codec iq2_xs::Iq2Xs, 17;
    /// 3.06 bits: codebook of 256 fours, scales per 32.
    IQ3_XXS => codec iq3_xxs::Iq3Xxs, 18;
    /// 1.56 bits: codebook of 2048 ternary eights, scales per 32.
    IQ1_S => codec iq1_s::Iq1S, 19;
    /// 4 bits on uneven levels, scale per 32.
    IQ4_NL => codec iq4_nl::Iq4Nl, 20;
    /// 3.44 bits: codebook of 512 fours, scales per 32.
    IQ3_S => codec iq3_s::Iq3S, 21;
    /// 2.56 bits: codebook of 1024 eights, scales per 16.
    IQ2_S => codec iq2_s::Iq2S, 22;
    /// 4 bits on uneven levels, quantized scales per 32.
    IQ4_XS => codec iq4_xs::Iq4Xs, 23;
    /// 1.75 bits: codebook of 2048 ternary eights, scales per 16.
    IQ1_M => codec iq1_m::Iq1M, 29;
    /// bfloat16.
    BF16 => float float::BF16, 30;
    /// Ternary, five weights a byte, scale per 256.
    TQ1_0 => codec tq1_0::Tq1_0, 34;
    /// Ternary in 2 bits, scale per 256.
    TQ2_0 => codec tq2_0::Tq2_0, 35;
    /// FP4, power-of-two scale per 32.
    MXFP4 => codec mxfp4::Mxfp4, 39;
    /// FP4, FP8 scale per 16.
    NVFP4 => codec nvfp4::Nvfp4, 40;
    /// Signs, scale per 128.
    Q1_0 => codec q1_0::Q1_0, 41;
    /// 2 bits, scale per 64.
    Q2_0 => codec q2_0::Q2_0, 42;
}

impl Format {
    /// Bytes of a row of `cols` weights; `None` when `cols` is not a whole number of blocks or
    /// the product overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
    /// Decodes whole blocks to F32, exactly as the reference does.
    ///
    /// # Panics
    /// When `bytes` is not exactly the blocks that `out` needs.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        self.assert_sizes(bytes.len(), out.len());
        self.decode_checked(bytes, out);
    }
    /// Quantizes whole blocks of finite values by the reference method.
    ///
    /// # Panics
    /// When `out` is not exactly the blocks that `values` needs.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        self.assert_sizes(out.len(), values.len());
        self.encode_checked(values, out);
    }

    #[track_caller]
    fn assert_sizes(self, bytes: usize, weights: usize) {
        let needed = self.row_bytes(weights);
        assert!(needed == Some(bytes), "{weights} {self:?} weights need {needed:?} bytes: {bytes}");
    }
}

/// The slice as the array that a block fills.
#[inline(always)]
#[track_caller]
fn array<T, const N: usize>(slice: &mut [T]) -> &mut [T; N] {
    let len = slice.len();
    match slice.try_into() {
        Ok(array) => array,
        Err(_) => panic!("unpacking a block fills a slice of {N}, not of {len}"),
    }
}

/// `value` of the 16 low nibbles, then of the 16 high ones.
#[inline(always)]
fn unpack_nibbles(bytes: &[u8; 16], q: &mut [i8; 32], value: impl Fn(u8) -> i8) {
    let (low, high) = q.split_at_mut(16);
    for (q, byte) in low.iter_mut().zip(bytes) {
        *q = value(byte & 15);
    }
    for (q, byte) in high.iter_mut().zip(bytes) {
        *q = value(byte >> 4);
    }
}

/// The inverse of [`unpack_nibbles`].
fn pack_nibbles(codes: &[u8; 32]) -> [u8; 16] {
    from_fn(|i| codes[i] & 15 | codes[i + 16] << 4)
}

/// The low nibble of each byte followed by its high one.
#[inline(always)]
fn low_then_high<const BYTES: usize, const N: usize>(bytes: &[u8; BYTES]) -> [u8; N] {
    const { assert!(N == 2 * BYTES) };
    from_fn(|i| bytes[i / 2] >> (4 * (i % 2)) & 15)
}

/// The inverse of [`low_then_high`].
fn pack_low_then_high<const BYTES: usize, const N: usize>(codes: &[u8; N]) -> [u8; BYTES] {
    const { assert!(N == 2 * BYTES) };
    from_fn(|i| codes[2 * i] & 15 | codes[2 * i + 1] << 4)
}

/// The 32 codes whose low nibbles lie as in [`unpack_nibbles`] and whose fifth bits are `word`,
/// eight to a result, a byte each.
#[inline(always)]
fn five_bit_codes(bytes: &[u8; 16], word: &[u8; 4]) -> [u64; 4] {
    from_fn(|k| {
        let eight = u64::from_le_bytes(from_fn(|j| bytes[8 * (k % 2) + j]));
        (eight >> (4 * (k / 2))) & (0x0f * ONES) | bits_to_bytes(word[k]) << 4
    })
}

/// The fifth bits of 32 codes, as [`five_bit_codes`] takes them.
fn pack_fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().rev().fold(0, |word, code| word << 1 | u32::from(code >> 4));
    bits.to_le_bytes()
}

/// The eight signs that 7 bits stand for: the eighth makes their number even.
#[inline(always)]
fn even_signs(bits: u8) -> u8 {
    let bits = bits & 127;
    let halves = bits ^ bits >> 4; // a parity by shifts: a baseline CPU counts bits slowly
    let quarters = halves ^ halves >> 2;
    bits | (quarters ^ quarters >> 1) << 7
}

/// Two codebook points of four weights as one of eight.
#[inline(always)]
fn two_fours(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// 1 in each of eight bytes.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Bit `j` as byte `j`, 1 or 0.
#[inline(always)]
fn bits_to_bytes(bits: u8) -> u64 {
    let alone = (u64::from(bits) * ONES) & 0x8040_2010_0804_0201; // byte j keeps bit j
    ((alone + 0x7f * ONES) >> 7) & ONES // adding reaches the top bit of bytes that kept theirs
}

/// The eight magnitudes of a codebook point, those negated whose sign bit is set.
///
/// All bytes at once: `−m` is `!m + 1`, which carries into no other byte since no `m` is 0.
#[inline(always)]
fn signed_eight(magnitudes: u64, signs: u8) -> [i8; 8] {
    let negative = bits_to_bytes(signs);
    let bytes = (magnitudes ^ (negative * 0xff)) + negative;
    bytes.to_le_bytes().map(|b| b as i8)
}

/// The eight values of an IQ1 codebook point, each plus 1, or less 1 if `down` is 1.
///
/// All bytes at once: turning the top bit moves −8, 0, 8 to the middle of the bytes, where adding
/// or subtracting 1 neither carries nor borrows.
#[inline(always)]
fn shifted_eight(point: u64, down: u8) -> [i8; 8] {
    let bytes = (point ^ (0x80 * ONES)) + ONES - 2 * ONES * u64::from(down);
    (bytes ^ (0x80 * ONES)).to_le_bytes().map(|b| b as i8)
}
