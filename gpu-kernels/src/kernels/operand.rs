//! The input of a matrix product, in the forms that products read.
//!
//! A product on quantized weights with few rows multiplies integers: an activation is 16 bits in two
//! planes of bytes with a scale for each 32. With many rows it multiplies halves: a row is stored as
//! `x / row_scale` with a power of two that keeps it in a half's range. Products on F32 weights, the
//! few-row products on float weights, and exact mode read F32.
//!
//! Rows of each form follow each other. F32 rows are `cols` long; rows of the planes, their scales and
//! sums are those of [`plane_stride`], rows of halves of [`half_stride`], filled up with zeros.
//! Every form starts at an address divisible by 16.
//!
//! `write` has what kernels make operands with.

#[cfg(test)]
pub mod testing;
mod write;

use cuda_std::{Global, GlobalMut};

pub use write::{RUN, RowScale, Steps, load_run, magnitude, runs, store_run};

/// Activations that share a scale in the integer form.
pub const SCALE_LEN: usize = 32;
/// Activations whose sum is kept in the integer form.
pub const SUM_LEN: usize = 16;

/// Bytes from a row of a plane to the next.
#[inline(always)]
pub const fn plane_stride(cols: u32) -> u32 {
    cols.next_multiple_of(SCALE_LEN as u32)
}
/// Halves from a row to the next.
#[inline(always)]
pub const fn half_stride(cols: u32) -> u32 {
    cols.next_multiple_of(8)
}

/// An operand as a product reads it; forms that were not written are null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperandIn {
    /// F32 [rows, cols].
    pub float: Global<f32>,
    /// `x ≈ scale · (256 · high + low)`: i8 [rows, cols], −127 to 127.
    pub high: Global<u32>,
    /// i8 [rows, cols], −128 to 127.
    pub low: Global<u32>,
    /// [rows, plane_stride / 32]; NaN where the 32 hold anything that is not finite.
    pub scale: Global<f32>,
    /// `scale · Σ (256 · high + low)` over each 16: [rows, plane_stride / 16].
    pub sums: Global<f32>,
    /// f16 [rows, cols]: `x / row_scale`.
    pub half: Global<u32>,
    /// [rows], powers of two: see [`RowScale`].
    pub row_scale: Global<f32>,
}

/// An operand as the kernel that makes it writes it; null forms are left out.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperandOut {
    /// See [`OperandIn::float`].
    pub float: GlobalMut<f32>,
    /// See [`OperandIn::high`].
    pub high: GlobalMut<u32>,
    /// See [`OperandIn::low`].
    pub low: GlobalMut<u32>,
    /// See [`OperandIn::scale`].
    pub scale: GlobalMut<f32>,
    /// See [`OperandIn::sums`].
    pub sums: GlobalMut<f32>,
    /// See [`OperandIn::half`].
    pub half: GlobalMut<u32>,
    /// See [`OperandIn::row_scale`].
    pub row_scale: GlobalMut<f32>,
}

impl OperandOut {
    /// None of the forms.
    pub const NONE: Self = Self {
        float: GlobalMut::null(),
        high: GlobalMut::null(),
        low: GlobalMut::null(),
        scale: GlobalMut::null(),
        sums: GlobalMut::null(),
        half: GlobalMut::null(),
        row_scale: GlobalMut::null(),
    };
}
