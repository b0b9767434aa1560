//! `cargo xtask bench kernels`: each kernel at the shapes of real models, beside what the device can
//! do.
//!
//! A time is the median of a recording of many launches, in which kernels overlap as they do in a step.
//! Weights and keys are so many copies that none is in the second-level cache when it is read.

mod attention;
mod products;
mod rows;

use std::path::PathBuf;

use argh::FromArgs;
use cuda_std::{EntryInfo, Launch};
use host::cuda::CudaError;
use serde_json::{Value, json};

use super::bed::{Bed, BedError, Gpu, chain};
use super::ceilings::Ceilings;
use super::random::Random;
use super::save;
use super::table::Table;
use super::weights::Pools;
use crate::TaskError;

/// Measure kernels at the shapes of Qwen3 8B and 0.6B.
#[derive(FromArgs)]
#[argh(subcommand, name = "kernels")]
pub struct Kernels {
    /// a group (gemv, gemm, attention, rows), may be repeated (default: all)
    #[argh(option)]
    op: Vec<String>,
    /// a model (8b, 0.6b), may be repeated (default: all)
    #[argh(option)]
    model: Vec<String>,
    /// every weight format, not only the usual ones
    #[argh(switch)]
    all: bool,
    /// folder for kernels.md and kernels.json
    #[argh(option)]
    out: Option<PathBuf>,
    /// number of the GPU (default: 0)
    #[argh(option, default = "0")]
    gpu: usize,
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    name: &'static str,
    hidden: u32,
    inner: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocab: u32,
}

impl Model {
    const fn q(self) -> u32 {
        self.heads * self.head_dim
    }
    const fn kv(self) -> u32 {
        self.kv_heads * self.head_dim
    }
}

const MODELS: [Model; 2] = [
    Model {
        name: "8b",
        hidden: 4096,
        inner: 12_288,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 151_936,
    },
    Model {
        name: "0.6b",
        hidden: 1024,
        inner: 3072,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        vocab: 151_936,
    },
];

type Group = (&'static str, fn(&mut Measuring<'_>, Model) -> Result<(), BedError>);

const GROUPS: [Group; 4] = [
    ("gemv", products::few_rows),
    ("gemm", products::many_rows),
    ("attention", attention::measure),
    ("rows", rows::measure),
];

/// Runs the task.
///
/// # Errors
/// When there is no GPU, it fails, or a file cannot be written.
pub fn run(options: &Kernels) -> Result<(), TaskError> {
    known("--op", &options.op, &GROUPS.map(|(name, _)| name))?;
    known("--model", &options.model, &MODELS.map(|m| m.name))?;
    let bed = Bed::open(options.gpu, 0)?;
    let failed = |e: BedError| TaskError::Other(format!("after {}: {}", bed.last(), chain(&e)));
    let gpu = bed.gpu().expect("it was opened");
    let ceilings = Ceilings::measure(gpu).map_err(|e| failed(e.into()))?;
    bed.clear();
    let mut report = format!("{}\n", ceilings.table());
    print!("{report}");
    let wanted =
        |chosen: &[String], name: &str| chosen.is_empty() || chosen.iter().any(|c| c == name);
    let mut found = vec![];
    for model in MODELS.into_iter().filter(|m| wanted(&options.model, m.name)) {
        for (name, measure) in GROUPS.into_iter().filter(|(name, _)| wanted(&options.op, name)) {
            let mut measuring = Measuring {
                bed: &bed,
                gpu,
                random: Random(1),
                pools: Pools::default(),
                every_format: options.all,
                model: model.name,
                found: vec![],
            };
            measure(&mut measuring, model).map_err(failed)?;
            bed.clear();
            let part = format!(
                "### {name}, Qwen3 {}\n\n{}\n",
                model.name,
                table(&measuring.found, &ceilings)
            );
            print!("{part}");
            report += &part;
            found.extend(measuring.found);
        }
    }
    if let Some(folder) = &options.out {
        let device = &gpu.context.device().name;
        let rows: Vec<Value> = found.iter().map(|m| m.json(&ceilings)).collect();
        let object = json!({"device": device, "ceilings": ceilings.json(), "kernels": rows});
        save(folder, "kernels.md", &report)?;
        save(folder, "kernels.json", &format!("{object:#}\n"))?;
    }
    Ok(())
}

/// Refuses names that are not among the known.
fn known(flag: &str, chosen: &[String], known: &[&str]) -> Result<(), TaskError> {
    match chosen.iter().find(|c| !known.contains(&c.as_str())) {
        Some(name) => {
            Err(TaskError::Other(format!("{flag} {name}: not one of {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

/// A group being measured.
pub struct Measuring<'a> {
    bed: &'a Bed,
    gpu: &'a Gpu,
    random: Random,
    pools: Pools,
    every_format: bool,
    model: &'static str,
    found: Vec<Measured>,
}

/// What a launch does, for its rates.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    /// Bytes that it cannot but read and write.
    bytes: f64,
    /// Multiplications and additions on matrix instructions; 0 where it uses none.
    operations: f64,
}

/// A kernel at a shape.
#[derive(Clone, Debug)]
struct Measured {
    model: &'static str,
    shape: String,
    kernel: &'static str,
    us: f64,
    work: Work,
    registers: u32,
    local_bytes: u32,
    /// Warps that fit on a multiprocessor.
    warps: u32,
}

impl Measuring<'_> {
    /// Measures `count` launches, the `i`th queued by `queue(i)`.
    fn time(
        &mut self,
        shape: String,
        (entry, launch): (&EntryInfo, Launch),
        work: Work,
        count: usize,
        queue: impl FnMut(usize) -> Result<(), CudaError>,
    ) -> Result<(), BedError> {
        let us = self.gpu.microseconds(count, queue)?;
        let function = self.gpu.function(entry)?;
        let ctas = function.ctas_per_multiprocessor(launch.threads, launch.shared_bytes)?;
        self.found.push(Measured {
            model: self.model,
            shape,
            kernel: entry.name,
            us,
            work,
            registers: function.registers(),
            local_bytes: function.local_bytes(),
            warps: ctas * launch.threads.div_ceil(32),
        });
        Ok(())
    }

    /// Copies of something of `bytes` bytes that together are three times the second-level cache.
    fn copies(&self, bytes: usize) -> usize {
        1 + 3 * self.gpu.context.device().l2_bytes.max(1) / bytes.max(1)
    }
}

impl Measured {
    fn bytes_per_second(&self) -> f64 {
        self.work.bytes / self.us * 1e6
    }
    fn operations_per_second(&self) -> f64 {
        self.work.operations / self.us * 1e6
    }

    fn json(&self, ceilings: &Ceilings) -> Value {
        json!({
            "model": self.model,
            "shape": self.shape,
            "kernel": self.kernel,
            "us": self.us,
            "bytes_per_second": self.bytes_per_second(),
            "share_of_read": self.bytes_per_second() / ceilings.read,
            "operations_per_second": self.operations_per_second(),
            "share_of_f16":
                ceilings.product("f16").map(|peak| self.operations_per_second() / peak),
            "registers": self.registers,
            "local_bytes": self.local_bytes,
            "warps_per_multiprocessor": self.warps,
        })
    }
}

fn table(found: &[Measured], ceilings: &Ceilings) -> Table {
    let mut table = Table::new(&[
        "shape",
        "kernel",
        "µs",
        "GB/s",
        "of read",
        "TFLOP/s",
        "of mma",
        "registers",
        "warps/SM",
        "local B",
    ]);
    let share = |rate: f64, of: f64| format!("{:.0} %", 100.0 * rate / of);
    for m in found {
        let (bytes, operations) = (m.bytes_per_second(), m.operations_per_second());
        let [tera, of_mma] = match ceilings.product("f16") {
            Some(peak) if operations > 0.0 => {
                [format!("{:.1}", operations / 1e12), share(operations, peak)]
            }
            _ => ["-".into(), "-".into()],
        };
        table.row(vec![
            m.shape.clone(),
            m.kernel.into(),
            format!("{:.2}", m.us),
            format!("{:.0}", bytes / 1e9),
            share(bytes, ceilings.read),
            tera,
            of_mma,
            m.registers.to_string(),
            m.warps.to_string(),
            m.local_bytes.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        Measured {
            model: "8b",
            shape: "down m=1".into(),
            kernel: "gemv_q8_0_m1",
            us: 20.0,
            work: Work { bytes: 53.5e6, operations: 0.0 },
            registers: 80,
            local_bytes: 0,
            warps: 24,
        }
    }

    #[test]
    fn shares_are_of_measured_ceilings() {
        let ceilings =
            Ceilings { read: 3e12, products: vec![("f16", 6e14)], ..Ceilings::default() };
        let table = table(&[measured()], &ceilings).to_string();
        let row: Vec<&str> = table.lines().last().unwrap().split('|').map(str::trim).collect();
        let expected =
            ["down m=1", "gemv_q8_0_m1", "20.00", "2675", "89 %", "-", "-", "80", "24", "0"];
        assert_eq!(row[1..11], expected);
        let json = measured().json(&ceilings);
        assert!((json["share_of_read"].as_f64().unwrap() - 0.8917).abs() < 1e-3);
    }
    #[test]
    fn unknown_names_are_refused() {
        assert!(known("--op", &["gemv".into()], &["gemv"]).is_ok());
        let e = known("--op", &["conv".into()], &["gemv", "gemm"]).unwrap_err().to_string();
        assert_eq!(e, "--op conv: not one of gemv, gemm");
    }
}
