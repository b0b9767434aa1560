//! TQ1_0: 256 ternary weights, five to a byte, one F16 scale. Source: ggml, `block_tq1_0`.
//!
//! A byte holds the base-3 number `t0·81 + t1·27 + t2·9 + t3·3 + t4` as the fraction of 243 in
//! units of 1/256, rounded up. Multiplying by `3^n` modulo 256 drops the first `n` digits; the
//! next one is then the integer part of three times the fraction.

use bytemuck::{Pod, Zeroable};

use super::fit;
use super::scalar::F16Le;
use super::{Codec, array};

/// `w = d · (t − 1)`.
pub struct Tq1_0;

/// One block of [`Tq1_0`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq1_0 {
    /// Digit `n` of byte `l < 32` is weight `32·n + l`, of byte `32 + l` weight `160 + 16·n + l`.
    pub qs: [u8; 48],
    /// Digit `n < 4` of byte `l` is weight `240 + 4·n + l`.
    pub qh: [u8; 4],
    /// Scale.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockTq1_0>() == 54);

const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// The `n`-th ternary digit of a byte, less 1.
#[inline(always)]
fn digit(byte: u8, n: usize) -> i8 {
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as i8 - 1
}

/// Byte and digit that hold weight `i`; bytes count through `qs` and then `qh`.
fn place(i: usize) -> (usize, usize) {
    match i {
        0..160 => (i % 32, i / 32),
        160..240 => (32 + i % 16, (i - 160) / 16),
        _ => (48 + i % 4, (i - 240) / 4),
    }
}

impl Codec for Tq1_0 {
    type Block = BlockTq1_0;
    const BLOCK_LEN: usize = 256;
    const GROUP_LEN: usize = 32;
    const HAS_MIN: bool = false;
    const Q_MIN: i8 = -1;
    const Q_MAX: i8 = 1;

    #[inline]
    fn unpack(block: &BlockTq1_0, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let q = array::<_, 256>(q);
        for n in 0..5 {
            for l in 0..32 {
                q[32 * n + l] = digit(block.qs[l], n);
            }
            for l in 0..16 {
                q[160 + 16 * n + l] = digit(block.qs[32 + l], n);
            }
        }
        for n in 0..4 {
            for l in 0..4 {
                q[240 + 4 * n + l] = digit(block.qh[l], n);
            }
        }
        *array(scale) = [block.d.get(); 8];
        *array(min) = [0.0; 8];
    }

    fn encode(values: &[f32]) -> BlockTq1_0 {
        let d = fit::abs_max(values);
        let inverse = fit::inverse(d);
        let mut numbers = [0u16; 52];
        for (i, &v) in values.iter().enumerate() {
            let (byte, n) = place(i);
            let digit = (fit::round(v * inverse) + 1) as u16;
            numbers[byte] += digit * u16::from(POWERS[4 - n]);
        }
        let bytes = numbers.map(|number| (number * 256).div_ceil(243) as u8);
        let (qs, qh) = bytes.split_at(48);
        let mut block = BlockTq1_0 { qs: [0; 48], qh: [0; 4], d: F16Le::new(d) };
        block.qs.copy_from_slice(qs);
        block.qh.copy_from_slice(qh);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_unpacks_to_the_digits_of_its_number() {
        for number in 0..243u16 {
            let byte = (number * 256).div_ceil(243) as u8;
            let mut rest = number;
            for n in (0..5).rev() {
                assert_eq!(digit(byte, n), (rest % 3) as i8 - 1, "{number} digit {n}");
                rest /= 3;
            }
        }
    }

    #[test]
    fn every_weight_has_its_own_place() {
        let mut seen = [[false; 5]; 52];
        for i in 0..256 {
            let (byte, n) = place(i);
            assert!(!core::mem::replace(&mut seen[byte][n], true), "{i}");
        }
    }
}
