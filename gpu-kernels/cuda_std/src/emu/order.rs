//! The clock of a launch: what the barriers, fences and atomics up to now order.

use std::collections::HashMap;

/// The ticks since which things hold, for the running thread.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Now.
    pub tick: u32,
    /// Start of this launch, of this CTA, of the stretch after its last barrier.
    pub launch_since: u32,
    pub cta_start: u32,
    pub cta_since: u32,
    /// The running thread, in its CTA.
    pub thread: u16,
    /// By warp, the stretch after its last barrier.
    warps: Vec<u32>,
    /// By thread of this CTA, the tick of its last fence.
    fences: Vec<u32>,
    /// Before this tick, all of this CTA's accesses are released by some fence after a barrier.
    fenced: u32,
    /// First tick of each CTA of this launch, and what it released.
    ctas: Vec<(u32, Released)>,
    /// Atomics of this CTA on an address: the tick of the last.
    acquired: HashMap<u64, u32>,
}

/// By address of an atomic: when it was done, and what came before a fence before it.
type Released = HashMap<u64, Release>;

#[derive(Clone, Debug, Default)]
struct Release {
    /// Everything of the CTA before this tick.
    all: u32,
    /// What each thread did before this tick; empty for nothing.
    threads: Vec<u32>,
}

impl Order {
    fn advance(&mut self) -> u32 {
        self.tick = self.tick.checked_add(1).expect("fewer than 2^32 barriers in one `Memory`");
        self.tick
    }
    /// A launch begins: all before is ordered before it.
    pub fn begin_launch(&mut self) {
        self.tick = self.tick.max(1);
        self.launch_since = self.advance();
        self.ctas.clear();
    }
    /// A CTA of `threads` begins.
    pub fn begin_cta(&mut self, threads: u32) {
        let tick = self.advance();
        self.cta_start = tick;
        self.cta_since = tick;
        self.fenced = tick;
        self.warps.clear();
        self.warps.resize(threads.div_ceil(32) as usize, tick);
        self.fences.clear();
        self.fences.resize(threads as usize, tick);
        self.acquired.clear();
        self.ctas.push((tick, Released::new()));
    }
    /// All threads of the CTA came to a barrier.
    pub fn barrier(&mut self) {
        self.cta_since = self.advance();
        self.warps.fill(self.cta_since);
    }
    /// All lanes of a warp did.
    pub fn warp_barrier(&mut self, warp: usize) {
        self.warps[warp] = self.advance();
    }
    /// The running thread passed a fence.
    pub fn fence(&mut self) {
        self.fences[usize::from(self.thread)] = self.advance();
        self.fenced = self.fenced.max(self.cta_since);
    }
    /// The running thread did an atomic operation.
    pub fn atomic(&mut self, address: u64) {
        self.acquired.insert(address, self.tick);
        let me = usize::from(self.thread);
        let Some((start, released)) = self.ctas.last_mut() else { return };
        let own = self.fences[me] > *start;
        if self.fenced == *start && !own {
            return;
        }
        let release = released.entry(address).or_default();
        release.all = release.all.max(self.fenced);
        // A fence of another thread counts if a barrier followed it.
        release.threads.resize(self.fences.len(), 0);
        for (thread, (to, &fence)) in release.threads.iter_mut().zip(&self.fences).enumerate() {
            if thread == me || fence < self.cta_since {
                *to = (*to).max(fence);
            }
        }
    }

    /// When the warp of the running thread had its last barrier.
    #[inline]
    pub fn warp_since(&self) -> u32 {
        self.warps[usize::from(self.thread / 32)]
    }
    /// Whether what `thread` of this CTA did at `tick` is ordered before now.
    #[inline]
    pub fn before(&self, tick: u32, thread: u16) -> bool {
        thread == self.thread
            || tick < self.cta_since
            || (thread / 32 == self.thread / 32 && tick < self.warp_since())
    }
    /// Whether what `thread` of another CTA of this launch did at `tick` is: it passed a fence, then
    /// an atomic on an address that this CTA used one on.
    #[cold]
    pub fn released(&self, tick: u32, thread: u16) -> bool {
        let cta = self.cta_at(tick);
        self.acquired.keys().any(|address| {
            self.ctas[cta].1.get(address).is_some_and(|release| {
                tick < release.all
                    || release.threads.get(usize::from(thread)).is_some_and(|&fence| tick < fence)
            })
        })
    }
    /// Whether this CTA used an atomic that another may have released by.
    #[cold]
    pub fn acquired_any(&self) -> bool {
        !self.acquired.is_empty()
    }
    /// Index in the launch of the CTA that ran at `tick`.
    pub fn cta_at(&self, tick: u32) -> usize {
        self.ctas.partition_point(|(start, _)| *start <= tick).saturating_sub(1)
    }
}
