//! The residual stream: what a block adds to it, and what the next one reads of it. A row is added
//! to and normed while it is in cache.

use super::disjoint::Disjoint;
use super::{CpuOps, elementwise, norm};
use crate::ops::{Delta, Norm, Operand, Select, Tensor};

impl CpuOps {
    /// `x += delta`, then `out = norm(x)` of the selected rows.
    pub(super) fn add_and_norm(
        &self,
        x: &mut Tensor,
        delta: Option<Delta>,
        norm: Option<&Norm>,
        select: Select,
        out: &mut Operand,
    ) {
        let cols = x.cols;
        assert_eq!(out.cols, cols);
        assert!(norm.is_none_or(|n| n.weight.len == cols));
        delta.iter().for_each(|d| check(x, d));
        let chosen = match select {
            Select::All => None,
            Select::LogitRows(step) => Some(&*step.batch.logit_rows),
        };
        // Two rows of `out` never share one of `x`.
        assert!(chosen.is_none_or(|rows| rows.is_sorted_by(|a, b| a < b)));
        out.set_rows(chosen.map_or(x.rows, <[_]>::len));
        let rows = out.rows;
        let stream = Disjoint::new(x.host_rows_mut());
        let out = Disjoint::new(out.host_rows_mut());
        self.over_rows(rows, cols, |range| {
            for i in range {
                let from = chosen.map_or(i, |rows| rows[i]) * cols;
                // SAFETY: `over_rows` calls with disjoint ranges of rows, and each row of `out`
                // has its own row of `x`.
                let (x, out) =
                    unsafe { (stream.part(from..from + cols), out.part(i * cols..(i + 1) * cols)) };
                if let Some(delta) = &delta {
                    self.add_rows(x, from, delta);
                }
                match norm {
                    Some(norm) => self.level.run(norm::NormTo { x, norm, out }),
                    None => out.copy_from_slice(x),
                }
            }
        });
    }

    /// `x += delta`.
    pub(super) fn add_delta(&self, x: &mut Tensor, delta: Delta) {
        check(x, &delta);
        let cols = x.cols;
        self.over_slices(x.host_rows_mut(), cols, |start, x| self.add_rows(x, start, &delta));
    }

    /// Adds to whole rows, the first of which begins at element `start` of the tensor.
    fn add_rows(&self, x: &mut [f32], start: usize, delta: &Delta) {
        let y = &delta.y.host_rows()[start..start + x.len()];
        let scale = delta.scale;
        match delta.post_norm {
            Some(norm) => self.level.run(norm::AddNormed { x, y, norm, scale }),
            None => self.level.run(elementwise::Add { x, y, scale }),
        }
    }
}

fn check(x: &Tensor, delta: &Delta) {
    assert_eq!((x.rows, x.cols), (delta.y.rows, delta.y.cols));
    assert!(delta.post_norm.is_none_or(|n| n.weight.len == x.cols));
}
