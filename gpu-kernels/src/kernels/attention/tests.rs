//! Every kernel against sums in f64, on scattered pages of which nothing more is written than a row
//! may see.

use std::vec::Vec;
use std::{format, vec};

use cuda_std::emu::Memory;
use cuda_std::{Entry, Global, GlobalMut, Launch, f16};

use super::inputs::InputsParams;
use super::{AttendParams, Shape, decode, exact, inputs, prefill};
use crate::kernels::operand::OperandOut;
use crate::kernels::step::{KvView, StepView};

const PAGE: usize = super::PAGE_SIZE as usize;

/// A linear congruential generator; numbers between −1 and 1.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
    pub fn many(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

/// Rows and context length of each sequence.
pub type Spans<'a> = &'a [(u32, u32)];

/// The step of some sequences on pages in no order, and the number of pages there are.
pub fn step(mem: &mut Memory, spans: Spans<'_>) -> (StepView, Vec<[u32; 4]>, Vec<u32>) {
    let page_count: u32 = spans.iter().map(|s| s.1.div_ceil(PAGE as u32)).sum();
    // 7919 is prime: all pages but page 0, each once.
    let number = |i: u32| (i * 7919 + 3) % page_count + 1;
    let (mut table, mut rows, mut pages) = (vec![], vec![], vec![]);
    let (mut positions, mut row_span) = (vec![], vec![]);
    for (s, &(n, context)) in spans.iter().enumerate() {
        table.push([rows.len() as u32, n, context, pages.len() as u32]);
        for i in 0..n {
            rows.push(0);
            positions.push(context - n + i);
            row_span.push(s as u32);
        }
        for _ in 0..context.div_ceil(PAGE as u32) {
            pages.push(number(pages.len() as u32));
        }
    }
    assert!(!page_count.is_multiple_of(7919));
    let view = StepView {
        tokens: mem.upload(&rows),
        positions: mem.upload(&positions),
        row_span: mem.upload(&row_span),
        spans: mem.upload(&table),
        pages: mem.upload(&pages),
        logit_rows: Global::null(),
    };
    (view, table, pages)
}

/// One attention problem.
#[derive(Clone, Copy, Debug)]
struct Problem<'a> {
    shape: Shape,
    spans: Spans<'a>,
    window: u32,
    softcap: f32,
    /// Size of queries and keys.
    amplitude: f32,
    /// Multiplies the queries.
    query: f32,
    planes: bool,
}

const BASE: Problem<'static> = Problem {
    shape: Shape { heads: 2, kv_heads: 1, head_dim: 64 },
    spans: &[(1, 33)],
    window: u32::MAX,
    softcap: 0.0,
    amplitude: 1.0,
    query: 1.0,
    planes: true,
};

const fn shape(heads: u32, kv_heads: u32, head_dim: u32) -> Shape {
    Shape { heads, kv_heads, head_dim }
}

/// What a kernel needs besides the problem.
struct Candidate<'a> {
    entry: &'a Entry<AttendParams>,
    launch: Launch,
    f16: bool,
    splits: u32,
    /// Greatest normalised mean square error.
    nmse: f64,
}

fn check(problem: &Problem<'_>, candidate: impl FnOnce(u32) -> Candidate<'static>) {
    let Problem { shape, spans, window, softcap, amplitude, query, planes } = *problem;
    let mut mem = Memory::new();
    let mut random = Random(7);
    let (step, table, pages) = step(&mut mem, spans);
    let rows: u32 = spans.iter().map(|s| s.0).sum();
    let c = candidate(rows);
    let (dim, kv_heads) = (shape.head_dim as usize, shape.kv_heads as usize);
    let cols = shape.heads as usize * dim;
    let scale = 1.0 / (dim as f32).sqrt();
    let q = random.many(rows as usize * cols, amplitude * query);
    // A far larger V in one place, so that a weight in the wrong place shows.
    let elements = (pages.len() + 1) * kv_heads * PAGE * dim;
    let round = |x: f32| if c.f16 { f16::from_f32(x).to_f32() } else { x };
    let k: Vec<f32> = random.many(elements, amplitude).into_iter().map(round).collect();
    let v: Vec<f32> = (0..elements)
        .map(|i| round(random.next() * if i % 97 == 0 { 20.0 } else { 1.0 }))
        .collect();
    let words = elements * if c.f16 { 2 } else { 4 } / 4;
    let kv = KvView {
        k: mem.uninit(words),
        v: mem.uninit(words),
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    };
    let at = |first_page: u32, position: u32, head: usize| {
        let page = pages[first_page as usize + position as usize / PAGE] as usize;
        ((page * kv_heads + head) * PAGE + position as usize % PAGE) * dim
    };
    for &[_, n, context, first_page] in &table {
        for position in (context - n + 1).saturating_sub(window)..context {
            for head in 0..kv_heads {
                let i = at(first_page, position, head);
                for (view, values) in [(kv.k, &k[i..i + dim]), (kv.v, &v[i..i + dim])] {
                    if c.f16 {
                        let halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
                        mem.write(view.cast::<f16>().at(i), &halves);
                    } else {
                        mem.write(view.cast::<f32>().at(i), values);
                    }
                }
            }
        }
    }
    let out = Outputs::new(&mut mem, rows as usize, cols, planes);
    let params = AttendParams {
        q: mem.upload(&q),
        kv,
        step,
        out: out.0,
        workspace: mem.uninit(decode::workspace_bytes(shape, rows, c.splits) / 4),
        counters: mem.upload_mut(&vec![0u32; decode::counters(shape, rows)]),
        first_row: 0,
        first_span: 0,
        heads: shape.heads,
        scale,
        softcap,
        window,
        splits: c.splits,
    };
    let name = format!("{} of {problem:?}", c.entry.info.name);
    if let Err(fault) = mem.launch(c.entry, c.launch, &params) {
        panic!("{name}: {fault}");
    }
    assert!(mem.read(params.counters).iter().all(|&n| n == 0));

    let mut expected = vec![0.0f64; rows as usize * cols];
    for &[first_row, n, context, first_page] in &table {
        for i in 0..n {
            let end = context - n + i + 1;
            for head in 0..shape.heads as usize {
                let o = (first_row + i) as usize * cols + head * dim;
                let kv_head = head / shape.group() as usize;
                let keys: Vec<usize> =
                    (end.saturating_sub(window)..end).map(|p| at(first_page, p, kv_head)).collect();
                let mean = attend(&q[o..o + dim], &k, &v, &keys, scale.into(), softcap.into());
                expected[o..o + dim].copy_from_slice(&mean);
            }
        }
    }
    out.check(&mem, &expected, cols, c.nmse, &name);
}

/// One query head.
fn attend(q: &[f32], k: &[f32], v: &[f32], keys: &[usize], scale: f64, cap: f64) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .iter()
        .map(|&at| {
            let s = q.iter().zip(&k[at..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let s = s * scale;
            if cap == 0.0 { s } else { cap * (s / cap).tanh() }
        })
        .collect();
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len())
        .map(|d| {
            keys.iter().zip(&weights).map(|(at, w)| w * f64::from(v[at + d])).sum::<f64>() / total
        })
        .collect()
}

/// Every form of an operand.
struct Outputs(OperandOut);

impl Outputs {
    fn new(mem: &mut Memory, rows: usize, cols: usize, planes: bool) -> Self {
        let mut out = OperandOut {
            float: mem.uninit(rows * cols),
            high: GlobalMut::null(),
            low: GlobalMut::null(),
            scale: GlobalMut::null(),
            sums: GlobalMut::null(),
            half: mem.uninit(rows * cols / 2),
            row_scale: mem.uninit(rows),
        };
        if planes {
            out.high = mem.uninit(rows * cols / 4);
            out.low = mem.uninit(rows * cols / 4);
            out.scale = mem.uninit(rows * cols.div_ceil(32));
            out.sums = mem.uninit(rows * cols.div_ceil(16));
        }
        Self(out)
    }

    fn check(&self, mem: &Memory, expected: &[f64], cols: usize, nmse: f64, name: &str) {
        let float = mem.read(self.0.float);
        let square = |x: f64| x * x;
        let norm: f64 = expected.iter().map(|x| square(*x)).sum();
        let error: f64 = expected.iter().zip(&float).map(|(e, x)| square(e - f64::from(*x))).sum();
        assert!(error <= nmse * norm, "{name}: NMSE {:e}", error / norm);
        let half: Vec<f16> = mem.read(self.0.half.cast());
        for (x, half) in float.iter().zip(half) {
            assert_eq!(f16::from_f32(*x), half, "{name}");
        }
        assert!(mem.read(self.0.row_scale).iter().all(|&s| s == 1.0), "{name}");
        if self.0.high.is_null() {
            return;
        }
        let high: Vec<i8> = mem.read(self.0.high.cast());
        let low: Vec<i8> = mem.read(self.0.low.cast());
        let scale = mem.read(self.0.scale);
        let sums = mem.read(self.0.sums);
        for (i, x) in float.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let scale = scale[row * cols.div_ceil(32) + col / 32];
            let q = 256 * i32::from(high[i]) + i32::from(low[i]);
            let off = (q as f32 * scale - x).abs();
            assert!(off <= 0.51 * scale && high[i] > -128, "{name}: {x} as {q} of {scale}");
        }
        for (i, sum) in sums.iter().enumerate() {
            let groups = cols.div_ceil(16);
            let (row, group) = (i / groups, i % groups);
            let scale = scale[row * cols.div_ceil(32) + group / 2];
            let total: i32 = (group * 16..(group * 16 + 16).min(cols))
                .map(|col| row * cols + col)
                .map(|i| 256 * i32::from(high[i]) + i32::from(low[i]))
                .sum();
            assert_eq!(*sum, scale * total as f32, "{name}");
        }
    }
}

/// Shapes, contexts, windows and caps that hurt; `dims` are the widths to try.
fn problems(dims: &[u32], run: impl Fn(&Problem<'_>)) {
    for context in [1, 15, 16, 17, 33, 100] {
        run(&Problem { spans: &[(1, context)], ..BASE });
    }
    for &dim in dims {
        for (heads, kv_heads) in [(1, 1), (3, 3), (4, 2), (4, 1), (8, 1)] {
            if heads == 4 || dim <= 80 {
                run(&Problem { shape: shape(heads, kv_heads, dim), spans: &[(1, 40)], ..BASE });
            }
        }
    }
    let spans: Spans<'_> = &[(1, 21), (3, 3), (2, 50), (1, 1), (5, 35)];
    run(&Problem { spans, ..BASE });
    for window in [1, 2, 16, 17, 31] {
        run(&Problem { spans, window, ..BASE });
    }
    run(&Problem { spans, softcap: 2.0, amplitude: 3.0, ..BASE });
    run(&Problem { spans, softcap: 30.0, window: 20, ..BASE });
    // Scores of thousands: all the weight is on one key, and powers would overflow.
    run(&Problem { spans, amplitude: 60.0, ..BASE });
    run(&Problem { spans, amplitude: 60.0, softcap: 50.0, ..BASE });
}

const DIMS: &[u32] = &[8, 16, 32, 64, 80, 96, 128, 256];

#[test]
fn exact_f32() {
    problems(DIMS, |problem| {
        assert!(exact::supports(problem.shape));
        check(problem, |rows| Candidate {
            entry: &exact::ATTN_EXACT_F32,
            launch: exact::launch(problem.shape, rows),
            f16: false,
            splits: 1,
            nmse: 1e-11,
        });
    });
}

#[test]
fn exact_f16() {
    problems(&[24, 512], |problem| {
        check(problem, |rows| Candidate {
            entry: &exact::ATTN_EXACT_F16,
            launch: exact::launch(problem.shape, rows),
            f16: true,
            splits: 1,
            nmse: 1e-11,
        });
    });
}

fn check_decode(problem: &Problem<'_>, splits: u32) {
    assert!(decode::supports(problem.shape));
    check(problem, |rows| Candidate {
        entry: decode::entry(problem.shape),
        launch: decode::launch(problem.shape, rows, splits),
        f16: true,
        splits,
        // Keys are read as they are, the rest is F32.
        nmse: 1e-9,
    });
}

#[test]
fn decode_f16() {
    problems(DIMS, |problem| check_decode(problem, 2));
}

#[test]
fn decode_splits() {
    for splits in [1, 3, 8, 64] {
        for context in [16, 17, 160, 700] {
            check_decode(&Problem { spans: &[(1, context)], ..BASE }, splits);
        }
        check_decode(&Problem { shape: shape(8, 2, 128), spans: &[(2, 200)], ..BASE }, splits);
        check_decode(&Problem { shape: shape(3, 3, 80), spans: &[(2, 200)], ..BASE }, splits);
    }
}

#[test]
fn decode_groups() {
    for group in [3, 5, 7, 8, 9, 12, 16, 17, 40] {
        for kv_heads in [1, 2] {
            let shape = shape(group * kv_heads, kv_heads, 32);
            check_decode(&Problem { shape, spans: &[(1, 70)], ..BASE }, 2);
        }
    }
    // Blocks of 32 columns reach over key heads.
    for (group, kv_heads, dim) in [(9, 5, 8), (12, 3, 80), (11, 3, 80), (1, 7, 24), (17, 2, 8)] {
        let shape = shape(group * kv_heads, kv_heads, dim);
        check_decode(&Problem { shape, spans: &[(2, 300)], ..BASE }, 3);
    }
    for (group, dim) in [(16, 128), (7, 256), (2, 256), (5, 96)] {
        check_decode(&Problem { shape: shape(group, 1, dim), spans: &[(1, 300)], ..BASE }, 2);
    }
}

#[test]
fn decode_long() {
    // More parts than are merged at once, and several turns of a warp.
    for (context, splits, window) in [(2500, 64, u32::MAX), (2500, 1, u32::MAX), (2500, 3, 1111)] {
        let shape = shape(4, 1, 16);
        check_decode(&Problem { shape, spans: &[(2, context)], window, ..BASE }, splits);
    }
    let shape = shape(2, 1, 256);
    check_decode(&Problem { shape, spans: &[(1, 1000)], softcap: 30.0, ..BASE }, 2);
}

#[test]
fn decode_queries_of_every_size() {
    for dim in [80, 128, 256] {
        // As large as halves are not, with keys whose scores are still close; then as small.
        for (amplitude, query) in [(1e-3, 1e8), (1e-3, 1e5), (1.0, 1e-6), (1.0, 1e-38), (1.0, 0.0)]
        {
            let shape = shape(8, 2, dim);
            check_decode(&Problem { shape, spans: &[(2, 100)], amplitude, query, ..BASE }, 2);
        }
        check_decode(&Problem { shape: shape(4, 1, dim), amplitude: 1.0, query: 1e5, ..BASE }, 1);
    }
}

#[test]
fn decode_splits_stay_in_their_bounds() {
    let shape = shape(32, 8, 128);
    assert_eq!(decode::splits(shape, 1, 132), 16);
    assert_eq!(decode::splits(shape, 64, 132), 1);
    assert_eq!(decode::splits(self::shape(4, 1, 256), 1, 170), 64);
}

fn check_prefill(problem: &Problem<'_>, small: bool) {
    let planes = problem.planes && problem.shape.head_dim.is_multiple_of(32);
    assert!(prefill::supports(problem.shape, planes));
    let variant = prefill::Variant::of(problem.shape, small);
    let rows = problem.spans.iter().map(|s| s.0).max().unwrap_or(0);
    check(&Problem { planes, ..*problem }, |_| Candidate {
        entry: variant.entry,
        launch: variant.launch(problem.shape, problem.spans.len() as u32, rows),
        f16: true,
        splits: 1,
        // Queries and weights are rounded to halves, 2⁻¹¹ each.
        nmse: if problem.amplitude > 10.0 { 5e-4 } else { 1e-6 },
    });
}

#[test]
fn prefill_f16() {
    problems(DIMS, |problem| check_prefill(problem, false));
}

#[test]
fn prefill_f16_of_many_rows() {
    for small in [false, true] {
        for spans in [&[(130, 130)][..], &[(64, 64), (3, 70), (65, 200)], &[(20, 300)]] {
            for window in [u32::MAX, 70] {
                let shape = shape(2, 1, 128);
                check_prefill(&Problem { shape, spans, window, ..BASE }, small);
            }
        }
    }
}

/// One problem of `inputs`.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    shape: Shape,
    pairs: u32,
    interleaved: bool,
    /// Norms of queries and keys.
    norms: [bool; 2],
    f16: bool,
    /// Whether rows, not heads, are normed.
    rows: bool,
}

fn check_inputs(problem: &Inputs) {
    let Inputs { shape, pairs, interleaved, norms, f16, rows: whole } = *problem;
    let entry = match (f16, whole, shape.head_dim > 128) {
        (true, true, _) => inputs::QKV_ROPE_WRITE_F16_ROW,
        (false, true, _) => inputs::QKV_ROPE_WRITE_F32_ROW,
        (true, false, false) => inputs::QKV_ROPE_WRITE_F16,
        (true, false, true) => inputs::QKV_ROPE_WRITE_F16_WIDE,
        (false, false, _) => inputs::QKV_ROPE_WRITE_F32,
    };
    let mut mem = Memory::new();
    let mut random = Random(3);
    let (step, table, pages) = step(&mut mem, &[(1, 33), (3, 3), (2, 17)]);
    let (rows, eps) = (6usize, 1e-5);
    let dim = shape.head_dim as usize;
    let heads = [shape.heads, shape.kv_heads, shape.kv_heads].map(|n| n as usize);
    let values = heads.map(|n| random.many(rows * n * dim, 3.0));
    let weights = [0, 1].map(|i| random.many(if whole { heads[i] * dim } else { dim }, 2.0));
    let angles = random.many(rows * pairs as usize, 3.0);
    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
    let elements = (pages.len() + 1) * heads[1] * PAGE * dim;
    let words = elements * if f16 { 2 } else { 4 } / 4;
    let kv = KvView {
        k: mem.uninit(words),
        v: mem.uninit(words),
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    };
    let mut norm = |i: usize| if norms[i] { mem.upload(&weights[i]) } else { Global::null() };
    let (q_norm, k_norm) = (norm(0), norm(1));
    let params = InputsParams {
        q: mem.upload_mut(&values[0]),
        k: mem.upload_mut(&values[1]).read(),
        v: mem.upload_mut(&values[2]).read(),
        q_norm,
        k_norm,
        cos: mem.upload(&cos),
        sin: mem.upload(&sin),
        step,
        kv,
        rows: rows as u32,
        heads: shape.heads,
        pairs,
        interleaved: interleaved.into(),
        eps,
    };
    let launch = match whole {
        true => inputs::launch_rows(rows as u32),
        false => inputs::launch(shape, rows as u32),
    };
    mem.launch(&entry, launch, &params).unwrap_or_else(|fault| panic!("{problem:?}: {fault}"));

    let q = mem.read(params.q);
    let read = |view: GlobalMut<u32>| -> Vec<Option<f32>> {
        match f16 {
            true => {
                let halves = mem.read_written::<f16>(view.cast());
                halves.iter().map(|h| h.map(f16::to_f32)).collect()
            }
            false => mem.read_written::<f32>(view.cast()),
        }
    };
    let stored = [read(kv.k), read(kv.v)];
    let close = |got: f32, want: f64, half: bool| {
        let tolerance = if half { 6e-4 } else { 2e-6 };
        let off = (f64::from(got) - want).abs();
        assert!(off <= tolerance * want.abs().max(1.0), "{problem:?}: {got}, not {want}");
    };
    for &[first_row, n, context, first_page] in &table {
        for row in first_row..first_row + n {
            let position = (context - n + row - first_row) as usize;
            let page = pages[first_page as usize + position / PAGE] as usize;
            let angle = (row * pairs) as usize;
            for which in 0..3 {
                let width = heads[which] * dim;
                let mut x: Vec<f64> = values[which][row as usize * width..][..width]
                    .iter()
                    .map(|x| f64::from(*x))
                    .collect();
                if which < 2 && norms[which] {
                    for group in x.chunks_mut(weights[which].len()) {
                        let mean = group.iter().map(|x| x * x).sum::<f64>() / group.len() as f64;
                        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
                        for (x, w) in group.iter_mut().zip(&weights[which]) {
                            *x *= scale * f64::from(*w);
                        }
                    }
                }
                for head in 0..heads[which] {
                    let x = &mut x[head * dim..(head + 1) * dim];
                    for i in (0..pairs as usize).filter(|_| which < 2) {
                        let (a, b) = match interleaved {
                            true => (2 * i, 2 * i + 1),
                            false => (i, i + pairs as usize),
                        };
                        let (c, s) = (f64::from(cos[angle + i]), f64::from(sin[angle + i]));
                        (x[a], x[b]) = (x[a] * c - x[b] * s, x[a] * s + x[b] * c);
                    }
                    let slot = ((page * heads[1] + head) * PAGE + position % PAGE) * dim;
                    for (i, want) in x.iter().enumerate() {
                        match which {
                            0 => close(q[(row as usize * heads[0] + head) * dim + i], *want, false),
                            _ => {
                                let got = stored[which - 1][slot + i].expect("a stored element");
                                close(got, *want, f16);
                            }
                        }
                    }
                }
            }
        }
    }
    let written = stored[0].iter().chain(&stored[1]).filter(|x| x.is_some()).count();
    assert_eq!(written, 2 * rows * heads[1] * dim, "{problem:?}");
}

#[test]
fn inputs_of_every_kind() {
    for f16 in [true, false] {
        for rows in [false, true] {
            for interleaved in [false, true] {
                for (dim, pairs) in
                    [(2, 1), (16, 8), (64, 20), (80, 40), (128, 64), (256, 32), (512, 0)]
                {
                    for norms in [[true, true], [false, false], [false, true]] {
                        let kv_heads = if dim < 128 { 2 } else { 1 };
                        let shape = shape(2 * kv_heads, kv_heads, dim);
                        check_inputs(&Inputs { shape, pairs, interleaved, norms, f16, rows });
                    }
                }
            }
        }
    }
}
