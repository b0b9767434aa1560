//! From flags to a server that answers, and to its end.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{Config, LogLevel};
use host::engine::{Engine, EngineOptions, LoadProgress, MAX_CONCURRENT};
use host::program::{find_model, log, say};
use host::sampling::SamplingParams;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::PROGRAM;
use crate::args::Args;
use crate::error::ServerError;
use crate::http::listen;
use crate::limits::{CONCURRENT, ENGINE_QUEUE};
use crate::request_log::RequestLog;
use crate::state::{App, Loaded, Options, model_id};

/// Runs the server until a signal ends it.
///
/// # Errors
/// What is wrong with the flags, the port, the files or the machine.
pub fn start(args: &Args) -> Result<(), ServerError> {
    let config = Config::load(args.config.as_deref(), &args.sets())?.config;
    log::install(PROGRAM, config.diagnostics.log_level);
    let model = find_model(args.model.as_deref().unwrap_or(Path::new("")), &config.paths.models)?;
    let app = Arc::new(App::new(options(args, &config)?));
    // One thread: what takes time runs on others, and a token that crosses threads costs more than
    // all that is done with it here.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServerError::System { what: "the server's threads", source })?;
    let ended = runtime.block_on(run(args, &config, &model, app));
    // what still runs was given its time
    runtime.shutdown_background();
    ended
}

fn options(args: &Args, config: &Config) -> Result<Options, ServerError> {
    let given = SamplingParams::default();
    let defaults = SamplingParams {
        temperature: args.temperature.unwrap_or(0.7),
        top_p: args.top_p.unwrap_or(0.9),
        top_k: args.top_k.unwrap_or(40),
        min_p: args.min_p.unwrap_or(given.min_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(given.repeat_penalty),
        ..given
    };
    defaults.validate(usize::MAX)?;
    Ok(Options {
        api_keys: args.api_key.clone(),
        origins: args.cors_origin.clone(),
        rate_limit: args.rate_limit.unwrap_or(0),
        max_concurrent: args.max_concurrent.unwrap_or(CONCURRENT),
        places: together(args, config)? + ENGINE_QUEUE,
        log: args.log_requests.as_deref().map(RequestLog::open).transpose()?,
        defaults,
    })
}

/// Answers that the engine computes together.
fn together(args: &Args, config: &Config) -> Result<usize, ServerError> {
    let asked = args.max_concurrent.filter(|&requests| requests > 0).unwrap_or(CONCURRENT);
    if asked > MAX_CONCURRENT {
        let problem = format!("--max-concurrent: {asked} is more than {MAX_CONCURRENT}");
        return Err(ServerError::BadArgument(problem));
    }
    Ok(match config.runtime.max_batch_size as usize {
        0 => asked,
        sequences => sequences.min(MAX_CONCURRENT),
    })
}

/// Listens first, so that a taken port is known before a model is read, and `/health` answers
/// while it is.
async fn run(args: &Args, config: &Config, model: &Path, app: Arc<App>) -> Result<(), ServerError> {
    let mut signals = Signals::install()?;
    let listener = bind(args).await?;
    let address = listener
        .local_addr()
        .map_err(|source| ServerError::System { what: "the listening address", source })?;
    say(PROGRAM, &format!("listening on http://{address}"));
    if !address.ip().is_loopback() && args.api_key.is_empty() {
        say(PROGRAM, "warn: anybody who reaches this address can use the server; see --api-key");
    }
    let (stop, stopped) = watch::channel(false);
    let grace = Duration::from_secs(args.grace.unwrap_or(30));
    let mut serving = tokio::spawn(listen::serve(listener, app.clone(), stopped, grace));
    let mut loading = spawn_load(args, config, model, app.clone())?;
    let loaded = tokio::select! {
        loaded = &mut loading => Some(loaded),
        () = signals.next() => None,
    };
    match loaded {
        Some(Ok(loaded)) => loaded?,
        Some(Err(_)) => return Err(ServerError::Internal("loading panicked".to_owned())),
        None => return Ok(()),
    }
    say(PROGRAM, "ready");
    signals.next().await;
    app.stop();
    let _ = stop.send(true); // fails only when nobody serves
    say(PROGRAM, &format!("stopping: answers in progress get {} s", grace.as_secs()));
    tokio::select! {
        unfinished = &mut serving => match unfinished {
            Ok(0) => {}
            Ok(n) => say(PROGRAM, &format!("warn: {n} answers were cut off")),
            Err(_) => return Err(ServerError::Internal("serving panicked".to_owned())),
        },
        () = signals.next() => say(PROGRAM, "warn: stopped at once by a second signal"),
    }
    Ok(())
}

async fn bind(args: &Args) -> Result<TcpListener, ServerError> {
    let host = args.host.as_deref().unwrap_or("127.0.0.1");
    let name = (host.trim_matches(['[', ']']), args.port.unwrap_or(8080));
    let wrong = |source| ServerError::Address { host: host.to_owned(), source };
    let address: SocketAddr = name
        .to_socket_addrs()
        .map_err(wrong)?
        .next()
        .ok_or_else(|| wrong(std::io::ErrorKind::NotFound.into()))?;
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServerError::PortTaken { address },
        std::io::ErrorKind::AddrNotAvailable => wrong(source),
        _ => ServerError::Listen { address, source },
    })
}

fn spawn_load(
    args: &Args,
    config: &Config,
    model: &Path,
    app: Arc<App>,
) -> Result<tokio::task::JoinHandle<Result<(), ServerError>>, ServerError> {
    let id = args.alias.clone().unwrap_or_else(|| model_id(model));
    let options = EngineOptions {
        model: model.to_owned(),
        config: config.clone(),
        device: args.device,
        gpu_layers: args.gpu_layers.unwrap_or(-1),
        threads: args.threads.unwrap_or(config.runtime.num_cpu_threads as usize),
        max_seq_len: args.max_seq_len.or(match config.runtime.max_seq_len {
            0 => None,
            tokens => Some(tokens as usize),
        }),
        min_kv_tokens: args.min_kv_tokens,
        chat_template: args.chat_template.clone().unwrap_or_else(|| "auto".to_owned()),
        max_concurrent: together(args, config)?,
        max_waiting: ENGINE_QUEUE,
    };
    let (reasoning, think_budget) = (args.reasoning(), f64::from(args.think_budget()));
    let (mem_report, level) = (args.mem_report, config.diagnostics.log_level);
    Ok(tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let engine = Engine::load(options, &mut Silent)?;
        announce(&engine, &id, mem_report, level, began);
        let tokenizer = engine.tokenizer().cloned().ok_or_else(|| {
            ServerError::Unsupported(
                "the model has no vocabulary, and a server speaks text; imp-cli takes token ids"
                    .to_owned(),
            )
        })?;
        app.set_loaded(Loaded::new(engine, tokenizer, id, reasoning, think_budget));
        Ok(())
    }))
}

/// What the user should know of the model.
fn announce(engine: &Engine, id: &str, mem_report: bool, level: LogLevel, began: Instant) {
    if level >= LogLevel::Info {
        for notice in engine.notices() {
            say(PROGRAM, notice);
        }
        let (info, took) = (engine.info(), began.elapsed().as_secs_f64());
        let context = info.max_seq_len;
        let line = format!("{id}: {}, context {context}, loaded in {took:.1} s", info.description);
        say(PROGRAM, &line);
        if engine.template().is_none() {
            say(PROGRAM, "the model has no chat template: chats are refused; see --chat-template");
        }
    }
    if mem_report {
        say(PROGRAM, &format!("memory\n{}", engine.memory_plan()));
    }
}

struct Silent;

impl LoadProgress for Silent {
    fn tensor(&mut self, _: &str, _: u64, _: u64) {}
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Self, ServerError> {
        let handle = |kind| {
            let what = "signals cannot be handled";
            signal(kind).map_err(|source| ServerError::System { what, source })
        };
        let (terminate, interrupt) =
            (handle(SignalKind::terminate())?, handle(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
