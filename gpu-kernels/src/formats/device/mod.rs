//! How weights lie in device memory, and how a kernel reads them.
//!
//! Blocks of a file mix scales and codes at odd addresses. At upload each block is split over up to
//! four planes ([`Matrix`]), its bits regrouped, and no more: about the same bytes, every load aligned
//! and coalesced, and few instructions from a register to signed bytes. Kernels read pieces of 32
//! consecutive weights: [`DeviceFormat::load`] into registers, then [`DeviceFormat::unpack_piece`].
//!
//! Layouts that several formats share, with `w[i]` the code of weight `i` of a piece:
//!
//! | name | bytes a piece | byte `i` holds |
//! |---|---|---|
//! | nibbles | 16 | `w[i]` low, `w[i + 16]` high |
//! | crumbs | 8 | two bits each of `w[16(i / 4) + 4f + i % 4]` at bit `2f`, f = 0–3 |
//! | bits | 4 | one bit each of `w[4f + i]` at bit `f`, f = 0–7 |
//!
//! so that one shift and one mask give four weights in order, a byte each.

use cuda_std::{Global, math};

use super::scalar::F16Le;
use super::{Codec, Format, array};
use crate::kernels::matrix::{MAX_PLANES, Matrix};

mod codebooks;
mod k_quants;
mod levels;
mod simple;
#[cfg(test)]
pub(crate) mod tests;

/// Weights in a piece.
pub const PIECE_LEN: usize = 32;

/// 32 consecutive weights of a row: weight `i` is `scale[i / 16] · q[i] − min[i / 16]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Signed bytes, weight 0 in the lowest of the first word.
    pub q: [u32; 8],
    /// Scale of each 16; twice the same where the format has one for 32.
    pub scale: [f32; 2],
    /// Minimum of each 16; zeros unless `HAS_MIN`.
    pub min: [f32; 2],
}

/// A quantized format in device memory.
pub trait DeviceFormat: Codec {
    /// Bytes of a block in each plane; 0 where a plane is not used.
    const PLANES: [u32; MAX_PLANES];
    /// What a thread holds of a piece between loading and unpacking.
    type Raw: Copy + Default;

    /// Splits a block as it lies in the file over the planes; slice `i` is `PLANES[i]` bytes.
    fn relay(block: &Self::Block, planes: [&mut [u8]; MAX_PLANES]);

    /// The codebook as the kernels' `tables` parameter points to it; empty where there is none.
    fn table() -> &'static [u32] {
        &[]
    }

    /// Loads piece `piece` of the row whose first piece is number `first` of the matrix
    /// ([`Matrix::first_piece`]): registers only, nothing waits for the memory.
    fn load(matrix: &Matrix, first: u32, piece: u32) -> Self::Raw;

    /// Unpacks what was loaded; equal to [`Codec::unpack`] bit for bit.
    fn unpack_piece(raw: Self::Raw, tables: Global<u32>) -> Piece;
}

/// Receives the device type of a [`Format`] chosen at run time; see [`Format::with_device_format`].
pub trait DeviceVisitor {
    /// What the visit returns.
    type Output;
    /// Called with the format.
    fn visit<F: DeviceFormat>(self) -> Self::Output;
}

impl Format {
    /// Bytes of a block in each plane; `None` for float formats.
    pub fn plane_bytes(self) -> Option<[u32; MAX_PLANES]> {
        struct Planes;
        impl DeviceVisitor for Planes {
            type Output = [u32; MAX_PLANES];
            fn visit<F: DeviceFormat>(self) -> Self::Output {
                F::PLANES
            }
        }
        self.with_device_format(Planes)
    }

    /// The format's codebook for the `tables` parameter of kernels; empty where there is none.
    pub fn table(self) -> &'static [u32] {
        struct Table;
        impl DeviceVisitor for Table {
            type Output = &'static [u32];
            fn visit<F: DeviceFormat>(self) -> Self::Output {
                F::table()
            }
        }
        self.with_device_format(Table).unwrap_or(&[])
    }

    /// Splits whole blocks, as they lie in the file, over planes. Rows follow each other in file and
    /// planes alike, so that ranges of rows may be relaid in parallel, each to its part of the planes.
    ///
    /// # Panics
    /// For float formats, when `bytes` is no whole number of blocks, or when a plane has another length
    /// than the blocks fill.
    pub fn relay(self, bytes: &[u8], planes: [&mut [u8]; MAX_PLANES]) {
        struct Relay<'a>(&'a [u8], [&'a mut [u8]; MAX_PLANES]);
        impl DeviceVisitor for Relay<'_> {
            type Output = ();
            fn visit<F: DeviceFormat>(self) {
                relay_blocks::<F>(self.0, self.1);
            }
        }
        let done = self.with_device_format(Relay(bytes, planes));
        assert!(done.is_some(), "only quantized weights lie in planes");
    }
}

fn relay_blocks<F: DeviceFormat>(bytes: &[u8], [p0, p1, p2, p3]: [&mut [u8]; MAX_PLANES]) {
    let blocks: &[F::Block] = bytemuck::cast_slice(bytes);
    let len = F::PLANES.map(|bytes| bytes as usize);
    for (plane, len) in [&p0, &p1, &p2, &p3].iter().zip(len) {
        assert!(
            plane.len() == blocks.len() * len,
            "a plane of another length than the blocks fill"
        );
    }
    for (i, block) in blocks.iter().enumerate() {
        let part = |len: usize| i * len..(i + 1) * len;
        let planes = [
            &mut p0[part(len[0])],
            &mut p1[part(len[1])],
            &mut p2[part(len[2])],
            &mut p3[part(len[3])],
        ];
        F::relay(block, planes);
    }
}

// Upload: bits regrouped by plain array code over 16 or more bytes, which LLVM turns into vectors.

/// 32 nibbles, those of nibble `shift / 4` of each byte, as the layout "nibbles".
#[inline(always)]
fn relay_nibbles(codes: &[u8; 32], shift: u32, out: &mut [u8]) {
    let out: &mut [u8; 16] = array(out);
    for i in 0..16 {
        out[i] = (codes[i] >> shift & 15) | (codes[i + 16] >> shift & 15) << 4;
    }
}

/// 32 fields of two bits at bit `shift` of each byte, as the layout "crumbs".
#[inline(always)]
fn relay_crumbs(codes: &[u8; 32], shift: u32, out: &mut [u8]) {
    let out: &mut [u8; 8] = array(out);
    let word = |i: usize| u32::from_le_bytes(*codes[4 * i..].first_chunk().expect("four of 32"));
    for k in 0..2 {
        let mut packed = 0;
        for f in 0..4 {
            packed |= (word(4 * k + f) >> shift & 0x0303_0303) << (2 * f);
        }
        out[4 * k..4 * k + 4].copy_from_slice(&packed.to_le_bytes());
    }
}

/// 32 bits at bit `shift` of each byte, as the layout "bits".
#[inline(always)]
fn relay_bits(codes: &[u8; 32], shift: u32, out: &mut [u8]) {
    let word = |i: usize| u32::from_le_bytes(*codes[4 * i..].first_chunk().expect("four of 32"));
    let mut packed = 0;
    for f in 0..8 {
        packed |= (word(f) >> shift & 0x0101_0101) << f;
    }
    *array(out) = packed.to_le_bytes();
}

/// The 32 bytes from `i` on.
#[inline(always)]
fn thirty_two(bytes: &[u8], i: usize) -> &[u8; 32] {
    bytes[i..].first_chunk().expect("a block holds whole pieces")
}

/// The header of a block of eight pieces: two halves and two 6-bit numbers a piece, 16 bytes.
///
/// Bytes 0–3 the halves; byte `4 + c` the low number of piece `c` and above it the two low bits of the
/// high one; nibble `c` of bytes 12–15 its four high bits. Read by [`header_pair`].
#[inline(always)]
fn relay_header(halves: [F16Le; 2], low: &[u8; 8], high: &[u8; 8], out: &mut [u8]) {
    let out: &mut [u8; 16] = array(out);
    out[..2].copy_from_slice(&halves[0].0);
    out[2..4].copy_from_slice(&halves[1].0);
    for c in 0..8 {
        out[4 + c] = low[c] | high[c] << 6;
    }
    for i in 0..4 {
        out[12 + i] = high[2 * i] >> 2 | high[2 * i + 1] >> 2 << 4;
    }
}

/// A small header of a block of eight pieces: a half and a 6-bit number a piece, 8 bytes. Read by
/// [`six_bits`].
#[inline(always)]
fn relay_six_bits(half: F16Le, numbers: &[u8; 8], out: &mut [u8]) {
    let half = u64::from(u16::from_le_bytes(half.0));
    let numbers = numbers.iter().rev().fold(0, |packed, &n| packed << 6 | u64::from(n));
    *array(out) = (half | numbers << 16).to_le_bytes();
}

/// Bit `i` of a word as that of weight `i` in the layout "bits".
#[inline(always)]
fn bits_of_word(word: u32) -> u32 {
    // The product moves bit i of four to bit 8i.
    (0..8).map(|f| (((word >> (4 * f) & 15) * 0x0020_4081) & 0x0101_0101) << f).sum()
}

// Device.

/// The 6-bit number of piece `c` (0–7) in a small header.
#[inline(always)]
fn six_bits(header: [u32; 2], c: u32) -> u32 {
    let header = u64::from(header[0]) | u64::from(header[1]) << 32;
    (header >> (16 + 6 * c)) as u32 & 63
}

/// The two 6-bit numbers of piece `c` (0–7) in a header.
#[inline(always)]
fn header_pair(header: [u32; 4], c: u32) -> [u32; 2] {
    let byte = math::permute_bytes(header[1], header[2], c);
    [byte & 63, (byte >> 6 & 3) | (header[3] >> (4 * c) & 15) << 2]
}

/// The codes of a piece of nibbles.
#[inline(always)]
fn nibbles(w: [u32; 4]) -> [u32; 8] {
    const LOW: u32 = 0x0f0f_0f0f;
    [
        w[0] & LOW,
        w[1] & LOW,
        w[2] & LOW,
        w[3] & LOW,
        w[0] >> 4 & LOW,
        w[1] >> 4 & LOW,
        w[2] >> 4 & LOW,
        w[3] >> 4 & LOW,
    ]
}

/// The codes of a piece of crumbs, at bit `AT` of each byte.
#[inline(always)]
fn crumbs<const AT: u32>(w: [u32; 2]) -> [u32; 8] {
    let mask = 0x0303_0303 << AT;
    [
        shift::<AT, 0>(w[0]) & mask,
        shift::<AT, 2>(w[0]) & mask,
        shift::<AT, 4>(w[0]) & mask,
        shift::<AT, 6>(w[0]) & mask,
        shift::<AT, 0>(w[1]) & mask,
        shift::<AT, 2>(w[1]) & mask,
        shift::<AT, 4>(w[1]) & mask,
        shift::<AT, 6>(w[1]) & mask,
    ]
}

/// The bits of a piece of bits, at bit `AT` of each byte.
#[inline(always)]
fn bits<const AT: u32>(w: u32) -> [u32; 8] {
    let mask = 0x0101_0101 << AT;
    [
        shift::<AT, 0>(w) & mask,
        shift::<AT, 1>(w) & mask,
        shift::<AT, 2>(w) & mask,
        shift::<AT, 3>(w) & mask,
        shift::<AT, 4>(w) & mask,
        shift::<AT, 5>(w) & mask,
        shift::<AT, 6>(w) & mask,
        shift::<AT, 7>(w) & mask,
    ]
}

/// Moves bit `FROM` to bit `AT`.
#[inline(always)]
fn shift<const AT: u32, const FROM: u32>(w: u32) -> u32 {
    if AT >= FROM { w << (AT - FROM) } else { w >> (FROM - AT) }
}

/// `a | b`, word by word.
#[inline(always)]
fn or(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
    [
        a[0] | b[0],
        a[1] | b[1],
        a[2] | b[2],
        a[3] | b[3],
        a[4] | b[4],
        a[5] | b[5],
        a[6] | b[6],
        a[7] | b[7],
    ]
}

/// Every byte, 0 to 127, less `BIAS`.
#[inline(always)]
fn less<const BIAS: u32>(q: [u32; 8]) -> [u32; 8] {
    // Adding 128 − BIAS carries into no other byte, and turning the top bit takes the 128 off again.
    let add = (128 - BIAS) * 0x0101_0101;
    const TOP: u32 = 0x8080_8080;
    [
        (q[0] + add) ^ TOP,
        (q[1] + add) ^ TOP,
        (q[2] + add) ^ TOP,
        (q[3] + add) ^ TOP,
        (q[4] + add) ^ TOP,
        (q[5] + add) ^ TOP,
        (q[6] + add) ^ TOP,
        (q[7] + add) ^ TOP,
    ]
}

/// Both halves of two words as one piece's eight.
#[inline(always)]
fn eight(a: [u32; 4], b: [u32; 4]) -> [u32; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}
