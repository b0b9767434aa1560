//! The command line of the server. Values that the user did not give stay `None`, so that the
//! settings file decides.

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};
use config::nearest;
use host::text::ReasoningFormat;

use crate::error::ServerError;

/// Serves a large language model over HTTP, in the dialects of OpenAI and Anthropic.
#[derive(Clone, Debug, Default, FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Everything is told on stderr. Named flags win over --set, --set over the configuration\n\
            file. SIGTERM and SIGINT end the server when the answers in progress are done.",
    example = "{command_name} --model model.gguf --port 8080",
    error_code(0, "success"),
    error_code(1, "bad argument"),
    error_code(2, "out of memory"),
    error_code(3, "CUDA error"),
    error_code(4, "file not found"),
    error_code(5, "bad model"),
    error_code(6, "not supported"),
    error_code(7, "internal error")
)]
pub struct Args {
    /// GGUF file, SafeTensors directory, or a name in the directory of paths.models
    #[argh(option, arg_name = "path")]
    pub model: Option<PathBuf>,
    /// name of the model in the API (default: the model's file name)
    #[argh(option, arg_name = "name")]
    pub alias: Option<String>,
    /// vision encoder GGUF for multimodal models (not supported yet)
    #[argh(option, arg_name = "path")]
    pub mmproj: Option<PathBuf>,
    /// GPU that takes the layers (default: 0)
    #[argh(option, arg_name = "n")]
    pub device: Option<u32>,
    /// layers on the GPU, -1 = all (default: -1)
    #[argh(option, arg_name = "n")]
    pub gpu_layers: Option<i32>,
    /// CPU threads, 0 = all cores (default: runtime.num_cpu_threads)
    #[argh(option, arg_name = "n")]
    pub threads: Option<usize>,
    /// path of imp.conf, instead of the search path
    #[argh(option, arg_name = "path")]
    pub config: Option<PathBuf>,
    /// override one setting, section.key=value (repeatable)
    #[argh(option, arg_name = "section.key=value")]
    pub set: Vec<String>,
    /// KV context ceiling in tokens (default: auto)
    #[argh(option, arg_name = "n")]
    pub max_seq_len: Option<usize>,
    /// tokens the KV cache must hold at least (default: auto)
    #[argh(option, arg_name = "n")]
    pub min_kv_tokens: Option<usize>,
    /// most tokens in a prefill chunk (default: runtime.prefill_chunk_size)
    #[argh(option, arg_name = "n")]
    pub prefill_chunk_size: Option<i32>,
    /// launch decode steps kernel by kernel instead of as CUDA graphs
    #[argh(switch)]
    pub no_cuda_graphs: bool,
    /// auto|none|chatml|llama2|llama3|nemotron|gemma|deepseek_r1|phi (default: auto)
    #[argh(option, arg_name = "t")]
    pub chat_template: Option<String>,

    /// address to listen on (default: 127.0.0.1)
    #[argh(option, arg_name = "address")]
    pub host: Option<String>,
    /// port to listen on, 0 = any free one (default: 8080)
    #[argh(option, arg_name = "n")]
    pub port: Option<u16>,
    /// key that requests must carry, as Authorization: Bearer or x-api-key (repeatable)
    #[argh(option, arg_name = "key")]
    pub api_key: Vec<String>,
    /// most requests at a time, 0 = as many as the engine takes (default: 64)
    #[argh(option, arg_name = "n")]
    pub max_concurrent: Option<usize>,
    /// most requests a minute from one address, 0 = unlimited (default: 0)
    #[argh(option, arg_name = "n")]
    pub rate_limit: Option<u32>,
    /// origin of web pages that may call the server, * = any (repeatable; default: only its own)
    #[argh(option, arg_name = "origin")]
    pub cors_origin: Vec<String>,
    /// where thoughts of the model go: deepseek = apart from the content (the default), auto = the
    /// same where its chat template marks them, none = they stay in the content
    #[argh(option, arg_name = "f")]
    pub reasoning_format: Option<String>,
    /// share of max_tokens that thoughts may take, 0 = all (default: 0.5)
    #[argh(option, arg_name = "f")]
    pub think_budget: Option<f32>,
    /// append a JSON line a request to this file, with its prompt and answer
    #[argh(option, arg_name = "path")]
    pub log_requests: Option<PathBuf>,
    /// seconds that answers in progress get to finish at the end (default: 30)
    #[argh(option, arg_name = "s")]
    pub grace: Option<u64>,

    /// randomness of requests that name none, 0 = greedy (default: 0.7)
    #[argh(option, arg_name = "f")]
    pub temperature: Option<f32>,
    /// nucleus sampling of requests that name none, 1 = disabled (default: 0.9)
    #[argh(option, arg_name = "f")]
    pub top_p: Option<f32>,
    /// best tokens kept in requests that name none, 0 = disabled (default: 40)
    #[argh(option, arg_name = "n")]
    pub top_k: Option<u32>,
    /// least share of the best probability in requests that name none (default: 0.0)
    #[argh(option, arg_name = "f")]
    pub min_p: Option<f32>,
    /// penalty of seen tokens in requests that name none, 1 = disabled (default: 1.0)
    #[argh(option, arg_name = "f")]
    pub repeat_penalty: Option<f32>,

    /// print the memory plan when the model is loaded
    #[argh(switch)]
    pub mem_report: bool,
    /// print the version
    #[argh(switch)]
    pub version: bool,
}

/// What [`parse`] found.
#[derive(Debug)]
pub enum Parsed {
    /// Arguments to act on.
    Args(Box<Args>),
    /// `--help`: this text goes to stdout.
    Help(String),
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// `BadArgument` naming the flag, with the nearest known one.
pub fn parse(arguments: &[String]) -> Result<Parsed, ServerError> {
    let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match Args::from_args(&["imp-server"], &borrowed) {
        Ok(args) => Ok(Parsed::Args(Box::new(args))),
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Parsed::Help(output)),
        Err(EarlyExit { output, .. }) => Err(ServerError::BadArgument(explain(output.trim()))),
    }
}

/// Adds to argh's message what it leaves out: the nearest flag.
fn explain(message: &str) -> String {
    let Some(given) = message.strip_prefix("Unrecognized argument: ") else {
        return message.split_whitespace().collect::<Vec<_>>().join(" ");
    };
    let help = Args::from_args(&["imp-server"], &["--help"]).err().map(|exit| exit.output);
    let help = help.unwrap_or_default();
    let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
    let name = given.split('=').next().unwrap_or(given);
    match nearest(name, flags.map(|flag| flag.trim_matches(['[', ']']))) {
        Some(flag) if flag == name => {
            format!("unknown argument {given}: a value follows its flag after a space")
        }
        Some(flag) => format!("unknown argument {given}; did you mean {flag}?"),
        None => format!("unknown argument {given}; see --help"),
    }
}

impl Args {
    /// The `--set` arguments, then those that named flags stand for.
    pub fn sets(&self) -> Vec<String> {
        let mut sets = self.set.clone();
        if self.no_cuda_graphs {
            sets.push("runtime.cuda_graphs=never".to_owned());
        }
        if let Some(tokens) = self.prefill_chunk_size {
            sets.push(format!("runtime.prefill_chunk_size={tokens}"));
        }
        sets
    }

    /// Checks what no other place checks.
    ///
    /// # Errors
    /// `BadArgument` or `Unsupported` with the flag and the reason.
    pub fn check(&self) -> Result<(), ServerError> {
        if self.mmproj.is_some() {
            let reason = "--mmproj is not supported yet: this build has no vision encoder";
            return Err(ServerError::Unsupported(reason.to_owned()));
        }
        self.check_reasoning()?;
        let bad = |message: &str| Err(ServerError::BadArgument(message.to_owned()));
        if self.model.is_none() {
            return bad("--model is missing: a GGUF file or a SafeTensors directory");
        }
        if self.api_key.iter().any(|key| key.trim().is_empty()) {
            return bad("--api-key is empty");
        }
        if self.alias.as_deref().is_some_and(|name| name.trim().is_empty()) {
            return bad("--alias is empty");
        }
        if let Some(origin) = self.cors_origin.iter().find(|o| !is_origin(o)) {
            return bad(&format!(
                "--cors-origin {origin}: expected * or an origin such as https://example.org"
            ));
        }
        Ok(())
    }
}

impl Args {
    /// What becomes of thoughts. Call after [`Args::check`].
    pub fn reasoning(&self) -> ReasoningFormat {
        let given = self.reasoning_format.as_deref().and_then(|name| name.parse().ok());
        given.unwrap_or(ReasoningFormat::DeepSeek)
    }

    /// Share of an answer for thoughts.
    pub fn think_budget(&self) -> f32 {
        self.think_budget.unwrap_or(0.5)
    }

    fn check_reasoning(&self) -> Result<(), ServerError> {
        if let Some(Err(problem)) =
            self.reasoning_format.as_ref().map(|f| f.parse::<ReasoningFormat>())
        {
            return Err(ServerError::BadArgument(format!("--reasoning-format: {problem}")));
        }
        match self.think_budget() {
            share if (0.0..=1.0).contains(&share) => Ok(()),
            share => Err(ServerError::BadArgument(format!(
                "--think-budget {share}: expected a number from 0 to 1"
            ))),
        }
    }
}

/// `*`, or scheme and host without a path.
fn is_origin(text: &str) -> bool {
    let host = |(_, host): (&str, &str)| !host.is_empty() && !host.contains('/');
    text == "*" || (text.split_once("://").is_some_and(host) && text.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, ServerError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words)? {
            Parsed::Args(args) => args.check().map(|()| *args),
            Parsed::Help(text) => panic!("{text}"),
        }
    }

    #[test]
    fn flags_of_the_manual_parse() {
        let args = parsed(
            "--model m.gguf --host 0.0.0.0 --port 0 --api-key a --api-key b --max-concurrent 0 \
             --rate-limit 60 --log-requests l.jsonl --chat-template chatml --gpu-layers -1 \
             --device 0 --set runtime.exact=true --config imp.conf --max-seq-len 4096 \
             --min-kv-tokens 100 --reasoning-format none --think-budget 0 --threads 2 --cors-origin https://a.example --cors-origin *",
        )
        .unwrap();
        assert_eq!((args.port, args.max_concurrent, args.rate_limit), (Some(0), Some(0), Some(60)));
        assert_eq!(args.api_key, ["a", "b"]);
    }

    #[test]
    fn wrong_arguments_name_the_flag() {
        for (line, expected) in [
            ("", "--model is missing"),
            ("--model m --prot 1", "did you mean --port?"),
            ("--model m --port 65536", "--port"),
            ("--model m --cors-origin https://a/b", "--cors-origin"),
            ("--model m --mmproj p", "--mmproj is not supported yet"),
            ("--model m --reasoning-format x", "--reasoning-format: \"x\" is not"),
            ("--model m --think-budget 2", "expected a number from 0 to 1"),
        ] {
            let error = parsed(line).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
