//! The panel product with AVX2: half a line of weights at a time, for one row of activations.

use std::arch::x86_64::*;

use gpu_kernels::formats::Codec;

use super::activations::{Activations, BLOCK};
use super::panel::{LINE, Panel, ROWS};
use super::tile::sums;

/// See [`super::tile::multiply`].
#[target_feature(enable = "avx2,fma")]
pub fn multiply<C: Codec, F: FnMut(usize, &[f32; ROWS])>(
    panel: &Panel,
    x: &Activations,
    mut put: F,
) {
    let groups = x.cols() / C::GROUP_LEN;
    let lines = C::GROUP_LEN / LINE;
    for row in 0..x.rows() {
        let range = row * x.cols()..(row + 1) * x.cols();
        let high = x.high[range.clone()].as_chunks::<LINE>().0;
        let low = x.low[range].as_chunks::<LINE>().0;
        let mut total = [_mm256_setzero_ps(); 2];
        for g in 0..groups {
            let (mut sum, mut sum_high) =
                ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
            for i in g * lines..(g + 1) * lines {
                let four = |x: [i8; LINE]| i32::from_le_bytes(x.map(|b| b as u8));
                let (high, low) =
                    (_mm256_set1_epi32(four(high[i])), _mm256_set1_epi32(four(low[i])));
                for half in 0..2 {
                    // SAFETY: a line is 64 bytes, aligned to 64; this is one half of it.
                    let w =
                        unsafe { _mm256_load_si256(panel.q[i].0.as_ptr().add(8 * half).cast()) };
                    sum_high[half] = _mm256_add_epi32(sum_high[half], dot4::<C>(w, high));
                    sum[half] = _mm256_add_epi32(sum[half], dot4::<C>(w, low));
                }
            }
            for half in 0..2 {
                sum[half] = _mm256_add_epi32(sum[half], _mm256_slli_epi32::<8>(sum_high[half]));
            }
            let x_scale = _mm256_set1_ps(x.scale[(row * x.cols() + g * C::GROUP_LEN) / BLOCK]);
            let x_sum = _mm256_set1_ps(sums::<C>(x).scaled[row * groups + g]);
            for half in 0..2 {
                // SAFETY: a row of values is 64 bytes, aligned to 64; this is one half of it.
                let w_scale = unsafe { _mm256_load_ps(panel.scale[g].0.as_ptr().add(8 * half)) };
                let scale = _mm256_mul_ps(w_scale, x_scale);
                total[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[half]), scale, total[half]);
                if C::HAS_MIN {
                    // SAFETY: as for the scales.
                    let min = unsafe { _mm256_load_ps(panel.min[g].0.as_ptr().add(8 * half)) };
                    total[half] = _mm256_fnmadd_ps(min, x_sum, total[half]);
                }
            }
        }
        let mut out = [0.0; ROWS];
        for half in 0..2 {
            // SAFETY: writes half of the 16 floats of `out`.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), total[half]) };
        }
        put(row, &out);
    }
}

/// Eight sums of four products of bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn dot4<C: Codec>(w: __m256i, x: __m256i) -> __m256i {
    if C::Q_MIN > i8::MIN {
        // |x| · (w with the sign of x): a pair is at most 2 · 128 · 127, which 16 bits hold.
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
        return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    // −128 has no opposite: even and odd bytes as 16-bit integers instead.
    let even = |v| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v));
    let odd = |v| _mm256_srai_epi16::<8>(v);
    _mm256_add_epi32(_mm256_madd_epi16(even(w), even(x)), _mm256_madd_epi16(odd(w), odd(x)))
}
