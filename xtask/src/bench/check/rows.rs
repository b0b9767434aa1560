//! Kernels on rows: conversions, norms, gates, caps.

use cuda_std::Global;
use gpu_kernels::kernels::gated::{self, GatedParams};
use gpu_kernels::kernels::residual_norm::{self, ResidualNormParams};
use gpu_kernels::kernels::to_operand::{
    self, SCALE_CAP, ScaleCapParams, ToOperandParams, scale_cap_launch,
};

use super::super::bed::BedError;
use super::super::operand::{Forms, Wanted};
use super::super::reference::{gelu_tanh, rms_norm, silu};
use super::{Checker, ELEMENT, HALF, wide};

pub fn check(c: &mut Checker<'_>) -> Result<(), BedError> {
    conversions(c)?;
    gates(c)?;
    norms(c)?;
    caps(c)
}

/// Widths that fill neither lanes nor runs, and those of models.
const WIDTHS: [usize; 9] = [576, 1, 31, 32, 33, 127, 1024, 4096, 12288];

/// Shapes for kernels that spread rows, keep them in registers, or read them twice.
fn shapes(c: &Checker<'_>) -> Vec<(usize, usize, Wanted)> {
    let mut shapes = vec![];
    for &cols in c.some(&WIDTHS) {
        for &rows in c.some(&[3usize, 1, 65]) {
            shapes.extend([(rows, cols, Wanted::SPREAD), (rows, cols, Wanted::ALL)]);
        }
    }
    for &cols in c.some(&[20_000usize, 15_361]) {
        shapes.push((2, cols, Wanted::ALL));
    }
    shapes
}

fn judge(
    c: &mut Checker<'_>,
    entry: &'static str,
    problem: &str,
    forms: &Forms,
    expected: &[f64],
) -> Result<(), BedError> {
    for (name, found) in forms.read(c.bed)? {
        let bound = if name == "halves" { HALF } else { ELEMENT };
        c.judge(entry, name, problem, (&found, expected), bound);
    }
    Ok(())
}

fn conversions(c: &mut Checker<'_>) -> Result<(), BedError> {
    for (rows, cols, wanted) in shapes(c) {
        let x = c.random.activations(rows * cols);
        let forms = Forms::new(c.bed, rows, cols, wanted)?;
        let p = ToOperandParams { x: c.bed.upload(&x)?, out: forms.out, cols: cols as u32 };
        let (entry, launch) = to_operand::launch(rows as u32, cols as u32, wanted.half);
        c.bed.run(&entry, launch, &p)?;
        judge(c, entry.info.name, &format!("{rows} x {cols}"), &forms, &wide(&x))?;
    }
    Ok(())
}

fn gates(c: &mut Checker<'_>) -> Result<(), BedError> {
    for (rows, n, wanted) in shapes(c) {
        for gelu in [false, true] {
            for &joined in c.some(&[true, false]) {
                // Halves of one matrix, or two.
                let stride = if joined { 2 * n } else { n };
                let gate = c.random.activations(rows * stride);
                let up = c.random.activations(rows * stride);
                let (gates, ups) = (c.bed.upload(&gate)?, c.bed.upload(&up)?);
                let (ups, up) =
                    if joined { (gates.at(n), &gate[n..]) } else { (ups, up.as_slice()) };
                let forms = Forms::new(c.bed, rows, n, wanted)?;
                let (n32, stride32) = (n as u32, stride as u32);
                let p =
                    GatedParams { gate: gates, up: ups, out: forms.out, n: n32, stride: stride32 };
                let (entry, launch) = gated::launch(gelu, rows as u32, n32, wanted.half);
                c.bed.run(&entry, launch, &p)?;
                let act = if gelu { gelu_tanh } else { silu };
                let expected: Vec<f64> = (0..rows * n)
                    .map(|i| i / n * stride + i % n)
                    .map(|i| act(f64::from(gate[i])) * f64::from(up[i]))
                    .collect();
                let problem = format!("{rows} x {n}, joined {joined}");
                judge(c, entry.info.name, &problem, &forms, &expected)?;
            }
        }
    }
    Ok(())
}

/// A step of the stream.
#[derive(Clone, Copy, Debug)]
struct Step {
    rows: usize,
    cols: usize,
    /// Whether something is added, and normed before.
    y: bool,
    post_norm: bool,
    norm: bool,
    /// Whether only some rows are wanted, in another order.
    select: bool,
}

fn norms(c: &mut Checker<'_>) -> Result<(), BedError> {
    // A width for each number of runs a thread keeps, then those that fill nothing.
    let shapes = [
        (2usize, 4096usize),
        (2, 8192),
        (70, 3000),
        (2, 16_384),
        (1, 1),
        (2, 31),
        (3, 33),
        (1, 1024),
        (64, 1024),
        (70, 4096),
        (5, 4100),
    ];
    let shapes = if c.small { &shapes[..4] } else { &shapes[..] };
    for &(rows, cols) in shapes {
        let base = Step { rows, cols, y: true, post_norm: false, norm: true, select: false };
        let steps = [
            Step { post_norm: true, select: true, ..base },
            base,
            Step { y: false, ..base },
            Step { norm: false, ..base },
            Step { select: true, ..base },
            Step { post_norm: true, norm: false, ..base },
        ];
        for step in c.some(&steps).to_vec() {
            norm(c, step)?;
        }
    }
    Ok(())
}

fn norm(c: &mut Checker<'_>, step: Step) -> Result<(), BedError> {
    const EPS: f32 = 1e-5;
    const SCALE: f32 = 0.75;
    let Step { rows, cols, y, post_norm, norm, select } = step;
    let all = if select { rows + 3 } else { rows };
    let chosen = match select {
        true => c.random.order(all)[..rows].to_vec(),
        false => (0..rows as u32).collect(),
    };
    let (x, added) = (c.random.activations(all * cols), c.random.activations(all * cols));
    let mut weights = || c.random.numbers(cols, 0.5).iter().map(|w| 1.0 + w).collect::<Vec<_>>();
    let (post_w, w) = (weights(), weights());
    let bed = c.bed;
    let given = |yes: bool, data: &[f32]| if yes { bed.upload(data) } else { Ok(Global::null()) };
    let forms = Forms::new(bed, rows, cols, Wanted::ALL)?;
    let p = ResidualNormParams {
        x: bed.upload_mut(&x)?,
        y: given(y, &added)?,
        post_norm: given(post_norm, &post_w)?,
        norm: given(norm, &w)?,
        select: if select { bed.upload(&chosen)? } else { Global::null() },
        out: forms.out,
        cols: cols as u32,
        scale: SCALE,
        post_eps: EPS,
        eps: EPS,
    };
    let (entry, launch) = residual_norm::launch(rows as u32, cols as u32);
    bed.run(&entry, launch, &p)?;

    let mut stream = wide(&x);
    let mut expected = vec![];
    for &row in &chosen {
        let range = row as usize * cols..(row as usize + 1) * cols;
        if y {
            let mut d = wide(&added[range.clone()]);
            if post_norm {
                rms_norm(&mut d, &post_w, EPS.into());
            }
            let scaled = d.iter().map(|d| d * f64::from(SCALE));
            stream[range.clone()].iter_mut().zip(scaled).for_each(|(x, d)| *x += d);
        }
        let mut row = stream[range].to_vec();
        if norm {
            rms_norm(&mut row, &w, EPS.into());
        }
        expected.append(&mut row);
    }
    let (name, problem) = (entry.info.name, format!("{step:?}"));
    let found = wide(&bed.read(p.x, all * cols)?);
    c.judge(name, "stream", &problem, (&found, &stream), ELEMENT);
    judge(c, name, &problem, &forms, &expected)
}

fn caps(c: &mut Checker<'_>) -> Result<(), BedError> {
    for &n in c.some(&[1025usize, 1, 3, 1024, 151_936]) {
        for (scale, cap) in [(1.0f32, 30.0f32), (0.25, 0.0)] {
            let x = c.random.activations(n);
            let view = c.bed.upload_mut(&x)?;
            let p = ScaleCapParams { x: view, n: n as u32, scale, cap };
            c.bed.run(&SCALE_CAP, scale_cap_launch(n as u32), &p)?;
            let cap = f64::from(cap);
            let capped = |x: f64| if cap > 0.0 { cap * (x / cap).tanh() } else { x };
            let expected: Vec<f64> =
                x.iter().map(|x| capped(f64::from(*x) * f64::from(scale))).collect();
            let found = wide(&c.bed.read(view, n)?);
            let problem = format!("{n}, cap {cap}");
            c.judge(SCALE_CAP.info.name, "F32", &problem, (&found, &expected), ELEMENT);
        }
    }
    Ok(())
}
