//! Kernels on rows, and the choice of a token.

use cuda_std::{Entry, Global, Launch, Params};
use gpu_kernels::kernels::attention::Shape;
use gpu_kernels::kernels::attention::inputs::{self, InputsParams, QKV_ROPE_WRITE_F16};
use gpu_kernels::kernels::gated::{self, GatedParams};
use gpu_kernels::kernels::residual_norm::{self, ResidualNormParams};
use gpu_kernels::kernels::sample::{self, SampleParams, SampleRow};
use gpu_kernels::kernels::step::KvView;
use gpu_kernels::kernels::to_operand::{self, ToOperandParams};

use super::super::bed::BedError;
use super::super::operand::{Forms, Wanted};
use super::super::sequences::{PAGE, Sequences};
use super::{Measuring, Model, Work};

/// Rows of a decode step, and of prompts.
const ROWS: [u32; 4] = [1, 8, 512, 2048];
/// Bytes of an element in the integer form: two, and scales and sums of 32 and 16.
const PLANES: f64 = 2.0 + 4.0 / 32.0 + 4.0 / 16.0;
/// Bytes of an element in the half form.
const HALVES: f64 = 2.0;
/// Launches of a recording.
const LAUNCHES: usize = 32;

pub fn measure(m: &mut Measuring<'_>, model: Model) -> Result<(), BedError> {
    for rows in ROWS {
        let few = rows <= 8;
        // The forms that products with as many rows read.
        let wanted = Wanted { planes: few, half: !few, float: false };
        let out_bytes = if few { PLANES } else { HALVES };
        norm(m, model, rows, wanted, out_bytes)?;
        gate(m, model, rows, wanted, out_bytes)?;
        convert(m, model, rows, wanted, out_bytes)?;
        attention_inputs(m, model, rows)?;
        m.bed.clear();
    }
    choose(m, model)
}

fn time<P: Params>(
    m: &mut Measuring<'_>,
    name: &str,
    (entry, launch): (&Entry<P>, Launch),
    bytes: f64,
    params: &P,
) -> Result<(), BedError> {
    let gpu = m.gpu;
    let work = Work { bytes, operations: 0.0 };
    m.time(name.to_owned(), (&entry.info, launch), work, LAUNCHES, |_| {
        gpu.stream.launch(entry, launch, params)
    })
}

fn norm(
    m: &mut Measuring<'_>,
    model: Model,
    rows: u32,
    wanted: Wanted,
    out_bytes: f64,
) -> Result<(), BedError> {
    let len = (rows * model.hidden) as usize;
    let (x, y, w) = (
        m.random.numbers(len, 1.0),
        m.random.numbers(len, 1e-3),
        m.random.numbers(model.hidden as usize, 1.0),
    );
    let params = ResidualNormParams {
        x: m.bed.upload_mut(&x)?,
        y: m.bed.upload(&y)?,
        post_norm: Global::null(),
        norm: m.bed.upload(&w)?,
        select: Global::null(),
        out: Forms::new(m.bed, rows as usize, model.hidden as usize, wanted)?.out,
        cols: model.hidden,
        scale: 1.0,
        post_eps: 0.0,
        eps: 1e-6,
    };
    let (entry, launch) = residual_norm::launch(rows, model.hidden);
    let bytes = len as f64 * (12.0 + out_bytes);
    time(m, &format!("residual and norm, {rows} rows"), (&entry, launch), bytes, &params)
}

fn gate(
    m: &mut Measuring<'_>,
    model: Model,
    rows: u32,
    wanted: Wanted,
    out_bytes: f64,
) -> Result<(), BedError> {
    let n = model.inner;
    let len = (rows * n) as usize;
    let (gate, up) = (m.random.numbers(len, 2.0), m.random.numbers(len, 2.0));
    let params = GatedParams {
        gate: m.bed.upload(&gate)?,
        up: m.bed.upload(&up)?,
        out: Forms::new(m.bed, rows as usize, n as usize, wanted)?.out,
        n,
        stride: n,
    };
    let (entry, launch) = gated::launch(false, rows, n, wanted.half);
    let bytes = len as f64 * (8.0 + out_bytes);
    time(m, &format!("gate, {rows} rows"), (&entry, launch), bytes, &params)
}

fn convert(
    m: &mut Measuring<'_>,
    model: Model,
    rows: u32,
    wanted: Wanted,
    out_bytes: f64,
) -> Result<(), BedError> {
    let len = (rows * model.hidden) as usize;
    let x = m.random.numbers(len, 1.0);
    let params = ToOperandParams {
        x: m.bed.upload(&x)?,
        out: Forms::new(m.bed, rows as usize, model.hidden as usize, wanted)?.out,
        cols: model.hidden,
    };
    let (entry, launch) = to_operand::launch(rows, model.hidden, wanted.half);
    let bytes = len as f64 * (4.0 + out_bytes);
    time(m, &format!("operand, {rows} rows"), (&entry, launch), bytes, &params)
}

fn attention_inputs(m: &mut Measuring<'_>, model: Model, rows: u32) -> Result<(), BedError> {
    let Model { heads, kv_heads, head_dim, .. } = model;
    let sequences = Sequences::new(m.bed, &mut m.random, &[(rows, rows.max(1000))])?;
    let pairs = head_dim / 2;
    let angles = m.random.numbers((rows * pairs) as usize, 3.0);
    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
    let q = m.random.numbers((rows * model.q()) as usize, 1.0);
    let kv = m.random.numbers((rows * model.kv()) as usize, 1.0);
    let weights = m.random.numbers(head_dim as usize, 1.0);
    let words = sequences.cache_pages() * PAGE * model.kv() as usize / 2;
    let params = InputsParams {
        q: m.bed.upload_mut(&q)?,
        k: m.bed.upload(&kv)?,
        v: m.bed.upload(&kv)?,
        q_norm: m.bed.upload(&weights)?,
        k_norm: m.bed.upload(&weights)?,
        cos: m.bed.upload(&cos)?,
        sin: m.bed.upload(&sin)?,
        step: sequences.step,
        kv: KvView { k: m.bed.poisoned(words)?, v: m.bed.poisoned(words)?, kv_heads, head_dim },
        rows,
        heads,
        pairs,
        interleaved: 0,
        eps: 1e-6,
    };
    let launch = inputs::launch(Shape { heads, kv_heads, head_dim }, rows);
    let bytes = f64::from(rows) * (8.0 * f64::from(model.q()) + 12.0 * f64::from(model.kv()));
    let name = format!("attention inputs, {rows} rows");
    time(m, &name, (&QKV_ROPE_WRITE_F16, launch), bytes, &params)
}

fn choose(m: &mut Measuring<'_>, model: Model) -> Result<(), BedError> {
    let (bed, vocab) = (m.bed, model.vocab);
    let logits = m.random.numbers(vocab as usize, 8.0);
    let parts = sample::parts(vocab) as usize;
    for (name, row) in [
        ("greedy", SampleRow::plain(0.0, 0.5)),
        (
            "top-k 40, top-p 0.95",
            SampleRow { top_k: 40, top_p: 0.95, ..SampleRow::plain(0.8, 0.5) },
        ),
    ] {
        let params = SampleParams {
            logits: bed.upload(&logits)?,
            rows: bed.upload(&row.words(vocab, f32::NEG_INFINITY))?,
            bias: bed.upload::<[u32; 2]>(&[])?,
            counts: Global::null(),
            adjusted: bed.poisoned(vocab as usize)?,
            scanned: bed.poisoned(parts)?,
            summary: bed.poisoned(1)?,
            sums: bed.poisoned(parts)?,
            candidates: bed.poisoned(parts * sample::MAX_CANDIDATES as usize)?,
            tickets: bed.zeros(1)?,
            out: bed.poisoned(1)?,
            vocab,
        };
        let launch = sample::launch(1, vocab);
        let bytes = 4.0 * f64::from(vocab);
        bed.run(&sample::SCAN, launch, &params)?;
        time(m, &format!("scan, {name}"), (&sample::SCAN, launch), bytes, &params)?;
        time(m, &format!("draw, {name}"), (&sample::DRAW, launch), bytes, &params)?;
        bed.clear();
    }
    Ok(())
}
