//! `cargo xtask bench models`: whole models from end to end, beside llama.cpp on the same file.
//!
//! Speeds are those that `imp-cli --bench` and `llama-bench` print, run in turn. Decoding is compared
//! with the time that reading the weights takes, prefill with the matrix instructions. All use the first
//! GPU: `CUDA_VISIBLE_DEVICES` says which that is.

mod batched;
mod imp;
mod peer;
mod weight;

use std::path::{Path, PathBuf};

use argh::FromArgs;
use serde_json::{Value, json};

use self::imp::Imp;
use self::weight::ModelWeight;
use super::bed::Bed;
use super::ceilings::Ceilings;
use super::plot::{Bar, Group, plot};
use super::table::Table;
use super::{List, list, save};
use crate::{TaskError, synth};

/// Measure whole models, beside llama.cpp if it is there.
#[derive(FromArgs)]
#[argh(subcommand, name = "models")]
pub struct Models {
    /// GGUF file, may be repeated
    #[argh(option)]
    model: Vec<PathBuf>,
    /// models to be made of random weights where they are missing: shape:format,…
    #[argh(option)]
    synth: Option<String>,
    /// folder of the models of --synth (default: /tmp)
    #[argh(option, default = "\"/tmp\".into()")]
    dir: PathBuf,
    /// the program to measure (default: imp-cli beside this one)
    #[argh(option)]
    imp: Option<PathBuf>,
    /// llama-bench to compare with
    #[argh(option)]
    llama_bench: Option<PathBuf>,
    /// llama-batched-bench to compare with; measures several sequences at once
    #[argh(option)]
    llama_batched_bench: Option<PathBuf>,
    /// prompt lengths (default: 512,2048)
    #[argh(option, default = "List(vec![512, 2048])", from_str_fn(list))]
    pp: List,
    /// tokens to generate (default: 128)
    #[argh(option, default = "128")]
    tg: usize,
    /// sequences at once, where --llama-batched-bench is given (default: 1,8,32)
    #[argh(option, default = "List(vec![1, 8, 32])", from_str_fn(list))]
    batches: List,
    /// repetitions of each program in a round (default: 3)
    #[argh(option, default = "3")]
    reps: usize,
    /// rounds in which the programs take turns (default: 2)
    #[argh(option, default = "2")]
    rounds: usize,
    /// folder for models.md, models.json and models.svg
    #[argh(option)]
    out: Option<PathBuf>,
}

/// A test: tokens of a prompt, or tokens generated from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prompt(usize),
    Generate(usize),
}

impl Phase {
    /// As the programs call it.
    fn name(self) -> String {
        match self {
            Phase::Prompt(n) => format!("pp{n}"),
            Phase::Generate(n) => format!("tg{n}"),
        }
    }
    /// Of what both programs print.
    fn of(prompt: u64, generate: u64) -> Option<Self> {
        match (prompt as usize, generate as usize) {
            (n, 0) if n > 0 => Some(Phase::Prompt(n)),
            (0, n) if n > 0 => Some(Phase::Generate(n)),
            _ => None,
        }
    }
}

/// Tokens a second of a phase.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    phase: Phase,
    mean: f64,
    deviation: f64,
}

/// The rates in an array of objects of llama-bench's form, which `imp-cli` also prints.
fn rates(results: &Value) -> Option<Vec<Rate>> {
    let rate = |row: &Value| {
        Some(Rate {
            phase: Phase::of(row["n_prompt"].as_u64()?, row["n_gen"].as_u64()?)?,
            mean: row["avg_ts"].as_f64()?,
            deviation: row["stddev_ts"].as_f64()?,
        })
    };
    results.as_array()?.iter().map(rate).collect()
}

/// The mean of a phase over rounds, and the greatest deviation within one.
fn over_rounds(rounds: &[Vec<Rate>], phase: Phase) -> Option<Rate> {
    let of_phase: Vec<&Rate> = rounds.iter().flatten().filter(|r| r.phase == phase).collect();
    let mean = of_phase.iter().map(|r| r.mean).sum::<f64>() / of_phase.len() as f64;
    let deviation = of_phase.iter().map(|r| r.deviation).fold(0.0, f64::max);
    (!of_phase.is_empty()).then_some(Rate { phase, mean, deviation })
}

/// What was found of a model in one phase.
#[derive(Clone, Debug)]
struct Found {
    model: String,
    phase: Phase,
    imp: Rate,
    peer: Option<Rate>,
    /// Share of what the device can do, from 0 to 1.
    share: f64,
}

impl Found {
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.imp.mean / peer.mean)
    }
    fn json(&self) -> Value {
        json!({
            "model": self.model,
            "test": self.phase.name(),
            "imp_ts": self.imp.mean,
            "imp_stddev_ts": self.imp.deviation,
            "llama_ts": self.peer.map(|p| p.mean),
            "llama_stddev_ts": self.peer.map(|p| p.deviation),
            "ratio": self.ratio(),
            "share_of_ceiling": self.share,
        })
    }
}

/// Runs the task.
///
/// # Errors
/// When there is no GPU or no model, a program fails, or prints something else.
pub fn run(options: &Models) -> Result<(), TaskError> {
    let ceilings = {
        // Given back before other programs use the device.
        let bed = Bed::open(0, 0)?;
        let measured = Ceilings::measure(bed.gpu().expect("it was opened"));
        measured.map_err(|e| TaskError::Other(super::bed::chain(&e)))?
    };
    let mut models = options.model.clone();
    models.extend(made(options)?);
    if models.is_empty() {
        return Err(TaskError::Other("bench models: --model or --synth is needed".into()));
    }
    let imp = Imp::new(options.imp.clone())?;
    let mut report = format!("{}\n", ceilings.table());
    print!("{report}");
    let (mut found, mut starts, mut batches) = (vec![], vec![], vec![]);
    for model in &models {
        let name = model.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        found.extend(speeds(options, &imp, model, &name, &ceilings)?);
        starts.push((name.clone(), imp.first_token(model)?));
        if let Some(program) = &options.llama_batched_bench {
            let List(sizes) = &options.batches;
            batches.extend(batched::measure(program, model, &name, sizes)?);
        }
    }
    for part in [table(&found), start_table(&starts), batched::table(&batches)] {
        if !part.is_empty() {
            let part = format!("{part}\n");
            print!("{part}");
            report += &part;
        }
    }
    if let Some(folder) = &options.out {
        let object = json!({
            "ceilings": ceilings.json(),
            "results": found.iter().map(Found::json).collect::<Vec<_>>(),
            "first_token_seconds": starts
                .iter()
                .map(|(model, s)| (model.clone(), json!(s)))
                .collect::<serde_json::Map<_, _>>(),
            "batched": batches.iter().map(batched::Batch::json).collect::<Vec<_>>(),
        });
        save(folder, "models.md", &report)?;
        save(folder, "models.json", &format!("{object:#}\n"))?;
        save(folder, "models.svg", &plot("Tokens a second over llama.cpp's", &groups(&found)))?;
    }
    Ok(())
}

/// The models of `--synth`, made where they are missing.
fn made(options: &Models) -> Result<Vec<PathBuf>, TaskError> {
    let Some(list) = &options.synth else { return Ok(vec![]) };
    list.split(',').map(|item| synth::make(item.trim(), false, &options.dir)).collect()
}

/// All phases of a model, the programs in turn.
fn speeds(
    options: &Models,
    imp: &Imp,
    model: &Path,
    name: &str,
    ceilings: &Ceilings,
) -> Result<Vec<Found>, TaskError> {
    let List(prompts) = &options.pp;
    let weight = ModelWeight::of(model)?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 1..=options.rounds.max(1) {
        eprintln!("xtask: {name}, round {round}: imp");
        ours.push(imp.bench(model, prompts, options.tg, options.reps)?);
        if let Some(program) = &options.llama_bench {
            eprintln!("xtask: {name}, round {round}: llama-bench");
            theirs.push(peer::bench(program, model, prompts, options.tg, options.reps)?);
        }
    }
    let phases = prompts.iter().map(|n| Phase::Prompt(*n)).chain([Phase::Generate(options.tg)]);
    let mut found = vec![];
    for phase in phases.filter(|p| !matches!(p, Phase::Prompt(0) | Phase::Generate(0))) {
        let missing = || TaskError::Other(format!("{name}: imp printed no {}", phase.name()));
        let imp = over_rounds(&ours, phase).ok_or_else(missing)?;
        let share = match phase {
            Phase::Generate(_) => imp.mean * weight.read_bytes as f64 / ceilings.read,
            Phase::Prompt(_) => {
                let peak = ceilings.product("f16").unwrap_or(f64::INFINITY);
                imp.mean * 2.0 * weight.layer_weights as f64 / peak
            }
        };
        let peer = over_rounds(&theirs, phase);
        found.push(Found { model: name.to_owned(), phase, imp, peer, share });
    }
    Ok(found)
}

fn table(found: &[Found]) -> Table {
    let mut table =
        Table::new(&["model", "test", "imp t/s", "llama.cpp t/s", "ratio", "of ceiling"]);
    let rate = |r: &Rate| format!("{:.1} ± {:.1}", r.mean, r.deviation);
    for f in found {
        table.row(vec![
            f.model.clone(),
            f.phase.name(),
            rate(&f.imp),
            f.peer.as_ref().map_or("-".into(), rate),
            f.ratio().map_or("-".into(), |r| format!("{r:.2}")),
            format!("{:.0} %", 100.0 * f.share),
        ]);
    }
    table
}

fn start_table(starts: &[(String, f64)]) -> Table {
    let mut table = Table::new(&["model", "start to first token"]);
    for (model, seconds) in starts {
        table.row(vec![model.clone(), format!("{seconds:.2} s")]);
    }
    table
}

/// Bars of each model and phase: a phase has its own scale, so they are multiples of llama.cpp.
fn groups(found: &[Found]) -> Vec<Group> {
    let group = |f: &Found| {
        let (unit, peer) = match f.peer {
            Some(peer) => (peer.mean, Some(Bar { value: 1.0, label: format!("{:.0}", peer.mean) })),
            None => (f.imp.mean, None),
        };
        let imp = Bar { value: f.imp.mean / unit, label: format!("{:.0}", f.imp.mean) };
        Group { name: format!("{} {}", f.model, f.phase.name()), imp, peer }
    };
    found.iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_BENCH: &str = r#"[
        {"model_filename": "m.gguf", "n_prompt": 512, "n_gen": 0, "avg_ts": 9000.5, "stddev_ts": 12.0},
        {"model_filename": "m.gguf", "n_prompt": 0, "n_gen": 128, "avg_ts": 180.25, "stddev_ts": 0.5}
    ]"#;

    #[test]
    fn rates_are_read_from_what_llama_bench_prints() {
        let rates = rates(&serde_json::from_str(LLAMA_BENCH).unwrap()).unwrap();
        let pp = Rate { phase: Phase::Prompt(512), mean: 9000.5, deviation: 12.0 };
        let tg = Rate { phase: Phase::Generate(128), mean: 180.25, deviation: 0.5 };
        assert_eq!(rates, [pp, tg]);
        for bad in ["{}", r#"[{"n_prompt": 1}]"#, r#"[{"n_prompt": 1, "n_gen": 1}]"#] {
            assert!(super::rates(&serde_json::from_str(bad).unwrap()).is_none(), "{bad}");
        }
    }
    #[test]
    fn rounds_are_averaged() {
        let rate = |mean| Rate { phase: Phase::Generate(8), mean, deviation: mean / 10.0 };
        let found = over_rounds(&[vec![rate(10.0)], vec![rate(30.0)]], Phase::Generate(8)).unwrap();
        assert_eq!((found.mean, found.deviation), (20.0, 3.0));
        assert!(over_rounds(&[vec![rate(10.0)]], Phase::Prompt(8)).is_none());
    }
    #[test]
    fn ratios_are_in_table_json_and_plot() {
        let rate = |mean| Rate { phase: Phase::Generate(128), mean, deviation: 1.0 };
        let found = Found {
            model: "m".into(),
            phase: Phase::Generate(128),
            imp: rate(260.0),
            peer: Some(rate(200.0)),
            share: 0.83,
        };
        assert!(table(std::slice::from_ref(&found)).to_string().contains(" 1.30 |"));
        assert_eq!(found.json()["ratio"], 1.3);
        let groups = groups(&[Found { peer: None, ..found.clone() }, found]);
        assert!(groups[0].peer.is_none() && groups[1].imp.value == 1.3);
    }
}
