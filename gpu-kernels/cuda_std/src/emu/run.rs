//! The launch under way: what the operations of its threads work on.
//!
//! Threads are coroutines of the calling OS thread, so that a thread-local holds the launch and
//! [`crate::Thread`] and the views stay as small as on the device. No borrow of it lives across a
//! switch of coroutines.

use std::cell::{Cell, RefCell};
use std::panic::{Location, resume_unwind};

use corosensei::Yielder;

use super::copy::Copies;
use super::fault::{Fault, FaultKind, Mistake};
use super::global::GlobalMemory;
use super::order::Order;
use super::shared::{Call, SharedRegions};
use crate::Launch;

/// A line of a kernel.
pub(crate) type Line = &'static Location<'static>;

/// Accesses of a thread between two waits after which it is taken to never end: under a
/// second.
const ENDLESS: u32 = 1 << 24;

thread_local! {
    static RUN: RefCell<Option<Box<Run>>> = const { RefCell::new(None) };
    /// The running thread of the CTA.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
}

/// A launch.
pub(super) struct Run {
    pub kernel: &'static str,
    pub shape: Launch,
    pub cta: [u32; 3],
    pub order: Order,
    pub global: GlobalMemory,
    pub shared: SharedRegions,
    pub lanes: Vec<Lane>,
    pub fault: Option<Fault>,
    accesses: u32,
}

/// A thread of the CTA that runs.
pub(super) struct Lane {
    pub state: State,
    pub result: [u32; 4],
    /// Whether it passed `wait_for_previous_kernel`.
    pub waited: bool,
    pub copies: Copies,
    /// Its calls for static shared memory.
    pub static_calls: Vec<Call>,
    yielder: *const Yielder<(), ()>,
}

/// Where it stands.
#[derive(Clone, Copy)]
pub(super) enum State {
    Ready,
    /// For others, at an operation that they do together.
    Waiting(Op, [u32; 10], Line),
    Ended,
}

/// What threads do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Barrier,
    WarpBarrier,
    ShuffleXor,
    Shuffle,
    ShuffleUp,
    Ballot,
    MmaF16,
    MmaBf16,
    MmaTf32,
    MmaS8,
    MmaE4m3,
    LoadMatrix2,
    LoadMatrix4,
    LoadMatrix4Transposed,
}

/// Panic payload that ends a thread after its fault was recorded.
pub(super) struct Stop;

impl Run {
    pub fn new(kernel: &'static str, shape: Launch, order: Order, global: GlobalMemory) -> Self {
        Self {
            kernel,
            shape,
            cta: [0; 3],
            order,
            global,
            shared: SharedRegions::new(shape.shared_bytes),
            lanes: Vec::new(),
            fault: None,
            accesses: 0,
        }
    }

    pub fn fault(&self, (kind, detail): Mistake, thread: Option<u32>, at: Option<Line>) -> Fault {
        Fault { kind, kernel: self.kernel, cta: self.cta, thread, location: at, detail }
    }

    /// Counts an access towards a thread's allowance.
    #[inline]
    pub fn count_access(&mut self) -> Result<(), Mistake> {
        self.accesses += 1;
        if self.accesses < ENDLESS {
            return Ok(());
        }
        let detail = format!("no end after {ENDLESS} accesses without a barrier");
        Err((FaultKind::Endless, detail))
    }

    pub fn current(&mut self) -> &mut Lane {
        &mut self.lanes[usize::from(self.order.thread)]
    }
}

impl Lane {
    pub fn new() -> Self {
        Self {
            state: State::Ready,
            result: [0; 4],
            waited: false,
            copies: Copies::default(),
            static_calls: Vec::new(),
            yielder: std::ptr::null(),
        }
    }
}

/// Makes `run` the launch of this OS thread.
pub(super) fn install(run: Run) {
    RUN.with_borrow_mut(|slot| {
        assert!(slot.is_none(), "a kernel cannot launch a kernel");
        *slot = Some(Box::new(run));
    });
}
/// Ends it.
pub(super) fn uninstall() -> Option<Box<Run>> {
    RUN.take()
}

/// Uses the launch under way.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&mut Run) -> R) -> R {
    RUN.with_borrow_mut(|slot| match slot {
        Some(run) => f(run),
        None => outside(),
    })
}
#[cold]
fn outside() -> ! {
    panic!("an operation of a kernel outside of `Memory::launch`")
}

/// Does what the running thread asks for at a line, or ends the launch with the mistake.
#[inline]
pub(super) fn attempt<R>(at: Line, f: impl FnOnce(&mut Run) -> Result<R, Mistake>) -> R {
    match with(f) {
        Ok(result) => result,
        Err(mistake) => stop(mistake, at),
    }
}
#[cold]
fn stop(mistake: Mistake, at: Line) -> ! {
    with(|run| run.fault = Some(run.fault(mistake, Some(CURRENT.get()), Some(at))));
    resume_unwind(Box::new(Stop))
}

/// Makes a thread the running one, if it has something to do.
#[inline]
pub(super) fn enter(thread: u32) -> bool {
    CURRENT.set(thread);
    with(|run| {
        run.order.thread = thread as u16;
        run.accesses = 0;
        matches!(run.lanes[thread as usize].state, State::Ready)
    })
}
/// Tells how the running thread can be left.
pub(super) fn started(yielder: &Yielder<(), ()>) {
    with(|run| run.current().yielder = yielder);
}

pub(crate) fn thread_id() -> u32 {
    CURRENT.get()
}
pub(crate) fn thread_count() -> u32 {
    with(|run| run.shape.threads)
}
pub(crate) fn cta_id(axis: u32) -> u32 {
    with(|run| run.cta[axis as usize])
}
pub(crate) fn cta_count(axis: u32) -> u32 {
    with(|run| run.shape.grid[axis as usize])
}
pub(crate) fn fence() {
    with(|run| run.order.fence());
}
pub(crate) fn wait_for_previous_kernel() {
    with(|run| run.current().waited = true);
}

/// Waits until the other threads come to the same operation, and gives its result.
pub(crate) fn together(op: Op, operands: &[u32], at: Line) -> [u32; 4] {
    let mut words = [0; 10];
    words[..operands.len()].copy_from_slice(operands);
    let yielder = with(|run| {
        let lane = run.current();
        lane.state = State::Waiting(op, words, at);
        lane.yielder
    });
    // SAFETY: `started` set it when the function of this coroutine began; that function is still on
    // this stack below us, and it owns the yielder.
    unsafe { &*yielder }.suspend(());
    with(|run| run.current().result)
}
