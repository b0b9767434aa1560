//! The command line: every flag, what it needs, and which of them this build refuses.
//!
//! [`parse`] turns the arguments into [`Args`]; [`Args::mode`] finds what was asked for. Values
//! that the user did not give stay `None`, so that a flag without effect can be pointed out
//! instead of being ignored.

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};

use crate::error::CliError;
use config::nearest;

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
    /// vision encoder GGUF for multimodal models (not supported yet)
    #[argh(option, arg_name = "path")]
    pub(crate) mmproj: Option<PathBuf>,
    /// input image (requires --mmproj) (not supported yet)
    #[argh(option, arg_name = "path")]
    pub(crate) image: Option<PathBuf>,
    /// GPU that takes the layers (default: 0)
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
    /// randomness, 0 = greedy (default: 0.7)
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
    /// seed of the random choices, -1 = random (default: -1)
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
    /// version of Mirostat, 0 = off, 2 = v2 (default: 0)
    #[argh(option, arg_name = "n")]
    pub(crate) mirostat: Option<u32>,

    // Performance
    /// FP8 E4M3 KV cache (not supported yet)
    #[argh(switch)]
    pub(crate) kv_fp8: bool,
    /// INT8 KV cache (not supported yet)
    #[argh(switch)]
    pub(crate) kv_int8: bool,
    /// INT4 KV cache (not supported yet)
    #[argh(switch)]
    pub(crate) kv_int4: bool,
    /// NVFP4 KV cache (not supported yet)
    #[argh(switch)]
    pub(crate) kv_nvfp4: bool,
    /// KV cache by PolarQuant + QJL (not supported yet)
    #[argh(switch)]
    pub(crate) kv_turboquant: bool,
    /// FP16 KV cache (the default)
    #[argh(switch)]
    pub(crate) kv_fp16: bool,
    /// FP8 weight cache for prefill (not supported yet)
    #[argh(switch)]
    pub(crate) prefill_fp8: bool,
    /// most tokens in a prefill chunk, 0 = the whole prompt, -1 = chosen by device (default:
    /// runtime.prefill_chunk_size)
    #[argh(option, arg_name = "n")]
    pub(crate) prefill_chunk_size: Option<i32>,
    /// NVFP4 decode cache (not supported yet)
    #[argh(switch)]
    pub(crate) decode_nvfp4: bool,
    /// NVFP4 decode cache alone (not supported yet)
    #[argh(switch)]
    pub(crate) decode_nvfp4_only: bool,
    /// disable NVFP4 auto-detection (changes nothing: there is none)
    #[argh(switch)]
    pub(crate) no_nvfp4: bool,
    /// FP16 SSM state (not supported yet)
    #[argh(switch)]
    pub(crate) ssm_fp16: bool,
    /// launch decode steps kernel by kernel instead of as CUDA graphs
    #[argh(switch)]
    pub(crate) no_cuda_graphs: bool,
    /// MXFP4 GEMM for prefill (not supported yet)
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
        .map_err(|_| format!("-1 (random) or a number from 0 to {}", u64::MAX))
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
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Parsed::Help(in_sections(name, &output))),
        Err(EarlyExit { output, status: Err(()) }) => {
            Err(CliError::BadArgument(explain(output.trim(), &help(name))))
        }
    }
}

/// argh's help with a short usage line and the headings of the manual.
fn in_sections(name: &str, help: &str) -> String {
    let mut text = format!("Usage: {name} --model <path> <task> [options]\n");
    for line in help.lines().skip(1) {
        let flag = line.split_whitespace().next().filter(|_| line.starts_with("  --"));
        if let Some((_, heading)) = SECTIONS.iter().find(|(first, _)| flag == Some(*first)) {
            let gap = if text.ends_with("\n\n") { "" } else { "\n" };
            text.push_str(&format!("{gap}{heading}:\n"));
        }
        if line != "Options:" {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// First flag of each section, in the order of [`Args`].
const SECTIONS: [(&str, &str); 6] = [
    ("--model", "Model"),
    ("--prompt", "Generation"),
    ("--temperature", "Sampling"),
    ("--kv-fp8", "Performance"),
    ("--bench", "Measuring"),
    ("--inspect", "Reports"),
];

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

impl Args {
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
        const KV: &str = "the KV cache is kept in FP16 (or F32 with --set runtime.exact=true)";
        const WEIGHTS: &str = "products use the weights as the file stores them";
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the manual, with a value where they take one.
    const MANUAL: [&str; 53] = [
        "--model m.gguf",
        "--mmproj p.gguf",
        "--image i.jpg",
        "--device 0",
        "--gpu-layers -1",
        "--config imp.conf",
        "--set kv_cache.dtype=fp16",
        "--prompt text",
        "--max-tokens 256",
        "--max-seq-len 4096",
        "--min-kv-tokens 14000",
        "--interactive",
        "--stop </s>",
        "--chat-template chatml",
        "--temperature 0.7",
        "--top-p 0.9",
        "--top-k 40",
        "--min-p 0.0",
        "--typical-p 1.0",
        "--repeat-penalty 1.0",
        "--repeat-last-n 0",
        "--frequency-penalty -0.5",
        "--presence-penalty 0.0",
        "--seed -1",
        "--dry-multiplier 0.0",
        "--dry-base 1.75",
        "--dry-allowed-length 2",
        "--dry-penalty-last-n 0",
        "--mirostat 2",
        "--kv-fp8",
        "--kv-int8",
        "--kv-int4",
        "--kv-turboquant",
        "--kv-fp16",
        "--prefill-fp8",
        "--prefill-chunk-size 0",
        "--decode-nvfp4",
        "--decode-nvfp4-only",
        "--no-nvfp4",
        "--ssm-fp16",
        "--no-cuda-graphs",
        "--mxfp4-prefill",
        "--bench",
        "--bench-pp 512",
        "--bench-reps 5",
        // beyond it
        "--kv-nvfp4",
        "--perplexity f",
        "--kl-divergence f",
        "--json",
        "--logprobs 5",
        "--prompt-file -",
        "--mem-report",
        "--threads 2",
    ];

    fn parsed(line: &str) -> Args {
        match parse_line(line) {
            Ok(Parsed::Args(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn parse_line(line: &str) -> Result<Parsed, CliError> {
        parse("imp-cli", &line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_flag_parses_alone_and_all_together() {
        for line in MANUAL {
            parsed(line);
        }
        for line in ["--list-devices", "--version", "--inspect", "--prompt-tokens 1,2"] {
            parsed(line);
        }
        parsed(&MANUAL.join(" "));
    }

    #[test]
    fn repeated_and_negative_values_arrive() {
        let args = parsed("--set a.b=1 --set c.d=-2 --stop x --stop -y --gpu-layers -1 --seed -1");
        assert_eq!(args.set, ["a.b=1", "c.d=-2"]);
        assert_eq!(args.stop, ["x", "-y"]);
        assert_eq!(args.gpu_layers, Some(-1));
        assert_eq!(args.seed, Some(Seed(None)));
        assert_eq!(parsed("--seed 18446744073709551615").seed, Some(Seed(Some(u64::MAX))));
        assert_eq!(parsed("--prompt --help").prompt.as_deref(), Some("--help"));
    }

    #[test]
    fn help_names_every_flag() {
        let Ok(Parsed::Help(help)) = parse_line("--help") else { panic!("no help") };
        for line in MANUAL {
            let flag = line.split(' ').next().unwrap();
            assert!(help.split_whitespace().any(|word| word == flag), "{flag} in\n{help}");
        }
        for (_, heading) in SECTIONS {
            assert!(help.contains(&format!("\n{heading}:\n  --")), "{heading} in\n{help}");
        }
        assert!(matches!(parse_line("-h"), Ok(Parsed::Help(_))));
    }

    #[test]
    fn wrong_arguments_are_explained_on_one_line() {
        for (line, expected) in [
            ("--temprature 1", "unknown argument --temprature; did you mean --temperature?"),
            ("--frobnicate", "unknown argument --frobnicate; see --help"),
            ("--temperature=0.5", "a value follows its flag after a space, --temperature 0.5"),
            ("hello", "the prompt is given with --prompt"),
            ("--max-tokens", "No value provided for option '--max-tokens'"),
            ("--max-tokens -1", "'--max-tokens' with value '-1'"),
            ("--top-k many", "'--top-k' with value 'many'"),
            ("--seed -2", "-1 (random)"),
            ("--model a --model b", "--model"),
        ] {
            let error = parse_line(line).expect_err(line);
            assert_eq!(error.code(), 1, "{line}");
            let text = error.to_string();
            assert!(text.contains(expected) && !text.contains('\n'), "{line}: {text}");
        }
    }

    #[test]
    fn flags_the_build_cannot_serve_are_refused_by_name() {
        let refused = [
            "--kv-fp8",
            "--kv-int8",
            "--kv-int4",
            "--kv-nvfp4",
            "--kv-turboquant",
            "--prefill-fp8",
            "--decode-nvfp4",
            "--decode-nvfp4-only",
            "--mxfp4-prefill",
            "--ssm-fp16",
            "--mmproj p",
            "--image i",
        ];
        for line in refused {
            let error = parsed(line).refuse_unsupported().expect_err(line);
            assert_eq!(error.code(), 6, "{line}");
            let flag = line.split(' ').next().unwrap();
            assert!(
                error.to_string().starts_with(&format!("{flag} is not supported yet: ")),
                "{error}"
            );
        }
        for line in MANUAL.iter().filter(|line| {
            !refused.contains(&line.replace("p.gguf", "p").replace("i.jpg", "i").as_str())
        }) {
            assert!(parsed(line).refuse_unsupported().is_ok(), "{line}");
        }
    }

    #[test]
    fn named_flags_are_applied_after_the_settings() {
        let args = parsed("--kv-fp16 --set kv_cache.dtype=fp32 --prefill-chunk-size 64");
        assert_eq!(
            args.sets(),
            ["kv_cache.dtype=fp32", "kv_cache.dtype=fp16", "runtime.prefill_chunk_size=64"]
        );
    }
}
