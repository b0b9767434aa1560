//! [`Thread`]: who a thread is, and what it does together with others.

use crate::arch;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// The handle of the running thread. It is zero-sized; having one means running inside a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Thread(());

impl Thread {
    /// Only the entry of a kernel and the emulator make one.
    #[doc(hidden)]
    #[inline(always)]
    pub fn new() -> Self {
        Thread(())
    }

    /// Index in the CTA.
    #[inline(always)]
    pub fn id(self) -> u32 {
        arch::thread_id()
    }
    /// Threads of the CTA.
    #[inline(always)]
    pub fn count(self) -> u32 {
        arch::thread_count()
    }
    /// Index in the warp.
    #[inline(always)]
    pub fn lane(self) -> u32 {
        self.id() & (WARP - 1)
    }
    /// Index of the warp in the CTA.
    #[inline(always)]
    pub fn warp(self) -> u32 {
        self.id() / WARP
    }
    /// Index of the CTA in x.
    #[inline(always)]
    pub fn cta_id(self) -> u32 {
        arch::cta_id::<0>()
    }
    /// Index of the CTA in y.
    #[inline(always)]
    pub fn cta_id_y(self) -> u32 {
        arch::cta_id::<1>()
    }
    /// Index of the CTA in z.
    #[inline(always)]
    pub fn cta_id_z(self) -> u32 {
        arch::cta_id::<2>()
    }
    /// CTAs in x.
    #[inline(always)]
    pub fn cta_count(self) -> u32 {
        arch::cta_count::<0>()
    }
    /// CTAs in y.
    #[inline(always)]
    pub fn cta_count_y(self) -> u32 {
        arch::cta_count::<1>()
    }

    /// Waits for all threads of the CTA; what they wrote to shared and global memory before is
    /// visible to all of them after.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn sync(self) {
        arch::barrier();
    }
    /// The same for the warp.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn sync_warp(self) {
        arch::warp_barrier();
    }
    /// What this thread wrote before is visible to the whole device before what it writes after.
    #[inline(always)]
    pub fn fence(self) {
        arch::fence();
    }
    /// Waits until the kernels before this one in the stream are complete and their writes visible.
    /// Nothing that another kernel writes may be read before it. Does nothing where the device
    /// starts kernels only after their predecessors.
    #[inline(always)]
    pub fn wait_for_previous_kernel(self) {
        arch::grid_dependency_wait();
    }
    /// Lets the next kernel of the stream start its part before
    /// [`wait_for_previous_kernel`](Self::wait_for_previous_kernel).
    #[inline(always)]
    pub fn launch_next_kernel(self) {
        arch::grid_dependency_launch();
    }

    /// `value`, of which the compiler knows nothing any more: what is computed from it is computed
    /// after this, in this turn of a loop, and does not occupy registers from before.
    #[inline(always)]
    pub fn opaque(self, value: u32) -> u32 {
        arch::opaque(value)
    }

    /// The word of the lane whose index differs by `mask`. All lanes of the warp take part.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn shuffle_xor<T: Word>(self, value: T, mask: u32) -> T {
        T::from_word(arch::shuffle_xor(value.to_word(), mask))
    }
    /// The word of lane `lane`. All lanes of the warp take part.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn shuffle<T: Word>(self, value: T, lane: u32) -> T {
        T::from_word(arch::shuffle(value.to_word(), lane))
    }
    /// The word of the lane `delta` below; its own where there is none.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn shuffle_up<T: Word>(self, value: T, delta: u32) -> T {
        T::from_word(arch::shuffle_up(value.to_word(), delta))
    }
    /// Bit `i` says what lane `i` passed. All lanes of the warp take part.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn ballot(self, predicate: bool) -> u32 {
        arch::ballot(predicate)
    }
    /// Sum over the warp, the same in each lane.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn warp_sum(self, mut value: f32) -> f32 {
        let mut mask = WARP / 2;
        while mask > 0 {
            value += self.shuffle_xor(value, mask);
            mask /= 2;
        }
        value
    }
    /// Maximum over the warp, the same in each lane; NaN is passed over.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn warp_max(self, mut value: f32) -> f32 {
        let mut mask = WARP / 2;
        while mask > 0 {
            value = crate::math::max(value, self.shuffle_xor(value, mask));
            mask /= 2;
        }
        value
    }
    /// Sum over the CTA, the same in each thread. `scratch` holds a word for each warp, and may be
    /// used again at once. The CTA is whole warps.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn cta_sum(self, value: f32, scratch: crate::Shared<f32>) -> f32 {
        let sum = self.warp_sum(value);
        if self.lane() == 0 {
            scratch.set(self.warp(), sum);
        }
        self.sync();
        let warps = self.count() / WARP;
        let mut total = 0.0;
        let mut i = 0;
        while i < warps {
            total += scratch.get(i);
            i += 1;
        }
        self.sync();
        total
    }
    /// Maximum over the CTA; see [`cta_sum`](Self::cta_sum).
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn cta_max(self, value: f32, scratch: crate::Shared<f32>) -> f32 {
        let max = self.warp_max(value);
        if self.lane() == 0 {
            scratch.set(self.warp(), max);
        }
        self.sync();
        let warps = self.count() / WARP;
        let mut total = scratch.get(0);
        let mut i = 1;
        while i < warps {
            total = crate::math::max(total, scratch.get(i));
            i += 1;
        }
        self.sync();
        total
    }
}

impl Default for Thread {
    fn default() -> Self {
        Self::new()
    }
}

/// A value of 32 bits that travels between lanes.
pub trait Word: Copy {
    /// Its bits.
    fn to_word(self) -> u32;
    /// From its bits.
    fn from_word(word: u32) -> Self;
}
impl Word for u32 {
    #[inline(always)]
    fn to_word(self) -> u32 {
        self
    }
    #[inline(always)]
    fn from_word(word: u32) -> Self {
        word
    }
}
impl Word for i32 {
    #[inline(always)]
    fn to_word(self) -> u32 {
        self as u32
    }
    #[inline(always)]
    fn from_word(word: u32) -> Self {
        word as i32
    }
}
impl Word for f32 {
    #[inline(always)]
    fn to_word(self) -> u32 {
        self.to_bits()
    }
    #[inline(always)]
    fn from_word(word: u32) -> Self {
        f32::from_bits(word)
    }
}
