//! An operand in emulated memory, and what it says.

use std::vec;
use std::vec::Vec;

use cuda_std::emu::Memory;
use half::f16;

use super::{OperandOut, SCALE_LEN, SUM_LEN, half_stride, plane_stride};

/// The forms of an operand in a test.
#[derive(Clone, Copy, Debug)]
pub struct Forms {
    /// Where they are.
    pub out: OperandOut,
    rows: usize,
    cols: usize,
}

/// Numbers that hurt: outliers, zeros of both signs, steps of magnitude. `seed` is not 0.
pub fn numbers(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len)
        .map(|i| {
            let unit = f64::from(next()) / f64::from(u32::MAX) * 2.0 - 1.0;
            let size = match i % 67 {
                13 => 300.0,
                29 => 0.0,
                30 => -0.0,
                50 => 1e-20,
                _ => 1.0,
            };
            (unit * size) as f32
        })
        .collect()
}

impl Forms {
    /// Room for the forms whose letter is in `forms`: F, I or H.
    pub fn new(mem: &mut Memory, rows: usize, cols: usize, forms: &str) -> Self {
        let mut out = OperandOut::NONE;
        let plane = plane_stride(cols as u32) as usize;
        if forms.contains('F') {
            out.float = mem.uninit(rows * cols);
        }
        if forms.contains('I') {
            out.high = mem.uninit(rows * plane / 4);
            out.low = mem.uninit(rows * plane / 4);
            out.scale = mem.uninit(rows * plane / SCALE_LEN);
            out.sums = mem.uninit(rows * plane / SUM_LEN);
        }
        if forms.contains('H') {
            out.half = mem.uninit(rows * half_stride(cols as u32) as usize / 2);
            out.row_scale = mem.uninit(rows);
        }
        Self { out, rows, cols }
    }

    /// Checks each form against `expected` [rows, cols], from which F32 may differ by `tolerance` of
    /// the element and `floor`; the others may differ by half a step more.
    pub fn check(
        &self,
        mem: &Memory,
        expected: &[f64],
        (tolerance, floor): (f64, f64),
        problem: &str,
    ) {
        let Self { out, rows, cols } = *self;
        assert_eq!(expected.len(), rows * cols);
        let slack = |x: f64| tolerance * x.abs() + floor;
        if !out.float.is_null() {
            let found: Vec<f32> = mem.read(out.float);
            for (i, (&found, &x)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(found) - x).abs();
                assert!(error <= slack(x), "{problem}: F32 {i} is {found}, expected {x}");
            }
        }
        if !out.high.is_null() {
            let plane = plane_stride(cols as u32) as usize;
            let planes = self.planes(mem);
            let scale: Vec<f32> = mem.read(out.scale);
            let sums: Vec<f32> = mem.read(out.sums);
            for (i, &q) in planes.iter().enumerate() {
                let (row, col) = (i / plane, i % plane);
                let x = if col < cols { expected[row * cols + col] } else { 0.0 };
                let step = f64::from(scale[i / SCALE_LEN]);
                let error = (step * f64::from(q) - x).abs();
                assert!(error <= 0.505 * step + slack(x), "{problem}: integer {row}, {col}: {q}");
            }
            for (i, (q, &sum)) in planes.chunks(SUM_LEN).zip(&sums).enumerate() {
                let exact = scale[i / 2] * q.iter().sum::<i32>() as f32;
                assert_eq!(sum, exact, "{problem}: sum {i}");
            }
        }
        if !out.half.is_null() {
            let stride = half_stride(cols as u32) as usize;
            let words: Vec<u32> = mem.read(out.half);
            let scale: Vec<f32> = mem.read(out.row_scale);
            for row in 0..rows {
                let max = expected[row * cols..][..cols].iter().fold(0.0f64, |m, x| m.max(x.abs()));
                let least = (max / 32768.0).max(1.0).log2().ceil().exp2();
                let scale = f64::from(scale[row]);
                // A magnitude within rounding of a power of two may fall to either side.
                let near = scale == 2.0 * least || scale == 0.5 * least;
                assert!(scale == least || tolerance > 0.0 && near, "{problem}: row scale {scale}");
                for col in 0..stride {
                    let word = words[(row * stride + col) / 2];
                    let found = f16::from_bits((word >> (16 * (col % 2))) as u16).to_f64() * scale;
                    let x = if col < cols { expected[row * cols + col] } else { 0.0 };
                    let step = x.abs() / 2048.0 + scale / f64::from(1 << 25);
                    let error = (found - x).abs();
                    assert!(error <= step + slack(x), "{problem}: half {row}, {col}: {found}, {x}");
                }
            }
        }
    }

    /// The integers, `256 · high + low`: [rows, plane_stride].
    pub fn planes(&self, mem: &Memory) -> Vec<i32> {
        let bytes = |word: &u32| word.to_le_bytes().map(|b| i32::from(b as i8));
        let read = |plane| mem.read::<u32>(plane).iter().flat_map(bytes).collect::<Vec<_>>();
        let mut planes = vec![];
        for (high, low) in read(self.out.high).into_iter().zip(read(self.out.low)) {
            assert!(high >= -127);
            planes.push(256 * high + low);
        }
        planes
    }
}
