//! The common formats straight from their blocks into a panel, with AVX-512.
//!
//! All sixteen rows at once: the packed bytes are transposed to lines first, so nibbles, high
//! bits and packed scales are taken apart for the whole panel by one instruction each.

use std::arch::x86_64::*;

use gpu_kernels::formats::Format;

use super::avx512::{four_lines, store};
use super::panel::{Line, Panel, PerRow, ROWS};

/// Fills a panel from rows of blocks, if the format is one of those here.
///
/// # Panics
/// When the panel was not sized for the rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
pub fn fill<B>(panel: &mut Panel, format: Format, rows: &[&[B]; ROWS]) -> bool {
    let blocks = rows[0].len();
    assert!(rows.iter().all(|r| r.len() == blocks));
    let mut source = Source { rows: [std::ptr::null(); ROWS], offsets: [0; ROWS] };
    for (r, row) in rows.iter().enumerate() {
        source.rows[r] = row.as_ptr().cast();
        // A gather takes 32-bit offsets.
        let Ok(offset) = i32::try_from(source.rows[r].addr() - source.rows[0].addr()) else {
            return false;
        };
        source.offsets[r] = offset;
    }
    let (bytes, len) = (format.block_bytes(), format.block_len());
    assert!(bytes == size_of::<B>());
    assert!(panel.q.len() * 4 == blocks * len);
    let groups = panel.scale.len() / blocks;
    assert!(panel.scale.len() == panel.min.len());
    // The rows of a panel are read side by side, which no hardware prefetcher follows from one
    // panel to the next: while this one is unpacked, the next one is fetched.
    let mut next = source.rows[0].wrapping_add(blocks * bytes * ROWS);
    let parts = panel.q.chunks_exact_mut(len / 4);
    let values = panel.scale.chunks_exact_mut(groups).zip(panel.min.chunks_exact_mut(groups));
    for (q, (scale, min)) in parts.zip(values) {
        // SAFETY: every row has as many blocks as `parts` has parts, and the pointers have moved
        // on by one block of the format's size in each earlier round.
        unsafe {
            match format {
                Format::Q4_0 => q4_0(&source, q, scale),
                Format::Q4_1 => q4_1(&source, q, scale, min),
                Format::Q8_0 => q8_0(&source, q, scale),
                Format::Q4_K => q4_k(&source, q, scale, min),
                Format::Q5_K => q5_k(&source, q, scale, min),
                Format::Q6_K => q6_k(&source, q, scale),
                _ => return false,
            }
        }
        source.advance(bytes);
        for line in (0..bytes * ROWS).step_by(64) {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line).cast());
        }
        next = next.wrapping_add(bytes * ROWS);
    }
    true
}

/// Where a block of each row begins. The functions that read it are given offsets inside it.
struct Source {
    rows: [*const u8; ROWS],
    /// The same, relative to the first row.
    offsets: [i32; ROWS],
}

impl Source {
    #[inline(always)]
    fn advance(&mut self, bytes: usize) {
        for row in &mut self.rows {
            // One past the last block at most.
            *row = row.wrapping_add(bytes);
        }
    }

    /// The four bytes at `offset` of each row.
    ///
    /// # Safety
    /// They must lie in the block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn words(&self, offset: usize) -> __m512i {
        // SAFETY: the offsets are those of the rows from the first one; for the rest, the
        // caller's promise.
        unsafe {
            let offsets = _mm512_loadu_si512(self.offsets.as_ptr().cast());
            _mm512_i32gather_epi32::<1>(offsets, self.rows[0].add(offset).cast())
        }
    }
}

/// F16 in the low halves of words, as F32.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn low_half(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn high_half(words: __m512i) -> __m512 {
    low_half(_mm512_srli_epi32::<16>(words))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put(to: &mut PerRow, values: __m512) {
    // SAFETY: 64 bytes, aligned to 64.
    unsafe { _mm512_store_ps(to.0.as_mut_ptr(), values) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn low_nibbles(v: __m512i) -> __m512i {
    _mm512_and_si512(v, _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn high_nibbles(v: __m512i) -> __m512i {
    low_nibbles(_mm512_srli_epi16::<4>(v))
}

/// 32 weights of 16 bytes of nibbles: the low ones, then the high ones, each plus `add`.
///
/// # Safety
/// 16 bytes must be readable at `offset`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles(from: &Source, offset: usize, add: i8, q: &mut [Line]) {
    let add = _mm512_set1_epi8(add);
    // SAFETY: the caller's promise.
    let packed = unsafe { four_lines(&from.rows, offset) };
    for (i, v) in packed.into_iter().enumerate() {
        store(&mut q[i], _mm512_add_epi8(low_nibbles(v), add));
        store(&mut q[4 + i], _mm512_add_epi8(high_nibbles(v), add));
    }
}

/// Scale, 16 bytes of nibbles around 8; plus 128 in the panel.
///
/// # Safety
/// `from` must point at blocks of the format, for this and the functions below.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn q4_0(from: &Source, q: &mut [Line], scale: &mut [PerRow]) {
    // SAFETY: inside a block of 18 bytes.
    unsafe {
        put(&mut scale[0], low_half(from.words(0)));
        nibbles(from, 2, 120, q);
    }
}

/// Scale, value of code 0 (the negated minimum), 16 bytes of nibbles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,f16c")]
unsafe fn q4_1(from: &Source, q: &mut [Line], scale: &mut [PerRow], min: &mut [PerRow]) {
    // SAFETY: inside a block of 20 bytes.
    unsafe {
        let words = from.words(0);
        put(&mut scale[0], low_half(words));
        put(&mut min[0], _mm512_xor_ps(high_half(words), _mm512_set1_ps(-0.0)));
        nibbles(from, 4, 0, q);
    }
}

/// Scale, 32 signed bytes; plus 128 in the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn q8_0(from: &Source, q: &mut [Line], scale: &mut [PerRow]) {
    let flip = _mm512_set1_epi8(i8::MIN);
    // SAFETY: inside a block of 34 bytes.
    unsafe {
        put(&mut scale[0], low_half(from.words(0)));
        for (half, q) in q.chunks_exact_mut(4).enumerate() {
            for (q, v) in q.iter_mut().zip(four_lines(&from.rows, 2 + 16 * half)) {
                store(q, _mm512_xor_si512(v, flip));
            }
        }
    }
}

/// Scales and minima of Q4_K and Q5_K: `d`, `dmin`, then 12 bytes packed as
/// [`gpu_kernels::formats::q4_k::scales_and_minima`] says.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,f16c")]
unsafe fn k_scales(from: &Source, scale: &mut [PerRow], min: &mut [PerRow]) {
    // SAFETY: the first 16 bytes of larger blocks.
    let (head, a, b, c) = unsafe { (from.words(0), from.words(4), from.words(8), from.words(12)) };
    let (d, dmin) = (low_half(head), high_half(head));
    let bits = |v: __m512i, mask: i32| _mm512_and_si512(v, _mm512_set1_epi32(mask));
    let right = |v: __m512i, n: usize| _mm512_srlv_epi32(v, _mm512_set1_epi32(n as i32));
    // Bits 6 and 7 of a byte, as bits 4 and 5.
    let top = |v: __m512i, g: usize| bits(right(v, 8 * g + 2), 0x30);
    let product = |d: __m512, n: __m512i| _mm512_mul_ps(d, _mm512_cvtepi32_ps(n));
    for g in 0..4 {
        put(&mut scale[g], product(d, bits(right(a, 8 * g), 63)));
        put(&mut min[g], product(dmin, bits(right(b, 8 * g), 63)));
        let (low, high) = (bits(right(c, 8 * g), 15), bits(right(c, 8 * g + 4), 15));
        put(&mut scale[g + 4], product(d, _mm512_or_si512(low, top(a, g))));
        put(&mut min[g + 4], product(dmin, _mm512_or_si512(high, top(b, g))));
    }
}

/// 32 bytes hold 64 weights: the low nibbles, then the high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,f16c")]
unsafe fn q4_k(from: &Source, q: &mut [Line], scale: &mut [PerRow], min: &mut [PerRow]) {
    // SAFETY: inside a block of 144 bytes: four times 32 from 16 on.
    unsafe {
        k_scales(from, scale, min);
        for (c, q) in q.chunks_exact_mut(16).enumerate() {
            for half in 0..2 {
                let packed = four_lines(&from.rows, 16 + 32 * c + 16 * half);
                for (i, v) in packed.into_iter().enumerate() {
                    store(&mut q[4 * half + i], low_nibbles(v));
                    store(&mut q[8 + 4 * half + i], high_nibbles(v));
                }
            }
        }
    }
}

/// As Q4_K, with the fifth bits of group `g` in bit `g` of 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,f16c")]
unsafe fn q5_k(from: &Source, q: &mut [Line], scale: &mut [PerRow], min: &mut [PerRow]) {
    let fifth = |v: __m512i, g: usize| {
        let v = _mm512_srl_epi16(v, _mm_set_epi64x(0, g as i64));
        _mm512_slli_epi16::<4>(_mm512_and_si512(v, _mm512_set1_epi8(1)))
    };
    // SAFETY: inside a block of 176 bytes: 32 from 16 on, four times 32 from 48 on.
    unsafe {
        k_scales(from, scale, min);
        for half in 0..2 {
            let high = four_lines(&from.rows, 16 + 16 * half);
            for (c, q) in q.chunks_exact_mut(16).enumerate() {
                let packed = four_lines(&from.rows, 48 + 32 * c + 16 * half);
                for (i, v) in packed.into_iter().enumerate() {
                    let low = _mm512_or_si512(low_nibbles(v), fifth(high[i], 2 * c));
                    store(&mut q[4 * half + i], low);
                    let high = _mm512_or_si512(high_nibbles(v), fifth(high[i], 2 * c + 1));
                    store(&mut q[8 + 4 * half + i], high);
                }
            }
        }
    }
}

/// Low 4 bits, high 2 bits, 16 signed scales, `d`; 6 bits around 32, plus 128 in the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,f16c")]
unsafe fn q6_k(from: &Source, q: &mut [Line], scale: &mut [PerRow]) {
    let add = _mm512_set1_epi8(96);
    // Bits 2j and 2j + 1 of each byte, as bits 4 and 5.
    let high = |v: __m512i, j: usize| {
        let v = _mm512_srl_epi16(v, _mm_set_epi64x(0, 2 * j as i64));
        _mm512_slli_epi16::<4>(_mm512_and_si512(v, _mm512_set1_epi8(3)))
    };
    // SAFETY: inside a block of 210 bytes: 128 bytes of low bits, 64 of high ones, 16 scales and
    // `d`, whose word begins two bytes early.
    unsafe {
        let d = high_half(from.words(206));
        for (word, scale) in scale.chunks_exact_mut(4).enumerate() {
            let packed = from.words(192 + 4 * word);
            for (i, scale) in scale.iter_mut().enumerate() {
                let left = _mm512_set1_epi32(24 - 8 * i as i32);
                let s = _mm512_srai_epi32::<24>(_mm512_sllv_epi32(packed, left));
                put(scale, _mm512_mul_ps(d, _mm512_cvtepi32_ps(s)));
            }
        }
        for (c, q) in q.chunks_exact_mut(32).enumerate() {
            for half in 0..2 {
                let highs = four_lines(&from.rows, 128 + 32 * c + 16 * half);
                for odd in 0..2 {
                    let lows = four_lines(&from.rows, 64 * c + 32 * odd + 16 * half);
                    for i in 0..4 {
                        let at = 8 * odd + 4 * half + i;
                        let v = _mm512_or_si512(low_nibbles(lows[i]), high(highs[i], odd));
                        store(&mut q[at], _mm512_add_epi8(v, add));
                        let v = _mm512_or_si512(high_nibbles(lows[i]), high(highs[i], odd + 2));
                        store(&mut q[at + 16], _mm512_add_epi8(v, add));
                    }
                }
            }
        }
    }
}
