//! A row dealt out to the threads of one CTA: how many they are, what they add up, how they write it.

use cuda_std::thread::WARP;
use cuda_std::{Shared, Thread, math};

use super::operand::{OperandOut, RowScale, runs};

/// Threads of a CTA, at most.
pub const MAX_THREADS: u32 = 1024;
/// Threads of a CTA that keeps four or eight runs a thread, at most: 128 registers each.
pub const WIDE_THREADS: u32 = 512;

/// Repeats the block for each `$i` below `$n`, at most 8, as so many blocks: a loop whose body is large
/// stays a loop, and then indexes registers at run time.
macro_rules! each {
    ($i:ident < $n:expr => $body:block) => {
        each!(@ $i $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident $n:expr, $body:block, $($k:literal)*) => {
        $(if $k < $n {
            let $i: usize = $k;
            $body
        })*
    };
}
pub(super) use each;

/// How a CTA takes a row: `per_thread` runs of four elements a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowShape {
    /// 1, 2, 4 or 8.
    pub per_thread: u32,
    /// Whole warps.
    pub threads: u32,
}

impl RowShape {
    /// Longest row.
    pub const MAX_COLS: u32 = 4 * 8 * WIDE_THREADS;

    /// For rows of `cols`.
    pub const fn new(rows: u32, cols: u32) -> Self {
        // Few rows leave most multiprocessors idle: all threads that one can take share the work.
        // With many, small CTAs overlap each other's barriers.
        let wished = if rows < 64 { MAX_THREADS } else { 256 };
        let mut per_thread = 1;
        while per_thread < 8 && runs(cols).div_ceil(per_thread) > wished {
            // Two runs are the most with all threads.
            per_thread *= if per_thread == 2 && wished == MAX_THREADS { 4 } else { 2 };
        }
        let threads = runs(cols).div_ceil(per_thread).next_multiple_of(WARP);
        Self { per_thread, threads }
    }
}

/// Sum over the CTA, the same in each thread, in a fixed order. `scratch` holds a word for each warp
/// and is not used for anything else.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn row_sum(t: Thread, value: f32, scratch: Shared<f32>) -> f32 {
    let sum = t.warp_sum(value);
    if t.lane() == 0 {
        scratch.set(t.warp(), sum);
    }
    t.sync();
    // Each warp adds up all sums for itself: no second barrier, and five steps instead of 32.
    let warps = t.count() / WARP;
    t.warp_sum(if t.lane() < warps { scratch.get(t.lane()) } else { 0.0 })
}

/// Maximum over the CTA of numbers that are not negative; see [`row_sum`]. NaN is passed over.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn row_max(t: Thread, value: f32, scratch: Shared<f32>) -> f32 {
    let max = t.warp_max(value);
    if t.lane() == 0 {
        scratch.set(t.warp(), max);
    }
    t.sync();
    let warps = t.count() / WARP;
    t.warp_max(if t.lane() < warps { scratch.get(t.lane()) } else { 0.0 })
}

/// Writes a row that a CTA holds, run [`run`] of `i` in `x[i]`, to the forms wanted. `scratch` holds a
/// word for each warp.
#[inline(always)]
pub fn write_row<const R: usize>(
    t: Thread,
    out: &OperandOut,
    row: u32,
    cols: u32,
    x: &[[f32; 4]; R],
    scratch: Shared<f32>,
) {
    each!(i < R => {
        out.write_run(t, row, cols, run(t, i), x[i]);
    });
    if !out.wants_half() {
        return;
    }
    let mut greatest = 0.0;
    each!(i < R => {
        greatest = max_magnitude(greatest, x[i]);
    });
    let scale = RowScale::new(row_max(t, greatest, scratch));
    each!(i < R => {
        out.write_half_run(row, cols, run(t, i), x[i], scale);
    });
    if t.id() == 0 {
        out.write_row_scale(row, scale);
    }
}

/// The greatest of `greatest` and the magnitudes of `x`; NaN is passed over.
#[inline(always)]
pub fn max_magnitude(greatest: f32, x: [f32; 4]) -> f32 {
    let low = math::max(math::abs(x[0]), math::abs(x[1]));
    let high = math::max(math::abs(x[2]), math::abs(x[3]));
    math::max(greatest, math::max(low, high))
}

/// Index in the row of a thread's `i`th run.
#[inline(always)]
pub fn run(t: Thread, i: usize) -> u32 {
    t.id() + i as u32 * t.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_hold_their_rows() {
        for rows in [1, 63, 64, 2048] {
            for cols in [1, 31, 32, 33, 576, 4096, 4097, 8192, 16383, RowShape::MAX_COLS] {
                let shape = RowShape::new(rows, cols);
                let most = if shape.per_thread > 2 { WIDE_THREADS } else { MAX_THREADS };
                assert!(shape.threads <= most, "{rows} x {cols}: {shape:?}");
                assert!(shape.threads.is_multiple_of(WARP));
                assert!(4 * shape.per_thread * shape.threads >= cols, "{rows} x {cols}: {shape:?}");
            }
        }
        assert_eq!(RowShape::new(1, 4096), RowShape { per_thread: 1, threads: 1024 });
        assert_eq!(RowShape::new(512, 4096), RowShape { per_thread: 4, threads: 256 });
    }
}
