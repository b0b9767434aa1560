//! Matrix instructions.

use core::arch::asm;

macro_rules! mma {
    ($($(#[$meta:meta])* $name:ident, $op:literal, $D:ty;)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        pub fn $name(d: &mut [$D; 4], a: [u32; 4], b: [u32; 2]) {
            // SAFETY: all lanes take part.
            unsafe {
                asm!(concat!("mma.sync.aligned.", $op,
                    " {{{0},{1},{2},{3}}}, {{{4},{5},{6},{7}}}, {{{8},{9}}}, {{{0},{1},{2},{3}}};"),
                    inout(reg32) d[0], inout(reg32) d[1], inout(reg32) d[2], inout(reg32) d[3],
                    in(reg32) a[0], in(reg32) a[1], in(reg32) a[2], in(reg32) a[3],
                    in(reg32) b[0], in(reg32) b[1], options(pure, nomem, nostack))
            }
        }
    )*};
}
mma! {
    mma_f16, "m16n8k16.row.col.f32.f16.f16.f32", f32;
    mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32", f32;
    mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32", f32;
    mma_s8, "m16n8k32.row.col.s32.s8.s8.s32", i32;
    #[cfg(device_e4m3)]
    mma_e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32", f32;
}
/// Never reached: kernels that need it are not launched on this architecture.
#[cfg(not(device_e4m3))]
#[inline(always)]
pub fn mma_e4m3(_: &mut [f32; 4], _: [u32; 4], _: [u32; 2]) {
    // SAFETY: ends the kernel with an error.
    unsafe { core::arch::nvptx::trap() }
}

macro_rules! ldmatrix4 {
    ($($name:ident, $op:literal;)*) => {$(
        #[inline(always)]
        pub fn $name(address: u32) -> [u32; 4] {
            let (a, b, c, d);
            // SAFETY: all lanes take part; the launch answers for the address.
            unsafe {
                asm!(concat!("ldmatrix.sync.aligned.m8n8.", $op,
                    ".shared.b16 {{{0},{1},{2},{3}}}, [{4}];"), out(reg32) a, out(reg32) b,
                    out(reg32) c, out(reg32) d, in(reg32) address, options(nostack))
            }
            [a, b, c, d]
        }
    )*};
}
ldmatrix4! {
    ldmatrix_x4, "x4";
    ldmatrix_x4_trans, "x4.trans";
}
#[inline(always)]
pub fn ldmatrix_x2(address: u32) -> [u32; 2] {
    let (a, b);
    // SAFETY: all lanes take part; the launch answers for the address.
    unsafe {
        asm!("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{{0},{1}}}, [{2}];", out(reg32) a,
            out(reg32) b, in(reg32) address, options(nostack))
    }
    [a, b]
}
