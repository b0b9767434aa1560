//! Conversions against plain definitions, bit for bit where the CPU has the same form.

use std::format;
use std::vec;
use std::vec::Vec;

use cuda_std::emu::Memory;

use super::super::operand::testing::{Forms, numbers};
use super::super::operand::{SCALE_LEN, plane_stride};
use super::*;

fn run(x: &[f32], rows: usize, cols: usize, forms: &str) -> (Memory, Forms) {
    let mut mem = Memory::new();
    let out = Forms::new(&mut mem, rows, cols, forms);
    let p = ToOperandParams { x: mem.upload(x), out: out.out, cols: cols as u32 };
    let (entry, shape) = launch(rows as u32, cols as u32, forms.contains('H'));
    mem.launch(&entry, shape, &p).unwrap();
    (mem, out)
}

fn check(rows: usize, cols: usize, forms: &str) {
    let x = numbers((rows * cols) as u32, rows * cols);
    let (mem, out) = run(&x, rows, cols, forms);
    let expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    out.check(&mem, &expected, (0.0, 0.0), &format!("{rows} x {cols} {forms}"));
}

#[test]
fn every_form_of_every_width() {
    for cols in [1, 31, 32, 33, 64, 127, 128, 576] {
        for forms in ["F", "I", "H", "FIH"] {
            check(1, cols, forms);
            check(3, cols, forms);
        }
    }
}

#[test]
fn rows_too_long_for_registers() {
    for cols in [15_360, 15_361, 20_000] {
        check(1, cols, "IH");
    }
}

/// The integer form as the CPU defines it, in plain steps.
fn quantize(x: &[f32], q: &mut Vec<i32>) -> f32 {
    let max = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let inverse = if max > 1e-33 { 32512.0 / max } else { 0.0 };
    q.extend(x.iter().map(|x| (x * inverse).round_ties_even() as i32));
    q.resize(q.len().next_multiple_of(SCALE_LEN), 0);
    max / 32512.0
}

#[test]
fn integers_are_those_of_the_cpu() {
    for (seed, size) in [(1, 1.0), (2, 1e-34), (3, 1e-38), (4, 1e36), (5, 3e-5)] {
        for cols in [33, 256] {
            let x: Vec<f32> = numbers(seed, 2 * cols).iter().map(|x| x * size).collect();
            let (mem, out) = run(&x, 2, cols, "I");
            let (mut q, mut scales) = (vec![], vec![]);
            for row in x.chunks(cols) {
                scales.extend(row.chunks(SCALE_LEN).map(|x| quantize(x, &mut q)));
            }
            assert_eq!(out.planes(&mem), q, "{size} {cols}");
            assert_eq!(mem.read::<f32>(out.out.scale), scales, "{size} {cols}");
        }
    }
}

#[test]
fn what_is_not_finite_poisons_its_32() {
    for poison in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 31, 40, 95] {
            let mut x = numbers(7, 96);
            x[at] = poison;
            let (mem, out) = run(&x, 1, 96, "IH");
            let scales: Vec<f32> = mem.read(out.out.scale);
            let sums: Vec<f32> = mem.read(out.out.sums);
            for (i, scale) in scales.iter().enumerate() {
                assert_eq!(scale.is_nan(), i == at / 32, "{poison} at {at}");
                assert_eq!(sums[2 * i].is_nan(), i == at / 32);
                assert_eq!(sums[2 * i + 1].is_nan(), i == at / 32);
            }
            let word = mem.read::<u32>(out.out.half)[at / 2];
            let half = half::f16::from_bits((word >> (16 * (at % 2))) as u16);
            assert!(!half.is_finite(), "{poison} at {at}: {half}");
        }
    }
}

#[test]
fn row_scales_are_the_least_that_hold_the_row() {
    let cases = [
        (0.0, 1.0),
        (1.0, 1.0),
        (32768.0, 1.0),
        (32768.004, 2.0),
        (65536.0, 2.0),
        (65537.0, 4.0),
        (-1e9, 32768.0),
        (f32::MAX, 2.0f32.powi(113)),
    ];
    for (greatest, scale) in cases {
        let mut x = vec![0.5; 40];
        x[37] = greatest;
        let (mem, out) = run(&x, 1, 40, "H");
        assert_eq!(mem.read::<f32>(out.out.row_scale), [scale], "{greatest}");
        let expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        out.check(&mem, &expected, (0.0, 0.0), "row scale");
    }
}

#[test]
fn planes_have_room_for_whole_groups() {
    assert_eq!([1, 32, 33].map(plane_stride), [32, 32, 64]);
}

#[test]
fn scale_and_cap() {
    for n in [1usize, 3, 4, 5, 1023, 1024, 1025] {
        for (scale, cap) in [(1.0f32, 30.0f32), (0.25, 0.0), (3.0, 50.0)] {
            let mut x = numbers(n as u32, n);
            if n > 4 {
                x[1] = 1e30;
                x[2] = f32::NEG_INFINITY;
                x[3] = f32::NAN;
            }
            let mut mem = Memory::new();
            let view = mem.upload_mut(&x);
            let p = ScaleCapParams { x: view, n: n as u32, scale, cap };
            mem.launch(&SCALE_CAP, scale_cap_launch(n as u32), &p).unwrap();
            for (&x, &found) in x.iter().zip(&mem.read::<f32>(view)) {
                let (s, c) = (f64::from(x) * f64::from(scale), f64::from(cap));
                let exact = if cap > 0.0 { c * (s / c).tanh() } else { s };
                let error = (f64::from(found) - exact).abs();
                // The bound of `math::tanh`, times the cap.
                let close = error <= 1e-6 * exact.abs() + 3e-7 * c;
                let same = f64::from(found) == exact || found.is_nan() && exact.is_nan();
                assert!(close || same, "{n} {scale} {cap}: {x} gave {found}, expected {exact}");
            }
        }
    }
}
