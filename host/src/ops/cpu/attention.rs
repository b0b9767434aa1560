//! Causal attention over pages, with an online softmax: scores exist for one page at a time.
//!
//! One chunk is one tile of query rows and one key head with all the query heads that share it,
//! so that a page is widened to F32 once for all of them. Source: Dao et al. 2022, algorithm 1;
//! Milakov & Gimelshein 2018 for the running maximum.

use std::cell::RefCell;
use std::ops::Range;

use super::disjoint::Disjoint;
use super::kv::{Elements, LayerKv, element};
use super::pool::Pool;
use super::simd::lanes::{dot, scale_add};
use super::simd::{Isa, Kernel, Level};
use crate::kv::PAGE_SIZE;
use crate::ops::{AttendSpec, Batch, Span};

/// Query rows of a tile: a page is widened once for them and their heads.
const TILE_ROWS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// Keys and values of a page, widened: [PAGE_SIZE, head_dim] each.
    k: Vec<f32>,
    v: Vec<f32>,
    /// Running sums of the values, [queries, head_dim].
    acc: Vec<f32>,
    /// Running maximum and sum of weights of each query.
    state: Vec<(f32, f32)>,
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
        self.tile.attend::<I>(self.scratch);
    }
}

impl Tile<'_> {
    /// Position of a row of the span.
    #[inline(always)]
    fn position(&self, row: usize) -> usize {
        self.span.context_len - self.span.rows + row
    }

    /// Positions that the query at `position` sees.
    #[inline(always)]
    fn visible(&self, position: usize) -> Range<usize> {
        let first = self.spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
        first..position + 1
    }

    #[inline(always)]
    fn attend<I: Isa>(&self, s: &mut Scratch) {
        let dim = self.spec.q.head_dim;
        let queries = self.rows.len() * self.heads_per_key();
        s.k.resize(PAGE_SIZE * dim, 0.0);
        s.v.resize(PAGE_SIZE * dim, 0.0);
        s.acc.clear();
        s.acc.resize(queries * dim, 0.0);
        s.state.clear();
        s.state.resize(queries, (f32::NEG_INFINITY, 0.0));

        let first = self.visible(self.position(self.rows.start)).start;
        let last = self.position(self.rows.end - 1);
        for page in first / PAGE_SIZE..=last / PAGE_SIZE {
            let at = element(self.span.pages[page] as usize, self.kv_head, self.spec.kv_heads, dim);
            widen(&self.layer.k, at, &mut s.k);
            widen(&self.layer.v, at, &mut s.v);
            self.page::<I>(page, s);
        }
        self.finish(s);
    }

    #[inline(always)]
    fn heads_per_key(&self) -> usize {
        self.spec.q.heads / self.spec.kv_heads
    }

    /// First element of a query in `q` and `out`.
    #[inline(always)]
    fn query(&self, row: usize, head: usize) -> usize {
        let head = self.kv_head * self.heads_per_key() + head;
        ((self.span.first_row + row) * self.spec.q.heads + head) * self.spec.q.head_dim
    }

    /// Takes one page into the running softmax of every query that sees some of it.
    #[inline(always)]
    fn page<I: Isa>(&self, page: usize, s: &mut Scratch) {
        let dim = self.spec.q.head_dim;
        let start = page * PAGE_SIZE;
        let mut query = 0;
        for row in self.rows.clone() {
            let visible = self.visible(self.position(row));
            let keys = visible.start.max(start)..visible.end.min(start + PAGE_SIZE);
            for head in 0..self.heads_per_key() {
                let acc = &mut s.acc[query * dim..][..dim];
                let state = &mut s.state[query];
                query += 1;
                if keys.is_empty() {
                    continue;
                }
                let q = &self.q[self.query(row, head)..][..dim];
                let keys = keys.start - start..keys.end - start;
                let mut weights = [0.0f32; PAGE_SIZE];
                for key in keys.clone() {
                    weights[key] = self.score(dot::<I>(q, &s.k[key * dim..][..dim]));
                }
                let weights = &mut weights[keys.clone()];
                let rescale = online_softmax(state, weights);
                let mut scale = rescale;
                for (weight, key) in weights.iter().zip(keys) {
                    scale_add::<I>(acc, scale, &s.v[key * dim..][..dim], *weight);
                    scale = 1.0;
                }
            }
        }
    }

    #[inline(always)]
    fn score(&self, product: f32) -> f32 {
        let score = product * self.spec.scale;
        self.spec.softcap.map_or(score, |cap| cap * (score / cap).tanh())
    }

    #[inline(always)]
    fn finish(&self, s: &Scratch) {
        let dim = self.spec.q.head_dim;
        let mut query = 0;
        for row in self.rows.clone() {
            for head in 0..self.heads_per_key() {
                let at = self.query(row, head);
                // SAFETY: a row and a query head belong to one tile only: tiles of a span have
                // disjoint rows, spans too, and a query head has one key head.
                let out = unsafe { self.out.part(at..at + dim) };
                let total = s.state[query].1;
                for (out, acc) in out.iter_mut().zip(&s.acc[query * dim..][..dim]) {
                    *out = acc / total;
                }
                query += 1;
            }
        }
    }
}

/// Turns scores into weights `exp(score − maximum)` under the running maximum and adds them to
/// the running sum; gives the factor by which what was summed before has to shrink.
#[inline(always)]
fn online_softmax((maximum, total): &mut (f32, f32), scores: &mut [f32]) -> f32 {
    let new = scores.iter().fold(*maximum, |m, &s| m.max(s));
    let rescale = (*maximum - new).exp();
    *total *= rescale;
    for s in scores {
        *s = (*s - new).exp();
        *total += *s;
    }
    *maximum = new;
    rescale
}

#[inline(always)]
fn widen(elements: &Elements, at: usize, out: &mut [f32]) {
    let len = out.len();
    match elements {
        Elements::F16(e) => {
            for (out, e) in out.iter_mut().zip(&e[at..at + len]) {
                *out = e.to_f32();
            }
        }
        Elements::F32(e) => out.copy_from_slice(&e[at..at + len]),
    }
}
