//! Products and loads of matrices.

use half::{bf16, f16};

use super::*;
use crate::{SharedMemory, mma, params};

params! {
    /// A product's operands in words: `a` 16 rows, `b` 8 columns of `words` each; `d` [16, 8].
    pub(super) struct Product {
        /// [16, words].
        pub a: Global<u32>,
        /// [8, words].
        pub b: Global<u32>,
        /// [16, 8].
        pub d: GlobalMut<u32>,
    }
}

/// Loads fragments by the layout of the PTX ISA, written out here once more, independent of the index
/// functions of `mma`: row and column group of a lane, pairs of words 4 apart.
fn fragments(t: Thread, p: &Product) -> ([u32; 4], [u32; 2], [usize; 4]) {
    let (group, member) = (t.lane() as usize / 4, t.lane() as usize % 4);
    // All formats hold 8 words a row.
    let a = [(0, 0), (8, 0), (0, 4), (8, 4)]
        .map(|(row, word)| p.a.get((group + row) * 8 + member + word));
    let b = [0, 4].map(|word| p.b.get(group * 8 + member + word));
    let d = [(0, 0), (0, 1), (8, 0), (8, 1)].map(|(row, col)| (group + row) * 8 + 2 * member + col);
    (a, b, d)
}

macro_rules! product {
    ($f:path, $D:ty, $from:expr, $to:expr) => {
        |t: Thread, p: &Product| {
            t.wait_for_previous_kernel();
            let (a, b, at) = fragments(t, p);
            let mut d = at.map(|at| $from(p.d.get(at)));
            $f(t, &mut d, a, b);
            (0..4).for_each(|i| p.d.set(at[i], $to(d[i])));
        }
    };
}

/// `d += a · b` of packed rows and columns.
fn multiply(body: fn(Thread, &Product), a: &[u32], b: &[u32], d: &[u32]) -> Vec<u32> {
    let mut mem = Memory::new();
    let params = Product { a: mem.upload(a), b: mem.upload(b), d: mem.upload_mut(d) };
    mem.launch(&entry(body), Launch::linear(1, 32), &params).unwrap();
    mem.read(params.d)
}

/// Small whole numbers, different in each place.
fn number(i: usize) -> f32 {
    (i * 7 % 13) as f32 - 6.0
}

fn pack(len: usize, per_word: usize, encode: fn(f32) -> u32) -> Vec<u32> {
    let element = |i| encode(number(i)) << (32 / per_word * (i % per_word));
    (0..len)
        .map(|word| (0..per_word).fold(0, |bits, i| bits | element(word * per_word + i)))
        .collect()
}

/// Known products, exact in every format.
fn check(body: fn(Thread, &Product), per_word: usize, encode: fn(f32) -> u32, integer: bool) {
    let a = pack(128, per_word, encode);
    let b = pack(64, per_word, encode);
    let store = |x: f32| if integer { x as i32 as u32 } else { x.to_bits() };
    let d: Vec<u32> = (0..128).map(|i| store(number(3 * i + 1))).collect();
    let k = 8 * per_word;
    let want = (0..128).map(|i| {
        let (row, col) = (i / 8, i % 8);
        let products = (0..k).map(|k_i| number(row * k + k_i) * number(col * k + k_i));
        store(products.sum::<f32>() + number(3 * i + 1))
    });
    assert_eq!(multiply(body, &a, &b, &d), want.collect::<Vec<_>>());
}

/// E4M3 of a whole number up to 8.
fn to_e4m3(x: f32) -> u32 {
    if x == 0.0 {
        return 0;
    }
    let bits = x.abs().to_bits();
    let exponent = (bits >> 23) - 127 + 7;
    u32::from(x < 0.0) << 7 | exponent << 3 | (bits >> 20 & 7)
}

const F16: fn(Thread, &Product) = product!(mma::f16, f32, f32::from_bits, f32::to_bits);
const BF16: fn(Thread, &Product) = product!(mma::bf16, f32, f32::from_bits, f32::to_bits);
const TF32: fn(Thread, &Product) = product!(mma::tf32, f32, f32::from_bits, f32::to_bits);
const E4M3: fn(Thread, &Product) = product!(mma::e4m3, f32, f32::from_bits, f32::to_bits);
const S8: fn(Thread, &Product) = product!(mma::s8, i32, u32::cast_signed, i32::cast_unsigned);

#[test]
fn products_are_exact_where_they_can_be() {
    check(F16, 2, |x| f16::from_f32(x).to_bits().into(), false);
    check(BF16, 2, |x| bf16::from_f32(x).to_bits().into(), false);
    check(TF32, 1, |x| x.to_bits() | 0x1fff, false);
    check(E4M3, 4, to_e4m3, false);
    check(S8, 4, |x| u32::from(x as i8 as u8), true);
}

#[test]
fn sums_of_bytes_wrap() {
    let d = multiply(S8, &[0x8080_8080; 128], &[0x8080_8080; 64], &[i32::MAX as u32; 128]);
    assert_eq!(d, [(i32::MAX as u32).wrapping_add(32 << 14); 128]);
}

/// One row of halves times one column, plus `c`.
fn dot_f16(a: [f32; 16], b: [f32; 16], c: f32) -> f32 {
    let pack = |x: &[f32; 16]| {
        let bits = x.map(|x| u32::from(f16::from_f32(x).to_bits()));
        std::array::from_fn::<u32, 8, _>(|i| bits[2 * i] | bits[2 * i + 1] << 16)
    };
    f32::from_bits(multiply(F16, &pack(&a).repeat(16), &pack(&b).repeat(8), &[c.to_bits(); 128])[0])
}

#[test]
fn sums_are_cut_as_on_the_device() {
    let b = [2f32.powi(-12); 16];
    // One bit is kept below the last of 1.0, so that two of it add up to one; half of it is lost.
    assert_eq!(dot_f16(b, b, 1.0), 1.0 + 16.0 * 2f32.powi(-24));
    assert_eq!(dot_f16([2f32.powi(-13); 16], b, 1.0), 1.0);
    // Towards zero, on both sides.
    let mut one = [0.0; 16];
    one[0] = 2f32.powi(-12);
    assert_eq!(dot_f16(one, one, 1.0), 1.0);
    assert_eq!(dot_f16(one, one, -1.0), -1.0 + 2f32.powi(-24));
    let mut minus = one;
    minus[0] = -minus[0];
    assert_eq!(dot_f16(one, minus, -1.0), -1.0);
    // The first block is added up and cut before the second.
    let mut a = [0.0; 16];
    (a[0], a[8]) = (1.0, -1.0);
    assert_eq!(dot_f16(a, [1.0; 16], 2f32.powi(-30)), 0.0);
    let mut a = [0.0; 16];
    (a[0], a[1]) = (1.0, -1.0);
    assert_eq!(dot_f16(a, [1.0; 16], 2f32.powi(-24)), 2f32.powi(-24));
    // Subnormal halves count.
    let mut a = [0.0; 16];
    a[0] = 2f32.powi(-24);
    assert_eq!(dot_f16(a, a, 0.0), 2f32.powi(-48));
}

#[test]
fn what_is_not_a_number_stays_so() {
    let mut a = [0.0; 16];
    a[3] = f32::INFINITY;
    assert_eq!(dot_f16(a, [1.0; 16], 0.0), f32::INFINITY);
    assert_eq!(dot_f16(a, [-1.0; 16], 0.0), f32::NEG_INFINITY);
    assert!(dot_f16(a, [0.0; 16], 0.0).is_nan());
    assert!(dot_f16(a, [-1.0; 16], f32::INFINITY).is_nan());
    assert!(dot_f16([1.0; 16], [1.0; 16], f32::NAN).is_nan());
    assert_eq!(dot_f16([60000.0; 16], [60000.0; 16], f32::MAX), f32::MAX);
    let nan = multiply(E4M3, &[0x7f; 128], &[0x38; 64], &[0; 128]);
    assert!(f32::from_bits(nan[0]).is_nan());
}

#[test]
fn e4m3_products_match_their_values() {
    // Each code against the value by the definition of the format (OCP 8-bit floating point, 2023).
    for code in (0u32..256).filter(|code| code & 0x7f != 0x7f) {
        let (exponent, mantissa) = (code >> 3 & 15, (code & 7) as f32);
        let magnitude = match exponent {
            0 => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent as i32 - 7),
        };
        let want = if code & 0x80 == 0 { magnitude } else { 0.0 - magnitude };
        let d = multiply(E4M3, &[code; 128], &[0x38; 64], &[0; 128]);
        // Eight products, the low byte of each word.
        assert_eq!(f32::from_bits(d[17]), 8.0 * want, "{code:#x}");
    }
}

#[test]
fn each_fragment_covers_its_tile_once() {
    fn once(cells: impl Iterator<Item = (u32, u32)>, rows: u32, cols: u32) {
        let mut cells: Vec<_> = cells.collect();
        cells.sort_unstable();
        assert_eq!(
            cells,
            (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))).collect::<Vec<_>>()
        );
    }
    let lanes = |words: u32| (0..32).flat_map(move |lane| (0..words).map(move |w| (lane, w)));
    once(lanes(4).map(|(lane, i)| (mma::d_row(lane, i), mma::d_col(lane, i))), 16, 8);
    for per_word in [1, 2, 4] {
        let a = lanes(4).flat_map(|(lane, w)| {
            (0..per_word).map(move |i| (mma::a_row(lane, w), mma::a_k(lane, w, per_word) + i))
        });
        once(a, 16, 8 * per_word);
        let b = lanes(2).flat_map(|(lane, w)| {
            (0..per_word).map(move |i| (mma::b_col(lane), mma::b_k(lane, w, per_word) + i))
        });
        once(b, 8, 8 * per_word);
    }
}

/// Fills shared memory with 32 rows of 8 halves, element `c` of row `r` being `8r + c`.
fn rows(t: Thread) -> crate::Shared<u16> {
    let x = SharedMemory::dynamic(t).take::<u16>(256);
    let mut c = 0;
    while c < 8 {
        x.set(8 * t.id() + c, (8 * t.id() + c) as u16);
        c += 1;
    }
    t.sync();
    x
}

#[test]
fn matrices_are_loaded_by_rows() {
    passes(ONE.shared(512), |t, _| {
        let x = rows(t);
        let (major, minor) = (t.lane() / 4, 2 * (t.lane() % 4));
        let pair = |low: u32, high: u32| low | high << 16;
        let plain = |m: u32| {
            let at = 64 * m + 8 * major + minor;
            pair(at, at + 1)
        };
        let across = |m: u32| {
            let at = 64 * m + 8 * minor + major;
            pair(at, at + 8)
        };
        let mine = x.at(8 * t.lane());
        assert_eq!(mma::load_matrix_x4(t, mine), [0, 1, 2, 3].map(plain));
        assert_eq!(mma::load_matrix_x4_transposed(t, mine), [0, 1, 2, 3].map(across));
        // The addresses of lanes 16 to 31 are not looked at.
        let mine = if t.lane() < 16 { mine } else { x.at(1 << 18) };
        assert_eq!(mma::load_matrix_x2(t, mine), [0, 1].map(plain));
    });
}

#[test]
fn rows_of_matrices_are_checked() {
    let fault = fails(FaultKind::Misaligned, ONE.shared(512), |t, _| {
        let x = rows(t);
        mma::load_matrix_x4(t, x.at(if t.lane() == 9 { 4 } else { 0 }));
    });
    assert_eq!(fault.thread, Some(9));
    fails(FaultKind::OutOfBounds, ONE.shared(512), |t, _| {
        mma::load_matrix_x4(t, rows(t).at(8 * (t.lane() + 1)));
    });
    fails(FaultKind::Uninitialized, ONE.shared(1024), |t, _| {
        mma::load_matrix_x4(t, rows(t).at(8 * (t.lane() + 1)));
    });
    fails(FaultKind::Race, ONE.shared(512), |t, _| {
        let x = rows(t);
        x.set(8 * t.id(), 0);
        mma::load_matrix_x4(t, x.at(8 * (31 - t.lane())));
    });
}
