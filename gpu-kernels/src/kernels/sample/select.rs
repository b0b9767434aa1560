//! The k greatest of many keys, and sorting them.

use cuda_std::{Shared, Thread};

use super::THREADS;
use super::cta::{Count, Scratch, running};

/// Bits that a pass looks at: two or three passes tell the k best of a row of logits apart.
const DIGIT: u32 = 11;
/// Bins of a pass.
pub(super) const BINS: u32 = 1 << DIGIT;
const BINS_PER_THREAD: u32 = BINS / THREADS;

/// The key from which on there are exactly `k`, where keys `0..n` differ, `0 < k`, and at least `k` are
/// not 0: counted by digits, the highest first, among those that share the digits before.
#[inline(always)]
pub(super) fn kth_greatest(
    t: Thread,
    n: u32,
    k: u32,
    key: impl Fn(u32) -> u64,
    bins: Shared<u32>,
    scratch: Scratch,
) -> u64 {
    let found = t.static_shared::<u32, 16>();
    let (mut prefix, mut known) = (0u64, 0u64);
    let mut needed = k;
    let mut shift = 64 - DIGIT;
    loop {
        let mut i = t.id();
        while i < BINS {
            bins.set(i, 0);
            i += THREADS;
        }
        t.sync();
        let mut i = t.id();
        while i < n {
            let key = key(i);
            if key & known == prefix {
                bins.atomic_add((key >> shift) as u32 % BINS, 1);
            }
            i += THREADS;
        }
        t.sync();
        // Each thread takes neighbouring bins, the first thread the highest.
        let top = BINS - 1 - BINS_PER_THREAD * t.id();
        let mut own = 0;
        let mut i = 0;
        while i < BINS_PER_THREAD {
            own += bins.get(top - i);
            i += 1;
        }
        let above = running(t, Count(own), scratch).0.0 - own;
        if above < needed && needed <= above + own {
            let mut left = needed - above;
            let mut bin = top;
            let mut count = bins.get(bin);
            while count < left {
                left -= count;
                bin -= 1;
                count = bins.get(bin);
            }
            found.set(0, bin);
            found.set(1, left);
            found.set(2, count);
        }
        t.sync();
        let (bin, count) = (found.get(0), found.get(2));
        needed = found.get(1);
        prefix |= u64::from(bin) << shift;
        known |= u64::from(BINS - 1) << shift;
        if count == needed || shift == 0 {
            t.sync();
            return prefix;
        }
        // The last digits overlap.
        shift = shift.saturating_sub(DIGIT);
        t.sync();
    }
}

/// Sorts `len` keys, a power of two of at least 2, the greatest first. Source: Batcher 1968, bitonic
/// sorting.
#[inline(always)]
pub(super) fn sort(t: Thread, keys: Shared<[u32; 2]>, len: u32) {
    let mut size = 2;
    while size <= len {
        let mut distance = size / 2;
        while distance > 0 {
            let mut i = t.id();
            while i < len / 2 {
                // The `i`th index without the bit of `distance`.
                let low = 2 * i - i % distance;
                let (a, b) = (keys.get(low), keys.get(low + distance));
                let descending = low & size == 0;
                if (number(a) < number(b)) == descending {
                    keys.set(low, b);
                    keys.set(low + distance, a);
                }
                i += THREADS;
            }
            t.sync();
            distance /= 2;
        }
        size *= 2;
    }
}

/// The key in two words, the low one first.
#[inline(always)]
pub(super) fn number([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
