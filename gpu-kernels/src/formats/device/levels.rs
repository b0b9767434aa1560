//! Formats whose 4-bit codes stand for levels: a table of 16 signed bytes in four registers.
//!
//! Codes lie in order, the even ones in low nibbles, as the permutation of bytes selects.

use core::array::from_fn;

use cuda_std::{Global, math};

use super::{DeviceFormat, Piece, relay_six_bits, six_bits};
use crate::formats::iq4_nl::{BlockIq4Nl, Iq4Nl, LEVELS};
use crate::formats::iq4_xs::{BlockIq4Xs, Iq4Xs};
use crate::formats::mxfp4::{BlockMxfp4, FP4_DOUBLED, Mxfp4};
use crate::formats::nvfp4::{BlockNvfp4, Nvfp4};
use crate::formats::scalar::{e8m0_half, ue4m3_half};
use crate::kernels::matrix::{MAX_PLANES, Matrix};

/// 16 levels as four words.
const fn words(levels: [i8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 16 {
        words[i / 4] |= (levels[i] as u8 as u32) << (8 * (i % 4));
        i += 1;
    }
    words
}
const UNEVEN: [u32; 4] = words(LEVELS);
const FP4: [u32; 4] = words(FP4_DOUBLED);

/// The levels of 32 codes.
#[inline(always)]
fn look_up(codes: [u32; 4], table: [u32; 4]) -> [u32; 8] {
    // Three bits choose among eight bytes; the fourth, moved to the third bit of a selector that keeps
    // each byte in its place, between the eight low and the eight high levels.
    let pair = |w: u32| {
        let (low_bits, half) = (w & 0x7777_7777, (w & 0x8888_8888) >> 1 | 0x3210_3210);
        let four = |low_bits: u32, half: u32| {
            let low = math::permute_bytes(table[0], table[1], low_bits);
            let high = math::permute_bytes(table[2], table[3], low_bits);
            math::permute_bytes(low, high, half)
        };
        [four(low_bits, half), four(low_bits >> 16, half >> 16)]
    };
    let ([a, b], [c, d]) = (pair(codes[0]), pair(codes[1]));
    let ([e, f], [g, h]) = (pair(codes[2]), pair(codes[3]));
    [a, b, c, d, e, f, g, h]
}

/// From weight `i` in the low nibble of byte `i` and `i + HALF` in its high nibble, for each `2 · HALF`
/// weights, to codes in order.
#[inline(always)]
fn relay_in_order<const HALF: usize>(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.chunks_exact(HALF).zip(out.chunks_exact_mut(HALF)) {
        for i in 0..HALF / 2 {
            out[i] = codes[2 * i] & 15 | codes[2 * i + 1] << 4;
            out[HALF / 2 + i] = codes[2 * i] >> 4 | codes[2 * i + 1] & 0xf0;
        }
    }
}

/// Codes; scales.
impl DeviceFormat for Iq4Nl {
    const PLANES: [u32; MAX_PLANES] = [16, 2, 0, 0];
    type Raw = ([u32; 4], u16);

    #[inline(always)]
    fn relay(block: &BlockIq4Nl, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        relay_in_order::<16>(&block.qs, codes);
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
        Piece { q: look_up(codes, UNEVEN), scale: [math::from_f16_bits(d); 2], min: [0.0; 2] }
    }
}

/// Codes; headers.
impl DeviceFormat for Iq4Xs {
    const PLANES: [u32; MAX_PLANES] = [128, 8, 0, 0];
    type Raw = ([u32; 4], [u32; 2], u32);

    #[inline(always)]
    fn relay(block: &BlockIq4Xs, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, header, ..] = planes;
        relay_in_order::<16>(block.qs.as_flattened(), codes);
        let high = u16::from_le_bytes(block.scales_h);
        let scale = |g: usize| {
            let low = block.scales_l[g / 2] >> (4 * (g % 2)) & 15;
            low | ((high >> (2 * g) & 3) as u8) << 4
        };
        relay_six_bits(block.d, &from_fn(scale), header);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.shared8::<1>(i / 8), piece % 8)
    }

    #[inline(always)]
    fn unpack_piece((codes, header, c): Self::Raw, _: Global<u32>) -> Piece {
        let d = math::from_f16_bits(header[0] as u16);
        let scale = [d * (six_bits(header, c) as i32 - 32) as f32; 2];
        Piece { q: look_up(codes, UNEVEN), scale, min: [0.0; 2] }
    }
}

/// Codes; scales.
impl DeviceFormat for Mxfp4 {
    const PLANES: [u32; MAX_PLANES] = [16, 1, 0, 0];
    type Raw = ([u32; 4], u8);

    #[inline(always)]
    fn relay(block: &BlockMxfp4, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        relay_in_order::<16>(&block.qs, codes);
        scales[0] = block.e;
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.shared1::<1>(i))
    }

    #[inline(always)]
    fn unpack_piece((codes, e): Self::Raw, _: Global<u32>) -> Piece {
        Piece { q: look_up(codes, FP4), scale: [e8m0_half(e); 2], min: [0.0; 2] }
    }
}

/// Codes; scales.
impl DeviceFormat for Nvfp4 {
    const PLANES: [u32; MAX_PLANES] = [32, 4, 0, 0];
    type Raw = ([u32; 4], u16);

    #[inline(always)]
    fn relay(block: &BlockNvfp4, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, ..] = planes;
        relay_in_order::<8>(block.qs.as_flattened(), codes);
        scales.copy_from_slice(&block.d);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.shared2::<1>(i))
    }

    #[inline(always)]
    fn unpack_piece((codes, d): Self::Raw, _: Global<u32>) -> Piece {
        let scale = [ue4m3_half(d as u8), ue4m3_half((d >> 8) as u8)];
        Piece { q: look_up(codes, FP4), scale, min: [0.0; 2] }
    }
}
