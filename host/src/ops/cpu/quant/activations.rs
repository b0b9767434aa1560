//! Activations as 16-bit integers in two planes of bytes, a scale for each 32.
//!
//! One byte an activation would be enough for the integer instructions, and costs a KL divergence
//! of 0.0025 on SmolLM2-135M; the second byte brings it down to what the F16 cache costs. It doubles
//! the multiplications, which are the smaller part of a decode step (unpacking weights is the
//! larger).

use crate::ops::cpu::disjoint::Disjoint;
use crate::ops::cpu::simd::{Isa, Kernel, Level};

/// Activations that share a scale.
pub const BLOCK: usize = 32;
/// Activations whose sum is kept: the smallest group of any weight format.
pub const GROUP: usize = 16;

/// Rows of quantized activations: `x[r, i] ≈ scale[r, i / 32] · (256 · high[r, i] + low[r, i])`.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    /// [rows, cols], −127 to 127.
    pub high: Vec<i8>,
    /// [rows, cols], −128 to 127.
    pub low: Vec<i8>,
    /// [rows, cols / 32]; NaN where the block holds anything that is not finite.
    pub scale: Vec<f32>,
    /// Sums over groups of 16 and of 32.
    pub sums16: Sums,
    pub sums32: Sums,
}

/// Sums of groups, [rows, cols / group].
#[derive(Debug, Default)]
pub struct Sums {
    /// `−128 · Σ (256 · high + low)`: what a sum of products with `w + 128` must start from.
    pub shift: Vec<i32>,
    /// `scale · Σ (256 · high + low)`: what a minimum is multiplied with.
    pub scaled: Vec<f32>,
}

impl Activations {
    /// Makes room for `rows` of `cols`, a multiple of 32.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        assert!(cols.is_multiple_of(BLOCK));
        (self.rows, self.cols) = (rows, cols);
        self.high.resize(rows * cols, 0);
        self.low.resize(rows * cols, 0);
        self.scale.resize(rows * cols / BLOCK, 0.0);
        for (sums, group) in [(&mut self.sums16, GROUP), (&mut self.sums32, BLOCK)] {
            sums.shift.resize(rows * cols / group, 0);
            sums.scaled.resize(rows * cols / group, 0.0);
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The parts that a parallel quantization writes.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer {
            cols: self.cols,
            high: Disjoint::new(&mut self.high),
            low: Disjoint::new(&mut self.low),
            scale: Disjoint::new(&mut self.scale),
            shift16: Disjoint::new(&mut self.sums16.shift),
            scaled16: Disjoint::new(&mut self.sums16.scaled),
            shift32: Disjoint::new(&mut self.sums32.shift),
            scaled32: Disjoint::new(&mut self.sums32.scaled),
        }
    }
}

/// Quantizes rows, of several threads each its own.
pub struct Writer<'a> {
    cols: usize,
    high: Disjoint<'a, i8>,
    low: Disjoint<'a, i8>,
    scale: Disjoint<'a, f32>,
    shift16: Disjoint<'a, i32>,
    scaled16: Disjoint<'a, f32>,
    shift32: Disjoint<'a, i32>,
    scaled32: Disjoint<'a, f32>,
}

impl Writer<'_> {
    /// Quantizes whole rows, the first of which is row `first`.
    ///
    /// # Safety
    /// No two calls may be given the same row at a time.
    pub unsafe fn rows(&self, level: Level, first: usize, x: &[f32]) {
        let at = first * self.cols;
        let part = |unit: usize| at / unit..(at + x.len()) / unit;
        // SAFETY: parts of different rows are disjoint, and the caller gives each row once.
        let kernel = unsafe {
            Quantize {
                x,
                high: self.high.part(part(1)),
                low: self.low.part(part(1)),
                scale: self.scale.part(part(BLOCK)),
                shift16: self.shift16.part(part(GROUP)),
                scaled16: self.scaled16.part(part(GROUP)),
                shift32: self.shift32.part(part(BLOCK)),
                scaled32: self.scaled32.part(part(BLOCK)),
            }
        };
        level.run(kernel);
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    high: &'a mut [i8],
    low: &'a mut [i8],
    scale: &'a mut [f32],
    shift16: &'a mut [i32],
    scaled16: &'a mut [f32],
    shift32: &'a mut [i32],
    scaled32: &'a mut [f32],
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let planes = self.high.as_chunks_mut::<BLOCK>().0.iter_mut();
        let planes = planes.zip(self.low.as_chunks_mut::<BLOCK>().0);
        for (b, (x, (high, low))) in self.x.as_chunks::<BLOCK>().0.iter().zip(planes).enumerate() {
            let mut q = [0i32; BLOCK];
            let scale = quantize(x, &mut q);
            self.scale[b] = scale;
            for i in 0..BLOCK {
                low[i] = q[i] as i8;
                high[i] = ((q[i] - i32::from(low[i])) >> 8) as i8;
            }
            let sums = [sum(&q[..GROUP]), sum(&q[GROUP..])];
            for (i, sum) in sums.into_iter().enumerate() {
                self.shift16[2 * b + i] = -128 * sum;
                self.scaled16[2 * b + i] = scale * sum as f32;
            }
            let sum = sums[0] + sums[1];
            self.shift32[b] = -128 * sum;
            self.scaled32[b] = scale * sum as f32;
        }
    }
}

/// Most steps of a scale to either side: the greatest number whose high byte is at most 127.
const STEPS: f32 = 127.0 * 256.0;

/// Rounds a block to multiples of its scale, `1 / STEPS` of its greatest magnitude.
#[inline(always)]
fn quantize(x: &[f32; BLOCK], q: &mut [i32; BLOCK]) -> f32 {
    let mut magnitude = [0.0f32; 16];
    let mut poison = [0.0f32; 16]; // NaN from anything not finite, which `max` would pass over
    for half in 0..2 {
        for i in 0..16 {
            let v = x[16 * half + i];
            magnitude[i] = if v.abs() > magnitude[i] { v.abs() } else { magnitude[i] };
            poison[i] += v * 0.0;
        }
    }
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            let other = magnitude[i + half];
            magnitude[i] = if other > magnitude[i] { other } else { magnitude[i] };
            poison[i] += poison[i + half];
        }
        half /= 2;
    }
    // Below this the quotient overflows; such a block is zero to every digit that matters.
    let inverse = if magnitude[0] > 1e-33 { STEPS / magnitude[0] } else { 0.0 };
    // Adding 1.5 · 2²³ leaves the nearest integer (ties to even) in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for i in 0..BLOCK {
        q[i] = i32::from((x[i] * inverse + ROUND).to_bits() as i16);
    }
    magnitude[0] / STEPS + poison[0]
}

#[inline(always)]
fn sum(q: &[i32]) -> i32 {
    let mut sum = 0;
    for q in q {
        sum += *q;
    }
    sum
}
