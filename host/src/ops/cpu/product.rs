//! Matrix products: several matrices of one input, split over the threads by columns of the
//! output; [`super::quant`] and [`super::float`] have the arithmetic.

use std::ops::Range;
use std::sync::PoisonError;

use super::disjoint::Disjoint;
use super::quant::activations::Activations;
use super::{CpuOps, float, quant};
use crate::ops::{Linear, Operand, Tensor};

impl CpuOps {
    /// `ys[i] = x · ws[i]ᵀ + bias`. Sets the rows.
    pub(super) fn products(&self, ws: &[&Linear], x: &Operand, ys: &mut [&mut Tensor]) {
        assert_eq!(ws.len(), ys.len());
        for (w, y) in ws.iter().zip(ys.iter_mut()) {
            assert_eq!(w.weight.cols, x.cols);
            assert_eq!(w.weight.rows, y.cols);
            if let Some(bias) = &w.bias {
                assert_eq!(bias.len, w.weight.rows);
            }
            y.set_rows(x.rows);
        }
        let outputs: Vec<Disjoint<'_, f32>> =
            ys.iter_mut().map(|y| Disjoint::new(y.host_rows_mut())).collect();
        let total: usize = ws.iter().map(|w| w.weight.rows).sum();
        // Some chunks a thread, so that a slow core takes fewer of them.
        let step = total.div_ceil(8 * self.pool.threads()).next_multiple_of(16).clamp(16, 512);
        let chunks: Vec<(usize, Range<usize>)> = ws
            .iter()
            .enumerate()
            .flat_map(|(i, w)| {
                let rows = w.weight.rows;
                (0..rows).step_by(step).map(move |r| (i, r..(r + step).min(rows)))
            })
            .collect();
        let mut quantized = self.activations.lock().unwrap_or_else(PoisonError::into_inner);
        if ws.iter().any(|w| self.quantizes(w)) {
            self.quantize(x, &mut quantized);
        }
        self.pool.run(chunks.len(), |chunk| {
            let (matrix, rows) = &chunks[chunk];
            let (w, y) = (ws[*matrix], &outputs[*matrix]);
            match self.quantizes(w) {
                true => quant::linear(self.level, w, &quantized, rows.clone(), y),
                false => float::linear(self.level, w, x.host_rows(), rows.clone(), y),
            }
        });
    }

    /// Whether a product is computed on integer activations.
    fn quantizes(&self, w: &Linear) -> bool {
        !self.exact && w.weight.format.block_len() > 1
    }

    /// Makes 16-bit integers of the rows of `x`.
    fn quantize(&self, x: &Operand, out: &mut Activations) {
        out.resize(x.rows, x.cols);
        let writer = out.writer();
        self.over_rows(x.rows, x.cols, |rows| {
            let values = &x.host_rows()[rows.start * x.cols..rows.end * x.cols];
            // SAFETY: `over_rows` calls with disjoint ranges of rows.
            unsafe { writer.rows(self.level, rows.start, values) };
        });
    }
}
