//! Exponential and hyperbolic tangent without branches, so that loops over them compile to
//! vector code; both within 2 units in the last place.

use super::Isa;
use super::lanes::fma;

/// `eˣ`. Source: Cody & Waite 1980, chapter 6 (reduction); the series to the 7th power is within
/// 6e-9 on the reduced interval.
#[inline(always)]
pub fn exp<I: Isa>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer
    const LN_2_HIGH: f32 = 0.693_359_4; // 9 bits: its products with integers here are exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Beyond these the result is infinite or zero; NaN passes both comparisons.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = fma::<I>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<I>(n, -LN_2_LOW, fma::<I>(n, -LN_2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = fma::<I>(p, r, c);
    }
    // 2ⁿ in two factors: alone it leaves the range of F32 at both ends.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(n >> 1) * power(n.wrapping_sub(n >> 1))
}

/// `tanh x`. Source: Moshier, Cephes `tanhf` (the polynomial near zero).
#[inline(always)]
pub fn tanh<I: Isa>(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = fma::<I>(p, z, c);
    }
    let near = fma::<I>(p * z, x, x);
    let far = (1.0 - 2.0 / (exp::<I>(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::{Kernel, Level};

    struct Both<'a>(&'a [f32]);

    impl Kernel for Both<'_> {
        type Output = Vec<(f32, f32)>;
        #[inline(always)]
        fn run<I: Isa>(self) -> Self::Output {
            self.0.iter().map(|x| (exp::<I>(*x), tanh::<I>(*x))).collect()
        }
    }

    fn ulps(got: f32, want: f64) -> f64 {
        let unit = f64::from(f32::from_bits((want.abs() as f32).to_bits().max(1 << 23)))
            * f64::from(f32::EPSILON);
        (f64::from(got) - want).abs() / unit
    }

    #[test]
    fn exp_and_tanh_are_within_two_units() {
        let xs: Vec<f32> = (-870_000..880_000).map(|i| i as f32 * 1e-4).collect();
        for level in Level::available() {
            for (x, (e, t)) in xs.iter().zip(level.run(Both(&xs))) {
                assert!(ulps(e, f64::from(*x).exp()) < 2.0, "{level:?} exp {x} = {e}");
                assert!(ulps(t, f64::from(*x).tanh()) < 2.5, "{level:?} tanh {x} = {t}");
            }
        }
    }

    #[test]
    fn exp_and_tanh_at_the_ends() {
        let inf = f32::INFINITY;
        let xs = [-inf, inf, -1e30, 1e30, -103.5, 0.0, -0.0];
        for level in Level::available() {
            let (e, t): (Vec<f32>, Vec<f32>) = level.run(Both(&xs)).into_iter().unzip();
            assert_eq!(e, [0.0, inf, 0.0, inf, f32::from_bits(1), 1.0, 1.0], "{level:?}");
            assert_eq!(t, [-1.0, 1.0, -1.0, 1.0, -1.0, 0.0, 0.0], "{level:?}");
            let (e, t) = level.run(Both(&[f32::NAN]))[0];
            assert!(e.is_nan() && t.is_nan(), "{level:?}");
        }
    }
}
