//! Products with F32 activations: exact mode for every format, and float weights always.
//!
//! Weights are decoded a panel of rows at a time into scratch that stays in cache, and each panel
//! is multiplied with all rows of `x` before the next one is decoded.

use std::cell::RefCell;
use std::ops::Range;

use gpu_kernels::formats::Format;

use super::disjoint::Disjoint;
use super::simd::lanes::{dots, widen_f16};
use super::simd::{Isa, Kernel, Level};
use crate::ops::{Linear, Weight};

/// Weight rows decoded together: with 2048 columns 128 KiB, well inside a core's L2, and enough
/// that `x` is read from the outer caches only once in 16 rows.
const PANEL: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Computes columns `cols` of `y = x · wᵀ + bias`.
///
/// Shapes: `x` [m, w.cols], `y` [m, w.rows].
pub fn linear(level: Level, w: &Linear, x: &[f32], cols: Range<usize>, y: &Disjoint<'_, f32>) {
    let k = w.weight.cols();
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(scratch.len().max(PANEL * k), 0.0);
        for first in cols.clone().step_by(PANEL) {
            let rows = first..(first + PANEL).min(cols.end);
            let panel = &mut scratch[..rows.len() * k];
            decode_rows(level, &w.weight, rows.clone(), panel);
            let bias = w.bias.as_ref().map(|b| &b.host_values()[rows.clone()]);
            let stride = w.weight.rows();
            level.run(PanelProduct { x, panel, k, bias, y, stride, rows });
        }
    });
}

/// Decodes whole rows of a weight matrix to F32.
pub fn decode_rows(level: Level, w: &Weight, rows: Range<usize>, out: &mut [f32]) {
    let bytes = w.host_bytes();
    let row_bytes = bytes.len() / w.rows.max(1);
    let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
    match w.format {
        Format::F32 => level.run(Widen { bytes, out, widen: f32::from_le_bytes }),
        Format::BF16 => level.run(Widen {
            bytes,
            out,
            widen: |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16),
        }),
        Format::F16 => {
            level.run(Widen { bytes, out, widen: |b| widen_f16(u16::from_le_bytes(b)) });
        }
        format => format.decode(bytes, out),
    }
}

struct Widen<'a, const B: usize, F: Fn([u8; B]) -> f32> {
    bytes: &'a [u8],
    out: &'a mut [f32],
    widen: F,
}

impl<const B: usize, F: Fn([u8; B]) -> f32> Kernel for Widen<'_, B, F> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (out, bytes) in self.out.iter_mut().zip(self.bytes.as_chunks::<B>().0) {
            *out = (self.widen)(*bytes);
        }
    }
}

/// All rows of `x` times one panel of decoded weights.
struct PanelProduct<'a> {
    x: &'a [f32],
    panel: &'a [f32],
    k: usize,
    bias: Option<&'a [f32]>,
    y: &'a Disjoint<'a, f32>,
    stride: usize,
    rows: Range<usize>,
}

impl Kernel for PanelProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let m = self.x.len() / self.k;
        let mut row = 0;
        // 4 × 4 accumulators and their operands fill the 32 registers of AVX-512.
        while row + 4 <= m {
            self.stripe::<I, 4>(row);
            row += 4;
        }
        while row < m {
            self.stripe::<I, 1>(row);
            row += 1;
        }
    }
}

impl PanelProduct<'_> {
    #[inline(always)]
    fn stripe<I: Isa, const M: usize>(&self, row: usize) {
        let n = self.rows.len();
        let mut col = 0;
        while col + 4 <= n {
            self.tile::<I, M, 4>(row, col);
            col += 4;
        }
        while col < n {
            self.tile::<I, M, 1>(row, col);
            col += 1;
        }
    }

    #[inline(always)]
    fn tile<I: Isa, const M: usize, const N: usize>(&self, row: usize, col: usize) {
        let k = self.k;
        let xs = std::array::from_fn(|i| &self.x[(row + i) * k..][..k]);
        let ws = std::array::from_fn(|i| &self.panel[(col + i) * k..][..k]);
        let products = dots::<I, M, N>(xs, ws, k);
        for (m, products) in products.iter().enumerate() {
            let at = (row + m) * self.stride + self.rows.start + col;
            // SAFETY: the chunks of a region own disjoint ranges of columns, this one `rows`.
            let y = unsafe { self.y.part(at..at + N) };
            for n in 0..N {
                y[n] = products[n] + self.bias.map_or(0.0, |b| b[col + n]);
            }
        }
    }
}
