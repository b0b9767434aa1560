//! Several streams at once, each on a thread of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::http;
use crate::TaskError;

/// Longest time until all streams have begun.
const BEGINNING: Duration = Duration::from_secs(300);

/// What streams tell while they run.
#[derive(Debug)]
pub struct Progress {
    tokens: Vec<AtomicUsize>,
    stop: AtomicBool,
    ended: AtomicBool,
}

impl Progress {
    /// Tokens that came in all streams together.
    pub fn tokens(&self) -> usize {
        self.tokens.iter().map(|tokens| tokens.load(Ordering::Relaxed)).sum()
    }
    /// Whether one of them is over.
    pub fn one_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until each has so many tokens, or one has ended.
    fn wait_for(&self, tokens: usize) -> Result<(), TaskError> {
        let began = Instant::now();
        while !self.one_ended() {
            if self.tokens.iter().all(|count| count.load(Ordering::Relaxed) >= tokens) {
                return Ok(());
            }
            if began.elapsed() > BEGINNING {
                return Err(TaskError::Other("the streams did not all begin".into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Tokens of each stream when it counts as begun.
const ESTABLISHED: usize = 4;

/// Runs a stream for each prompt and, once all have begun, `body`; then leaves those that still run.
/// Gives the times of each stream's tokens, and what `body` gave.
///
/// # Errors
/// Of a stream, else of `body`.
pub fn during<T>(
    address: SocketAddr,
    prompts: &[Vec<u32>],
    max_tokens: usize,
    body: impl FnOnce(&Progress) -> Result<T, TaskError>,
) -> Result<(Vec<Vec<Instant>>, T), TaskError> {
    let progress = Progress {
        tokens: prompts.iter().map(|_| AtomicUsize::new(0)).collect(),
        stop: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let streams = prompts.iter().zip(&progress.tokens);
        let streams: Vec<_> = streams
            .map(|(prompt, count)| stream(scope, address, prompt, max_tokens, count, &progress))
            .collect();
        let done = progress.wait_for(ESTABLISHED.min(max_tokens)).and_then(|()| body(&progress));
        progress.stop.store(true, Ordering::Release);
        let times = streams.into_iter().map(|thread| thread.join().expect("it does not panic"));
        let times: Result<Vec<_>, TaskError> = times.collect();
        Ok((times?, done?))
    })
}

fn stream<'scope>(
    scope: &'scope Scope<'scope, '_>,
    address: SocketAddr,
    prompt: &'scope [u32],
    max_tokens: usize,
    count: &'scope AtomicUsize,
    progress: &'scope Progress,
) -> ScopedJoinHandle<'scope, Result<Vec<Instant>, TaskError>> {
    scope.spawn(move || {
        let mut times = vec![];
        let streamed = http::complete(address, prompt, max_tokens, |now| {
            times.push(now);
            count.store(times.len(), Ordering::Relaxed);
            !progress.stop.load(Ordering::Acquire)
        });
        if !progress.stop.load(Ordering::Acquire) {
            progress.ended.store(true, Ordering::Release);
        }
        streamed.map(|_| times)
    })
}
