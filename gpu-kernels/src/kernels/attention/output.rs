//! Writing attention's result in the forms of an operand.

use cuda_std::{Thread, math};

use crate::kernels::operand::OperandOut;

/// Greatest magnitude of `256 · high + low` with both in their ranges on either side of zero.
const GREATEST: f32 = (127 * 256 + 127) as f32;
/// Blocks that reach no further are zeros: the inverse of their scale would overflow.
const NEGLIGIBLE: f32 = 1e-30;

/// Where the result of a row goes.
#[derive(Clone, Copy)]
pub struct RowOut<'a> {
    /// The forms.
    pub out: &'a OperandOut,
    /// Columns of the operand.
    pub cols: u32,
    /// The row.
    pub row: u32,
}

/// The scale of a block by its greatest magnitude, and the inverse.
#[inline(always)]
fn block_scale(greatest: f32, finite: bool) -> (f32, f32) {
    if !finite {
        (f32::NAN, 0.0)
    } else if greatest < NEGLIGIBLE {
        (0.0, 0.0)
    } else {
        (math::div(greatest, GREATEST), math::div(GREATEST, greatest))
    }
}

/// Splits `256 · high + low`; bytes are in the low 8 bits of each.
#[inline(always)]
fn split(q: i32) -> (u32, u32) {
    let high = (q + 128) >> 8;
    ((high & 0xff) as u32, (q - (high << 8)) as u32 & 0xff)
}

/// Whether a number is neither infinite nor NaN.
#[inline(always)]
fn is_finite(x: f32) -> bool {
    x.to_bits() & 0x7f80_0000 != 0x7f80_0000
}

impl RowOut<'_> {
    /// Writes the 32 columns from `col`, which is divisible by 32, on; lane `i` gives the `i`th. Those
    /// past the last column are 0. All lanes of the warp take part.
    #[inline(always)]
    pub fn block(self, t: Thread, col: u32, value: f32) {
        let out = self.out;
        let lane = t.lane();
        let at = self.row as usize * self.cols as usize + (col + lane) as usize;
        let live = col + lane < self.cols;
        if !out.float.is_null() && live {
            out.float.set(at, value);
        }
        if !out.half.is_null() {
            let next = t.shuffle_xor(value, 1);
            if live && lane.is_multiple_of(2) {
                out.half.set(at / 2, math::pack_f16(value, next));
            }
            if col + lane == 0 {
                out.row_scale.set(self.row as usize, 1.0);
            }
        }
        if !out.high.is_null() {
            self.planes(t, col, value);
        }
    }

    /// The same for the integer form alone, which there is.
    #[inline(always)]
    pub fn planes(self, t: Thread, col: u32, value: f32) {
        let out = self.out;
        let lane = t.lane();
        let live = col + lane < self.cols;
        let finite = t.ballot(!is_finite(value)) == 0;
        let (scale, inverse) = block_scale(t.warp_max(math::abs(value)), finite);
        let q = math::round_to_i32(value * inverse);
        let (high, low) = split(q);
        let shift = 8 * (lane % 4);
        let (high, low) = (quad_or(t, high << shift), quad_or(t, low << shift));
        let mut sum = q;
        let mut mask = 8;
        while mask > 0 {
            sum += t.shuffle_xor(sum, mask);
            mask /= 2;
        }
        let at = self.row as usize * self.cols as usize + (col + lane) as usize;
        if live && lane.is_multiple_of(4) {
            out.high.set(at / 4, high);
            out.low.set(at / 4, low);
        }
        if live && lane.is_multiple_of(16) {
            let i = self.row as usize * self.cols.div_ceil(16) as usize;
            out.sums.set(i + ((col + lane) / 16) as usize, scale * sum as f32);
        }
        if lane == 0 {
            let i = self.row as usize * self.cols.div_ceil(32) as usize;
            out.scale.set(i + (col / 32) as usize, scale);
        }
    }
}

/// The bits of four lanes together.
#[inline(always)]
fn quad_or(t: Thread, word: u32) -> u32 {
    let word = word | t.shuffle_xor(word, 1);
    word | t.shuffle_xor(word, 2)
}
