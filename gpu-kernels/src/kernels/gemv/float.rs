//! Float weights: products in F32 with F32 activations.
//!
//! A row of the matrix's first plane is padded with zeros to whole *chunks* of 16 bytes, so that any
//! number of columns can be read sixteen bytes at a time.

use core::marker::PhantomData;

use cuda_std::{Global, Thread, f16, math};
use half::bf16;

use super::walk::Weights;
use crate::formats::Format;
use crate::kernels::matrix::Matrix;
use crate::kernels::operand::OperandIn;

/// How float weights lie in the first plane of a [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatLayout {
    /// Bytes of a row of the file.
    pub file_row_bytes: usize,
    /// Bytes from a row to the next: whole chunks of 16.
    pub row_bytes: usize,
}

impl FloatLayout {
    /// For rows of `cols` weights; `None` for quantized formats.
    pub fn new(format: Format, cols: usize) -> Option<FloatLayout> {
        let file_row_bytes = cols * format.block_bytes();
        let row_bytes = file_row_bytes.next_multiple_of(16);
        (format.block_len() == 1).then_some(FloatLayout { file_row_bytes, row_bytes })
    }
    /// Copies whole rows of a file to their part of the plane.
    ///
    /// # Panics
    /// When the slices are not as many rows.
    pub fn relay(self, bytes: &[u8], plane: &mut [u8]) {
        let rows = bytes.chunks_exact(self.file_row_bytes);
        assert!(plane.len() == rows.len() * self.row_bytes, "a plane that the rows fill");
        for (row, out) in rows.zip(plane.chunks_exact_mut(self.row_bytes)) {
            out[..row.len()].copy_from_slice(row);
            out[row.len()..].fill(0);
        }
    }
}

/// A type of float weights.
pub trait Element: 'static {
    /// Weights in a chunk: 4 or 8.
    const PER_CHUNK: u32;
    /// The weights of a chunk; zeros after the fourth where there are four.
    fn unpack(chunk: [u32; 4]) -> [f32; 8];
}

impl Element for f32 {
    const PER_CHUNK: u32 = 4;
    #[inline(always)]
    fn unpack(c: [u32; 4]) -> [f32; 8] {
        let [a, b, c, d] = c.map(f32::from_bits);
        [a, b, c, d, 0.0, 0.0, 0.0, 0.0]
    }
}

/// Pairs from four words.
#[inline(always)]
fn pairs(c: [u32; 4], pair: impl Fn(u32) -> [f32; 2]) -> [f32; 8] {
    let ([a, b], [d, e], [f, g], [h, i]) = (pair(c[0]), pair(c[1]), pair(c[2]), pair(c[3]));
    [a, b, d, e, f, g, h, i]
}

impl Element for f16 {
    const PER_CHUNK: u32 = 8;
    #[inline(always)]
    fn unpack(c: [u32; 4]) -> [f32; 8] {
        pairs(c, math::unpack_f16)
    }
}

impl Element for bf16 {
    const PER_CHUNK: u32 = 8;
    #[inline(always)]
    fn unpack(c: [u32; 4]) -> [f32; 8] {
        pairs(c, |w| [f32::from_bits(w << 16), f32::from_bits(w & 0xffff_0000)])
    }
}

/// Chunks of a row.
#[inline(always)]
pub fn chunks<E: Element>(cols: u32) -> u32 {
    cols.div_ceil(E::PER_CHUNK)
}

/// Chunk `chunk` of a row of `x`, zeros past its end.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn load_x<E: Element>(x: &OperandIn, cols: u32, token: u32, chunk: u32) -> [f32; 8] {
    let row = x.float.at(token as usize * cols as usize);
    let start = chunk * E::PER_CHUNK;
    let mut v = [0.0; 8];
    if cols.is_multiple_of(4) {
        // Rows start at multiples of 16 bytes.
        repeat!(2, half, {
            let at = start + 4 * half as u32;
            if 4 * half < E::PER_CHUNK as usize && at < cols {
                let four = row.cast::<[f32; 4]>().get((at / 4) as usize);
                repeat!(4, i, {
                    v[4 * half + i] = four[i];
                });
            }
        });
    } else {
        repeat!(8, i, {
            let at = start + i as u32;
            if i < E::PER_CHUNK as usize && at < cols {
                v[i] = row.get(at as usize);
            }
        });
    }
    v
}

/// Float weights of type `E`. A piece is two chunks of which the second is that of the same lane, were
/// the warp one step on: every load of a warp is of 512 bytes side by side.
pub struct Float<E>(PhantomData<E>);

impl<E: Element> Float<E> {
    #[inline(always)]
    fn first_chunk(piece: u32) -> u32 {
        piece / 32 * 64 + piece % 32
    }
}

impl<E: Element> Weights for Float<E> {
    type Raw = [[u32; 4]; 2];
    type Piece = [[u32; 4]; 2];
    type X = [[f32; 8]; 2];

    #[inline(always)]
    fn pieces(cols: u32) -> u32 {
        chunks::<E>(cols).div_ceil(64) * 32
    }
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, row: u32, piece: u32) -> Self::Raw {
        let chunks = chunks::<E>(matrix.cols);
        // Not counted in 32 bits: chunks may be as small as four weights.
        let row = matrix.planes[0].cast::<[u32; 4]>().at(row as usize * chunks as usize);
        let mut raw = [[0; 4]; 2];
        repeat!(2, i, {
            let chunk = Self::first_chunk(piece) + 32 * i as u32;
            if chunk < chunks {
                raw[i] = row.stream(chunk as usize);
            }
        });
        raw
    }
    #[inline(always)]
    fn unpack(raw: Self::Raw, _: Global<u32>) -> Self::Piece {
        raw
    }
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load_x<const M: usize>(
        _: Thread,
        x: &OperandIn,
        cols: u32,
        token: u32,
        piece: u32,
    ) -> Self::X {
        let chunk = Self::first_chunk(piece);
        [load_x::<E>(x, cols, token, chunk), load_x::<E>(x, cols, token, chunk + 32)]
    }
    #[inline(always)]
    fn dot(mut acc: f32, w: &Self::Piece, x: &Self::X) -> f32 {
        repeat!(2, i, {
            let w = E::unpack(w[i]);
            repeat!(8, j, {
                if j < E::PER_CHUNK as usize {
                    acc = math::fma(w[j], x[i][j], acc);
                }
            });
        });
        acc
    }
}
