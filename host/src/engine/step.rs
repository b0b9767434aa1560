//! The engine thread: schedule → batch → forward → sample → emit, until it is told to stop.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Instant;

use super::command::{Command, Evaluation, Shared};
use super::model::Model;
use super::request::{Generation, Next, is_distribution};
use super::scheduler::{Leave, Scheduler, SequenceId, Step};
use super::{FinishReason, RequestError};
use crate::ops::{Batch, OpsError, Sampled};

/// Everything the engine thread owns.
pub(super) struct Worker {
    model: Box<dyn Model>,
    vocab_size: usize,
    scheduler: Scheduler,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    jobs: BTreeMap<SequenceId, Job>,
    next_id: SequenceId,
    batch: Batch,
    logits: Vec<f32>,
    /// Whether the model chooses tokens where it can.
    samples: bool,
    sampled: Vec<Sampled>,
}

/// What a sequence is computed for.
enum Job {
    Generate(Box<Generation>),
    Evaluate(Evaluation),
}

/// The engine is to end, and nobody failed.
struct Stopping;

impl Worker {
    pub fn new(
        model: Box<dyn Model>,
        vocab_size: usize,
        scheduler: Scheduler,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            samples: model.samples(),
            model,
            vocab_size,
            scheduler,
            commands,
            shared,
            jobs: BTreeMap::new(),
            next_id: 0,
            batch: Batch::default(),
            logits: vec![],
            sampled: vec![],
        }
    }

    /// The thread's whole life. Whatever ends it, every request gets its last event.
    pub fn run(mut self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let failure = match end {
            Ok(Ok(Stopping)) => None,
            Ok(Err(fault)) => Some(fault),
            Err(panic) => Some(RequestError::EngineEnded(format!(
                "an internal error: {}",
                panic_message(&*panic)
            ))),
        };
        if let Some(error) = &failure {
            tracing::error!(%error, "the engine takes no requests any more");
            // Before the queue is emptied, so that nothing is queued behind it.
            let _ = self.shared.failure.set(error.clone());
        }
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        for (_, job) in std::mem::take(&mut self.jobs) {
            job.end(failure.clone());
        }
    }

    fn serve(&mut self) -> Result<Stopping, RequestError> {
        while self.take_commands().is_ok() {
            self.end_cancelled();
            self.step()?;
        }
        Ok(Stopping)
    }

    /// Takes all commands that are there; waits for one when there is nothing to compute.
    fn take_commands(&mut self) -> Result<(), Stopping> {
        if self.jobs.is_empty() {
            let command = self.commands.recv().map_err(|RecvError| Stopping)?;
            self.take(command);
        }
        loop {
            if self.shared.stopping.load(Ordering::Acquire) {
                return Err(Stopping);
            }
            match self.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Stopping),
            }
        }
    }

    fn take(&mut self, command: Command) {
        let id = self.next_id;
        let job = match command {
            Command::Generate { prompt, generation } => {
                self.scheduler.generate(id, prompt);
                Job::Generate(generation)
            }
            Command::Evaluate { tokens, first, evaluation } => {
                self.scheduler.evaluate(id, tokens, first);
                Job::Evaluate(evaluation)
            }
            Command::Stop => return,
        };
        self.next_id += 1;
        self.jobs.insert(id, job);
    }

    /// Ends what nobody wants any more, running or waiting.
    fn end_cancelled(&mut self) {
        let now = Instant::now();
        let scheduler = &mut self.scheduler;
        for (id, job) in self.jobs.extract_if(.., |_, job| job.is_cancelled()) {
            scheduler.remove(id, Leave::Prefix);
            if let Job::Generate(generation) = job {
                generation.done(FinishReason::Cancelled, now);
            }
        }
    }

    /// Computes one step.
    ///
    /// # Errors
    /// What makes all further results doubtful.
    fn step(&mut self) -> Result<(), RequestError> {
        let Some(step) = self.scheduler.schedule(&mut self.batch) else { return Ok(()) };
        let job = self.jobs.get_mut(&step.id).expect("each sequence has its job");
        if let (Some(cached), Job::Generate(generation)) = (step.cached, job) {
            generation.begin(cached, Instant::now());
        }
        let computed = self.compute(&step);
        // A cut file explains a device's error, so it is asked for first.
        if let Some(fault) = self.model.fault() {
            return Err(RequestError::CheckpointDamaged(fault));
        }
        let sampled = computed.map_err(|error| RequestError::Device(error.to_string()))?;
        self.scheduler.complete();
        self.emit(step, sampled);
        Ok(())
    }

    /// Runs the batch. What the model chose after it, or else its logits, in `self.logits`.
    fn compute(&mut self, step: &Step) -> Result<Option<Sampled>, OpsError> {
        self.model.forward(&self.batch)?;
        self.logits.clear();
        let rows = self.batch.logit_rows.len();
        if rows == 0 {
            return Ok(None);
        }
        if self.samples
            && let Some(Job::Generate(generation)) = self.jobs.get_mut(&step.id)
            && let Some(request) = generation.sample_request(step.slot)
        {
            self.model.sample(&[request], &mut self.sampled)?;
            match self.sampled[..] {
                [Sampled::NeedsHost] => {}
                [sampled] => return Ok(Some(sampled)),
                _ => panic!("one row was to be sampled"),
            }
        }
        self.model.read_logits(&mut self.logits)?;
        assert_eq!(self.logits.len(), rows * self.vocab_size);
        Ok(None)
    }

    /// Gives the results of a step to its job.
    fn emit(&mut self, step: Step, sampled: Option<Sampled>) {
        let now = Instant::now();
        let outcome = match self.jobs.get_mut(&step.id) {
            Some(Job::Generate(generation)) => {
                let done = if step.ends_prefill { generation.prefilled(now) } else { None };
                match done {
                    Some(reason) => Next::Done(reason),
                    None if !step.ends_tokens => return, // more of the prompt follows
                    None => match sampled {
                        Some(sampled) => generation.next_sampled(sampled),
                        None => generation.next(&mut self.logits),
                    },
                }
            }
            Some(Job::Evaluate(evaluation)) => {
                let rows = self.logits.chunks_exact(self.vocab_size);
                match evaluation.see(step.first_logits, rows) {
                    Err(error) => Next::Failed(error),
                    Ok(()) if step.ends_tokens => Next::Done(FinishReason::Length),
                    Ok(()) => return,
                }
            }
            None => return,
        };
        match outcome {
            Next::Continue(token) => self.scheduler.push(step.id, token),
            Next::Done(reason) => {
                self.scheduler.remove(step.id, Leave::Prefix);
                match self.jobs.remove(&step.id) {
                    Some(Job::Generate(generation)) => generation.done(reason, Instant::now()),
                    Some(Job::Evaluate(evaluation)) => evaluation.end(Ok(())),
                    None => {}
                }
            }
            Next::Failed(error) => {
                // What led to such logits must not be the next request's prefix.
                self.scheduler.remove(step.id, Leave::Nothing);
                if let Some(job) = self.jobs.remove(&step.id) {
                    job.end(Some(error));
                }
            }
        }
    }
}

impl Job {
    fn is_cancelled(&self) -> bool {
        match self {
            Job::Generate(generation) => generation.is_cancelled(),
            Job::Evaluate(_) => false, // its caller waits for it
        }
    }

    /// Ends it with an error, or because the engine is being dropped.
    fn end(self, error: Option<RequestError>) {
        match (self, error) {
            (Job::Generate(generation), Some(error)) => generation.failed(error),
            (Job::Generate(generation), None) => {
                generation.done(FinishReason::Cancelled, Instant::now());
            }
            (Job::Evaluate(evaluation), error) => evaluation.end(Err(error
                .unwrap_or_else(|| RequestError::EngineEnded("it is being shut down".to_owned())))),
        }
    }
}

impl Evaluation {
    /// Shows the logits of positions from `first` on.
    fn see<'a>(
        &mut self,
        first: usize,
        rows: impl Iterator<Item = &'a [f32]>,
    ) -> Result<(), RequestError> {
        for (position, logits) in (first..).zip(rows) {
            if !is_distribution(logits) {
                return Err(RequestError::NonFiniteLogits { tokens: position });
            }
            (self.visit)(position, logits);
        }
        Ok(())
    }

    fn end(self, result: Result<(), RequestError>) {
        // The visitor goes first: whoever waits for the reply may want what it owned.
        drop((self.visit, self.slot));
        let _ = self.reply.send(result.map_err(Into::into)); // nobody waits: nobody is told
    }
}

/// What a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
