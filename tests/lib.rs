//! What the whole-program tests share: reference data, the judge, the program under test.
//!
//! The references were computed by transformers in F32 and by llama.cpp; none by imp.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use host::engine::{Engine, EngineOptions, Event, LoadProgress, Request, RequestHandle};
use host::sampling::SamplingParams;
use serde_json::Value;

/// The folder of this crate: where it was built, or `IMP_TESTS` where the tests were carried to
/// another machine, such as one with a GPU.
fn folder() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("IMP_TESTS").map_or_else(built, PathBuf::from)
}

/// The dense families that there are checkpoints of, by their folders in `tests/data/tiny`.
pub const FAMILIES: [&str; 12] = [
    "llama",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "phi3_longrope",
    "smollm3",
    "granite",
    "olmo2",
];

/// A file or folder of `tests/data`.
pub fn data(path: &str) -> PathBuf {
    folder().join("data").join(path)
}

/// A JSON file of `tests/data`.
pub fn json(path: &str) -> Value {
    let path = data(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// SmolLM2-135M-Instruct, when `cargo xtask fetch-models` has fetched it; else says what is skipped.
pub fn smollm2(test: &str) -> Option<PathBuf> {
    let path = folder().join("../models/smollm2-135m-instruct-q4_1.gguf");
    if path.exists() {
        return Some(path);
    }
    skipped(test, &format!("no {}; run `cargo xtask fetch-models`", path.display()));
    None
}

/// Says that a test did not run.
pub fn skipped(test: &str, why: &str) {
    // Past the capture of the test runner, which hides what passing tests print.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}

/// The command line, built beside this test.
pub fn imp_cli() -> Command {
    built("imp-cli", "cli")
}

/// The server, built beside this test.
pub fn imp_server() -> Command {
    built("imp-server", "server")
}

/// The developer's tasks, built beside this test.
pub fn xtask() -> Command {
    built("xtask", "xtask")
}

/// A program under test, of a crate of this workspace.
fn built(program: &str, of_crate: &str) -> Command {
    let exe = std::env::current_exe().expect("a test has a path");
    let profile =
        exe.parent().and_then(Path::parent).expect("tests run from target/<profile>/deps");
    let path = profile.join(program);
    let missing =
        || format!("{} is missing: run `cargo build -p {of_crate}` first", path.display());
    assert!(path.exists(), "{}", missing());
    let mut command = Command::new(path);
    // A developer's own configuration must not change what is tested.
    for variable in ["IMP_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env_remove(variable);
    }
    command.env("HOME", env!("CARGO_MANIFEST_DIR")).current_dir(data(""));
    command
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// What was printed as one JSON value; panics unless the program succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {:?}", self.out))
    }
}

/// Runs the program with these arguments and nothing on its standard input.
pub fn run(args: &[&str]) -> Ran {
    Running::start(imp_cli().args(args), b"").end()
}

/// The program while it runs. A test that fails meanwhile leaves no process behind.
pub struct Running {
    child: Child,
    line: String,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

/// Longer than any run of a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

impl Running {
    /// Starts a command whose standard input is `input`, then ends.
    pub fn start(command: &mut Command, input: &[u8]) -> Self {
        let mut running = Self::open(command);
        running.out = running.child.stdout.take().map(collect);
        let mut stdin = running.child.stdin.take().expect("piped");
        let input = input.to_vec();
        // A program that ends without reading its input is not at fault.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        running
    }

    /// Starts a command whose standard input and output the test holds itself.
    pub fn open(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
        let err = child.stderr.take().map(collect);
        Self { child, line, out: None, err }
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill can be run");
        assert!(sent.success(), "no process {pid}");
    }

    /// Waits for the end; panics when it does not come.
    pub fn end(mut self) -> Ran {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "{} does not end", self.line);
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |stream: Option<JoinHandle<Vec<u8>>>, name: &str| {
            let bytes = stream.map(|s| s.join().expect("a pipe can be read")).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.line))
        };
        let (out, err) = (self.out.take(), self.err.take());
        let ran = Ran { code: status.code(), out: text(out, "stdout"), err: text(err, "stderr") };
        assert!(!ran.err.contains("panicked"), "{}: {}", self.line, ran.err);
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = vec![];
        stream.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

/// A directory that is removed at the end of the test.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one; `name` tells tests of a process apart.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("imp-tests-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path as an argument.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path.into_os_string().into_string().expect("a UTF-8 path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // left to the system when it fails
    }
}

struct Silent;

impl LoadProgress for Silent {
    fn tensor(&mut self, _: &str, _: u64, _: u64) {}
}

/// Opens a model on the CPU with two threads.
pub fn open(model: &Path, sets: &[&str]) -> Engine {
    open_on(model, sets, 0)
}

/// The same with the first `gpu_layers` layers on GPU 0.
pub fn open_on(model: &Path, sets: &[&str], gpu_layers: i32) -> Engine {
    open_for(model, sets, gpu_layers, 1)
}

/// The same for so many requests that are computed together.
pub fn open_for(model: &Path, sets: &[&str], gpu_layers: i32, streams: usize) -> Engine {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    let environment = config::Environment::default(); // no file is searched
    let config = config::Config::load_in(&environment, None, &sets).expect("valid settings").config;
    let options = EngineOptions {
        model: model.into(),
        config,
        // A GPU that was asked for and cannot be used is an error.
        device: (gpu_layers != 0).then_some(0),
        gpu_layers,
        threads: 2,
        max_seq_len: None,
        min_kv_tokens: None,
        chat_template: "none".into(),
        max_concurrent: streams,
        max_waiting: 63,
    };
    Engine::load(options, &mut Silent).unwrap_or_else(|e| panic!("{}: {e}", model.display()))
}

/// Logits after each position from `first` on.
pub fn logits(engine: &Engine, tokens: &[u32], first: usize) -> Vec<Vec<f32>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let visit = move |_: usize, row: &[f32]| sender.send(row.to_vec()).expect("the test waits");
    engine.evaluate(tokens.to_vec(), first, Box::new(visit)).expect("evaluation succeeds");
    receiver.iter().collect()
}

/// A token, its log-probability and the best ones of its step.
pub type Chosen = (u32, f32, Vec<(u32, f32)>);

/// A greedy request's tokens, each with its log-probability and the best `top`.
pub fn greedy(engine: &Engine, prompt: &[u32], max_tokens: usize, top: usize) -> Vec<Chosen> {
    all(submit(engine, prompt, max_tokens, Some(top)))
}

/// The same of several prompts at once, the chosen tokens alone.
pub fn greedy_together(engine: &Engine, prompts: &[Vec<u32>], max_tokens: usize) -> Vec<Vec<u32>> {
    // Without log-probabilities of others, so that a GPU chooses.
    let handles: Vec<_> =
        prompts.iter().map(|prompt| submit(engine, prompt, max_tokens, Some(0))).collect();
    handles.into_iter().map(|handle| all(handle).into_iter().map(|c| c.0).collect()).collect()
}

/// Prompts of different lengths, some of which begin alike, of tokens below 500.
pub fn prompts(count: usize) -> Vec<Vec<u32>> {
    let token = |i: usize, p: usize| ((p * p + 7 * p + (i % 5) * (p / 9)) % 499 + 1) as u32;
    (0..count).map(|i| (0..2 + i * 11 % 70).map(|p| token(i, p)).collect()).collect()
}

fn submit(engine: &Engine, prompt: &[u32], max_tokens: usize, top: Option<usize>) -> RequestHandle {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: vec![],
        logprobs: top,
        ignore_eos: false,
        ..Request::default()
    };
    engine.submit(request).expect("the queue has room")
}

/// Reads an answer to its end.
fn all(mut handle: RequestHandle) -> Vec<Chosen> {
    let mut tokens = vec![];
    loop {
        match handle.blocking_recv().expect("an answer ends with Done") {
            Event::Token { id, logprob, .. } => {
                let l = logprob.expect("asked for");
                tokens.push((id, l.logprob, l.top));
            }
            Event::Done { .. } => return tokens,
            Event::Failed(e) => panic!("{e}"),
            Event::Prefilled { .. } => {}
        }
    }
}

/// The index of the largest element, the first of equals.
pub fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&v| v == best).expect("logits are not empty") as u32
}

/// How far the best of a row is ahead of the second.
fn lead(row: &[f32]) -> f64 {
    let best = argmax(row) as usize;
    let others = row.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, v)| *v);
    f64::from(row[best] - others.fold(f32::NEG_INFINITY, f32::max))
}

/// How closely two sets of logits must agree, as a share of the reference's standard deviation.
///
/// Two exact references keep 5e-5 to 2e-2 with each other; 8-bit activations, llama.cpp's, move logits further.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// F32 activations.
    Exact,
    /// Against a reference with 8-bit activations.
    Quantized,
}

/// Compares a model's output on the prompts of a reference and panics with every difference.
pub fn judge(what: &str, engine: &Engine, reference: &Value, mode: Mode) {
    let share = match mode {
        Mode::Exact => 0.02,
        Mode::Quantized => 0.35,
    };
    let mut wrong = vec![];
    for (i, prompt) in reference.as_array().expect("a list of prompts").iter().enumerate() {
        for problem in compare(engine, prompt, share) {
            wrong.push(format!("{what}, prompt {i}: {problem}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(engine: &Engine, prompt: &Value, share: f64) -> Vec<String> {
    let ids: Vec<u32> = numbers(&prompt["ids"]).map(|n| n as u32).collect();
    let expected: Vec<f64> = numbers(&prompt["last_logits"]).collect();
    let tolerance = share * deviation(&expected);
    let mut wrong = vec![];
    let rows = logits(engine, &ids, 0);
    assert_eq!(rows.len(), ids.len(), "a row of logits for every position");
    let last = rows.last().expect("a prompt is not empty");
    assert_eq!(last.len(), expected.len(), "the vocabulary has the same size");
    let worst = last.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
    let worst = worst.fold(0.0, f64::max);
    // NaN is wrong too.
    if worst.is_nan() || worst > tolerance {
        wrong.push(format!("a logit is off by {worst:.4}, allowed {tolerance:.4}"));
    }
    let gaps: Vec<f64> = numbers(&prompt["argmax_gap_per_pos"]).collect();
    for (j, (row, want)) in rows.iter().zip(numbers(&prompt["argmax_per_pos"])).enumerate() {
        // A reference without gaps is judged by ours: within the tolerance they are the same.
        let gap = gaps.get(j).copied().unwrap_or_else(|| lead(row));
        if gap > 2.0 * tolerance && f64::from(argmax(row)) != want {
            wrong.push(format!("position {j} chooses {}, expected {want}", argmax(row)));
        }
    }
    let want: Vec<u32> = numbers(&prompt["greedy16"]).map(|n| n as u32).collect();
    let gaps: Vec<f64> = numbers(&prompt["greedy16_gap"]).collect();
    // The reference's tokens are forced, so that one allowed difference does not end the check.
    let forced: Vec<u32> = ids.iter().chain(&want[..want.len() - 1]).copied().collect();
    let rows = logits(engine, &forced, ids.len() - 1);
    assert_eq!(rows.len(), want.len(), "a row of logits for every greedy token");
    for (j, (row, want)) in rows.iter().zip(&want).enumerate() {
        if argmax(row) != *want && gaps[j] > 2.0 * tolerance {
            wrong.push(format!("greedy token {j} is {}, expected {want}", argmax(row)));
        }
    }
    // The same through the cache, as far as an answer goes: it may end before the reference does.
    for (j, ((got, ..), want)) in greedy(engine, &ids, want.len(), 0).iter().zip(&want).enumerate()
    {
        if got != want {
            if gaps[j] > 2.0 * tolerance {
                wrong.push(format!("token {j} of the answer is {got}, expected {want}"));
            }
            break; // after an allowed difference the texts are different ones
        }
    }
    wrong
}

fn numbers(list: &Value) -> impl Iterator<Item = f64> + '_ {
    list.as_array().into_iter().flatten().map(|v| v.as_f64().expect("a number"))
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt()
}
