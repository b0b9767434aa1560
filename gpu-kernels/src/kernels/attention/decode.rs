//! Attention for spans of few rows: the keys of a row are split over CTAs, and each key and value is
//! read once for all the query heads that share it.
//!
//! A CTA has a *cell*: one row, the query heads of one key head (at most eight of them), and a
//! contiguous range of keys, whose pages its warps take in turn. The heads of a cell are the rows of
//! matrix instructions, and no precision is lost to them: a query, and a weight too, is the sum of two
//! halves, and a tile of sixteen rows holds the greater halves of eight heads, then the lesser
//! ([`warp`]). Warps, then the CTAs of the row are merged in a fixed order ([`merge`]).
//!
//! The last CTA of a row's split to finish merges, found by a counter that it puts back to zero: the
//! results are in the second-level cache, and one fence and one atomic cost less than a second
//! kernel, whose start alone is 0.9 µs in a recorded launch. How many splits there are is
//! fixed by the launch, so that one recording serves every context; those without keys leave at once.
//!
//! Source of the split: Dao et al. 2023, Flash-Decoding.

mod merge;
mod warp;

use cuda_std::{Launch, SharedMemory, Thread, kernels};

use super::{AttendParams, Row, Shape, heads_of_blocks};
use crate::kernels::step::PAGE_SIZE;
use merge::Found;
use warp::{Keys, Queries, Softmax};

/// Threads of a CTA: eight warps, at up to 255 registers all that a multiprocessor has room for.
/// With 4 KB of keys and as many of values on their way for each, memory is never out of work.
pub const THREADS: u32 = 256;
/// Parts of a row's keys, at most.
pub const MAX_SPLITS: u32 = 64;
/// Greatest `head_dim`.
pub const MAX_HEAD_DIM: u32 = 256;

const WARPS: u32 = THREADS / 32;
/// Elements of a head in 16 bytes, a *piece*.
const PIECE: u32 = 8;
/// Query heads of a cell, at most: the rows of half a tile.
const CELL_HEADS: u32 = 8;
/// Pages that one CTA takes by itself: to share so few would cost more (a fence, an atomic, and
/// reading the results again are about 3 µs) than the second page of each warp.
const ALONE: u32 = 2 * WARPS;
/// Columns of a row, at most: as far as [`Columns`] is exact.
const MAX_COLUMNS: u32 = 1 << 16;

kernels! {
    module "attention_decode";
    /// `head_dim` up to 64.
    pub ATTN_DECODE_F16_D64: attn_decode_f16_d64(AttendParams),
        threads THREADS, ctas 2 => decode::<1, 1>;
    /// `head_dim` up to 128.
    pub ATTN_DECODE_F16_D128: attn_decode_f16_d128(AttendParams),
        threads THREADS, ctas 1 => decode::<2, 1>;
    /// `head_dim` up to 256.
    pub ATTN_DECODE_F16_D256: attn_decode_f16_d256(AttendParams),
        threads THREADS, ctas 1 => decode::<2, 2>;
}

/// Whether it works for a shape.
pub fn supports(shape: Shape) -> bool {
    shape.heads.is_multiple_of(shape.kv_heads)
        && shape.head_dim.is_multiple_of(PIECE)
        && shape.head_dim <= MAX_HEAD_DIM
        && shape.heads * shape.head_dim <= MAX_COLUMNS
}

/// Elements of a head that the kernel for a shape has room for.
const fn width(shape: Shape) -> u32 {
    match shape.head_dim {
        0..=64 => 64,
        65..=128 => 128,
        _ => 256,
    }
}

/// The kernel for a shape.
#[cfg(not(target_arch = "nvptx64"))]
pub fn entry(shape: Shape) -> &'static cuda_std::Entry<AttendParams> {
    match width(shape) {
        64 => &ATTN_DECODE_F16_D64,
        128 => &ATTN_DECODE_F16_D128,
        _ => &ATTN_DECODE_F16_D256,
    }
}

/// Parts into which to split the keys of each of `rows` rows: as many CTAs as run at once.
pub fn splits(shape: Shape, rows: u32, multiprocessors: u32) -> u32 {
    let ctas = multiprocessors * if width(shape) == 64 { 2 } else { 1 };
    (ctas / (rows * cells(shape)).max(1)).clamp(1, MAX_SPLITS)
}

/// Launch for `rows` rows.
pub fn launch(shape: Shape, rows: u32, splits: u32) -> Launch {
    let heads = shape.group().min(CELL_HEADS);
    // What each warp found, and before that the queries, which take no more.
    let shared_bytes = 4 * WARPS * heads * width(shape);
    Launch { grid: [splits, cells(shape), rows], threads: THREADS, shared_bytes }
}

/// Bytes of `AttendParams::workspace`.
pub fn workspace_bytes(shape: Shape, rows: u32, splits: u32) -> usize {
    let results = rows as usize * shape.heads as usize * splits as usize;
    4 * results * (shape.head_dim as usize + 2)
}

/// Elements of `AttendParams::counters`.
pub fn counters(shape: Shape, rows: u32) -> usize {
    rows as usize * cells(shape) as usize
}

/// Cells of a row.
const fn cells(shape: Shape) -> u32 {
    shape.kv_heads * shape.group().div_ceil(CELL_HEADS)
}

/// What a CTA computes.
#[derive(Clone, Copy)]
struct Cell {
    row: u32,
    kv_head: u32,
    /// First query head and their number.
    head: u32,
    heads: u32,
    /// Query heads whose columns are written together, so that blocks of 32 are whole: first and
    /// one past the last.
    unit: [u32; 2],
    /// Cells that have those heads.
    unit_cells: u32,
    counter: u32,
}

impl Cell {
    #[inline(always)]
    fn of(t: Thread, p: &AttendParams) -> Self {
        let row = p.first_row + t.cta_id_z();
        let (kv_heads, cells, index) = (p.kv.kv_heads, t.cta_count_y(), t.cta_id_y());
        let group = divide(p.heads, kv_heads);
        let parts = group.div_ceil(CELL_HEADS);
        let kv_head = if parts == 1 { index } else { divide(index, parts) };
        let part = index - kv_head * parts;
        let (start, more) = (kv_head * group, part * CELL_HEADS);
        let head = start + more;
        let heads = if group - more < CELL_HEADS { group - more } else { CELL_HEADS };
        let counter = t.cta_id_z() * cells;
        // Key heads whose query heads fill whole blocks.
        let n = heads_of_blocks(group * p.kv.head_dim);
        if n == 1 {
            // And so do those of a cell: eight heads are a multiple of 64 columns.
            let unit = [head, head + heads];
            Cell { row, kv_head, head, heads, unit, unit_cells: 1, counter: counter + index }
        } else {
            // A power of two.
            let first = kv_head & !(n - 1);
            let end = if first + n < kv_heads { first + n } else { kv_heads };
            Cell {
                row,
                kv_head,
                head,
                heads,
                unit: [first * group, end * group],
                unit_cells: (end - first) * parts,
                counter: counter + first * parts,
            }
        }
    }
}

/// Finds the head of a column by a multiplication: exact where `column · head_dim` is below 2³².
#[derive(Clone, Copy)]
struct Columns {
    dim: u32,
    inverse: u32,
}

impl Columns {
    #[inline(always)]
    fn new(dim: u32) -> Self {
        Self { dim, inverse: divide(u32::MAX, dim) + 1 }
    }
    /// Head, and column of the head.
    #[inline(always)]
    fn split(self, column: u32) -> (u32, u32) {
        let head = ((column as u64 * self.inverse as u64) >> 32) as u32;
        (head, column - head * self.dim)
    }
}

/// `a / b`, without the branch to a panic.
#[inline(always)]
fn divide(a: u32, b: u32) -> u32 {
    a.checked_div(b).unwrap_or(0)
}

/// `CHUNKS` chunks of `HALVES · 64` elements of a head: a chunk of keys and one of values are on their
/// way at a time.
#[inline(always)]
fn decode<const HALVES: usize, const CHUNKS: usize>(t: Thread, p: &AttendParams) {
    t.launch_next_kernel();
    let cell = Cell::of(t, p);
    let row = Row::of(p, cell.row);
    let first = row.first / PAGE_SIZE;
    let steps = row.end.div_ceil(PAGE_SIZE) - first;
    // Every warp of a CTA gets keys before another CTA does: merging CTAs costs more.
    let per_split = match steps {
        0..=ALONE => ALONE,
        _ => divide(steps + p.splits - 1, p.splits).next_multiple_of(WARPS),
    };
    let from = t.cta_id() * per_split;
    if from >= steps {
        return;
    }
    let active = divide(steps + per_split - 1, per_split);
    let to = first + if from + per_split < steps { from + per_split } else { steps };
    let from = first + from + t.warp();
    let busy = from < to;
    let columns = Columns::new(p.kv.head_dim);
    let keys = Keys::new(t, p, &cell, &row);
    let page = |step: u32| keys.pages.get(if step < to { step } else { to - 1 } as usize);
    let (number, mut next_number) = (page(from), page(from + WARPS));
    let mut slots = keys.slots(number, from);
    let query_at = Queries::<HALVES, CHUNKS>::place(t, p, &cell);
    t.wait_for_previous_kernel();

    let (mut k, mut v) = ([[[[0; 4]; 2]; HALVES]; 2], [[[0; 4]; HALVES]; 4]);
    if busy {
        k = keys.keys::<HALVES>(0, &slots);
        v = keys.values::<HALVES>(0, &slots);
    }
    // Without this the compiler loads the query before the branch, computes with it there, and keys
    // are asked for when it has come.
    t.sync_warp();
    let query = Queries::<HALVES, CHUNKS>::load(p, query_at);
    let shared = SharedMemory::dynamic(t).take::<f32>(0);
    let queries = Queries::<HALVES, CHUNKS>::share(t, p, query, shared.cast());
    let mut softmax = Softmax::<HALVES, CHUNKS>::new();
    let mut step = from;
    while step < to {
        let next = step + WARPS;
        let more = next < to;
        let next_slots = keys.slots(next_number, next);
        next_number = page(next + WARPS);
        let mut sums = [[[0.0f32; 4]; 2]; 2];
        unroll!(c < CHUNKS, 2, {
            queries.multiply(t, c, &k, &mut sums);
            if c + 1 < CHUNKS {
                k = keys.keys::<HALVES>(c as u32 + 1, &slots);
            } else if more {
                k = keys.keys::<HALVES>(0, &next_slots);
            }
        });
        let weights = softmax.weigh(t, p, &row, step, queries.inverse, &sums);
        unroll!(c < CHUNKS, 2, {
            softmax.add(t, c, &weights, &v);
            if c + 1 < CHUNKS {
                v = keys.values::<HALVES>(c as u32 + 1, &slots);
            } else if more {
                v = keys.values::<HALVES>(0, &next_slots);
            }
        });
        (slots, step) = (next_slots, next);
    }
    let found = Found::<HALVES, CHUNKS> { sums: shared, heads: cell.heads };
    let [greatest, total] = found.put(t, &softmax);
    found.finish(t, p, &cell, columns, active, [greatest, total]);
}
