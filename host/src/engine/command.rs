//! What is sent to the engine thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::embed::Embedding;
use super::handle::Canceller;
use super::request::Generation;
use super::{EngineError, EngineStats, RequestError, Visit};

/// An order to the engine thread. Cancellation is not one: it is a flag of the request, so that
/// no queue can stand in its way.
pub(super) enum Command {
    /// Answer a prompt.
    Generate { prompt: Vec<u32>, generation: Box<Generation> },
    /// Give the logits of known tokens.
    Evaluate { tokens: Vec<u32>, first: usize, evaluation: Evaluation },
    /// Make a vector of tokens, of their hidden states from position `first` on.
    Embed { tokens: Vec<u32>, first: usize, embedding: Embedding },
    /// Wake up and see that [`Shared::stopping`] is set.
    Stop,
}

/// An evaluation in progress.
pub(super) struct Evaluation {
    pub visit: Visit,
    pub canceller: Canceller,
    /// Room for the one answer.
    pub reply: SyncSender<Result<(), EngineError>>,
    pub slot: Slot,
}

/// What both sides of the command queue see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Set once, when the engine thread ends by a fault.
    pub failure: OnceLock<RequestError>,
    /// Set when the engine is being dropped.
    pub stopping: AtomicBool,
    in_progress: AtomicUsize,
    stats: Mutex<EngineStats>,
}

/// The right of one request to be in progress; dropping it makes room for another.
pub(super) struct Slot(Arc<Shared>);

impl Shared {
    /// A slot, unless `limit` are taken.
    pub fn slot(self: &Arc<Self>, limit: usize) -> Option<Slot> {
        let take = |n: usize| (n < limit).then_some(n + 1);
        let taken = self.in_progress.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.ok().map(|_| Slot(self.clone()))
    }
    /// Requests waiting or running.
    pub fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::Acquire)
    }
    /// What the engine thread said last.
    pub fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Changes what others see.
    pub fn observe(&self, change: impl FnOnce(&mut EngineStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::AcqRel);
    }
}
