//! RMS norm, alone and with the residual stream.

use super::simd::lanes::{fma, lanes_at};
use super::simd::{Isa, Kernel};
use crate::ops::Norm;

/// `x[i] · w[i] / sqrt(mean(x²) + eps)` in groups of `w.len()` elements.
///
/// Source: Zhang & Sennrich 2019, eq. 4.
pub struct RmsNorm<'a> {
    /// Normed in place, whole groups.
    pub x: &'a mut [f32],
    /// A factor for each element of a group, and what keeps the root away from zero.
    pub norm: &'a Norm,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let w = self.norm.weight.host_values();
        for group in self.x.chunks_exact_mut(w.len()) {
            let scale = scale(group, self.norm.eps);
            for (x, w) in group.iter_mut().zip(w) {
                *x = *x * scale * w;
            }
        }
    }
}

/// `x += norm(y) · scale` for whole rows.
pub struct AddNormed<'a> {
    pub x: &'a mut [f32],
    pub y: &'a [f32],
    /// Of whole rows.
    pub norm: &'a Norm,
    pub scale: f32,
}

impl Kernel for AddNormed<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let w = self.norm.weight.host_values();
        for (x, y) in self.x.chunks_exact_mut(w.len()).zip(self.y.chunks_exact(w.len())) {
            let root = scale(y, self.norm.eps);
            for ((x, y), w) in x.iter_mut().zip(y).zip(w) {
                *x = fma::<I>(*y * root * w, self.scale, *x);
            }
        }
    }
}

/// `out = norm(x)` for whole rows.
pub struct NormTo<'a> {
    pub x: &'a [f32],
    /// Of whole rows.
    pub norm: &'a Norm,
    pub out: &'a mut [f32],
}

impl Kernel for NormTo<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let w = self.norm.weight.host_values();
        for (x, out) in self.x.chunks_exact(w.len()).zip(self.out.chunks_exact_mut(w.len())) {
            let scale = scale(x, self.norm.eps);
            for ((x, out), w) in x.iter().zip(out).zip(w) {
                *out = *x * scale * w;
            }
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn scale(x: &[f32], eps: f32) -> f32 {
    let mean = sum_of_squares(x) / x.len() as f64;
    (1.0 / (mean + f64::from(eps)).sqrt()) as f32
}

/// In F64: an F32 sum of thousands of squares would lose the digits that later layers multiply.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let whole = x.len() - x.len() % 16;
    let mut acc = [0.0f64; 16];
    for k in (0..whole).step_by(16) {
        for (acc, x) in acc.iter_mut().zip(lanes_at(x, k)) {
            *acc += f64::from(*x) * f64::from(*x);
        }
    }
    let tail: f64 = x[whole..].iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    acc.iter().sum::<f64>() + tail
}
