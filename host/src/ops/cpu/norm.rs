//! RMS norm.

use super::simd::lanes::lanes_at;
use super::simd::{Isa, Kernel};

/// `x[i] · w[i] / sqrt(mean(x²) + eps)` in groups of `w.len()` elements.
///
/// Source: Zhang & Sennrich 2019, eq. 4.
pub struct RmsNorm<'a> {
    /// Normed in place, whole groups.
    pub x: &'a mut [f32],
    /// A factor an element of a group.
    pub w: &'a [f32],
    /// Keeps the root away from zero.
    pub eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for group in self.x.chunks_exact_mut(self.w.len()) {
            let mean = sum_of_squares(group) / group.len() as f64;
            let scale = (1.0 / (mean + f64::from(self.eps)).sqrt()) as f32;
            for (x, w) in group.iter_mut().zip(self.w) {
                *x = *x * scale * w;
            }
        }
    }
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
