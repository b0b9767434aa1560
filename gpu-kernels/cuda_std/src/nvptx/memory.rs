//! Global and shared memory.

use core::arch::asm;

macro_rules! load {
    ($($name:ident, $op:literal, $Address:ty, $areg:ident, $Word:ty, $reg:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(address: $Address) -> $Word {
            let r;
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op, " {0}, [{1}];"), out($reg) r, in($areg) address,
                    options(readonly, nostack))
            }
            r
        }
    )*};
}
macro_rules! load2 {
    ($($name:ident, $op:literal, $Address:ty, $areg:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(address: $Address) -> [u32; 2] {
            let (a, b);
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op, " {{{0},{1}}}, [{2}];"), out(reg32) a, out(reg32) b,
                    in($areg) address, options(readonly, nostack))
            }
            [a, b]
        }
    )*};
}
macro_rules! load4 {
    ($($name:ident, $op:literal, $Address:ty, $areg:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(address: $Address) -> [u32; 4] {
            let (a, b, c, d);
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op, " {{{0},{1},{2},{3}}}, [{4}];"), out(reg32) a, out(reg32) b,
                    out(reg32) c, out(reg32) d, in($areg) address, options(readonly, nostack))
            }
            [a, b, c, d]
        }
    )*};
}
macro_rules! store {
    ($($name:ident, $op:literal, $Address:ty, $areg:ident, $Word:ty, $reg:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(address: $Address, value: $Word) {
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op, " [{0}], {1};"), in($areg) address, in($reg) value,
                    options(nostack))
            }
        }
    )*};
}
macro_rules! store_vector {
    ($($st2:ident, $st4:ident, $op2:literal, $op4:literal, $Address:ty, $areg:ident;)*) => {$(
        #[inline(always)]
        pub fn $st2(address: $Address, v: [u32; 2]) {
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op2, " [{0}], {{{1},{2}}};"), in($areg) address, in(reg32) v[0],
                    in(reg32) v[1], options(nostack))
            }
        }
        #[inline(always)]
        pub fn $st4(address: $Address, v: [u32; 4]) {
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op4, " [{0}], {{{1},{2},{3},{4}}};"), in($areg) address,
                    in(reg32) v[0], in(reg32) v[1], in(reg32) v[2], in(reg32) v[3],
                    options(nostack))
            }
        }
    )*};
}

load! {
    ld8, "ld.global.u8", u64, reg64, u16, reg16;
    ld16, "ld.global.u16", u64, reg64, u16, reg16;
    ld32, "ld.global.u32", u64, reg64, u32, reg32;
    ld8_constant, "ld.global.nc.u8", u64, reg64, u16, reg16;
    ld16_constant, "ld.global.nc.u16", u64, reg64, u16, reg16;
    ld32_constant, "ld.global.nc.u32", u64, reg64, u32, reg32;
    ld32_stream, "ld.global.nc.L1::no_allocate.u32", u64, reg64, u32, reg32;
    lds8, "ld.shared.u8", u32, reg32, u16, reg16;
    lds16, "ld.shared.u16", u32, reg32, u16, reg16;
    lds32, "ld.shared.u32", u32, reg32, u32, reg32;
}
load2! {
    ld64, "ld.global.v2.u32", u64, reg64;
    ld64_constant, "ld.global.nc.v2.u32", u64, reg64;
    ld64_stream, "ld.global.nc.L1::no_allocate.v2.u32", u64, reg64;
    lds64, "ld.shared.v2.u32", u32, reg32;
}
load4! {
    ld128, "ld.global.v4.u32", u64, reg64;
    ld128_constant, "ld.global.nc.v4.u32", u64, reg64;
    ld128_stream, "ld.global.nc.L1::no_allocate.v4.u32", u64, reg64;
    lds128, "ld.shared.v4.u32", u32, reg32;
}
store! {
    st8, "st.global.u8", u64, reg64, u16, reg16;
    st16, "st.global.u16", u64, reg64, u16, reg16;
    st32, "st.global.u32", u64, reg64, u32, reg32;
    sts8, "st.shared.u8", u32, reg32, u16, reg16;
    sts16, "st.shared.u16", u32, reg32, u16, reg16;
    sts32, "st.shared.u32", u32, reg32, u32, reg32;
}
store_vector! {
    st64, st128, "st.global.v2.u32", "st.global.v4.u32", u64, reg64;
    sts64, sts128, "st.shared.v2.u32", "st.shared.v4.u32", u32, reg32;
}

macro_rules! atomic {
    ($($name:ident, $op:literal, $Address:ty, $areg:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(address: $Address, value: u32) -> u32 {
            let r;
            // SAFETY: the launch answers for the address.
            unsafe {
                asm!(concat!($op, " {0}, [{1}], {2};"), out(reg32) r, in($areg) address,
                    in(reg32) value, options(nostack))
            }
            r
        }
    )*};
}
atomic! {
    atomic_add_u32, "atom.global.add.u32", u64, reg64;
    atomic_max_u32, "atom.global.max.u32", u64, reg64;
    atomic_add_shared_u32, "atom.shared.add.u32", u32, reg32;
}
#[inline(always)]
pub fn atomic_add_f32(address: u64, value: f32) {
    // SAFETY: the launch answers for the address.
    unsafe {
        asm!("red.global.add.f32 [{0}], {1};", in(reg64) address, in(reg32) value, options(nostack))
    }
}

// Only a declaration of the module may be `.extern`.
core::arch::global_asm!(".extern .shared .align 128 .b8 dynamic_shared[];");

#[inline(always)]
pub fn dynamic_shared() -> u32 {
    let r;
    // SAFETY: an address.
    unsafe { asm!("mov.u32 {0}, dynamic_shared;", out(reg32) r, options(pure, nomem, nostack)) }
    r
}
/// Aligned to 128 bytes and of a multiple of them: the driver's linker puts dynamic shared memory right
/// behind, whatever alignment it asks for, and asynchronous copies to addresses that are no multiple of
/// 128 read every sector of the second-level cache twice.
#[inline(always)]
pub fn static_shared<const BYTES: u32>() -> u32 {
    let r;
    // SAFETY: an address.
    unsafe {
        asm!("{{ .shared .align 128 .b8 static_shared[{1}]; mov.u32 {0}, static_shared; }}",
            out(reg32) r, const BYTES.next_multiple_of(128), options(nostack))
    }
    r
}
