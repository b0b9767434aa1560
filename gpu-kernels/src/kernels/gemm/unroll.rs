//! Loops over registers.

/// Runs the body with `$i` from 0 to below 2, 4, 8 or 16 (and below `$n`). LLVM leaves larger loops as
/// loops, and then keeps the arrays they index in local memory.
#[cfg(target_arch = "nvptx64")]
macro_rules! unroll {
    ($i:ident of 2, $body:block) => { unroll!(@ $i, 2, $body, 0, 1) };
    ($i:ident of 4, $body:block) => { unroll!(@ $i, 4, $body, 0, 1, 2, 3) };
    ($i:ident of 4 < $n:expr, $body:block) => { unroll!(@ $i, $n, $body, 0, 1, 2, 3) };
    ($i:ident of 8 < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0, 1, 2, 3, 4, 5, 6, 7)
    };
    ($i:ident of 16 < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    };
    (@ $i:ident, $n:expr, $body:block, $($value:literal),*) => {
        $(if $value < $n {
            let $i = $value;
            $body
        })*
    };
}
/// The same as a loop: the emulator's arrays are in memory anyway.
#[cfg(not(target_arch = "nvptx64"))]
macro_rules! unroll {
    ($i:ident of $most:literal, $body:block) => { unroll!($i of $most < $most, $body) };
    ($i:ident of $most:literal < $n:expr, $body:block) => {
        let mut index = 0;
        while index < $n {
            let $i = index;
            $body
            index += 1;
        }
    };
}
