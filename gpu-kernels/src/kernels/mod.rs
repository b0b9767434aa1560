//! The GPU kernels: one folder an operation, one row here.
//!
//! A kernel is a function over a [`Thread`](cuda_std::Thread) and its parameters. Compiled for
//! `nvptx64` it becomes an entry of the PTX in `ptx-cache/`; on the host `cuda_std::emu` runs the
//! same lines and checks every access.

#[cfg(not(target_arch = "nvptx64"))]
use cuda_std::EntryInfo;

/// Repeats for constants `i < N`, N up to 8: a loop over registers must not depend on being unrolled.
macro_rules! repeat {
    ($N:expr, $i:ident, $body:block) => {
        repeat!(@ $N, $i, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $N:expr, $i:ident, $body:block, $($k:literal)*) => {
        $(if $k < $N {
            #[allow(unused_variables)]
            let $i: usize = $k;
            $body
        })*
    };
}

pub mod attention;
pub mod ceilings;
pub mod decode;
pub mod embed;
pub mod exact;
pub mod gated;
pub mod gemm;
pub mod gemv;
pub mod matrix;
pub mod operand;
pub mod residual_norm;
pub mod row;
pub mod sample;
pub mod step;
pub mod to_operand;

/// Every kernel, by operation.
#[cfg(not(target_arch = "nvptx64"))]
pub const ALL: &[&[EntryInfo]] = &[
    attention::decode::KERNELS,
    attention::exact::KERNELS,
    attention::inputs::KERNELS,
    attention::prefill::KERNELS,
    ceilings::KERNELS,
    embed::KERNELS,
    exact::KERNELS,
    gated::KERNELS,
    gemm::KERNELS,
    gemv::KERNELS,
    residual_norm::KERNELS,
    sample::KERNELS,
    to_operand::KERNELS,
];
