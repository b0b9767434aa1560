//! `cargo xtask bench serve`: how `imp-server` serves, as its clients see it.
//!
//! It starts the server on a free port, asks it for completions of random token ids over sockets of
//! its own, and measures four things: the time from token to token while prompts arrive, what a known
//! prefix saves, what a token costs the processor beside the engine, and the time until a request is
//! computed. Everything is bounded in number and time, and nothing leaves the machine.

mod cpu;
mod http;
mod pace;
mod prefix;
mod schedule;
mod server;
mod stats;
mod streams;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use argh::FromArgs;
use host::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};

use self::server::{Memory, Server};
use super::bed::chain;
use super::random::{Random, fresh_seed};
use super::table::Table;
use super::{List, list, program, save};
use crate::{TaskError, synth};

/// Measure the server under load. Arguments after -- go to imp-server.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
pub struct Serve {
    /// the model, a GGUF file or a SafeTensors directory
    #[argh(option)]
    model: Option<PathBuf>,
    /// a model to be made of random weights and words where it is missing: shape:format
    #[argh(option)]
    synth: Option<String>,
    /// folder of the model of --synth (default: /tmp)
    #[argh(option, default = "\"/tmp\".into()")]
    dir: PathBuf,
    /// the program to measure (default: imp-server beside this one)
    #[argh(option)]
    server: Option<PathBuf>,
    /// one of pace, prefix, cpu, schedule; may be repeated (default: all)
    #[argh(option)]
    test: Vec<Test>,
    /// streams that run while prompts arrive (default: 32)
    #[argh(option, default = "32")]
    streams: usize,
    /// tokens of their prompts, and of those that arrive (default: 512)
    #[argh(option, default = "512")]
    prompt: usize,
    /// most tokens of a stream (default: 8192)
    #[argh(option, default = "8192")]
    tokens: usize,
    /// seconds without arrivals (default: 5)
    #[argh(option, default = "5.0")]
    quiet: f64,
    /// prompts that arrive (default: 40)
    #[argh(option, default = "40")]
    arrivals: usize,
    /// tokens that each of them is answered with (default: 16)
    #[argh(option, default = "16")]
    answer: usize,
    /// milliseconds from one arrival to the next (default: 250)
    #[argh(option, default = "250")]
    interval: u64,
    /// tokens of a prompt that is repeated (default: 4096)
    #[argh(option, default = "4096")]
    prefix: usize,
    /// prompts that are repeated (default: 5)
    #[argh(option, default = "5")]
    reps: usize,
    /// streams at once while processor time is measured (default: 1,64)
    #[argh(option, default = "List(vec![1, 64])", from_str_fn(list))]
    cpu_streams: List,
    /// tokens of each of them (default: 512)
    #[argh(option, default = "512")]
    cpu_tokens: usize,
    /// requests whose way to the engine is measured (default: 200)
    #[argh(option, default = "200")]
    requests: usize,
    /// seed of the prompts (default: another each time)
    #[argh(option)]
    seed: Option<u64>,
    /// folder for serve.md and serve.json
    #[argh(option)]
    out: Option<PathBuf>,
    /// arguments of imp-server
    #[argh(positional)]
    arguments: Vec<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Pace,
    Prefix,
    Cpu,
    Schedule,
}

impl Test {
    const ALL: [Self; 4] = [Self::Pace, Self::Prefix, Self::Cpu, Self::Schedule];

    fn name(self) -> &'static str {
        match self {
            Self::Pace => "pace",
            Self::Prefix => "prefix",
            Self::Cpu => "cpu",
            Self::Schedule => "schedule",
        }
    }

    /// Its report, and the same as JSON.
    fn measure(
        self,
        server: &Server,
        options: &Serve,
        prompts: &mut Prompts,
    ) -> Result<(String, Value), TaskError> {
        match self {
            Self::Pace => pace::measure(server, options, prompts),
            Self::Prefix => prefix::measure(server, options, prompts),
            Self::Cpu => cpu::measure(server, options, prompts),
            Self::Schedule => schedule::measure(server, options, prompts),
        }
    }
}

impl FromStr for Test {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|test| test.name() == name);
        found.ok_or_else(|| format!("{name} is not one of {known}"))
    }
}

/// Random token ids: no prompt begins like another.
pub struct Prompts {
    random: Random,
    vocab_size: usize,
}

impl Prompts {
    /// One of so many tokens.
    fn one(&mut self, tokens: usize) -> Vec<u32> {
        (0..tokens.max(1)).map(|_| self.random.below(self.vocab_size) as u32).collect()
    }
    /// Several of them.
    fn several(&mut self, prompts: usize, tokens: usize) -> Vec<Vec<u32>> {
        (0..prompts).map(|_| self.one(tokens)).collect()
    }
}

/// Runs the task.
///
/// # Errors
/// When there is no model or server, or a request fails.
pub fn run(options: &Serve) -> Result<(), TaskError> {
    let model = match (&options.model, &options.synth) {
        (Some(model), None) => model.clone(),
        (None, Some(model)) => synth::make(model, true, &options.dir)?,
        _ => return Err(TaskError::Other("bench serve: one of --model and --synth".into())),
    };
    let program = program(options.server.clone(), "imp-server", "--server", "server")?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    let mut prompts = Prompts { random: Random(seed), vocab_size: vocab_size(&model)? };
    let server = Server::start(&program, &model, &arguments(options))?;
    let before = server.memory()?;
    let command = command();
    let mut report = format!("{command}\n(seed {seed})\n");
    print!("{report}");
    let mut results = Map::new();
    let tests = if options.test.is_empty() { &Test::ALL[..] } else { &options.test };
    for &test in tests {
        eprintln!("xtask: {}", test.name());
        let (text, value) = test.measure(&server, options, &mut prompts)?;
        tell(&mut report, &format!("{}: {text}", test.name()));
        results.insert(test.name().into(), value);
    }
    let after = server.memory()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut table = Table::new(&["memory, MiB", "before", "after"]);
    for (name, before, after) in
        [("in all", before.all, after.all), ("without mapped files", before.own, after.own)]
    {
        table.row(vec![name.into(), format!("{:.1}", mib(before)), format!("{:.1}", mib(after))]);
    }
    tell(&mut report, &table.to_string());
    let value = |memory: Memory| json!({"all_bytes": memory.all, "own_bytes": memory.own});
    results.insert("memory".into(), json!({"before": value(before), "after": value(after)}));
    results.insert("command".into(), json!(command));
    results.insert("seed".into(), json!(seed));
    if let Some(folder) = &options.out {
        save(folder, "serve.md", &report)?;
        save(folder, "serve.json", &format!("{:#}\n", Value::Object(results)))?;
    }
    Ok(())
}

fn tell(report: &mut String, part: &str) {
    print!("\n{part}");
    let _ = write!(report, "\n{part}"); // a String takes everything
}

/// What was typed, for whoever wants to repeat it.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("xtask {}", arguments.join(" "))
}

/// The server's arguments, with room for all requests unless they say how much there is.
fn arguments(options: &Serve) -> Vec<String> {
    const FEWEST: usize = 64;
    const ARRIVING: usize = 32;
    let List(sizes) = &options.cpu_streams;
    let most = sizes.iter().copied().chain([FEWEST, options.streams + ARRIVING]).max();
    let mut arguments = options.arguments.clone();
    if !arguments.iter().any(|argument| argument == "--max-concurrent") {
        let most = most.unwrap_or(FEWEST).to_string();
        arguments.extend(["--max-concurrent".to_owned(), most]);
    }
    arguments
}

fn vocab_size(model: &Path) -> Result<usize, TaskError> {
    let other = |e: &dyn std::error::Error| TaskError::Other(chain(e));
    let checkpoint = Checkpoint::open(model).map_err(|e| other(&e))?;
    let described = host::models::describe(&checkpoint, &config::RopeOverride::default());
    described.map(|(_, spec)| spec.vocab_size).map_err(|e| other(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Serve {
        let words: Vec<&str> = line.split_whitespace().collect();
        Serve::from_args(&["serve"], &words).unwrap()
    }

    #[test]
    fn arguments_behind_dashes_are_the_servers() {
        let options =
            parsed("--model m --streams 100 -- --device 1 --set server.prefix_cache=false");
        let rest = "--device 1 --set server.prefix_cache=false --max-concurrent 132";
        assert_eq!(arguments(&options).join(" "), rest);
        let options = parsed("--model m -- --max-concurrent 8");
        assert_eq!(arguments(&options), ["--max-concurrent", "8"]);
    }

    #[test]
    fn tests_have_names() {
        assert_eq!(parsed("--test prefix --test cpu").test, [Test::Prefix, Test::Cpu]);
        assert!("peace".parse::<Test>().unwrap_err().contains("pace, prefix"));
    }

    #[test]
    fn prompts_differ() {
        let mut prompts = Prompts { random: Random(1), vocab_size: 100 };
        let several = prompts.several(2, 50);
        assert!(several[0] != several[1] && several.iter().flatten().all(|&id| id < 100));
    }
}
