//! Rows of F32 as the input of a product, and what else is done to single elements.

#[cfg(test)]
mod tests;

use cuda_std::{Global, GlobalMut, Launch, Shared, Thread, kernels, math, params};

use super::operand::{OperandOut, RowScale, load_run, runs};
use super::row::{MAX_THREADS, each, max_magnitude, row_max, run, write_row};

/// Threads of a CTA where runs do not depend on each other: four warps, so that a row of a decode step
/// is spread over many multiprocessors.
pub const SPREAD_THREADS: u32 = 128;
/// Runs that a thread keeps where a CTA takes a row.
pub const KEPT: u32 = 5;
/// Threads of a CTA that takes a row, at most: rows up to 15360, with 80 registers a thread. The 72 of
/// 896 threads are too few for GELU.
pub const ROW_THREADS: u32 = 768;

params! {
    /// Parameters of the conversions.
    pub struct ToOperandParams {
        /// [rows, cols].
        pub x: Global<f32>,
        /// [rows, cols].
        pub out: OperandOut,
        /// Elements of a row.
        pub cols: u32,
    }
}

params! {
    /// Parameters of [`SCALE_CAP`].
    pub struct ScaleCapParams {
        /// [n], changed in place.
        pub x: GlobalMut<f32>,
        /// Elements.
        pub n: u32,
        /// Multiplies each.
        pub scale: f32,
        /// Greatest magnitude of the result; 0 for none.
        pub cap: f32,
    }
}

kernels! {
    module "to_operand";
    /// The forms but halves, a run of four elements a thread.
    pub TO_OPERAND: to_operand_f32(ToOperandParams), threads SPREAD_THREADS, ctas 1
        => to_operand_spread;
    /// All forms, a CTA a row that it keeps in registers.
    pub TO_OPERAND_ROW: to_operand_f32_row(ToOperandParams), threads ROW_THREADS, ctas 1
        => to_operand_row;
    /// All forms, a CTA a row that it reads twice.
    pub TO_OPERAND_LONG: to_operand_f32_long(ToOperandParams), threads MAX_THREADS, ctas 1
        => to_operand_long;
    /// `x = cap · tanh(x · scale / cap)`, or `x · scale` without a cap.
    pub SCALE_CAP: scale_cap_f32(ScaleCapParams), threads 256, ctas 1 => scale_cap;
}

/// Which kernel writes rows of something to an operand, and its launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowWriter {
    /// Each run by itself.
    Spread,
    /// A CTA a row, kept in registers.
    Row,
    /// A CTA a row, read twice.
    Long,
}

impl RowWriter {
    /// For `rows` rows of `cols`; halves need the magnitude of the row first.
    pub const fn new(rows: u32, cols: u32, halves: bool) -> (Self, Launch) {
        if !halves {
            let ctas = runs(cols).div_ceil(SPREAD_THREADS);
            return (Self::Spread, Launch::plane(ctas, rows, SPREAD_THREADS));
        }
        let threads = runs(cols).div_ceil(KEPT).next_multiple_of(32);
        if threads <= ROW_THREADS {
            (Self::Row, Launch::linear(rows, threads))
        } else {
            (Self::Long, Launch::linear(rows, MAX_THREADS))
        }
    }
}

/// The kernel that converts `rows` rows of `cols`, and its launch.
#[cfg(not(target_arch = "nvptx64"))]
pub fn launch(rows: u32, cols: u32, halves: bool) -> (cuda_std::Entry<ToOperandParams>, Launch) {
    let (writer, launch) = RowWriter::new(rows, cols, halves);
    let entry = match writer {
        RowWriter::Spread => TO_OPERAND,
        RowWriter::Row => TO_OPERAND_ROW,
        RowWriter::Long => TO_OPERAND_LONG,
    };
    (entry, launch)
}

/// The launch of [`SCALE_CAP`] on `n` elements.
pub const fn scale_cap_launch(n: u32) -> Launch {
    Launch::linear(n.div_ceil(4 * 256), 256)
}

#[inline(always)]
fn to_operand_spread(t: Thread, p: &ToOperandParams) {
    spread(t, &p.out, p.cols, Plain(p));
}
#[inline(always)]
fn to_operand_row(t: Thread, p: &ToOperandParams) {
    row(t, &p.out, p.cols, Plain(p));
}
#[inline(always)]
fn to_operand_long(t: Thread, p: &ToOperandParams) {
    long(t, &p.out, p.cols, Plain(p));
}

/// What rows are computed from.
pub trait Rows: Copy {
    /// Run `run` of row `row`: zeros past its end.
    fn run(self, row: u32, run: u32) -> [f32; 4];
}

#[derive(Clone, Copy)]
struct Plain<'a>(&'a ToOperandParams);

impl Rows for Plain<'_> {
    #[inline(always)]
    fn run(self, row: u32, run: u32) -> [f32; 4] {
        load_run(self.0.x, row as usize * self.0.cols as usize, self.0.cols, run)
    }
}

/// Writes the forms but halves; see [`RowWriter::Spread`].
#[inline(always)]
pub fn spread<S: Rows>(t: Thread, out: &OperandOut, cols: u32, source: S) {
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let run = t.cta_id() * t.count() + t.id();
    out.write_run(t, t.cta_id_y(), cols, run, source.run(t.cta_id_y(), run));
}

/// Writes all forms; see [`RowWriter::Row`].
#[inline(always)]
pub fn row<S: Rows>(t: Thread, out: &OperandOut, cols: u32, source: S) {
    let scratch: Shared<f32> = t.static_shared::<f32, { 32 * 4 }>();
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let mut x = [[0.0f32; 4]; KEPT as usize];
    each!(i < KEPT as usize => {
        x[i] = source.run(t.cta_id(), run(t, i));
    });
    write_row(t, out, t.cta_id(), cols, &x, scratch);
}

/// Writes all forms; see [`RowWriter::Long`].
#[inline(always)]
pub fn long<S: Rows>(t: Thread, out: &OperandOut, cols: u32, source: S) {
    let scratch: Shared<f32> = t.static_shared::<f32, { 32 * 4 }>();
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let row = t.cta_id();
    let mut greatest = 0.0;
    let mut run = t.id();
    while run < runs(cols) {
        greatest = max_magnitude(greatest, source.run(row, run));
        run += t.count();
    }
    let scale = RowScale::new(row_max(t, greatest, scratch));
    let mut first = 0;
    // All threads go on together, since lanes share scales.
    while first < runs(cols) {
        let run = first + t.id();
        let x = source.run(row, run);
        out.write_run(t, row, cols, run, x);
        out.write_half_run(row, cols, run, x, scale);
        first += t.count();
    }
    if t.id() == 0 {
        out.write_row_scale(row, scale);
    }
}

#[inline(always)]
fn scale_cap(t: Thread, p: &ScaleCapParams) {
    t.launch_next_kernel();
    t.wait_for_previous_kernel();
    let first = 4 * (t.cta_id() * t.count() + t.id());
    let whole = first + 4 <= p.n;
    let mut i = 0;
    if whole {
        let view = p.x.at(first as usize).cast::<[f32; 4]>();
        view.set(0, view.get(0).map(|x| capped(x, p)));
    } else {
        while first + i < p.n {
            let at = (first + i) as usize;
            p.x.set(at, capped(p.x.get(at), p));
            i += 1;
        }
    }
}

#[inline(always)]
fn capped(x: f32, p: &ScaleCapParams) -> f32 {
    let x = x * p.scale;
    if p.cap > 0.0 { p.cap * math::tanh(math::div(x, p.cap)) } else { x }
}
