//! What comes before attention: norms, rotation, and the cache.

use cuda_std::{Entry, Global, Launch, f16};
use gpu_kernels::kernels::attention::Shape;
use gpu_kernels::kernels::attention::inputs::{
    InputsParams, QKV_ROPE_WRITE_F16, QKV_ROPE_WRITE_F16_ROW, QKV_ROPE_WRITE_F16_WIDE,
    QKV_ROPE_WRITE_F32, QKV_ROPE_WRITE_F32_ROW, launch, launch_rows,
};
use gpu_kernels::kernels::step::KvView;

use super::super::bed::BedError;
use super::super::reference::rms_norm;
use super::super::sequences::{PAGE, Sequences};
use super::{Checker, ELEMENT, HALF, wide};

#[derive(Clone, Copy, Debug)]
struct Problem {
    shape: Shape,
    pairs: u32,
    interleaved: bool,
    /// Norms of queries and keys.
    norms: [bool; 2],
    half: bool,
    /// Whether rows, not heads, are normed.
    whole_rows: bool,
}

pub fn check(c: &mut Checker<'_>) -> Result<(), BedError> {
    let dims = [(128, 64), (256, 128), (2, 1), (16, 8), (64, 20), (80, 40), (512, 0)];
    let dims = if c.small { &dims[..2] } else { &dims[..] };
    for &(head_dim, pairs) in dims {
        for half in [true, false] {
            for whole_rows in [false, true] {
                for &interleaved in c.some(&[false, true]) {
                    for &norms in c.some(&[[true, true], [false, false], [false, true]]) {
                        let shape = Shape { heads: 8, kv_heads: 2, head_dim };
                        inputs(c, Problem { shape, pairs, interleaved, norms, half, whole_rows })?;
                    }
                }
            }
        }
        c.bed.clear();
    }
    Ok(())
}

fn kernel(p: &Problem, rows: u32) -> (Entry<InputsParams>, Launch) {
    match (p.half, p.whole_rows) {
        (true, true) => (QKV_ROPE_WRITE_F16_ROW, launch_rows(rows)),
        (false, true) => (QKV_ROPE_WRITE_F32_ROW, launch_rows(rows)),
        (true, false) if p.shape.head_dim > 128 => (QKV_ROPE_WRITE_F16_WIDE, launch(p.shape, rows)),
        (true, false) => (QKV_ROPE_WRITE_F16, launch(p.shape, rows)),
        (false, false) => (QKV_ROPE_WRITE_F32, launch(p.shape, rows)),
    }
}

fn inputs(c: &mut Checker<'_>, problem: Problem) -> Result<(), BedError> {
    const EPS: f32 = 1e-5;
    let Problem { shape, pairs, interleaved, norms, half, whole_rows } = problem;
    let bed = c.bed;
    let sequences = Sequences::new(bed, &mut c.random, &[(1, 33), (3, 3), (20, 47)])?;
    let (rows, dim, turning) = (sequences.rows, shape.head_dim as usize, pairs as usize);
    let heads = [shape.heads, shape.kv_heads, shape.kv_heads].map(|n| n as usize);
    let values = heads.map(|n| c.random.numbers(rows * n * dim, 3.0));
    let weights =
        [0, 1].map(|i| c.random.numbers(if whole_rows { heads[i] * dim } else { dim }, 2.0));
    let angles = c.random.numbers(rows * turning, 3.0);
    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
    let kv_heads = heads[1];
    let len = sequences.cache_pages() * kv_heads * PAGE * dim;
    let words = len * if half { 2 } else { 4 } / 4;
    let norm = |i: usize| if norms[i] { bed.upload(&weights[i]) } else { Ok(Global::null()) };
    let params = InputsParams {
        q: bed.upload_mut(&values[0])?,
        k: bed.upload(&values[1])?,
        v: bed.upload(&values[2])?,
        q_norm: norm(0)?,
        k_norm: norm(1)?,
        cos: bed.upload(&cos)?,
        sin: bed.upload(&sin)?,
        step: sequences.step,
        kv: KvView {
            k: bed.poisoned(words)?,
            v: bed.poisoned(words)?,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        },
        rows: rows as u32,
        heads: shape.heads,
        pairs,
        interleaved: interleaved.into(),
        eps: EPS,
    };
    let (entry, launch) = kernel(&problem, rows as u32);
    bed.run(&entry, launch, &params)?;

    // Queries, keys and values, normed and turned.
    let made: [Vec<f64>; 3] = [0, 1, 2].map(|which| {
        let mut x = wide(&values[which]);
        if which < 2 && norms[which] {
            let len = if whole_rows { heads[which] * dim } else { dim };
            x.chunks_mut(len).for_each(|x| rms_norm(x, &weights[which], EPS.into()));
        }
        for (i, x) in x.chunks_mut(dim).enumerate().filter(|_| which < 2) {
            let row = i / heads[which];
            for pair in 0..turning {
                let (a, b) =
                    if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + turning) };
                let at = row * turning + pair;
                let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
            }
        }
        x
    });
    let (name, text) = (entry.info.name, format!("{problem:?}"));
    let q = wide(&bed.read(params.q, rows * heads[0] * dim)?);
    c.judge(name, "queries", &text, (&q, &made[0]), ELEMENT);
    for (output, view, made) in [("keys", params.kv.k, &made[1]), ("values", params.kv.v, &made[2])]
    {
        let cache: Vec<f64> = match half {
            true => bed.read(view.cast::<f16>(), len)?.iter().map(|h| h.to_f64()).collect(),
            false => wide(&bed.read(view.cast::<f32>(), len)?),
        };
        let mut found = Vec::with_capacity(made.len());
        for &[_, n, context, first_page] in &sequences.table {
            for position in context - n..context {
                for head in 0..kv_heads {
                    let at = sequences.slot(first_page, position, head, kv_heads, dim);
                    found.extend(&cache[at..at + dim]);
                }
            }
        }
        let bound = if half { HALF } else { ELEMENT };
        c.judge(name, output, &text, (&found, made), bound);
        let untouched = cache.iter().filter(|x| x.is_nan()).count() == len - made.len();
        c.require(name, "writes nothing else", &text, untouched);
    }
    Ok(())
}
