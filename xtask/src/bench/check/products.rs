//! Products of matrices and the embedding, in every format and form.

use cuda_std::{Global, GlobalMut};
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::embed::{self, EmbedParams};
use gpu_kernels::kernels::exact::{self, ExactParams};
use gpu_kernels::kernels::gemm::{self, GemmParams};
use gpu_kernels::kernels::gemv::{self, GemvParams, MAX_TARGETS, MAX_TOKENS, Target};

use super::super::bed::BedError;
use super::super::operand::operand;
use super::super::reference::product;
use super::super::weights::{Weights, gemm_device, is_quantized, tables, weight_scale};
use super::{Checker, ELEMENT, PRODUCT, wide};

/// A part of the checks of a format.
type Part = fn(&mut Checker<'_>, Format) -> Result<(), BedError>;

pub fn check(c: &mut Checker<'_>) -> Result<(), BedError> {
    for format in c.formats.clone() {
        for part in [embedding as Part, plain, few_rows, many_rows] {
            c.attempt(|c| part(c, format))?;
        }
    }
    Ok(())
}

/// Matrices that read the same operand.
#[derive(Clone, Copy, Debug)]
struct Problem {
    format: Format,
    /// Rows of each matrix.
    rows: [usize; MAX_TARGETS],
    cols: usize,
    /// Rows of the operand.
    tokens: usize,
    bias: bool,
}

/// A problem on the device, with what should come out.
struct Posed {
    targets: [Target; MAX_TARGETS],
    x: Vec<f32>,
    expected: Vec<Vec<f64>>,
}

/// Columns that are whole blocks and pieces, and at least `cols`.
fn whole(format: Format, cols: usize) -> usize {
    cols.next_multiple_of(format.block_len().max(32))
}

fn pose(c: &mut Checker<'_>, problem: Problem) -> Result<Posed, BedError> {
    let Problem { format, rows, cols, tokens, bias } = problem;
    let x = c.random.activations(tokens * cols);
    let mut targets = [Target::NONE; MAX_TARGETS];
    let mut expected = vec![];
    for (i, &n) in rows.iter().enumerate().filter(|(_, n)| **n > 0) {
        let weights = Weights::random(c.bed, (&mut c.pools, &mut c.random), format, n, cols)?;
        let b = bias.then(|| c.random.numbers(n, 1.0));
        targets[i] = Target {
            weights: weights.matrix,
            bias: b.as_ref().map_or(Ok(Global::null()), |b| c.bed.upload(b))?,
            y: GlobalMut::null(),
            // Rows of y may lie apart.
            stride: (n + i) as u32,
        };
        expected.push(product(&x, &weights.values, b.as_deref(), tokens, cols));
    }
    Ok(Posed { targets, x, expected })
}

impl Posed {
    /// The targets, with poisoned outputs.
    fn poisoned(&self, c: &Checker<'_>, tokens: usize) -> Result<[Target; MAX_TARGETS], BedError> {
        let mut targets = self.targets;
        for target in targets.iter_mut().filter(|t| t.weights.rows > 0) {
            target.y = c.bed.poisoned(tokens * target.stride as usize)?;
        }
        Ok(targets)
    }

    fn judge(
        &self,
        c: &mut Checker<'_>,
        entry: &'static str,
        targets: &[Target],
        problem: &str,
        bound: f64,
    ) -> Result<(), BedError> {
        let used = targets.iter().filter(|t| t.weights.rows > 0);
        for (target, expected) in used.zip(&self.expected) {
            let (n, stride) = (target.weights.rows as usize, target.stride as usize);
            let y = c.bed.read(target.y, expected.len() / n * stride)?;
            let found: Vec<f64> = y.chunks(stride).flat_map(|row| wide(&row[..n])).collect();
            c.judge(entry, "F32", problem, (&found, expected), bound);
            let apart = y.chunks(stride).all(|row| row[n..].iter().all(|x| x.is_nan()));
            c.require(entry, "writes nothing between rows", problem, apart);
        }
        Ok(())
    }
}

fn few_rows(c: &mut Checker<'_>, format: Format) -> Result<(), BedError> {
    for tokens in 1..=MAX_TOKENS as usize {
        if c.small && !tokens.is_power_of_two() {
            continue;
        }
        let base =
            Problem { format, rows: [37, 0, 0], cols: whole(format, 512), tokens, bias: false };
        let problems = [
            Problem { rows: [64, 7, 9], bias: true, ..base },
            Problem { rows: [1, 0, 0], cols: whole(format, 32), ..base },
            base,
            Problem { rows: [1000, 130, 31], ..base },
            Problem { rows: [300, 0, 0], cols: whole(format, 33 * 32), bias: true, ..base },
            Problem { rows: [33, 65, 0], cols: whole(format, 12_288), ..base },
        ];
        for problem in c.some(&problems).to_vec() {
            multiply_few(c, problem)?;
        }
        if !is_quantized(format) {
            multiply_few(c, Problem { cols: 515, bias: true, ..base })?;
            multiply_few(c, Problem { cols: 3, ..base })?;
        }
        c.bed.clear();
    }
    Ok(())
}

fn multiply_few(c: &mut Checker<'_>, problem: Problem) -> Result<(), BedError> {
    let Problem { format, rows, cols, tokens, .. } = problem;
    let posed = pose(c, problem)?;
    let targets = posed.poisoned(c, tokens)?;
    let (rows, tokens32) = (rows.map(|n| n as u32), tokens as u32);
    let device = gemv::Device { sms: c.bed.multiprocessors(), ctas: gemv::ctas(tokens32) };
    let geometry = gemv::Geometry::new(format, rows, cols as u32, tokens32, device);
    let params = GemvParams {
        x: operand(c.bed, &posed.x, tokens, cols)?,
        targets,
        tables: tables(c.bed, format)?,
        tokens: tokens32,
        split_log2: geometry.split_log2,
    };
    let Some(entry) = gemv::entry(format, tokens32) else { return Ok(()) };
    c.bed.run(entry, geometry.launch, &params)?;
    posed.judge(c, entry.info.name, &targets, &format!("{problem:?}"), PRODUCT)
}

fn many_rows(c: &mut Checker<'_>, format: Format) -> Result<(), BedError> {
    if gemm::entry(format, 0).is_none() {
        return Ok(()); // F32: the plain product is all there is
    }
    let base =
        Problem { format, rows: [200, 0, 0], cols: whole(format, 512), tokens: 9, bias: false };
    let problems = [
        Problem { rows: [64, 7, 9], tokens: 33, bias: true, ..base },
        Problem { tokens: 16, ..base },
        Problem { tokens: 17, cols: whole(format, 33 * 32), bias: true, ..base },
        Problem { rows: [1, 0, 0], tokens: 9, cols: whole(format, 32), ..base },
        Problem { rows: [130, 257, 31], tokens: 64, ..base },
        Problem { tokens: 100, cols: whole(format, 160), ..base },
        Problem { rows: [256, 255, 0], tokens: 130, ..base },
        Problem { tokens: 300, cols: whole(format, 1024), bias: true, ..base },
    ];
    for problem in c.some(&problems).to_vec() {
        multiply_many(c, problem)?;
        c.bed.clear();
    }
    if !is_quantized(format) && !c.small {
        for cols in [515, 3, 136] {
            multiply_many(c, Problem { cols, tokens: 33, ..base })?;
        }
    }
    Ok(())
}

/// One problem, in the way that is chosen for it and in every other.
fn multiply_many(c: &mut Checker<'_>, problem: Problem) -> Result<(), BedError> {
    let Problem { format, rows, cols, tokens, .. } = problem;
    if !gemm::supports(format, cols as u32) {
        return Ok(());
    }
    let shape = gemm::Shape {
        format,
        rows: rows.map(|n| n as u32),
        cols: cols as u32,
        tokens: tokens as u32,
    };
    let mut ways = vec![gemm::Geometry::new(shape, gemm_device(c.bed))];
    for tile in 0..gemm::tiles(format).len() {
        ways.extend([1, 3].map(|splits| gemm::Geometry::with(shape, tile, splits)));
    }
    let posed = pose(c, problem)?;
    let (x, tables) = (operand(c.bed, &posed.x, tokens, cols)?, tables(c.bed, format)?);
    for way in ways {
        let targets = posed.poisoned(c, tokens)?;
        let params = GemmParams {
            x,
            targets,
            weight_scale: [weight_scale(format); MAX_TARGETS],
            tables,
            partial: c.bed.poisoned(way.partial_bytes() / 16)?,
            arrived: c.bed.zeros(way.counters())?,
            tokens: tokens as u32,
            splits: way.splits,
            stages_per_split: way.stages_per_split,
        };
        let entry = gemm::entry(format, way.tile).expect("a kernel for each tile");
        c.bed.run(entry, way.launch, &params)?;
        let (name, text) = (entry.info.name, format!("{problem:?}, {} splits", way.splits));
        posed.judge(c, name, &targets, &text, PRODUCT)?;
        let cleared = c.bed.read(params.arrived, way.counters())?.iter().all(|n| *n == 0);
        c.require(name, "counters are zeros again", &text, cleared);
    }
    Ok(())
}

/// Products in F32 throughout, and exact to that.
fn plain(c: &mut Checker<'_>, format: Format) -> Result<(), BedError> {
    let base =
        Problem { format, rows: [37, 0, 0], cols: whole(format, 512), tokens: 3, bias: true };
    let problems = [
        base,
        Problem { rows: [1, 0, 0], cols: whole(format, 32), tokens: 1, ..base },
        Problem { rows: [300, 0, 0], cols: whole(format, 33 * 32), tokens: 40, ..base },
        Problem { cols: if is_quantized(format) { base.cols } else { 515 }, ..base },
    ];
    for problem in c.some(&problems).to_vec() {
        let posed = pose(c, problem)?;
        let targets = posed.poisoned(c, problem.tokens)?;
        let params = ExactParams {
            x: c.bed.upload(&posed.x)?,
            target: targets[0],
            tables: tables(c.bed, format)?,
        };
        let entry = exact::entry(format);
        let launch = exact::launch(problem.rows[0] as u32, problem.tokens as u32);
        c.bed.run(entry, launch, &params)?;
        posed.judge(c, entry.info.name, &targets[..1], &format!("{problem:?}"), ELEMENT)?;
    }
    Ok(())
}

fn embedding(c: &mut Checker<'_>, format: Format) -> Result<(), BedError> {
    const SCALE: f32 = 2.5;
    let mut widths = vec![whole(format, 512), whole(format, 32), whole(format, 4096 + 256)];
    if !is_quantized(format) {
        widths.push(515);
    }
    for &cols in c.some(&widths) {
        let rows = 50;
        let weights = Weights::random(c.bed, (&mut c.pools, &mut c.random), format, rows, cols)?;
        // The last is past the end.
        let tokens = [0, 49, 7, 7, 31, 1000];
        let y = c.bed.poisoned(tokens.len() * cols)?;
        let params = EmbedParams {
            tokens: c.bed.upload(&tokens)?,
            weights: weights.matrix,
            tables: tables(c.bed, format)?,
            y,
            scale: SCALE,
        };
        let entry = embed::entry(format);
        c.bed.run(entry, embed::launch(tokens.len() as u32, cols as u32), &params)?;
        let expected: Vec<f64> = tokens
            .iter()
            .map(|&token| (token as usize).min(rows - 1) * cols)
            .flat_map(|at| &weights.values[at..at + cols])
            .map(|w| f64::from(*w) * f64::from(SCALE))
            .collect();
        let found = wide(&c.bed.read(y, tokens.len() * cols)?);
        let text = format!("{format:?}, {cols}");
        c.judge(entry.info.name, "F32", &text, (&found, &expected), ELEMENT);
    }
    Ok(())
}
