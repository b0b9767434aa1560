//! Arithmetic: what each instruction computes, from its definition in the PTX ISA.
//!
//! Instructions that PTX calls approximate (`rsqrt`, `reciprocal`, `exp2`, `log2`) give the correctly
//! rounded result here; a device's differs by up to the error that [`crate::math`] states, so that
//! tolerances have to leave room for it.

use half::f16;

pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}
pub fn max(a: f32, b: f32) -> f32 {
    // +0 is above -0, which `f32::max` leaves open.
    if a == b { f32::from_bits(a.to_bits() & b.to_bits()) } else { a.max(b) }
}
pub fn min(a: f32, b: f32) -> f32 {
    if a == b { f32::from_bits(a.to_bits() | b.to_bits()) } else { a.min(b) }
}
pub fn max_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { max(a, b) }
}
pub fn min_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { min(a, b) }
}
pub fn rsqrt(a: f32) -> f32 {
    (1.0 / f64::from(a).sqrt()) as f32
}
pub fn sqrt(a: f32) -> f32 {
    a.sqrt()
}
pub fn div(a: f32, b: f32) -> f32 {
    a / b
}
pub fn reciprocal(a: f32) -> f32 {
    1.0 / a
}
/// Subnormal inputs and results are 0 (`.ftz`).
pub fn exp2(a: f32) -> f32 {
    let result = f64::from(a).exp2() as f32;
    if result < f32::MIN_POSITIVE { 0.0 } else { result }
}
pub fn log2(a: f32) -> f32 {
    f64::from(a).log2() as f32
}
pub fn round(a: f32) -> f32 {
    a.round_ties_even()
}
pub fn round_to_i32(a: f32) -> i32 {
    // `as` saturates, and gives 0 for NaN.
    a.round_ties_even() as i32
}

pub fn f32_to_f16(a: f32) -> u16 {
    if a.is_nan() { NAN_F16 } else { f16::from_f32(a).to_bits() }
}
pub fn f16_to_f32(a: u16) -> f32 {
    f16::from_bits(a).to_f32()
}
pub fn pack_f16(low: f32, high: f32) -> u32 {
    u32::from(f32_to_f16(low)) | u32::from(f32_to_f16(high)) << 16
}
pub fn fma_f16x2(a: u32, b: u32, c: u32) -> u32 {
    halves([a, b, c], |[a, b, c]| a.mul_add(b, c))
}
pub fn add_f16x2(a: u32, b: u32) -> u32 {
    halves([a, b], |[a, b]| a + b)
}
pub fn sub_f16x2(a: u32, b: u32) -> u32 {
    halves([a, b], |[a, b]| a - b)
}
pub fn mul_f16x2(a: u32, b: u32) -> u32 {
    halves([a, b], |[a, b]| a * b)
}

/// What operations on halves give instead of a number.
const NAN_F16: u16 = 0x7fff;

/// `f` of the low halves and of the high ones. In F64, sums and products of halves are exact, and a
/// fused one that is not is far from the middle between two halves: its terms are 2⁵³ apart.
fn halves<const N: usize>(words: [u32; N], f: impl Fn([f64; N]) -> f64) -> u32 {
    let half = |shift: u32| {
        let value = f(words.map(|word| f16::from_bits((word >> shift) as u16).to_f64()));
        u32::from(f64_to_f16(value)) << shift
    };
    half(0) | half(16)
}

/// The half nearest to a number, ties to even.
fn f64_to_f16(value: f64) -> u16 {
    let nearest = value as f32;
    if nearest.is_nan() || nearest.is_infinite() || f64::from(nearest) == value {
        return f32_to_f16(nearest);
    }
    // Rounding twice is right if the first time rounds to odd: whatever is lost then shows in the last
    // bit, which is far below a half's.
    let bits = nearest.to_bits();
    let odd = if bits & 1 == 1 {
        bits
    } else if (f64::from(nearest).abs() < value.abs()) == (bits & 0x7fff_ffff < 0x7f80_0000) {
        bits + 1
    } else {
        bits - 1
    };
    f32_to_f16(f32::from_bits(odd))
}

fn signed_bytes(word: u32) -> [i32; 4] {
    word.to_le_bytes().map(|byte| i32::from(byte as i8))
}
pub fn dp4a(a: u32, b: u32, c: i32) -> i32 {
    let (a, b) = (signed_bytes(a), signed_bytes(b));
    c.wrapping_add(a.iter().zip(b).map(|(a, b)| a * b).sum())
}
pub fn dp4a_unsigned(a: u32, b: u32, c: i32) -> i32 {
    let (a, b) = (a.to_le_bytes().map(i32::from), signed_bytes(b));
    c.wrapping_add(a.iter().zip(b).map(|(a, b)| a * b).sum())
}
pub fn permute_bytes(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|i| {
        let nibble = (selector >> (4 * i)) as usize & 15;
        let byte = bytes[nibble & 7];
        if nibble < 8 { byte } else { (byte as i8 >> 7) as u8 }
    }))
}
pub fn funnel_shift_right(low: u32, high: u32, shift: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> (shift & 31)) as u32
}
