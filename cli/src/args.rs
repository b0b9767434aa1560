//! The command line: every flag, what it needs, and which of them this build refuses.
//!
//! [`parse`] turns the arguments into [`Args`]; [`Args::mode`] finds what was asked for. Values
//! that the user did not give stay `None`, so that a flag without effect can be pointed out
//! instead of being ignored.

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};

use crate::error::CliError;
use crate::nearest::nearest;

/// Runs large language models on this machine.
#[derive(Clone, Debug, Default, FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Model text goes to stdout, everything else to stderr. Named flags win over --set,\n\
            --set over the configuration file.",
    example = "{command_name} --model model.gguf --prompt \"Hello, world!\"\n\
               {command_name} --model model.gguf --interactive\n\
               {command_name} --model model.gguf --bench --bench-pp 512 --max-tokens 128 --bench-reps 5",
    error_code(0, "success"),
    error_code(1, "bad argument"),
    error_code(2, "out of memory"),
    error_code(3, "CUDA error"),
    error_code(4, "file not found"),
    error_code(5, "bad model"),
    error_code(6, "not supported"),
    error_code(7, "internal error"),
    error_code(8, "cancelled")
)]
pub(crate) struct Args {
    // Model
    /// GGUF file or SafeTensors directory
    #[argh(option, arg_name = "path")]
    pub(crate) model: Option<PathBuf>,
    /// vision encoder GGUF for multimodal models
    #[argh(option, arg_name = "path")]
    pub(crate) mmproj: Option<PathBuf>,
    /// input image (requires --mmproj)
    #[argh(option, arg_name = "path")]
    pub(crate) image: Option<PathBuf>,
    /// CUDA device (default: 0)
    #[argh(option, arg_name = "n")]
    pub(crate) device: Option<u32>,
    /// layers on the GPU, -1 = all (default: -1)
    #[argh(option, arg_name = "n")]
    pub(crate) gpu_layers: Option<i32>,
    /// CPU threads, 0 = all cores (default: runtime.num_cpu_threads)
    #[argh(option, arg_name = "n")]
    pub(crate) threads: Option<usize>,
    /// path of imp.conf, instead of the search path
    #[argh(option, arg_name = "path")]
    pub(crate) config: Option<PathBuf>,
    /// override one setting, section.key=value (repeatable)
    #[argh(option, arg_name = "section.key=value")]
    pub(crate) set: Vec<String>,

    // Generation
    /// prompt text
    #[argh(option, arg_name = "text")]
    pub(crate) prompt: Option<String>,
    /// read the prompt from a UTF-8 file, - for stdin
    #[argh(option, arg_name = "path")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// the prompt as comma-separated token ids, taken as they are
    #[argh(option, arg_name = "ids")]
    pub(crate) prompt_tokens: Option<String>,
    /// most tokens to generate (default: 256; with --bench 128)
    #[argh(option, arg_name = "n")]
    pub(crate) max_tokens: Option<usize>,
    /// KV context ceiling in tokens (default: auto; with --perplexity and --kl-divergence the
    /// chunk length, 512)
    #[argh(option, arg_name = "n")]
    pub(crate) max_seq_len: Option<usize>,
    /// tokens the KV cache must hold at least (default: auto)
    #[argh(option, arg_name = "n")]
    pub(crate) min_kv_tokens: Option<usize>,
    /// chat on the terminal, or one turn a line from a pipe
    #[argh(switch)]
    pub(crate) interactive: bool,
    /// stop sequence (repeatable, up to 4)
    #[argh(option, arg_name = "str")]
    pub(crate) stop: Vec<String>,
    /// auto|none|chatml|llama2|llama3|nemotron|gemma|deepseek_r1|phi (default: auto); none takes
    /// the prompt as it is, control tokens spelled in it included
    #[argh(option, arg_name = "t")]
    pub(crate) chat_template: Option<String>,
    /// print one JSON object instead of text
    #[argh(switch)]
    pub(crate) json: bool,
    /// with --json: report the n best tokens of each step, 0 = the chosen one alone
    #[argh(option, arg_name = "n")]
    pub(crate) logprobs: Option<usize>,

    // Sampling
    /// 0 = greedy (default: 0.7)
    #[argh(option, arg_name = "f")]
    pub(crate) temperature: Option<f32>,
    /// nucleus sampling, 1 = disabled (default: 0.9)
    #[argh(option, arg_name = "f")]
    pub(crate) top_p: Option<f32>,
    /// keep the n best tokens, 0 = disabled (default: 40)
    #[argh(option, arg_name = "n")]
    pub(crate) top_k: Option<u32>,
    /// least share of the best probability, 0 = disabled (default: 0.0)
    #[argh(option, arg_name = "f")]
    pub(crate) min_p: Option<f32>,
    /// locally typical sampling, 1 = disabled (default: 1.0)
    #[argh(option, arg_name = "f")]
    pub(crate) typical_p: Option<f32>,
    /// multiplicative penalty of seen tokens, 1 = disabled (default: 1.0)
    #[argh(option, arg_name = "f")]
    pub(crate) repeat_penalty: Option<f32>,
    /// window of the penalties, 0 = all tokens (default: 0)
    #[argh(option, arg_name = "n")]
    pub(crate) repeat_last_n: Option<u32>,
    /// additive penalty a time seen (default: 0.0)
    #[argh(option, arg_name = "f")]
    pub(crate) frequency_penalty: Option<f32>,
    /// additive penalty once seen (default: 0.0)
    #[argh(option, arg_name = "f")]
    pub(crate) presence_penalty: Option<f32>,
    /// -1 = random (default: -1)
    #[argh(option, arg_name = "n", from_str_fn(parse_seed))]
    pub(crate) seed: Option<Seed>,
    /// DRY penalty scale, 0 = disabled (default: 0.0)
    #[argh(option, arg_name = "f")]
    pub(crate) dry_multiplier: Option<f32>,
    /// DRY exponential base (default: 1.75)
    #[argh(option, arg_name = "f")]
    pub(crate) dry_base: Option<f32>,
    /// longest repeat that DRY leaves alone (default: 2)
    #[argh(option, arg_name = "n")]
    pub(crate) dry_allowed_length: Option<u32>,
    /// window of DRY, 0 = all (default: 0)
    #[argh(option, arg_name = "n")]
    pub(crate) dry_penalty_last_n: Option<u32>,
    /// 0 = off, 2 = Mirostat v2 (default: 0)
    #[argh(option, arg_name = "n")]
    pub(crate) mirostat: Option<u32>,

    // Performance
    /// FP8 E4M3 KV cache
    #[argh(switch)]
    pub(crate) kv_fp8: bool,
    /// INT8 KV cache
    #[argh(switch)]
    pub(crate) kv_int8: bool,
    /// INT4 KV cache
    #[argh(switch)]
    pub(crate) kv_int4: bool,
    /// NVFP4 KV cache
    #[argh(switch)]
    pub(crate) kv_nvfp4: bool,
    /// PolarQuant + QJL KV cache
    #[argh(switch)]
    pub(crate) kv_turboquant: bool,
    /// FP16 KV cache (the default)
    #[argh(switch)]
    pub(crate) kv_fp16: bool,
    /// FP8 weight cache for prefill
    #[argh(switch)]
    pub(crate) prefill_fp8: bool,
    /// most tokens in a prefill chunk, 0 = the whole prompt, -1 = chosen by device (default:
    /// runtime.prefill_chunk_size)
    #[argh(option, arg_name = "n")]
    pub(crate) prefill_chunk_size: Option<i32>,
    /// NVFP4 decode cache
    #[argh(switch)]
    pub(crate) decode_nvfp4: bool,
    /// NVFP4 decode cache alone
    #[argh(switch)]
    pub(crate) decode_nvfp4_only: bool,
    /// disable NVFP4 auto-detection
    #[argh(switch)]
    pub(crate) no_nvfp4: bool,
    /// FP16 SSM state
    #[argh(switch)]
    pub(crate) ssm_fp16: bool,
    /// disable CUDA graphs
    #[argh(switch)]
    pub(crate) no_cuda_graphs: bool,
    /// MXFP4 GEMM for prefill
    #[argh(switch)]
    pub(crate) mxfp4_prefill: bool,

    // Measuring
    /// synthetic benchmark: warm-up and timed repetitions
    #[argh(switch)]
    pub(crate) bench: bool,
    /// prompt tokens of --bench, 0 = none (default: 512)
    #[argh(option, arg_name = "n")]
    pub(crate) bench_pp: Option<usize>,
    /// repetitions of --bench (default: 3)
    #[argh(option, arg_name = "n")]
    pub(crate) bench_reps: Option<usize>,
    /// perplexity of a text file
    #[argh(option, arg_name = "path")]
    pub(crate) perplexity: Option<PathBuf>,
    /// divergence of the configured mode from exact mode on a text file
    #[argh(option, arg_name = "path")]
    pub(crate) kl_divergence: Option<PathBuf>,

    // Reports
    /// show what the model file holds, without loading its weights
    #[argh(switch)]
    pub(crate) inspect: bool,
    /// print the memory plan; alone: print it and end
    #[argh(switch)]
    pub(crate) mem_report: bool,
    /// list the devices that can compute
    #[argh(switch)]
    pub(crate) list_devices: bool,
    /// print the version
    #[argh(switch)]
    pub(crate) version: bool,
}

/// `--seed`: `None` draws a random one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) Option<u64>);

/// Reads a seed: −1 is random, anything else a number of 64 bits.
pub(crate) fn parse_seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    text.parse()
        .map(|seed| Seed(Some(seed)))
        .map_err(|_| format!("expected -1 (random) or a number from 0 to {}", u64::MAX))
}

/// Where a single prompt comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PromptSource {
    /// `--prompt`.
    Text(String),
    /// `--prompt-file`.
    File(PathBuf),
    /// `--prompt-tokens`.
    Tokens(Vec<u32>),
}

/// What the program was asked to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Answer one prompt.
    Prompt(PromptSource),
    /// Chat.
    Interactive,
    /// Measure speed.
    Bench,
    /// Measure perplexity on a file.
    Perplexity(PathBuf),
    /// Compare the configured mode with exact mode on a file.
    KlDivergence(PathBuf),
    /// Show a checkpoint.
    Inspect,
    /// Load, print the memory plan and end.
    MemReport,
    /// List devices.
    ListDevices,
    /// Print the version.
    Version,
}

impl Mode {
    /// The flag that chose it.
    fn flag(&self) -> &'static str {
        match self {
            Mode::Prompt(PromptSource::Text(_)) => "--prompt",
            Mode::Prompt(PromptSource::File(_)) => "--prompt-file",
            Mode::Prompt(PromptSource::Tokens(_)) => "--prompt-tokens",
            Mode::Interactive => "--interactive",
            Mode::Bench => "--bench",
            Mode::Perplexity(_) => "--perplexity",
            Mode::KlDivergence(_) => "--kl-divergence",
            Mode::Inspect => "--inspect",
            Mode::MemReport => "--mem-report",
            Mode::ListDevices => "--list-devices",
            Mode::Version => "--version",
        }
    }
}

/// What [`parse`] found.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Arguments to act on.
    Args(Box<Args>),
    /// `--help`: this text goes to stdout.
    Help(String),
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// `BadArgument` naming the flag, with the nearest known one.
pub(crate) fn parse(name: &str, arguments: &[String]) -> Result<Parsed, CliError> {
    let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match Args::from_args(&[name], &borrowed) {
        Ok(args) => Ok(Parsed::Args(Box::new(args))),
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Parsed::Help(output)),
        Err(EarlyExit { output, status: Err(()) }) => {
            Err(CliError::BadArgument(explain(output.trim(), &help(name))))
        }
    }
}

fn help(name: &str) -> String {
    Args::from_args(&[name], &["--help"]).err().map(|exit| exit.output).unwrap_or_default()
}

/// Adds to argh's message what it leaves out: the nearest flag, or how values are given.
fn explain(message: &str, help: &str) -> String {
    let Some(given) = message.strip_prefix("Unrecognized argument: ") else {
        return one_line(message);
    };
    let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
    let name = given.split('=').next().unwrap_or(given);
    match nearest(name, flags.map(|flag| flag.trim_matches(['[', ']']))) {
        Some(flag) if flag == name => format!(
            "unknown argument {given}: a value follows its flag after a space, {flag} {}",
            &given[name.len() + 1..]
        ),
        Some(flag) => format!("unknown argument {given}; did you mean {flag}?"),
        None if given.starts_with('-') => format!("unknown argument {given}; see --help"),
        None => format!("unexpected argument {given:?}: the prompt is given with --prompt"),
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Most stop sequences a request may have.
pub(crate) const MAX_STOPS: usize = 4;

impl Args {
    /// What was asked for.
    ///
    /// # Errors
    /// `BadArgument` for none or more than one task, and for what the task lacks.
    pub(crate) fn mode(&self) -> Result<Mode, CliError> {
        let mut modes: Vec<Mode> = Vec::new();
        if let Some(text) = &self.prompt {
            modes.push(Mode::Prompt(PromptSource::Text(text.clone())));
        }
        if let Some(path) = &self.prompt_file {
            modes.push(Mode::Prompt(PromptSource::File(path.clone())));
        }
        if let Some(ids) = &self.prompt_tokens {
            modes.push(Mode::Prompt(PromptSource::Tokens(parse_tokens(ids)?)));
        }
        if let Some(path) = &self.perplexity {
            modes.push(Mode::Perplexity(path.clone()));
        }
        if let Some(path) = &self.kl_divergence {
            modes.push(Mode::KlDivergence(path.clone()));
        }
        let switches = [
            (self.interactive, Mode::Interactive),
            (self.bench, Mode::Bench),
            (self.inspect, Mode::Inspect),
            (self.list_devices, Mode::ListDevices),
            (self.version, Mode::Version),
        ];
        modes.extend(switches.into_iter().filter_map(|(given, mode)| given.then_some(mode)));
        if modes.is_empty() && self.mem_report {
            modes.push(Mode::MemReport);
        }
        let mode = match modes.as_slice() {
            [mode] => mode.clone(),
            [] => {
                return bad("nothing to do: give --prompt, --interactive, --bench, --perplexity, \
                            --kl-divergence, --inspect or another task (see --help)");
            }
            [a, b, ..] => return bad(format!("{} and {} exclude each other", a.flag(), b.flag())),
        };
        self.check(&mode)?;
        Ok(mode)
    }

    fn check(&self, mode: &Mode) -> Result<(), CliError> {
        if self.model.is_none() && !matches!(mode, Mode::ListDevices | Mode::Version) {
            return bad(format!("{} needs --model <path>", mode.flag()));
        }
        if self.stop.len() > MAX_STOPS {
            return bad(format!("--stop was given {} times; the limit is {MAX_STOPS}", self.stop.len()));
        }
        if self.stop.iter().any(String::is_empty) {
            return bad("--stop: an empty string would end every answer at once");
        }
        if self.logprobs.is_some() && !self.json {
            return bad("--logprobs is reported in the JSON object: add --json");
        }
        if self.json && matches!(mode, Mode::Interactive | Mode::MemReport | Mode::Version) {
            return bad(format!("--json does not go with {}", mode.flag()));
        }
        if self.gpu_layers.is_some_and(|layers| layers < -1) {
            return bad("--gpu-layers: expected a number of layers, or -1 for all");
        }
        Ok(())
    }

    /// The `--set` arguments, then those that named flags stand for.
    pub(crate) fn sets(&self) -> Vec<String> {
        let mut sets = self.set.clone();
        if self.kv_fp16 {
            sets.push("kv_cache.dtype=fp16".to_owned());
        }
        if self.no_cuda_graphs {
            sets.push("runtime.cuda_graphs=never".to_owned());
        }
        if let Some(tokens) = self.prefill_chunk_size {
            sets.push(format!("runtime.prefill_chunk_size={tokens}"));
        }
        sets
    }

    /// Refuses what this build cannot do, by name.
    ///
    /// # Errors
    /// `Unsupported` with the flag and the reason.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), CliError> {
        const KV: &str = "the CPU backend keeps its KV cache in FP16 (or F32 with \
                          --set runtime.exact=true)";
        const WEIGHTS: &str = "it needs the CUDA backend; the CPU computes on the weights as the \
                               file stores them";
        const VISION: &str = "this build has no vision encoder";
        let refused = [
            (self.kv_fp8, "--kv-fp8", KV),
            (self.kv_int8, "--kv-int8", KV),
            (self.kv_int4, "--kv-int4", KV),
            (self.kv_nvfp4, "--kv-nvfp4", KV),
            (self.kv_turboquant, "--kv-turboquant", KV),
            (self.prefill_fp8, "--prefill-fp8", WEIGHTS),
            (self.decode_nvfp4, "--decode-nvfp4", WEIGHTS),
            (self.decode_nvfp4_only, "--decode-nvfp4-only", WEIGHTS),
            (self.mxfp4_prefill, "--mxfp4-prefill", WEIGHTS),
            (self.ssm_fp16, "--ssm-fp16", "this build has no state-space models"),
            (self.mmproj.is_some(), "--mmproj", VISION),
            (self.image.is_some(), "--image", VISION),
        ];
        match refused.iter().find(|(given, ..)| *given) {
            Some((_, flag, reason)) => {
                Err(CliError::Unsupported(format!("{flag} is not supported yet: {reason}")))
            }
            None => Ok(()),
        }
    }

    /// Lines for the user about flags that change nothing here.
    pub(crate) fn notes(&self, mode: &Mode) -> Vec<String> {
        let mut notes = Vec::new();
        if self.no_cuda_graphs {
            notes.push("--no-cuda-graphs changes nothing: the CPU backend has none".to_owned());
        }
        if self.no_nvfp4 {
            notes.push("--no-nvfp4 changes nothing: weights are used as the file stores them".to_owned());
        }
        let idle = self.scopes().into_iter().filter(|(_, given, scope)| *given && !scope(mode));
        notes.extend(idle.map(|(flag, ..)| format!("{flag} has no effect with {}", mode.flag())));
        notes
    }

    /// Flags, whether they were given, and the tasks they belong to.
    fn scopes(&self) -> Vec<(&'static str, bool, fn(&Mode) -> bool)> {
        let text: fn(&Mode) -> bool = |mode| matches!(mode, Mode::Prompt(_) | Mode::Interactive);
        let bench: fn(&Mode) -> bool = |mode| matches!(mode, Mode::Bench);
        let length: fn(&Mode) -> bool =
            |mode| matches!(mode, Mode::Prompt(_) | Mode::Interactive | Mode::Bench);
        let engine: fn(&Mode) -> bool =
            |mode| !matches!(mode, Mode::Inspect | Mode::ListDevices | Mode::Version);
        let single: fn(&Mode) -> bool = |mode| matches!(mode, Mode::Prompt(_));
        let file: fn(&Mode) -> bool = |mode| !matches!(mode, Mode::ListDevices | Mode::Version);
        vec![
            ("--model", self.model.is_some(), file),
            ("--device", self.device.is_some(), engine),
            ("--gpu-layers", self.gpu_layers.is_some(), engine),
            ("--threads", self.threads.is_some(), engine),
            ("--config", self.config.is_some(), engine),
            ("--set", !self.set.is_empty(), engine),
            ("--max-tokens", self.max_tokens.is_some(), length),
            ("--max-seq-len", self.max_seq_len.is_some(), engine),
            ("--min-kv-tokens", self.min_kv_tokens.is_some(), engine),
            ("--stop", !self.stop.is_empty(), text),
            ("--chat-template", self.chat_template.is_some(), text),
            ("--logprobs", self.logprobs.is_some(), single),
            ("--temperature", self.temperature.is_some(), text),
            ("--top-p", self.top_p.is_some(), text),
            ("--top-k", self.top_k.is_some(), text),
            ("--min-p", self.min_p.is_some(), text),
            ("--typical-p", self.typical_p.is_some(), text),
            ("--repeat-penalty", self.repeat_penalty.is_some(), text),
            ("--repeat-last-n", self.repeat_last_n.is_some(), text),
            ("--frequency-penalty", self.frequency_penalty.is_some(), text),
            ("--presence-penalty", self.presence_penalty.is_some(), text),
            ("--seed", self.seed.is_some(), text),
            ("--dry-multiplier", self.dry_multiplier.is_some(), text),
            ("--dry-base", self.dry_base.is_some(), text),
            ("--dry-allowed-length", self.dry_allowed_length.is_some(), text),
            ("--dry-penalty-last-n", self.dry_penalty_last_n.is_some(), text),
            ("--mirostat", self.mirostat.is_some(), text),
            ("--kv-fp16", self.kv_fp16, engine),
            ("--prefill-chunk-size", self.prefill_chunk_size.is_some(), engine),
            ("--bench-pp", self.bench_pp.is_some(), bench),
            ("--bench-reps", self.bench_reps.is_some(), bench),
            ("--mem-report", self.mem_report, engine),
        ]
    }
}

fn parse_tokens(ids: &str) -> Result<Vec<u32>, CliError> {
    let parse = |id: &str| {
        let id = id.trim();
        id.parse().map_err(|_| {
            CliError::BadArgument(format!("--prompt-tokens: {id:?} is not a token id (a number of 32 bits)"))
        })
    };
    ids.split(',').map(parse).collect()
}

fn bad<T>(message: impl Into<String>) -> Result<T, CliError> {
    Err(CliError::BadArgument(message.into()))
}
