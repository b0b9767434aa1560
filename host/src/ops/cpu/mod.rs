//! The CPU backend: all cores, weights multiplied as they lie in the file.
//!
//! [`CpuOps`] checks shapes and splits work over the [`pool`]; the arithmetic is in one file an
//! operation, compiled for each instruction set of [`simd`]. In exact mode activations and
//! products are F32 throughout; by default activations become 16-bit integers where the weights
//! are quantized, and nothing else is lowered.

#![allow(clippy::needless_range_loop, reason = "loops over lanes read best by index")]

mod attention;
mod disjoint;
mod elementwise;
mod float;
mod kv;
mod norm;
mod pool;
mod quant;
mod rope;
mod simd;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use gpu_kernels::formats::Format;

pub use self::kv::KvStorage;

use self::disjoint::Disjoint;
use self::pool::Pool;
use self::quant::activations::Activations;
use self::simd::Level;
use super::{
    Activation, AttendSpec, Batch, HeadShape, KvPool, KvSpec, Linear, Ops, OpsError, RopeLayout,
    RopeRows, Storage, Tensor, Vector, Weight,
};
use crate::checkpoint::Bytes;

/// Elements below which an element-wise operation stays on the calling thread: about the time
/// that waking the others takes.
const PARALLEL_ELEMENTS: usize = 16 * 1024;

/// The operations of [`Ops`] on this machine's cores.
#[derive(Debug)]
pub struct CpuOps {
    pool: Pool,
    level: Level,
    exact: bool,
    /// The input of a product as 16-bit integers, kept to be filled again.
    activations: Mutex<Activations>,
}

impl CpuOps {
    /// A backend with `threads` threads (0: one a core). `exact` keeps activations F32.
    pub fn new(threads: usize, exact: bool) -> Self {
        Self::with_level(threads, exact, Level::detect())
    }

    fn with_level(threads: usize, exact: bool, level: Level) -> Self {
        Self { pool: Pool::new(threads), level, exact, activations: Mutex::default() }
    }

    /// Whether a product is computed on integer activations.
    fn quantizes(&self, w: &Linear) -> bool {
        !self.exact && w.weight.format.block_len() > 1
    }

    /// Calls `body` with the parts of `0..rows` whose rows hold `width` elements.
    fn over_rows(&self, rows: usize, width: usize, body: impl Fn(Range<usize>) + Sync) {
        let parts = if rows * width < PARALLEL_ELEMENTS { 1 } else { 4 * self.pool.threads() };
        let step = rows.div_ceil(parts).max(1);
        self.pool.run(rows.div_ceil(step), |i| body(i * step..((i + 1) * step).min(rows)));
    }

    /// Makes 16-bit integers of the rows of `x`.
    fn quantize(&self, x: &Tensor, out: &mut Activations) {
        out.resize(x.rows, x.cols);
        let writer = out.writer();
        self.over_rows(x.rows, x.cols, |rows| {
            let values = &x.host_rows()[rows.start * x.cols..rows.end * x.cols];
            // SAFETY: `over_rows` calls with disjoint ranges of rows.
            unsafe { writer.rows(self.level, rows.start, values) };
        });
    }

    /// Calls `body` with pieces of `x` and the elements they start at; pieces hold whole rows.
    fn over_slices(&self, x: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
        let rows = x.len() / width.max(1);
        let x = Disjoint::new(x);
        self.over_rows(rows, width, |rows| {
            let start = rows.start * width;
            // SAFETY: `over_rows` calls with disjoint ranges of rows.
            body(start, unsafe { x.part(start..rows.end * width) });
        });
    }
}

impl Tensor {
    /// The rows in use.
    pub(crate) fn host_rows(&self) -> &[f32] {
        let Storage::Host(values) = &self.storage;
        &values[..self.rows * self.cols]
    }
    /// The rows in use.
    pub(crate) fn host_rows_mut(&mut self) -> &mut [f32] {
        let Storage::Host(values) = &mut self.storage;
        &mut values[..self.rows * self.cols]
    }
}

/// A vector of zeros that takes no memory until it is written.
fn zeroed<T: bytemuck::Zeroable>(what: &'static str, len: usize) -> Result<Vec<T>, OpsError> {
    let out_of_memory =
        || OpsError::OutOfMemory { what, bytes: len.saturating_mul(size_of::<T>()) };
    let layout = std::alloc::Layout::array::<T>(len).map_err(|_| out_of_memory())?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(out_of_memory());
    }
    // SAFETY: allocated by the global allocator with the layout of `len` elements of `T`, which
    // are initialised: all zeros is a `T`.
    Ok(unsafe { Vec::from_raw_parts(start, len, len) })
}

impl Ops for CpuOps {
    fn name(&self) -> String {
        let threads = self.pool.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("CPU ({threads} thread{plural}, {})", self.level.name())
    }

    fn alloc(&self, capacity: usize, cols: usize) -> Result<Tensor, OpsError> {
        let values = zeroed("activations", capacity.saturating_mul(cols))?;
        Ok(Tensor { storage: Storage::Host(values), rows: capacity, cols, capacity })
    }

    fn weight(
        &self,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Weight, OpsError> {
        assert_eq!(format.row_bytes(cols).and_then(|b| b.checked_mul(rows)), Some(bytes.len()));
        Ok(Weight { format, rows, cols, bytes })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vector, OpsError> {
        Ok(Vector { values: values.into() })
    }

    fn kv_pool(&self, spec: &KvSpec) -> Result<KvPool, OpsError> {
        Ok(KvPool { storage: KvStorage::new(spec)? })
    }

    fn embed(
        &self,
        table: &Weight,
        tokens: &[u32],
        scale: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError> {
        assert_eq!(out.cols, table.cols);
        out.set_rows(tokens.len());
        let cols = out.cols;
        self.over_slices(out.host_rows_mut(), cols, |start, out| {
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                let token = tokens[start / cols + row] as usize;
                float::decode_rows(self.level, table, token..token + 1, out);
                if scale != 1.0 {
                    out.iter_mut().for_each(|v| *v *= scale);
                }
            }
        });
        Ok(())
    }

    fn rms_norm(
        &self,
        x: &Tensor,
        weight: &Vector,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError> {
        assert_eq!(x.cols, out.cols);
        out.set_rows(x.rows);
        let from = x.host_rows();
        let w = &weight.values;
        assert!(x.cols.is_multiple_of(w.len()));
        self.over_slices(out.host_rows_mut(), x.cols, |start, out| {
            out.copy_from_slice(&from[start..start + out.len()]);
            self.level.run(norm::RmsNorm { x: out, w, eps });
        });
        Ok(())
    }

    fn rms_norm_in_place(&self, x: &mut Tensor, weight: &Vector, eps: f32) -> Result<(), OpsError> {
        let w = &weight.values;
        assert!(x.cols.is_multiple_of(w.len()));
        let cols = x.cols;
        self.over_slices(x.host_rows_mut(), cols, |_, x| {
            self.level.run(norm::RmsNorm { x, w, eps });
        });
        Ok(())
    }

    fn linear(&self, ws: &[&Linear], x: &Tensor, ys: &mut [&mut Tensor]) -> Result<(), OpsError> {
        assert_eq!(ws.len(), ys.len());
        for (w, y) in ws.iter().zip(ys.iter_mut()) {
            assert_eq!(w.weight.cols, x.cols);
            assert_eq!(w.weight.rows, y.cols);
            if let Some(bias) = &w.bias {
                assert_eq!(bias.values.len(), w.weight.rows);
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
        Ok(())
    }

    fn rope(
        &self,
        x: &mut Tensor,
        heads: HeadShape,
        layout: RopeLayout,
        rows: &RopeRows,
    ) -> Result<(), OpsError> {
        assert_eq!(x.cols, heads.heads * heads.head_dim);
        assert!(2 * rows.pairs <= heads.head_dim);
        assert!(rows.cos.len() >= x.rows * rows.pairs);
        assert!(rows.sin.len() >= x.rows * rows.pairs);
        let cols = x.cols;
        self.over_slices(x.host_rows_mut(), cols, |start, x| {
            self.level.run(rope::Rope { x, first_row: start / cols, heads, layout, rows });
        });
        Ok(())
    }

    fn kv_write(
        &self,
        pool: &mut KvPool,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        batch: &Batch,
    ) -> Result<(), OpsError> {
        pool.storage.write(layer, k, v, batch);
        Ok(())
    }

    fn attend(
        &self,
        q: &Tensor,
        pool: &KvPool,
        layer: usize,
        spec: &AttendSpec,
        batch: &Batch,
        out: &mut Tensor,
    ) -> Result<(), OpsError> {
        let layer = pool.storage.layer(layer);
        assert_eq!(layer.heads, HeadShape { heads: spec.kv_heads, head_dim: spec.q.head_dim });
        assert!(spec.q.heads.is_multiple_of(spec.kv_heads));
        assert_eq!(q.cols, spec.q.heads * spec.q.head_dim);
        assert_eq!(q.cols, out.cols);
        out.set_rows(q.rows);
        assert!(batch.spans.iter().all(|s| s.first_row + s.rows <= q.rows));
        assert!(batch.spans.iter().all(|s| s.rows <= s.context_len));
        let out = out.host_rows_mut();
        attention::attend(&self.pool, self.level, layer, spec, batch, q.host_rows(), out);
        Ok(())
    }

    fn gated(&self, gate: &mut Tensor, up: &Tensor, act: Activation) -> Result<(), OpsError> {
        assert_eq!((gate.rows, gate.cols), (up.rows, up.cols));
        let (cols, up) = (gate.cols, up.host_rows());
        self.over_slices(gate.host_rows_mut(), cols, |start, gate| {
            let up = &up[start..start + gate.len()];
            self.level.run(elementwise::Gated { gate, up, act });
        });
        Ok(())
    }

    fn add(&self, x: &mut Tensor, y: &Tensor, scale: f32) -> Result<(), OpsError> {
        assert_eq!((x.rows, x.cols), (y.rows, y.cols));
        let (cols, y) = (x.cols, y.host_rows());
        self.over_slices(x.host_rows_mut(), cols, |start, x| {
            let y = &y[start..start + x.len()];
            self.level.run(elementwise::Add { x, y, scale });
        });
        Ok(())
    }

    fn gather(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) -> Result<(), OpsError> {
        assert_eq!(x.cols, out.cols);
        out.set_rows(rows.len());
        let (cols, from) = (x.cols, x.host_rows());
        for (out, &row) in out.host_rows_mut().chunks_exact_mut(cols).zip(rows) {
            out.copy_from_slice(&from[row * cols..(row + 1) * cols]);
        }
        Ok(())
    }

    fn scale_cap(&self, x: &mut Tensor, scale: f32, cap: Option<f32>) -> Result<(), OpsError> {
        let cols = x.cols;
        self.over_slices(x.host_rows_mut(), cols, |_, x| {
            self.level.run(elementwise::ScaleCap { x, scale, cap });
        });
        Ok(())
    }

    fn read(&self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), OpsError> {
        out.clear();
        out.extend_from_slice(x.host_rows());
        Ok(())
    }

    fn write(&self, x: &mut Tensor, rows: usize, values: &[f32]) -> Result<(), OpsError> {
        x.set_rows(rows);
        x.host_rows_mut().copy_from_slice(values);
        Ok(())
    }
}
