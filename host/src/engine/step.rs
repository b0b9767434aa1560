//! The engine thread: schedule → batch → forward → sample → emit, until it is told to stop.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Instant;

use super::command::{Command, Evaluation, Shared};
use super::embed::Embedding;
use super::model::Model;
use super::request::{Generation, Next, is_distribution};
use super::scheduler::{Leave, Scheduler, SequenceId, Step};
use super::{FinishReason, RequestError};
use crate::ops::{Batch, OpsError, SampleRequest, Sampled};

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
    /// What the batch computes, a sequence each.
    steps: Vec<Step>,
    /// Logits of one of them.
    logits: Vec<f32>,
    /// Hidden states of one of them.
    hidden: Vec<f64>,
    /// Whether the model chooses tokens where it can.
    samples: bool,
    /// What the model chose, for each row of logits; `NeedsHost` where it did not.
    sampled: Vec<Sampled>,
}

/// What a sequence is computed for.
enum Job {
    Generate(Box<Generation>),
    Evaluate(Evaluation),
    Embed(Embedding),
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
            steps: vec![],
            logits: vec![],
            hidden: vec![],
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
            self.shared.observe(|stats| self.scheduler.observe(stats));
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
                self.scheduler.generate(id, prompt, generation.max_tokens());
                Job::Generate(generation)
            }
            Command::Evaluate { tokens, first, evaluation } => {
                self.scheduler.evaluate(id, tokens, first);
                Job::Evaluate(evaluation)
            }
            Command::Embed { tokens, first, embedding } => {
                self.scheduler.embed(id, tokens, first);
                Job::Embed(embedding)
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

    /// Computes one step of all sequences that run.
    ///
    /// # Errors
    /// What makes all further results doubtful.
    fn step(&mut self) -> Result<(), RequestError> {
        self.scheduler.schedule(&mut self.batch, &mut self.steps);
        if self.steps.is_empty() {
            return Ok(());
        }
        self.begin_jobs();
        let computed = self.compute();
        self.check(computed)?;
        self.scheduler.complete();
        let mut steps = std::mem::take(&mut self.steps);
        for step in steps.drain(..) {
            let read = self.read(&step);
            self.check(read)?;
            self.emit(step);
        }
        self.steps = steps;
        Ok(())
    }

    /// Tells the jobs that begin, and those that were moved, before their first step.
    fn begin_jobs(&mut self) {
        let mut cached_tokens = 0;
        for step in self.steps.iter().filter(|step| step.new_slot) {
            let job = self.jobs.get_mut(&step.id).expect("each sequence has its job");
            if let Job::Generate(generation) = job {
                generation.enter_slot();
            }
            let Some(cached) = step.cached else { continue };
            cached_tokens += cached;
            match job {
                Job::Generate(generation) => generation.begin(cached, Instant::now()),
                Job::Embed(embedding) => embedding.begin(cached),
                Job::Evaluate(_) => {}
            }
        }
        self.shared.observe(|stats| {
            stats.steps += 1;
            stats.rows += self.batch.tokens.len() as u64;
            stats.cached_tokens += cached_tokens as u64;
            self.scheduler.observe(stats);
        });
    }

    /// What a failure of the backend means.
    fn check(&self, result: Result<(), OpsError>) -> Result<(), RequestError> {
        // A cut file explains a device's error, so it is asked for first.
        match self.model.fault() {
            Some(fault) => Err(RequestError::CheckpointDamaged(fault)),
            None => result.map_err(|error| RequestError::Device(error.to_string())),
        }
    }

    /// Runs the batch, and lets the model choose where it can: `self.sampled` afterwards.
    fn compute(&mut self) -> Result<(), OpsError> {
        self.model.forward(&self.batch)?;
        let rows = self.batch.logit_rows.len();
        self.sampled.clear();
        self.sampled.resize(rows, Sampled::NeedsHost);
        // Rows of an evaluation are read, all of them, and then reading the others costs little.
        let has_one_row = |step: &Step| step.logits.len() <= 1;
        if rows == 0 || !self.samples || !self.steps.iter().all(has_one_row) {
            return Ok(());
        }
        let mut requests: Vec<Option<SampleRequest>> = vec![None; rows];
        let row_of = |id| {
            let step = self.steps.iter().find(|step| step.id == id)?;
            step.ends_tokens.then_some((step.logits.start, step.slot))
        };
        for (&id, job) in &mut self.jobs {
            if let (Some((row, slot)), Job::Generate(generation)) = (row_of(id), job) {
                requests[row] = generation.sample_request(slot);
            }
        }
        if requests.iter().all(Option::is_none) {
            return Ok(());
        }
        // A choice for a row that the host chooses for is made for nothing.
        let all: Vec<_> = requests.iter().map(|r| r.unwrap_or(SampleRequest::GREEDY)).collect();
        self.model.sample(&all, &mut self.sampled)?;
        assert_eq!(self.sampled.len(), rows);
        for (sampled, request) in self.sampled.iter_mut().zip(&requests) {
            if request.is_none() {
                *sampled = Sampled::NeedsHost;
            }
        }
        Ok(())
    }

    /// Reads the logits, or the hidden states, that a step's job has to see.
    fn read(&mut self, step: &Step) -> Result<(), OpsError> {
        self.logits.clear();
        self.hidden.clear();
        let chosen = self.sampled[step.logits.clone()].iter().all(|s| *s != Sampled::NeedsHost);
        let Some(job) = self.jobs.get(&step.id).filter(|_| !chosen) else { return Ok(()) };
        if let Job::Embed(_) = job {
            // The rows of a sequence follow each other.
            let first = self.batch.logit_rows[step.logits.start];
            return self.model.read_hidden(first..first + step.logits.len(), &mut self.hidden);
        }
        self.model.read_logits(step.logits.clone(), &mut self.logits)?;
        assert_eq!(self.logits.len(), step.logits.len() * self.vocab_size);
        Ok(())
    }

    /// Gives the results of a step to its job.
    fn emit(&mut self, step: Step) {
        let now = Instant::now();
        let outcome = match self.jobs.get_mut(&step.id) {
            Some(Job::Generate(generation)) => {
                let done = if step.ends_prefill { generation.prefilled(now) } else { None };
                match done {
                    Some(reason) => Next::Done(reason),
                    None if !step.ends_tokens => return, // more of the prompt follows
                    None => match self.sampled[step.logits.start] {
                        Sampled::NeedsHost => generation.next(&mut self.logits),
                        sampled => generation.next_sampled(sampled),
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
            Some(Job::Embed(embedding)) => match embedding.see(step.first_logits, &self.hidden) {
                Err(error) => Next::Failed(error),
                Ok(()) if step.ends_tokens => Next::Done(FinishReason::Length),
                Ok(()) => return,
            },
            None => return,
        };
        match outcome {
            Next::Continue(token) => self.scheduler.push(step.id, token),
            Next::Done(reason) => {
                self.scheduler.remove(step.id, Leave::Prefix);
                match self.jobs.remove(&step.id) {
                    Some(Job::Generate(generation)) => generation.done(reason, Instant::now()),
                    Some(Job::Evaluate(evaluation)) => evaluation.end(Ok(())),
                    Some(Job::Embed(embedding)) => embedding.end(Ok(())),
                    None => {}
                }
            }
            Next::Failed(error) => {
                // What led to such logits must not be the next request's prefix; a grammar that failed
                // says nothing against them.
                let leave = match error {
                    RequestError::NonFiniteLogits { .. } => Leave::Nothing,
                    _ => Leave::Prefix,
                };
                self.scheduler.remove(step.id, leave);
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
            Job::Evaluate(evaluation) => evaluation.canceller.is_cancelled(),
            Job::Embed(embedding) => embedding.is_cancelled(),
        }
    }

    /// Ends it with an error, or because the engine is being dropped.
    fn end(self, error: Option<RequestError>) {
        match (self, error) {
            (Job::Generate(generation), Some(error)) => generation.failed(error),
            (Job::Generate(generation), None) => {
                generation.done(FinishReason::Cancelled, Instant::now());
            }
            (Job::Evaluate(evaluation), error) => {
                evaluation.end(Err(error.unwrap_or_else(stopped)))
            }
            (Job::Embed(embedding), error) => embedding.end(Err(error.unwrap_or_else(stopped))),
        }
    }
}

/// What ends a request that could still be answered.
fn stopped() -> RequestError {
    RequestError::EngineEnded("it is being shut down".to_owned())
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
