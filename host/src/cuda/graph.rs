//! Work that was recorded once and is launched as one.

use cust::sys::{CUgraph, CUgraphExec};

use super::context::Context;
use super::error::{CudaError, check};
use super::stream::Stream;
use super::symbols;

/// Recorded work; see [`Stream::capture`].
#[derive(Debug)]
pub struct Graph {
    context: Context,
    raw: CUgraph,
}

// SAFETY: the driver does not tie a graph to a thread; it is not used by two at once, since it is
// not `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Takes over a graph that the driver gave.
    pub(super) fn from_raw(context: Context, raw: CUgraph) -> Self {
        Self { context, raw }
    }

    /// How many launches, copies and fills it holds.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn node_count(&self) -> Result<usize, CudaError> {
        self.context.bind()?;
        let mut count = 0;
        // SAFETY: the graph is alive; without a place for nodes the call only counts them.
        let code = unsafe { symbols::cuGraphGetNodes(self.raw, std::ptr::null_mut(), &mut count) };
        check("cuGraphGetNodes", code)?;
        Ok(count)
    }

    /// Makes it ready to be launched.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn instantiate(&self) -> Result<GraphExec, CudaError> {
        self.context.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the graph is alive; `raw` is a place for the result.
        let code = unsafe { symbols::cuGraphInstantiateWithFlags(&mut raw, self.raw, 0) };
        check("cuGraphInstantiate", code)?;
        Ok(GraphExec { context: self.context.clone(), raw })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the graph is alive, and this was its last use.
            let _ = unsafe { symbols::cuGraphDestroy(self.raw) };
        }
    }
}

/// Recorded work that can be launched any number of times.
///
/// It holds the parameters and addresses that were recorded. Keep the buffers as long as it is used.
#[derive(Debug)]
pub struct GraphExec {
    context: Context,
    raw: CUgraphExec,
}

// SAFETY: as of `Graph`.
unsafe impl Send for GraphExec {}

impl GraphExec {
    /// Queues all of it in `stream`.
    ///
    /// # Errors
    /// [`CudaError::Call`], also for what failed before.
    pub fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the graph and the stream are alive. What it holds was checked when recorded.
        check("cuGraphLaunch", unsafe { symbols::cuGraphLaunch(self.raw, stream.raw()) })
    }
    /// Sends it to the device ahead of the first launch, which is then as fast as the others.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn upload(&self, stream: &Stream) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the graph and the stream are alive.
        check("cuGraphUpload", unsafe { symbols::cuGraphUpload(self.raw, stream.raw()) })
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: this was its last use on the host; the driver destroys it when launches that
            // are under way have ended.
            let _ = unsafe { symbols::cuGraphExecDestroy(self.raw) };
        }
    }
}
