//! Products at the shapes of a layer.

use cuda_std::{Global, GlobalMut};
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::gemm::{self, GemmParams};
use gpu_kernels::kernels::gemv::{self, GemvParams, MAX_TARGETS, Target};
use gpu_kernels::kernels::matrix::Matrix;

use super::super::bed::BedError;
use super::super::operand::operand;
use super::super::weights::{copies, gemm_device, tables, weight_scale};
use super::{Measuring, Model, Work};

/// The formats that most models come in.
const USUAL: [Format; 5] = [Format::Q8_0, Format::Q4_K, Format::Q6_K, Format::Q4_0, Format::F16];

/// Matrices of one launch.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    rows: [u32; MAX_TARGETS],
    cols: u32,
}

impl Shape {
    fn weights(self) -> usize {
        self.rows.iter().map(|n| *n as usize).sum::<usize>() * self.cols as usize
    }
    fn bytes(self, format: Format) -> usize {
        self.weights() / format.block_len() * format.block_bytes()
    }
}

fn layer(m: Model) -> [Shape; 4] {
    [
        Shape { name: "qkv", rows: [m.q(), m.kv(), m.kv()], cols: m.hidden },
        Shape { name: "o", rows: [m.hidden, 0, 0], cols: m.q() },
        Shape { name: "gate+up", rows: [m.inner, m.inner, 0], cols: m.hidden },
        Shape { name: "down", rows: [m.hidden, 0, 0], cols: m.inner },
    ]
}

fn formats(m: &Measuring<'_>) -> &'static [Format] {
    if m.every_format { Format::ALL } else { &USUAL }
}

/// Copies of the matrices of a shape, with outputs for `tokens` rows.
fn targets(
    m: &mut Measuring<'_>,
    format: Format,
    shape: Shape,
    count: usize,
    tokens: u32,
) -> Result<Vec<[Target; MAX_TARGETS]>, BedError> {
    let mut targets = vec![[Target::NONE; MAX_TARGETS]; count];
    for (i, &n) in shape.rows.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (rows, cols) = (n as usize, shape.cols as usize);
        let matrices: Vec<Matrix> =
            copies(m.gpu, (&mut m.pools, &mut m.random), format, rows, cols, count)?;
        let y: GlobalMut<f32> = m.bed.poisoned(tokens as usize * rows)?;
        for (targets, weights) in targets.iter_mut().zip(matrices) {
            targets[i] = Target { weights, bias: Global::null(), y, stride: n };
        }
    }
    Ok(targets)
}

pub fn few_rows(m: &mut Measuring<'_>, model: Model) -> Result<(), BedError> {
    const TOKENS: [u32; 4] = [1, 2, 4, 8];
    let lm_head = Shape { name: "lm_head", rows: [model.vocab, 0, 0], cols: model.hidden };
    for &format in formats(m) {
        for shape in layer(model).into_iter().chain([lm_head]) {
            let bytes = shape.bytes(format);
            let count = m.copies(bytes);
            let all = targets(m, format, shape, count, TOKENS[3])?;
            let x = m.random.activations(TOKENS[3] as usize * shape.cols as usize);
            let x = operand(m.bed, &x, TOKENS[3] as usize, shape.cols as usize)?;
            let tables = tables(m.bed, format)?;
            for tokens in TOKENS {
                let Some(entry) = gemv::entry(format, tokens) else { continue };
                let ctas = m.gpu.function(&entry.info)?.resident_ctas();
                let device = gemv::Device { sms: m.bed.multiprocessors(), ctas };
                let geometry = gemv::Geometry::new(format, shape.rows, shape.cols, tokens, device);
                let (gpu, launch) = (m.gpu, geometry.launch);
                let queue = |i: usize| {
                    let params = GemvParams {
                        x,
                        targets: all[i % all.len()],
                        tables,
                        tokens,
                        split_log2: geometry.split_log2,
                    };
                    gpu.stream.launch(entry, launch, &params)
                };
                let name = format!("{} m={tokens}", shape.name);
                let work = Work { bytes: bytes as f64, operations: 0.0 };
                m.time(name, (&entry.info, launch), work, all.len().max(16), queue)?;
            }
            m.bed.clear();
        }
    }
    Ok(())
}

pub fn many_rows(m: &mut Measuring<'_>, model: Model) -> Result<(), BedError> {
    const TOKENS: [u32; 4] = [16, 64, 512, 2048];
    for &format in formats(m) {
        if gemm::entry(format, 0).is_none() {
            continue;
        }
        for shape in layer(model) {
            let bytes = shape.bytes(format);
            let count = m.copies(bytes);
            let all = targets(m, format, shape, count, TOKENS[3])?;
            let x = m.random.activations(TOKENS[3] as usize * shape.cols as usize);
            let x = operand(m.bed, &x, TOKENS[3] as usize, shape.cols as usize)?;
            let tables = tables(m.bed, format)?;
            let partial = m.bed.poisoned(gemm::MAX_PARTIAL_BYTES / 16)?;
            let arrived = m.bed.zeros(gemm::MAX_COUNTERS)?;
            for tokens in TOKENS {
                let (rows, cols) = (shape.rows, shape.cols);
                let problem = gemm::Shape { format, rows, cols, tokens };
                let way = gemm::Geometry::new(problem, gemm_device(m.bed));
                let entry = gemm::entry(format, way.tile).expect("a kernel for each tile");
                let (gpu, launch) = (m.gpu, way.launch);
                let queue = |i: usize| {
                    let params = GemmParams {
                        x,
                        targets: all[i % all.len()],
                        weight_scale: [weight_scale(format); MAX_TARGETS],
                        tables,
                        partial,
                        arrived,
                        tokens,
                        splits: way.splits,
                        stages_per_split: way.stages_per_split,
                    };
                    gpu.stream.launch(entry, launch, &params)
                };
                let name = format!("{} m={tokens}, {} splits", shape.name, way.splits);
                let operations = 2.0 * f64::from(tokens) * shape.weights() as f64;
                let work = Work { bytes: bytes as f64, operations };
                // Long launches need no many.
                let count = if tokens > 64 { 8 } else { all.len().max(16) };
                m.time(name, (&entry.info, launch), work, count, queue)?;
            }
            m.bed.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::MODELS;
    use super::*;

    #[test]
    fn a_layer_of_qwen3_8b_has_its_weights() {
        let weights: usize = layer(MODELS[0]).iter().map(|s| s.weights()).sum();
        assert_eq!(weights, 4096 * (4096 + 2 * 1024 + 4096 + 3 * 12_288));
        let qkv = layer(MODELS[0])[0];
        assert_eq!(qkv.bytes(Format::Q8_0), 6144 * 4096 / 32 * 34);
        assert_eq!(qkv.bytes(Format::F16), 6144 * 4096 * 2);
    }
}
