//! The host half of the seam: the operations of `nvptx/`, checked. Memory and what threads do together
//! go to the launch under way; arithmetic is defined here.

use std::panic::Location;

pub use super::emu::math::*;
use super::emu::run::{self, Op, together};
use super::emu::{copy, global, shared};

// Memory holds bytes as devices do: little-endian; `cast` takes the host's order.
const _: () = assert!(cfg!(target_endian = "little"));

pub fn thread_id() -> u32 {
    run::thread_id()
}
pub fn thread_count() -> u32 {
    run::thread_count()
}
pub fn cta_id<const AXIS: u32>() -> u32 {
    run::cta_id(AXIS)
}
pub fn cta_count<const AXIS: u32>() -> u32 {
    run::cta_count(AXIS)
}
pub fn fence() {
    run::fence();
}
pub fn grid_dependency_wait() {
    run::wait_for_previous_kernel();
}
/// The emulator runs one kernel after another.
pub fn grid_dependency_launch() {}

pub fn opaque(value: u32) -> u32 {
    value
}

#[track_caller]
pub fn barrier() {
    together(Op::Barrier, &[], Location::caller());
}
#[track_caller]
pub fn warp_barrier() {
    together(Op::WarpBarrier, &[], Location::caller());
}
#[track_caller]
pub fn shuffle_xor(value: u32, mask: u32) -> u32 {
    together(Op::ShuffleXor, &[value, mask], Location::caller())[0]
}
#[track_caller]
pub fn shuffle(value: u32, lane: u32) -> u32 {
    together(Op::Shuffle, &[value, lane], Location::caller())[0]
}
#[track_caller]
pub fn shuffle_up(value: u32, delta: u32) -> u32 {
    together(Op::ShuffleUp, &[value, delta], Location::caller())[0]
}
#[track_caller]
pub fn ballot(predicate: bool) -> u32 {
    together(Op::Ballot, &[predicate.into()], Location::caller())[0]
}

/// Loads and stores of one register, as `name: address, bytes, register` of the module they are in.
macro_rules! scalar {
    ($($load:ident, $store:ident, $memory:ident, $Address:ty, $bytes:literal, $Bits:ty, $Word:ty;)*) => {$(
        #[track_caller]
        pub fn $load(address: $Address) -> $Word {
            <$Bits>::from_le_bytes($memory::load::<$bytes>(address, Location::caller())) as $Word
        }
        #[track_caller]
        pub fn $store(address: $Address, value: $Word) {
            $memory::store(address, (value as $Bits).to_le_bytes(), Location::caller());
        }
    )*};
}
scalar! {
    ld8, st8, global, u64, 1, u8, u16;
    ld16, st16, global, u64, 2, u16, u16;
    ld32, st32, global, u64, 4, u32, u32;
    lds8, sts8, shared, u32, 1, u8, u16;
    lds16, sts16, shared, u32, 2, u16, u16;
    lds32, sts32, shared, u32, 4, u32, u32;
}
macro_rules! vector {
    ($($load:ident, $store:ident, $memory:ident, $Address:ty, $bytes:literal, $words:literal;)*) => {$(
        #[track_caller]
        pub fn $load(address: $Address) -> [u32; $words] {
            bytemuck::cast($memory::load::<$bytes>(address, Location::caller()))
        }
        #[track_caller]
        pub fn $store(address: $Address, value: [u32; $words]) {
            let bytes: [u8; $bytes] = bytemuck::cast(value);
            $memory::store(address, bytes, Location::caller());
        }
    )*};
}
vector! {
    ld64, st64, global, u64, 8, 2;
    ld128, st128, global, u64, 16, 4;
    lds64, sts64, shared, u32, 8, 2;
    lds128, sts128, shared, u32, 16, 4;
}
/// Loads of what nothing writes during the launch (`ld.global.nc`).
macro_rules! constant {
    ($($name:ident, $bytes:literal, $Word:ty;)*) => {$(
        #[track_caller]
        pub fn $name(address: u64) -> $Word {
            bytemuck::cast(global::load_constant::<$bytes>(address, Location::caller()))
        }
    )*};
}
constant! {
    ld16_constant, 2, u16;
    ld32_constant, 4, u32;
    ld32_stream, 4, u32;
    ld64_constant, 8, [u32; 2];
    ld64_stream, 8, [u32; 2];
    ld128_constant, 16, [u32; 4];
    ld128_stream, 16, [u32; 4];
}

/// See `ld.global.nc` above.
#[track_caller]
pub fn ld8_constant(address: u64) -> u16 {
    u16::from(global::load_constant::<1>(address, Location::caller())[0])
}

#[track_caller]
pub fn atomic_add_u32(address: u64, value: u32) -> u32 {
    global::atomic(address, |old| old.wrapping_add(value), Location::caller())
}
#[track_caller]
pub fn atomic_max_u32(address: u64, value: u32) -> u32 {
    global::atomic(address, |old| old.max(value), Location::caller())
}
#[track_caller]
pub fn atomic_add_f32(address: u64, value: f32) {
    let add = |old| (f32::from_bits(old) + value).to_bits();
    global::atomic(address, add, Location::caller());
}
#[track_caller]
pub fn atomic_add_shared_u32(address: u32, value: u32) -> u32 {
    shared::atomic_add(address, value, Location::caller())
}

pub fn dynamic_shared() -> u32 {
    shared::dynamic()
}
#[track_caller]
pub fn static_shared<const BYTES: u32>() -> u32 {
    shared::static_piece(BYTES, Location::caller())
}

#[track_caller]
pub fn copy_async16(to: u32, from: u64, bytes: u32) {
    copy::start(to, from, bytes, Location::caller());
}
#[track_caller]
pub fn copy_async16_whole(to: u32, from: u64) {
    copy::start(to, from, 16, Location::caller());
}
#[track_caller]
pub fn copy_async_commit() {
    copy::commit(Location::caller());
}
#[track_caller]
pub fn copy_async_wait<const PENDING: u32>() {
    copy::wait(PENDING, Location::caller());
}

macro_rules! mma {
    ($($name:ident, $op:ident, $D:ty, $to_bits:path, $from_bits:path;)*) => {$(
        #[track_caller]
        pub fn $name(d: &mut [$D; 4], a: [u32; 4], b: [u32; 2]) {
            let c = d.map($to_bits);
            let words = [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]];
            *d = together(Op::$op, &words, Location::caller()).map($from_bits);
        }
    )*};
}
mma! {
    mma_f16, MmaF16, f32, f32::to_bits, f32::from_bits;
    mma_bf16, MmaBf16, f32, f32::to_bits, f32::from_bits;
    mma_tf32, MmaTf32, f32, f32::to_bits, f32::from_bits;
    mma_s8, MmaS8, i32, i32::cast_unsigned, u32::cast_signed;
    mma_e4m3, MmaE4m3, f32, f32::to_bits, f32::from_bits;
}
#[track_caller]
pub fn ldmatrix_x4(address: u32) -> [u32; 4] {
    together(Op::LoadMatrix4, &[address], Location::caller())
}
#[track_caller]
pub fn ldmatrix_x4_trans(address: u32) -> [u32; 4] {
    together(Op::LoadMatrix4Transposed, &[address], Location::caller())
}
#[track_caller]
pub fn ldmatrix_x2(address: u32) -> [u32; 2] {
    let [a, b, ..] = together(Op::LoadMatrix2, &[address], Location::caller());
    [a, b]
}
