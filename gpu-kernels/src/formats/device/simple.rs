//! Formats with a scale (and a minimum) in full beside the codes.

use core::array::from_fn;

use cuda_std::{Global, math};

use super::{
    DeviceFormat, Piece, bits, bits_of_word, crumbs, eight, less, nibbles, or, relay_crumbs,
    thirty_two,
};
use crate::formats::Codec;
use crate::formats::q1_0::{BlockQ1_0, Q1_0};
use crate::formats::q2_0::{BlockQ2_0, Q2_0};
use crate::formats::q4_0::{BlockQ4_0, Q4_0};
use crate::formats::q4_1::{BlockQ4_1, Q4_1};
use crate::formats::q5_0::{BlockQ5_0, Q5_0};
use crate::formats::q5_1::{BlockQ5_1, Q5_1};
use crate::formats::q8_0::{BlockQ8_0, Q8_0};
use crate::formats::q8_k::{BlockQ8K, Q8K};
use crate::formats::tq1_0::{BlockTq1_0, Tq1_0};
use crate::formats::tq2_0::{BlockTq2_0, Tq2_0};
use crate::kernels::matrix::{MAX_PLANES, Matrix};

/// First and second 16 weights of a block in planes of their own, so that the lanes of a warp read
/// 16 bytes side by side; scales.
impl DeviceFormat for Q8_0 {
    const PLANES: [u32; MAX_PLANES] = [16, 16, 2, 0];
    type Raw = ([u32; 4], [u32; 4], u16);

    #[inline(always)]
    fn relay(block: &BlockQ8_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [first, second, scales, _] = planes;
        let qs = block.qs.map(|q| q as u8);
        first.copy_from_slice(&qs[..16]);
        second.copy_from_slice(&qs[16..]);
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.stream16::<1>(i), matrix.shared2::<2>(i))
    }

    #[inline(always)]
    fn unpack_piece((a, b, d): Self::Raw, _: Global<u32>) -> Piece {
        Piece { q: eight(a, b), scale: [math::from_f16_bits(d); 2], min: [0.0; 2] }
    }
}

/// Nibbles; scales.
impl DeviceFormat for Q4_0 {
    const PLANES: [u32; MAX_PLANES] = [16, 2, 0, 0];
    type Raw = ([u32; 4], u16);

    #[inline(always)]
    fn relay(block: &BlockQ4_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        codes.copy_from_slice(&block.qs);
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.shared2::<1>(i))
    }

    #[inline(always)]
    fn unpack_piece((codes, d): Self::Raw, _: Global<u32>) -> Piece {
        Piece { q: less::<8>(nibbles(codes)), scale: [math::from_f16_bits(d); 2], min: [0.0; 2] }
    }
}

/// A scale and the value of code 0, both halves of a word, for all of a piece.
#[inline(always)]
fn scale_and_least(word: u32) -> ([f32; 2], [f32; 2]) {
    let [d, m] = math::unpack_f16(word);
    ([d; 2], [-m; 2])
}

/// Nibbles; scale and minimum.
impl DeviceFormat for Q4_1 {
    const PLANES: [u32; MAX_PLANES] = [16, 4, 0, 0];
    type Raw = ([u32; 4], u32);

    #[inline(always)]
    fn relay(block: &BlockQ4_1, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        codes.copy_from_slice(&block.qs);
        scales[..2].copy_from_slice(&block.d.0);
        scales[2..].copy_from_slice(&block.m.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.shared4::<1>(i))
    }

    #[inline(always)]
    fn unpack_piece((codes, scales): Self::Raw, _: Global<u32>) -> Piece {
        let (scale, min) = scale_and_least(scales);
        Piece { q: nibbles(codes), scale, min }
    }
}

/// Nibbles of the low bits; bits of the high; scales.
impl DeviceFormat for Q5_0 {
    const PLANES: [u32; MAX_PLANES] = [16, 4, 2, 0];
    type Raw = ([u32; 4], u32, u16);

    #[inline(always)]
    fn relay(block: &BlockQ5_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, scales, _] = planes;
        low.copy_from_slice(&block.qs);
        high.copy_from_slice(&bits_of_word(u32::from_le_bytes(block.qh)).to_le_bytes());
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.stream4::<1>(i), matrix.shared2::<2>(i))
    }

    #[inline(always)]
    fn unpack_piece((low, high, d): Self::Raw, _: Global<u32>) -> Piece {
        let q = less::<16>(or(nibbles(low), bits::<4>(high)));
        Piece { q, scale: [math::from_f16_bits(d); 2], min: [0.0; 2] }
    }
}

/// Nibbles of the low bits; bits of the high; scale and minimum.
impl DeviceFormat for Q5_1 {
    const PLANES: [u32; MAX_PLANES] = [16, 4, 4, 0];
    type Raw = ([u32; 4], u32, u32);

    #[inline(always)]
    fn relay(block: &BlockQ5_1, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, scales, _] = planes;
        low.copy_from_slice(&block.qs);
        high.copy_from_slice(&bits_of_word(u32::from_le_bytes(block.qh)).to_le_bytes());
        scales[..2].copy_from_slice(&block.d.0);
        scales[2..].copy_from_slice(&block.m.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.stream4::<1>(i), matrix.shared4::<2>(i))
    }

    #[inline(always)]
    fn unpack_piece((low, high, scales): Self::Raw, _: Global<u32>) -> Piece {
        let (scale, min) = scale_and_least(scales);
        Piece { q: or(nibbles(low), bits::<4>(high)), scale, min }
    }
}

/// First and second 16 weights of each piece, as [`Q8_0`]; scales.
impl DeviceFormat for Q8K {
    const PLANES: [u32; MAX_PLANES] = [128, 128, 4, 0];
    type Raw = ([u32; 4], [u32; 4], u32);

    #[inline(always)]
    fn relay(block: &BlockQ8K, planes: [&mut [u8]; MAX_PLANES]) {
        let [first, second, scales, _] = planes;
        for g in 0..8 {
            for i in 0..16 {
                first[16 * g + i] = block.qs[32 * g + i] as u8;
                second[16 * g + i] = block.qs[32 * g + 16 + i] as u8;
            }
        }
        scales.copy_from_slice(&block.d);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.stream16::<1>(i), matrix.shared4::<2>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((a, b, d): Self::Raw, _: Global<u32>) -> Piece {
        Piece { q: eight(a, b), scale: [f32::from_bits(d); 2], min: [0.0; 2] }
    }
}

/// Bits; scales.
impl DeviceFormat for Q1_0 {
    const PLANES: [u32; MAX_PLANES] = [16, 2, 0, 0];
    type Raw = (u32, u16);

    #[inline(always)]
    fn relay(block: &BlockQ1_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        let pieces = block.qs.as_chunks::<4>().0.iter();
        for (bytes, out) in pieces.zip(codes.as_chunks_mut::<4>().0) {
            *out = bits_of_word(u32::from_le_bytes(*bytes)).to_le_bytes();
        }
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream4::<0>(i), matrix.shared2::<1>(i / 4))
    }

    #[inline(always)]
    fn unpack_piece((codes, d): Self::Raw, _: Global<u32>) -> Piece {
        // 2 for plus and 0 for minus, less 1.
        let q = less::<1>(bits::<1>(codes));
        Piece { q, scale: [math::from_f16_bits(d); 2], min: [0.0; 2] }
    }
}

/// Codes less 1 in crumbs, and a scale.
#[inline(always)]
fn ternary(codes: [u32; 2], d: u16) -> Piece {
    let q = less::<1>(crumbs::<0>(codes));
    Piece { q, scale: [math::from_f16_bits(d); 2], min: [0.0; 2] }
}

/// Crumbs; scales.
impl DeviceFormat for Q2_0 {
    const PLANES: [u32; MAX_PLANES] = [16, 2, 0, 0];
    type Raw = ([u32; 2], u16);

    #[inline(always)]
    fn relay(block: &BlockQ2_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        for g in 0..2 {
            let codes_of = from_fn(|i| block.qs[8 * g + i / 4] >> (2 * (i % 4)));
            relay_crumbs(&codes_of, 0, &mut codes[8 * g..8 * g + 8]);
        }
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.shared2::<1>(i / 2))
    }

    #[inline(always)]
    fn unpack_piece((codes, d): Self::Raw, _: Global<u32>) -> Piece {
        ternary(codes, d)
    }
}

/// Crumbs; scales.
impl DeviceFormat for Tq2_0 {
    const PLANES: [u32; MAX_PLANES] = [64, 2, 0, 0];
    type Raw = ([u32; 2], u16);

    #[inline(always)]
    fn relay(block: &BlockTq2_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        for g in 0..8 {
            let from = thirty_two(&block.qs, 32 * (g / 4));
            relay_crumbs(from, 2 * (g as u32 % 4), &mut codes[8 * g..8 * g + 8]);
        }
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.shared2::<1>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((codes, d): Self::Raw, _: Global<u32>) -> Piece {
        ternary(codes, d)
    }
}

/// Crumbs; scales. Five weights to a byte would not fall into pieces of whole words: these are a fifth
/// more bytes than in the file.
impl DeviceFormat for Tq1_0 {
    const PLANES: [u32; MAX_PLANES] = [64, 2, 0, 0];
    type Raw = ([u32; 2], u16);

    #[inline(always)]
    fn relay(block: &BlockTq1_0, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        let mut q = [0; 256];
        Tq1_0::unpack(block, &mut q, &mut [0.0; 8], &mut [0.0; 8]);
        for g in 0..8 {
            let codes_of = from_fn(|i| (q[32 * g + i] + 1) as u8);
            relay_crumbs(&codes_of, 0, &mut codes[8 * g..8 * g + 8]);
        }
        scales.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.shared2::<1>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((codes, d): Self::Raw, _: Global<u32>) -> Piece {
        ternary(codes, d)
    }
}
