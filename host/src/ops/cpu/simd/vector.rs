//! Sixteen F32 at once, in whatever registers a level has.

use super::lanes::{LANES, Lanes, widen_f16};

/// Sixteen F32. Implementations differ in speed, and in the rounding of [`Vector::fma`].
///
/// Values of a level's vector type are made only in kernels of that level, so their instructions
/// are there.
pub trait Vector: Copy {
    /// The same value in every lane.
    fn splat(value: f32) -> Self;
    /// Sixteen values.
    fn load(from: &Lanes) -> Self;
    /// Sixteen IEEE halves, widened.
    fn load_f16(from: &[u16; LANES]) -> Self;
    /// Writes the lanes.
    fn store(self, to: &mut Lanes);
    /// `self · other`.
    fn mul(self, other: Self) -> Self;
    /// `self · other + addend`, fused where that is an instruction.
    fn fma(self, other: Self, addend: Self) -> Self;
    /// The greatest lane; NaN is passed over or returned.
    fn greatest(self) -> f32;
}

impl Vector for Lanes {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; LANES]
    }
    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        *from
    }
    #[inline(always)]
    fn load_f16(from: &[u16; LANES]) -> Self {
        from.map(widen_f16)
    }
    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        *to = self;
    }
    #[inline(always)]
    fn mul(mut self, other: Self) -> Self {
        for i in 0..LANES {
            self[i] *= other[i];
        }
        self
    }
    #[inline(always)]
    fn fma(mut self, other: Self, addend: Self) -> Self {
        for i in 0..LANES {
            self[i] = match cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                true => self[i].mul_add(other[i], addend[i]),
                false => self[i] * other[i] + addend[i],
            };
        }
        self
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        self.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Lanes, Vector};

    impl Vector for __m512 {
        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: only kernels compiled for AVX-512 use this type.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        fn load(from: &Lanes) -> Self {
            // SAFETY: as for `splat`; reads the 64 bytes of the array.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn load_f16(from: &[u16; LANES]) -> Self {
            // SAFETY: as for `splat`; reads the 32 bytes of the array.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
        }
        #[inline(always)]
        fn store(self, to: &mut Lanes) {
            // SAFETY: as for `splat`; writes the 64 bytes of the array.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self) }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: as for `splat`.
            unsafe { _mm512_mul_ps(self, other) }
        }
        #[inline(always)]
        fn fma(self, other: Self, addend: Self) -> Self {
            // SAFETY: as for `splat`.
            unsafe { _mm512_fmadd_ps(self, other, addend) }
        }
        #[inline(always)]
        fn greatest(self) -> f32 {
            // SAFETY: as for `splat`.
            unsafe {
                let halves = _mm512_shuffle_f32x4::<0b01_00_11_10>(self, self);
                let v = _mm512_max_ps(self, halves);
                let v = _mm512_max_ps(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v));
                let v = _mm512_max_ps(v, _mm512_permute_ps::<0b01_00_11_10>(v));
                let v = _mm512_max_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v));
                _mm512_cvtss_f32(v)
            }
        }
    }

    impl Vector for [__m256; 2] {
        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: only kernels compiled for AVX2, FMA and F16C use this type.
            unsafe { [_mm256_set1_ps(value); 2] }
        }
        #[inline(always)]
        fn load(from: &Lanes) -> Self {
            // SAFETY: as for `splat`; reads the two halves of the array's 64 bytes.
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())] }
        }
        #[inline(always)]
        fn load_f16(from: &[u16; LANES]) -> Self {
            let half = |at: usize| {
                // SAFETY: as for `splat`; reads 16 of the array's 32 bytes, from `at` 0 or 8.
                unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from[at..].as_ptr().cast())) }
            };
            [half(0), half(8)]
        }
        #[inline(always)]
        fn store(self, to: &mut Lanes) {
            // SAFETY: as for `splat`; writes the two halves of the array's 64 bytes.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), self[0]);
                _mm256_storeu_ps(to[8..].as_mut_ptr(), self[1]);
            }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: as for `splat`.
            unsafe { [_mm256_mul_ps(self[0], other[0]), _mm256_mul_ps(self[1], other[1])] }
        }
        #[inline(always)]
        fn fma(self, other: Self, addend: Self) -> Self {
            // SAFETY: as for `splat`.
            unsafe {
                [
                    _mm256_fmadd_ps(self[0], other[0], addend[0]),
                    _mm256_fmadd_ps(self[1], other[1], addend[1]),
                ]
            }
        }
        #[inline(always)]
        fn greatest(self) -> f32 {
            // SAFETY: as for `splat`.
            unsafe {
                let v = _mm256_max_ps(self[0], self[1]);
                let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_max_ps(v, _mm_permute_ps::<0b01_00_11_10>(v));
                _mm_cvtss_f32(_mm_max_ps(v, _mm_permute_ps::<0b10_11_00_01>(v)))
            }
        }
    }
}
