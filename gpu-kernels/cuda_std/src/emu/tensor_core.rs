//! The sum of products as tensor cores compute it.
//!
//! Devices do not round each addition. They take a block of exact products and the accumulator, shift
//! all to the greatest exponent among them, cut off (not round) what falls below a fixed bit, add, and
//! cut the sum to F32; blocks follow each other. Exponents of products are the sums of those of the
//! factors, not normalised. Source: Fasi, Higham, Mikaitis & Pranesh 2021, "Numerical behavior of
//! NVIDIA tensor cores"; block lengths and widths: Khattak & Mikaitis 2025, "Accurate models of NVIDIA
//! tensor cores" (arXiv 2512.07004).
//!
//! | | A100 (sm_80), Ada (sm_89) | H100 (sm_90) | here |
//! |---|---|---|---|
//! | f16, bf16 | 8 products, 1 extra bit | 16, 2 | 8, 1 |
//! | tf32 | 4, 1 | 8, 2 | 4, 1 |
//! | e4m3 | 16, 10 bits fewer | 32, 10 fewer | 16, 10 fewer |
//!
//! The coarsest is taken, so that what is good enough here is on each of them; a device's result may
//! differ in the last bits. Not modelled: the range of exponents of the datapath (products far below
//! the least F32 number) and the interleaving of products on H100.

/// A format of factors.
#[derive(Debug)]
pub(super) struct Format {
    /// Bits of a stored element.
    pub bits: u32,
    /// Bits below those that are looked at.
    unused_bits: u32,
    exponent_bits: u32,
    fraction_bits: u32,
    /// Infinities exist; else only the number with all bits set is special.
    infinities: bool,
    /// Products of a block: 4, 8 or 16; divides `k`.
    block: usize,
    /// Bits kept below the last of F32, at the greatest exponent.
    extra_bits: i32,
}

pub(super) const F16: Format = Format {
    bits: 16,
    unused_bits: 0,
    exponent_bits: 5,
    fraction_bits: 10,
    infinities: true,
    block: 8,
    extra_bits: 1,
};
pub(super) const BF16: Format = Format { exponent_bits: 8, fraction_bits: 7, ..F16 };
/// F32 of which the low 13 bits are not looked at.
pub(super) const TF32: Format =
    Format { bits: 32, unused_bits: 13, exponent_bits: 8, block: 4, ..F16 };
pub(super) const E4M3: Format = Format {
    bits: 8,
    unused_bits: 0,
    exponent_bits: 4,
    fraction_bits: 3,
    infinities: false,
    block: 16,
    extra_bits: -10,
};

/// A factor: `significand · 2^(exponent − fraction_bits)`, not normalised if subnormal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Term {
    significand: i32,
    exponent: i32,
    /// NaN or infinite; 0 otherwise.
    special: f32,
}

impl Term {
    /// From the low bits of a word.
    pub fn new(format: &Format, word: u32) -> Self {
        let Format { exponent_bits, fraction_bits, .. } = *format;
        let bits = word >> format.unused_bits;
        let fraction = bits & ((1 << fraction_bits) - 1);
        let biased = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
        let negative = bits >> (fraction_bits + exponent_bits) & 1 == 1;
        let sign = |magnitude: u32| if negative { -(magnitude as i32) } else { magnitude as i32 };

        let last = biased + 1 == 1 << exponent_bits;
        let special = match (last, format.infinities) {
            (true, true) if fraction == 0 => sign(1) as f32 * f32::INFINITY,
            (true, true) => f32::NAN,
            (true, false) if fraction + 1 == 1 << fraction_bits => f32::NAN,
            _ => 0.0,
        };
        let implicit = u32::from(biased > 0) << fraction_bits;
        let bias = (1 << (exponent_bits - 1)) - 1;
        Self {
            significand: sign(fraction | implicit),
            exponent: biased.max(1) as i32 - bias,
            special,
        }
    }

    /// Whether it is no finite number.
    pub fn is_special(&self) -> bool {
        self.special != 0.0
    }

    fn value(self, format: &Format) -> f64 {
        if self.special != 0.0 {
            return self.special.into();
        }
        f64::from(self.significand) * power_of_two(self.exponent - format.fraction_bits as i32)
    }
}

/// `c + Σ row[k] · col[k]`. `special`: some of them may be.
pub(super) fn dot(format: &Format, row: &[Term], col: &[Term], c: f32, special: bool) -> f32 {
    if special || !c.is_finite() {
        let products = row.iter().zip(col).map(|(a, b)| a.value(format) * b.value(format));
        let sum = products.sum::<f64>() + f64::from(c);
        if !sum.is_finite() {
            return if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum as f32 };
        }
    }
    match format.block {
        4 => blocks::<4>(format, row, col, c),
        8 => blocks::<8>(format, row, col, c),
        _ => blocks::<16>(format, row, col, c),
    }
}

fn blocks<const N: usize>(format: &Format, row: &[Term], col: &[Term], c: f32) -> f32 {
    let (row, col) = (row.as_chunks().0, col.as_chunks().0);
    row.iter().zip(col).fold(c, |c, (row, col)| block::<N>(format, row, col, c))
}

/// The sum of one block. All fits into 32 bits: at most 17 terms of 26.
fn block<const N: usize>(format: &Format, row: &[Term; N], col: &[Term; N], c: f32) -> f32 {
    /// Exponent of 0.
    const NONE: i32 = -1000;
    let c_biased = (c.to_bits() >> 23 & 0xff) as i32;
    let c_exponent = if c == 0.0 { NONE } else { c_biased.max(1) - 127 };

    let mut products = [(0i32, NONE); N];
    let mut greatest = c_exponent;
    for ((product, a), b) in products.iter_mut().zip(row).zip(col) {
        let significand = a.significand * b.significand;
        let exponent = if significand == 0 { NONE } else { a.exponent + b.exponent };
        greatest = greatest.max(exponent);
        *product = (significand, exponent);
    }
    if greatest == NONE {
        return 0.0;
    }
    // All in units of the last bit kept, those of F32 and the extra ones below the greatest.
    let below = 23 + format.extra_bits;
    let widen = below - 2 * format.fraction_bits as i32;
    let cut = |significand: i32, shift: i32| {
        let magnitude = significand.unsigned_abs() >> shift.min(31);
        if significand < 0 { -(magnitude as i32) } else { magnitude as i32 }
    };
    let mut sum = 0;
    for (significand, exponent) in products {
        sum += cut(significand << widen, greatest - exponent);
    }
    if c != 0.0 {
        let fraction = (c.to_bits() & 0x7f_ffff) as i32 | i32::from(c_biased > 0) << 23;
        let significand = if c < 0.0 { -fraction } else { fraction };
        // An extra bit is 0; bits fewer are cut with the shift.
        let (extra, fewer) = (format.extra_bits.max(0), (-format.extra_bits).max(0));
        sum += cut(significand << extra, greatest - c_exponent + fewer);
    }
    cut_to_f32(f64::from(sum) * power_of_two(greatest - below))
}

/// The F32 next to `value` on the side of zero; infinite from 2^128 on.
fn cut_to_f32(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest).abs() > value.abs() && value.abs() < power_of_two(128) {
        return f32::from_bits(nearest.to_bits() - 1);
    }
    nearest
}

/// `2^exponent`, for exponents of normal F64 numbers.
fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(((exponent + 1023) as u64) << 52)
}
