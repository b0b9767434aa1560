//! A model without weights whose next token depends on every token before, read back through the
//! pages that it was given: a page that is wrong, stale or shared changes the answer.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::model::{Model, TextStream, Vocabulary};
use super::scheduler::Limits;
use super::{
    Engine, Event, FinishReason, ModelInfo, Parts, Pooling, Request, RequestHandle, Timings,
};
use crate::kv::{PAGE_SIZE, PagePlace, pages_for};
use crate::ops::cuda::Emulated;
use crate::ops::{Batch, HeadShape, KvDtype, OpsError, SampleLimits, SampleRequest, Sampled};
use crate::plan::{ActivationBytes, Demand, LayerKv, WeightBytes, plan};
use crate::sampling::SamplingParams;

pub(super) const VOCAB_SIZE: usize = 32;
/// Width of the hidden states.
pub(super) const HIDDEN_SIZE: usize = 3;
/// Ends an answer.
pub(super) const END: u32 = 30;
/// Has text that only the next token, or the end, brings out.
pub(super) const LATE: u32 = 27;

/// What the model does instead of computing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Act {
    Compute,
    Logit(f32),
    Panic,
    DeviceError,
}

/// Who chooses tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Samples {
    /// The host, from logits.
    Host,
    /// The model, by the kernels, where it can.
    Model,
    /// The same, but every third choice is left to the host.
    ModelAtTimes,
}

/// How to make an engine for a test.
pub(super) struct Setup {
    pub limits: Limits,
    /// Pages of the cache; `None` takes those of one sequence of the longest kind.
    pub kv_pages: Option<usize>,
    pub max_waiting: usize,
    /// `next(position)` is the favourite after that position, instead of the hash's.
    pub next: Option<fn(usize) -> u32>,
    /// What to do in step `n`.
    pub act: Box<dyn FnMut(usize) -> Act + Send>,
    /// Each step waits for a permit.
    pub gated: bool,
    pub has_text: bool,
    pub samples: Samples,
    pub pooling: Pooling,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits {
                max_seq_len: 200,
                max_running: 1,
                batch_rows: 20,
                mixed_rows: 12,
                logit_rows: 7,
                reserve_tokens: 8,
                host_slots: 0,
                prefix_reuse: true,
                rope_switch: None,
                rope_follows_length: false,
            },
            kv_pages: None,
            max_waiting: 63,
            next: None,
            act: Box::new(|_| Act::Compute),
            gated: false,
            has_text: true,
            samples: Samples::Host,
            pooling: Pooling::Last,
        }
    }
}

/// An engine over the fake model, and what the test can do to it and see of it.
pub(super) struct Bench {
    pub engine: Engine,
    /// Permits for steps; only with `gated`.
    pub gate: Sender<()>,
    /// (rows, context_len) of each step so far.
    pub steps: Arc<Mutex<Vec<(usize, usize)>>>,
    pub damaged: Arc<AtomicBool>,
    /// How often logits were read.
    pub reads: Arc<AtomicUsize>,
}

impl Setup {
    pub fn start(self) -> Bench {
        let (gate, permits) = channel();
        let steps = Arc::new(Mutex::new(vec![]));
        let damaged = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(AtomicUsize::new(0));
        let limits = self.limits;
        let sizes =
            SampleLimits { rows: limits.max_running, slots: limits.max_running, vocab: VOCAB_SIZE };
        let model = FakeModel {
            cells: HashMap::new(),
            limits,
            next: self.next,
            act: self.act,
            permits: self.gated.then_some(permits),
            steps: steps.clone(),
            damaged: damaged.clone(),
            reads: reads.clone(),
            logits: vec![],
            hidden: HashMap::new(),
            samples: self.samples,
            kernels: Emulated::new(&sizes),
            choices: 0,
        };
        let info = ModelInfo {
            name: "fake".to_owned(),
            architecture: "fake".to_owned(),
            description: String::new(),
            parameters: 0,
            weight_bytes: 0,
            vocab_size: VOCAB_SIZE,
            num_layers: 1,
            hidden_size: HIDDEN_SIZE,
            pooling: self.pooling,
            max_seq_len: limits.max_seq_len,
            device: "none".to_owned(),
        };
        let plan = plan(&Demand {
            weights: &WeightBytes { layers: vec![0], ..WeightBytes::default() },
            kv_layers: &[LayerKv { heads: HeadShape { heads: 1, head_dim: 1 }, window: None }],
            kv_dtype: KvDtype::F32,
            activations: ActivationBytes { layers: &|rows| rows as u64, logits: &|_| 0 },
            host_bytes: &|_| 0,
            sequence_bytes: &|_| 0,
            spill_bytes: 0,
            prefill_chunk: Some(limits.batch_rows),
            sequences: 1,
            trained_context: limits.max_seq_len,
            max_seq_len: Some(limits.max_seq_len),
            min_kv_tokens: None,
            kv_pages: self.kv_pages,
            free_bytes: None,
            device: None,
        })
        .unwrap();
        let vocabulary = self.has_text.then(|| Arc::new(Letters) as Arc<dyn Vocabulary>);
        let (tokenizer, template, notices) = (None, None, vec![]);
        let max_waiting = self.max_waiting;
        let parts =
            Parts { info, tokenizer, template, vocabulary, plan, notices, limits, max_waiting };
        let engine = Engine::start(Box::new(model), parts).unwrap();
        Bench { engine, gate, steps, damaged, reads }
    }
}

struct FakeModel {
    cells: HashMap<(u32, usize), u64>,
    limits: Limits,
    next: Option<fn(usize) -> u32>,
    act: Box<dyn FnMut(usize) -> Act + Send>,
    permits: Option<Receiver<()>>,
    steps: Arc<Mutex<Vec<(usize, usize)>>>,
    damaged: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    /// Of the last batch.
    logits: Vec<f32>,
    /// The same of the rows that have logits, by row.
    hidden: HashMap<usize, Vec<f64>>,
    samples: Samples,
    kernels: Emulated,
    choices: usize,
}

impl Model for FakeModel {
    fn forward(&mut self, batch: &Batch) -> Result<(), OpsError> {
        if let Some(permits) = &self.permits {
            let _ = permits.recv(); // without its sender the gate is open
        }
        assert!(!batch.tokens.is_empty());
        assert!(batch.tokens.len() <= self.limits.batch_rows);
        assert!(batch.logit_rows.len() <= self.limits.logit_rows);
        assert_eq!(batch.spans.iter().map(|span| span.rows).sum::<usize>(), batch.tokens.len());
        let step = {
            let mut steps = self.steps.lock().unwrap();
            steps.extend(batch.spans.iter().map(|span| (span.rows, span.context_len)));
            steps.len() - 1
        };
        for one in &batch.moves {
            let [PagePlace::Pool(from), PagePlace::Pool(to)] = [one.from, one.to] else {
                panic!("there are no slots on the host");
            };
            for slot in 0..PAGE_SIZE {
                if let Some(&cell) = self.cells.get(&(from, slot)) {
                    self.cells.insert((to, slot), cell);
                }
            }
        }
        let logits = &mut self.logits;
        logits.clear();
        self.hidden.clear();
        for span in &batch.spans {
            assert!(span.context_len <= self.limits.max_seq_len);
            assert!(span.rope_len >= span.context_len);
            assert!(batch.spans.len() <= self.limits.max_running);
            assert_eq!(span.page_count(), pages_for(span.context_len));
            let cell = |p: usize| (span.pages[0][p / PAGE_SIZE], p % PAGE_SIZE);
            let first = span.context_len - span.rows;
            for (i, &token) in batch.tokens[span.first_row..][..span.rows].iter().enumerate() {
                let position = first + i;
                self.cells.insert(cell(position), mix(position as u64, token));
                if batch.logit_rows.contains(&(span.first_row + i)) {
                    let state =
                        (0..=position).fold(0, |state, p| combine(state, self.cells[&cell(p)]));
                    logits.extend(row(state, self.next.map(|next| next(position))));
                    self.hidden.insert(span.first_row + i, hidden(state));
                }
            }
        }
        match (self.act)(step) {
            Act::Compute => {}
            Act::Logit(value) => {
                if let Some(last) = logits.last_mut() {
                    *last = value;
                }
                self.hidden.values_mut().for_each(|hidden| hidden[0] = f64::from(value));
            }
            Act::Panic => panic!("the fake model was told to panic"),
            Act::DeviceError => return Err(OpsError::Device("it burns".to_owned())),
        }
        Ok(())
    }

    fn read_logits(&mut self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), OpsError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        out.clear();
        out.extend_from_slice(&self.logits[rows.start * VOCAB_SIZE..rows.end * VOCAB_SIZE]);
        Ok(())
    }

    fn read_hidden(&mut self, rows: Range<usize>, out: &mut Vec<f64>) -> Result<(), OpsError> {
        out.clear();
        rows.for_each(|row| out.extend(&self.hidden[&row]));
        Ok(())
    }

    fn samples(&self) -> bool {
        self.samples != Samples::Host
    }

    fn sample(
        &mut self,
        requests: &[SampleRequest],
        out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        *out = self.kernels.sample(&self.logits, requests);
        self.choices += 1;
        if self.samples == Samples::ModelAtTimes && self.choices.is_multiple_of(3) {
            out.fill(Sampled::NeedsHost);
        }
        Ok(())
    }

    fn fault(&self) -> Option<String> {
        self.damaged.load(Ordering::SeqCst).then(|| "model.gguf was truncated".to_owned())
    }
}

pub(super) fn mix(position: u64, token: u32) -> u64 {
    combine(position.wrapping_mul(0x9E37_79B9_7F4A_7C15), u64::from(token) + 1)
}

pub(super) fn combine(state: u64, value: u64) -> u64 {
    let x = (state.rotate_left(17) ^ value).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

fn row(state: u64, next: Option<u32>) -> Vec<f32> {
    let random = |token: u32| (mix(state, token) >> 40) as f32 / (1u64 << 24) as f32 * 4.0;
    let favour = |token| if next == Some(token) { 10.0 } else { 0.0 };
    (0..VOCAB_SIZE as u32).map(|token| random(token) + favour(token)).collect()
}

fn hidden(state: u64) -> Vec<f64> {
    (0..HIDDEN_SIZE).map(|i| (mix(state, 100 + i as u32) >> 32) as f64 - 2e9).collect()
}

/// The hidden state of each token, from the tokens alone.
pub(super) fn reference_hidden(tokens: &[u32]) -> Vec<Vec<f64>> {
    let mut state = 0;
    let states = tokens.iter().enumerate().map(|(position, &token)| {
        state = combine(state, mix(position as u64, token));
        hidden(state)
    });
    states.collect()
}

/// The logits after each token, from the tokens alone: what any run must give.
pub(super) fn reference_logits(tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut state = 0;
    let states = tokens.iter().enumerate().map(|(position, &token)| {
        state = combine(state, mix(position as u64, token));
        row(state, None)
    });
    states.collect()
}

/// The greedy answer to a prompt, up to and including the end, of at most `n` tokens.
pub(super) fn reference_answer(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + n && !tokens[prompt.len()..].contains(&END) {
        let logits = reference_logits(&tokens).pop().unwrap();
        let best = (0..VOCAB_SIZE).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(best as u32);
    }
    tokens.split_off(prompt.len())
}

/// Tokens are letters.
struct Letters;

impl Vocabulary for Letters {
    fn stream(&self, _shown: &[u32]) -> Box<dyn TextStream> {
        Box::new(LetterStream { late: false })
    }
    fn end_of_generation(&self) -> &[u32] {
        &[END, 1000] // a vocabulary may be larger than the model's
    }
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let id = |c: char| c.is_ascii_lowercase().then(|| c as u32 - 'a' as u32);
        text.chars().map(|c| id(c).ok_or_else(|| format!("{c:?} is no letter"))).collect()
    }
}

struct LetterStream {
    late: bool,
}

impl TextStream for LetterStream {
    fn push(&mut self, id: u32) -> String {
        let late = self.finish();
        self.late = id == LATE;
        if self.late { late } else { late + &letter(id) }
    }
    fn finish(&mut self) -> String {
        if std::mem::take(&mut self.late) { "~".to_owned() } else { String::new() }
    }
}

fn letter(id: u32) -> String {
    char::from_u32('a' as u32 + id).unwrap().to_string()
}

/// The text of an answer: of all tokens but the end.
pub(super) fn text_of(tokens: &[u32]) -> String {
    let shown = tokens.iter().filter(|&&id| id != END);
    shown.map(|&id| if id == LATE { "~".to_owned() } else { letter(id) }).collect()
}

/// A greedy request.
pub(super) fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: SamplingParams { temperature: 0.0, seed: Some(1), ..SamplingParams::default() },
        stop: vec![],
        logprobs: None,
        ignore_eos: false,
        ..Request::default()
    }
}

/// A whole answer, its events checked for their order.
#[derive(Debug)]
pub(super) struct Answer {
    pub cached: Option<usize>,
    pub tokens: Vec<u32>,
    pub text: String,
    pub logprobs: Vec<super::TokenLogprob>,
    pub end: Result<(FinishReason, Timings), super::RequestError>,
}

impl Answer {
    pub fn reason(&self) -> FinishReason {
        self.end.clone().unwrap().0
    }
}

/// Reads a request to its end, in time.
pub(super) fn read(handle: RequestHandle) -> Answer {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let _ = sender.send(read_events(handle)); // nobody waits after the time-out
    });
    receiver.recv_timeout(Duration::from_secs(60)).expect("a request hangs")
}

fn read_events(mut handle: RequestHandle) -> Answer {
    let (mut cached, mut tokens, mut text, mut logprobs) = (None, vec![], String::new(), vec![]);
    loop {
        let end = match handle.blocking_recv().expect("events end with Done or Failed") {
            Event::Prefilled { cached: found, .. } => {
                assert!(cached.is_none() && tokens.is_empty());
                cached = Some(found);
                continue;
            }
            Event::Token { id, text: piece, logprob } => {
                assert!(cached.is_some());
                tokens.push(id);
                text.push_str(&piece);
                logprobs.extend(logprob);
                continue;
            }
            Event::Done { text: piece, reason, timings } => {
                text.push_str(&piece);
                Ok((reason, timings))
            }
            Event::Failed(error) => Err(error),
        };
        assert!(handle.blocking_recv().is_none());
        return Answer { cached, tokens, text, logprobs, end };
    }
}

impl Bench {
    /// Submits and reads.
    pub fn answer(&self, request: Request) -> Answer {
        read(self.engine.submit(request).unwrap())
    }
    /// Lets steps happen.
    pub fn permit(&self, steps: usize) {
        (0..steps).for_each(|_| self.gate.send(()).unwrap());
    }
    /// Waits until so many steps have begun.
    pub fn wait_for_steps(&self, steps: usize) {
        self.wait("steps", || self.steps.lock().unwrap().len() >= steps);
    }
    /// Waits until nothing is in progress.
    pub fn wait_until_idle(&self) {
        self.wait("idleness", || self.engine.in_progress() == 0);
    }
    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..30_000 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("waited for {what} too long");
    }
}
