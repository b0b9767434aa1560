//! Which kernels multiply: by the format of the weights and the number of rows.
//!
//! | rows | default | exact mode, F32 weights beyond few rows |
//! |---|---|---|
//! | up to [`FEW_ROWS`](super::memory::FEW_ROWS) | integers (quantized weights), F32 (floats) | F32, plain |
//! | more | halves, matrix instructions | F32, plain |
//!
//! With [`CudaOptions::deterministic`](super::CudaOptions::deterministic) all numbers of rows are
//! "more", in one tile and without splits: each sum has one order.
//!
//! Matrices of one format that read the same input go in one launch.

use std::collections::HashMap;

use cuda_std::{EntryInfo, Global, GlobalMut};
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::gemm::{self, GemmParams};
use gpu_kernels::kernels::gemv::{self, GemvParams, MAX_TARGETS, Target};
use gpu_kernels::kernels::{attention, embed as embedding, exact, gated, residual_norm, sample};

use super::arena::{Arena, Piece};
use super::memory::WeightFormats;
use super::upload::Uploader;
use super::{CudaOps, vector_view};
use crate::cuda::{Context, CudaError, DeviceBuffer, Stream};
use crate::ops::{Linear, Operand, OpsError, Tensor, Weight};

/// What products need beside their operands: codebooks, and room where parts of a sum meet, which no
/// product of exact mode has.
#[derive(Debug)]
pub struct ProductMemory {
    tables: HashMap<Format, Piece>,
    sums: Option<Sums>,
}

#[derive(Debug)]
struct Sums {
    partial: DeviceBuffer,
    arrived: DeviceBuffer,
}

/// Bytes of the room where parts of a sum meet.
pub fn sum_bytes(is_exact: bool) -> usize {
    if is_exact { 0 } else { gemm::MAX_PARTIAL_BYTES + 4 * gemm::MAX_COUNTERS }
}

impl ProductMemory {
    pub fn new(
        context: &Context,
        stream: &Stream,
        uploader: &Uploader,
        arena: &Arena,
        is_exact: bool,
    ) -> Result<Self, CudaError> {
        let mut tables = HashMap::new();
        for &format in Format::ALL {
            if !format.table().is_empty() {
                tables.insert(format, uploader.words(arena, format.table())?);
            }
        }
        let sums = (!is_exact).then(|| {
            let partial = context.alloc(gemm::MAX_PARTIAL_BYTES)?;
            let arrived = context.alloc(4 * gemm::MAX_COUNTERS)?;
            stream.fill(&arrived, 0..arrived.len(), 0)?;
            Ok(Sums { partial, arrived })
        });
        Ok(Self { tables, sums: sums.transpose()? })
    }

    /// The codebook of a format, or null.
    fn table(&self, format: Format) -> Global<u32> {
        self.tables.get(&format).map_or(Global::null(), Piece::view)
    }
}

/// The modules of kernels that a model with weights of these formats will want: loaded with it, they
/// are not compiled in the middle of its first answer.
pub fn modules(formats: &WeightFormats, is_exact: bool) -> Vec<&'static str> {
    let mut modules = vec![];
    modules.extend(formats.embedded.iter().map(|&format| embedding::entry(format).info.module));
    for &format in &formats.multiplied {
        if is_exact || format == Format::F32 {
            modules.push(exact::entry(format).info.module);
        }
        if !is_exact {
            modules.extend(gemv::entry(format, 1).map(|entry| entry.info.module));
            modules.extend(gemm::entry(format, 0).map(|entry| entry.info.module));
        }
    }
    let attention: [&[EntryInfo]; 2] = match is_exact {
        true => [attention::exact::KERNELS, attention::inputs::KERNELS],
        false => [attention::decode::KERNELS, attention::prefill::KERNELS],
    };
    let others =
        [attention::inputs::KERNELS, residual_norm::KERNELS, gated::KERNELS, sample::KERNELS];
    modules.extend(attention.iter().chain(&others).flat_map(|list| list.first()).map(|e| e.module));
    modules.sort_unstable();
    modules.dedup();
    modules
}

/// `ys[i] = x · ws[i]ᵀ + bias`.
pub fn linear(
    ops: &CudaOps,
    ws: &[&Linear],
    x: &Operand,
    ys: &mut [&mut Tensor],
) -> Result<(), OpsError> {
    assert_eq!(ws.len(), ys.len());
    assert!(ws.len() <= MAX_TARGETS, "a group of products");
    for (w, y) in ws.iter().zip(ys.iter_mut()) {
        assert_eq!((w.weight.cols, w.weight.rows), (x.cols(), y.cols()));
        y.set_rows(x.rows());
    }
    let mut done = [false; MAX_TARGETS];
    for i in 0..ws.len() {
        if done[i] {
            continue;
        }
        let format = ws[i].weight.format;
        let mut targets = [Target::NONE; MAX_TARGETS];
        let mut scales = [1.0; MAX_TARGETS];
        let mut used = 0;
        for j in (i..ws.len()).filter(|&j| ws[j].weight.format == format) {
            targets[used] = target(ws[j], ys[j]);
            scales[used] = ws[j].weight.device().scale;
            (done[j], used) = (true, used + 1);
        }
        group(ops, format, targets, scales, x)?;
    }
    Ok(())
}

fn target(w: &Linear, y: &Tensor) -> Target {
    Target {
        weights: w.weight.device().matrix,
        bias: w.bias.as_ref().map_or(Global::null(), vector_view),
        y: y.device().view_mut(),
        stride: y.cols() as u32,
    }
}

/// Products of one format.
fn group(
    ops: &CudaOps,
    format: Format,
    targets: [Target; MAX_TARGETS],
    weight_scale: [f32; MAX_TARGETS],
    operand: &Operand,
) -> Result<(), OpsError> {
    let (tokens, cols) = (operand.rows() as u32, operand.cols() as u32);
    let x = operand.device().input(operand.rows());
    let tables = ops.products.table(format);
    let rows = targets.map(|t| t.weights.rows);
    let few = ops.precision.is_few(operand.rows());
    if ops.precision.exact || (!few && format == Format::F32) {
        for target in targets.into_iter().filter(|t| t.weights.rows > 0) {
            let params = exact::ExactParams { x: x.float, target, tables };
            let launch = exact::launch(target.weights.rows, tokens);
            ops.stream.launch(exact::entry(format), launch, &params)?;
        }
        return Ok(());
    }
    if few {
        let entry = gemv::entry(format, tokens).expect("a kernel for each format and few rows");
        let ctas = ops.context.function(&entry.info)?.resident_ctas();
        let device = gemv::Device { sms: ops.multiprocessors(), ctas };
        let geometry = gemv::Geometry::new(format, rows, cols, tokens, device);
        let params = GemvParams { x, targets, tables, tokens, split_log2: geometry.split_log2 };
        return Ok(ops.stream.launch(entry, geometry.launch, &params)?);
    }
    let shape = gemm::Shape { format, rows, cols, tokens };
    let geometry = match ops.precision.deterministic {
        false => gemm::Geometry::new(shape, ops.gemm_device()),
        true => one_order(shape, ops.gemm_device()),
    };
    let sums = match geometry.splits {
        1 => None,
        _ => Some(ops.products.sums.as_ref().expect("the default mode has room for sums")),
    };
    let params = GemmParams {
        x,
        targets,
        weight_scale,
        tables,
        partial: sums.map_or(GlobalMut::null(), |sums| sums.partial.view_mut(0)),
        arrived: sums.map_or(GlobalMut::null(), |sums| sums.arrived.view_mut(0)),
        tokens,
        splits: geometry.splits,
        stages_per_split: geometry.stages_per_split,
    };
    let entry = gemm::entry(format, geometry.tile).expect("a kernel for each format and tile");
    Ok(ops.stream.launch(entry, geometry.launch, &params)?)
}

/// Rows for which the tile of deterministic products is chosen: a batch of decoding sequences.
const ONE_ORDER_ROWS: u32 = 64;

/// A geometry whose sums have the same order for any number of tokens: the tile that is best for some,
/// and `k` in one part.
fn one_order(shape: gemm::Shape, device: gemm::Device) -> gemm::Geometry {
    let best = gemm::Geometry::new(gemm::Shape { tokens: ONE_ORDER_ROWS, ..shape }, device);
    gemm::Geometry::with(shape, best.tile, 1)
}

/// Rows of `table` for the tokens of the step.
pub fn embed(ops: &CudaOps, table: &Weight, scale: f32, out: &Tensor) -> Result<(), OpsError> {
    assert_eq!(table.cols, out.cols());
    let params = embedding::EmbedParams {
        tokens: ops.step_view().tokens,
        weights: table.device().matrix,
        tables: ops.products.table(table.format),
        y: out.device().view_mut(),
        scale,
    };
    let launch = embedding::launch(out.rows() as u32, out.cols() as u32);
    Ok(ops.stream.launch(embedding::entry(table.format), launch, &params)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_is_the_same_for_any_number_of_tokens() {
        let device = gemm::Device::new("sm_90", 132, 227 << 10);
        for format in [Format::Q4_K, Format::Q8_0, Format::F16] {
            let of = |tokens| {
                let shape = gemm::Shape { format, rows: [4096, 1024, 1024], cols: 4096, tokens };
                one_order(shape, device)
            };
            let first = of(1);
            assert_eq!(first.splits, 1);
            for tokens in [2, 8, 9, 64, 65, 2048] {
                let other = of(tokens);
                let order = |g: &gemm::Geometry| (g.cta, g.tile, g.splits, g.stages_per_split);
                assert_eq!(order(&other), order(&first), "{format:?}, {tokens} tokens");
            }
        }
    }
}
