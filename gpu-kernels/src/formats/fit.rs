//! What the reference encoders share: extremes, rounding, and the search for a good scale.
//!
//! Encoders serve tests and synthetic files; they are plain and slow, not the best there are.

use super::scalar::F16Le;

/// The largest magnitude; 0 for no values.
pub(super) fn abs_max(values: &[f32]) -> f32 {
    extreme(values).abs()
}

/// The first value of the largest magnitude, with its sign; 0 for no values.
pub(super) fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |best: f32, &v| if v.abs() > best.abs() { v } else { best })
}

/// The least and the greatest value.
pub(super) fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)))
}

/// `1 / x`; 0 for 0, and for subnormals, whose inverse overflows: their blocks encode as zeros.
pub(super) fn inverse(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / x }
}

/// The nearest integer, halves away from zero; saturates, and NaN is 0.
pub(super) fn round(x: f32) -> i32 {
    let whole = x as i32;
    let rest = x - whole as f32;
    whole.saturating_add(i32::from(rest >= 0.5) - i32::from(rest <= -0.5))
}

/// The index of the level whose multiple by `scale` is nearest to `value`; the first of equals.
pub(super) fn nearest(levels: &[i8], scale: f32, value: f32) -> usize {
    let error = |i: usize| (f32::from(levels[i]) * scale - value).abs();
    (1..levels.len()).fold(0, |best, i| if error(i) < error(best) { i } else { best })
}

/// The scale, out of several candidates each corrected by least squares, under which integers
/// chosen by `quantize(value / scale)` come nearest to the values.
fn search(
    values: &[f32],
    divisors: impl Iterator<Item = f32>,
    quantize: impl Fn(f32) -> f32,
) -> f32 {
    let extreme = extreme(values);
    let mut best = (0.0, 0.0);
    for divisor in divisors {
        let inverse = divisor * inverse(extreme);
        let (mut xq, mut qq) = (0.0, 0.0);
        for &x in values {
            let q = quantize(x * inverse);
            xq += x * q;
            qq += q * q;
        }
        // The error left at the least-squares scale xq/qq is Σx² − xq²/qq.
        if qq > 0.0 && xq * xq > best.0 * qq {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// The scale for integers `low..=high`, where `-low ≥ high`.
fn symmetric(values: &[f32], low: i32, high: i32) -> f32 {
    let divisors = (-9..=9).map(|step| low as f32 + 0.1 * step as f32);
    search(values, divisors, |x| round(x).clamp(low, high) as f32)
}

/// The scale for uneven levels that lie on both sides of zero, in rising order.
pub(super) fn uneven(values: &[f32], levels: &[i8]) -> f32 {
    let ends = [levels[0], levels[levels.len() - 1]];
    let divisors =
        (-8..=8).flat_map(|step| ends.map(|end| f32::from(end) * (1.0 + 0.02 * step as f32)));
    search(values, divisors, |x| f32::from(levels[nearest(levels, 1.0, x)]))
}

/// Scale and minimum (≥ 0) for `scale · q − min` with q in `0..=high`: candidates from the range
/// of the values, each corrected by least squares in both.
fn affine(values: &[f32], high: i32) -> (f32, f32) {
    let (low_value, high_value) = range(values);
    let low_value = low_value.min(0.0);
    let span = (high_value - low_value).max(0.0);
    let n = values.len() as f32;
    let mut best = (f32::INFINITY, 0.0, -low_value);
    for step in -10..=10 {
        let per_step = (high as f32 + 0.1 * step as f32) * inverse(span);
        let code = |x: f32| round((x - low_value) * per_step).clamp(0, high) as f32;
        let (mut q1, mut q2, mut x1, mut xq) = (0.0, 0.0, 0.0, 0.0);
        for &x in values {
            let q = code(x);
            q1 += q;
            q2 += q * q;
            x1 += x;
            xq += x * q;
        }
        let determinant = n * q2 - q1 * q1;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (n * xq - x1 * q1) / determinant;
        let mut min = (q1 * xq - q2 * x1) / determinant;
        if min < 0.0 {
            (scale, min) = (xq * inverse(q2), 0.0);
        }
        let error = values.iter().map(|&x| scale * code(x) - min - x).map(|e| e * e).sum();
        if error < best.0 {
            best = (error, scale, min);
        }
    }
    (best.1, best.2)
}

/// A super-block of 256 with a scale and a minimum for each of `N` groups.
pub(super) struct AffineGroups<const N: usize> {
    pub(super) d: F16Le,
    pub(super) dmin: F16Le,
    pub(super) scale: [u8; N],
    pub(super) min: [u8; N],
    high: i32,
}

impl<const N: usize> AffineGroups<N> {
    /// Codes are `0..=high`, scales and minima `0..=step_max`.
    pub(super) fn new(values: &[f32], high: i32, step_max: i32) -> Self {
        let mut fits = [(0.0f32, 0.0f32); N];
        for (fit, group) in fits.iter_mut().zip(values.chunks_exact(256 / N)) {
            *fit = affine(group, high);
        }
        let d = F16Le::new(abs_max(&fits.map(|fit| fit.0)) / step_max as f32);
        let dmin = F16Le::new(abs_max(&fits.map(|fit| fit.1)) / step_max as f32);
        let steps = |x: f32, d: F16Le| round(x * inverse(d.get())).clamp(0, step_max) as u8;
        let scale = fits.map(|fit| steps(fit.0, d));
        let min = fits.map(|fit| steps(fit.1, dmin));
        AffineGroups { d, dmin, scale, min, high }
    }

    /// The code of value `i`, given the scales as they were rounded.
    pub(super) fn code(&self, i: usize, value: f32) -> u8 {
        let g = i / (256 / N);
        let scale = self.d.get() * f32::from(self.scale[g]);
        let min = self.dmin.get() * f32::from(self.min[g]);
        round((value + min) * inverse(scale)).clamp(0, self.high) as u8
    }
}

/// A super-block of 256 with a signed scale for each 16.
pub(super) struct SymmetricGroups {
    pub(super) d: F16Le,
    pub(super) scale: [i8; 16],
    low: i32,
    high: i32,
}

impl SymmetricGroups {
    /// Codes are `low..=high`, scales `step_min..=step_max`.
    pub(super) fn new(values: &[f32], low: i32, high: i32, step_min: i32, step_max: i32) -> Self {
        let groups = values.as_chunks::<16>().0;
        let scales: [f32; 16] = core::array::from_fn(|g| symmetric(&groups[g], low, high));
        let d = F16Le::new(extreme(&scales) / step_min as f32);
        let inverse = inverse(d.get());
        let scale = scales.map(|s| round(s * inverse).clamp(step_min, step_max) as i8);
        SymmetricGroups { d, scale, low, high }
    }

    /// The code of value `i`, given the scales as they were rounded.
    pub(super) fn code(&self, i: usize, value: f32) -> i8 {
        let scale = self.d.get() * f32::from(self.scale[i / 16]);
        round(value * inverse(scale)).clamp(self.low, self.high) as i8
    }
}
