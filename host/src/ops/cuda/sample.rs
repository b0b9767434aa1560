//! Chooses tokens on the device, so that a step reads back 16 bytes a row instead of its logits.
//!
//! What the launches read is packed into one staging buffer and copied in one piece, as a step is:
//! rows, their biases, and what changed in the windows that penalties count.

#[cfg(test)]
mod emulated;

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Mutex;

use cuda_std::{Global, GlobalMut, Launch};
use gpu_kernels::kernels::sample::{
    CHOSEN, COUNT, CountParams, DRAW, MAX_CANDIDATES, NO_DISTRIBUTION, SCAN, SampleParams,
    SampleRow, count_launch, launch, parts,
};

#[cfg(test)]
pub(crate) use self::emulated::Emulated;
use super::{CudaOps, lock};
use crate::cuda::{DeviceBuffer, PinnedBuffer};
use crate::ops::{MAX_BIASES, OpsError, SampleLimits, SampleRequest, Sampled, Tensor};

/// Changes of counts that are copied at once: a step's are two a row, a prompt's come in pieces.
const MAX_CHANGES: usize = 4096;

/// Bytes of a row's settings.
const ROW_BYTES: usize = 64;
/// Bytes of a bias.
const BIAS_BYTES: usize = 8;
/// Bytes of a change, of a result, and of what parts of a row hand to each other.
const WORDS_BYTES: usize = 16;

/// Room for choosing.
#[derive(Debug, Default)]
pub struct Workspace(Mutex<Option<Buffers>>);

#[derive(Debug)]
struct Buffers {
    layout: Layout,
    staging: PinnedBuffer,
    input: DeviceBuffer,
    scratch: DeviceBuffer,
    state: DeviceBuffer,
    results: PinnedBuffer,
}

impl Workspace {
    /// Makes room; false for a vocabulary that the kernels cannot choose from.
    pub fn reserve(&self, ops: &CudaOps, limits: &SampleLimits) -> Result<bool, OpsError> {
        let Some(layout) = Layout::new(limits) else { return Ok(false) };
        let context = &ops.context;
        let state = context.alloc(layout.state_bytes)?;
        ops.stream.fill(&state, 0..layout.state_bytes, 0)?;
        *lock(&self.0) = Some(Buffers {
            staging: context.alloc_pinned(layout.input_bytes)?,
            input: context.alloc(layout.input_bytes)?,
            scratch: context.alloc(layout.scratch_bytes)?,
            state,
            results: context.alloc_pinned(WORDS_BYTES * limits.rows)?,
            layout,
        });
        Ok(true)
    }

    /// Chooses the token after each row of `logits`.
    pub fn sample(
        &self,
        ops: &CudaOps,
        logits: &Tensor,
        requests: &[SampleRequest],
        out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        let mut buffers = lock(&self.0);
        let buffers = buffers.as_mut().expect("room was reserved when the model was loaded");
        let Buffers { layout, staging, input, scratch, state, results } = buffers;
        assert_eq!((logits.rows(), logits.cols()), (requests.len(), layout.limits.vocab));
        let stream = &ops.stream;
        for slot in fresh_slots(requests) {
            stream.fill(state, layout.slot(slot), 0)?;
        }
        let bases =
            Bases { input: input.address(), scratch: scratch.address(), state: state.address() };
        let mut changes = changes(requests);
        let packed = loop {
            let packed = layout.pack(requests, &mut changes, staging.bytes_mut()?);
            stream.upload(staging, 0..packed.bytes, input, 0)?;
            let params = layout.count_params(&packed, &bases);
            stream.launch(&COUNT, count_launch(params.n), &params)?;
            if changes.peek().is_none() {
                break packed;
            }
        };
        let params = layout.params(&packed, &bases, logits.device().view());
        let shape = layout.launch(requests);
        stream.launch(&SCAN, shape, &params)?;
        if is_drawn(requests) {
            stream.launch(&DRAW, shape, &params)?;
        }
        let bytes = WORDS_BYTES * requests.len();
        stream.download(scratch, layout.out, results, 0..bytes)?;
        out.clear();
        let rows = results.bytes()?[..bytes].chunks_exact(WORDS_BYTES);
        out.extend(rows.map(|row| result(bytemuck::pod_read_unaligned(row))));
        Ok(())
    }
}

/// Bytes on the device of what [`Workspace::reserve`] makes.
pub fn workspace_bytes(limits: &SampleLimits) -> usize {
    Layout::new(limits).map_or(0, |l| l.input_bytes + l.scratch_bytes + l.state_bytes)
}

/// Slots that count another sequence's tokens.
fn fresh_slots(requests: &[SampleRequest]) -> impl Iterator<Item = usize> {
    let windows = requests.iter().filter_map(|request| request.window);
    windows.filter(|window| window.fresh).map(|window| window.slot)
}

/// Whether a row's token is drawn.
fn is_drawn(requests: &[SampleRequest]) -> bool {
    requests.iter().any(|request| request.row.temperature != 0.0)
}

/// What changed in all windows, as [`COUNT`] reads it.
fn changes(requests: &[SampleRequest]) -> Peekable<impl Iterator<Item = [u32; 4]>> {
    let windows = requests.iter().filter_map(|request| request.window);
    let changes = windows.flat_map(|window| {
        let change = move |by: i32| move |&token: &u32| [window.slot as u32, token, by as u32, 0];
        window.entered.iter().map(change(1)).chain(window.left.iter().map(change(-1)))
    });
    changes.peekable()
}

/// What the kernels say of a row.
fn result([token, status, logprob, _]: [u32; 4]) -> Sampled {
    match status {
        CHOSEN => Sampled::Token { id: token, logprob: f32::from_bits(logprob) },
        NO_DISTRIBUTION => Sampled::NoDistribution,
        _ => Sampled::NeedsHost,
    }
}

/// Where everything lies in the buffers, in bytes.
#[derive(Debug)]
struct Layout {
    limits: SampleLimits,
    input_bytes: usize,
    // Of the scratch memory.
    adjusted: usize,
    scanned: usize,
    summary: usize,
    sums: usize,
    candidates: usize,
    out: usize,
    scratch_bytes: usize,
    // Of the state, which is zeros at first. Tickets are at its start.
    counts: usize,
    state_bytes: usize,
}

/// Where the buffers start on the device.
struct Bases {
    input: u64,
    scratch: u64,
    state: u64,
}

/// Where the parts of an input lie, in bytes. Rows are at its start.
struct Packed {
    biases: usize,
    changes: usize,
    bytes: usize,
}

impl Layout {
    /// `None` for a vocabulary that the kernels cannot choose from.
    fn new(limits: &SampleLimits) -> Option<Self> {
        let SampleLimits { rows, slots, vocab } = *limits;
        let vocab_size = u32::try_from(vocab).ok()?;
        if vocab == 0 || !SampleRow::plain(0.0, 0.0).supports(vocab_size) {
            return None;
        }
        let parts = parts(vocab_size) as usize;
        let mut scratch = Taker::default();
        let mut state = Taker::default();
        state.take(4 * rows);
        Some(Self {
            limits: *limits,
            input_bytes: Packed::new(rows, MAX_BIASES * rows, MAX_CHANGES).bytes,
            adjusted: scratch.take(4 * rows * vocab),
            scanned: scratch.take(WORDS_BYTES * rows * parts),
            summary: scratch.take(WORDS_BYTES * rows),
            sums: scratch.take(WORDS_BYTES * rows * parts),
            candidates: scratch.take(8 * rows * parts * MAX_CANDIDATES as usize),
            out: scratch.take(WORDS_BYTES * rows),
            scratch_bytes: scratch.0,
            counts: state.take(4 * slots * vocab),
            state_bytes: state.0,
        })
    }

    /// Writes rows, biases, and as many changes as there is room for.
    fn pack(
        &self,
        requests: &[SampleRequest],
        changes: &mut impl Iterator<Item = [u32; 4]>,
        staging: &mut [u8],
    ) -> Packed {
        assert!(requests.len() <= self.limits.rows);
        let biases = requests.iter().map(|request| request.biases.len()).sum();
        let Packed { biases: first_bias, changes: first_change, .. } =
            Packed::new(requests.len(), biases, 0);
        let mut bias_start = 0;
        for (i, request) in requests.iter().enumerate() {
            assert!(request.biases.len() <= MAX_BIASES);
            let slot = request.window.map(|window| window.slot);
            assert!(slot.is_none_or(|slot| slot < self.limits.slots));
            let row = SampleRow {
                counts: slot.map(|slot| slot as u32),
                bias_start: bias_start as u32,
                bias_len: request.biases.len() as u32,
                ..request.row
            };
            assert!(row.supports(self.limits.vocab as u32));
            let words = row.words(self.limits.vocab as u32, row.min_p.ln());
            put(staging, ROW_BYTES * i, &words);
            for (j, &(token, bias)) in request.biases.iter().enumerate() {
                let at = first_bias + BIAS_BYTES * (bias_start + j);
                put(staging, at, &[token, bias.to_bits()]);
            }
            bias_start += request.biases.len();
        }
        let mut count = 0;
        for change in changes.take(MAX_CHANGES) {
            put(staging, first_change + WORDS_BYTES * count, &change);
            count += 1;
        }
        Packed::new(requests.len(), biases, count)
    }

    /// The bytes of the state in which a slot counts.
    fn slot(&self, slot: usize) -> Range<usize> {
        assert!(slot < self.limits.slots);
        let bytes = 4 * self.limits.vocab;
        self.counts + bytes * slot..self.counts + bytes * (slot + 1)
    }

    /// The launch of [`SCAN`] and of [`DRAW`].
    fn launch(&self, requests: &[SampleRequest]) -> Launch {
        launch(requests.len() as u32, self.limits.vocab as u32)
    }

    fn count_params(&self, packed: &Packed, bases: &Bases) -> CountParams {
        CountParams {
            changes: Global::from_address(bases.input + packed.changes as u64),
            counts: GlobalMut::from_address(bases.state + self.counts as u64),
            vocab: self.limits.vocab as u32,
            n: ((packed.bytes - packed.changes) / WORDS_BYTES) as u32,
        }
    }

    fn params(&self, packed: &Packed, bases: &Bases, logits: Global<f32>) -> SampleParams {
        SampleParams {
            logits,
            rows: Global::from_address(bases.input),
            bias: Global::from_address(bases.input + packed.biases as u64),
            counts: Global::from_address(bases.state + self.counts as u64),
            adjusted: GlobalMut::from_address(bases.scratch + self.adjusted as u64),
            scanned: GlobalMut::from_address(bases.scratch + self.scanned as u64),
            summary: GlobalMut::from_address(bases.scratch + self.summary as u64),
            sums: GlobalMut::from_address(bases.scratch + self.sums as u64),
            candidates: GlobalMut::from_address(bases.scratch + self.candidates as u64),
            tickets: GlobalMut::from_address(bases.state),
            out: GlobalMut::from_address(bases.scratch + self.out as u64),
            vocab: self.limits.vocab as u32,
        }
    }
}

impl Packed {
    fn new(rows: usize, biases: usize, changes: usize) -> Self {
        let mut input = Taker::default();
        input.take(ROW_BYTES * rows);
        let (biases, changes) =
            (input.take(BIAS_BYTES * biases), input.take(WORDS_BYTES * changes));
        Self { biases, changes, bytes: input.0 }
    }
}

/// Bytes taken of a buffer so far.
#[derive(Default)]
struct Taker(usize);

impl Taker {
    /// Where the next `bytes` bytes start: at a multiple of what the widest load takes.
    fn take(&mut self, bytes: usize) -> usize {
        let start = self.0;
        self.0 += bytes.next_multiple_of(16);
        start
    }
}

fn put<T: bytemuck::NoUninit>(staging: &mut [u8], at: usize, value: &T) {
    let bytes = bytemuck::bytes_of(value);
    staging[at..at + bytes.len()].copy_from_slice(bytes);
}
