//! The panel product with AVX-512 VNNI: a line of weights at a time, for up to eight rows.

use std::arch::x86_64::*;

use gpu_kernels::formats::Codec;

use super::activations::{Activations, BLOCK};
use super::panel::{LINE, Line, Panel, ROWS, shifted};
use super::tile::sums;
use crate::ops::cpu::simd::Level;

/// Rows to lines: 16 bytes of each row make four lines. With `shift`, adds 128 to each weight.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn interleave(q: &[[i8; 256]; ROWS], lines: &mut [Line], shift: bool) {
    let flip = _mm512_set1_epi8(if shift { i8::MIN } else { 0 });
    let (lines, rest) = lines.as_chunks_mut::<4>();
    assert!(rest.is_empty());
    for (i, lines) in lines.iter_mut().enumerate() {
        let at = 16 * i;
        let mut rows = [std::ptr::null(); ROWS];
        for (pointer, row) in rows.iter_mut().zip(q) {
            let piece: &[i8; 16] = row[at..].first_chunk().expect("a block is 16s");
            *pointer = piece.as_ptr().cast();
        }
        // SAFETY: each pointer is that of 16 bytes.
        let out = unsafe { four_lines(&rows, 0) };
        for (line, v) in lines.iter_mut().zip(out) {
            store(line, _mm512_xor_si512(v, flip));
        }
    }
}

/// The four lines that the 16 bytes at `offset` of each row make.
///
/// # Safety
/// 16 bytes must be readable at `offset` of each row.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn four_lines(rows: &[*const u8; ROWS], offset: usize) -> [__m512i; 4] {
    // Register `j` takes rows j, j + 4, j + 8, j + 12, so that transposing inside each 128-bit
    // lane leaves the rows in order.
    let mut v = [_mm512_setzero_si512(); 4];
    for (j, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let piece = |r: usize| _mm_loadu_si128(rows[r].add(offset).cast());
            *v = _mm512_castsi128_si512(piece(j));
            *v = _mm512_inserti32x4::<1>(*v, piece(j + 4));
            *v = _mm512_inserti32x4::<2>(*v, piece(j + 8));
            *v = _mm512_inserti32x4::<3>(*v, piece(j + 12));
        }
    }
    transpose(v)
}

/// Stores a line.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(line: &mut Line, v: __m512i) {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(std::ptr::from_mut(line).cast(), v) }
}

/// Transposes the 4 × 4 words of each 128-bit lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// See [`super::tile::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub fn multiply<C: Codec, F: FnMut(usize, &[f32; ROWS])>(
    panel: &Panel,
    x: &Activations,
    mut put: F,
) {
    assert!(panel.q.len() * LINE == x.cols());
    assert!(panel.scale.len() * C::GROUP_LEN == x.cols());
    assert!(!C::HAS_MIN || panel.min.len() == panel.scale.len());
    let mut row = 0;
    // Eight rows take 16 integer and 8 float accumulators; more would spill.
    while row + 8 <= x.rows() {
        // SAFETY: the sizes were asserted above, and the condition of the loop gives the rows.
        unsafe { rows::<C, F, 8>(panel, x, row, &mut put) };
        row += 8;
    }
    if row + 4 <= x.rows() {
        // SAFETY: the sizes were asserted above, and the condition of the loop gives the rows.
        unsafe { rows::<C, F, 4>(panel, x, row, &mut put) };
        row += 4;
    }
    while row < x.rows() {
        // SAFETY: the sizes were asserted above, and the condition of the loop gives the rows.
        unsafe { rows::<C, F, 1>(panel, x, row, &mut put) };
        row += 1;
    }
}

/// Rows `row..row + M`.
///
/// # Safety
/// The panel has the columns and groups of `x`, and `x` the rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows<C: Codec, F: FnMut(usize, &[f32; ROWS]), const M: usize>(
    panel: &Panel,
    x: &Activations,
    row: usize,
    put: &mut F,
) {
    let cols = x.cols();
    let groups = cols / C::GROUP_LEN;
    let lines = C::GROUP_LEN / LINE;
    let sums = sums::<C>(x);
    let (mut high, mut low) = ([&x.high[..0]; M], [&x.low[..0]; M]);
    let mut scale = [&x.scale[..0]; M];
    let (mut shift, mut scaled) = ([&sums.shift[..0]; M], [&sums.scaled[..0]; M]);
    for m in 0..M {
        high[m] = &x.high[(row + m) * cols..][..cols];
        low[m] = &x.low[(row + m) * cols..][..cols];
        scale[m] = &x.scale[(row + m) * (cols / BLOCK)..][..cols / BLOCK];
        shift[m] = &sums.shift[(row + m) * groups..][..groups];
        scaled[m] = &sums.scaled[(row + m) * groups..][..groups];
    }
    let mut total = [_mm512_setzero_ps(); M];
    for g in 0..groups {
        let (mut sum_high, mut sum) = ([_mm512_setzero_si512(); M], [_mm512_setzero_si512(); M]);
        // SAFETY: g < groups, so every index below is in range of a slice whose length was fixed
        // above (`high` and `low` cols, `scale` cols / 32, `shift` and `scaled` groups) or checked by the
        // caller (`panel.q` cols / 4, `panel.scale` and, where used, `panel.min` groups); lines
        // and rows of values are 64 bytes, aligned.
        unsafe {
            if shifted::<C>(Level::Avx512) {
                for m in 0..M {
                    sum[m] = _mm512_set1_epi32(*shift[m].get_unchecked(g));
                }
            }
            for j in 0..lines {
                let line = g * lines + j;
                let w = _mm512_load_si512(panel.q.as_ptr().add(line).cast());
                for m in 0..M {
                    let four = |plane: &[i8]| {
                        let x = plane.as_ptr().add(LINE * line).cast::<i32>().read_unaligned();
                        _mm512_set1_epi32(x)
                    };
                    sum_high[m] = _mm512_dpbusd_epi32(sum_high[m], w, four(high[m]));
                    sum[m] = _mm512_dpbusd_epi32(sum[m], w, four(low[m]));
                }
            }
            let w_scale = _mm512_load_ps(panel.scale.as_ptr().add(g).cast());
            for m in 0..M {
                let x_scale = *scale[m].get_unchecked(g * C::GROUP_LEN / BLOCK);
                let scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x_scale));
                // At most 32 · 255 · 32639: far from overflow.
                sum[m] = _mm512_add_epi32(sum[m], _mm512_slli_epi32::<8>(sum_high[m]));
                total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[m]), scale, total[m]);
            }
            if C::HAS_MIN {
                let w_min = _mm512_load_ps(panel.min.as_ptr().add(g).cast());
                for m in 0..M {
                    let x_sum = _mm512_set1_ps(*scaled[m].get_unchecked(g));
                    total[m] = _mm512_fnmadd_ps(w_min, x_sum, total[m]);
                }
            }
        }
    }
    for m in 0..M {
        let mut out = [0.0; ROWS];
        // SAFETY: writes the 16 floats of `out`.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total[m]) };
        put(row + m, &out);
    }
}
