//! The receiving end of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::{Event, RequestError};

/// The events of one request. Dropping it cancels the request.
///
/// The channel has room for every event that the request can still cause (`max_tokens` and the
/// context bound them), so a slow reader neither stops the engine nor loses text.
#[derive(Debug)]
pub struct RequestHandle {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) canceller: Canceller,
    pub(super) ended: bool,
}

impl RequestHandle {
    /// The next event; `None` after `Done` or `Failed`.
    pub async fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        self.received(event)
    }
    /// The same from a thread that may wait.
    ///
    /// # Panics
    /// Inside an asynchronous context.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.blocking_recv();
        self.received(event)
    }
    /// Ends the request at the engine's next step; its last event is then `Done` with
    /// [`super::FinishReason::Cancelled`], unless it ended by itself before.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }
    /// Cancels from elsewhere, such as a signal handler.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Every request ends with `Done` or `Failed`, also when the engine died holding it.
    fn received(&mut self, event: Option<Event>) -> Option<Event> {
        let event = event.unwrap_or_else(|| {
            Event::Failed(RequestError::EngineEnded("its thread is gone".to_owned()))
        });
        self.ended = matches!(event, Event::Done { .. } | Event::Failed(_));
        Some(event)
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Cancels a request.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Ends the request at the engine's next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
