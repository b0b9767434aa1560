//! Loops over lanes that compile to vector code: products, sums and dot products of F32.

use super::Isa;
use super::vector::Vector;

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
    let mut acc = [[I::V::splat(0.0); N]; M];
    let whole = len - len % LANES;
    let mut k = 0;
    while k < whole {
        let ws = w.map(|r| I::V::load(lanes_at(r, k)));
        for m in 0..M {
            let x = I::V::load(lanes_at(x[m], k));
            for n in 0..N {
                acc[m][n] = x.fma(ws[n], acc[m][n]);
            }
        }
        k += LANES;
    }
    let mut out = [[0.0; N]; M];
    for m in 0..M {
        for n in 0..N {
            let mut lanes = [0.0; LANES];
            acc[m][n].store(&mut lanes);
            for k in whole..len {
                lanes[k - whole] = fma::<I>(x[m][k], w[n][k], lanes[k - whole]);
            }
            out[m][n] = sum(&lanes);
        }
    }
    out
}

/// Elements `[at, at + LANES)`.
#[inline(always)]
pub fn lanes_at(row: &[f32], at: usize) -> &Lanes {
    row[at..].first_chunk().expect("a whole number of lanes is left")
}

/// The same, to write.
#[inline(always)]
pub fn lanes_at_mut(row: &mut [f32], at: usize) -> &mut Lanes {
    row[at..].first_chunk_mut().expect("a whole number of lanes is left")
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
