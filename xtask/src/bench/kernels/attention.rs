//! Attention of one sequence.

use cuda_std::{Entry, GlobalMut, Launch, f16};
use gpu_kernels::kernels::attention::{AttendParams, Shape, decode, prefill};
use gpu_kernels::kernels::step::KvView;

use super::super::bed::BedError;
use super::super::operand::{Forms, Wanted};
use super::super::sequences::{PAGE, Sequences};
use super::{Measuring, Model, Work};

const DECODED: [u32; 3] = [512, 4096, 32_768];
const PREFILLED: [u32; 3] = [512, 2048, 8192];

/// One kernel for a sequence.
struct Way {
    name: String,
    /// Rows and context length.
    span: (u32, u32),
    entry: &'static Entry<AttendParams>,
    launch: Launch,
    splits: u32,
    wanted: Wanted,
    operations: f64,
}

pub fn measure(m: &mut Measuring<'_>, model: Model) -> Result<(), BedError> {
    let Model { heads, kv_heads, head_dim, .. } = model;
    let shape = Shape { heads, kv_heads, head_dim };
    for context in DECODED {
        let splits = decode::splits(shape, 1, m.bed.multiprocessors());
        let way = Way {
            name: format!("decode at {context}"),
            span: (1, context),
            entry: decode::entry(shape),
            launch: decode::launch(shape, 1, splits),
            splits,
            wanted: Wanted { planes: true, ..Wanted::NONE },
            operations: 0.0,
        };
        attend(m, shape, &way)?;
    }
    for rows in PREFILLED {
        let small = rows <= 64 || m.gpu.context.device().shared_bytes_per_cta < 128 << 10;
        let variant = prefill::Variant::of(shape, small);
        let way = Way {
            name: format!("prefill of {rows}"),
            span: (rows, rows),
            entry: variant.entry,
            launch: variant.launch(shape, 1, rows),
            splits: 1,
            wanted: Wanted { half: true, ..Wanted::NONE },
            operations: operations(shape, rows),
        };
        attend(m, shape, &way)?;
    }
    Ok(())
}

/// Multiplications and additions of both products, of the keys that each row sees.
fn operations(shape: Shape, rows: u32) -> f64 {
    let seen = f64::from(rows) * f64::from(rows + 1) / 2.0;
    4.0 * f64::from(shape.heads * shape.head_dim) * seen
}

fn attend(m: &mut Measuring<'_>, shape: Shape, way: &Way) -> Result<(), BedError> {
    let bed = m.bed;
    let sequences = Sequences::new(bed, &mut m.random, &[way.span])?;
    let (rows, cols) = (sequences.rows, (shape.heads * shape.head_dim) as usize);
    let elements = (shape.kv_heads * shape.head_dim) as usize;
    let bytes = 2 * 2 * way.span.1 as usize * elements;
    // As many layers as do not fit the cache.
    let count = if rows == 1 { m.copies(bytes) } else { 2 };
    let half_layer = 2 * sequences.cache_pages() * PAGE * elements;
    let numbers = m.random.numbers(1 << 16, 1.0);
    let halves: Vec<f16> = numbers.iter().map(|x| f16::from_f32(*x)).collect();
    let pattern = bytemuck::cast_slice(&halves);
    let cache = m.gpu.repeated::<u8>(pattern, 2 * half_layer * count)?.address();
    let q = m.random.numbers(rows * cols, 1.0);
    let params = AttendParams {
        q: bed.upload(&q)?,
        kv: KvView {
            k: GlobalMut::null(),
            v: GlobalMut::null(),
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        },
        step: sequences.step,
        out: Forms::new(bed, rows, cols, way.wanted)?.out,
        workspace: bed.poisoned(decode::workspace_bytes(shape, rows as u32, way.splits) / 4)?,
        counters: bed.zeros(decode::counters(shape, rows as u32))?,
        first_row: 0,
        first_span: 0,
        heads: shape.heads,
        scale: 1.0 / (shape.head_dim as f32).sqrt(),
        softcap: 0.0,
        window: u32::MAX,
        splits: way.splits,
    };
    let gpu = m.gpu;
    let queue = |i: usize| {
        let k = cache + (2 * half_layer * (i % count)) as u64;
        let (k, v) = (k, k + half_layer as u64);
        let (k, v) = (GlobalMut::from_address(k), GlobalMut::from_address(v));
        let params = AttendParams { kv: KvView { k, v, ..params.kv }, ..params };
        gpu.stream.launch(way.entry, way.launch, &params)
    };
    let work = Work { bytes: bytes as f64, operations: way.operations };
    let launches = if rows == 1 { count.max(16) } else { 4 };
    m.time(way.name.clone(), (&way.entry.info, way.launch), work, launches, queue)?;
    bed.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_are_seen_count() {
        let shape = Shape { heads: 2, kv_heads: 1, head_dim: 8 };
        assert_eq!(operations(shape, 1), 64.0);
        assert_eq!(operations(shape, 3), 6.0 * 64.0);
    }
}
