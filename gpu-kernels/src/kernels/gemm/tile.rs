//! Which thread holds what: the index mappings of the tiles, each derived once.
//!
//! A warp computes [`WARP_FEATURES`] features of all tokens of its CTA. Weights are the `a` operand of
//! `mma` (16 features a tile), activations the `b` operand (8 tokens a tile).
//!
//! `mma` sums over `k` in any order, so lane `q` of a quad need not hold the two neighbours that the
//! instruction names: it holds `RUN` consecutive weights of its row, a run, and the quad four runs, a
//! block of `4 · RUN`. Step `j` of a block multiplies weights `4j` to `4j + 3` of every run: the first two
//! in the words of `k` below 8, the others in those of `k` from 8 on. Activations follow the same
//! order, so each 16 bytes of them serve two steps.

/// Features that a warp computes: two tiles of `mma`. Each activation that is loaded then serves two
/// products, which keeps shared memory below the tensor cores' time (128 bytes a clock against 4
/// products of 4,096 operations in 6 clocks).
pub const WARP_FEATURES: u32 = 32;
/// Rows of weights of which a lane holds a run: `lane / 4 + 8 · i`.
pub const LANE_ROWS: usize = WARP_FEATURES as usize / 8;
/// `k` that a stage of shared memory holds.
pub const STAGE_K: u32 = 128;
/// Activations in 16 bytes.
pub const CHUNK: u32 = 8;
/// Chunks of a token in a stage.
pub const STAGE_CHUNKS: u32 = STAGE_K / CHUNK;
/// Bytes of a token in a stage.
pub const ROW_BYTES: u32 = STAGE_K * 2;
/// Token tiles that are worked through before the next tile of features: their activations (16 × 128
/// tokens of 4096 halves are 16 MiB) stay in the second-level cache while weights pass by once.
pub const TOKEN_GROUP: u32 = 16;

/// Where chunk `chunk` of token `row` lies among the 16 places of the token.
///
/// Shared memory serves 16 bytes for 8 lanes at once when their places differ modulo 8 (8 · 16 bytes
/// are its 32 banks, and a token is twice that). The lanes that read together hold two neighbouring
/// tokens (bit 0 of `row`) and the four lanes of a quad:
///
/// - runs of 32: lane `q` reads chunks `4q + i` for one `i`, so `q` is bits 3 and 2 of the chunk;
///   place bit 2 takes bit 2, bit 1 takes `row`, bit 0 takes bit 3.
/// - runs of 8: lane `q` reads chunk `4b + q` for one block `b`, so `q` is bits 1 and 0; they stay, and
///   place bit 2 takes `row`.
///
/// The lanes that write together hold chunks 0–7 or 8–15 of one token: bits 2, 1 and 0 vary, and stay
/// where they are but for a constant.
#[inline(always)]
pub const fn place(run: u32, row: u32, chunk: u32) -> u32 {
    if run == 32 { chunk ^ (chunk >> 3) ^ ((row & 1) << 1) } else { chunk ^ ((row & 1) << 2) }
}

/// The chunk of a stage that lane `q` of a quad reads for steps `2i` and `2i + 1` of block `block`.
#[inline(always)]
pub const fn chunk_of(run: u32, block: u32, q: u32, i: u32) -> u32 {
    (block * 4 + q) * (run / CHUNK) + i
}

/// Token tile and feature tile of a CTA: groups of [`TOKEN_GROUP`] token tiles, in them feature tile
/// after feature tile, in it the token tiles.
#[inline(always)]
pub fn tile_of(cta: u32, token_tiles: u32, feature_tiles: u32) -> (u32, u32) {
    let per_group = TOKEN_GROUP * feature_tiles;
    let group = divide(cta, per_group);
    let first = group * TOKEN_GROUP;
    let size = if token_tiles - first < TOKEN_GROUP { token_tiles - first } else { TOKEN_GROUP };
    let rest = cta - group * per_group;
    let feature = divide(rest, size);
    (first + rest - feature * size, feature)
}

/// `a / b`, without the branch to a panic.
#[inline(always)]
pub fn divide(a: u32, b: u32) -> u32 {
    a.checked_div(b).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RUNS: [u32; 2] = [8, 32];

    #[test]
    fn chunks_of_a_token_fill_its_places_once() {
        for run in RUNS {
            for row in 0..2 {
                let places: BTreeSet<_> =
                    (0..STAGE_CHUNKS).map(|chunk| place(run, row, chunk)).collect();
                assert_eq!(places, (0..STAGE_CHUNKS).collect());
            }
        }
    }

    #[test]
    fn lanes_that_read_together_use_different_banks() {
        for run in RUNS {
            for block in 0..STAGE_K / (4 * run) {
                for i in 0..run / CHUNK {
                    for phase in 0..4 {
                        let banks: BTreeSet<_> = (8 * phase..8 * phase + 8)
                            .map(|lane| place(run, lane / 4, chunk_of(run, block, lane % 4, i)) % 8)
                            .collect();
                        assert_eq!(banks.len(), 8, "run {run} block {block} i {i} phase {phase}");
                    }
                }
            }
        }
    }

    #[test]
    fn lanes_that_write_together_use_different_banks() {
        for run in RUNS {
            for row in 0..2 {
                for half in 0..2 {
                    let banks: BTreeSet<_> =
                        (8 * half..8 * half + 8).map(|c| place(run, row, c) % 8).collect();
                    assert_eq!(banks.len(), 8);
                }
            }
        }
    }

    #[test]
    fn a_stage_is_multiplied_once_and_both_operands_agree() {
        use cuda_std::mma;
        for run in RUNS {
            let mut seen = BTreeSet::new();
            for block in 0..STAGE_K / (4 * run) {
                for j in 0..run / 4 {
                    // k of each slot of the instruction, as the weights' lanes hold it.
                    let mut weights = [0; 16];
                    let mut activations = [0; 16];
                    for lane in 0..4 {
                        for pair in 0..2 {
                            for e in 0..2 {
                                let slot = mma::a_k(lane, 2 * pair, 2) + e;
                                weights[slot as usize] =
                                    (4 * block + lane) * run + 4 * j + 2 * pair + e;
                                let slot = mma::b_k(lane, pair, 2) + e;
                                activations[slot as usize] = chunk_of(run, block, lane, j / 2)
                                    * CHUNK
                                    + 4 * (j % 2)
                                    + 2 * pair
                                    + e;
                            }
                        }
                    }
                    assert_eq!(weights, activations);
                    assert!(weights.iter().all(|&k| seen.insert(k)));
                }
            }
            assert_eq!(seen, (0..STAGE_K).collect());
        }
    }

    #[test]
    fn every_tile_is_computed_by_one_cta() {
        for (token_tiles, feature_tiles) in [(1, 1), (1, 7), (16, 3), (17, 5), (40, 2)] {
            let tiles: BTreeSet<_> = (0..token_tiles * feature_tiles)
                .map(|cta| tile_of(cta, token_tiles, feature_tiles))
                .collect();
            let all = (0..token_tiles).flat_map(|t| (0..feature_tiles).map(move |f| (t, f)));
            assert_eq!(tiles, all.collect());
        }
    }
}
