//! The gate of a gated MLP: `out = act(gate) · up`, as the input of the next product.

#[cfg(test)]
mod tests;

use cuda_std::{Global, Thread, kernels, math, params};

use super::operand::{OperandOut, load_run};
use super::row::MAX_THREADS;
use super::to_operand::{ROW_THREADS, Rows, SPREAD_THREADS, long, row, spread};

params! {
    /// Parameters of the gated activations.
    pub struct GatedParams {
        /// [rows, n], `stride` from row to row.
        pub gate: Global<f32>,
        /// The same.
        pub up: Global<f32>,
        /// [rows, n].
        pub out: OperandOut,
        /// Elements of a row.
        pub n: u32,
        /// Elements from a row of `gate` or `up` to the next: `n`, or `2n` where the two are halves of
        /// one matrix. Divisible by 4 if `n` is.
        pub stride: u32,
    }
}

kernels! {
    module "gated";
    /// `gate · sigmoid(gate) · up`: the forms but halves, a run of four elements a thread.
    pub GATED_SILU: gated_silu_f32(GatedParams), threads SPREAD_THREADS, ctas 1
        => gated_spread::<false>;
    /// All forms, a CTA a row that it keeps in registers.
    pub GATED_SILU_ROW: gated_silu_f32_row(GatedParams), threads ROW_THREADS, ctas 1
        => gated_row::<false>;
    /// All forms, a CTA a row that it computes twice.
    pub GATED_SILU_LONG: gated_silu_f32_long(GatedParams), threads MAX_THREADS, ctas 1
        => gated_long::<false>;
    /// With GELU by its tanh approximation: see [`GATED_SILU`].
    pub GATED_GELU: gated_gelu_f32(GatedParams), threads SPREAD_THREADS, ctas 1
        => gated_spread::<true>;
    /// See [`GATED_SILU_ROW`].
    pub GATED_GELU_ROW: gated_gelu_f32_row(GatedParams), threads ROW_THREADS, ctas 1
        => gated_row::<true>;
    /// See [`GATED_SILU_LONG`].
    pub GATED_GELU_LONG: gated_gelu_f32_long(GatedParams), threads MAX_THREADS, ctas 1
        => gated_long::<true>;
}

/// The kernel for `rows` rows of `n`, and its launch.
#[cfg(not(target_arch = "nvptx64"))]
pub fn launch(
    gelu: bool,
    rows: u32,
    n: u32,
    halves: bool,
) -> (cuda_std::Entry<GatedParams>, cuda_std::Launch) {
    use super::to_operand::RowWriter;

    let (writer, launch) = RowWriter::new(rows, n, halves);
    let entry = match (writer, gelu) {
        (RowWriter::Spread, false) => GATED_SILU,
        (RowWriter::Row, false) => GATED_SILU_ROW,
        (RowWriter::Long, false) => GATED_SILU_LONG,
        (RowWriter::Spread, true) => GATED_GELU,
        (RowWriter::Row, true) => GATED_GELU_ROW,
        (RowWriter::Long, true) => GATED_GELU_LONG,
    };
    (entry, launch)
}

#[inline(always)]
fn gated_spread<const GELU: bool>(t: Thread, p: &GatedParams) {
    spread(t, &p.out, p.n, Gated::<GELU>(p));
}
#[inline(always)]
fn gated_row<const GELU: bool>(t: Thread, p: &GatedParams) {
    row(t, &p.out, p.n, Gated::<GELU>(p));
}
#[inline(always)]
fn gated_long<const GELU: bool>(t: Thread, p: &GatedParams) {
    long(t, &p.out, p.n, Gated::<GELU>(p));
}

#[derive(Clone, Copy)]
struct Gated<'a, const GELU: bool>(&'a GatedParams);

impl<const GELU: bool> Rows for Gated<'_, GELU> {
    #[inline(always)]
    fn run(self, row: u32, run: u32) -> [f32; 4] {
        let p = self.0;
        let start = row as usize * p.stride as usize;
        let gate = load_run(p.gate, start, p.n, run);
        let up = load_run(p.up, start, p.n, run);
        let act = gate.map(|x| if GELU { gelu_tanh(x) } else { silu(x) });
        [act[0] * up[0], act[1] * up[1], act[2] * up[2], act[3] * up[3]]
    }
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    math::div(x, 1.0 + math::exp(-x))
}

/// GELU by its tanh approximation, `x / 2 · (1 + tanh(u)) = x · sigmoid(2u)`. Source: Hendrycks &
/// Gimpel 2016.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_8_OVER_PI: f32 = 1.595_769_2;
    let u2 = SQRT_8_OVER_PI * x * math::fma(0.044715 * x, x, 1.0);
    math::div(x, 1.0 + math::exp(-u2))
}
