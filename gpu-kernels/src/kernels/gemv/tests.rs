//! Products with few rows, emulated, against plain loops in F64.

use std::vec;
use std::vec::Vec;

use cuda_std::emu::Memory;

use super::*;
use crate::formats::device::tests::upload;
use crate::formats::tests::garbage;

/// Numbers between −1 and 1.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let words = garbage(seed, 4 * len);
    let words = words.as_chunks::<4>().0.iter();
    words.map(|&b| i32::from_le_bytes(b) as f32 / 2f32.powi(31)).collect()
}

/// Blocks of a format that decode to ordinary numbers: encoded from few distinct values, for speed.
pub(crate) fn weights(format: Format, seed: u64, rows: usize, cols: usize) -> Vec<u8> {
    let block = |seed: u64| {
        let mut bytes = vec![0; format.block_bytes()];
        format.encode(&numbers(seed, format.block_len()), &mut bytes);
        bytes
    };
    let blocks: Vec<_> = (0..2).map(|i| block(seed + i)).collect();
    let pick = garbage(seed + 9, rows * cols / format.block_len());
    pick.iter().flat_map(|&i| blocks[usize::from(i) / 16 % 2].clone()).collect()
}

/// A matrix of any format in emulated memory.
pub(crate) fn upload_any(
    memory: &mut Memory,
    format: Format,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Matrix {
    let Some(layout) = float::FloatLayout::new(format, cols) else {
        return upload(memory, format, bytes, rows, cols);
    };
    let mut plane = vec![0xff; rows * layout.row_bytes];
    layout.relay(bytes, &mut plane);
    let planes = [memory.upload(&plane).cast(), Global::null(), Global::null(), Global::null()];
    Matrix { planes, rows: rows as u32, cols: cols as u32 }
}

/// The integer form of an operand in emulated memory, and what it stands for.
pub(crate) fn operand(memory: &mut Memory, x: &[f32]) -> (OperandIn, Vec<f64>) {
    const STEPS: f32 = 127.0 * 256.0;
    let (mut high, mut low, mut scales, mut sums) = (vec![], vec![], vec![], vec![]);
    let mut exact = vec![];
    for x in x.chunks_exact(32) {
        let scale = x.iter().fold(0.0, |m: f32, x| m.max(x.abs())) / STEPS;
        let q: Vec<i32> = x.iter().map(|x| (x / scale).round() as i32).collect();
        for &q in &q {
            low.push(q as i8 as u8);
            high.push(((q - i32::from(q as i8)) >> 8) as u8);
            exact.push(f64::from(scale) * f64::from(q));
        }
        scales.push(scale);
        sums.extend(q.chunks_exact(16).map(|q| scale * q.iter().sum::<i32>() as f32));
    }
    let operand = OperandIn {
        float: memory.upload(x),
        high: memory.upload(&high).cast(),
        low: memory.upload(&low).cast(),
        scale: memory.upload(&scales),
        sums: memory.upload(&sums),
        half: Global::null(),
        row_scale: Global::null(),
    };
    (operand, exact)
}

/// The F32 form.
fn float_operand(memory: &mut Memory, x: &[f32]) -> (OperandIn, Vec<f64>) {
    let operand = OperandIn {
        float: memory.upload(x),
        high: Global::null(),
        low: Global::null(),
        scale: Global::null(),
        sums: Global::null(),
        half: Global::null(),
        row_scale: Global::null(),
    };
    (operand, x.iter().map(|&x| f64::from(x)).collect())
}

/// A product: matrices of `rows` by `cols` on `tokens` rows of `x`.
#[derive(Clone, Copy)]
struct Problem {
    format: Format,
    rows: [usize; MAX_TARGETS],
    cols: usize,
    tokens: usize,
    bias: bool,
    sms: u32,
}

/// Σ (y − want)² / Σ want², over everything.
pub(crate) fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&y, w)| (f64::from(y) - w).powi(2)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}

fn check(problem: Problem) {
    let Problem { format, rows, cols, tokens, bias, sms } = problem;
    let mut memory = Memory::new();
    let x = numbers(1, tokens * cols);
    let (x, exact) = match format.block_len() {
        1 => float_operand(&mut memory, &x),
        _ => operand(&mut memory, &x),
    };
    let mut targets = [Target::NONE; MAX_TARGETS];
    let mut want = vec![];
    for (i, &n) in rows.iter().enumerate().filter(|(_, n)| **n > 0) {
        let bytes = weights(format, 10 * i as u64, n, cols);
        let mut w = vec![0.0; n * cols];
        format.decode(&bytes, &mut w);
        let b = numbers(99 + i as u64, n);
        let stride = n + i; // rows of y may lie apart
        targets[i] = Target {
            weights: upload_any(&mut memory, format, &bytes, n, cols),
            bias: if bias { memory.upload(&b) } else { Global::null() },
            y: memory.upload_mut(&vec![0.0; tokens * stride]),
            stride: stride as u32,
        };
        let mut y = vec![0.0; tokens * stride];
        for (m, x) in exact.chunks_exact(cols).enumerate() {
            for (r, w) in w.chunks_exact(cols).enumerate() {
                let sum: f64 = x.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum();
                y[m * stride + r] = sum + if bias { f64::from(b[r]) } else { 0.0 };
            }
        }
        want.push(y);
    }
    let entry = entry(format, tokens as u32).unwrap();
    let device = Device { sms, ctas: ctas(tokens as u32) };
    let geometry =
        Geometry::new(format, rows.map(|n| n as u32), cols as u32, tokens as u32, device);
    let params = GemvParams {
        x,
        targets,
        tables: memory.upload(format.table()),
        tokens: tokens as u32,
        split_log2: geometry.split_log2,
    };
    memory.launch(entry, geometry.launch, &params).unwrap();
    for (target, want) in targets.iter().filter(|t| t.weights.rows > 0).zip(&want) {
        let error = error(&memory.read(target.y), want);
        assert!(error < 1e-12, "{format:?} {rows:?} x {cols}, {tokens} tokens: {error:e}");
    }
}

#[test]
fn every_format_multiplies() {
    for &format in Format::ALL {
        for tokens in [1, 3] {
            let cols = 2 * format.block_len().max(32);
            check(Problem { format, rows: [9, 0, 0], cols, tokens, bias: false, sms: 1 });
        }
    }
}

#[test]
fn rows_of_x_up_to_four() {
    for format in [Format::Q8_0, Format::Q4_K, Format::Q6_K] {
        for tokens in 1..=MAX_TOKENS as usize {
            check(Problem { format, rows: [6, 0, 0], cols: 512, tokens, bias: true, sms: 1 });
        }
    }
}

/// One piece, a lane past and before the ends of a warp's run, runs that several warps share.
#[test]
fn lengths_that_do_not_fill_warps() {
    for cols in [32, 64, 160, 31 * 32, 32 * 32, 33 * 32, 65 * 32, 300 * 32] {
        for tokens in [1, 2] {
            for sms in [1, 8] {
                let format = Format::Q8_0;
                check(Problem { format, rows: [5, 0, 0], cols, tokens, bias: false, sms });
            }
        }
    }
}

#[test]
fn float_rows_of_any_length() {
    for cols in [1, 3, 8, 31, 33, 64, 250, 511, 512, 513, 516, 1500] {
        for (format, tokens) in [(Format::F32, 1), (Format::F16, 3), (Format::BF16, 2)] {
            check(Problem { format, rows: [5, 0, 0], cols, tokens, bias: true, sms: 1 });
        }
    }
}

#[test]
fn three_matrices_in_one_launch() {
    for (rows, sms) in [([1, 1, 1], 1), ([64, 7, 9], 1), ([3, 33, 0], 2), ([130, 31, 32], 1)] {
        for (format, tokens) in [(Format::Q4_K, 1), (Format::Q8_0, 3)] {
            check(Problem { format, rows, cols: 256, tokens, bias: true, sms });
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let mut memory = Memory::new();
    let mut x = numbers(1, 256);
    let (mut operand, _) = operand(&mut memory, &x);
    x[0] = f32::NAN;
    operand.scale = memory.upload(&[&[f32::NAN][..], &[1.0; 7]].concat());
    let format = Format::Q8_0;
    let y = memory.uninit(2);
    let bytes = weights(format, 0, 2, 256);
    let weights = upload(&mut memory, format, &bytes, 2, 256);
    let target = Target { weights, bias: Global::null(), y, stride: 2 };
    let geometry = Geometry::new(format, [2, 0, 0], 256, 1, Device { sms: 1, ctas: 3 });
    let params = GemvParams {
        x: operand,
        targets: [target, Target::NONE, Target::NONE],
        tables: Global::null(),
        tokens: 1,
        split_log2: geometry.split_log2,
    };
    memory.launch(entry(format, 1).unwrap(), geometry.launch, &params).unwrap();
    assert!(memory.read(y).iter().all(|y: &f32| y.is_nan()));
}

#[test]
fn the_work_is_spread_evenly() {
    let qwen3_8b = [([4096, 1024, 1024], 4096), ([4096, 0, 0], 4096), ([12288, 12288, 0], 4096)];
    for (rows, cols) in qwen3_8b.into_iter().chain([([4096, 0, 0], 12288), ([151936, 0, 0], 4096)])
    {
        for tokens in [1, 2, 4] {
            let device = Device { sms: 132, ctas: ctas(tokens) };
            let geometry = Geometry::new(Format::Q4_K, rows, cols, tokens, device);
            let group_rows = group_rows(tokens as usize) as u32;
            let units = rows.iter().sum::<u32>() / group_rows / (WARPS >> geometry.split_log2);
            let even = units as f32 / (units.div_ceil(132) * 132) as f32;
            assert!(even > 0.9 && geometry.launch.grid[0] > 250, "{rows:?}: {geometry:?} {even}");
        }
    }
}
