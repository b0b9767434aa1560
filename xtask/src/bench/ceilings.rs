//! What the device can do at most, as measured: shares are of these, not of a data sheet.

use gpu_kernels::kernels::ceilings::{
    EMPTY, EmptyParams, PEAK_BF16, PEAK_E4M3, PEAK_F16, PEAK_S8, PEAK_TF32, PRODUCTS_PER_ROUND,
    PeakParams, READ, ReadParams, THREADS, launch,
};
use host::cuda::{Compute, CudaError};
use serde_json::{Value, json};

use super::bed::Gpu;
use super::table::Table;

/// Before, the instruction is a trap.
pub const FIRST_WITH_FP8: Compute = Compute { major: 8, minor: 9 };

/// What a device reaches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ceilings {
    /// Bytes a second that are read from memory.
    pub read: f64,
    /// Operations a second of each matrix instruction, a multiplication and an addition being two.
    pub products: Vec<(&'static str, f64)>,
    /// Microseconds of a launch that does nothing, one after the other in a stream.
    pub empty_stream_us: f64,
    /// The same, recorded.
    pub empty_graph_us: f64,
}

/// Bytes read: many times what the second-level cache of any device holds.
const READ_BYTES: usize = 2 << 30;
/// Rounds of the matrix instructions: some tenths of a millisecond.
const ROUNDS: u32 = 2000;
/// Empty launches.
const LAUNCHES: usize = 1000;

impl Ceilings {
    /// Measures them.
    pub fn measure(gpu: &Gpu) -> Result<Self, CudaError> {
        let launch = launch(gpu.context.device().multiprocessors);
        let out = gpu.repeated::<u32>(&[0; 4], 4)?;
        let out = cuda_std::GlobalMut::from_address(out.address());

        let bytes = READ_BYTES.min(gpu.context.memory()?.free_bytes / 4) / 16 * 16;
        let x = gpu.repeated(&[0x5a; 1 << 16], bytes)?;
        let reading = ReadParams { x, out, n: bytes as u64 / 16 };
        let us = gpu.microseconds(4, |_| gpu.stream.launch(&READ, launch, &reading))?;
        let read = bytes as f64 / us * 1e6;

        let mut entries = vec![
            ("f16", PEAK_F16, 16),
            ("bf16", PEAK_BF16, 16),
            ("tf32", PEAK_TF32, 8),
            ("s8", PEAK_S8, 32),
        ];
        if gpu.context.device().compute >= FIRST_WITH_FP8 {
            entries.push(("e4m3", PEAK_E4M3, 32));
        }
        let mut products = vec![];
        for (name, entry, k) in entries {
            let p = PeakParams { out, rounds: ROUNDS };
            let us = gpu.microseconds(4, |_| gpu.stream.launch(&entry, launch, &p))?;
            products.push((name, peak_operations(launch.grid[0], k) / us * 1e6));
        }

        let empty = || gpu.stream.launch(&EMPTY, launch, &EmptyParams { out });
        let empty_graph_us = gpu.microseconds(LAUNCHES, |_| empty())?;
        let all = gpu.elapsed(|| (0..LAUNCHES).try_for_each(|_| empty()))?;
        Ok(Self { read, products, empty_stream_us: all / LAUNCHES as f64, empty_graph_us })
    }

    /// Operations a second of a matrix instruction.
    pub fn product(&self, name: &str) -> Option<f64> {
        self.products.iter().find(|(n, _)| *n == name).map(|(_, rate)| *rate)
    }
    /// For the report.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["ceiling", "measured"]);
        table.row(vec!["reading memory".into(), format!("{:.0} GB/s", self.read / 1e9)]);
        for (name, rate) in &self.products {
            let rate = format!("{:.0} T/s", rate / 1e12);
            table.row(vec![format!("mma.sync {name}"), rate]);
        }
        for (name, us) in [("stream", self.empty_stream_us), ("graph", self.empty_graph_us)] {
            table.row(vec![format!("empty kernel in a {name}"), format!("{us:.2} µs")]);
        }
        table
    }
    /// For programs.
    pub fn json(&self) -> Value {
        let products: serde_json::Map<String, Value> =
            self.products.iter().map(|(name, rate)| ((*name).to_owned(), json!(rate))).collect();
        json!({
            "read_bytes_per_second": self.read,
            "mma_operations_per_second": products,
            "empty_stream_us": self.empty_stream_us,
            "empty_graph_us": self.empty_graph_us,
        })
    }
}

/// Operations of one launch of a peak: `16 · 8 · k` multiplications and as many additions a product.
fn peak_operations(ctas: u32, k: u32) -> f64 {
    let warps = ctas * (THREADS / 32);
    f64::from(warps) * f64::from(ROUNDS) * f64::from(PRODUCTS_PER_ROUND) * f64::from(2 * 16 * 8 * k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        assert_eq!(peak_operations(1, 16), 8.0 * 2000.0 * 8.0 * 4096.0);
    }
    #[test]
    fn ceilings_are_found_by_name() {
        let ceilings = Ceilings { products: vec![("f16", 6e14)], ..Ceilings::default() };
        assert_eq!((ceilings.product("f16"), ceilings.product("s8")), (Some(6e14), None));
        assert!(ceilings.table().to_string().contains("| mma.sync f16"));
        assert_eq!(ceilings.json()["mma_operations_per_second"]["f16"], 6e14);
    }
}
