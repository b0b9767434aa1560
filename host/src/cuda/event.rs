//! Marks in streams.

use cust::sys::CUevent;

use super::context::Context;
use super::error::{CudaError, check};
use super::symbols;

/// `CU_EVENT_DISABLE_TIMING`: cheaper to record.
const DISABLE_TIMING: u32 = 2;

/// A mark that [`Stream::record`](super::Stream::record) puts behind the work queued so far.
///
/// `cust` has such a type, but keeps the handle to itself, without which no stream can wait for it.
#[derive(Debug)]
pub struct Event {
    context: Context,
    raw: CUevent,
}

// SAFETY: the driver's calls on an event may come from any thread, also at once.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(context: Context, timed: bool) -> Result<Self, CudaError> {
        context.bind()?;
        let mut raw = std::ptr::null_mut();
        let flags = if timed { 0 } else { DISABLE_TIMING };
        // SAFETY: `raw` is a place for the result.
        check("cuEventCreate", unsafe { symbols::cuEventCreate(&mut raw, flags) })?;
        Ok(Self { context, raw })
    }
    pub(super) fn raw(&self) -> CUevent {
        self.raw
    }

    /// Waits until the work ahead of the mark is done; at once, when it was never recorded.
    ///
    /// # Errors
    /// [`CudaError::Call`], for anything that failed in the meantime.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { symbols::cuEventSynchronize(self.raw) })
    }
    /// Milliseconds from `start` to this mark; both must have been reached.
    ///
    /// # Errors
    /// [`CudaError::Call`], when they were not.
    pub fn milliseconds_since(&self, start: &Self) -> Result<f32, CudaError> {
        self.context.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive; `milliseconds` is a place for the result.
        let code = unsafe { symbols::cuEventElapsedTime(&mut milliseconds, start.raw, self.raw) };
        check("cuEventElapsedTime", code)?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the event is alive, and this was its last use. The driver keeps what it still
            // needs of it.
            let _ = unsafe { symbols::cuEventDestroy_v2(self.raw) };
        }
    }
}
