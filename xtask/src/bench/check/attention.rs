//! Attention, on scattered pages of which nothing more is a number than a row may see.

use cuda_std::{Entry, Global, Launch, f16};
use gpu_kernels::kernels::attention::{AttendParams, Shape, decode, exact, prefill};
use gpu_kernels::kernels::step::KvView;

use super::super::bed::BedError;
use super::super::operand::{Forms, Wanted};
use super::super::reference::{attend, on_all_cores};
use super::super::sequences::{PAGE, Sequences};
use super::{Checker, PRODUCT};

/// Rows and context length of each sequence.
type Spans = &'static [(u32, u32)];

#[derive(Clone, Copy, Debug)]
struct Problem {
    shape: Shape,
    spans: Spans,
    window: u32,
    softcap: f32,
    /// Size of queries and keys.
    amplitude: f32,
}

/// A kernel for a problem.
struct Candidate {
    entry: &'static Entry<AttendParams>,
    launch: Launch,
    splits: u32,
}

const fn shape(heads: u32, kv_heads: u32, head_dim: u32) -> Shape {
    Shape { heads, kv_heads, head_dim }
}

/// Shapes that between them take every variant.
const SHAPES: [Shape; 15] = [
    shape(2, 2, 32),
    shape(4, 2, 32),
    shape(8, 2, 32),
    shape(2, 2, 64),
    shape(4, 2, 64),
    shape(9, 3, 64),
    shape(8, 4, 96),
    shape(2, 2, 128),
    shape(4, 2, 128),
    shape(32, 8, 128),
    shape(2, 2, 256),
    shape(4, 2, 256),
    shape(8, 2, 256),
    shape(3, 3, 80),
    shape(4, 4, 80),
];

const DECODING: [Spans; 5] = [
    &[(1, 300), (1, 1), (2, 33), (1, 4097)],
    &[(1, 1)],
    &[(1, 16), (1, 17)],
    &[(4, 1000), (1, 700)],
    &[(3, 3)],
];
const PREFILLING: [Spans; 5] = [
    &[(65, 200), (3, 70)],
    &[(64, 64)],
    &[(130, 130), (1, 40)],
    &[(17, 500)],
    &[(257, 300), (33, 33), (128, 129)],
];

fn problems(c: &Checker<'_>, spans: &[Spans]) -> Vec<Problem> {
    let mut problems = vec![];
    for shape in SHAPES {
        for &spans in c.some(spans) {
            let base = Problem { shape, spans, window: u32::MAX, softcap: 0.0, amplitude: 1.0 };
            problems.push(base);
            if !c.small {
                problems.push(Problem { window: 50, ..base });
                problems.push(Problem { softcap: 20.0, amplitude: 3.0, ..base });
                problems.push(Problem { window: 1, softcap: 5.0, ..base });
            }
        }
    }
    problems
}

pub fn check(c: &mut Checker<'_>) -> Result<(), BedError> {
    for problem in problems(c, &DECODING) {
        c.attempt(|c| few_rows(c, problem))?;
    }
    for problem in problems(c, &PREFILLING) {
        c.attempt(|c| many_rows(c, problem))?;
    }
    Ok(())
}

fn few_rows(c: &mut Checker<'_>, problem: Problem) -> Result<(), BedError> {
    let Problem { shape, spans, .. } = problem;
    let rows = spans.iter().map(|s| s.0).sum();
    // Rows of other widths are no input of quantized weights.
    let planes = (shape.heads * shape.head_dim).is_multiple_of(32);
    let halves = Posed::new(c, problem, true)?;
    if decode::supports(shape) {
        let usual = decode::splits(shape, rows, c.bed.multiprocessors());
        for &splits in c.some(&[usual, 1, decode::MAX_SPLITS]) {
            let launch = decode::launch(shape, rows, splits);
            let entry = decode::entry(shape);
            halves.check(c, planes, Candidate { entry, launch, splits })?;
        }
    }
    if exact::supports(shape) {
        let launch = exact::launch(shape, rows);
        let entry = &exact::ATTN_EXACT_F16;
        halves.check(c, planes, Candidate { entry, launch, splits: 1 })?;
        let entry = &exact::ATTN_EXACT_F32;
        let floats = Posed::new(c, problem, false)?;
        floats.check(c, planes, Candidate { entry, launch, splits: 1 })?;
    }
    Ok(())
}

fn many_rows(c: &mut Checker<'_>, problem: Problem) -> Result<(), BedError> {
    let Problem { shape, spans, .. } = problem;
    let planes = shape.head_dim.is_multiple_of(32);
    if !prefill::supports(shape, planes) {
        return Ok(());
    }
    let longest = spans.iter().map(|s| s.0).max().unwrap_or(0);
    let posed = Posed::new(c, problem, true)?;
    for small in [false, true] {
        let variant = prefill::Variant::of(shape, small);
        let launch = variant.launch(shape, spans.len() as u32, longest);
        posed.check(c, planes, Candidate { entry: variant.entry, launch, splits: 1 })?;
    }
    Ok(())
}

/// A problem on the device, with what should come out.
struct Posed {
    problem: Problem,
    sequences: Sequences,
    q: Global<f32>,
    kv: KvView,
    scale: f32,
    expected: Vec<f64>,
}

impl Posed {
    /// With keys and values in halves, or in F32.
    fn new(c: &mut Checker<'_>, problem: Problem, half: bool) -> Result<Self, BedError> {
        let Problem { shape, spans, window, softcap, amplitude } = problem;
        let sequences = Sequences::new(c.bed, &mut c.random, spans)?;
        let (dim, kv_heads) = (shape.head_dim as usize, shape.kv_heads as usize);
        let cols = shape.heads as usize * dim;
        let scale = 1.0 / (dim as f32).sqrt();
        let q = c.random.numbers(sequences.rows * cols, amplitude);

        let len = sequences.cache_pages() * kv_heads * PAGE * dim;
        let (mut keys, mut values) = (vec![f32::NAN; len], vec![f32::NAN; len]);
        let round = |x: f32| if half { f16::from_f32(x).to_f32() } else { x };
        let slot =
            |first_page, position, head| sequences.slot(first_page, position, head, kv_heads, dim);
        // Position and first page of each row.
        let mut rows = vec![];
        for &[_, n, context, first_page] in &sequences.table {
            rows.extend((context - n..context).map(|position| (position, first_page)));
            for position in (context - n + 1).saturating_sub(window)..context {
                for head in 0..kv_heads {
                    let at = slot(first_page, position, head);
                    for i in at..at + dim {
                        keys[i] = round(c.random.number() * amplitude);
                        // Some far larger, so that a weight in the wrong place shows.
                        let size = if c.random.below(97) == 0 { 20.0 } else { 1.0 };
                        values[i] = round(c.random.number() * size);
                    }
                }
            }
        }
        let expected = on_all_cores(&rows, cols, |row, &(position, first_page), out| {
            let end = position + 1;
            for (head, out) in out.chunks_mut(dim).enumerate() {
                let kv_head = head / shape.group() as usize;
                let seen: Vec<usize> = (end.saturating_sub(window)..end)
                    .map(|position| slot(first_page, position, kv_head))
                    .collect();
                let q = &q[row * cols + head * dim..][..dim];
                let mean = attend(q, &keys, &values, &seen, scale.into(), softcap.into());
                out.copy_from_slice(&mean);
            }
        });
        let bed = c.bed;
        let cache = |x: &[f32]| match half {
            true => {
                let halves: Vec<f16> = x.iter().map(|x| f16::from_f32(*x)).collect();
                Ok(bed.upload_mut(&halves)?.cast())
            }
            false => Ok::<_, BedError>(bed.upload_mut(x)?.cast()),
        };
        let kv = KvView {
            k: cache(&keys)?,
            v: cache(&values)?,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        };
        Ok(Self { problem, q: bed.upload(&q)?, sequences, kv, scale, expected })
    }

    fn check(
        &self,
        c: &mut Checker<'_>,
        planes: bool,
        Candidate { entry, launch, splits }: Candidate,
    ) -> Result<(), BedError> {
        let Problem { shape, window, softcap, .. } = self.problem;
        let (bed, rows) = (c.bed, self.sequences.rows);
        let cols = (shape.heads * shape.head_dim) as usize;
        let forms = Forms::new(bed, rows, cols, Wanted { planes, ..Wanted::ALL })?;
        let counters = decode::counters(shape, rows as u32);
        let params = AttendParams {
            q: self.q,
            kv: self.kv,
            step: self.sequences.step,
            out: forms.out,
            workspace: bed.poisoned(decode::workspace_bytes(shape, rows as u32, splits) / 4)?,
            counters: bed.zeros(counters)?,
            first_row: 0,
            first_span: 0,
            heads: shape.heads,
            scale: self.scale,
            softcap,
            window,
            splits,
        };
        bed.run(entry, launch, &params)?;
        let (name, text) = (entry.info.name, format!("{:?}, {splits} splits", self.problem));
        for (form, found) in forms.read(bed)? {
            c.judge(name, form, &text, (&found, &self.expected), PRODUCT);
        }
        let cleared = bed.read(params.counters, counters)?.iter().all(|n| *n == 0);
        c.require(name, "counters are zeros again", &text, cleared);
        Ok(())
    }
}
