//! Times the CPU backend's matrix products in the shapes of a small decoder.
//!
//! `cargo run --release -p host --example cpu_linear -- Q4_1 2` prints, for 1 and for 512 rows,
//! the time of each product and of all of them: what the products alone allow in tokens a second.

use std::time::{Duration, Instant};

use gpu_kernels::formats::Format;
use host::checkpoint::Bytes;
use host::ops::cpu::CpuOps;
use host::ops::{Linear, Operand, Ops, OpsError, Select, WeightUse};

/// SmolLM2-135M: hidden 576, intermediate 1536, 9 query heads and 3 key heads of 64.
const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const KV: usize = 192;
const VOCAB: usize = 49152;

fn main() -> Result<(), OpsError> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or("Q4_1".into());
    let threads = args.next().and_then(|t| t.parse().ok()).unwrap_or(0);
    let Some(&format) = Format::ALL.iter().find(|f| f.name() == name) else {
        eprintln!("unknown format {name}");
        std::process::exit(1);
    };
    if format.row_bytes(HIDDEN).is_none() {
        eprintln!("{HIDDEN} columns are no whole blocks of {name}");
        std::process::exit(1);
    }
    let ops = CpuOps::new(threads, false);
    println!("{}, {name}", ops.name());
    let layers: Vec<[Linear; 7]> =
        (0..LAYERS).map(|_| layer(&ops, format)).collect::<Result<_, _>>()?;
    let lm_head = matrix(&ops, Format::Q8_0, VOCAB, HIDDEN)?;
    for rows in [1, 2, 512] {
        time(&ops, &layers, &lm_head, rows)?;
    }
    Ok(())
}

fn layer(ops: &CpuOps, f: Format) -> Result<[Linear; 7], OpsError> {
    Ok([
        matrix(ops, f, HIDDEN, HIDDEN)?,
        matrix(ops, f, KV, HIDDEN)?,
        matrix(ops, f, KV, HIDDEN)?,
        matrix(ops, f, HIDDEN, HIDDEN)?,
        matrix(ops, f, INTERMEDIATE, HIDDEN)?,
        matrix(ops, f, INTERMEDIATE, HIDDEN)?,
        matrix(ops, f, HIDDEN, INTERMEDIATE)?,
    ])
}

fn matrix(ops: &CpuOps, format: Format, rows: usize, cols: usize) -> Result<Linear, OpsError> {
    let values: Vec<f32> = (0..cols).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let mut row = vec![0; format.row_bytes(cols).expect("checked by the caller")];
    format.encode(&values, &mut row);
    let weight =
        ops.weight(WeightUse::Products, format, rows, cols, Bytes::owned(row.repeat(rows)))?;
    Ok(Linear { weight, bias: None })
}

fn time(
    ops: &CpuOps,
    layers: &[[Linear; 7]],
    lm_head: &Linear,
    rows: usize,
) -> Result<(), OpsError> {
    let hidden = ramp(ops, rows, HIDDEN)?;
    let wide = ramp(ops, rows, INTERMEDIATE)?;
    let last = ramp(ops, 1, HIDDEN)?;
    let mut y: Vec<_> = [HIDDEN, KV, KV, INTERMEDIATE, INTERMEDIATE]
        .iter()
        .map(|&n| ops.alloc(rows, n))
        .collect::<Result<_, _>>()?;
    let [q, k, v, gate, up] = &mut y[..] else { unreachable!("five were made") };
    let mut logits = ops.alloc(1, VOCAB)?;
    let mut best = [Duration::MAX; 6];
    for _ in 0..7 {
        let mut parts = [Duration::ZERO; 6];
        for layer in layers {
            let [wq, wk, wv, wo, wg, wu, wd] = layer;
            parts[0] += timed(|| ops.linear(&[wq, wk, wv], &hidden, &mut [q, k, v]))?;
            parts[1] += timed(|| ops.linear(&[wo], &hidden, &mut [q]))?;
            parts[2] += timed(|| ops.linear(&[wg, wu], &hidden, &mut [gate, up]))?;
            parts[3] += timed(|| ops.linear(&[wd], &wide, &mut [q]))?;
        }
        parts[4] = timed(|| ops.linear(&[lm_head], &last, &mut [&mut logits]))?;
        parts[5] = parts[..5].iter().sum();
        for (best, part) in best.iter_mut().zip(parts) {
            *best = (*best).min(part);
        }
    }
    for (name, time) in ["q k v", "o", "gate up", "down", "lm_head", "all"].iter().zip(best) {
        println!("{rows:>4} rows {name:<8} {:>9.3} ms", time.as_secs_f64() * 1e3);
    }
    println!("{rows:>4} rows: {:.0} tok/s", rows as f64 / best[5].as_secs_f64());
    Ok(())
}

/// An input of products whose rows are a ramp.
fn ramp(ops: &CpuOps, rows: usize, cols: usize) -> Result<Operand, OpsError> {
    let values: Vec<f32> = (0..rows * cols).map(|i| (i % 31) as f32 - 15.0).collect();
    let mut x = ops.alloc(rows, cols)?;
    ops.write(&mut x, rows, &values)?;
    let mut out = ops.alloc_operand(rows, cols)?;
    ops.residual_norm(&mut x, None, None, Select::All, &mut out)?;
    Ok(out)
}

fn timed(f: impl FnOnce() -> Result<(), OpsError>) -> Result<Duration, OpsError> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed())
}
