//! Whether the pages of a request that waits are worth saving on the host.

use config::Config;

use super::placement::Gpu;
use crate::kv::PAGE_SIZE;
use crate::models::DecoderSpec;
use crate::ops::KvDtype;

/// Bytes a second between a GPU and page-locked memory: PCIe 4.0 with 16 lanes, less what a copy
/// loses.
const BYTES_PER_SECOND: f64 = 20e9;
/// Seconds that it takes to queue a copy.
const COPY_SECONDS: f64 = 1.5e-6;
/// Operations of a multiprocessor in a cycle, of the matrix instructions on halves.
const OPERATIONS: f64 = 2048.0;
/// Share of them that a prompt reaches.
const REACHED: f64 = 0.4;

/// Memory for saved pages.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SpillPlan {
    /// Slots of each group of pages.
    pub slots: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// What a user who asked for it should hear.
    pub notice: Option<String>,
}

/// What `kv_cache.host_spill_mb` comes to for a model of so many parameters.
pub(super) fn plan(
    config: &Config,
    spec: &DecoderSpec,
    parameters: u64,
    kv_dtype: KvDtype,
    gpu: Option<&Gpu>,
) -> SpillPlan {
    let asked = u64::from(config.kv_cache.host_spill_mb) << 20;
    if asked == 0 {
        return SpillPlan::default();
    }
    let none = |why: &str| {
        let notice = Some(format!("kv_cache.host_spill_mb is not used: {why}"));
        SpillPlan { notice, ..SpillPlan::default() }
    };
    let Some(gpu) = gpu else {
        return none("all keys and values are on the host, where max_blocks says how many");
    };
    let device = gpu.context.device();
    let cycles = f64::from(device.multiprocessors) * f64::from(device.clock_khz) * 1e3;
    let cost = Cost::of(spec, parameters, kv_dtype, cycles);
    if cost.moving >= cost.computing {
        let [moving, computing] = [cost.moving, cost.computing].map(|seconds| seconds * 1e6);
        return none(&format!(
            "to compute the keys of a token again takes about {computing:.0} µs here, to move them \
             {moving:.0} µs"
        ));
    }
    let slots = asked / cost.slot_bytes;
    SpillPlan { slots: slots as usize, bytes: slots * cost.slot_bytes, notice: None }
}

/// Seconds a token.
struct Cost {
    /// To the host and back.
    moving: f64,
    computing: f64,
    /// Bytes of a page in all layers.
    slot_bytes: u64,
}

impl Cost {
    fn of(spec: &DecoderSpec, parameters: u64, dtype: KvDtype, cycles: f64) -> Self {
        let layers = spec.layers.len();
        let slot_bytes = 2 * layers * PAGE_SIZE * spec.kv_shape().width() * dtype.bytes();
        let copies = 2.0 * layers as f64 * COPY_SECONDS;
        let one_way = (slot_bytes as f64 / BYTES_PER_SECOND + copies) / PAGE_SIZE as f64;
        let computing = 2.0 * parameters as f64 / (REACHED * OPERATIONS * cycles);
        Self { moving: 2.0 * one_way, computing, slot_bytes: slot_bytes.max(1) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::Checkpoint;

    /// Measured on an H100: 50 µs a token for 8B, 6 µs for 0.6B.
    #[test]
    fn large_models_are_worth_moving_for() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny/qwen3");
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (_, mut spec) =
            crate::models::describe(&checkpoint, &config::RopeOverride::default()).unwrap();
        let cycles = 132.0 * 1.98e9;
        let mut cost = |layers, parameters| {
            (spec.kv_heads, spec.heads.head_dim) = (8, 128);
            spec.layers = vec![spec.layers[0]; layers];
            Cost::of(&spec, parameters, KvDtype::F16, cycles)
        };
        let large = cost(36, 8_200_000_000);
        assert_eq!(large.slot_bytes, 36 * 2 * 16 * 1024 * 2);
        assert!((0.3..0.6).contains(&(large.moving / large.computing)), "{}", large.computing);
        let small = cost(28, 600_000_000);
        assert!(small.moving > 2.0 * small.computing);
    }
}
