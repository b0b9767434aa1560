//! Which attention kernels a step takes.

use std::sync::Mutex;

use cuda_std::{Global, GlobalMut};
use gpu_kernels::kernels::attention::{AttendParams, Shape, decode, exact, inputs, prefill};

use super::{CudaOps, DeviceKv, lock, vector_view};
use crate::cuda::DeviceBuffer;
use crate::ops::{
    AttendSpec, AttentionInputs, HeadShape, KvDtype, KvSpec, Norm, Operand, OpsError, Qkv,
    RopeLayout, Span, Step, Tensor,
};

/// Rows of a span up to which the keys of each row are split over CTAs; with more, a tile of rows
/// shares the keys it reads.
const DECODE_ROWS: usize = 4;
/// The same where each row sees at least so many keys: then a tile is not enough CTAs.
const LONG_DECODE_ROWS: usize = 16;
const LONG_CONTEXT: usize = 1024;

/// What the CTAs of a row hand to each other.
#[derive(Debug, Default)]
pub struct Workspace(Mutex<Option<Buffers>>);

#[derive(Debug)]
struct Buffers {
    partial: DeviceBuffer,
    counters: DeviceBuffer,
}

/// Rows that decode at once, at most: more are computed as tiles.
const MAX_DECODE_ROWS: usize = 256;

impl Workspace {
    /// Makes room for steps of up to `rows` rows over these keys.
    pub fn reserve(&self, ops: &CudaOps, kv: &KvSpec, rows: usize) -> Result<(), OpsError> {
        let (mut bytes, mut words) = (0, 0);
        let mut seen: Option<HeadShape> = None;
        let layers = kv.layers.iter().map(|layer| layer.heads);
        for heads in layers.filter(|heads| seen.replace(*heads) != Some(*heads)) {
            let size = Size::new(kv.q_heads, heads, kv.dtype, rows, ops.multiprocessors());
            (bytes, words) = (bytes.max(size.bytes), words.max(size.counters));
        }
        let (partial, counters) = (ops.context.alloc(bytes)?, ops.context.alloc(4 * words)?);
        ops.stream.fill(&counters, 0..counters.len(), 0)?;
        *lock(&self.0) = Some(Buffers { partial, counters });
        Ok(())
    }

    fn views(&self) -> (GlobalMut<f32>, GlobalMut<u32>) {
        match &*lock(&self.0) {
            Some(buffers) => (buffers.partial.view_mut(0), buffers.counters.view_mut(0)),
            None => (GlobalMut::null(), GlobalMut::null()),
        }
    }
}

/// What a [`Workspace`] has room for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    pub bytes: usize,
    pub counters: usize,
}

impl Size {
    /// For steps of up to `rows` rows of `q_heads` heads over keys of these heads.
    pub fn new(
        q_heads: usize,
        kv: HeadShape,
        dtype: KvDtype,
        rows: usize,
        multiprocessors: u32,
    ) -> Self {
        let shape = Shape {
            heads: q_heads as u32,
            kv_heads: kv.heads as u32,
            head_dim: kv.head_dim as u32,
        };
        if dtype == KvDtype::F32 || !decode::supports(shape) {
            return Self::default();
        }
        (1..=rows.min(MAX_DECODE_ROWS) as u32).fold(Self::default(), |size, rows| {
            let splits = decode::splits(shape, rows, multiprocessors);
            Self {
                bytes: size.bytes.max(decode::workspace_bytes(shape, rows, splits)),
                counters: size.counters.max(decode::counters(shape, rows)),
            }
        })
    }
}

fn shape(heads: usize, kv: &DeviceKv, layer: usize) -> Shape {
    let view = kv.view(layer);
    Shape { heads: heads as u32, kv_heads: view.kv_heads, head_dim: view.head_dim }
}

/// Norms and rotates queries and keys, and stores keys and values.
pub fn inputs(
    ops: &CudaOps,
    qkv: Qkv,
    spec: &AttentionInputs,
    kv: &DeviceKv,
    layer: usize,
    step: &Step,
) -> Result<(), OpsError> {
    let rows = qkv.q.rows() as u32;
    let shape = shape(spec.q.heads, kv, layer);
    assert_eq!(qkv.k.cols(), spec.kv_heads * spec.q.head_dim);
    let weight = |norm: Option<&Norm>| norm.map_or(Global::null(), |n| vector_view(&n.weight));
    let norm = spec.q_norm.or(spec.k_norm);
    let (pairs, [cos, sin]) = match spec.rotation {
        Some(rotation) => (step.ropes[rotation.rope].pairs, ops.rope(rotation.rope)),
        None => (0, [Global::null(); 2]),
    };
    let interleaved = spec.rotation.is_some_and(|r| r.layout == RopeLayout::Interleaved);
    let params = inputs::InputsParams {
        q: qkv.q.device().view_mut(),
        k: qkv.k.device().view(),
        v: qkv.v.device().view(),
        q_norm: weight(spec.q_norm),
        k_norm: weight(spec.k_norm),
        cos,
        sin,
        step: ops.step_view_of(kv.group(layer)),
        kv: kv.view(layer),
        rows,
        heads: shape.heads,
        pairs: pairs as u32,
        interleaved: interleaved.into(),
        eps: norm.map_or(0.0, |n| n.eps),
    };
    let half = kv.dtype == KvDtype::F16;
    if norm.is_some_and(|n| n.weight.len != spec.q.head_dim) {
        let entry =
            if half { inputs::QKV_ROPE_WRITE_F16_ROW } else { inputs::QKV_ROPE_WRITE_F32_ROW };
        return ops.launch((entry, inputs::launch_rows(rows)), &params);
    }
    let entry = match (half, spec.q.head_dim) {
        (true, ..=128) => inputs::QKV_ROPE_WRITE_F16,
        (true, _) => inputs::QKV_ROPE_WRITE_F16_WIDE,
        (false, _) => inputs::QKV_ROPE_WRITE_F32,
    };
    ops.launch((entry, inputs::launch(shape, rows)), &params)
}

/// How many of the first spans, and rows of them, are computed row by row.
fn short_spans(spans: &[Span]) -> (usize, usize) {
    let (mut short, mut short_rows) = (0, 0);
    for span in spans {
        let is_long = span.context_len >= LONG_CONTEXT;
        let most = if is_long { LONG_DECODE_ROWS } else { DECODE_ROWS };
        if span.rows > most || short_rows + span.rows > MAX_DECODE_ROWS {
            break;
        }
        (short, short_rows) = (short + 1, short_rows + span.rows);
    }
    (short, short_rows)
}

/// Causal attention of a step's rows.
pub fn attend(
    ops: &CudaOps,
    q: &Tensor,
    kv: &DeviceKv,
    layer: usize,
    spec: &AttendSpec,
    step: &Step,
    out: &mut Operand,
) -> Result<(), OpsError> {
    let rows = q.rows();
    let shape = shape(spec.q.heads, kv, layer);
    let (workspace, counters) = ops.attention.views();
    let params = AttendParams {
        q: q.device().view(),
        kv: kv.view(layer),
        step: ops.step_view_of(kv.group(layer)),
        out: out.device().output(rows),
        workspace,
        counters,
        first_row: 0,
        first_span: 0,
        heads: shape.heads,
        scale: spec.scale,
        softcap: spec.softcap.unwrap_or(0.0),
        window: spec.window.map_or(u32::MAX, |w| u32::try_from(w).unwrap_or(u32::MAX)),
        splits: 1,
    };
    if kv.dtype == KvDtype::F32 {
        return ops.launch((exact::ATTN_EXACT_F32, exact::launch(shape, rows as u32)), &params);
    }
    let spans = &step.batch.spans;
    // Spans of few rows come first in a batch.
    let (short, short_rows) = match ops.precision.deterministic {
        false => short_spans(spans),
        true => (0, 0), // how a row's keys are split follows from the number of rows
    };
    let (mut first_row, mut first_span) = (0, 0);
    if short_rows > 0 && decode::supports(shape) {
        let splits = decode::splits(shape, short_rows as u32, ops.multiprocessors());
        let launch = decode::launch(shape, short_rows as u32, splits);
        let params = AttendParams { splits, ..params };
        ops.stream.launch(decode::entry(shape), launch, &params)?;
        (first_row, first_span) = (short_rows, short);
    }
    let Some(longest) = spans[first_span..].iter().map(|span| span.rows).max() else {
        return Ok(());
    };
    let params =
        AttendParams { first_row: first_row as u32, first_span: first_span as u32, ..params };
    let forms = out.device().forms(rows);
    if prefill::supports(shape, forms.planes) {
        // Two large CTAs fit where a multiprocessor has more shared memory than one CTA may take.
        let small = longest <= 64
            || ops.context.device().shared_bytes_per_cta < 128 << 10
            || ops.precision.deterministic;
        let variant = prefill::Variant::of(shape, small);
        let launch = variant.launch(shape, (spans.len() - first_span) as u32, longest as u32);
        return Ok(ops.stream.launch(variant.entry, launch, &params)?);
    }
    let launch = exact::launch(shape, (rows - first_row) as u32);
    ops.launch((exact::ATTN_EXACT_F16, launch), &params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_computed_one_by_one_where_they_are_few_or_see_much() {
        let spans = |list: &[(usize, usize)]| -> Vec<Span> {
            let span = |&(rows, context_len): &(usize, usize)| Span {
                first_row: 0,
                rows,
                context_len,
                rope_len: context_len,
                pages: vec![],
            };
            list.iter().map(span).collect()
        };
        for (list, expected) in [
            (&[][..], (0, 0)),
            (&[(1, 5), (4, 9), (5, 9), (1, 7)], (2, 5)),
            (&[(1, 5), (16, 1023)], (1, 1)),
            (&[(1, 5), (16, 1024), (17, 5000)], (2, 17)),
            (&[(1, 5); 300], (256, 256)),
            (&[(16, 2000); 17], (16, 256)),
        ] {
            assert_eq!(short_spans(&spans(list)), expected, "{list:?}");
        }
    }
}
