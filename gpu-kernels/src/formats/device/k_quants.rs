//! K-quants: blocks of eight pieces whose scales and minima are themselves quantized.

use cuda_std::{Global, math};

use core::array::from_fn;

use super::{
    DeviceFormat, Piece, bits, crumbs, header_pair, less, nibbles, or, relay_bits, relay_crumbs,
    relay_header, relay_nibbles, thirty_two,
};
use crate::formats::q2_k::{BlockQ2K, Q2K};
use crate::formats::q3_k::{BlockQ3K, Q3K, scale_codes};
use crate::formats::q4_k::{BlockQ4K, Q4K, scales_and_minima};
use crate::formats::q5_k::{BlockQ5K, Q5K};
use crate::formats::q6_k::{BlockQ6K, Q6K};
use crate::formats::scalar::F16Le;
use crate::kernels::matrix::{MAX_PLANES, Matrix};

/// Scale and minimum of a piece from its block's header.
#[inline(always)]
fn affine(header: [u32; 4], c: u32) -> ([f32; 2], [f32; 2]) {
    let [s, m] = header_pair(header, c);
    let [d, dmin] = math::unpack_f16(header[0]);
    ([d * s as f32; 2], [dmin * m as f32; 2])
}

/// Nibbles; headers.
impl DeviceFormat for Q4K {
    const PLANES: [u32; MAX_PLANES] = [128, 16, 0, 0];
    type Raw = ([u32; 4], [u32; 4], u32);

    #[inline(always)]
    fn relay(block: &BlockQ4K, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, header, ..] = planes;
        for g in 0..8 {
            let from = thirty_two(&block.qs, 32 * (g / 2));
            relay_nibbles(from, 4 * (g as u32 % 2), &mut codes[16 * g..16 * g + 16]);
        }
        let (s, m) = scales_and_minima(&block.scales);
        relay_header([block.d, block.dmin], &s, &m, header);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream16::<0>(i), matrix.shared16::<1>(i / 8), piece % 8)
    }

    #[inline(always)]
    fn unpack_piece((codes, header, c): Self::Raw, _: Global<u32>) -> Piece {
        let (scale, min) = affine(header, c);
        Piece { q: nibbles(codes), scale, min }
    }
}

/// Nibbles of the low bits; crumbs of the high bits; scales; scales of the scales.
impl DeviceFormat for Q6K {
    const PLANES: [u32; MAX_PLANES] = [128, 64, 16, 2];
    type Raw = ([u32; 4], [u32; 2], u16, u16);

    #[inline(always)]
    fn relay(block: &BlockQ6K, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, scales, d] = planes;
        for g in 0..8 {
            let (c, j) = (g / 4, g % 4);
            let from = thirty_two(&block.ql, 64 * c + 32 * (j % 2));
            relay_nibbles(from, 4 * (j as u32 / 2), &mut low[16 * g..16 * g + 16]);
            let from = thirty_two(&block.qh, 32 * c);
            relay_crumbs(from, 2 * j as u32, &mut high[8 * g..8 * g + 8]);
        }
        scales.copy_from_slice(&block.scales.map(|s| s as u8));
        d.copy_from_slice(&block.d.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        let (s, d) = (matrix.shared2::<2>(i), matrix.shared2::<3>(i / 8));
        (matrix.stream16::<0>(i), matrix.stream8::<1>(i), s, d)
    }

    #[inline(always)]
    fn unpack_piece((low, high, s, d): Self::Raw, _: Global<u32>) -> Piece {
        let d = math::from_f16_bits(d);
        let scale = [d * f32::from(s as i8), d * f32::from((s >> 8) as i8)];
        let q = less::<32>(or(nibbles(low), crumbs::<4>(high)));
        Piece { q, scale, min: [0.0; 2] }
    }
}

/// Crumbs; scales and minima; their scales.
impl DeviceFormat for Q2K {
    const PLANES: [u32; MAX_PLANES] = [64, 16, 4, 0];
    type Raw = ([u32; 2], u16, u32);

    #[inline(always)]
    fn relay(block: &BlockQ2K, planes: [&mut [u8]; MAX_PLANES]) {
        let [codes, scales, halves, _] = planes;
        for g in 0..8 {
            let from = thirty_two(&block.qs, 32 * (g / 4));
            relay_crumbs(from, 2 * (g as u32 % 4), &mut codes[8 * g..8 * g + 8]);
        }
        scales.copy_from_slice(&block.scales);
        halves[..2].copy_from_slice(&block.d.0);
        halves[2..].copy_from_slice(&block.dmin.0);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        (matrix.stream8::<0>(i), matrix.shared2::<1>(i), matrix.shared4::<2>(i / 8))
    }

    #[inline(always)]
    fn unpack_piece((codes, scales, halves): Self::Raw, _: Global<u32>) -> Piece {
        let [d, dmin] = math::unpack_f16(halves);
        let nibble = |n: u32| (u32::from(scales) >> (4 * n) & 15) as f32;
        Piece {
            q: crumbs::<0>(codes),
            scale: [d * nibble(0), d * nibble(2)],
            min: [dmin * nibble(1), dmin * nibble(3)],
        }
    }
}

/// Crumbs of the low bits; bits of the high; headers of two scales a piece.
impl DeviceFormat for Q3K {
    const PLANES: [u32; MAX_PLANES] = [64, 32, 16, 0];
    type Raw = ([u32; 2], u32, [u32; 4], u32);

    #[inline(always)]
    fn relay(block: &BlockQ3K, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, header, _] = planes;
        for g in 0..8 {
            let from = thirty_two(&block.qs, 32 * (g / 4));
            relay_crumbs(from, 2 * (g as u32 % 4), &mut low[8 * g..8 * g + 8]);
            relay_bits(&block.hmask, g as u32, &mut high[4 * g..4 * g + 4]);
        }
        let scales = scale_codes(&block.scales);
        let (even, odd) = (from_fn(|c| scales[2 * c]), from_fn(|c| scales[2 * c + 1]));
        relay_header([block.d, F16Le([0; 2])], &even, &odd, header);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        let header = matrix.shared16::<2>(i / 8);
        (matrix.stream8::<0>(i), matrix.stream4::<1>(i), header, piece % 8)
    }

    #[inline(always)]
    fn unpack_piece((low, high, header, c): Self::Raw, _: Global<u32>) -> Piece {
        let d = math::from_f16_bits(header[0] as u16);
        let scale = header_pair(header, c).map(|s| d * (s as i32 - 32) as f32);
        Piece { q: less::<4>(or(crumbs::<0>(low), bits::<2>(high))), scale, min: [0.0; 2] }
    }
}

/// Nibbles of the low bits; bits of the high; headers.
impl DeviceFormat for Q5K {
    const PLANES: [u32; MAX_PLANES] = [128, 32, 16, 0];
    type Raw = ([u32; 4], u32, [u32; 4], u32);

    #[inline(always)]
    fn relay(block: &BlockQ5K, planes: [&mut [u8]; MAX_PLANES]) {
        let [low, high, header, _] = planes;
        for g in 0..8 {
            let from = thirty_two(&block.qs, 32 * (g / 2));
            relay_nibbles(from, 4 * (g as u32 % 2), &mut low[16 * g..16 * g + 16]);
            relay_bits(&block.qh, g as u32, &mut high[4 * g..4 * g + 4]);
        }
        let (s, m) = scales_and_minima(&block.scales);
        relay_header([block.d, block.dmin], &s, &m, header);
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw {
        let i = first + piece;
        let header = matrix.shared16::<2>(i / 8);
        (matrix.stream16::<0>(i), matrix.stream4::<1>(i), header, piece % 8)
    }

    #[inline(always)]
    fn unpack_piece((low, high, header, c): Self::Raw, _: Global<u32>) -> Piece {
        let (scale, min) = affine(header, c);
        Piece { q: or(nibbles(low), bits::<4>(high)), scale, min }
    }
}
