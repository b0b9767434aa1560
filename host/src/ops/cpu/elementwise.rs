//! Operations on one element at a time.

use super::simd::lanes::fma;
use super::simd::{Isa, Kernel};
use crate::ops::Activation;

/// `gate = act(gate) · up`.
pub struct Gated<'a> {
    pub gate: &'a mut [f32],
    pub up: &'a [f32],
    pub act: Activation,
}

impl Kernel for Gated<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let pairs = self.gate.iter_mut().zip(self.up);
        match self.act {
            Activation::Silu => pairs.for_each(|(g, u)| *g = silu(*g) * u),
            Activation::GeluTanh => pairs.for_each(|(g, u)| *g = gelu_tanh(*g) * u),
        }
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// Source: Hendrycks & Gimpel 2016, section 2.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)).tanh())
}

/// `x += y · scale`.
pub struct Add<'a> {
    pub x: &'a mut [f32],
    pub y: &'a [f32],
    pub scale: f32,
}

impl Kernel for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x = fma::<I>(*y, self.scale, *x);
        }
    }
}

/// `x = cap · tanh(x · scale / cap)`, or `x · scale` without a cap.
pub struct ScaleCap<'a> {
    pub x: &'a mut [f32],
    pub scale: f32,
    pub cap: Option<f32>,
}

impl Kernel for ScaleCap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for x in self.x {
            let scaled = *x * self.scale;
            *x = self.cap.map_or(scaled, |cap| cap * (scaled / cap).tanh());
        }
    }
}
