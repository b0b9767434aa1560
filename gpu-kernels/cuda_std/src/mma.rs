//! Matrix instructions of a warp, and which lane holds which element.
//!
//! `d[16, 8] += a[16, k] · b[k, 8]`; `b` is given by columns, so that both operands run along `k`.
//! Layouts: PTX ISA 8.7, sections 9.7.14.5.7 to 9.7.14.5.9 (m16n8k8, m16n8k16, m16n8k32). All lanes
//! of the warp take part.
//!
//! | function | k | a, b | d |
//! |---|---|---|---|
//! | [`f16`] | 16 | f16 | f32 |
//! | [`bf16`] | 16 | bf16 | f32 |
//! | [`tf32`] | 8 | tf32 in 32 bits | f32 |
//! | [`s8`] | 32 | i8 | i32 |
//! | [`e4m3`] | 32 | FP8 E4M3; from sm_89 on | f32 |

use crate::{Shared, Thread, arch};

/// Row of element `i` (0–3) of a lane's four accumulators.
#[inline(always)]
pub const fn d_row(lane: u32, i: u32) -> u32 {
    lane / 4 + 8 * (i / 2)
}
/// Column of element `i` (0–3) of a lane's four accumulators.
#[inline(always)]
pub const fn d_col(lane: u32, i: u32) -> u32 {
    2 * (lane % 4) + i % 2
}
/// Row of the elements in word `w` (0–3) of a lane's part of `a`.
#[inline(always)]
pub const fn a_row(lane: u32, w: u32) -> u32 {
    lane / 4 + 8 * (w % 2)
}
/// First `k` of the elements in word `w` (0–3) of a lane's part of `a`; `per_word` elements (4 bytes
/// over the size of one) follow each other.
#[inline(always)]
pub const fn a_k(lane: u32, w: u32, per_word: u32) -> u32 {
    per_word * (lane % 4 + 4 * (w / 2))
}
/// Column of a lane's part of `b`.
#[inline(always)]
pub const fn b_col(lane: u32) -> u32 {
    lane / 4
}
/// First `k` of the elements in word `w` (0–1) of a lane's part of `b`.
#[inline(always)]
pub const fn b_k(lane: u32, w: u32, per_word: u32) -> u32 {
    per_word * (lane % 4 + 4 * w)
}

/// `d += a · b` on halves, k = 16.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn f16(_: Thread, d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    arch::mma_f16(d, a, b);
}
/// `d += a · b` on bfloat16, k = 16.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn bf16(_: Thread, d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    arch::mma_bf16(d, a, b);
}
/// `d += a · b` on F32 cut to 10 bits of mantissa, k = 8.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn tf32(_: Thread, d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    arch::mma_tf32(d, a, b);
}
/// `d += a · b` on signed bytes, k = 32, exact modulo 2³².
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn s8(_: Thread, d: &mut [i32; 4], a: [u32; 4], b: [u32; 2]) {
    arch::mma_s8(d, a, b);
}
/// `d += a · b` on FP8 E4M3, k = 32; the device is of sm_89 or newer.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn e4m3(_: Thread, d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    arch::mma_e4m3(d, a, b);
}

/// Loads four 8×8 matrices of 16-bit elements. Lane `8m + r` gives the address of row `r` of matrix
/// `m` (16 bytes, address divisible by 16); word `m` of lane `l` holds elements `2(l % 4)` and the
/// next of row `l / 4`.
///
/// With the addresses of rows `lane % 16` at `k` offset `8 · (lane / 16)` it gives the part of `a` of
/// a k = 16 product.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn load_matrix_x4<T>(_: Thread, row: Shared<T>) -> [u32; 4] {
    arch::ldmatrix_x4(row.address())
}
/// The same, each matrix transposed: word `m` of lane `l` holds column `l / 4`, rows `2(l % 4)` and
/// the next.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn load_matrix_x4_transposed<T>(_: Thread, row: Shared<T>) -> [u32; 4] {
    arch::ldmatrix_x4_trans(row.address())
}
/// Two matrices; lanes 0–15 give the addresses.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn load_matrix_x2<T>(_: Thread, row: Shared<T>) -> [u32; 2] {
    arch::ldmatrix_x2(row.address())
}
