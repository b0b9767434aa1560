//! How a lane gets its weights: a run of a row from memory, and from it the words of `mma`.

use core::marker::PhantomData;

use cuda_std::{Global, math};

use crate::formats::device::DeviceFormat;
use crate::kernels::matrix::Matrix;

/// Weights as the product reads them.
pub trait Weights {
    /// Consecutive weights of a row that a lane loads together: 8 or 32.
    const RUN: u32;
    /// Blocks that are loaded ahead: 1 or 2.
    const AHEAD: usize;
    /// A run as it was loaded.
    type Raw: Copy;
    /// A run that is being multiplied.
    type Held: Copy;

    /// Loads run `run` of the row before which lie `first` runs.
    fn load(w: &Matrix, first: u32, run: u32) -> Self::Raw;
    /// Makes a run ready. Weights are multiplied by `scale`, see
    /// [`GemmParams::weight_scale`](super::GemmParams::weight_scale); `tables` holds the format's codebook.
    fn hold(raw: Self::Raw, scale: f32, tables: Global<u32>) -> Self::Held;
    /// Weights `4j`, `4j + 1` and `4j + 2`, `4j + 3` of the run in halves; `j` is a constant after
    /// unrolling.
    fn halves(held: &Self::Held, j: usize) -> [u32; 2];
}

/// Halves; their scale is 1.
pub struct F16;
/// bfloat16: a weight times the scale is a half exactly from 2⁻¹⁴ to 65504 (bfloat16 has 8 bits, a half
/// 11), a multiple of 2⁻²⁴ below, and infinite above.
pub struct BF16;
/// Weights of a quantized format: `scale · q − min` in halves, rounded once, after scale and minimum
/// were rounded to halves.
pub struct Quantized<F>(PhantomData<F>);

/// Sixteen bytes of a row of 16-bit floats, whose rows are padded to 16 bytes.
#[inline(always)]
fn load_16_bit(w: &Matrix, first: u32, run: u32) -> [u32; 4] {
    let plane: Global<[u32; 4]> = w.planes[0].cast();
    plane.stream((first + run) as usize)
}

impl Weights for F16 {
    const RUN: u32 = 8;
    // A block of 32 `k` is soon multiplied; two are on their way through the latency of memory.
    const AHEAD: usize = 2;
    type Raw = [u32; 4];
    type Held = [u32; 4];

    #[inline(always)]
    fn load(w: &Matrix, first: u32, run: u32) -> [u32; 4] {
        load_16_bit(w, first, run)
    }
    #[inline(always)]
    fn hold(raw: [u32; 4], scale: f32, _: Global<u32>) -> [u32; 4] {
        // Words of two rows make up an operand, in registers side by side. Without an operation that
        // puts them there, ptxas copies them before each use: 8 times as many instructions.
        let scale = math::pack_f16(scale, scale);
        raw.map(|pair| math::mul_f16x2(pair, scale))
    }
    #[inline(always)]
    fn halves(held: &[u32; 4], j: usize) -> [u32; 2] {
        [held[2 * j], held[2 * j + 1]]
    }
}

impl Weights for BF16 {
    const RUN: u32 = 8;
    const AHEAD: usize = 2;
    type Raw = [u32; 4];
    type Held = [u32; 4];

    #[inline(always)]
    fn load(w: &Matrix, first: u32, run: u32) -> [u32; 4] {
        load_16_bit(w, first, run)
    }
    #[inline(always)]
    fn hold(raw: [u32; 4], scale: f32, _: Global<u32>) -> [u32; 4] {
        raw.map(|pair| Self::to_halves(pair, scale))
    }
    #[inline(always)]
    fn halves(held: &[u32; 4], j: usize) -> [u32; 2] {
        [held[2 * j], held[2 * j + 1]]
    }
}

/// Weights of 16 bits that reach shared memory as they are.
pub trait Float {
    /// Two weights, times `scale`, in halves.
    fn to_halves(pair: u32, scale: f32) -> u32;
}

impl Float for F16 {
    #[inline(always)]
    fn to_halves(pair: u32, _: f32) -> u32 {
        pair
    }
}

impl Float for BF16 {
    #[inline(always)]
    fn to_halves(pair: u32, scale: f32) -> u32 {
        let (low, high) = (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
        math::pack_f16(low * scale, high * scale)
    }
}

/// A run of a quantized format that is being multiplied.
#[derive(Clone, Copy)]
pub struct HeldPiece {
    /// Signed bytes.
    q: [u32; 8],
    /// Of each 16, twice in a word.
    scale: [u32; 2],
    /// Of each 16, twice in a word; the minimum's negative.
    offset: [u32; 2],
}

impl<F: DeviceFormat> Weights for Quantized<F> {
    const RUN: u32 = 32;
    const AHEAD: usize = 1;
    type Raw = F::Raw;
    type Held = HeldPiece;

    #[inline(always)]
    fn load(w: &Matrix, first: u32, run: u32) -> F::Raw {
        F::load(w, first, run)
    }
    #[inline(always)]
    fn hold(raw: F::Raw, scale: f32, tables: Global<u32>) -> HeldPiece {
        let piece = F::unpack_piece(raw, tables);
        HeldPiece {
            q: piece.q,
            scale: piece.scale.map(|s| math::pack_f16(s * scale, s * scale)),
            offset: piece.min.map(|m| math::pack_f16(-m * scale, -m * scale)),
        }
    }
    #[inline(always)]
    fn halves(held: &HeldPiece, j: usize) -> [u32; 2] {
        // A byte under the half 1024 counts its ones: 1024 + u, exactly.
        const HALF_1024: u32 = 0x6464_6464;
        let (unsigned, bias) = if F::Q_MIN >= 0 {
            (held.q[j], 0x6400_6400)
        } else {
            (held.q[j] ^ 0x8080_8080, 0x6480_6480)
        };
        [0x4140, 0x4342].map(|pair| {
            let q = math::sub_f16x2(math::permute_bytes(unsigned, HALF_1024, pair), bias);
            if F::HAS_MIN {
                math::fma_f16x2(q, held.scale[j / 4], held.offset[j / 4])
            } else {
                math::mul_f16x2(q, held.scale[j / 4])
            }
        })
    }
}
