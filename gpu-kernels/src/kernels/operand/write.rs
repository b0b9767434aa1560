//! How a kernel writes the forms of an operand.
//!
//! A row is dealt out to threads in runs of four elements: lane by lane, so that eight lanes hold the
//! 32 that share a scale, and a warp reads and writes whole lines. [`OperandOut::write_run`] writes the
//! forms that need no more than the 32; the halves need the magnitude of the row first
//! ([`RowScale`]), then [`OperandOut::write_half_run`]. A kernel that holds accumulators of a matrix
//! instruction has [`OperandOut::write_fragment`] and [`OperandOut::write_half_pair`].
//!
//! The integer form is that of the CPU, bit for bit.

use cuda_std::{Global, GlobalMut, Thread, math};

use super::{OperandOut, half_stride, plane_stride};

/// Elements of a run.
pub const RUN: u32 = 4;

/// Runs of a row of `cols`, padding of the planes included.
#[inline(always)]
pub const fn runs(cols: u32) -> u32 {
    plane_stride(cols) / RUN
}

/// Run `run` of a row of `cols` elements that begins at element `start`; zeros past its end.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn load_run(x: Global<f32>, start: usize, cols: u32, run: u32) -> [f32; 4] {
    let first = RUN * run;
    let row = x.at(start + first as usize);
    let mut v = [0.0; 4];
    if cols.is_multiple_of(RUN) {
        if first < cols {
            v = row.cast::<[f32; 4]>().get(0);
        }
    } else {
        // Rows of such a width are not aligned.
        let mut i = 0;
        while i < 4 {
            if first + (i as u32) < cols {
                v[i] = row.get(i);
            }
            i += 1;
        }
    }
    v
}

/// Stores what [`load_run`] loads; what lies past the end of the row is left out.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn store_run(x: GlobalMut<f32>, start: usize, cols: u32, run: u32, v: [f32; 4]) {
    let first = RUN * run;
    let row = x.at(start + first as usize);
    if cols.is_multiple_of(RUN) {
        if first < cols {
            row.cast::<[f32; 4]>().set(0, v);
        }
    } else {
        let mut i = 0;
        while i < 4 {
            if first + (i as u32) < cols {
                row.set(i, v[i]);
            }
            i += 1;
        }
    }
}

/// Bits of `|x|`: they order as the magnitudes do, and anything not finite comes last.
#[inline(always)]
pub fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}
const INFINITE: u32 = f32::INFINITY.to_bits();

/// The steps in which 32 activations are counted.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Width of a step; NaN where the 32 hold anything that is not finite.
    pub scale: f32,
    inverse: f32,
}

impl Steps {
    /// Most steps to either side: the greatest number whose high byte is at most 127.
    const MOST: f32 = 127.0 * 256.0;
    /// Adding 1.5 · 2²³ leaves the nearest integer (ties to even) in the low bits.
    const ROUND: f32 = 12_582_912.0;

    /// For the greatest [`magnitude`] of the 32.
    #[inline(always)]
    pub fn new(greatest: u32) -> Self {
        let magnitude = f32::from_bits(greatest);
        // Below this the quotient overflows; such activations are zero to every digit that matters.
        let inverse = if magnitude > 1e-33 { math::div(Self::MOST, magnitude) } else { 0.0 };
        let scale = if greatest < INFINITE { math::div(magnitude, Self::MOST) } else { f32::NAN };
        Self { scale, inverse }
    }
    /// `x` in steps: a signed number in the low 16 bits, the bits of [`Self::ROUND`] above.
    #[inline(always)]
    pub fn count(self, x: f32) -> u32 {
        (x * self.inverse + Self::ROUND).to_bits()
    }
    /// The sum of four counts, as a number.
    #[inline(always)]
    pub fn sum(q: [u32; 4]) -> i32 {
        let sum = q[0].wrapping_add(q[1]).wrapping_add(q[2]).wrapping_add(q[3]);
        sum.wrapping_sub(Self::ROUND.to_bits().wrapping_mul(4)) as i32
    }
    /// The low bytes of four counts.
    #[inline(always)]
    pub fn low(q: [u32; 4]) -> u32 {
        bytes(q, 0x0040)
    }
    /// The high bytes of four counts: `(count − low) / 256`, where `low` is signed.
    #[inline(always)]
    pub fn high(q: [u32; 4]) -> u32 {
        bytes(q.map(|q| q.wrapping_add(128)), 0x0051)
    }
}

/// Byte `selector & 7` of each.
#[inline(always)]
fn bytes(q: [u32; 4], selector: u32) -> u32 {
    let first = math::permute_bytes(q[0], q[1], selector);
    let second = math::permute_bytes(q[2], q[3], selector);
    math::permute_bytes(first, second, 0x5410)
}

/// The power of two that keeps a row in a half's range: the smallest, at least 1, with which no
/// magnitude exceeds 2¹⁵, which leaves room for rounding.
#[derive(Clone, Copy, Debug)]
pub struct RowScale {
    /// What halves are multiplied with.
    pub scale: f32,
    /// Its reciprocal.
    pub inverse: f32,
}

impl RowScale {
    /// For rows known to stay below 2¹⁶ in magnitude, such as averages of halves.
    pub const ONE: Self = Self { scale: 1.0, inverse: 1.0 };

    /// For the greatest magnitude of the row.
    #[inline(always)]
    pub fn new(greatest: f32) -> Self {
        // Exponent field of the next power of two; 142 is that of 2¹⁵.
        let exponent = ((magnitude(greatest) + 0x007f_ffff) >> 23).max(142);
        Self {
            scale: f32::from_bits((exponent - 15) << 23),
            inverse: f32::from_bits((269 - exponent) << 23),
        }
    }
}

impl OperandOut {
    /// Whether halves are wanted.
    #[inline(always)]
    pub fn wants_half(&self) -> bool {
        !self.half.is_null()
    }

    /// Writes run `run` of row `row` to the F32 and integer forms, where wanted.
    ///
    /// All lanes of the warp take part, with runs in order, the first divisible by 8. `x` is zero past
    /// `cols`; a run past [`runs`] writes nothing.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn write_run(&self, t: Thread, row: u32, cols: u32, run: u32, x: [f32; 4]) {
        if !self.float.is_null() {
            store_run(self.float, row as usize * cols as usize, cols, run, x);
        }
        if self.high.is_null() {
            return;
        }
        let mut greatest =
            magnitude(x[0]).max(magnitude(x[1])).max(magnitude(x[2]).max(magnitude(x[3])));
        let mut mask = 1;
        while mask < 8 {
            greatest = greatest.max(t.shuffle_xor(greatest, mask));
            mask *= 2;
        }
        let steps = Steps::new(greatest);
        let q = x.map(|x| steps.count(x));
        let mut sum = Steps::sum(q);
        sum += t.shuffle_xor(sum, 1);
        sum += t.shuffle_xor(sum, 2);
        if run < runs(cols) {
            let at = row as usize * runs(cols) as usize + run as usize;
            self.high.set(at, Steps::high(q));
            self.low.set(at, Steps::low(q));
            if run.is_multiple_of(4) {
                self.sums.set(at / 4, steps.scale * sum as f32);
            }
            if run.is_multiple_of(8) {
                self.scale.set(at / 8, steps.scale);
            }
        }
    }

    /// Writes run `run` of row `row` to the half form.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn write_half_run(&self, row: u32, cols: u32, run: u32, x: [f32; 4], scale: RowScale) {
        let stride = half_stride(cols);
        if RUN * run < stride {
            let at = row as usize * (stride / RUN) as usize + run as usize;
            let x = x.map(|x| x * scale.inverse);
            let words = [math::pack_f16(x[0], x[1]), math::pack_f16(x[2], x[3])];
            self.half.cast::<[u32; 2]>().set(at, words);
        }
    }

    /// Writes the scale of row `row`; one thread does.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn write_row_scale(&self, row: u32, scale: RowScale) {
        self.row_scale.set(row as usize, scale.scale);
    }

    /// Writes 32 columns of row `row`, from `col` (divisible by 32) on, to the F32 and integer forms,
    /// where wanted. Four lanes hold them as four accumulator tiles of 8 columns do: `x[i]` is of
    /// columns `8i + 2(lane % 4)` and the next.
    ///
    /// All lanes of the warp take part; `active` says whether this row is there, the same for the four.
    /// `cols` is divisible by 32.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn write_fragment(
        &self,
        t: Thread,
        row: u32,
        cols: u32,
        col: u32,
        x: [[f32; 2]; 4],
        active: bool,
    ) {
        let at = row as usize * cols as usize + col as usize;
        let quarter = t.lane() % 4;
        if !self.float.is_null() && active {
            let out = self.float.at(at + 2 * quarter as usize).cast::<[f32; 2]>();
            let mut i = 0;
            while i < 4 {
                out.set(4 * i, x[i]);
                i += 1;
            }
        }
        if self.high.is_null() {
            return;
        }
        let mut greatest = 0;
        let mut i = 0;
        while i < 4 {
            greatest = greatest.max(magnitude(x[i][0])).max(magnitude(x[i][1]));
            i += 1;
        }
        greatest = greatest.max(t.shuffle_xor(greatest, 1));
        greatest = greatest.max(t.shuffle_xor(greatest, 2));
        let steps = Steps::new(greatest);
        let mut half = 0;
        while half < 2 {
            let (a, b) = (x[2 * half], x[2 * half + 1]);
            let q = [a[0], a[1], b[0], b[1]].map(|x| steps.count(x));
            let mut sum = Steps::sum(q);
            sum += t.shuffle_xor(sum, 1);
            sum += t.shuffle_xor(sum, 2);
            if active {
                let (high, low) = (Steps::high(q), Steps::low(q));
                // Two bytes of a tile's eight.
                let pair = (at + 16 * half) / 2 + quarter as usize;
                self.high.cast::<u16>().set(pair, high as u16);
                self.high.cast::<u16>().set(pair + 4, (high >> 16) as u16);
                self.low.cast::<u16>().set(pair, low as u16);
                self.low.cast::<u16>().set(pair + 4, (low >> 16) as u16);
                if quarter == 0 {
                    self.sums.set(at / 16 + half, steps.scale * sum as f32);
                }
            }
            half += 1;
        }
        if active && quarter == 0 {
            self.scale.set(at / 32, steps.scale);
        }
    }

    /// Writes columns `col` (even) and the next of row `row` to the half form; `cols` is even.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn write_half_pair(&self, row: u32, cols: u32, col: u32, x: [f32; 2], scale: RowScale) {
        let at = row as usize * half_stride(cols) as usize + col as usize;
        let word = math::pack_f16(x[0] * scale.inverse, x[1] * scale.inverse);
        self.half.set(at / 2, word);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use cuda_std::emu::Memory;
    use cuda_std::{Launch, kernels, mma, params};

    use super::super::testing::{Forms, numbers};
    use super::*;

    params! {
        struct TileParams {
            x: Global<f32>,
            out: OperandOut,
            rows: u32,
            cols: u32,
        }
    }
    kernels! {
        module "tile";
        TILE: tile(TileParams), threads 32, ctas 1 => tile;
    }

    /// Writes rows of `x` from where accumulators of a matrix instruction would hold them.
    fn tile(t: Thread, p: &TileParams) {
        t.wait_for_previous_kernel();
        let col = 32 * t.cta_id();
        for half in 0..2 {
            let row = mma::d_row(t.lane(), 2 * half);
            let active = row < p.rows;
            let x = [0, 1, 2, 3].map(|tile| {
                [2 * half, 2 * half + 1].map(|i| {
                    let col = col + 8 * tile + mma::d_col(t.lane(), i);
                    if active { p.x.get((row * p.cols + col) as usize) } else { 0.0 }
                })
            });
            p.out.write_fragment(t, row, p.cols, col, x, active);
            for (tile, x) in (0..).zip(x) {
                let col = col + 8 * tile + mma::d_col(t.lane(), 0);
                if active {
                    p.out.write_half_pair(row, p.cols, col, x, RowScale::ONE);
                }
            }
            if active && col == 0 && t.lane().is_multiple_of(4) {
                p.out.write_row_scale(row, RowScale::ONE);
            }
        }
    }

    #[test]
    fn fragments_say_the_same_as_runs() {
        for (rows, cols) in [(16, 32), (11, 96), (1, 64)] {
            let x = numbers(rows + cols, (rows * cols) as usize);
            let mut mem = Memory::new();
            let out = Forms::new(&mut mem, rows as usize, cols as usize, "FIH");
            let p = TileParams { x: mem.upload(&x), out: out.out, rows, cols };
            mem.launch(&TILE, Launch::linear(cols / 32, 32), &p).unwrap();
            let expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            out.check(&mem, &expected, (0.0, 0.0), "fragments");
        }
    }

    #[test]
    fn counts_split_into_bytes() {
        let steps = Steps::new(32512.0f32.to_bits());
        for q in -32512..=32512 {
            let counts = [steps.count(q as f32); 4];
            let low = Steps::low(counts) as i8;
            let high = Steps::high(counts) as i8;
            assert_eq!(256 * i32::from(high) + i32::from(low), q);
            assert_eq!(Steps::sum(counts), 4 * q);
        }
    }
}
