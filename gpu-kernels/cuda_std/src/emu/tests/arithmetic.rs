//! Arithmetic against definitions of its own.

use half::f16;

use crate::math;

/// Numbers over the whole range of F32, and the hard ones.
fn numbers() -> impl Iterator<Item = f32> {
    let hard = [0.0, -0.0, 1.0, -1.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, 1e-45];
    // A stride that is prime to 2^32 goes through exponents and fractions alike.
    let sweep = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b1)));
    hard.into_iter().chain(sweep).filter(|x| x.is_finite())
}

/// Whole steps of F32 between a result and what it should be.
fn ulps(got: f32, want: f64) -> f64 {
    let near = want as f32;
    let ulp = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
    ((f64::from(got) - want) / ulp).abs()
}

#[test]
fn exp_keeps_its_error_bound() {
    for x in (-87_000..87_000).map(|i| i as f32 * 1e-3).chain([0.0, -0.0, 1e-30, -1e-30]) {
        let want = f64::from(x).exp();
        let error = (f64::from(math::exp(x)) - want).abs() / want;
        assert!(error < 3e-7, "exp({x}): {error:e}");
    }
    for (x, want) in [
        (f32::NEG_INFINITY, 0.0),
        (f32::MIN, 0.0),
        (-1e11, 0.0),
        (-1e5, 0.0),
        (-150.0, 0.0),
        (89.0, f32::INFINITY),
        (1e11, f32::INFINITY),
        (f32::MAX, f32::INFINITY),
        (f32::INFINITY, f32::INFINITY),
    ] {
        assert_eq!(math::exp(x), want, "exp({x})");
    }
    assert!(math::exp(f32::NAN).is_nan());
    // Between the last normal number and 0 it only falls.
    let steps = (8700..10_600).map(|i| math::exp(i as f32 * -0.01));
    assert!(steps.clone().zip(steps.skip(1)).all(|(a, b)| a >= b && a < 2e-38));
}

#[test]
fn tanh_keeps_its_error_bound() {
    for x in (-20_000..20_000).map(|i| i as f32 * 1e-3).chain([-0.0, 1e-20, 1e4, -1e30]) {
        let error = (f64::from(math::tanh(x)) - f64::from(x).tanh()).abs();
        assert!(error < 2e-7, "tanh({x}): {error:e}");
    }
    assert_eq!(math::tanh(f32::INFINITY), 1.0);
    assert_eq!(math::tanh(f32::NEG_INFINITY), -1.0);
    assert!(math::tanh(f32::NAN).is_nan());
}

#[test]
fn roots_quotients_and_powers_are_near() {
    for x in numbers() {
        let wide = f64::from(x);
        if x > 0.0 {
            assert!(ulps(math::rsqrt(x), 1.0 / wide.sqrt()) <= 2.0, "rsqrt({x:e})");
            assert!(ulps(math::sqrt(x), wide.sqrt()) <= 0.5, "sqrt({x:e})");
            assert!(ulps(math::log2(x), wide.log2()) <= 0.5, "log2({x:e})");
        }
        let inverse = 1.0 / wide;
        if inverse.abs() <= f32::MAX.into() {
            assert!(ulps(math::reciprocal(x), inverse) <= 1.0, "1 / {x:e}");
            assert!(
                ulps(math::div(3.0, x), 3.0 * inverse) <= 0.501 || x.abs() < 1e-38,
                "3 / {x:e}"
            );
        }
        let (power, got) = (wide.exp2(), math::exp2(x));
        match power {
            0.0..1.17e-38 => assert_eq!(got, 0.0, "exp2({x})"),
            0.0..3.4e38 => assert!(ulps(got, power) <= 2.0, "exp2({x})"),
            _ => assert_eq!(got, f32::INFINITY, "exp2({x})"),
        }
    }
    assert!(math::rsqrt(-1.0).is_nan());
    assert_eq!(math::rsqrt(0.0), f32::INFINITY);
    assert_eq!(math::div(1.0, 0.0), f32::INFINITY);
}

#[test]
fn a_fused_product_is_rounded_once() {
    let x = 1.0 + f32::EPSILON;
    // x² = 1 + 2ε + ε²; rounded before the subtraction, ε² is lost.
    assert_eq!(math::fma(x, x, -(1.0 + 2.0 * f32::EPSILON)), f32::EPSILON * f32::EPSILON);
    assert_eq!(math::fma(f32::MAX, 2.0, f32::NEG_INFINITY), f32::NEG_INFINITY);
}

#[test]
fn the_greater_and_the_lesser_pass_over_nan() {
    assert_eq!((math::max(1.0, f32::NAN), math::max(f32::NAN, -1.0)), (1.0, -1.0));
    assert_eq!((math::min(1.0, f32::NAN), math::min(f32::NAN, -1.0)), (1.0, -1.0));
    assert!(math::max(f32::NAN, f32::NAN).is_nan());
    assert!(math::max(0.0, -0.0).is_sign_positive() && math::max(-0.0, 0.0).is_sign_positive());
    assert!(math::min(0.0, -0.0).is_sign_negative() && math::min(-0.0, 0.0).is_sign_negative());
    assert!(math::max(-0.0, -0.0).is_sign_negative());
    assert_eq!([-9.0, 0.5, 9.0].map(|x| math::clamp(x, -1.0, 2.0)), [-1.0, 0.5, 2.0]);
    assert!(math::clamp(f32::NAN, -1.0, 2.0).is_nan());
    assert_eq!(math::abs(-3.0), 3.0);
}

#[test]
fn halfway_goes_to_even() {
    let cases = [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, -0.0), (-1.5, -2.0), (0.4999, 0.0)];
    for (x, want) in cases {
        assert_eq!((math::round(x), math::round_to_i32(x)), (want, want as i32), "{x}");
    }
    assert_eq!(math::round(1e9), 1e9);
    assert_eq!(math::round_to_i32(3e9), i32::MAX);
    assert_eq!(math::round_to_i32(-3e9), i32::MIN);
    assert_eq!(math::round_to_i32(f32::NAN), 0);
}

/// The half nearest to a number, found among all of them: of two at the same distance the one with an
/// even last bit; infinite from the middle between the last and 2^16 on.
fn nearest_half(value: f64) -> u16 {
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return 0x7fff;
    }
    let sign = u16::from(value.is_sign_negative()) << 15;
    if magnitude >= 65_520.0 {
        return sign | 0x7c00;
    }
    // Halves above 0 are ordered as their bits.
    let (mut low, mut high) = (0u16, 0x7bff);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if f16::from_bits(middle).to_f64() <= magnitude {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    let below = f16::from_bits(low).to_f64();
    let above = if low == 0x7bff { 65_536.0 } else { f16::from_bits(low + 1).to_f64() };
    let up = magnitude - below > above - magnitude
        || (magnitude - below == above - magnitude && low & 1 == 1);
    sign | (low + u16::from(up))
}

#[test]
fn halves_are_the_nearest() {
    let middles = (0..0x7bffu32).map(|bits| {
        let middle =
            f16::from_bits(bits as u16).to_f32() + f16::from_bits(bits as u16 + 1).to_f32();
        middle / 2.0
    });
    let near = middles.flat_map(|m| [-1i32, 0, 1].map(|d| m.to_bits().wrapping_add_signed(d)));
    for x in near.map(f32::from_bits).chain(numbers()) {
        for x in [x, -x] {
            assert_eq!(math::to_f16(x).to_bits(), nearest_half(x.into()), "{x:e}");
        }
    }
    assert_eq!(math::to_f16(f32::INFINITY).to_bits(), 0x7c00);
    assert_eq!(math::to_f16(f32::NAN).to_bits(), 0x7fff);
    for bits in 0..=u16::MAX {
        let x = f16::from_bits(bits);
        assert!(math::from_f16(x) == x.to_f32() || x.is_nan());
        assert!(x.is_nan() || math::to_f16(math::from_f16_bits(bits)).to_bits() == bits);
    }
    assert_eq!(math::pack_f16(1.0, -2.0), 0xc000_3c00);
    assert_eq!(math::unpack_f16(0xc000_3c00), [1.0, -2.0]);
}

#[test]
fn pairs_of_halves_are_rounded_once() {
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as u16
    };
    let finite = |bits: u16| if bits & 0x7c00 == 0x7c00 { bits & 0xbfff } else { bits };
    for _ in 0..100_000 {
        let [a, b, c] = [0; 3].map(|_: u8| [finite(next()), finite(next())]);
        let word = |x: [u16; 2]| u32::from(x[0]) | u32::from(x[1]) << 16;
        let each = |f: fn(f64, f64, f64) -> f64| {
            word([0, 1].map(|i| {
                let [a, b, c] = [a[i], b[i], c[i]].map(|bits| f16::from_bits(bits).to_f64());
                nearest_half(f(a, b, c))
            }))
        };
        let (a, b, c) = (word(a), word(b), word(c));
        assert_eq!(math::fma_f16x2(a, b, c), each(|a, b, c| a * b + c), "{a:x} {b:x} {c:x}");
        assert_eq!(math::add_f16x2(a, b), each(|a, b, _| a + b), "{a:x} {b:x}");
        assert_eq!(math::sub_f16x2(a, b), each(|a, b, _| a - b), "{a:x} {b:x}");
        assert_eq!(math::mul_f16x2(a, b), each(|a, b, _| a * b), "{a:x} {b:x}");
    }
    // 1 + 2^-11 is halfway to the next half; anything more goes up, however small.
    let tiny = math::pack_f16(2f32.powi(-24), 2f32.powi(-11));
    let by = math::pack_f16(2f32.powi(-24), 1.0);
    assert_eq!(math::fma_f16x2(tiny, by, math::pack_f16(1.0, 1.0)), 0x3c00_3c00);
    let more = math::pack_f16(1.0 + 2f32.powi(-10), 0.0);
    let half = math::pack_f16(2f32.powi(-11), 0.0);
    assert_eq!(math::fma_f16x2(more, half, math::pack_f16(1.0, 0.0)), 0x3c01);
}

#[test]
fn bytes_are_multiplied_and_moved() {
    let a = i32::from_le_bytes([1u8, 0xff, 0x80, 0x7f].map(|b| b)).cast_unsigned();
    let b = i32::from_le_bytes([2u8, 3, 0x80, 0x81].map(|b| b)).cast_unsigned();
    assert_eq!(math::dp4a(a, b, 10), 10 + 2 - 3 + 128 * 128 - 127 * 127);
    assert_eq!(math::dp4a_unsigned(a, b, 10), 10 + 2 + 255 * 3 - 128 * 128 - 127 * 127);
    assert_eq!(math::dp4a(0x7f7f_7f7f, 0x7f7f_7f7f, i32::MAX), i32::MIN + 4 * 127 * 127 - 1);

    let (x, y) = (0x3322_1180, 0x7766_5544);
    assert_eq!(math::permute_bytes(x, y, 0x3210), x);
    assert_eq!(math::permute_bytes(x, y, 0x7654), y);
    assert_eq!(math::permute_bytes(x, y, 0x0426), 0x8044_2266);
    // With bit 3 the sign: of byte 0 set, of byte 1 not.
    assert_eq!(math::permute_bytes(x, y, 0x9818), 0x00ff_11ff);

    assert_eq!(math::funnel_shift_right(0x8765_4321, 0xabcd_ef01, 0), 0x8765_4321);
    assert_eq!(math::funnel_shift_right(0x8765_4321, 0xabcd_ef01, 8), 0x0187_6543);
    assert_eq!(math::funnel_shift_right(0x8765_4321, 0xabcd_ef01, 31), 0x579b_de03);

    for (a, b) in [(0x0102_0304, 0x0201_0403), (0x80ff_007f, 0x7f00_ff80), (0, 0x0101_0101)] {
        let want: [u8; 4] =
            std::array::from_fn(|i| u32::to_le_bytes(a)[i].wrapping_sub(u32::to_le_bytes(b)[i]));
        assert_eq!(math::sub_bytes(a, b), u32::from_le_bytes(want));
    }
}
