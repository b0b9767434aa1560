//! The tiles that launches can have, and what they take.

use super::{slab, tile};
use crate::formats::Format;

/// What one CTA computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows of `x`.
    pub tokens: u32,
    /// Rows of weights.
    pub features: u32,
    /// Its threads.
    pub threads: u32,
    /// Dynamic shared memory: at most 99 KiB, which is what a CTA may have on sm_89 and sm_120.
    pub shared_bytes: u32,
    /// CTAs on a multiprocessor, by registers.
    pub ctas: u32,
    /// The kernel.
    pub way: Way,
    /// Whether its sums take so many registers that some formats spill others.
    pub spills: bool,
}

/// How weights get to the tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To registers.
    Registers,
    /// Through shared memory.
    Shared,
}

/// A tile of `body`, with so many stages of shared memory.
const fn by_registers(tokens: u32, features: u32, stages: u32, ctas: u32) -> Tile {
    Tile {
        tokens,
        features,
        threads: features / tile::WARP_FEATURES * 32,
        shared_bytes: tokens * tile::ROW_BYTES * stages,
        ctas,
        way: Way::Registers,
        spills: tokens * features > 96 * 256,
    }
}

/// A tile of `float`, of so many warps.
const fn by_shared(tokens: u32, features: u32, warps: u32, ctas: u32) -> Tile {
    Tile {
        tokens,
        features,
        threads: warps * 32,
        shared_bytes: (tokens + features) * slab::ROW_BYTES * slab::STAGES,
        ctas,
        way: Way::Shared,
        spills: false,
    }
}

/// The tiles of quantized weights.
///
/// Few tokens are bound by the reading of weights: several CTAs a multiprocessor keep loads in flight.
/// 128 tokens and 256 features read least; their sums take half the registers, so only one CTA fits. 96
/// tokens stand in for 128 where nothing may spill.
pub const QUANTIZED_TILES: [Tile; 5] = [
    by_registers(16, 128, 4, 3),
    by_registers(32, 128, 4, 3),
    by_registers(64, 128, 3, 2),
    by_registers(96, 256, 3, 1),
    by_registers(128, 256, 3, 1),
];

/// The tiles of 16-bit floats: as with quantized weights, but the largest. Its warps have 64 tokens and 64
/// features, which is what fits their registers and reads least of shared memory: 4 KiB for 32 products
/// of `mma`, 32 clocks of a multiprocessor where the products take 47. Smaller tiles of the kind were
/// slower than registers with 64 tokens, and than the largest with 512.
pub const FLOAT_TILES: [Tile; 4] = [
    by_registers(16, 128, 4, 3),
    by_registers(32, 128, 4, 3),
    by_registers(64, 128, 3, 2),
    by_shared(128, 256, 8, 1),
];

/// The tiles that a launch on weights of `format` can have.
pub const fn tiles(format: Format) -> &'static [Tile] {
    match format {
        Format::F16 | Format::BF16 => &FLOAT_TILES,
        _ => &QUANTIZED_TILES,
    }
}
