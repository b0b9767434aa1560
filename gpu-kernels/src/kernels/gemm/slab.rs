//! Which thread holds what in the kernel for 16-bit floats.
//!
//! A stage of its shared memory is a slab of [`SLAB_K`] of `k`: rows of [`ROW_BYTES`], first those of the
//! tokens, then those of the features. Tokens are the `a` operand of `mma`, features the `b` operand, so
//! that a lane's sums lie side by side in a row of the output; `ldmatrix` gives both as `mma` wants them.

use super::tile::CHUNK;

/// `k` that a stage holds: two steps of `mma`.
pub const SLAB_K: u32 = 32;
/// `k` of a step.
pub const STEP_K: u32 = 16;
/// Chunks of a row: 16 bytes each.
pub const ROW_CHUNKS: u32 = SLAB_K / CHUNK;
/// Slabs in shared memory: one is multiplied, the others are on their way. With 4, 128 tokens and 256
/// features take 96 of the 99 KiB that a CTA may have on sm_89 and sm_120.
pub const STAGES: u32 = 4;
/// Bytes of a row.
pub const ROW_BYTES: u32 = SLAB_K * 2;

/// Where chunk `chunk` of row `row` lies among the places of its row.
///
/// Shared memory serves 16 bytes for 8 lanes at once when they lie in different eighths of 128 bytes.
/// The eighth is bit 0 of the row and the two bits of the place. The lanes of a phase of `ldmatrix` read
/// one chunk of 8 neighbouring rows: bits 2 and 1 of the row tell the place. Those that copy together
/// write all chunks of two neighbouring rows, whose places are a permutation.
#[inline(always)]
pub const fn place(row: u32, chunk: u32) -> u32 {
    chunk ^ ((row >> 1) & 3)
}

/// Byte of the chunk in its operand's rows.
#[inline(always)]
pub const fn byte_of(row: u32, chunk: u32) -> u32 {
    row * ROW_BYTES + place(row, chunk) * 16
}

/// Row among 16 tokens and chunk whose address lane `lane` gives for `a` of step `step`: matrices are
/// the upper and lower 8 tokens of the first 8 `k`, then of the others.
#[inline(always)]
pub const fn a_source(lane: u32, step: u32) -> (u32, u32) {
    (lane % 16, step * (STEP_K / CHUNK) + lane / 16)
}

/// Row among 16 features and chunk whose address lane `lane` gives for two `b` of step `step`: matrices
/// are the first and last 8 `k` of the first 8 features, then of the others. So the words of a `b` come
/// to neighbouring registers, where `mma` needs them.
#[inline(always)]
pub const fn b_source(lane: u32, step: u32) -> (u32, u32) {
    (lane % 8 + lane / 16 * 8, step * (STEP_K / CHUNK) + lane / 8 % 2)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cuda_std::mma;

    use super::*;

    /// The eighth of shared memory's banks.
    fn banks(row: u32, chunk: u32) -> u32 {
        byte_of(row, chunk) / 16 % 8
    }

    #[test]
    fn chunks_fill_a_slab_once() {
        let all = (0..64).flat_map(|row| (0..ROW_CHUNKS).map(move |chunk| (row, chunk)));
        let bytes: BTreeSet<_> = all.map(|(row, chunk)| byte_of(row, chunk)).collect();
        assert_eq!(bytes, (0..64 * ROW_CHUNKS).map(|i| 16 * i).collect());
    }

    #[test]
    fn lanes_that_read_together_use_different_banks() {
        for source in [a_source, b_source] {
            for step in 0..SLAB_K / STEP_K {
                for tile in 0..4 {
                    for phase in 0..4 {
                        let banks: BTreeSet<_> = (8 * phase..8 * phase + 8)
                            .map(|lane| source(lane, step))
                            .map(|(row, chunk)| banks(16 * tile + row, chunk))
                            .collect();
                        assert_eq!(banks.len(), 8, "step {step} tile {tile} phase {phase}");
                    }
                }
            }
        }
    }

    #[test]
    fn lanes_that_copy_together_use_different_banks() {
        for phase in 0..64 {
            let banks: BTreeSet<_> = (8 * phase..8 * phase + 8)
                .map(|thread| banks(thread / ROW_CHUNKS, thread % ROW_CHUNKS))
                .collect();
            assert_eq!(banks.len(), 8, "phase {phase}");
        }
    }

    #[test]
    fn rows_sixteen_apart_lie_at_the_same_places() {
        for (row, chunk) in (0..16).flat_map(|row| (0..ROW_CHUNKS).map(move |c| (row, c))) {
            assert_eq!(byte_of(row + 16, chunk), byte_of(row, chunk) + 16 * ROW_BYTES);
        }
    }

    #[test]
    fn the_second_step_lies_two_places_across() {
        for source in [a_source, b_source] {
            for lane in 0..32 {
                let [first, second] = [0, 1].map(|step| source(lane, step));
                assert_eq!(byte_of(second.0, second.1), byte_of(first.0, first.1) ^ 32);
            }
        }
    }

    #[test]
    fn ldmatrix_gives_what_mma_takes() {
        // Word `m` of lane `l` is elements 2(l % 4) and the next of the row whose address lane
        // 8m + l / 4 gave.
        let given = |source: fn(u32, u32) -> (u32, u32), lane: u32, m: u32, step| {
            let (row, chunk) = source(8 * m + lane / 4, step);
            (row, chunk * CHUNK + 2 * (lane % 4))
        };
        for step in 0..SLAB_K / STEP_K {
            for lane in 0..32 {
                for w in 0..4 {
                    let a = (mma::a_row(lane, w), step * STEP_K + mma::a_k(lane, w, 2));
                    assert_eq!(given(a_source, lane, w, step), a);
                    let (tile, w_b) = (w / 2, w % 2);
                    let b = (8 * tile + mma::b_col(lane), step * STEP_K + mma::b_k(lane, w_b, 2));
                    assert_eq!(given(b_source, lane, w, step), b);
                }
            }
        }
    }
}
