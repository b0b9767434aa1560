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

/// Cycles a second of all multiprocessors of a GPU.
pub(super) fn cycles(gpu: &Gpu) -> f64 {
    let device = gpu.context.device();
    f64::from(device.multiprocessors) * f64::from(device.clock_khz) * 1e3
}

/// What `kv_cache.host_spill_mb` comes to for a model of so many parameters on a GPU of so many
/// [`cycles`].
pub(super) fn plan(
    config: &Config,
    spec: &DecoderSpec,
    parameters: u64,
    kv_dtype: KvDtype,
    cycles: Option<f64>,
) -> SpillPlan {
    let asked = u64::from(config.kv_cache.host_spill_mb) << 20;
    if asked == 0 {
        return SpillPlan::default();
    }
    let none = |why: &str| {
        let notice = Some(format!("kv_cache.host_spill_mb is not used: {why}"));
        SpillPlan { notice, ..SpillPlan::default() }
    };
    let Some(cycles) = cycles else {
        return none("all keys and values are on the host, where max_blocks says how many");
    };
    let cost = Cost::of(spec, parameters, kv_dtype, cycles);
    if cost.moving >= cost.computing {
        let [moving, computing] = [cost.moving, cost.computing].map(|seconds| seconds * 1e6);
        return none(&format!(
            "to compute the keys of a token again takes about {computing:.0} µs here, to move them \
             {moving:.0} µs"
        ));
    }
    let slots = asked / cost.slot_bytes;
    if slots == 0 {
        return none(&format!("a page takes {} bytes", cost.slot_bytes));
    }
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

    fn spec(layers: usize) -> DecoderSpec {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny/qwen3");
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (_, mut spec) =
            crate::models::describe(&checkpoint, &config::RopeOverride::default()).unwrap();
        (spec.kv_heads, spec.heads.head_dim) = (8, 128);
        spec.layers = vec![spec.layers[0]; layers];
        spec
    }

    /// What a GPU of 132 multiprocessors at 1.98 GHz does with so much memory.
    fn planned(layers: usize, parameters: u64, mib: u32, on_gpu: bool) -> SpillPlan {
        let mut config = Config::default();
        config.kv_cache.host_spill_mb = mib;
        let cycles = on_gpu.then_some(132.0 * 1.98e9);
        plan(&config, &spec(layers), parameters, KvDtype::F16, cycles)
    }

    #[test]
    fn pages_of_large_models_are_worth_moving() {
        let page = 36 * 2 * 16 * 1024 * 2;
        let large = planned(36, 8_200_000_000, 1024, true);
        let slots = (1 << 30) / page;
        assert_eq!(large, SpillPlan { slots, bytes: (slots * page) as u64, notice: None });
        assert_eq!(planned(36, 8_200_000_000, 0, true), SpillPlan::default());
    }

    #[test]
    fn whoever_asks_in_vain_is_told() {
        for (plan, why) in [
            (planned(36, 8_200_000_000, 1, true), "a page takes 2359296 bytes"),
            (planned(28, 600_000_000, 1024, true), "to compute the keys of a token again"),
            (planned(36, 8_200_000_000, 1024, false), "on the host"),
        ] {
            assert_eq!((plan.slots, plan.bytes), (0, 0));
            let notice = plan.notice.unwrap();
            assert!(notice.contains("host_spill_mb") && notice.contains(why), "{notice}");
        }
    }
}
