//! Against f64.

use std::format;
use std::vec::Vec;

use cuda_std::emu::Memory;

use super::super::operand::testing::{Forms, numbers};
use super::*;

fn exact(gelu: bool, x: f64) -> f64 {
    if gelu {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        // 1 + tanh without cancellation.
        x / (1.0 + (-2.0 * inner).exp())
    } else {
        x / (1.0 + (-x).exp())
    }
}

fn check(gelu: bool, rows: usize, n: usize, joined: bool, forms: &str) {
    let stride = if joined { 2 * n } else { n };
    let mut gate = numbers(n as u32, rows * stride);
    gate.iter_mut().for_each(|x| *x *= 4.0);
    let up = numbers(3, rows * n);
    if joined {
        for row in 0..rows {
            gate[row * stride + n..][..n].copy_from_slice(&up[row * n..][..n]);
        }
    }
    let mut mem = Memory::new();
    let out = Forms::new(&mut mem, rows, n, forms);
    let gates = mem.upload(&gate);
    let ups = if joined { gates.at(n) } else { mem.upload(&up) };
    let p = GatedParams { gate: gates, up: ups, out: out.out, n: n as u32, stride: stride as u32 };
    let (entry, shape) = launch(gelu, rows as u32, n as u32, forms.contains('H'));
    mem.launch(&entry, shape, &p).unwrap();
    let expected: Vec<f64> = (0..rows * n)
        .map(|i| exact(gelu, f64::from(gate[i / n * stride + i % n])) * f64::from(up[i]))
        .collect();
    // The exponential of a number near 100 is good to 100 units in the last place of its argument.
    out.check(&mem, &expected, (2e-5, 1e-37), &format!("{gelu} {rows} x {n} {joined} {forms}"));
}

#[test]
fn every_form_of_every_width() {
    for gelu in [false, true] {
        for n in [1, 31, 32, 33, 96, 576] {
            for forms in ["F", "I", "FIH"] {
                check(gelu, 2, n, false, forms);
                check(gelu, 2, n, true, forms);
            }
        }
    }
}

#[test]
fn long_rows() {
    check(false, 1, 12_288, false, "I");
    check(false, 1, 12_288, true, "H");
    check(true, 1, 15_364, false, "IH");
}

#[test]
fn far_from_zero() {
    let ends = [-1e30f32, -1e10, -101.0, -99.0, -60.0, 60.0, 99.0, 101.0, 1e10, 1e30];
    for x in ends {
        for (found, exact) in
            [(silu(x), exact(false, x.into())), (gelu_tanh(x), exact(true, x.into()))]
        {
            let error = (f64::from(found) - exact).abs();
            assert!(error <= 2e-5 * exact.abs() + 1e-37, "{x}: {found}, expected {exact}");
        }
    }
    assert!(silu(f32::NAN).is_nan());
    assert!(gelu_tanh(f32::NAN).is_nan());
    assert_eq!(silu(f32::INFINITY), f32::INFINITY);
}
