//! How many requests run at a time, and how many wait behind them, first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::ApiError;
use crate::limits::QUEUE;
use crate::metrics::Metrics;

/// Most answers that one request computes at a time; the others of its `n` follow.
const ANSWERS_AT_ONCE: usize = 16;

/// The way into the engine.
#[derive(Debug)]
pub struct Gate {
    requests: Arc<Semaphore>,
    /// Places in the engine's own queue.
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    places: u32,
}

/// The right to use the engine.
#[derive(Debug)]
pub struct Permit {
    _request: OwnedSemaphorePermit,
    places: OwnedSemaphorePermit,
}

impl Permit {
    /// Answers it may compute at a time.
    pub fn places(&self) -> usize {
        self.places.num_permits()
    }
}

impl Gate {
    /// `max_concurrent` requests, 0 for no bound, in an engine that takes `places` answers.
    pub fn new(max_concurrent: usize, places: usize, metrics: Arc<Metrics>) -> Self {
        let requests = match max_concurrent {
            0 => places,
            limit => limit.min(Semaphore::MAX_PERMITS),
        };
        Self {
            requests: Arc::new(Semaphore::new(requests)),
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Takes a place in the queue for a request of this many answers.
    ///
    /// # Errors
    /// 503 when the queue is full.
    pub fn ticket(self: &Arc<Self>, answers: usize) -> Result<Ticket, ApiError> {
        let take = |waiting: usize| (waiting < QUEUE).then_some(waiting + 1);
        if self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            let message = format!("the server is busy: {QUEUE} requests wait; try again later");
            return Err(ApiError::unavailable(message).code("queue_full"));
        }
        self.metrics.waiting.inc();
        let places = answers.clamp(1, ANSWERS_AT_ONCE) as u32;
        Ok(Ticket { gate: self.clone(), places })
    }
}

impl Ticket {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When the server is at its end.
    pub async fn wait(self) -> Result<Permit, ApiError> {
        let closed = |_| ApiError::unavailable("the server is stopping");
        let request = self.gate.requests.clone().acquire_owned().await.map_err(closed)?;
        let places = self.gate.places.clone().acquire_many_owned(self.places).await;
        Ok(Permit { _request: request, places: places.map_err(closed)? })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Ordering::AcqRel);
        self.gate.metrics.waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn one_runs_and_a_bounded_number_waits() {
        run(async {
            let gate = Arc::new(Gate::new(1, 4, Arc::new(Metrics::new())));
            let running = gate.ticket(1).unwrap().wait().await.unwrap();
            assert_eq!(running.places(), 1);
            let tickets: Vec<_> = (0..QUEUE).map(|_| gate.ticket(1).unwrap()).collect();
            let refused = gate.ticket(1).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.retry_after_s), (503, Some(1)));
            drop(tickets);
            let mut next = std::pin::pin!(gate.ticket(4).unwrap().wait());
            assert!(futures_now(next.as_mut()).is_none(), "it waits behind the running one");
            drop(running);
            assert_eq!(next.await.unwrap().places(), 4);
            assert_eq!(gate.waiting.load(Ordering::Acquire), 0);
        });
    }

    /// Polls once.
    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
