//! Scales as blocks store them: F16, E8M0 and UE4M3, in bytes without alignment.

use bytemuck::{Pod, Zeroable};
use half::f16;

/// An IEEE half in two little-endian bytes, so that blocks may lie at any address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16Le(pub [u8; 2]);

impl F16Le {
    /// The value, exact.
    #[inline(always)]
    pub fn get(self) -> f32 {
        f16_bits_to_f32(u16::from_le_bytes(self.0))
    }
    /// `value` rounded to nearest even.
    pub fn new(value: f32) -> F16Le {
        F16Le(f16::from_f32_const(value).to_bits().to_le_bytes())
    }
}

/// The value of a half given by its bits.
///
/// Selects instead of branching: K-quant scales are often subnormal halves, which an unpredicted
/// branch, or a subnormal F32 operand, would make slow.
#[inline(always)]
pub fn f16_bits_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    let rebias = 112 << 23; // F32 bias 127 less F16 bias 15
    let normal = (magnitude << 13) + rebias;
    let subnormal = (magnitude as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
    let special = normal + rebias; // infinities and NaNs: the exponent becomes all ones
    let finite = if magnitude < 0x400 { subnormal } else { normal };
    let unsigned = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(unsigned | u32::from(bits & 0x8000) << 16)
}

/// Half the value of an E8M0 scale: `2^(e − 128)`. FP4 values are kept doubled, to be integers.
///
/// Source: OCP Microscaling Formats v1.0, section 5.4.1; e = 255, NaN there, is 2^127 in ggml.
#[inline(always)]
pub fn e8m0_half(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

/// Half the value of an unsigned E4M3 scale (bias 7). FP4 values are kept doubled.
///
/// The top bit is ignored and 0x7f, NaN in E4M3, is 0, both as in ggml; 0xff is therefore 240.
#[inline(always)]
pub fn ue4m3_half(x: u8) -> f32 {
    let magnitude = u32::from(x & 0x7f);
    let normal = f32::from_bits((magnitude << 20) + ((127 - 7 - 1) << 23));
    let subnormal = magnitude as f32 * (1.0 / 1024.0);
    let value = if magnitude < 8 { subnormal } else { normal };
    if x == 0x7f { 0.0 } else { value }
}

/// The unsigned E4M3 code of a value: round to nearest, saturate at 448, negatives and NaN to 0.
pub fn to_ue4m3(value: f32) -> u8 {
    if value.is_nan() || value <= 0.0 {
        return 0;
    }
    // In units of the smallest subnormal the codes below 8 count up evenly; above, each octave
    // has eight. Adding half a step to the bits rounds, and carries into the exponent by itself.
    let bits = value.min(448.0).to_bits();
    let exponent = (bits >> 23) as i32 - (127 - 7);
    if exponent <= 0 {
        return ((value * 512.0 + 0.5) as u8).min(7);
    }
    let rounded = ((bits + (1 << 19)) >> 20) - ((127 - 7) << 3);
    rounded.min(0x7e) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16_bits_to_f32(bits), f16::from_bits(bits).to_f32_const());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn every_e8m0_is_a_power_of_two() {
        for e in 0..=255u8 {
            assert_eq!(f64::from(e8m0_half(e)), 2f64.powi(i32::from(e) - 128), "{e}");
        }
    }

    #[test]
    fn every_ue4m3_follows_its_definition_and_comes_back() {
        for x in 0..=255u8 {
            let (exponent, mantissa) = (i32::from(x >> 3 & 15), f64::from(x & 7));
            let value = match exponent {
                0 => mantissa / 512.0,
                e => (1.0 + mantissa / 8.0) * 2f64.powi(e - 7),
            };
            let want = if x == 0x7f { 0.0 } else { value };
            assert_eq!(f64::from(ue4m3_half(x)) * 2.0, want, "{x:#x}");
            if x < 0x7f {
                assert_eq!(to_ue4m3(value as f32), x);
            }
        }
        for (value, code) in [(-1.0, 0), (f32::NAN, 0), (1e9, 0x7e), (1.0625, 0x39), (1e-9, 0)] {
            assert_eq!(to_ue4m3(value), code, "{value}");
        }
    }
}
