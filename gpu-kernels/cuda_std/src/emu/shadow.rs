//! What is known of each byte of memory beside its value: who wrote it, who read it, and when.
//!
//! Time is counted in ticks: every barrier, of a CTA or a warp, advances it. A record of an access is
//! a tick and a thread; it comes before an access of another thread if a barrier of both lies between
//! (`tick < since`, the tick of the last one). CTAs run one after another, so that the tick of a record
//! also tells its CTA and its launch. That makes a check of two comparisons, exact within a CTA: the
//! readers since the last write are one thread, several lanes of one warp, or several warps, and the
//! latest of them decides (FastTrack, Flanagan & Freund 2009, with barriers for vector clocks).
//!
//! A record covers a word of four bytes until an access touches part of it; then each of its bytes.

use super::order::Order;

const THREAD: u16 = 0x03ff;
/// The word's bytes have records of their own.
const SPLIT: u16 = 1 << 15;
/// The write was atomic.
const ATOMIC: u16 = 1 << 14;
/// The write was atomic, after one of another thread in the same stretch.
const ATOMICS: u16 = 1 << 13;
/// The write is a copy's that was not waited for.
const COPY: u16 = 1 << 12;

const KIND: u16 = 3 << 14;
/// Several lanes of the warp in the low bits read.
const LANES: u16 = 1 << 14;
/// Several warps read.
const WARPS: u16 = 2 << 14;
/// Another CTA of this launch read before.
const OTHER_CTA: u16 = 1 << 13;

/// The record of one word or byte. Tick 0: never.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: u32,
    read: u32,
    writer: u16,
    reader: u16,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Reads what nothing may write during the launch.
    Constant,
    Write,
    Atomic,
    /// Starts to write: nothing may touch the bytes until the write that ends it.
    CopyStart,
    /// Ends to write.
    CopyEnd,
}

impl Access {
    /// In a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read | Self::Constant => "read",
            Self::Write => "write",
            Self::Atomic => "atomic",
            Self::CopyStart | Self::CopyEnd => "asynchronous copy",
        }
    }
}

/// Why an access is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Uninitialized,
    /// A constant that this launch wrote.
    Changed,
    /// With a write (true) or read at `tick` by a thread of the same CTA, if one is known.
    Race {
        write: bool,
        thread: Option<u32>,
        tick: u32,
    },
    InFlight {
        thread: u32,
    },
}

/// The records of an allocation.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    words: Vec<Cell>,
    /// Four a word; empty until the first word is split.
    bytes: Vec<Cell>,
}

impl Shadow {
    /// Records of `len` bytes, written at the beginning of time or never.
    pub fn new(len: usize, written: bool) -> Self {
        let cell = Cell { write: u32::from(written), ..Cell::default() };
        Self { words: vec![cell; len.div_ceil(4)], bytes: Vec::new() }
    }

    /// Records an access of the running thread to `len` bytes from `at` on. `valid` is the tick from
    /// which a write counts.
    #[inline]
    pub fn access(
        &mut self,
        order: &Order,
        at: usize,
        len: usize,
        access: Access,
        valid: u32,
    ) -> Result<(), (usize, Trouble)> {
        if (at | len) & 3 == 0 {
            for word in at / 4..(at + len) / 4 {
                let cell = &mut self.words[word];
                if cell.writer & SPLIT == 0 {
                    cell.touch(order, access, valid).map_err(|trouble| (word * 4, trouble))?;
                } else {
                    self.touch_bytes(order, word * 4, 4, access, valid)?;
                    if !matches!(access, Access::Read | Access::Constant) {
                        self.words[word] = self.bytes[word * 4];
                    }
                }
            }
            Ok(())
        } else {
            for word in at / 4..(at + len).div_ceil(4) {
                self.split(word);
            }
            self.touch_bytes(order, at, len, access, valid)
        }
    }

    #[cold]
    fn touch_bytes(
        &mut self,
        order: &Order,
        at: usize,
        len: usize,
        access: Access,
        valid: u32,
    ) -> Result<(), (usize, Trouble)> {
        for (i, cell) in self.bytes[at..at + len].iter_mut().enumerate() {
            cell.touch(order, access, valid).map_err(|trouble| (at + i, trouble))?;
        }
        Ok(())
    }

    fn split(&mut self, word: usize) {
        if self.words[word].writer & SPLIT == 0 {
            if self.bytes.is_empty() {
                self.bytes = vec![Cell::default(); self.words.len() * 4];
            }
            self.bytes[word * 4..][..4].fill(self.words[word]);
            self.words[word].writer |= SPLIT;
        }
    }

    /// Whether all of the bytes were written.
    pub fn written(&self, at: usize, len: usize) -> bool {
        (at..at + len).all(|byte| {
            let cell = &self.words[byte / 4];
            let cell = if cell.writer & SPLIT == 0 { cell } else { &self.bytes[byte] };
            cell.write != 0
        })
    }

    /// Marks bytes as written from outside of any kernel.
    pub fn set_written(&mut self, at: usize, len: usize) {
        for byte in at..at + len {
            self.split(byte / 4);
            self.bytes[byte] = Cell { write: 1, ..Cell::default() };
        }
    }
}

impl Cell {
    #[inline]
    fn touch(&mut self, order: &Order, access: Access, valid: u32) -> Result<(), Trouble> {
        // What happened before is ordered before now.
        let since = valid.max(order.launch_since);
        match access {
            Access::Read | Access::Constant => {
                if access == Access::Constant && self.write >= order.launch_since {
                    return Err(Trouble::Changed);
                }
                self.check_write(order, false, since)?;
                if self.write < valid {
                    return Err(Trouble::Uninitialized);
                }
                self.record_read(order, since);
            }
            Access::Write | Access::CopyStart => {
                self.check_write(order, false, since)?;
                self.check_readers(order, since)?;
                let flags = if access == Access::CopyStart { COPY } else { 0 };
                *self =
                    Self { write: order.tick, writer: order.thread | flags, read: 0, reader: 0 };
            }
            Access::CopyEnd => {
                *self = Self { write: order.tick, writer: order.thread, read: 0, reader: 0 };
            }
            Access::Atomic => {
                self.check_write(order, true, since)?;
                if self.write < valid {
                    return Err(Trouble::Uninitialized);
                }
                self.check_readers(order, since)?;
                let fresh = self.write >= order.cta_since;
                let own = self.writer & THREAD == order.thread;
                let flags = match self.writer & (ATOMIC | ATOMICS) {
                    // After a plain write of one's own, which others are not ordered after yet.
                    0 if fresh && own => 0,
                    before if before != 0 && fresh && (before & ATOMICS != 0 || !own) => {
                        ATOMIC | ATOMICS
                    }
                    _ => ATOMIC,
                };
                *self =
                    Self { write: order.tick, writer: order.thread | flags, read: 0, reader: 0 };
            }
        }
        Ok(())
    }

    /// Refuses an access that the last write is not ordered before.
    #[inline]
    fn check_write(&self, order: &Order, atomic: bool, since: u32) -> Result<(), Trouble> {
        if self.write < since {
            return Ok(());
        }
        let thread = self.writer & THREAD;
        if self.writer & COPY != 0 && self.write >= order.cta_start {
            return Err(Trouble::InFlight { thread: thread.into() });
        }
        if atomic && self.writer & ATOMIC != 0 {
            return Ok(());
        }
        let ordered = if self.write < order.cta_start {
            order.released(self.write, thread)
        } else {
            order.before(self.write, thread)
                && (self.writer & ATOMICS == 0 || self.write < order.cta_since)
        };
        if ordered {
            return Ok(());
        }
        Err(Trouble::Race { write: true, thread: Some(thread.into()), tick: self.write })
    }

    /// Refuses a write that a read since the last write is not ordered before.
    #[inline]
    fn check_readers(&self, order: &Order, since: u32) -> Result<(), Trouble> {
        if self.read < since {
            return Ok(());
        }
        let race = |thread| Err(Trouble::Race { write: false, thread, tick: self.read });
        if self.read < order.cta_start {
            if !order.acquired_any() {
                return race((self.reader & KIND == 0).then_some((self.reader & THREAD).into()));
            }
            return Ok(());
        }
        if self.reader & OTHER_CTA != 0 && !order.acquired_any() {
            return Err(Trouble::Race { write: false, thread: None, tick: 0 });
        }
        let by = self.reader & THREAD;
        match self.reader & KIND {
            _ if self.read < order.cta_since => Ok(()),
            0 if order.before(self.read, by) => Ok(()),
            0 => race(Some(by.into())),
            LANES if by == order.thread / 32 && self.read < order.warp_since() => Ok(()),
            _ => race(None),
        }
    }

    #[inline]
    fn record_read(&mut self, order: &Order, since: u32) {
        let me = order.thread;
        let by = self.reader & THREAD;
        if self.read < order.cta_since {
            let other =
                self.read >= since && (self.read < order.cta_start || self.reader & OTHER_CTA != 0);
            self.reader = me | if other { OTHER_CTA } else { 0 };
        } else {
            let other = self.reader & OTHER_CTA;
            self.reader = other
                | match self.reader & KIND {
                    0 if by == me => me,
                    0 if by / 32 == me / 32 && self.read >= order.warp_since() => LANES | (me / 32),
                    0 if by / 32 == me / 32 => me,
                    LANES if by == me / 32 && self.read >= order.warp_since() => LANES | by,
                    LANES if by == me / 32 => me,
                    _ => WARPS,
                };
        }
        self.read = order.tick;
    }
}
