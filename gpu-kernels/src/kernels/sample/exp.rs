//! An exponential that is the same on every platform and on every device, which `f32::exp` (the system's)
//! is not, and vectorises. The host's sampler takes it too, so that both weigh tokens alike.

use core::f32::consts::LOG2_E;

/// `exp(x)` for `x ≤ 0` to within 2 units in the last place; 0 below −87, where a normal `f32` ends, and
/// for NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, so `exp(x) = 2ⁿ · exp(r)`, and `exp(r)` is its Taylor polynomial of
/// degree 7, whose remainder there is below 6e-9.
#[inline(always)]
pub fn exp_nonpositive(x: f32) -> f32 {
    // ln 2 in two parts: `n · LN2_HI` is exact for |n| < 2⁹.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ rounds to the nearest whole number, which is then in the low bits: a cast to integer would
    // have to saturate, and so would not vectorise.
    const ROUND: f32 = 12_582_912.0;

    let bounded = if x > -87.0 { x } else { -87.0 };
    let shifted = bounded * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN2_HI) - n * LN2_LO;
    let high = (1.0 / 5040.0 * r + 1.0 / 720.0) * r + 1.0 / 120.0;
    let poly = (((high * r + 1.0 / 24.0) * r + 1.0 / 6.0) * r + 0.5) * r * r + r + 1.0;
    // The exponent field of 2ⁿ; n ≥ −126, so it is a normal number.
    let power =
        f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x > -87.0 { poly * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::exp_nonpositive;

    #[test]
    fn agrees_with_the_system_in_f64() {
        let mut worst = 0.0f64;
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_nonpositive(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
    }

    #[test]
    fn ends_exact() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-0.0), 1.0);
        assert_eq!(exp_nonpositive(-1e-30), 1.0);
        for x in [-87.0, -87.1, -1e4, f32::MIN, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp_nonpositive(x), 0.0, "{x}");
        }
        assert!(exp_nonpositive(-86.999) > 0.0);
    }
}
