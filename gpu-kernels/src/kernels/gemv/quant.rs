//! Quantized weights: integer dot products with 16-bit activations.

use core::marker::PhantomData;

use cuda_std::{Global, Thread, math};

use super::walk::Weights;
use crate::formats::device::{DeviceFormat, Piece};
use crate::kernels::matrix::Matrix;
use crate::kernels::operand::OperandIn;

/// Weights of a quantized format.
pub struct Quantized<F>(PhantomData<F>);

impl<F: DeviceFormat> Weights for Quantized<F> {
    type Raw = F::Raw;
    type Piece = Piece;
    type X = Activations;

    #[inline(always)]
    fn pieces(cols: u32) -> u32 {
        cols / 32
    }
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(matrix: &Matrix, row: u32, piece: u32) -> F::Raw {
        F::load(matrix, matrix.first_piece(row), piece)
    }
    #[inline(always)]
    fn unpack(raw: F::Raw, tables: Global<u32>) -> Piece {
        F::unpack_piece(raw, tables)
    }
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load_x<const M: usize>(
        t: Thread,
        x: &OperandIn,
        cols: u32,
        token: u32,
        piece: u32,
    ) -> Activations {
        Activations::load::<F, M>(t, x, token * (cols / 32) + piece)
    }
    #[inline(always)]
    fn dot(acc: f32, w: &Piece, x: &Activations) -> f32 {
        dot::<F>(acc, w, x)
    }
}

/// A piece of an operand's row in the integer form.
#[derive(Clone, Copy)]
pub struct Activations {
    high: [u32; 8],
    low: [u32; 8],
    scale: f32,
    sums: [f32; 2],
}

impl Activations {
    /// Piece number `i` of the operand, the lane's number in a run of them.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load<F: DeviceFormat, const M: usize>(t: Thread, x: &OperandIn, i: u32) -> Activations {
        // Not by `constant`: the kernel before may still have been writing when this one began.
        Activations {
            high: eight_words::<M>(t, x.high, i),
            low: eight_words::<M>(t, x.low, i),
            scale: x.scale.get(i as usize),
            sums: if F::HAS_MIN { x.sums.cast::<[f32; 2]>().get(i as usize) } else { [0.0; 2] },
        }
    }
}

/// Words `8i` to `8i + 7`.
///
/// A load of 16 bytes a lane goes eight lanes at a time, and is fastest when these eight meet all
/// banks of the cache: the first four take the first half of their 32 bytes while the others take the
/// second, and then the other way round. One row of `x` does not need that.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
fn eight_words<const M: usize>(t: Thread, x: Global<u32>, i: u32) -> [u32; 8] {
    let swapped = if M == 1 { 0 } else { t.lane() >> 2 & 1 };
    let halves = x.cast::<[u32; 4]>();
    let a = halves.get((2 * i + swapped) as usize);
    let b = halves.get((2 * i + (swapped ^ 1)) as usize);
    let (a, b) = if swapped == 0 { (a, b) } else { (b, a) };
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// `acc + w · x` over a piece.
#[inline(always)]
fn dot<F: DeviceFormat>(acc: f32, w: &Piece, x: &Activations) -> f32 {
    // 32 products of 8 by 16 bits stay below 2²⁷.
    if F::GROUP_LEN == 32 {
        let sum = sum::<0, 8>(w, x);
        let acc = math::fma(sum as f32, w.scale[0] * x.scale, acc);
        if F::HAS_MIN { math::fma(-w.min[0], x.sums[0] + x.sums[1], acc) } else { acc }
    } else {
        let (first, second) = (sum::<0, 4>(w, x), sum::<4, 8>(w, x));
        let acc = math::fma(first as f32, w.scale[0] * x.scale, acc);
        let acc = math::fma(second as f32, w.scale[1] * x.scale, acc);
        if F::HAS_MIN {
            math::fma(-w.min[1], x.sums[1], math::fma(-w.min[0], x.sums[0], acc))
        } else {
            acc
        }
    }
}

/// `Σ q · (256 · high + low)` over words `FROM` to `TO`.
#[inline(always)]
fn sum<const FROM: usize, const TO: usize>(w: &Piece, x: &Activations) -> i32 {
    let (mut high, mut low) = (0, 0);
    repeat!(8, i, {
        if FROM <= i && i < TO {
            high = math::dp4a(w.q[i], x.high[i], high);
            low = math::dp4a(w.q[i], x.low[i], low);
        }
    });
    256 * high + low
}
