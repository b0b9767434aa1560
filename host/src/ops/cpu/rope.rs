//! Rotary position embedding.

use super::simd::{Isa, Kernel};
use crate::ops::{HeadShape, RopeLayout, RopeRows};

/// Turns the heads of some rows in place. Source: Su et al. 2021, eq. 34.
pub struct Rope<'a> {
    /// [rows, heads · head_dim].
    pub x: &'a mut [f32],
    /// Row of the batch that `x` begins with.
    pub first_row: usize,
    /// Heads of a row.
    pub heads: HeadShape,
    /// Which elements turn together.
    pub layout: RopeLayout,
    /// Angles of the whole batch.
    pub rows: &'a RopeRows,
}

impl Kernel for Rope<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let pairs = self.rows.pairs;
        let width = self.heads.heads * self.heads.head_dim;
        for (i, row) in self.x.chunks_exact_mut(width).enumerate() {
            let at = (self.first_row + i) * pairs;
            let cos = &self.rows.cos[at..at + pairs];
            let sin = &self.rows.sin[at..at + pairs];
            for head in row.chunks_exact_mut(self.heads.head_dim) {
                let head = &mut head[..2 * pairs];
                match self.layout {
                    RopeLayout::Interleaved => interleaved(head, cos, sin),
                    RopeLayout::Half => halves(head, cos, sin),
                }
            }
        }
    }
}

#[inline(always)]
fn interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * c - b * s, a * s + b * c];
    }
}

#[inline(always)]
fn halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
    }
}
