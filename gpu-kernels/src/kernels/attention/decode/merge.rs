//! Merging the warps of a CTA and the CTAs of a row.

use cuda_std::{Shared, Thread, math};

use super::super::output::RowOut;
use super::super::{AttendParams, LOWEST, is_last_arrival};
use super::warp::Softmax;
use super::{CELL_HEADS, Cell, Columns, WARPS};

/// Splits whose results are on their way at a time: as many as eight key heads leave to each on a
/// device of 132 multiprocessors.
const AT_ONCE: usize = 16;

/// What the warps of a CTA found, in shared memory: their parts of the means, [WARPS, heads, width].
#[derive(Clone, Copy)]
pub struct Found<const HALVES: usize, const CHUNKS: usize> {
    pub sums: Shared<f32>,
    pub heads: u32,
}

/// By how much the fours of 16 elements are turned, as an exclusive or: the lanes that write at
/// once hold two heads, and the same four of each 16 of 64 elements, which would meet in 2 of 8 banks.
#[inline(always)]
const fn turn(head: u32, four: u32) -> u32 {
    (four / 8 % 2) ^ (head % 2 * 2)
}

impl<const HALVES: usize, const CHUNKS: usize> Found<HALVES, CHUNKS> {
    const WIDTH: u32 = 64 * (HALVES * CHUNKS) as u32;

    /// Stores the warp's part of the means; returns the CTA's greatest score of the lane's head and
    /// the total weight relative to it.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn put(self, t: Thread, softmax: &Softmax<HALVES, CHUNKS>) -> [f32; 2] {
        let stats = t.static_shared::<[f32; 2], { 8 * WARPS * CELL_HEADS }>();
        let (head, q) = (t.lane() / 4, t.lane() % 4);
        let mut total = softmax.total;
        total += t.shuffle_xor(total, 1);
        total += t.shuffle_xor(total, 2);
        if q == 0 {
            stats.set(t.warp() * CELL_HEADS + head, [softmax.greatest, total]);
        }
        t.sync();
        let mut its = [[0.0f32; 2]; WARPS as usize];
        let mut greatest = LOWEST;
        unroll!(w < WARPS as usize, 8, {
            its[w] = stats.get(w as u32 * CELL_HEADS + head);
            greatest = math::max(greatest, its[w][0]);
        });
        let mut total = 0.0;
        unroll!(w < WARPS as usize, 8, {
            total = math::fma(its[w][1], math::exp2(its[w][0] - greatest), total);
        });
        let factor = math::exp2(softmax.greatest - greatest) * math::reciprocal(total);
        if head < self.heads {
            let row = (t.warp() * self.heads + head) * Self::WIDTH / 4 + 4 * q;
            let to = self.sums.cast::<[f32; 4]>().at(row);
            unroll!(i < 4, 4, {
                let to = to.at(i as u32 ^ turn(head, 4 * q));
                unroll!(c < CHUNKS, 2, {
                    unroll!(h < HALVES, 2, {
                        let mut four = [0.0f32; 4];
                        unroll!(j < 4, 4, {
                            let acc = softmax.acc[c][h][4 * (i % 2) + j];
                            four[j] = (acc[i / 2] + acc[2 + i / 2]) * factor;
                        });
                        to.set(16 * (c * HALVES + h) as u32, four);
                    });
                });
            });
        }
        t.sync();
        [greatest, total]
    }

    /// The mean of a column over the CTA's keys.
    #[inline(always)]
    fn column(self, head: u32, column: u32) -> f32 {
        let four = column / 4;
        let at = 4 * (four ^ turn(head, four)) + column % 4;
        let from = self.sums.at(head * Self::WIDTH + at);
        let mut sum = 0.0;
        unroll!(w < WARPS as usize, 8, {
            sum += from.get(w as u32 * self.heads * Self::WIDTH);
        });
        sum
    }

    /// Writes the means, of a row in more than one part as the last CTA of the unit; `stats` is what
    /// [`put`](Self::put) returned.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn finish(
        self,
        t: Thread,
        p: &AttendParams,
        cell: &Cell,
        columns: Columns,
        active: u32,
        stats: [f32; 2],
    ) {
        let dim = columns.dim;
        let out = RowOut { out: &p.out, cols: p.heads * dim, row: cell.row };
        let arrivals = active * cell.unit_cells;
        // Of the row's heads and splits: the means, then the stats.
        let results = (p.heads * p.splits) as usize;
        let means = p.workspace.at(t.cta_id_z() as usize * results * (dim + 2) as usize);
        let all_stats = means.at(results * dim as usize).cast::<[f32; 2]>();
        let result = |head: u32| (cell.head + head) * p.splits + t.cta_id();
        let mut col = 32 * t.warp();
        while col < cell.heads * dim {
            let (head, column) = columns.split(col + t.lane());
            let live = head < cell.heads;
            let mean = if live { self.column(head, column) } else { 0.0 };
            if arrivals == 1 {
                out.block(t, cell.head * dim + col, mean);
            } else if live {
                means.set(result(head) as usize * dim as usize + column as usize, mean);
            }
            col += 32 * WARPS;
        }
        if arrivals == 1 {
            return;
        }
        let head = t.lane() / 4;
        if t.warp() == 0 && t.lane().is_multiple_of(4) && head < self.heads {
            all_stats.set(result(head) as usize, stats);
        }
        if !is_last_arrival(t, p.counters, cell.counter, arrivals) {
            return;
        }

        let [first, end] = cell.unit;
        let mut col = 32 * t.warp();
        while col < (end - first) * dim {
            let (head, column) = columns.split(col + t.lane());
            let live = first + head < end;
            let first_result = (first + head) as usize * p.splits as usize;
            let stats = all_stats.at(first_result);
            let means = means.at(first_result * dim as usize + column as usize);
            let (mut greatest, mut total, mut sum) = (LOWEST, 0.0f32, 0.0f32);
            let mut split = 0;
            while split < active {
                let mut its = [[LOWEST, 0.0f32]; AT_ONCE];
                let mut mean = [0.0f32; AT_ONCE];
                let stats = stats.at(split as usize);
                let means = means.at((split * dim) as usize);
                unroll!(n < AT_ONCE, 16, {
                    if live && split + (n as u32) < active {
                        its[n] = stats.get(n);
                        mean[n] = means.get(n * dim as usize);
                    }
                });
                let before = greatest;
                unroll!(n < AT_ONCE, 16, {
                    greatest = math::max(greatest, its[n][0]);
                });
                let shrink = math::exp2(before - greatest);
                total *= shrink;
                sum *= shrink;
                unroll!(n < AT_ONCE, 16, {
                    let weight = its[n][1] * math::exp2(its[n][0] - greatest);
                    total += weight;
                    sum = math::fma(mean[n], weight, sum);
                });
                split += AT_ONCE as u32;
            }
            let mean = if live { sum * math::reciprocal(total) } else { 0.0 };
            out.block(t, first * dim + col, mean);
            col += 32 * WARPS;
        }
    }
}
