//! Operations on one element at a time.

use super::simd::lanes::fma;
use super::simd::math::{exp, tanh};
use super::simd::{Isa, Kernel};
use crate::ops::Activation;

/// `out = act(gate) · up`.
pub struct Gated<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub act: Activation,
    pub out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let rows = self.out.iter_mut().zip(self.gate).zip(self.up);
        match self.act {
            Activation::Silu => rows.for_each(|((out, g), u)| *out = silu::<I>(*g) * u),
            Activation::GeluTanh => rows.for_each(|((out, g), u)| *out = gelu_tanh::<I>(*g) * u),
        }
    }
}

#[inline(always)]
fn silu<I: Isa>(x: f32) -> f32 {
    x / (1.0 + exp::<I>(-x))
}

/// Source: Hendrycks & Gimpel 2016, section 2.
#[inline(always)]
fn gelu_tanh<I: Isa>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh::<I>(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
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
        match self.cap {
            None => self.x.iter_mut().for_each(|x| *x *= self.scale),
            Some(cap) => {
                self.x.iter_mut().for_each(|x| *x = cap * tanh::<I>(*x * self.scale / cap));
            }
        }
    }
}
