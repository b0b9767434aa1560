//! Formats whose codes are indices into codebooks, which kernels find in global memory.

use core::array::from_fn;

use cuda_std::{Global, math};

use super::{DeviceFormat, Piece, relay_six_bits, six_bits};
use crate::formats::grid;
use crate::formats::iq1_m::{BlockIq1M, Iq1M};
use crate::formats::iq1_s::{BlockIq1S, Iq1S};
use crate::formats::iq2_s::{BlockIq2S, Iq2S};
use crate::formats::iq2_xs::{BlockIq2Xs, Iq2Xs};
use crate::formats::iq2_xxs::{BlockIq2Xxs, Iq2Xxs};
use crate::formats::iq3_s::{BlockIq3S, Iq3S};
use crate::formats::iq3_xxs::{BlockIq3Xxs, Iq3Xxs};
use crate::formats::scalar::F16Le;
use crate::kernels::matrix::{MAX_PLANES, Matrix};

/// Four magnitudes, those negated whose bit is set in `signs` (4 bits).
#[inline(always)]
fn signed_four(magnitudes: u32, signs: u32) -> u32 {
    // The product moves bit i to bit 8i; see `signed_eight` for the rest.
    let negative = ((signs & 15) * 0x0020_4081) & 0x0101_0101;
    (magnitudes ^ (negative * 0xff)) + negative
}

/// The eight signs that 7 bits stand for: the eighth makes their number even.
#[inline(always)]
fn even_signs(bits: u32) -> u32 {
    let bits = bits & 127;
    bits | (bits.count_ones() & 1) << 7
}

/// Two words of four weights with eight signs.
#[inline(always)]
fn signed_eight([a, b]: [u32; 2], signs: u32) -> [u32; 2] {
    [signed_four(a, signs), signed_four(b, signs >> 4)]
}

/// Point `i` of a codebook of eights.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
fn point_of_eight(tables: Global<u32>, i: u32) -> [u32; 2] {
    tables.cast::<[u32; 2]>().constant(i as usize)
}

/// Four eights as one piece.
#[inline(always)]
fn piece(eight: impl Fn(u32) -> [u32; 2], scale: [f32; 2]) -> Piece {
    let ([a, b], [c, d], [e, f], [g, h]) = (eight(0), eight(1), eight(2), eight(3));
    Piece { q: [a, b, c, d, e, f, g, h], scale, min: [0.0; 2] }
}

/// `d · (s + ½) · unit`, as the codecs round it.
#[inline(always)]
fn half_steps(d: u16, s: u32, unit: f32) -> f32 {
    math::from_f16_bits(d) * (s as f32 + 0.5) * unit
}

/// Indices with signs and scales; scales of the scales.
impl DeviceFormat for Iq2Xxs {
    const PLANES: [u32; MAX_PLANES] = [64, 2, 0, 0];
    type Raw = ([u32; 2], u16);

    #[inline(always)]
    fn relay(block: &BlockIq2Xxs, planes: [&mut [u8]; MAX_PLANES]) {
        let [groups, d, ..] = planes;
        for (group, out) in block.groups.iter().zip(groups.as_chunks_mut::<8>().0) {
            out[..4].copy_from_slice(&group.index);
            out[4..].copy_from_slice(&group.signs_and_scale);
        }
        d.copy_from_slice(&block.d.0);
    }
    fn table() -> &'static [u32] {
        bytemuck::cast_slice(&grid::IQ2_XXS)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.shared2::<1>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece(([index, signs], d): Self::Raw, tables: Global<u32>) -> Piece {
        let eight = |k: u32| {
            let point = point_of_eight(tables, index >> (8 * k) & 255);
            signed_eight(point, even_signs(signs >> (7 * k)))
        };
        piece(eight, [half_steps(d, signs >> 28, 0.25); 2])
    }
}

/// Indices with signs; scales; scales of the scales.
impl DeviceFormat for Iq2Xs {
    const PLANES: [u32; MAX_PLANES] = [64, 8, 2, 0];
    type Raw = ([u32; 2], u8, u16);

    #[inline(always)]
    fn relay(block: &BlockIq2Xs, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, d, _] = planes;
        codes.copy_from_slice(block.qs.as_flattened());
        scales.copy_from_slice(&block.scales);
        d.copy_from_slice(&block.d.0);
    }
    fn table() -> &'static [u32] {
        bytemuck::cast_slice(&grid::IQ2_XS)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.shared1::<1>(i), matrix.shared2::<2>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((codes, s, d): Self::Raw, tables: Global<u32>) -> Piece {
        let eight = |k: u32| {
            let code = if k < 2 { codes[0] } else { codes[1] } >> (16 * (k % 2));
            signed_eight(point_of_eight(tables, code & 511), even_signs(code >> 9))
        };
        let s = u32::from(s);
        piece(eight, [half_steps(d, s & 15, 0.25), half_steps(d, s >> 4, 0.25)])
    }
}

/// Low bits of the indices, and signs; high bits; scales; scales of the scales.
impl DeviceFormat for Iq2S {
    const PLANES: [u32; MAX_PLANES] = [64, 8, 8, 2];
    type Raw = ([u32; 2], u8, u8, u16);

    #[inline(always)]
    fn relay(block: &BlockIq2S, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, high, scales, d] = planes;
        for (g, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            out[..4].copy_from_slice(&block.qs[4 * g..4 * g + 4]);
            out[4..].copy_from_slice(&block.signs[4 * g..4 * g + 4]);
        }
        high.copy_from_slice(&block.qh);
        scales.copy_from_slice(&block.scales);
        d.copy_from_slice(&block.d.0);
    }
    fn table() -> &'static [u32] {
        bytemuck::cast_slice(&grid::IQ2_S)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        let (high, s) = (matrix.shared1::<1>(i), matrix.shared1::<2>(i));
        (matrix.stream8::<0>(i), high, s, matrix.shared2::<3>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece(([low, signs], high, s, d): Self::Raw, tables: Global<u32>) -> Piece {
        let (high, s) = (u32::from(high), u32::from(s));
        let eight = |k: u32| {
            let index = low >> (8 * k) & 255 | (high >> (2 * k) & 3) << 8;
            signed_eight(point_of_eight(tables, index), signs >> (8 * k))
        };
        piece(eight, [half_steps(d, s & 15, 0.25), half_steps(d, s >> 4, 0.25)])
    }
}

/// Indices; signs and scales; scales of the scales.
impl DeviceFormat for Iq3Xxs {
    const PLANES: [u32; MAX_PLANES] = [64, 32, 2, 0];
    type Raw = ([u32; 2], u32, u16);

    #[inline(always)]
    fn relay(block: &BlockIq3Xxs, planes: [&mut [u8]; MAX_PLANES]) {
        let [indices, signs, d, _] = planes;
        indices.copy_from_slice(&block.qs);
        signs.copy_from_slice(block.signs_and_scale.as_flattened());
        d.copy_from_slice(&block.d.0);
    }
    fn table() -> &'static [u32] {
        &grid::IQ3_XXS
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.stream4::<1>(i), matrix.shared2::<2>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((indices, signs, d): Self::Raw, tables: Global<u32>) -> Piece {
        let eight = |k: u32| {
            let two = if k < 2 { indices[0] } else { indices[1] } >> (16 * (k % 2));
            let four = |i: u32| tables.constant((i & 255) as usize);
            signed_eight([four(two), four(two >> 8)], even_signs(signs >> (7 * k)))
        };
        piece(eight, [half_steps(d, signs >> 28, 0.5); 2])
    }
}

/// Low bits of the indices; signs; high bits; scales with their scale.
impl DeviceFormat for Iq3S {
    const PLANES: [u32; MAX_PLANES] = [64, 32, 8, 8];
    type Raw = ([u32; 2], u32, u8, [u32; 2], u32);

    #[inline(always)]
    fn relay(block: &BlockIq3S, planes: [&mut [u8]; MAX_PLANES]) {
        let [indices, signs, high, header] = planes;
        indices.copy_from_slice(&block.qs);
        signs.copy_from_slice(&block.signs);
        high.copy_from_slice(&block.qh);
        header[..2].copy_from_slice(&block.d.0);
        header[2..4].fill(0);
        header[4..].copy_from_slice(&block.scales);
    }
    fn table() -> &'static [u32] {
        &grid::IQ3_S
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        let (high, header) = (matrix.shared1::<2>(i), matrix.shared8::<3>(i / 8));
        (matrix.stream8::<0>(i), matrix.stream4::<1>(i), high, header, piece % 8)
    }

    #[inline(always)]
    fn unpack_piece((low, signs, high, [d, scales], c): Self::Raw, tables: Global<u32>) -> Piece {
        let high = u32::from(high);
        let eight = |k: u32| {
            let two = if k < 2 { low[0] } else { low[1] } >> (16 * (k % 2));
            let four =
                |i: u32, bit: u32| tables.constant((i & 255 | (high >> bit & 1) << 8) as usize);
            signed_eight([four(two, 2 * k), four(two >> 8, 2 * k + 1)], signs >> (8 * k))
        };
        let s = scales >> (4 * c) & 15;
        piece(eight, [math::from_f16_bits(d as u16) * (2 * s + 1) as f32; 2])
    }
}

/// An IQ1 codebook point, each value plus 1, or less 1 where bit 0 of `down` is set.
#[inline(always)]
fn shifted_eight(point: [u32; 2], down: u32) -> [u32; 2] {
    // See `formats::shifted_eight`.
    const TOP: u32 = 0x8080_8080;
    let add = if down & 1 == 0 { 0x0101_0101 } else { 0x0101_0101u32.wrapping_neg() };
    point.map(|word| (word ^ TOP).wrapping_add(add) ^ TOP)
}

/// Low bits of the indices; high bits, shifts and scales; scales of the scales.
impl DeviceFormat for Iq1S {
    const PLANES: [u32; MAX_PLANES] = [32, 16, 2, 0];
    type Raw = (u32, u16, u16);

    #[inline(always)]
    fn relay(block: &BlockIq1S, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, d, _] = planes;
        low.copy_from_slice(&block.qs);
        high.copy_from_slice(block.qh.as_flattened());
        d.copy_from_slice(&block.d.0);
    }
    fn table() -> &'static [u32] {
        bytemuck::cast_slice(&grid::IQ1)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream4::<0>(i), matrix.shared2::<1>(i), matrix.shared2::<2>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((low, high, d): Self::Raw, tables: Global<u32>) -> Piece {
        let high = u32::from(high);
        let eight = |k: u32| {
            let index = low >> (8 * k) & 255 | (high >> (3 * k) & 7) << 8;
            shifted_eight(point_of_eight(tables, index), high >> 15)
        };
        let s = (2 * (high >> 12 & 7) + 1) as f32;
        piece(eight, [math::from_f16_bits(d) * s * 0.125; 2])
    }
}

/// Low bits of the indices; high bits and shifts; two scales a piece with their scale.
impl DeviceFormat for Iq1M {
    const PLANES: [u32; MAX_PLANES] = [32, 16, 8, 0];
    type Raw = (u32, u16, [u32; 2], u32);

    #[inline(always)]
    fn relay(block: &BlockIq1M, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, header, _] = planes;
        low.copy_from_slice(&block.qs);
        high.copy_from_slice(&block.qh);
        let word = |i: usize| u16::from_le_bytes(block.scales[i]);
        let d = (0..4).map(|i| (word(i) >> 12) << (4 * i)).sum::<u16>();
        let pair = |c: usize| (word(c / 2) >> (6 * (c % 2)) & 63) as u8;
        relay_six_bits(F16Le(d.to_le_bytes()), &from_fn(pair), header);
    }
    fn table() -> &'static [u32] {
        bytemuck::cast_slice(&grid::IQ1)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        let header = matrix.shared8::<2>(i / 8);
        (matrix.stream4::<0>(i), matrix.shared2::<1>(i), header, piece % 8)
    }

    #[inline(always)]
    fn unpack_piece((low, high, header, c): Self::Raw, tables: Global<u32>) -> Piece {
        let high = u32::from(high);
        let eight = |k: u32| {
            let index = low >> (8 * k) & 255 | (high >> (4 * k) & 7) << 8;
            shifted_eight(point_of_eight(tables, index), high >> (4 * k + 3))
        };
        let (d, pair) = (math::from_f16_bits(header[0] as u16), six_bits(header, c));
        let scale = |s: u32| d * (2 * s + 1) as f32 * 0.125;
        piece(eight, [scale(pair & 7), scale(pair >> 3)])
    }
}
