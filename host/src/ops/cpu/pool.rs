//! The worker threads: one parallel region at a time, chunks claimed one by one.
//!
//! A token of a small model runs through a hundred regions of some ten microseconds, so workers
//! spin for a moment before they sleep. They never wait for each other: whoever is running takes
//! the next chunk, so a core lost to another process costs its share and no more.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Looks at the counter between two pauses: about 20 µs, the length of the serial parts between
/// regions; sleeping and waking costs more than that.
const SPINS: usize = 400;
/// Times a waiter then gives its core away before it sleeps.
const YIELDS: usize = 4;

/// Threads that run the chunks of one region together with the caller.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a region: regions of different callers follow one another.
    region: Mutex<()>,
}

type Body = dyn Fn(usize) + Sync;

struct Shared {
    /// Chunks nobody has claimed yet. Nonzero only while a caller is inside [`Pool::run`].
    unclaimed: AtomicUsize,
    /// Chunks that have not finished.
    unfinished: AtomicUsize,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Workers that sleep or are about to.
    asleep: AtomicUsize,
    /// The caller sleeps or is about to.
    caller_asleep: AtomicBool,
    lock: Mutex<()>,
    work: Condvar,
    done: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    body: *const Body,
    chunks: usize,
}

// SAFETY: `job` is the only field that is not `Sync`. It is written by the caller of `run` while
// no chunk is unclaimed or unfinished, and read only after a chunk of the same region was claimed
// (see `Shared::work_off`); the body it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is dropped without being followed.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("unclaimed", &self.unclaimed).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller counted; 0 means one a core.
    pub fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let shared = Arc::new(Shared {
            unclaimed: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { body: &|_| {}, chunks: 0 }),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            caller_asleep: AtomicBool::new(false),
            lock: Mutex::new(()),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = shared.clone();
                let worker = std::thread::Builder::new().name(format!("imp-cpu-{i}"));
                // A machine that refuses threads still computes, on those it gave.
                match worker.spawn(move || shared.worker()) {
                    Ok(handle) => Some(handle),
                    Err(e) => {
                        tracing::warn!("CPU worker {i} of {threads} could not be started: {e}");
                        None
                    }
                }
            })
            .collect();
        Self { shared, workers, region: Mutex::new(()) }
    }

    /// Threads that take part in a region, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` with each of `0..chunks` once, on any thread, and returns when all are done.
    /// A body must not start another region.
    pub fn run(&self, chunks: usize, body: impl Fn(usize) + Sync) {
        if chunks <= 1 || self.workers.is_empty() {
            (0..chunks).for_each(body);
            return;
        }
        let _region = lock(&self.region);
        let shared = &*self.shared;
        let body: &(dyn Fn(usize) + Sync + '_) = &body;
        let body: *const (dyn Fn(usize) + Sync + '_) = body;
        // SAFETY: only the lifetime changes. `body` is followed by `work_off` alone, before it
        // reports its chunk as finished, and this function does not return or unwind (panics of
        // chunks are caught) until every chunk is finished.
        let body: *const Body = unsafe { std::mem::transmute(body) };
        // SAFETY: the last region of this pool has finished (we hold `region`, and `run` leaves
        // with `unfinished == 0`), and a thread reads `job` only between claiming a chunk and
        // finishing it; so nobody reads now.
        unsafe { *shared.job.get() = Job { body, chunks } };
        shared.unfinished.store(chunks, Ordering::Relaxed);
        // Publishes the job: a claim reads from this store. SeqCst orders it before the look at
        // `asleep`, as `worker` orders its two the other way round.
        shared.unclaimed.store(chunks, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.lock));
            shared.work.notify_all();
        }
        shared.work_off();
        shared.await_finish();
        if let Some(panic) = lock(&shared.panic).take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its chunks, so there is nothing to report here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn worker(&self) {
        let ready = || self.unclaimed.load(Ordering::SeqCst) > 0 || self.stopped();
        while !self.stopped() {
            self.work_off();
            if wait_briefly(ready) {
                continue;
            }
            let mut guard = lock(&self.lock);
            self.asleep.fetch_add(1, Ordering::SeqCst);
            while !ready() {
                guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Runs chunks until none is left to claim.
    fn work_off(&self) {
        let claim = || {
            self.unclaimed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
        };
        while let Ok(left) = claim() {
            // SAFETY: a chunk was claimed, so its region cannot end before we finish it: `job`
            // is not written meanwhile, and its write happened before the store to `unclaimed`
            // that the claim acquired.
            let job = unsafe { *self.job.get() };
            // SAFETY: the body lives until the region ends; see `Pool::run`.
            let body = unsafe { &*job.body };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(job.chunks - left))) {
                lock(&self.panic).get_or_insert(panic);
            }
            if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1
                && self.caller_asleep.load(Ordering::SeqCst)
            {
                drop(lock(&self.lock));
                self.done.notify_all();
            }
        }
    }

    /// Waits for the chunks that others claimed.
    fn await_finish(&self) {
        let finished = || self.unfinished.load(Ordering::SeqCst) == 0;
        if wait_briefly(finished) {
            return;
        }
        // Asleep, the core is free for a worker that lost its own to another process.
        let mut guard = lock(&self.lock);
        self.caller_asleep.store(true, Ordering::SeqCst);
        while !finished() {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_asleep.store(false, Ordering::SeqCst);
    }
}

/// Spins and yields for a moment; whether `ready` came true.
fn wait_briefly(ready: impl Fn() -> bool) -> bool {
    for _ in 0..YIELDS {
        for _ in 0..SPINS / YIELDS {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
    ready()
}

/// Locks a mutex that guards no data a panic could leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for chunks in [0, 1, 2, 3, 17, 1000] {
                let runs: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |i| {
                    runs[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn regions_follow_one_another_even_after_sleep() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..2000 {
            pool.run(7, |i| {
                sum.fetch_add(i + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.swap(0, Ordering::Relaxed), 28);
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        pool.run(5, |i| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 10);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_after_the_region() {
        let pool = Pool::new(2);
        let ran = AtomicUsize::new(0);
        let region = AssertUnwindSafe(|| {
            pool.run(8, |i| {
                ran.fetch_add(1, Ordering::Relaxed);
                assert!(i != 3, "chunk three");
            })
        });
        assert!(catch_unwind(region).is_err());
        assert_eq!(ran.load(Ordering::Relaxed), 8);
        pool.run(2, |_| {});
    }
}
