//! Views of global memory. A view is an address; how far it reaches is checked by whoever launches,
//! and on every access by the emulator.

use core::marker::PhantomData;

use crate::arch;

/// What a view can hold.
pub trait Scalar: Copy + 'static {
    /// Loads one from global memory.
    #[doc(hidden)]
    fn load(address: u64) -> Self;
    /// Stores one to global memory.
    #[doc(hidden)]
    fn store(address: u64, value: Self);
    /// Loads one from shared memory.
    #[doc(hidden)]
    fn load_shared(address: u32) -> Self;
    /// Stores one to shared memory.
    #[doc(hidden)]
    fn store_shared(address: u32, value: Self);
}

macro_rules! scalar {
    ($($Type:ty, $load:ident, $store:ident, $lds:ident, $sts:ident,
        |$r:ident| $from:expr, |$v:ident| $to:expr;)*) => {$(
        impl Scalar for $Type {
            #[inline(always)]
            #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
            fn load(address: u64) -> Self {
                let $r = arch::$load(address);
                $from
            }
            #[inline(always)]
            #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
            fn store(address: u64, $v: Self) {
                arch::$store(address, $to);
            }
            #[inline(always)]
            #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
            fn load_shared(address: u32) -> Self {
                let $r = arch::$lds(address);
                $from
            }
            #[inline(always)]
            #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
            fn store_shared(address: u32, $v: Self) {
                arch::$sts(address, $to);
            }
        }
    )*};
}

scalar! {
    u8, ld8, st8, lds8, sts8, |r| r as u8, |v| v as u16;
    i8, ld8, st8, lds8, sts8, |r| r as i8, |v| v as u8 as u16;
    u16, ld16, st16, lds16, sts16, |r| r, |v| v;
    half::f16, ld16, st16, lds16, sts16, |r| half::f16::from_bits(r), |v| v.to_bits();
    half::bf16, ld16, st16, lds16, sts16, |r| half::bf16::from_bits(r), |v| v.to_bits();
    u32, ld32, st32, lds32, sts32, |r| r, |v| v;
    i32, ld32, st32, lds32, sts32, |r| r as i32, |v| v as u32;
    f32, ld32, st32, lds32, sts32, |r| f32::from_bits(r), |v| v.to_bits();
    [u32; 2], ld64, st64, lds64, sts64, |r| r, |v| v;
    [u32; 4], ld128, st128, lds128, sts128, |r| r, |v| v;
    [f32; 2], ld64, st64, lds64, sts64, |r| r.map(f32::from_bits), |v| v.map(f32::to_bits);
    [f32; 4], ld128, st128, lds128, sts128, |r| r.map(f32::from_bits), |v| v.map(f32::to_bits);
}

/// Elements that a kernel reads.
#[repr(transparent)]
pub struct Global<T>(u64, PhantomData<*const T>);

/// Elements that a kernel writes, and may read.
#[repr(transparent)]
pub struct GlobalMut<T>(u64, PhantomData<*mut T>);

macro_rules! view {
    ($View:ident, $Ptr:ty) => {
        impl<T> Clone for $View<T> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T> Copy for $View<T> {}
        impl<T> core::fmt::Debug for $View<T> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl<T> $View<T> {
            /// The view that starts at a device address.
            #[inline(always)]
            pub const fn from_address(address: u64) -> Self {
                Self(address, PhantomData)
            }
            /// A view of nothing, for a parameter that is not used.
            #[inline(always)]
            pub const fn null() -> Self {
                Self::from_address(0)
            }
            /// Whether it is a view of nothing.
            #[inline(always)]
            pub const fn is_null(self) -> bool {
                self.0 == 0
            }
            /// Where it starts.
            #[inline(always)]
            pub const fn address(self) -> u64 {
                self.0
            }
            /// The view from element `i` on.
            #[inline(always)]
            pub const fn at(self, i: usize) -> Self {
                Self::from_address(self.0 + (i * size_of::<T>()) as u64)
            }
            /// The same memory as elements of another type; an access must be aligned to it.
            #[inline(always)]
            pub const fn cast<U>(self) -> $View<U> {
                $View::from_address(self.0)
            }
        }
        impl<T: Scalar> $View<T> {
            /// Element `i`.
            #[inline(always)]
            #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
            pub fn get(self, i: usize) -> T {
                T::load(self.at(i).0)
            }
        }
    };
}
view!(Global, *const T);
view!(GlobalMut, *mut T);

// SAFETY: a view is a number; only a kernel dereferences it, and there the launch answers for it.
unsafe impl<T> Send for Global<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Global<T> {}
// SAFETY: as above.
unsafe impl<T> Send for GlobalMut<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for GlobalMut<T> {}

impl<T> GlobalMut<T> {
    /// To read only.
    #[inline(always)]
    pub const fn read(self) -> Global<T> {
        Global::from_address(self.0)
    }
}

impl<T: Scalar> GlobalMut<T> {
    /// Sets element `i`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn set(self, i: usize, value: T) {
        T::store(self.at(i).0, value);
    }
}

impl Global<[u32; 4]> {
    /// Sixteen bytes that are read once: they do not displace others from the first-level cache.
    /// Nothing may write them while the kernel runs.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn stream(self, i: usize) -> [u32; 4] {
        arch::ld128_stream(self.at(i).0)
    }
}
impl Global<[u32; 2]> {
    /// Eight bytes that are read once; see `Global<[u32; 4]>::stream`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn stream(self, i: usize) -> [u32; 2] {
        arch::ld64_stream(self.at(i).0)
    }
}
impl Global<u32> {
    /// Four bytes that are read once; see `Global<[u32; 4]>::stream`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn stream(self, i: usize) -> u32 {
        arch::ld32_stream(self.at(i).0)
    }
}
impl Global<u16> {
    /// Two bytes that nothing writes while the kernel runs, kept in the first-level cache.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn constant(self, i: usize) -> u16 {
        arch::ld16_constant(self.at(i).0)
    }
}
impl Global<[u32; 4]> {
    /// Sixteen bytes that nothing writes while the kernel runs, kept in the first-level cache.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn constant(self, i: usize) -> [u32; 4] {
        arch::ld128_constant(self.at(i).0)
    }
}
impl Global<[u32; 2]> {
    /// Eight bytes that nothing writes while the kernel runs, kept in the first-level cache.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn constant(self, i: usize) -> [u32; 2] {
        arch::ld64_constant(self.at(i).0)
    }
}
impl Global<u32> {
    /// A word that nothing writes while the kernel runs, kept in the first-level cache.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn constant(self, i: usize) -> u32 {
        arch::ld32_constant(self.at(i).0)
    }
}
impl Global<u8> {
    /// A byte that nothing writes while the kernel runs, kept in the first-level cache.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn constant(self, i: usize) -> u8 {
        arch::ld8_constant(self.at(i).0) as u8
    }
}
impl Global<f32> {
    /// A number that nothing writes while the kernel runs, kept in the first-level cache.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn constant(self, i: usize) -> f32 {
        f32::from_bits(arch::ld32_constant(self.at(i).0))
    }
}

impl GlobalMut<u32> {
    /// Adds to element `i` and gives what it was, as one operation among all threads of the device.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn atomic_add(self, i: usize, value: u32) -> u32 {
        arch::atomic_add_u32(self.at(i).0, value)
    }
    /// Sets element `i` to the greater of both and gives what it was.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn atomic_max(self, i: usize, value: u32) -> u32 {
        arch::atomic_max_u32(self.at(i).0, value)
    }
}
impl GlobalMut<f32> {
    /// Adds to element `i`; the order among threads is not fixed.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn atomic_add(self, i: usize, value: f32) {
        arch::atomic_add_f32(self.at(i).0, value);
    }
}
