//! The step from one block of a decoder to the next: add what the block made to the stream, and norm
//! the sum as the input of the next product.
//!
//! ```text
//! d   = post_norm ? rms_norm(y, post_norm) : y
//! x  += d · scale
//! out = norm ? rms_norm(x, norm) : x
//! rms_norm(v, w) = v · w / sqrt(mean(v²) + eps)
//! ```
//! Source of the norm: Zhang & Sennrich 2019, equation 4.

#[cfg(test)]
mod tests;

use cuda_std::{Global, GlobalMut, Thread, kernels, math, params};

use super::operand::{OperandOut, load_run, store_run};
use super::row::{MAX_THREADS, RowShape, WIDE_THREADS, each, row_sum, run, write_row};

params! {
    /// Parameters of [`RESIDUAL_NORM_R1`] and its like.
    pub struct ResidualNormParams {
        /// The stream, [any, cols]; changed in the rows concerned.
        pub x: GlobalMut<f32>,
        /// What to add, [any, cols], or null. Its rows are those of `x`.
        pub y: Global<f32>,
        /// [cols], or null: weight of a norm of `y`.
        pub post_norm: Global<f32>,
        /// [cols], or null: weight of the norm that makes `out`.
        pub norm: Global<f32>,
        /// [rows], or null: row `i` of `out` comes from row `select[i]` of `x`, each another one.
        pub select: Global<u32>,
        /// [rows, cols].
        pub out: OperandOut,
        /// Elements of a row, at most [`RowShape::MAX_COLS`].
        pub cols: u32,
        /// Multiplies what is added.
        pub scale: f32,
        /// Added to the mean of squares in the norm of `y`.
        pub post_eps: f32,
        /// The same in the norm that makes `out`.
        pub eps: f32,
    }
}

kernels! {
    module "residual_norm";
    /// A CTA a row, a run of four elements a thread.
    pub RESIDUAL_NORM_R1: residual_norm_f32_r1(ResidualNormParams), threads MAX_THREADS, ctas 1
        => residual_norm::<1>;
    /// Two runs.
    pub RESIDUAL_NORM_R2: residual_norm_f32_r2(ResidualNormParams), threads MAX_THREADS, ctas 1
        => residual_norm::<2>;
    /// Four runs.
    pub RESIDUAL_NORM_R4: residual_norm_f32_r4(ResidualNormParams), threads WIDE_THREADS, ctas 1
        => residual_norm::<4>;
    /// Eight runs.
    pub RESIDUAL_NORM_R8: residual_norm_f32_r8(ResidualNormParams), threads WIDE_THREADS, ctas 1
        => residual_norm::<8>;
}

/// The kernel for `rows` rows of `cols`, and its launch.
#[cfg(not(target_arch = "nvptx64"))]
pub fn launch(rows: u32, cols: u32) -> (cuda_std::Entry<ResidualNormParams>, cuda_std::Launch) {
    let shape = RowShape::new(rows, cols);
    let entry = match shape.per_thread {
        1 => RESIDUAL_NORM_R1,
        2 => RESIDUAL_NORM_R2,
        4 => RESIDUAL_NORM_R4,
        _ => RESIDUAL_NORM_R8,
    };
    (entry, cuda_std::Launch::linear(rows, shape.threads))
}

/// Whether rows of `cols` fit the registers of a CTA.
pub const fn supports(cols: u32) -> bool {
    0 < cols && cols <= RowShape::MAX_COLS
}

#[inline(always)]
fn residual_norm<const R: usize>(t: Thread, p: &ResidualNormParams) {
    t.launch_next_kernel();
    let scratch = t.static_shared::<f32, { 3 * 32 * 4 }>();
    let cols = p.cols;
    // Weights do not depend on other kernels: they are under way while those end. With more runs they
    // would take the registers of the row.
    let early = R <= 2;
    let mut w = [[0.0f32; 4]; R];
    if early && !p.norm.is_null() {
        each!(i < R => {
            w[i] = load_run(p.norm, 0, cols, run(t, i));
        });
    }
    t.wait_for_previous_kernel();
    let mut row = t.cta_id();
    if !p.select.is_null() {
        row = p.select.get(row as usize);
    }
    let start = row as usize * cols as usize;

    let mut x = [[0.0f32; 4]; R];
    if p.y.is_null() {
        each!(i < R => {
            x[i] = load_run(p.x.read(), start, cols, run(t, i));
        });
    } else {
        if p.post_norm.is_null() {
            each!(i < R => {
                let y = load_run(p.y, start, cols, run(t, i));
                x[i] = sum(load_run(p.x.read(), start, cols, run(t, i)), y, p.scale);
            });
        } else {
            each!(i < R => {
                x[i] = load_run(p.y, start, cols, run(t, i));
            });
            let squares = row_sum(t, sum_squares(&x), scratch);
            let factor = inverse_rms(squares, cols, p.post_eps);
            each!(i < R => {
                let y = scaled(x[i], load_run(p.post_norm, 0, cols, run(t, i)), factor);
                x[i] = sum(load_run(p.x.read(), start, cols, run(t, i)), y, p.scale);
            });
        }
        each!(i < R => {
            store_run(p.x, start, cols, run(t, i), x[i]);
        });
    }
    if !p.norm.is_null() {
        let squares = row_sum(t, sum_squares(&x), scratch.at(32));
        let factor = inverse_rms(squares, cols, p.eps);
        each!(i < R => {
            let w = if early { w[i] } else { load_run(p.norm, 0, cols, run(t, i)) };
            x[i] = scaled(x[i], w, factor);
        });
    }
    write_row(t, &p.out, t.cta_id(), cols, &x, scratch.at(64));
}

#[inline(always)]
fn sum_squares<const R: usize>(v: &[[f32; 4]; R]) -> f32 {
    let mut sums = [0.0f32; 4];
    each!(i < R => {
        let mut j = 0;
        while j < 4 {
            sums[j] = math::fma(v[i][j], v[i][j], sums[j]);
            j += 1;
        }
    });
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// `x + y · scale`.
#[inline(always)]
fn sum(x: [f32; 4], y: [f32; 4], scale: f32) -> [f32; 4] {
    let add = |i: usize| math::fma(y[i], scale, x[i]);
    [add(0), add(1), add(2), add(3)]
}

#[inline(always)]
fn inverse_rms(sum: f32, cols: u32, eps: f32) -> f32 {
    math::rsqrt(math::div(sum, cols as f32) + eps)
}

#[inline(always)]
fn scaled(v: [f32; 4], w: [f32; 4], factor: f32) -> [f32; 4] {
    [v[0] * factor * w[0], v[1] * factor * w[1], v[2] * factor * w[2], v[3] * factor * w[3]]
}
