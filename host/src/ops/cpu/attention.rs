//! Causal attention over pages, with an online softmax: scores exist for one page at a time.
//!
//! One chunk is one tile of query rows and one key head with all the query heads that share it,
//! so that a page is widened to F32 once for all of them. Source: Dao et al. 2022, algorithm 1;
//! Milakov & Gimelshein 2018 for the running maximum.

use std::cell::RefCell;
use std::ops::Range;

use half::f16;

use super::disjoint::Disjoint;
use super::kv::{Elements, LayerKv, element};
use super::pool::Pool;
use super::simd::lanes::{LANES, Lanes, fma, lanes_at, lanes_at_mut, sum, widen_f16};
use super::simd::math::{exp, tanh};
use super::simd::vector::Vector;
use super::simd::{Isa, Kernel, Level};
use crate::kv::PAGE_SIZE;
use crate::ops::{AttendSpec, Batch, Span};

const _: () = assert!(PAGE_SIZE == LANES, "the scores of a page are one accumulator");

/// Query rows of a tile: a page is widened once for them and their heads.
const TILE_ROWS: usize = 16;
/// Queries are computed in multiples of this, the last one repeated.
const QUERIES: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of one thread. `width` is `head_dim` rounded up to whole lanes.
#[derive(Default)]
struct Scratch {
    /// Keys of a page, widened: [head_dim, PAGE_SIZE].
    k: Vec<f32>,
    /// Values of a page, widened: [PAGE_SIZE, width].
    v: Vec<f32>,
    /// Running sums of the values, [queries, width].
    acc: Vec<f32>,
    queries: Vec<Query>,
}

/// One query head of one row.
#[derive(Clone, Copy)]
struct Query {
    /// First element in `q` and `out`.
    at: usize,
    /// First visible position.
    first: usize,
    /// Its own position, the last visible one.
    last: usize,
    /// Greatest score so far.
    maximum: f32,
    /// Sums of the weights so far, relative to `maximum`; lane `i` has those of the pages' `i`th
    /// tokens.
    total: Lanes,
}

/// Attends with every row of a batch; `q` and `out` are [rows, heads · head_dim].
pub fn attend(
    pool: &Pool,
    level: Level,
    layer: &LayerKv,
    spec: &AttendSpec,
    batch: &Batch,
    q: &[f32],
    out: &mut [f32],
) {
    let out = Disjoint::new(out);
    let tiles: Vec<(&Span, Range<usize>)> = batch.spans.iter().flat_map(tiles).collect();
    pool.run(tiles.len() * spec.kv_heads, |i| {
        let (span, rows) = &tiles[i / spec.kv_heads];
        let kv_head = i % spec.kv_heads;
        let tile = Tile { layer, spec, span, rows: rows.clone(), kv_head, q, out: &out };
        SCRATCH.with_borrow_mut(|scratch| level.run(Attend { tile, scratch }));
    });
}

/// The tiles of a span; the last ones, which see the most keys, come first so that the threads
/// finish together.
fn tiles(span: &Span) -> impl Iterator<Item = (&Span, Range<usize>)> {
    (0..span.rows.div_ceil(TILE_ROWS)).rev().map(move |t| {
        let rows = t * TILE_ROWS..((t + 1) * TILE_ROWS).min(span.rows);
        (span, rows)
    })
}

/// Query rows `rows` of a span, and the query heads of one key head.
struct Tile<'a> {
    layer: &'a LayerKv,
    spec: &'a AttendSpec,
    span: &'a Span,
    rows: Range<usize>,
    kv_head: usize,
    q: &'a [f32],
    out: &'a Disjoint<'a, f32>,
}

struct Attend<'a, 's> {
    tile: Tile<'a>,
    scratch: &'s mut Scratch,
}

impl Kernel for Attend<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { tile, scratch } = self;
        let dim = tile.spec.q.head_dim;
        let width = dim.next_multiple_of(LANES);
        tile.prepare(scratch, width);
        let first = tile.query(tile.rows.start, 0).first;
        let last = tile.query(tile.rows.end - 1, 0).last;
        for page in first / PAGE_SIZE..=last / PAGE_SIZE {
            let start = page * PAGE_SIZE;
            let written = first.max(start) - start..(last + 1).min(start + PAGE_SIZE) - start;
            let number = tile.span.pages[tile.layer.group][page] as usize;
            let at = element(number, tile.kv_head, tile.spec.kv_heads, dim);
            widen::<I>(&tile.layer.k, at, &mut scratch.k);
            widen_values::<I>(&tile.layer.v, at, dim, written.clone(), &mut scratch.v);
            let mut query = 0;
            // Eight independent sums keep the multipliers busy.
            while query + 8 <= scratch.queries.len() {
                tile.page::<I, 8>(scratch, query, start, written.clone(), width);
                query += 8;
            }
            while query < scratch.queries.len() {
                tile.page::<I, QUERIES>(scratch, query, start, written.clone(), width);
                query += QUERIES;
            }
        }
        tile.finish(scratch, width);
    }
}

impl Tile<'_> {
    fn prepare(&self, s: &mut Scratch, width: usize) {
        s.k.resize(self.spec.q.head_dim * PAGE_SIZE, 0.0);
        s.v.clear();
        s.v.resize(PAGE_SIZE * width, 0.0);
        s.queries.clear();
        for row in self.rows.clone() {
            for head in 0..self.heads_per_key() {
                s.queries.push(self.query(row, head));
            }
        }
        let last = s.queries[s.queries.len() - 1];
        s.queries.resize(s.queries.len().next_multiple_of(QUERIES), last);
        s.acc.clear();
        s.acc.resize(s.queries.len() * width, 0.0);
    }

    fn heads_per_key(&self) -> usize {
        self.spec.q.heads / self.spec.kv_heads
    }

    /// A query that has seen nothing yet.
    fn query(&self, row: usize, head: usize) -> Query {
        let last = self.span.context_len - self.span.rows + row;
        let first = self.spec.window.map_or(0, |w| (last + 1).saturating_sub(w));
        let head = self.kv_head * self.heads_per_key() + head;
        let at = ((self.span.first_row + row) * self.spec.q.heads + head) * self.spec.q.head_dim;
        Query { at, first, last, maximum: f32::NEG_INFINITY, total: [0.0; LANES] }
    }

    /// Takes the page whose first position is `start` into the softmax of `N` queries.
    #[inline(always)]
    fn page<I: Isa, const N: usize>(
        &self,
        s: &mut Scratch,
        first: usize,
        start: usize,
        written: Range<usize>,
        width: usize,
    ) {
        let queries: &mut [Query; N] = s.queries[first..].first_chunk_mut().expect("N are left");
        if queries.iter().all(|q| q.last < start || q.first >= start + PAGE_SIZE) {
            return;
        }
        let mut weights = self.scores::<I, N>(queries, &s.k);
        let mut rescale = [1.0; N];
        for n in 0..N {
            rescale[n] = softmax::<I>(&mut queries[n], &mut weights[n], start);
        }
        let acc = &mut s.acc[first * width..(first + N) * width];
        for at in (0..width).step_by(LANES) {
            let mut sums = [I::V::splat(0.0); N];
            for n in 0..N {
                let before = I::V::load(lanes_at(acc, n * width + at));
                sums[n] = before.mul(I::V::splat(rescale[n]));
            }
            for key in written.clone() {
                let v = I::V::load(lanes_at(&s.v, key * width + at));
                for n in 0..N {
                    sums[n] = v.fma(I::V::splat(weights[n][key]), sums[n]);
                }
            }
            for n in 0..N {
                sums[n].store(lanes_at_mut(acc, n * width + at));
            }
        }
    }

    /// Scores of the sixteen keys of a page.
    #[inline(always)]
    fn scores<I: Isa, const N: usize>(&self, queries: &[Query; N], k: &[f32]) -> [Lanes; N] {
        let dim = self.spec.q.head_dim;
        let mut q = [&self.q[..0]; N];
        for n in 0..N {
            q[n] = &self.q[queries[n].at..][..dim];
        }
        let mut sums = [I::V::splat(0.0); N];
        for (d, k) in k.as_chunks::<LANES>().0[..dim].iter().enumerate() {
            let k = I::V::load(k);
            for n in 0..N {
                sums[n] = k.fma(I::V::splat(q[n][d]), sums[n]);
            }
        }
        let mut scores = [[0.0; LANES]; N];
        for n in 0..N {
            sums[n].store(&mut scores[n]);
        }
        for scores in &mut scores {
            scores.iter_mut().for_each(|s| *s *= self.spec.scale);
            if let Some(cap) = self.spec.softcap {
                scores.iter_mut().for_each(|s| *s = cap * tanh::<I>(*s / cap));
            }
        }
        scores
    }

    fn finish(&self, s: &Scratch, width: usize) {
        let dim = self.spec.q.head_dim;
        let queries = self.rows.len() * self.heads_per_key();
        for (query, acc) in s.queries[..queries].iter().zip(s.acc.chunks_exact(width)) {
            // SAFETY: a row and a query head belong to one tile only: the rows of spans and of
            // the tiles of a span are disjoint, and a query head has one key head.
            let out = unsafe { self.out.part(query.at..query.at + dim) };
            let total = sum(&query.total);
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = acc / total;
            }
        }
    }
}

/// Turns the scores of the keys from `start` on into weights `exp(score − maximum)`, zero where
/// the query does not see the key, and adds them to its running sum; gives the factor by which
/// what was summed before has to shrink.
#[inline(always)]
fn softmax<I: Isa>(query: &mut Query, scores: &mut Lanes, start: usize) -> f32 {
    if query.last < start || query.first >= start + PAGE_SIZE {
        *scores = [0.0; LANES];
        return 1.0;
    }
    let seen = query.first.saturating_sub(start) as u32..=(query.last - start).min(LANES) as u32;
    for i in 0..LANES {
        if !(*seen.start() <= i as u32 && i as u32 <= *seen.end()) {
            scores[i] = f32::NEG_INFINITY;
        }
    }
    let maximum = I::V::load(scores).greatest().max(query.maximum);
    let rescale = exp::<I>(query.maximum - maximum);
    for (s, total) in scores.iter_mut().zip(&mut query.total) {
        *s = exp::<I>(*s - maximum);
        *total = fma::<I>(*total, rescale, *s);
    }
    query.maximum = maximum;
    rescale
}

/// Values of tokens `written`; the others, which may be another sequence's or nobody's, are zero:
/// weightless infinities would still count.
#[inline(always)]
fn widen_values<I: Isa>(
    v: &Elements,
    at: usize,
    dim: usize,
    written: Range<usize>,
    out: &mut [f32],
) {
    let width = out.len() / PAGE_SIZE;
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        match written.contains(&token) {
            true => widen::<I>(v, at + token * dim, &mut out[..dim]),
            false => out.fill(0.0),
        }
    }
}

#[inline(always)]
fn widen<I: Isa>(elements: &Elements, at: usize, out: &mut [f32]) {
    match elements {
        Elements::F16(e) => {
            let e = bytemuck::cast_slice::<f16, u16>(&e[at..at + out.len()]);
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            let (halves, rest_halves) = e.as_chunks::<LANES>();
            for (out, e) in whole.iter_mut().zip(halves) {
                I::V::load_f16(e).store(out);
            }
            for (out, e) in rest.iter_mut().zip(rest_halves) {
                *out = widen_f16(*e);
            }
        }
        Elements::F32(e) => out.copy_from_slice(&e[at..at + out.len()]),
    }
}
