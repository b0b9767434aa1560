//! Arithmetic with one instruction each. What rustc would not emit by itself: fused multiply-adds,
//! approximate functions, packed halves, byte dot products, permutations.
//!
//! Values of type f16 travel as [`f16`] (storage); compute in F32, or on packed pairs of
//! halves in a `u32` (low half first).

use half::f16;

use crate::arch;

/// `a · b + c`, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    arch::fma(a, b, c)
}
/// The greater; the other where one is NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    arch::max(a, b)
}
/// The lesser; the other where one is NaN.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    arch::min(a, b)
}
/// `a` kept in `[low, high]`; NaN stays NaN.
#[inline(always)]
pub fn clamp(a: f32, low: f32, high: f32) -> f32 {
    arch::min_nan(arch::max_nan(a, low), high)
}
/// `|a|`.
#[inline(always)]
pub fn abs(a: f32) -> f32 {
    f32::from_bits(a.to_bits() & 0x7fff_ffff)
}
/// `1 / sqrt(a)`, within 2 units in the last place.
#[inline(always)]
pub fn rsqrt(a: f32) -> f32 {
    arch::rsqrt(a)
}
/// `sqrt(a)`, correctly rounded.
#[inline(always)]
pub fn sqrt(a: f32) -> f32 {
    arch::sqrt(a)
}
/// `a / b`, correctly rounded.
#[inline(always)]
pub fn div(a: f32, b: f32) -> f32 {
    arch::div(a, b)
}
/// `1 / a`, within 1 unit in the last place.
#[inline(always)]
pub fn reciprocal(a: f32) -> f32 {
    arch::reciprocal(a)
}
/// `2^a`, within 2 units in the last place; subnormal results are 0.
#[inline(always)]
pub fn exp2(a: f32) -> f32 {
    arch::exp2(a)
}
/// `log2(a)`, approximately.
#[inline(always)]
pub fn log2(a: f32) -> f32 {
    arch::log2(a)
}
/// `e^a`, relative error below 3e-7 for |a| < 87; 0 and infinity at the ends.
#[inline(always)]
pub fn exp(a: f32) -> f32 {
    // The product is kept in two parts: its rounding error would grow to |a| units in the last place.
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    const LOG2_E_LOW: f32 = 1.925_963e-8;
    // Beyond these bounds, where the result is 0 or infinite, the low part would not be small.
    let a = clamp(a, -105.0, 90.0);
    let high = a * LOG2_E;
    let low = fma(a, LOG2_E, -high) + a * LOG2_E_LOW;
    let whole = arch::round(high);
    exp2((high - whole) + low) * exp2(whole)
}
/// `tanh(a)`, from [`exp`]: absolute error below 2e-7.
#[inline(always)]
pub fn tanh(a: f32) -> f32 {
    let e = exp(-2.0 * abs(a));
    let magnitude = div(1.0 - e, 1.0 + e);
    if a < 0.0 { -magnitude } else { magnitude }
}
/// The nearest whole number, ties to even.
#[inline(always)]
pub fn round(a: f32) -> f32 {
    arch::round(a)
}
/// The nearest whole number, ties to even, clamped to the range of an `i32`; 0 for NaN.
#[inline(always)]
pub fn round_to_i32(a: f32) -> i32 {
    arch::round_to_i32(a)
}

/// The half nearest to `a`, ties to even.
#[inline(always)]
pub fn to_f16(a: f32) -> f16 {
    f16::from_bits(arch::f32_to_f16(a))
}
/// The value of a half.
#[inline(always)]
pub fn from_f16(a: f16) -> f32 {
    arch::f16_to_f32(a.to_bits())
}
/// The value of a half given by its bits.
#[inline(always)]
pub fn from_f16_bits(a: u16) -> f32 {
    arch::f16_to_f32(a)
}
/// Two halves in a word, `low` in the low one, each rounded to nearest even.
#[inline(always)]
pub fn pack_f16(low: f32, high: f32) -> u32 {
    arch::pack_f16(low, high)
}
/// The two halves of a word.
#[inline(always)]
pub fn unpack_f16(word: u32) -> [f32; 2] {
    [arch::f16_to_f32(word as u16), arch::f16_to_f32((word >> 16) as u16)]
}
/// `a · b + c` on two halves, each rounded once.
#[inline(always)]
pub fn fma_f16x2(a: u32, b: u32, c: u32) -> u32 {
    arch::fma_f16x2(a, b, c)
}
/// `a + b` on two halves.
#[inline(always)]
pub fn add_f16x2(a: u32, b: u32) -> u32 {
    arch::add_f16x2(a, b)
}
/// `a − b` on two halves.
#[inline(always)]
pub fn sub_f16x2(a: u32, b: u32) -> u32 {
    arch::sub_f16x2(a, b)
}
/// `a · b` on two halves.
#[inline(always)]
pub fn mul_f16x2(a: u32, b: u32) -> u32 {
    arch::mul_f16x2(a, b)
}

/// `c + Σ a[i] · b[i]` over four signed bytes.
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: i32) -> i32 {
    arch::dp4a(a, b, c)
}
/// The same where the bytes of `a` are unsigned.
#[inline(always)]
pub fn dp4a_unsigned(a: u32, b: u32, c: i32) -> i32 {
    arch::dp4a_unsigned(a, b, c)
}
/// Byte `i` of the result is byte `(selector >> 4i) & 7` of `a` (0–3) and `b` (4–7); with bit 3 of the
/// selector nibble set, the sign of that byte spread over it.
#[inline(always)]
pub fn permute_bytes(a: u32, b: u32, selector: u32) -> u32 {
    arch::permute_bytes(a, b, selector)
}
/// The low word of `(high:low) >> shift`, shift below 32.
#[inline(always)]
pub fn funnel_shift_right(low: u32, high: u32, shift: u32) -> u32 {
    arch::funnel_shift_right(low, high, shift)
}
/// Four bytes added or subtracted without carries between them: `a − b`.
#[inline(always)]
pub fn sub_bytes(a: u32, b: u32) -> u32 {
    // Hacker's Delight, section 2-18.
    const TOP: u32 = 0x8080_8080;
    ((a | TOP) - (b & !TOP)) ^ ((a ^ !b) & TOP)
}
