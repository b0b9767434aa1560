//! What the emulator reports.

use std::fmt;
use std::panic::Location;

/// What a kernel did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The launch itself cannot be: its shape is beyond the entry or every device.
    Launch,
    /// An address outside of its allocation, or of none.
    OutOfBounds,
    /// An address not divisible by the size of the access.
    Misaligned,
    /// An access through a view of nothing.
    Null,
    /// An address of memory that was given back.
    Freed,
    /// A read of bytes that nothing wrote.
    Uninitialized,
    /// A write to memory that is only read.
    ReadOnly,
    /// A read as constant of what the same kernel wrote.
    NotConstant,
    /// Two accesses, one of them a write, that nothing orders.
    Race,
    /// An access to the target of a copy that was not waited for, or a source that changed under it.
    InFlight,
    /// A kernel that ended with copies under way.
    NotWaited,
    /// An access to what kernels before write, ahead of `wait_for_previous_kernel`.
    BeforeWait,
    /// A barrier that part of the CTA does not reach.
    Barrier,
    /// An operation of the warp that part of it does not reach, or reaches elsewhere.
    Divergence,
    /// A shuffle from a lane that is not there.
    AbsentLane,
    /// A thread that does not come to an end.
    Endless,
    /// A panic inside the kernel.
    Panic,
}

/// A kernel's mistake: which kernel, where, and what.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was wrong.
    pub kind: FaultKind,
    /// Entry of the kernel.
    pub kernel: &'static str,
    /// The CTA, in x, y, z.
    pub cta: [u32; 3],
    /// The thread, if one is to blame.
    pub thread: Option<u32>,
    /// The line of the kernel.
    pub location: Option<&'static Location<'static>>,
    /// The particulars.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        write!(f, "{}: CTA ({x}, {y}, {z})", self.kernel)?;
        if let Some(thread) = self.thread {
            write!(f, ", thread {thread}")?;
        }
        if let Some(location) = self.location {
            write!(f, ", {}:{}", location.file(), location.line())?;
        }
        write!(f, ": {}", self.detail)
    }
}
impl std::error::Error for Fault {}

/// A mistake before it is known whose: the kind and the particulars.
pub(super) type Mistake = (FaultKind, String);
