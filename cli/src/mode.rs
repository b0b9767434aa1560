//! What the arguments ask for, and which of them that task takes.

use std::path::PathBuf;

use crate::args::Args;
use crate::error::CliError;

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

/// Most CPU threads, as for `runtime.num_cpu_threads`.
const MAX_THREADS: usize = 4096;

/// Most stop sequences a request may have.
pub(crate) const MAX_STOPS: usize = 4;

/// Tells which tasks a flag belongs to.
type Scope = fn(&Mode) -> bool;

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
            return bad(format!(
                "--stop was given {} times; the limit is {MAX_STOPS}",
                self.stop.len()
            ));
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
        if self.threads.is_some_and(|threads| threads > MAX_THREADS) {
            return bad(format!(
                "--threads: expected a number up to {MAX_THREADS}, or 0 for all cores"
            ));
        }
        if self.gpu_layers.is_some_and(|layers| layers < -1) {
            return bad("--gpu-layers: expected a number of layers, or -1 for all");
        }
        Ok(())
    }

    /// Lines for the user about flags that change nothing here.
    pub(crate) fn notes(&self, mode: &Mode) -> Vec<String> {
        let mut notes = Vec::new();
        if self.no_cuda_graphs && self.gpu_layers == Some(0) {
            notes.push("--no-cuda-graphs changes nothing: all layers are on the CPU".to_owned());
        }
        if self.no_nvfp4 {
            notes.push(
                "--no-nvfp4 changes nothing: weights are used as the file stores them".to_owned(),
            );
        }
        let idle = self.scopes().into_iter().filter(|(_, given, scope)| *given && !scope(mode));
        notes.extend(idle.map(|(flag, ..)| format!("{flag} has no effect with {}", mode.flag())));
        notes
    }

    /// Flags, whether they were given, and the tasks they belong to.
    fn scopes(&self) -> Vec<(&'static str, bool, Scope)> {
        let text: Scope = |mode| matches!(mode, Mode::Prompt(_) | Mode::Interactive);
        let bench: Scope = |mode| matches!(mode, Mode::Bench);
        let length: Scope =
            |mode| matches!(mode, Mode::Prompt(_) | Mode::Interactive | Mode::Bench);
        let engine: Scope =
            |mode| !matches!(mode, Mode::Inspect | Mode::ListDevices | Mode::Version);
        let single: Scope = |mode| matches!(mode, Mode::Prompt(_));
        let templated: Scope = |mode| {
            matches!(
                mode,
                Mode::Prompt(PromptSource::Text(_) | PromptSource::File(_)) | Mode::Interactive
            )
        };
        let file: Scope = |mode| !matches!(mode, Mode::ListDevices | Mode::Version);
        vec![
            ("--model", self.model.is_some(), file),
            ("--device", self.device.is_some(), engine),
            ("--gpu-layers", self.gpu_layers.is_some(), engine),
            ("--threads", self.threads.is_some(), engine),
            ("--config", self.config.is_some(), file),
            ("--set", !self.set.is_empty(), file),
            ("--max-tokens", self.max_tokens.is_some(), length),
            ("--max-seq-len", self.max_seq_len.is_some(), engine),
            ("--min-kv-tokens", self.min_kv_tokens.is_some(), engine),
            ("--stop", !self.stop.is_empty(), text),
            ("--chat-template", self.chat_template.is_some(), templated),
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
            CliError::BadArgument(format!(
                "--prompt-tokens: {id:?} is not a token id (a number of 32 bits)"
            ))
        })
    };
    ids.split(',').map(parse).collect()
}

fn bad<T>(message: impl Into<String>) -> Result<T, CliError> {
    Err(CliError::BadArgument(message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Parsed, parse};

    fn parsed(line: &str) -> Args {
        match parse("imp-cli", &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
            Ok(Parsed::Args(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn each_task_is_found() {
        let text = || "hi".to_owned();
        for (line, expected) in [
            ("--model m --prompt hi", Mode::Prompt(PromptSource::Text(text()))),
            ("--model m --prompt-file f", Mode::Prompt(PromptSource::File("f".into()))),
            ("--model m --prompt-tokens 1,20", Mode::Prompt(PromptSource::Tokens(vec![1, 20]))),
            ("--model m --interactive", Mode::Interactive),
            ("--model m --bench --bench-pp 512 --max-tokens 128 --bench-reps 5", Mode::Bench),
            ("--model m --perplexity f", Mode::Perplexity("f".into())),
            ("--model m --kl-divergence f --json", Mode::KlDivergence("f".into())),
            ("--model m --inspect --json", Mode::Inspect),
            ("--model m --mem-report", Mode::MemReport),
            ("--model m --mem-report --prompt hi", Mode::Prompt(PromptSource::Text(text()))),
            ("--list-devices", Mode::ListDevices),
            ("--version", Mode::Version),
        ] {
            let args = parsed(line);
            assert_eq!(args.mode().unwrap(), expected, "{line}");
            assert!(args.notes(&expected).is_empty(), "{line}: {:?}", args.notes(&expected));
        }
    }

    #[test]
    fn impossible_combinations_are_refused() {
        for (line, expected) in [
            ("", "nothing to do"),
            ("--model m", "nothing to do"),
            ("--prompt hi", "--prompt needs --model"),
            ("--model m --prompt hi --bench", "--prompt and --bench exclude each other"),
            ("--model m --prompt hi --prompt-file f", "exclude each other"),
            ("--model m --prompt hi --logprobs 1", "add --json"),
            ("--model m --interactive --json", "--json does not go with --interactive"),
            ("--model m --prompt hi --gpu-layers -2", "--gpu-layers"),
            ("--model m --prompt hi --threads 4097", "--threads: expected a number up to 4096"),
            (
                "--model m --prompt hi --stop a --stop b --stop c --stop d --stop e",
                "the limit is 4",
            ),
            ("--model m --prompt-tokens 1,x", "\"x\" is not a token id"),
            ("--model m --prompt-tokens 1,-2", "\"-2\" is not a token id"),
            ("--model m --prompt-tokens 4294967296", "is not a token id"),
        ] {
            let error = parsed(line).mode().expect_err(line);
            assert_eq!(error.code(), 1, "{line}");
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
        assert!(parsed("--model m --prompt hi --stop a --stop b --stop c --stop d").mode().is_ok());
    }

    #[test]
    fn flags_without_effect_are_pointed_out() {
        for (line, expected) in [
            ("--model m --bench --temperature 1", "--temperature has no effect with --bench"),
            ("--model m --prompt hi --bench-pp 1", "--bench-pp has no effect with --prompt"),
            ("--model m --inspect --threads 2", "--threads has no effect with --inspect"),
            (
                "--model m --prompt hi --gpu-layers 0 --no-cuda-graphs",
                "--no-cuda-graphs changes nothing",
            ),
            ("--model m --prompt hi --no-nvfp4", "--no-nvfp4 changes nothing"),
            (
                "--model m --perplexity f --max-tokens 1",
                "--max-tokens has no effect with --perplexity",
            ),
        ] {
            let args = parsed(line);
            let notes = args.notes(&args.mode().unwrap());
            assert_eq!(notes.len(), 1, "{line}: {notes:?}");
            assert!(notes[0].contains(expected), "{line}: {notes:?}");
        }
    }
}
