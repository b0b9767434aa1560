//! Loops over lanes that compile to vector code: products, sums and dot products of F32.

use super::Isa;

/// Lanes of an accumulator: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// One accumulator.
pub type Lanes = [f32; LANES];

/// `a · b + c`, fused where that is an instruction.
#[inline(always)]
pub fn fma<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of the lanes, in a fixed order: halves onto each other.
#[inline(always)]
pub fn sum(lanes: &Lanes) -> f32 {
    let mut v = *lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            v[i] += v[i + half];
        }
        half /= 2;
    }
    v[0]
}

/// Dot products of each of `N` rows with each of `M` others: `out[m][n] = Σ_k x[m][k] · w[n][k]`.
///
/// Each product has its own accumulator and walks `k` in the same order whatever `M` and `N`
/// are, so a result does not depend on what else is computed beside it.
#[inline(always)]
pub fn dots<I: Isa, const M: usize, const N: usize>(
    x: [&[f32]; M],
    w: [&[f32]; N],
    len: usize,
) -> [[f32; N]; M] {
    let x = x.map(|r| &r[..len]);
    let w = w.map(|r| &r[..len]);
    let mut acc = [[[0.0f32; LANES]; N]; M];
    let whole = len - len % LANES;
    let mut k = 0;
    while k < whole {
        let xs: [&Lanes; M] = x.map(|r| lanes_at(r, k));
        let ws: [&Lanes; N] = w.map(|r| lanes_at(r, k));
        for m in 0..M {
            for n in 0..N {
                for i in 0..LANES {
                    acc[m][n][i] = fma::<I>(xs[m][i], ws[n][i], acc[m][n][i]);
                }
            }
        }
        k += LANES;
    }
    let mut out = [[0.0; N]; M];
    for m in 0..M {
        for n in 0..N {
            for k in whole..len {
                let i = k - whole;
                acc[m][n][i] = fma::<I>(x[m][k], w[n][k], acc[m][n][i]);
            }
            out[m][n] = sum(&acc[m][n]);
        }
    }
    out
}

/// Elements `[at, at + LANES)`.
#[inline(always)]
pub fn lanes_at(row: &[f32], at: usize) -> &Lanes {
    row[at..].first_chunk().expect("a whole number of lanes is left")
}

/// An IEEE half as F32, exactly, in a way that compiles to vector code.
#[inline(always)]
pub fn widen_f16(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    let sign = u32::from(half & 0x8000) << 16;
    // The exponent is 112 too small: multiplying corrects it, subnormals included. Infinities and
    // NaN stop 112 short of the greatest exponent.
    let finite = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits(magnitude | 0xff << 23);
    let value = if magnitude < 0x1f << 23 { finite } else { special };
    f32::from_bits(value.to_bits() | sign)
}
