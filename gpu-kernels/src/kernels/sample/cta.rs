//! What the threads of a CTA compute together: sums, greatest numbers, running sums, in a fixed order.

use cuda_std::thread::WARP;
use cuda_std::{GlobalMut, Shared, Thread};

use super::THREADS;

const WARPS: u32 = THREADS / WARP;

/// A number of 64 bits that travels between lanes.
pub(super) trait Wide: Copy {
    fn bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
    /// Takes two together.
    fn merge(self, other: Self) -> Self;
}
/// A sum.
impl Wide for f64 {
    #[inline(always)]
    fn bits(self) -> u64 {
        self.to_bits()
    }
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        self + other
    }
}
/// The greatest.
impl Wide for u64 {
    #[inline(always)]
    fn bits(self) -> u64 {
        self
    }
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        bits
    }
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        self.max(other)
    }
}

/// A sum of counts.
#[derive(Clone, Copy)]
pub(super) struct Count(pub u32);
impl Wide for Count {
    #[inline(always)]
    fn bits(self) -> u64 {
        self.0.into()
    }
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Self(bits as u32)
    }
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

#[inline(always)]
fn words(bits: u64) -> [u32; 2] {
    [bits as u32, (bits >> 32) as u32]
}
#[inline(always)]
fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Room for the results of the warps.
pub(super) type Scratch = Shared<[u32; 2]>;
/// Bytes of it.
pub(super) const SCRATCH_BYTES: u32 = 8 * WARPS;

/// All of the CTA together, the same in each thread.
#[inline(always)]
pub(super) fn together<W: Wide>(t: Thread, mut value: W, scratch: Scratch) -> W {
    let mut mask = WARP / 2;
    while mask > 0 {
        let [low, high] = words(value.bits());
        let other = [t.shuffle_xor(low, mask), t.shuffle_xor(high, mask)];
        value = value.merge(W::from_bits(whole(other)));
        mask /= 2;
    }
    if t.lane() == 0 {
        scratch.set(t.warp(), words(value.bits()));
    }
    t.sync();
    let mut all = W::from_bits(whole(scratch.get(0)));
    let mut warp = 1;
    while warp < WARPS {
        all = all.merge(W::from_bits(whole(scratch.get(warp))));
        warp += 1;
    }
    t.sync();
    all
}

/// The sum over the threads up to and with this one, and that of all. `W::merge` adds.
#[inline(always)]
pub(super) fn running<W: Wide>(t: Thread, value: W, scratch: Scratch) -> (W, W) {
    let mut sum = value;
    let mut delta = 1;
    while delta < WARP {
        let [low, high] = words(sum.bits());
        let other = [t.shuffle_up(low, delta), t.shuffle_up(high, delta)];
        if t.lane() >= delta {
            sum = W::from_bits(whole(other)).merge(sum);
        }
        delta *= 2;
    }
    if t.lane() == WARP - 1 {
        scratch.set(t.warp(), words(sum.bits()));
    }
    t.sync();
    let mut all = W::from_bits(0);
    let mut before = all;
    let mut warp = 0;
    while warp < WARPS {
        if warp == t.warp() {
            before = all;
        }
        all = all.merge(W::from_bits(whole(scratch.get(warp))));
        warp += 1;
    }
    t.sync();
    (before.merge(sum), all)
}

/// The least of the numbers.
#[inline(always)]
pub(super) fn least(t: Thread, value: u32, scratch: Scratch) -> u32 {
    !(together(t, u64::from(!value), scratch) as u32)
}

/// Whether this is the last CTA of a row to come here; what the others wrote before is visible then.
#[inline(always)]
pub(super) fn is_last(t: Thread, ticket: GlobalMut<u32>, ctas: u32, scratch: Scratch) -> bool {
    t.sync();
    if t.id() == 0 {
        t.fence();
        let before = ticket.atomic_add(0, 1);
        if before + 1 == ctas {
            ticket.atomic_add(0, ctas.wrapping_neg());
        }
        t.fence();
        scratch.set(0, [before, 0]);
    }
    t.sync();
    let last = scratch.get(0)[0] + 1 == ctas;
    t.sync();
    last
}
