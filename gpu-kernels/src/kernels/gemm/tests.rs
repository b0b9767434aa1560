//! Products with many rows, emulated, against plain loops in F64.

use std::vec;
use std::vec::Vec;

use cuda_std::Global;
use cuda_std::emu::Memory;
use half::{bf16, f16};

use super::*;
use crate::formats::device::tests::upload;
use crate::kernels::gemv::tests::{error, numbers, weights};
use crate::kernels::matrix::Matrix;

/// Matrices of `rows` by `cols` on `tokens` rows of `x`, `splits` parts of tile `tile`.
#[derive(Clone, Copy)]
struct Problem {
    format: Format,
    rows: [usize; MAX_TARGETS],
    cols: usize,
    tokens: usize,
    bias: bool,
    tile: usize,
    splits: u32,
    /// Numbers that halves and sums hold exactly.
    whole: bool,
}

const PLAIN: Problem = Problem {
    format: Format::F16,
    rows: [65, 0, 0],
    cols: 64,
    tokens: 17,
    bias: false,
    tile: 0,
    splits: 1,
    whole: true,
};

/// Some numbers: between −1 and 1, or whole from −8 to 8.
fn some(seed: u64, len: usize, whole: bool) -> Vec<f32> {
    let mut numbers = numbers(seed, len);
    if whole {
        numbers.iter_mut().for_each(|v| *v = (*v * 8.0).round());
    }
    numbers
}

/// Rows in 16 bits each, padded to 16 bytes.
fn padded(values: &[f32], cols: usize, to_bits: impl Fn(f32) -> u16) -> Vec<u16> {
    let stride = cols.next_multiple_of(8);
    let mut out = vec![0; values.len() / cols * stride];
    for (row, out) in values.chunks_exact(cols).zip(out.chunks_exact_mut(stride)) {
        row.iter().zip(out).for_each(|(&v, out)| *out = to_bits(v));
    }
    out
}

/// A matrix in emulated memory and its weights.
fn matrix(memory: &mut Memory, p: &Problem, seed: u64, rows: usize) -> (Matrix, Vec<f32>) {
    type Convert = (fn(f32) -> u16, fn(u16) -> f32);
    let float: Option<Convert> = match p.format {
        Format::F16 => Some((|v| f16::from_f32(v).to_bits(), |bits| f16::from_bits(bits).to_f32())),
        Format::BF16 => {
            Some((|v| bf16::from_f32(v).to_bits(), |bits| bf16::from_bits(bits).to_f32()))
        }
        _ => None,
    };
    if let Some((to_bits, from_bits)) = float {
        let values = some(seed, rows * p.cols, p.whole);
        let plane: Global<u32> = memory.upload(&padded(&values, p.cols, to_bits)).cast();
        let planes = [plane, Global::null(), Global::null(), Global::null()];
        let values = values.iter().map(|&v| from_bits(to_bits(v))).collect();
        return (Matrix { planes, rows: rows as u32, cols: p.cols as u32 }, values);
    }
    let bytes = weights(p.format, seed, rows, p.cols);
    let mut values = vec![0.0; rows * p.cols];
    p.format.decode(&bytes, &mut values);
    (upload(memory, p.format, &bytes, rows, p.cols), values)
}

fn check(p: Problem) {
    let mut memory = Memory::new();
    let Problem { cols, tokens, .. } = p;
    let x = some(1, tokens * cols, p.whole);
    let row_scale: Vec<f32> = (0..tokens).map(|m| 2f32.powi(m as i32 % 5 - 2)).collect();
    let half = memory.upload(&padded(&x, cols, |v| f16::from_f32(v).to_bits())).cast();
    let null = Global::null();
    let x_in = OperandIn {
        float: null,
        high: Global::null(),
        low: Global::null(),
        scale: null,
        sums: null,
        half,
        row_scale: memory.upload(&row_scale),
    };
    let mut targets = [Target::NONE; MAX_TARGETS];
    let mut want = vec![];
    for (i, &n) in p.rows.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (weights, w) = matrix(&mut memory, &p, 10 * i as u64 + 3, n);
        let b = some(99 + i as u64, n, p.whole);
        let stride = n + i; // rows of y may lie apart
        targets[i] = Target {
            weights,
            bias: if p.bias { memory.upload(&b) } else { Global::null() },
            y: memory.upload_mut(&vec![0.0; tokens * stride]),
            stride: stride as u32,
        };
        let mut y = vec![0.0; tokens * stride];
        for (m, x) in x.chunks_exact(cols).enumerate() {
            for (r, w) in w.chunks_exact(cols).enumerate() {
                let products = x.iter().zip(w);
                let sum: f64 =
                    products.map(|(&x, &w)| f16::from_f32(x).to_f64() * f64::from(w)).sum();
                let bias = if p.bias { f64::from(b[r]) } else { 0.0 };
                y[m * stride + r] = f64::from(row_scale[m]) * sum + bias;
            }
        }
        want.push(y);
    }
    let shape = Shape {
        format: p.format,
        rows: p.rows.map(|n| n as u32),
        cols: cols as u32,
        tokens: tokens as u32,
    };
    assert!(supports(p.format, shape.cols));
    let geometry = Geometry::with(shape, p.tile, p.splits);
    let arrived = memory.upload_mut(&vec![0u32; geometry.counters().max(1)]);
    let params = GemmParams {
        x: x_in,
        targets,
        weight_scale: [if p.format == Format::F16 { 1.0 } else { WEIGHT_SCALE }; MAX_TARGETS],
        tables: memory.upload(p.format.table()),
        partial: memory.uninit(geometry.partial_bytes() / 16 + 1),
        arrived,
        tokens: shape.tokens,
        splits: geometry.splits,
        stages_per_split: geometry.stages_per_split,
    };
    memory.launch(entry(p.format, p.tile).unwrap(), geometry.launch, &params).unwrap();
    assert!(memory.read::<u32>(arrived).iter().all(|&n| n == 0));
    // All matrices together: the few sums of a single row may cancel to almost nothing.
    let got: Vec<f32> = targets[..want.len()].iter().flat_map(|t| memory.read(t.y)).collect();
    let want = want.concat();
    if p.whole && matches!(p.format, Format::F16 | Format::BF16) {
        assert!(got.iter().zip(&want).all(|(&got, &want)| f64::from(got) == want));
    } else {
        // Weight, scale and minimum are each within 2⁻¹¹ (2⁻¹² on average), and those of a format
        // with minima are up to twice the weights.
        let error = error(&got, &want);
        assert!(error < 1e-6, "{:?} {error:e}", p.format);
    }
}

#[test]
fn sizes_that_hurt() {
    for format in [Format::F16, Format::Q8_0] {
        for (tile, &Tile { tokens, features, .. }) in tiles(format).iter().enumerate() {
            let sizes = [(1, 1, 1), (tokens - 1, 63, 33), (tokens + 1, features + 2, 160)];
            for (tokens, rows, cols) in sizes {
                let cols: usize = cols;
                let cols = if format == Format::Q8_0 { cols.next_multiple_of(32) } else { cols };
                let (tokens, rows) = (tokens as usize, [rows as usize, 0, 0]);
                check(Problem { format, tile, tokens, rows, cols, ..PLAIN });
            }
        }
    }
}

#[test]
fn long_rows_pass_through_every_stage_and_block() {
    for format in [Format::F16, Format::BF16, Format::Q8_0] {
        for tile in 0..tiles(format).len() {
            check(Problem { tile, format, cols: 1024 + 32, rows: [33, 0, 0], tokens: 9, ..PLAIN });
        }
    }
}

#[test]
fn three_matrices_with_bias() {
    let float = (0..tiles(Format::F16).len()).map(|tile| (tile, Format::F16));
    for (tile, format) in float.chain([(2, Format::Q4_K), (4, Format::Q4_K)]) {
        check(Problem { tile, format, rows: [130, 1, 65], cols: 256, bias: true, ..PLAIN });
        check(Problem { tile, format, rows: [31, 32, 0], cols: 256, ..PLAIN });
    }
}

#[test]
fn splits_add_up() {
    for tile in 0..tiles(Format::F16).len() {
        for splits in [2, 3] {
            check(Problem { tile, splits, cols: 640, rows: [40, 30, 0], bias: true, ..PLAIN });
        }
    }
    check(Problem { splits: 5, format: Format::Q4_K, cols: 1280, ..PLAIN });
}

#[test]
fn more_token_tiles_than_a_group() {
    check(Problem { tokens: 16 * 17 + 3, rows: [129, 0, 0], cols: 8, ..PLAIN });
}

#[test]
fn numbers_of_all_sizes() {
    for format in [Format::F16, Format::BF16] {
        for tile in 0..tiles(format).len() {
            check(Problem { format, tile, cols: 100, whole: false, ..PLAIN });
        }
    }
}

#[test]
fn ends_of_rows_and_slabs() {
    for tile in 2..tiles(Format::F16).len() {
        for cols in [8, 31, 32, 40, 100, 129] {
            check(Problem { tile, cols, ..PLAIN });
        }
    }
}

#[test]
fn every_format() {
    for &format in Format::ALL.iter().filter(|f| entry(**f, 0).is_some()) {
        check(Problem { format, cols: 512, rows: [40, 0, 0], tokens: 5, ..PLAIN });
    }
    for tile in [1, 3, 4] {
        for format in [Format::Q4_K, Format::Q6_K, Format::Q8_0] {
            check(Problem { format, tile, cols: 512, rows: [40, 0, 0], tokens: 5, ..PLAIN });
        }
    }
}
