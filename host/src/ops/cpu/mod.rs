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
mod product;
mod quant;
mod residual;
mod rope;
mod simd;
mod storage;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Mutex;

use gpu_kernels::formats::Format;

pub use self::kv::KvStorage;

use self::disjoint::Disjoint;
use self::pool::Pool;
use self::quant::activations::Activations;
use self::simd::Level;
use super::{
    Activation, AttendSpec, AttentionInputs, Delta, HeadShape, KvPages, KvPool, KvSpec, Linear,
    Norm, Operand, OperandStorage, Ops, OpsError, Qkv, RopeLayout, RopeRows, Select, Step,
    StepLimits, Storage, Tensor, Vector, VectorStorage, Weight, WeightStorage, WeightUse,
};
use crate::checkpoint::Bytes;
use crate::kv::PageMove;

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

    /// Calls `body` with the parts of `0..rows` whose rows hold `width` elements.
    fn over_rows(&self, rows: usize, width: usize, body: impl Fn(Range<usize>) + Sync) {
        let parts = if rows * width < PARALLEL_ELEMENTS { 1 } else { 4 * self.pool.threads() };
        let step = rows.div_ceil(parts).max(1);
        self.pool.run(rows.div_ceil(step), |i| body(i * step..((i + 1) * step).min(rows)));
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

    /// Norms heads or rows in place, then turns the heads.
    fn norm_and_rotate(
        &self,
        x: &mut Tensor,
        heads: HeadShape,
        norm: Option<&Norm>,
        rotation: Option<(RopeLayout, &RopeRows)>,
    ) {
        assert_eq!(x.cols, heads.width());
        assert!(norm.is_none_or(|n| x.cols.is_multiple_of(n.weight.len)));
        if let Some((_, rows)) = rotation {
            assert!(2 * rows.pairs <= heads.head_dim);
            assert!(rows.cos.len() >= x.rows * rows.pairs);
            assert!(rows.sin.len() >= x.rows * rows.pairs);
        }
        let cols = x.cols;
        self.over_slices(x.host_rows_mut(), cols, |start, x| {
            if let Some(norm) = norm {
                self.level.run(norm::RmsNorm { x, norm });
            }
            if let Some((layout, rows)) = rotation {
                self.level.run(rope::Rope { x, first_row: start / cols, heads, layout, rows });
            }
        });
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
        Ok(Tensor::new(Storage::Host(values), capacity, cols))
    }

    fn alloc_operand(&self, capacity: usize, cols: usize) -> Result<Operand, OpsError> {
        let values = zeroed("activations", capacity.saturating_mul(cols))?;
        Ok(Operand::new(OperandStorage::Host(values), capacity, cols))
    }

    fn weight(
        &self,
        _: WeightUse,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Weight, OpsError> {
        assert_eq!(format.row_bytes(cols).and_then(|b| b.checked_mul(rows)), Some(bytes.len()));
        Ok(Weight { format, rows, cols, storage: WeightStorage::Host(bytes) })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vector, OpsError> {
        let len = values.len();
        Ok(Vector { storage: VectorStorage::Host(values.into()), len })
    }

    fn kv_pool(&self, spec: &KvSpec) -> Result<KvPool, OpsError> {
        Ok(KvPool { storage: KvPages::Host(KvStorage::new(spec)?) })
    }

    fn move_pages(&self, pool: &mut KvPool, moves: &[PageMove]) -> Result<(), OpsError> {
        let pages = pool.host_pages_mut();
        moves.iter().for_each(|&one| pages.copy(one));
        Ok(())
    }

    /// Nothing: the operations read the step itself.
    fn reserve(&self, _: &StepLimits) -> Result<(), OpsError> {
        Ok(()) // operations read the step itself
    }

    fn begin(&self, _: &Step) -> Result<(), OpsError> {
        Ok(())
    }

    fn embed(
        &self,
        table: &Weight,
        step: &Step,
        scale: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError> {
        assert_eq!(out.cols, table.cols);
        let tokens = &step.batch.tokens;
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

    fn residual_norm(
        &self,
        x: &mut Tensor,
        delta: Option<Delta>,
        norm: Option<&Norm>,
        select: Select,
        out: &mut Operand,
    ) -> Result<(), OpsError> {
        self.add_and_norm(x, delta, norm, select, out);
        Ok(())
    }

    fn add(&self, x: &mut Tensor, delta: Delta) -> Result<(), OpsError> {
        self.add_delta(x, delta);
        Ok(())
    }

    fn linear(&self, ws: &[&Linear], x: &Operand, ys: &mut [&mut Tensor]) -> Result<(), OpsError> {
        self.products(ws, x, ys);
        Ok(())
    }

    fn attention_inputs(
        &self,
        Qkv { q, k, v }: Qkv,
        spec: &AttentionInputs,
        pool: &mut KvPool,
        layer: usize,
        step: &Step,
    ) -> Result<(), OpsError> {
        assert!([q.rows, k.rows, v.rows].iter().all(|&rows| rows == step.batch.tokens.len()));
        let rotation = spec.rotation.map(|r| (r.layout, &step.ropes[r.rope]));
        let kv = HeadShape { heads: spec.kv_heads, ..spec.q };
        self.norm_and_rotate(q, spec.q, spec.q_norm, rotation);
        self.norm_and_rotate(k, kv, spec.k_norm, rotation);
        pool.host_pages_mut().write(layer, k, v, step.batch);
        Ok(())
    }

    fn attend(
        &self,
        q: &Tensor,
        pool: &KvPool,
        layer: usize,
        spec: &AttendSpec,
        step: &Step,
        out: &mut Operand,
    ) -> Result<(), OpsError> {
        let layer = pool.host_pages().layer(layer);
        let spans = &step.batch.spans;
        assert_eq!(layer.heads, HeadShape { heads: spec.kv_heads, head_dim: spec.q.head_dim });
        assert!(spec.q.heads.is_multiple_of(spec.kv_heads));
        assert_eq!(q.cols, spec.q.width());
        assert_eq!(q.cols, out.cols);
        out.set_rows(q.rows);
        assert!(spans.iter().all(|s| s.first_row + s.rows <= q.rows));
        assert!(spans.iter().all(|s| s.rows <= s.context_len));
        let out = out.host_rows_mut();
        attention::attend(&self.pool, self.level, layer, spec, step.batch, q.host_rows(), out);
        Ok(())
    }

    fn gated(
        &self,
        gate: &Tensor,
        up: &Tensor,
        act: Activation,
        out: &mut Operand,
    ) -> Result<(), OpsError> {
        assert_eq!((gate.rows, gate.cols), (up.rows, up.cols));
        assert_eq!(gate.cols, out.cols);
        out.set_rows(gate.rows);
        let (cols, gate, up) = (gate.cols, gate.host_rows(), up.host_rows());
        self.over_slices(out.host_rows_mut(), cols, |start, out| {
            let part = start..start + out.len();
            let (gate, up) = (&gate[part.clone()], &up[part]);
            self.level.run(elementwise::Gated { gate, up, act, out });
        });
        Ok(())
    }

    fn scale_cap(&self, x: &mut Tensor, scale: f32, cap: Option<f32>) -> Result<(), OpsError> {
        let cols = x.cols;
        self.over_slices(x.host_rows_mut(), cols, |_, x| {
            self.level.run(elementwise::ScaleCap { x, scale, cap });
        });
        Ok(())
    }

    fn read_rows(
        &self,
        x: &Tensor,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), OpsError> {
        out.clear();
        out.extend_from_slice(&x.host_rows()[rows.start * x.cols..rows.end * x.cols]);
        Ok(())
    }

    fn write(&self, x: &mut Tensor, rows: usize, values: &[f32]) -> Result<(), OpsError> {
        x.set_rows(rows);
        x.host_rows_mut().copy_from_slice(values);
        Ok(())
    }
}
