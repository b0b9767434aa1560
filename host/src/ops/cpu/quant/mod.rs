//! Products with quantized weights: 16-bit activations in two bytes, integer dot products, F32 scales.
//!
//! Weights are unpacked sixteen rows at a time into a [`panel`] that stays in cache, laid out so
//! that one vector register holds the sums of all sixteen; the panel is then multiplied with
//! every row of [`activations`]. The sums of a group of 16 or 32 weights are exact integers, and
//! each level adds the groups up in file order with the same roundings however many rows there are: a
//! result does not depend on what is computed beside it.

pub mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod panel;
mod tile;
#[cfg(target_arch = "x86_64")]
mod unpack512;

use std::cell::RefCell;
use std::ops::Range;

use gpu_kernels::formats::{Codec, CodecVisitor};

use self::activations::Activations;
use self::panel::{Panel, ROWS};
use super::disjoint::Disjoint;
use super::simd::Level;
use crate::ops::Linear;

thread_local! {
    static SCRATCH: RefCell<Panel> = RefCell::default();
}

/// Computes columns `cols` of `y = x · wᵀ + bias`; `y` is [x.rows(), w.rows].
///
/// # Panics
/// When the weights are not quantized.
pub fn linear(
    level: Level,
    w: &Linear,
    x: &Activations,
    cols: Range<usize>,
    y: &Disjoint<'_, f32>,
) {
    let visitor = Product { level, w, x, cols, y };
    w.weight.format.with_codec(visitor).expect("a float format has its own product");
}

struct Product<'a> {
    level: Level,
    w: &'a Linear,
    x: &'a Activations,
    cols: Range<usize>,
    y: &'a Disjoint<'a, f32>,
}

impl CodecVisitor for Product<'_> {
    type Output = ();
    fn visit<C: Codec>(self) {
        SCRATCH.with_borrow_mut(|panel| {
            for first in self.cols.clone().step_by(ROWS) {
                let rows = first..(first + ROWS).min(self.cols.end);
                panel.fill::<C>(self.level, &self.w.weight, rows.clone());
                tile::multiply::<C>(self.level, panel, self.x, |row, sums| {
                    let at = row * self.w.weight.rows() + rows.start;
                    // SAFETY: the chunks of a region own disjoint ranges of columns, this one
                    // `cols`, and `rows` lies in it.
                    let y = unsafe { self.y.part(at..at + rows.len()) };
                    y.copy_from_slice(&sums[..rows.len()]);
                    if let Some(bias) = &self.w.bias {
                        for (y, bias) in y.iter_mut().zip(&bias.host_values()[rows.clone()]) {
                            *y += bias;
                        }
                    }
                });
            }
        });
    }
}
