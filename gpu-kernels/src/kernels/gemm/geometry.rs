//! Which tile a product takes, and into how many parts it is cut.
//!
//! The time of each candidate is estimated, in clocks, from what bounds a multiprocessor over one stage
//! ([`STAGE_K`] of `k`) of one CTA:
//!
//! - tensor cores: `2 · tokens · features · STAGE_K` operations, with the share that warps waiting for
//!   each other leave: the more warps, the more;
//! - the making of halves, about [`UNPACK`] instructions a weight of a quantized format, one for each
//!   lane of four schedulers a clock; some of it hides behind the tensor cores;
//! - the copies to shared memory, which are all that counts for floats that go through it;
//! - the memory, for the weights, once over all: token tiles that read the same run at the same time;
//! - its latency: a warp has the weights of one stage on their way while it multiplies another.
//!
//! The launch takes as long as its busiest multiprocessor: CTAs are whole, so 192 of them on 132
//! multiprocessors take as long as 264. Splits make up for too few CTAs; their sums pass through the
//! second-level cache twice, and the last CTA of a tile adds them up.
//!
//! The numbers are fitted to a sweep on H100: five formats, the four products of a layer of Qwen3 8B, 16
//! to 2,048 tokens, every tile, 1 to 8 splits. What they choose is on average 1.5 % slower than the best.

use cuda_std::Launch;

use super::super::gemv::MAX_TARGETS;
use super::tile::STAGE_K;
use super::{Tile, Way, tiles};
use crate::formats::Format;

/// Operations that tensor cores of a multiprocessor do in a clock: `mma.sync` on H100, 645 TFLOP/s over
/// 132 multiprocessors at 1.755 GHz.
const TENSOR: f32 = 2784.0;
/// The share of them that a warp keeps busy, and what all together reach.
const TENSOR_OF_WARP: f32 = 0.089;
const TENSOR_REACHED: f32 = 0.71;
/// Instructions to make a half of a weight.
const UNPACK: f32 = 3.6;
/// The share of them that does not hide behind the tensor cores.
const UNHIDDEN: f32 = 0.58;
/// Bytes that a multiprocessor copies to its shared memory in a clock, where nothing else bounds it.
const COPIED: f32 = 33.0;
/// Bytes that the memory gives a multiprocessor in a clock.
const MEMORY: f32 = 13.0;
/// Clocks from a request to its data when memory is busy.
const LATENCY: f32 = 1900.0;
/// The share of the shorter of memory's time and the multiprocessors' that does not hide behind the other.
const APART: f32 = 0.67;
/// Clocks of a CTA before its first product and after its last.
const ENDS: f32 = 4400.0;
/// Bytes of sums of splits that a multiprocessor writes or reads in a clock.
const ADDED: f32 = 16.0;
/// Most parts of `k`.
const MAX_SPLITS: u32 = 16;
/// Most bytes of [`Geometry::partial_bytes`].
pub const MAX_PARTIAL_BYTES: usize = 16 << 20;
/// Most of [`Geometry::counters`].
pub const MAX_COUNTERS: usize = 4096;

/// A product to be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Format of the weights.
    pub format: Format,
    /// Rows of each matrix, 0 where there is none.
    pub rows: [u32; MAX_TARGETS],
    /// Columns of the matrices.
    pub cols: u32,
    /// Rows of `x`.
    pub tokens: u32,
}

/// What counts of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Multiprocessors.
    pub sms: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes: u32,
    /// Whether tiles that spill registers are left out, as on sm_120f.
    pub no_spills: bool,
}

impl Device {
    /// A device of `sms` multiprocessors that runs the PTX of `arch`, and gives a CTA so much shared
    /// memory: a multiprocessor has 1 KiB more.
    pub fn new(arch: &str, sms: u32, shared_bytes_per_cta: u32) -> Self {
        Self { sms, shared_bytes: shared_bytes_per_cta + 1024, no_spills: arch == "sm_120f" }
    }
}

/// Whether there is a kernel for weights of `format` with `cols` columns.
pub fn supports(format: Format, cols: u32) -> bool {
    super::entry(format, 0).is_some()
        && cols > 0
        && (cols.is_multiple_of(32) || matches!(format, Format::F16 | Format::BF16))
}

/// How a product is spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// What a CTA computes.
    pub cta: Tile,
    /// Its index in [`tiles`], for [`entry`](super::entry).
    pub tile: usize,
    /// Shape of the launch.
    pub launch: Launch,
    /// For [`GemmParams::splits`](super::GemmParams::splits).
    pub splits: u32,
    /// For [`GemmParams::stages_per_split`](super::GemmParams::stages_per_split).
    pub stages_per_split: u32,
}

impl Geometry {
    /// The one with the least estimated time.
    pub fn new(shape: Shape, device: Device) -> Self {
        let stages = shape.cols.div_ceil(STAGE_K);
        let mut best = (f32::INFINITY, Self::with(shape, 0, 1));
        let all = tiles(shape.format).iter().enumerate();
        for (tile, _) in all.filter(|(_, tile)| !(tile.spills && device.no_spills)) {
            for splits in 1..=MAX_SPLITS.min(stages) {
                let geometry = Self::with(shape, tile, splits);
                if geometry.fits() {
                    let time = geometry.clocks(shape, device);
                    if time < best.0 {
                        best = (time, geometry);
                    }
                }
            }
        }
        best.1
    }

    /// Tile `tile` with `k` in up to `splits` parts.
    pub fn with(shape: Shape, tile: usize, splits: u32) -> Self {
        let stages = shape.cols.div_ceil(STAGE_K);
        let stages_per_split = stages.div_ceil(splits);
        let splits = stages.div_ceil(stages_per_split);
        let cta = tiles(shape.format)[tile];
        let Tile { tokens, features, .. } = cta;
        let feature_tiles: u32 = shape.rows.iter().map(|rows| rows.div_ceil(features)).sum();
        let tiles = shape.tokens.div_ceil(tokens) * feature_tiles;
        let launch = Launch::plane(tiles, splits, cta.threads).shared(cta.shared_bytes);
        Self { cta, tile, launch, splits, stages_per_split }
    }

    /// Bytes of [`GemmParams::partial`](super::GemmParams::partial).
    pub fn partial_bytes(&self) -> usize {
        let Tile { tokens, features, .. } = self.cta;
        match self.splits {
            1 => 0,
            splits => self.counters() * splits as usize * (4 * tokens * features) as usize,
        }
    }
    /// Elements of [`GemmParams::arrived`](super::GemmParams::arrived).
    pub fn counters(&self) -> usize {
        if self.splits == 1 { 0 } else { self.launch.grid[0] as usize }
    }

    fn fits(&self) -> bool {
        self.partial_bytes() <= MAX_PARTIAL_BYTES && self.counters() <= MAX_COUNTERS
    }

    /// Estimated time.
    fn clocks(&self, shape: Shape, device: Device) -> f32 {
        let Tile { threads, shared_bytes, ctas, way, .. } = self.cta;
        let (tokens, features) = (self.cta.tokens as f32, self.cta.features as f32);
        let float = matches!(shape.format, Format::F16 | Format::BF16);
        let weight_bytes = shape.format.block_bytes() as f32 / shape.format.block_len() as f32;
        let stage_k = STAGE_K as f32;

        let units = self.launch.grid[0] * self.splits;
        let busiest = units.div_ceil(device.sms);
        let room = ctas.min(device.shared_bytes / (shared_bytes + 1024)).max(1);
        let resident = busiest.min(room);
        let warps = (resident * threads / 32) as f32;

        // Of one stage of one CTA.
        let tensor = 2.0 * tokens * features * stage_k / TENSOR;
        let round = match way {
            Way::Registers => {
                let tensor = tensor / (TENSOR_OF_WARP * warps).min(TENSOR_REACHED);
                let unpack = if float { 0.0 } else { features * stage_k * UNPACK / 128.0 };
                let arithmetic = (tensor + UNHIDDEN * unpack).max(unpack);
                (resident as f32 * arithmetic).max(LATENCY)
            }
            // The products hide behind the copies.
            Way::Shared => {
                let bytes = (2.0 * tokens + features * weight_bytes) * stage_k;
                resident as f32 * bytes / COPIED
            }
        };
        let rounds = busiest.div_ceil(resident) * self.stages_per_split;

        let all = shape.rows.iter().sum::<u32>() as f32 * shape.cols as f32 * weight_bytes;
        let memory = all / (MEMORY * device.sms as f32);
        let add_up = 2.0 * self.partial_bytes() as f32 / (ADDED * device.sms as f32);
        let work = rounds as f32 * round;
        work.max(memory) + APART * work.min(memory) + add_up + ENDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Device = Device { sms: 132, shared_bytes: 228 << 10, no_spills: false };

    fn pick(format: Format, rows: [u32; 3], cols: u32, tokens: u32) -> (Tile, Geometry) {
        let geometry = Geometry::new(Shape { format, rows, cols, tokens }, H100);
        (geometry.cta, geometry)
    }

    #[test]
    fn shared_memory_fits_every_architecture() {
        for format in [Format::F16, Format::Q8_0] {
            assert!(tiles(format).iter().all(|tile| tile.shared_bytes <= 99 << 10));
        }
    }

    #[test]
    fn long_prompts_take_the_largest_tile() {
        for (rows, cols) in
            [([4096, 1024, 1024], 4096), ([12288, 12288, 0], 4096), ([4096, 0, 0], 12288)]
        {
            for format in [Format::Q4_K, Format::F16] {
                let (tile, geometry) = pick(format, rows, cols, 2048);
                assert_eq!((tile.tokens, geometry.splits), (128, 1), "{format:?} {rows:?}");
            }
        }
    }

    #[test]
    fn a_wave_is_filled() {
        // 64 CTAs of the largest tile would leave half the multiprocessors idle.
        let (tile, geometry) = pick(Format::Q4_K, [4096, 0, 0], 4096, 512);
        assert_eq!(tile.tokens, 64);
        assert!(geometry.launch.grid[0] * geometry.splits >= 120, "{geometry:?}");
    }

    #[test]
    fn floats_fill_a_wave_too() {
        // Rows 4096 of a prompt of 512 are 64 of the largest tiles.
        for cols in [4096, 12288] {
            for format in [Format::F16, Format::BF16] {
                let (_, geometry) = pick(format, [4096, 0, 0], cols, 512);
                assert!(geometry.launch.grid[0] * geometry.splits >= 128, "{geometry:?}");
            }
        }
    }

    #[test]
    fn floats_go_through_shared_memory_where_tokens_are_many() {
        for (tokens, way) in
            [(9, Way::Registers), (32, Way::Registers), (64, Way::Registers), (2048, Way::Shared)]
        {
            assert_eq!(pick(Format::F16, [4096, 0, 0], 4096, tokens).0.way, way, "{tokens}");
        }
    }

    #[test]
    fn nothing_spills_where_nothing_may() {
        let device = Device::new("sm_120f", 170, 99 << 10);
        for tokens in [1, 100, 512, 2048, 1 << 20] {
            let shape = Shape { format: Format::Q8_0, rows: [4096, 0, 0], cols: 4096, tokens };
            assert!(!Geometry::new(shape, device).cta.spills);
        }
    }

    #[test]
    fn few_tokens_split_k_until_all_multiprocessors_read() {
        for tokens in [9, 16, 32, 64] {
            let (tile, geometry) = pick(Format::Q4_K, [4096, 0, 0], 4096, tokens);
            assert!(
                tile.tokens >= tokens && tile.tokens <= tokens.next_multiple_of(16),
                "{tile:?}"
            );
            assert!(geometry.launch.grid[0] * geometry.splits >= 96, "{geometry:?}");
        }
    }

    #[test]
    fn splits_cover_k_once_and_none_is_empty() {
        for cols in [32, 128, 160, 4096, 12288] {
            for splits in 1..=16 {
                let shape = Shape { format: Format::Q8_0, rows: [64, 0, 0], cols, tokens: 1 };
                let geometry = Geometry::with(shape, 0, splits);
                let stages = cols.div_ceil(STAGE_K);
                assert!(geometry.splits * geometry.stages_per_split >= stages);
                assert!((geometry.splits - 1) * geometry.stages_per_split < stages);
            }
        }
    }
}
