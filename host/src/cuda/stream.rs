//! Queues of work.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cust::stream::StreamFlags;
use cust::sys::{CUgraph, CUstream};

use super::buffer::{DeviceBuffer, PinnedBuffer};
use super::context::Context;
use super::error::{CudaError, check, checked};
use super::event::Event;
use super::graph::Graph;
use super::symbols;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: a kernel may be loaded at its first use while recording.
const CAPTURE_RELAXED: u32 = 2;

/// A queue of work: what is put into it runs in order, while the host goes on.
///
/// What fails on the device is told by any later call.
#[derive(Debug)]
pub struct Stream {
    raw: cust::stream::Stream,
    /// Of this process, never given twice; a handle may be.
    id: u64,
    overlap: bool,
    capturing: AtomicBool,
    // Dropped last: a stream is destroyed in a live context.
    context: Context,
}

impl Stream {
    pub(super) fn new(context: Context) -> Result<Self, CudaError> {
        context.bind()?;
        let raw = cust::stream::Stream::new(StreamFlags::DEFAULT, None);
        let raw = checked("cuStreamCreate", raw)?;
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let overlap = context.device().overlaps_launches;
        Ok(Self { raw, id, overlap, capturing: AtomicBool::new(false), context })
    }

    /// Whether a kernel may be started before the one ahead of it has ended (programmatic dependent
    /// launch). It is by default where the device can; every kernel waits by itself before it reads
    /// what another one wrote.
    pub fn set_overlap(&mut self, overlap: bool) {
        self.overlap = overlap && self.context.device().overlaps_launches;
    }
    /// See [`Stream::set_overlap`].
    pub fn overlap(&self) -> bool {
        self.overlap
    }
    /// Its context.
    pub fn context(&self) -> &Context {
        &self.context
    }
    pub(super) fn id(&self) -> u64 {
        self.id
    }
    pub(super) fn raw(&self) -> CUstream {
        self.raw.as_inner()
    }

    /// Waits until all that was queued is done.
    ///
    /// # Errors
    /// [`CudaError::Call`], for anything that failed in the meantime.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        checked("cuStreamSynchronize", self.raw.synchronize())
    }
    /// Puts `event` behind the work queued so far.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn record(&self, event: &Event) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the event and the stream are alive.
        check("cuEventRecord", unsafe { symbols::cuEventRecord(event.raw(), self.raw()) })
    }
    /// Lets what is queued from now on wait for `event`, which may be in another stream.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the event and the stream are alive.
        let code = unsafe { symbols::cuStreamWaitEvent(self.raw(), event.raw(), 0) };
        check("cuStreamWaitEvent", code)
    }

    /// Writes `data` from byte `start` of `to` on, after what was queued, and waits for it.
    ///
    /// # Errors
    /// [`CudaError::OutOfRange`]; [`CudaError::NotCapturable`]; [`CudaError::Call`], also for what
    /// failed before.
    pub fn write(&self, to: &DeviceBuffer, start: usize, data: &[u8]) -> Result<(), CudaError> {
        let target = to.address_of(start, data.len())?;
        self.copy_now("a copy from the host", "cuMemcpyHtoDAsync", data.len(), || {
            let source = data.as_ptr().cast();
            // SAFETY: the range lies inside `to`. `copy_now` waits for the end of the copy, so `data`
            // is borrowed as long as it is read.
            unsafe { symbols::cuMemcpyHtoDAsync_v2(target, source, data.len(), self.raw()) }
        })
    }
    /// Reads `data` from byte `start` of `from` on, after what was queued, and waits for it.
    ///
    /// # Errors
    /// As of [`Stream::write`].
    pub fn read(
        &self,
        from: &DeviceBuffer,
        start: usize,
        data: &mut [u8],
    ) -> Result<(), CudaError> {
        let (source, bytes) = (from.address_of(start, data.len())?, data.len());
        self.copy_now("a copy to the host", "cuMemcpyDtoHAsync", bytes, || {
            let target = data.as_mut_ptr().cast();
            // SAFETY: as in `write`; and any byte is a u8.
            unsafe { symbols::cuMemcpyDtoHAsync_v2(target, source, bytes, self.raw()) }
        })
    }
    /// Queues `copy` of `bytes` bytes, and waits for its end.
    fn copy_now(
        &self,
        what: &'static str,
        call: &'static str,
        bytes: usize,
        copy: impl FnOnce() -> symbols::Code,
    ) -> Result<(), CudaError> {
        if self.capturing.load(Ordering::Relaxed) {
            return Err(CudaError::NotCapturable { what });
        }
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        let copied = check(call, copy());
        // Also after an error, which may be of something that was queued before.
        self.synchronize()?;
        copied
    }

    /// Queues a copy of the bytes `range` of `from` to byte `start` of `to`.
    ///
    /// # Errors
    /// [`CudaError::OutOfRange`]; [`CudaError::NotCapturable`]; [`CudaError::Call`].
    pub fn upload(
        &self,
        from: &mut PinnedBuffer,
        range: Range<usize>,
        to: &DeviceBuffer,
        start: usize,
    ) -> Result<(), CudaError> {
        let bytes = range.len();
        let source = from.address_of(range.start, bytes)?;
        let target = to.address_of(start, bytes)?;
        self.copy_pinned("a copy from pinned memory", "cuMemcpyHtoDAsync", from, bytes, || {
            // SAFETY: both ranges lie inside their buffers. `copy_pinned` marks the end of the copy
            // in `from`, which lets nobody change or free its bytes before; memory of the device is
            // freed after what was queued.
            unsafe { symbols::cuMemcpyHtoDAsync_v2(target, source.cast(), bytes, self.raw()) }
        })
    }
    /// Queues a copy of `range.len()` bytes from byte `start` of `from` to the bytes `range` of `to`.
    ///
    /// # Errors
    /// As of [`Stream::upload`].
    pub fn download(
        &self,
        from: &DeviceBuffer,
        start: usize,
        to: &mut PinnedBuffer,
        range: Range<usize>,
    ) -> Result<(), CudaError> {
        let bytes = range.len();
        let source = from.address_of(start, bytes)?;
        let target = to.address_of(range.start, bytes)?;
        self.copy_pinned("a copy to pinned memory", "cuMemcpyDtoHAsync", to, bytes, || {
            // SAFETY: as in `upload`, with `to` for `from`; nobody reads its bytes before the mark.
            unsafe { symbols::cuMemcpyDtoHAsync_v2(target.cast(), source, bytes, self.raw()) }
        })
    }
    /// Queues `copy` of `bytes` bytes, and marks its end in `pinned`.
    fn copy_pinned(
        &self,
        what: &'static str,
        call: &'static str,
        pinned: &mut PinnedBuffer,
        bytes: usize,
        copy: impl FnOnce() -> symbols::Code,
    ) -> Result<(), CudaError> {
        // A graph would copy again at each launch, when nobody knows what became of the buffer.
        if self.capturing.load(Ordering::Relaxed) {
            return Err(CudaError::NotCapturable { what });
        }
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        pinned.begin_copy(self)?;
        let copied = check(call, copy());
        pinned.end_copy(self)?;
        copied
    }

    /// Queues a copy of `bytes` bytes within the device, which must not overlap.
    ///
    /// # Errors
    /// [`CudaError::OutOfRange`]; [`CudaError::Call`].
    pub fn copy(
        &self,
        from: &DeviceBuffer,
        from_start: usize,
        to: &DeviceBuffer,
        to_start: usize,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let source = from.address_of(from_start, bytes)?;
        let target = to.address_of(to_start, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: both ranges lie inside buffers of the device, which are freed after what was
        // queued.
        let code = unsafe { symbols::cuMemcpyDtoDAsync_v2(target, source, bytes, self.raw()) };
        check("cuMemcpyDtoDAsync", code)
    }
    /// Queues setting the bytes `range` of `buffer` to `value`.
    ///
    /// # Errors
    /// [`CudaError::OutOfRange`]; [`CudaError::Call`].
    pub fn fill(
        &self,
        buffer: &DeviceBuffer,
        range: Range<usize>,
        value: u8,
    ) -> Result<(), CudaError> {
        let target = buffer.address_of(range.start, range.len())?;
        if range.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the range lies inside the buffer, which is freed after what was queued.
        let code = unsafe { symbols::cuMemsetD8Async(target, value, range.len(), self.raw()) };
        check("cuMemsetD8Async", code)
    }

    /// Records what `body` queues into this stream, instead of running it.
    ///
    /// Launches keep their shapes, parameters and overlap. When `body` fails (or panics), what was
    /// recorded is dropped and the stream is as before.
    ///
    /// # Errors
    /// What `body` gives; [`CudaError::Call`] when the driver cannot record something of it.
    pub fn capture<E: From<CudaError>>(
        &self,
        body: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        self.context.bind()?;
        // SAFETY: the stream is alive.
        let code = unsafe { symbols::cuStreamBeginCapture_v2(self.raw(), CAPTURE_RELAXED) };
        check("cuStreamBeginCapture", code)?;
        self.capturing.store(true, Ordering::Relaxed);
        let capture = Capture { stream: self };
        // The reason of a failure is what `body` says; the driver then only says that it ended.
        body()?;
        Ok(capture.end()?)
    }
}

/// A recording under way.
struct Capture<'a> {
    stream: &'a Stream,
}

impl Capture<'_> {
    fn end(self) -> Result<Graph, CudaError> {
        let stream = self.stream;
        // `stop` is what `drop` would do.
        std::mem::forget(self);
        stop(stream)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        // The graph, if there is one, is dropped; an error says that recording failed, as known.
        let _ = stop(self.stream);
    }
}

fn stop(stream: &Stream) -> Result<Graph, CudaError> {
    stream.capturing.store(false, Ordering::Relaxed);
    stream.context.bind()?;
    let mut graph: CUgraph = std::ptr::null_mut();
    // SAFETY: the stream is alive and records; `graph` is a place for the result.
    check("cuStreamEndCapture", unsafe { symbols::cuStreamEndCapture(stream.raw(), &mut graph) })?;
    Ok(Graph::from_raw(stream.context.clone(), graph))
}

impl Drop for Stream {
    fn drop(&mut self) {
        // If it fails, the context is lost, and the stream with it.
        let _ = self.context.bind();
    }
}
