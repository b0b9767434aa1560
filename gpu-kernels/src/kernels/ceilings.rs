//! What a device can do at most, for the benchmark to say what share of it a kernel reaches: reading
//! memory, multiplying matrices, launching.

use cuda_std::{Global, GlobalMut, Launch, Thread, kernels, mma, params};

use super::row::each;

/// Threads of a CTA.
pub const THREADS: u32 = 256;
/// Accumulators of a warp: enough products under way to hide their latency.
const CHAINS: usize = 8;
/// Loads of a thread under way.
const LOADS: usize = 4;
/// Multiplications and additions of a warp in one round of a peak, over those of one product
/// `16 · 8 · k`.
pub const PRODUCTS_PER_ROUND: u32 = CHAINS as u32;

params! {
    /// Parameters of [`EMPTY`].
    pub struct EmptyParams {
        /// Not written.
        pub out: GlobalMut<u32>,
    }
}
params! {
    /// Parameters of [`READ`].
    pub struct ReadParams {
        /// [n].
        pub x: Global<[u32; 4]>,
        /// [1]: written if all words together make a certain one, so that no load is left out.
        pub out: GlobalMut<u32>,
        /// Vectors of 16 bytes.
        pub n: u64,
    }
}
params! {
    /// Parameters of the peaks.
    pub struct PeakParams {
        /// [1]: see [`ReadParams::out`].
        pub out: GlobalMut<u32>,
        /// Times that each warp multiplies [`PRODUCTS_PER_ROUND`] tiles.
        pub rounds: u32,
    }
}

kernels! {
    module "ceilings";
    /// Does nothing.
    pub EMPTY: empty(EmptyParams), threads THREADS, ctas 1 => nothing;
    /// Reads memory once.
    pub READ: read_u32(ReadParams), threads THREADS, ctas 1 => read;
    /// `mma.sync` on f16, k = 16.
    pub PEAK_F16: peak_f16(PeakParams), threads THREADS, ctas 1 => peak::<F16>;
    /// On bf16, k = 16.
    pub PEAK_BF16: peak_bf16(PeakParams), threads THREADS, ctas 1 => peak::<Bf16>;
    /// On tf32, k = 8.
    pub PEAK_TF32: peak_tf32(PeakParams), threads THREADS, ctas 1 => peak::<Tf32>;
    /// On i8, k = 32.
    pub PEAK_S8: peak_s8(PeakParams), threads THREADS, ctas 1 => peak::<S8>;
    /// On FP8 E4M3, k = 32; ends with a trap before sm_89, and takes the place of f16 on sm_90.
    pub PEAK_E4M3: peak_e4m3(PeakParams), threads THREADS, ctas 1 => peak::<E4m3>;
}

/// A launch that fills a device of so many multiprocessors, for all kernels of this module.
pub const fn launch(multiprocessors: u32) -> Launch {
    Launch::linear(8 * multiprocessors, THREADS)
}

/// A word that random data do not make.
const UNLIKELY: u32 = 0x1234_5678;

#[inline(always)]
fn nothing(_: Thread, _: &EmptyParams) {}

#[inline(always)]
fn read(t: Thread, p: &ReadParams) {
    t.wait_for_previous_kernel();
    let stride = u64::from(t.cta_count()) * u64::from(t.count());
    let mut i = u64::from(t.cta_id()) * u64::from(t.count()) + u64::from(t.id());
    let mut word = 0;
    while i + (LOADS as u64 - 1) * stride < p.n {
        let mut v = [[0; 4]; LOADS];
        each!(j < LOADS => {
            v[j] = p.x.stream((i + j as u64 * stride) as usize);
        });
        each!(j < LOADS => {
            word ^= folded(v[j]);
        });
        i += LOADS as u64 * stride;
    }
    while i < p.n {
        word ^= folded(p.x.stream(i as usize));
        i += stride;
    }
    if word == UNLIKELY {
        p.out.set(0, word);
    }
}

#[inline(always)]
fn folded(v: [u32; 4]) -> u32 {
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// A matrix instruction.
trait Product {
    type Sum: Copy;
    fn multiply(t: Thread, d: &mut [Self::Sum; 4], a: [u32; 4], b: [u32; 2]);
    fn start(chain: u8) -> Self::Sum;
    fn word(sum: Self::Sum) -> u32;
}

macro_rules! product {
    ($($Name:ident, $mma:ident, $Sum:ty, |$s:ident| $word:expr;)*) => {$(
        struct $Name;
        impl Product for $Name {
            type Sum = $Sum;
            #[inline(always)]
            fn multiply(t: Thread, d: &mut [$Sum; 4], a: [u32; 4], b: [u32; 2]) {
                mma::$mma(t, d, a, b);
            }
            #[inline(always)]
            fn start(chain: u8) -> $Sum {
                chain.into()
            }
            #[inline(always)]
            fn word($s: $Sum) -> u32 {
                $word
            }
        }
    )*};
}
product! {
    F16, f16, f32, |s| s.to_bits();
    Bf16, bf16, f32, |s| s.to_bits();
    Tf32, tf32, f32, |s| s.to_bits();
    S8, s8, i32, |s| s as u32;
    E4m3, e4m3, f32, |s| s.to_bits();
}

#[inline(always)]
fn peak<P: Product>(t: Thread, p: &PeakParams) {
    // Small numbers in every format; the time does not depend on them. All change from product to
    // product: where the device has no such instruction (E4M3 on sm_90 is unpacked to f16), the
    // compiler would compute a repeated product once.
    let id = t.id();
    let mut a = [id, id * 3 + 1, id ^ 77, id + 5];
    let mut b = [[0; 2]; CHAINS];
    let mut d = [[P::start(0); 4]; CHAINS];
    each!(j < CHAINS => {
        b[j] = [id * 7 + j as u32, id ^ j as u32];
        d[j] = [P::start(j as u8); 4];
    });
    let mut round = 0;
    while round < p.rounds {
        a[0] ^= round;
        a[2] ^= round;
        each!(j < CHAINS => {
            P::multiply(t, &mut d[j], a, b[j]);
        });
        round += 1;
    }
    let mut word = 0;
    each!(j < CHAINS => {
        word ^= folded(d[j].map(P::word));
    });
    if word == UNLIKELY {
        p.out.set(0, word);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use cuda_std::emu::Memory;

    use super::*;

    #[test]
    fn each_runs() {
        let mut mem = Memory::new();
        let out = mem.upload_mut(&[0u32]);
        mem.launch(&EMPTY, launch(1), &EmptyParams { out }).unwrap();
        let p = PeakParams { out, rounds: 2 };
        for entry in [PEAK_F16, PEAK_BF16, PEAK_TF32, PEAK_S8, PEAK_E4M3] {
            mem.launch(&entry, Launch::linear(1, 64), &p).unwrap();
        }
        assert_eq!(mem.read(out), [0]);
    }

    #[test]
    fn every_word_is_read() {
        for n in [0usize, 1, 63, 64, 65, 191, 192, 193, 448, 449, 1000] {
            // The word comes out only if each of the other pairs cancels.
            let mut x: Vec<[u32; 4]> = (0..n as u32).map(|i| [i, i, !i, !i]).collect();
            if let Some(last) = x.last_mut() {
                last[3] ^= UNLIKELY;
            }
            let mut mem = Memory::new();
            let out = mem.upload_mut(&[0u32]);
            let p = ReadParams { x: mem.upload(&x), out, n: n as u64 };
            mem.launch(&READ, Launch::linear(2, 32), &p).unwrap();
            assert_eq!(mem.read(out), [if n > 0 { UNLIKELY } else { 0 }], "{n}");
        }
    }
}
