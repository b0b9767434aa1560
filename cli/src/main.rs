//! `imp-cli`: the engine on the command line. Arguments become options ([`args`], [`settings`],
//! [`session`]); each task is a module. Text of the model goes to stdout, everything else to
//! stderr; how it ended is the exit code ([`error`]).

#![forbid(unsafe_code)]

#[macro_use]
mod output; // its `note!` is for all
mod args;
mod bench;
mod chat;
mod commands;
mod devices;
mod divergence;
mod error;
mod generate;
mod inspect;
mod interactive;
mod interrupt;
mod mode;
mod perplexity;
mod progress;
mod readline;
mod run;
mod session;
mod settings;

use std::process::ExitCode;

use args::{Args, Parsed};
use bench::BenchOptions;
use error::CliError;
use mode::Mode;
use run::Print;
use session::Room;
use settings::Settings;

fn main() -> ExitCode {
    // a panic has printed its message; what is left is the exit code of "internal error"
    let ended = std::panic::catch_unwind(start)
        .unwrap_or_else(|_| Err(CliError::Internal("a bug of imp; please report it".to_owned())));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn start() -> Result<(), CliError> {
    let arguments: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let arguments = arguments.map_err(|argument| {
        CliError::BadArgument(format!("the argument {argument:?} is not UTF-8"))
    })?;
    match args::parse("imp-cli", &arguments)? {
        Parsed::Help(text) => output::show_line(text.trim_end()),
        Parsed::Args(args) => {
            let mode = args.mode()?;
            args.refuse_unsupported()?;
            for note in args.notes(&mode) {
                note!("imp-cli: {note}");
            }
            dispatch(&args, &mode)
        }
    }
}

fn dispatch(args: &Args, mode: &Mode) -> Result<(), CliError> {
    match mode {
        Mode::Version => return devices::version(),
        Mode::ListDevices => return devices::list(args.json),
        _ => {}
    }
    interrupt::install()?;
    let settings = Settings::from_args(args)?;
    let config = session::configuration(args, &[])?.config;
    host::program::log::install("imp-cli", config.diagnostics.log_level);
    let load = |room| -> Result<_, CliError> {
        let engine = session::load(args, &config, room)?;
        session::announce(&engine, &config);
        if args.mem_report && *mode != Mode::MemReport {
            note!("{}", engine.memory_plan());
        }
        Ok(engine)
    };
    match mode {
        Mode::Prompt(source) => {
            let print =
                if args.json { Print::Json { logprobs: args.logprobs } } else { Print::Text };
            run::run(&load(Room::default())?, source, &settings, print)
        }
        Mode::Interactive => interactive::interactive(&load(Room::default())?, settings),
        Mode::Bench => {
            let options = bench_options(args, &config)?;
            bench::bench(&load(Room { max_seq_len: Some(options.context()) })?, options, args.json)
        }
        Mode::Perplexity(path) => {
            let n_ctx = chunk_length(args, &config);
            perplexity::perplexity(
                &load(Room { max_seq_len: Some(n_ctx) })?,
                path,
                n_ctx,
                args.json,
            )
        }
        Mode::KlDivergence(path) => {
            let n_ctx = chunk_length(args, &config);
            let room = Room { max_seq_len: Some(n_ctx) };
            if config.runtime.exact {
                note!("imp-cli: runtime.exact is set: exact mode is compared with itself");
            }
            let exact =
                session::configuration(args, &["runtime.exact=true", "kv_cache.dtype=auto"])?
                    .config;
            let test = load(room)?;
            let base = session::load(args, &exact, room)?; // the same model: told once
            divergence::divergence(&base, &test, path, n_ctx, args.json)
        }
        Mode::Inspect => inspect::inspect(&session::model_path(args, &config)?, args.json),
        Mode::MemReport => {
            let engine = session::load(args, &config, Room::default())?;
            session::announce(&engine, &config);
            output::show_line(engine.memory_plan().to_string().trim_end())
        }
        Mode::ListDevices | Mode::Version => Ok(()), // done above
    }
}

fn bench_options(args: &Args, config: &config::Config) -> Result<BenchOptions, CliError> {
    let options = BenchOptions {
        prompt: args.bench_pp.unwrap_or(512),
        generate: args.max_tokens.unwrap_or(128),
        reps: args.bench_reps.unwrap_or(3),
        threads: match session::threads(args, config) {
            0 => devices::available_threads(),
            threads => threads,
        },
    };
    options.check()?;
    Ok(options)
}

/// Tokens in a chunk of `--perplexity` and `--kl-divergence`.
fn chunk_length(args: &Args, config: &config::Config) -> usize {
    args.max_seq_len.or(session::configured_length(config)).unwrap_or(perplexity::DEFAULT_CHUNK)
}
