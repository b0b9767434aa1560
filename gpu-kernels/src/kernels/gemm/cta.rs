//! What the kernels do around their products: which part of the outputs a CTA computes, and the adding
//! up of splits.

use cuda_std::{Shared, Thread};

use super::GemmParams;
use super::tile::{STAGE_K, divide, tile_of};
use crate::kernels::gemv::Target;

/// Sums of a lane: tiles of `mma`, its rows by its columns.
pub type Sums<const M: usize, const N: usize> = [[[f32; 4]; N]; M];

/// What a CTA computes.
#[derive(Clone, Copy)]
pub struct Part {
    /// The matrix among the parameters.
    pub which: u32,
    /// First row of `x`.
    pub first_token: u32,
    /// First row of the matrix.
    pub first_feature: u32,
    /// First stage of [`STAGE_K`] of its split.
    pub first: u32,
    /// Stage after its last.
    pub end: u32,
}

impl Part {
    /// That of CTA `cta` of the running row of them, in tiles of `tokens` by `features`.
    #[inline(always)]
    pub fn of(t: Thread, p: &GemmParams, cta: u32, tokens: u32, features: u32) -> Self {
        let tiles = p.targets.map(|target| divide(target.weights.rows + features - 1, features));
        let token_tiles = p.tokens.div_ceil(tokens);
        let (token_tile, feature_tile) = tile_of(cta, token_tiles, tiles[0] + tiles[1] + tiles[2]);
        let (which, feature_tile) = if feature_tile < tiles[0] {
            (0, feature_tile)
        } else if feature_tile < tiles[0] + tiles[1] {
            (1, feature_tile - tiles[0])
        } else {
            (2, feature_tile - tiles[0] - tiles[1])
        };
        let stages = p.targets[0].weights.cols.div_ceil(STAGE_K);
        let first = t.cta_id_y() * p.stages_per_split;
        Self {
            which,
            first_token: token_tile * tokens,
            first_feature: feature_tile * features,
            first,
            end: least(first + p.stages_per_split, stages),
        }
    }
}

/// Target `which`, and its scale.
#[inline(always)]
pub fn target_of(p: &GemmParams, which: u32) -> (Target, f32) {
    match which {
        0 => (p.targets[0], p.weight_scale[0]),
        1 => (p.targets[1], p.weight_scale[1]),
        _ => (p.targets[2], p.weight_scale[2]),
    }
}

#[inline(always)]
pub fn least(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// Leaves this CTA's sums in `p.partial`; in the last CTA of the tile to come here, replaces them by the
/// sums over all splits, in their order, and answers true.
#[inline(always)]
pub fn add_splits<const M: usize, const N: usize>(
    t: Thread,
    p: &GemmParams,
    sums: &mut Sums<M, N>,
) -> bool {
    let threads = t.count() as usize;
    let tile_quads = M * N * threads;
    let tile = p.partial.at((t.cta_id() * p.splits) as usize * tile_quads).at(t.id() as usize);
    let own = tile.at(t.cta_id_y() as usize * tile_quads);
    unroll!(m of 4 < M, {
        unroll!(n of 16 < N, { own.set((m * N + n) * threads, sums[m][n]) });
    });
    t.fence();
    t.sync();
    let arrived: Shared<u32> = t.static_shared::<u32, 16>();
    if t.id() == 0 {
        let before = p.arrived.atomic_add(t.cta_id() as usize, 1);
        if before + 1 == p.splits {
            // Ready for the next launch.
            p.arrived.set(t.cta_id() as usize, 0);
        }
        arrived.set(0, before + 1);
    }
    t.sync();
    if arrived.get(0) != p.splits {
        return false;
    }
    t.fence();
    *sums = [[[0.0; 4]; N]; M];
    let mut split = 0;
    while split < p.splits {
        let part = tile.at(split as usize * tile_quads);
        unroll!(m of 4 < M, {
            unroll!(n of 16 < N, { add(&mut sums[m][n], part.get((m * N + n) * threads)) });
        });
        split += 1;
    }
    true
}

#[inline(always)]
fn add(to: &mut [f32; 4], from: [f32; 4]) {
    *to = [to[0] + from[0], to[1] + from[1], to[2] + from[2], to[3] + from[3]];
}
