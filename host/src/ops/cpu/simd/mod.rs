//! Instruction sets, chosen at run time.
//!
//! Most kernels are plain loops over fixed-size lane arrays ([`Kernel`]) that the compiler turns
//! into vector code once per [`Level`]. The integer dot products, where that is not enough, are
//! written out in `quant/avx512.rs` and `quant/avx2.rs` beside their scalar reference.

pub mod lanes;
pub mod math;
pub mod vector;

use self::lanes::Lanes;
use self::vector::Vector;

/// What the machine can do, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine of the architecture has; the reference.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A computation compiled once per level. Everything it calls must be `#[inline(always)]`, else
/// the callee is compiled for the baseline.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The computation, on a machine with the instructions of `I`.
    fn run<I: Isa>(self) -> Self::Output;
}

/// The instructions that a kernel is compiled for.
pub trait Isa {
    /// The level.
    const LEVEL: Level;
    /// Whether `mul_add` is one instruction; without it, it would be a slow library call.
    const FUSED: bool;
    /// Sixteen F32, for loops that the compiler would not vectorize by itself.
    type V: Vector;
}

impl Level {
    /// The best level of this machine.
    pub fn detect() -> Self {
        Self::available().into_iter().max().unwrap_or(Level::Scalar)
    }

    /// All levels that this machine can run.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)] // only some architectures have more
        let mut levels = vec![Level::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx2() {
                levels.push(Level::Avx2);
                if x86::has_avx512() {
                    levels.push(Level::Avx512);
                }
            }
        }
        levels
    }

    /// The name for reports.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "aarch64")]
            Level::Scalar => "NEON",
            #[cfg(not(target_arch = "aarch64"))]
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
        }
    }

    /// Runs a kernel compiled for this level.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Level::Scalar => kernel.run::<Baseline>(),
            // SAFETY: `Avx2` comes only from `available`, which found these instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: `Avx512` comes only from `available`, which found these instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        }
    }
}

struct Baseline;
impl Isa for Baseline {
    const LEVEL: Level = Level::Scalar;
    const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    type V = Lanes;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Isa, Kernel, Level};

    pub fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    pub fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
    }

    struct Avx2;
    impl Isa for Avx2 {
        const LEVEL: Level = Level::Avx2;
        const FUSED: bool = true;
        type V = [__m256; 2];
    }

    struct Avx512;
    impl Isa for Avx512 {
        const LEVEL: Level = Level::Avx512;
        const FUSED: bool = true;
        type V = __m512;
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }
}
