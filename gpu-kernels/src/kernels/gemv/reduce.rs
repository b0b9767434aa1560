//! Adding up many values over a warp, and finding a group's rows.

use cuda_std::{Global, GlobalMut, Shared, Thread};

use super::{GemvParams, Target, WARPS};
use crate::kernels::matrix::Matrix;

/// Most values that a warp adds up at once.
pub const MAX_VALUES: usize = 32;
/// Bytes of shared memory for [`Teams::add_up`].
pub const SHARED_BYTES: u32 = 2 * WARPS * MAX_VALUES as u32 * 4;

/// Who works on what in a CTA: `1 << split_log2` warps, a team, share a group of rows.
#[derive(Clone, Copy)]
pub struct Teams<const R: usize> {
    split_log2: u32,
    /// Team of this warp.
    team: u32,
    /// Its part of `k`.
    pub part: u32,
}

/// A group of a launch: `R` rows of one matrix.
#[derive(Clone, Copy)]
pub struct Group<const R: usize> {
    /// The matrix.
    pub weights: Matrix,
    /// Which of the launch's.
    which: u32,
    /// Its number in the matrix.
    number: u32,
}

/// The part of a [`Target`] that is written.
pub struct Output {
    pub y: GlobalMut<f32>,
    pub bias: Global<f32>,
    pub stride: u32,
}

impl<const R: usize> Group<R> {
    /// The first of its rows; at or past the last of the matrix only past the last group.
    #[inline(always)]
    pub fn row(&self) -> u32 {
        self.number * R as u32
    }
    /// Where its product goes, and the bias.
    #[inline(always)]
    pub fn output(&self, p: &GemvParams) -> Output {
        // By value: a reference to one of three would move the parameters to local memory.
        let of = |target: &Target| Output { y: target.y, bias: target.bias, stride: target.stride };
        let [a, b, c] = [of(&p.targets[0]), of(&p.targets[1]), of(&p.targets[2])];
        let (first, second) = (self.which == 0, self.which == 1);
        Output {
            y: if first {
                a.y
            } else if second {
                b.y
            } else {
                c.y
            },
            bias: if first {
                a.bias
            } else if second {
                b.bias
            } else {
                c.bias
            },
            stride: if first {
                a.stride
            } else if second {
                b.stride
            } else {
                c.stride
            },
        }
    }
    /// Goes on by `groups`.
    #[inline(always)]
    fn advance(&mut self, p: &GemvParams, groups: u32) {
        self.number += groups;
        if self.which == 0
            && self.number >= groups_of::<R>(&self.weights)
            && p.targets[1].weights.rows > 0
        {
            self.number -= groups_of::<R>(&self.weights);
            (self.which, self.weights) = (1, p.targets[1].weights);
        }
        if self.which == 1
            && self.number >= groups_of::<R>(&self.weights)
            && p.targets[2].weights.rows > 0
        {
            self.number -= groups_of::<R>(&self.weights);
            (self.which, self.weights) = (2, p.targets[2].weights);
        }
    }
}

impl<const R: usize> Teams<R> {
    #[inline(always)]
    pub fn new(t: Thread, split_log2: u32) -> Self {
        let warp = t.warp();
        Self { split_log2, team: warp >> split_log2, part: warp & ((1 << split_log2) - 1) }
    }
    #[inline(always)]
    fn count_log2(self) -> u32 {
        WARPS.ilog2() - self.split_log2
    }
    /// Units of all matrices; a unit is a group for each team of a CTA.
    #[inline(always)]
    pub fn units(self, p: &GemvParams) -> u32 {
        let [a, b, c] = &p.targets;
        let groups =
            groups_of::<R>(&a.weights) + groups_of::<R>(&b.weights) + groups_of::<R>(&c.weights);
        (groups + (1 << self.count_log2()) - 1) >> self.count_log2()
    }
    /// This warp's group in a unit.
    #[inline(always)]
    pub fn first(self, p: &GemvParams, unit: u32) -> Group<R> {
        let mut group = Group { weights: p.targets[0].weights, which: 0, number: 0 };
        group.advance(p, (unit << self.count_log2()) + self.team);
        group
    }
    /// This warp's group `units` further on.
    #[inline(always)]
    pub fn advance(self, p: &GemvParams, group: &mut Group<R>, units: u32) {
        group.advance(p, units << self.count_log2());
    }

    /// Adds the first `n` values (a power of two) over a team. Lane `i < n` of its first warp gets
    /// sum `i`, other threads anything. `turn` alternates between 0 and 1 with each call, which all
    /// threads of the CTA make.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn add_up(
        self,
        t: Thread,
        scratch: Shared<f32>,
        turn: u32,
        values: [f32; MAX_VALUES],
        n: usize,
    ) -> f32 {
        let sum = scatter_sum(t, values, n);
        let (lane, warp) = (t.lane(), t.warp());
        let lanes = (MAX_VALUES / n) as u32;
        let at = |warp: u32, i: u32| (turn * WARPS + warp) * MAX_VALUES as u32 + i;
        if lane % lanes == 0 {
            scratch.set(at(warp, lane / lanes), sum);
        }
        if self.split_log2 == 0 {
            t.sync_warp();
        } else {
            t.sync();
        }
        let mut total = 0.0;
        if self.part == 0 && lane < n as u32 {
            let mut i = 0;
            while i < 1 << self.split_log2 {
                total += scratch.get(at(warp + i, lane));
                i += 1;
            }
        }
        total
    }
}

#[inline(always)]
fn groups_of<const R: usize>(weights: &Matrix) -> u32 {
    weights.rows.div_ceil(R as u32)
}

/// Sums the first `n` values (a power of two) over the warp; lane `l` gets sum `l / (32 / n)`.
///
/// Each step halves the values a lane still carries: it sends the half that the other keeps. `n` less
/// 1 shuffles and then the rest of a butterfly, against five for each value.
#[inline(always)]
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
fn scatter_sum(t: Thread, mut v: [f32; MAX_VALUES], n: usize) -> f32 {
    let lane = t.lane();
    macro_rules! step {
        ($mask:literal, $($i:literal)*) => {
            let half = n * $mask / 32;
            if half > 0 {
                $(if $i < half {
                    let upper = lane & $mask != 0;
                    let (keep, send) =
                        if upper { (v[$i + half], v[$i]) } else { (v[$i], v[$i + half]) };
                    v[$i] = keep + t.shuffle_xor(send, $mask);
                })*
            } else {
                v[0] += t.shuffle_xor(v[0], $mask);
            }
        };
    }
    step!(16, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    step!(8, 0 1 2 3 4 5 6 7);
    step!(4, 0 1 2 3);
    step!(2, 0 1);
    step!(1, 0);
    v[0]
}
