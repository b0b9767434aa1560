//! Matrix operations of a warp: products and loads of fragments.

use super::fault::Mistake;
use super::run::{Op, Run};
use super::shadow::Access;
use super::tensor_core::{BF16, E4M3, F16, Format, Term, dot};
use crate::mma;

/// `d += a · b`: operands of a lane are the words of `a` (4), of `b` (2), of `d` (4).
pub(super) fn multiply(op: Op, operands: &[[u32; 10]; 32], results: &mut [[u32; 4]; 32]) {
    match op {
        Op::MmaS8 => multiply_s8(operands, results),
        Op::MmaF16 => multiply_float(&F16, operands, results),
        Op::MmaBf16 => multiply_float(&BF16, operands, results),
        Op::MmaE4m3 => multiply_float(&E4M3, operands, results),
        _ => multiply_float(&super::tensor_core::TF32, operands, results),
    }
}

/// The greatest `k` of a product.
const MOST_K: usize = 32;

/// The rows of `a` and the columns of `b`, gathered from the lanes: `decode` gives element `i` of a
/// word.
fn gather<T: Copy + Default>(
    operands: &[[u32; 10]; 32],
    per_word: u32,
    decode: impl Fn(u32, u32) -> T,
) -> ([[T; MOST_K]; 16], [[T; MOST_K]; 8]) {
    let mut a = [[T::default(); MOST_K]; 16];
    let mut b = [[T::default(); MOST_K]; 8];
    for (lane, words) in (0u32..).zip(operands) {
        for i in 0..per_word {
            for w in 0..4 {
                let k = mma::a_k(lane, w, per_word) + i;
                a[mma::a_row(lane, w) as usize][k as usize] = decode(words[w as usize], i);
            }
            for w in 0..2 {
                let k = mma::b_k(lane, w, per_word) + i;
                b[mma::b_col(lane) as usize][k as usize] = decode(words[4 + w as usize], i);
            }
        }
    }
    (a, b)
}

/// Sets each accumulator to `f` of its row of `a`, its column of `b` and what it was.
fn accumulate<T>(
    (a, b): ([[T; MOST_K]; 16], [[T; MOST_K]; 8]),
    k: usize,
    operands: &[[u32; 10]; 32],
    results: &mut [[u32; 4]; 32],
    f: impl Fn(&[T], &[T], u32) -> u32,
) {
    for (lane, result) in (0u32..).zip(results) {
        for (i, d) in (0u32..).zip(result) {
            let row = &a[mma::d_row(lane, i) as usize][..k];
            let col = &b[mma::d_col(lane, i) as usize][..k];
            *d = f(row, col, operands[lane as usize][6 + i as usize]);
        }
    }
}

fn multiply_float(format: &Format, operands: &[[u32; 10]; 32], results: &mut [[u32; 4]; 32]) {
    let per_word = 32 / format.bits;
    let tiles = gather(operands, per_word, |word, i| {
        Term::new(format, word.checked_shr(i * format.bits).unwrap_or(0))
    });
    let special = tiles.0.iter().chain(&tiles.1).flatten().any(Term::is_special);
    accumulate(tiles, 8 * per_word as usize, operands, results, |row, col, c| {
        dot(format, row, col, f32::from_bits(c), special).to_bits()
    });
}

fn multiply_s8(operands: &[[u32; 10]; 32], results: &mut [[u32; 4]; 32]) {
    let tiles = gather(operands, 4, |word, i| i32::from((word >> (8 * i)) as i8));
    accumulate(tiles, MOST_K, operands, results, |row, col, c| {
        let sum: i32 = row.iter().zip(col).map(|(a, b)| a * b).sum();
        c.wrapping_add(sum as u32)
    });
}

/// Loads `count` matrices of 8 × 8 elements of 16 bits: lane `8m + r` reads row `r` of matrix `m`.
pub(super) fn load(
    run: &mut Run,
    first: usize,
    count: usize,
    transposed: bool,
    operands: &[[u32; 10]; 32],
    results: &mut [[u32; 4]; 32],
) -> Result<(), (usize, Mistake)> {
    for matrix in 0..count {
        let mut rows = [[0u16; 8]; 8];
        for (r, row) in rows.iter_mut().enumerate() {
            let lane = 8 * matrix + r;
            run.order.thread = (first + lane) as u16;
            let bytes = run
                .shared
                .access(&run.order, operands[lane][0], 16, Access::Read)
                .map_err(|mistake| (lane, mistake))?;
            *row = std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
        }
        for (lane, result) in results.iter_mut().enumerate() {
            let (major, minor) = (lane / 4, 2 * (lane % 4));
            let [low, high] = if transposed {
                [rows[minor][major], rows[minor + 1][major]]
            } else {
                [rows[major][minor], rows[major][minor + 1]]
            };
            result[matrix] = u32::from(low) | u32::from(high) << 16;
        }
    }
    Ok(())
}
