//! Against f64.

use std::format;
use std::vec;
use std::vec::Vec;

use cuda_std::emu::Memory;

use super::super::operand::testing::{Forms, numbers};
use super::*;

/// What differs between problems.
#[derive(Clone, Copy, Debug)]
struct Problem {
    rows: usize,
    cols: usize,
    y: bool,
    post_norm: bool,
    norm: bool,
    /// Rows of `x`, of which `rows` are chosen.
    select: Option<usize>,
    forms: &'static str,
}

const EPS: f32 = 1e-5;

fn rms_norm(x: &mut [f64], w: &[f32]) {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(EPS)).sqrt();
    for (x, &w) in x.iter_mut().zip(w) {
        *x *= factor * f64::from(w);
    }
}

fn check(problem: Problem) {
    let Problem { rows, cols, y, post_norm, norm, select, forms } = problem;
    let all = select.unwrap_or(rows);
    let chosen: Vec<u32> = (0..rows).map(|i| (all - rows + i) as u32).collect();
    let numbers = |seed| numbers(seed, all * cols);
    let (x, added) = (numbers(cols as u32), numbers(99));
    let weights = |seed| {
        let w = super::super::operand::testing::numbers(seed, cols);
        w.iter().map(|w| 1.0 + 0.25 * w.clamp(-1.0, 1.0)).collect::<Vec<_>>()
    };
    let (post_w, w) = (weights(5), weights(6));
    let scale = 0.75f32;

    let mut mem = Memory::new();
    let out = Forms::new(&mut mem, rows, cols, forms);
    let given = |yes: bool, mem: &mut Memory, data: &[f32]| {
        if yes { mem.upload(data) } else { Global::null() }
    };
    let p = ResidualNormParams {
        x: mem.upload_mut(&x),
        y: given(y, &mut mem, &added),
        post_norm: given(post_norm, &mut mem, &post_w),
        norm: given(norm, &mut mem, &w),
        select: if select.is_some() { mem.upload(&chosen) } else { Global::null() },
        out: out.out,
        cols: cols as u32,
        scale,
        post_eps: EPS,
        eps: EPS,
    };
    let (entry, shape) = launch(rows as u32, cols as u32);
    mem.launch(&entry, shape, &p).unwrap();

    let mut stream: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    // Sums of the stream cancel: what is left is as wrong as what was added.
    let mut largest: Vec<f64> = stream.iter().map(|x| x.abs()).collect();
    let mut expected = vec![];
    for &row in &chosen {
        let range = row as usize * cols..(row as usize + 1) * cols;
        if y {
            let mut d: Vec<f64> = added[range.clone()].iter().map(|&y| f64::from(y)).collect();
            if post_norm {
                rms_norm(&mut d, &post_w);
            }
            for (i, d) in range.clone().zip(d) {
                stream[i] += d * f64::from(scale);
                largest[i] = largest[i].max(d.abs());
            }
        }
        let mut row = stream[range].to_vec();
        if norm {
            rms_norm(&mut row, &w);
        }
        expected.append(&mut row);
    }
    let name = format!("{problem:?}");
    for (i, &found) in mem.read::<f32>(p.x).iter().enumerate() {
        let error = (f64::from(found) - stream[i]).abs();
        assert!(error <= 1e-6 * largest[i], "{name}: x {i} is {found}, expected {}", stream[i]);
    }
    check_nmse(&mem, &out, &expected, &name);
}

/// The error of all elements together: single ones cancel.
fn check_nmse(mem: &Memory, out: &Forms, expected: &[f64], name: &str) {
    if !out.out.float.is_null() {
        let found: Vec<f32> = mem.read(out.out.float);
        let error: f64 = found.iter().zip(expected).map(|(&f, x)| (f64::from(f) - x).powi(2)).sum();
        let size: f64 = expected.iter().map(|x| x * x).sum();
        assert!(error <= 1e-12 * size, "{name}: {}", error / size);
    }
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    out.check(mem, expected, (2e-6, 1e-6 * largest), name);
}

#[test]
fn every_width() {
    for cols in [1, 31, 32, 33, 64, 576, 4096] {
        let p = Problem {
            rows: 2,
            cols,
            y: true,
            post_norm: false,
            norm: true,
            select: None,
            forms: "FIH",
        };
        check(p);
        check(Problem { post_norm: true, ..p });
        check(Problem { y: false, forms: "I", ..p });
        check(Problem { norm: false, forms: "F", ..p });
    }
}

#[test]
fn more_runs_a_thread() {
    let p = Problem {
        rows: 1,
        cols: 4100,
        y: true,
        post_norm: true,
        norm: true,
        select: None,
        forms: "FIH",
    };
    for cols in [4100, 8192, 8196, 16_384] {
        check(Problem { cols, ..p });
    }
    for cols in [1500, 3000] {
        check(Problem { cols, rows: 64, forms: "H", ..p });
    }
}

#[test]
fn selected_rows_alone_are_changed() {
    for post_norm in [false, true] {
        check(Problem {
            rows: 2,
            cols: 96,
            y: true,
            post_norm,
            norm: true,
            select: Some(5),
            forms: "FI",
        });
    }
}

#[test]
fn adding_alone() {
    check(Problem {
        rows: 3,
        cols: 100,
        y: true,
        post_norm: true,
        norm: false,
        select: None,
        forms: "",
    });
}
