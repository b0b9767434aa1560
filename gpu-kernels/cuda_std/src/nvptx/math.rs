//! Arithmetic.

use core::arch::asm;

macro_rules! unary {
    ($($name:ident, $op:literal;)*) => {$(
        #[inline(always)]
        pub fn $name(a: f32) -> f32 {
            let r;
            // SAFETY: arithmetic.
            unsafe {
                asm!(concat!($op, " {0}, {1};"), out(reg32) r, in(reg32) a,
                    options(pure, nomem, nostack))
            }
            r
        }
    )*};
}
macro_rules! binary {
    ($($name:ident, $op:literal, $T:ty;)*) => {$(
        #[inline(always)]
        pub fn $name(a: $T, b: $T) -> $T {
            let r;
            // SAFETY: arithmetic.
            unsafe {
                asm!(concat!($op, " {0}, {1}, {2};"), out(reg32) r, in(reg32) a, in(reg32) b,
                    options(pure, nomem, nostack))
            }
            r
        }
    )*};
}
macro_rules! ternary {
    ($($name:ident, $op:literal, $A:ty, $C:ty;)*) => {$(
        #[inline(always)]
        pub fn $name(a: $A, b: $A, c: $C) -> $C {
            let r;
            // SAFETY: arithmetic.
            unsafe {
                asm!(concat!($op, " {0}, {1}, {2}, {3};"), out(reg32) r, in(reg32) a, in(reg32) b,
                    in(reg32) c, options(pure, nomem, nostack))
            }
            r
        }
    )*};
}

unary! {
    rsqrt, "rsqrt.approx.f32";
    sqrt, "sqrt.rn.f32";
    reciprocal, "rcp.approx.f32";
    exp2, "ex2.approx.ftz.f32";
    log2, "lg2.approx.f32";
    round, "cvt.rni.f32.f32";
}
binary! {
    max, "max.f32", f32;
    min, "min.f32", f32;
    max_nan, "max.NaN.f32", f32;
    min_nan, "min.NaN.f32", f32;
    div, "div.rn.f32", f32;
    add_f16x2, "add.rn.f16x2", u32;
    sub_f16x2, "sub.rn.f16x2", u32;
    mul_f16x2, "mul.rn.f16x2", u32;
}
ternary! {
    fma, "fma.rn.f32", f32, f32;
    fma_f16x2, "fma.rn.f16x2", u32, u32;
    dp4a, "dp4a.s32.s32", u32, i32;
    dp4a_unsigned, "dp4a.u32.s32", u32, i32;
    permute_bytes, "prmt.b32", u32, u32;
    funnel_shift_right, "shf.r.wrap.b32", u32, u32;
}

#[inline(always)]
pub fn round_to_i32(a: f32) -> i32 {
    let r;
    // SAFETY: arithmetic.
    unsafe {
        asm!("cvt.rni.s32.f32 {0}, {1};", out(reg32) r, in(reg32) a, options(pure, nomem, nostack))
    }
    r
}
#[inline(always)]
pub fn f32_to_f16(a: f32) -> u16 {
    let r;
    // SAFETY: arithmetic.
    unsafe {
        asm!("cvt.rn.f16.f32 {0}, {1};", out(reg16) r, in(reg32) a, options(pure, nomem, nostack))
    }
    r
}
#[inline(always)]
pub fn f16_to_f32(a: u16) -> f32 {
    let r;
    // SAFETY: arithmetic.
    unsafe {
        asm!("cvt.f32.f16 {0}, {1};", out(reg32) r, in(reg16) a, options(pure, nomem, nostack))
    }
    r
}
#[inline(always)]
pub fn pack_f16(low: f32, high: f32) -> u32 {
    let r;
    // SAFETY: arithmetic.
    unsafe {
        asm!("cvt.rn.f16x2.f32 {0}, {1}, {2};", out(reg32) r, in(reg32) high, in(reg32) low,
            options(pure, nomem, nostack))
    }
    r
}
