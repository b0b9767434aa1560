//! Weights decoded to F32, 32 at a time, for the operations that do not mind.

use core::marker::PhantomData;

use cuda_std::{Global, math};

use super::gemv::float::{Element, chunks};
use super::matrix::Matrix;
use crate::formats::device::DeviceFormat;

/// How to decode weights: the columns `32 · piece` to `32 · piece + 31` of a row.
pub trait Decode: 'static {
    /// Zeros past the end of the row.
    fn decode(matrix: &Matrix, row: u32, piece: u32, tables: Global<u32>) -> [f32; 32];
}

/// A quantized format.
pub struct Blocks<F>(PhantomData<F>);
/// A float format, in rows as `FloatLayout` says.
pub struct Plain<E>(PhantomData<E>);

impl<F: DeviceFormat> Decode for Blocks<F> {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn decode(matrix: &Matrix, row: u32, piece: u32, tables: Global<u32>) -> [f32; 32] {
        let w = F::unpack_piece(F::load(matrix, matrix.first_piece(row), piece), tables);
        let mut v = [0.0; 32];
        repeat!(8, word, {
            repeat!(4, byte, {
                let q = (w.q[word] >> (8 * byte)) as i8;
                // Rounded after the product and after the difference, as the codecs say.
                v[4 * word + byte] = w.scale[word / 4] * f32::from(q) - w.min[word / 4];
            });
        });
        v
    }
}

impl<E: Element> Decode for Plain<E> {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn decode(matrix: &Matrix, row: u32, piece: u32, _: Global<u32>) -> [f32; 32] {
        let (per, chunks) = (E::PER_CHUNK as usize, chunks::<E>(matrix.cols));
        let row = matrix.planes[0].cast::<[u32; 4]>().at(row as usize * chunks as usize);
        let mut v = [0.0; 32];
        repeat!(8, c, {
            let chunk = piece * (32 / E::PER_CHUNK) + c as u32;
            if per * c < 32 && chunk < chunks {
                let w = E::unpack(row.stream(chunk as usize));
                repeat!(8, i, {
                    if i < per {
                        v[per * c + i] = w[i];
                    }
                });
            }
        });
        v
    }
}

/// `acc + Σ w[i] · x[i]` over the columns there are.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
pub fn multiply(acc: f32, w: &[f32; 32], x: Global<f32>, from: u32, cols: u32) -> f32 {
    let mut acc = acc;
    repeat!(8, k, {
        repeat!(4, j, {
            let (i, at) = (4 * k + j, from + 4 * k as u32 + j as u32);
            if at < cols {
                acc = math::fma(w[i], x.get(at as usize), acc);
            }
        });
    });
    acc
}
