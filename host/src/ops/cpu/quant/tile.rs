//! A panel of weights times rows of activations: the plain definition, and who does it faster.

use gpu_kernels::formats::Codec;

use super::activations::{Activations, BLOCK, GROUP, Sums};
use super::panel::{LINE, Panel, ROWS};
use crate::ops::cpu::simd::Level;

/// Multiplies every row of `x` with the panel; `put` gets the row and its sixteen sums.
pub fn multiply<C: Codec>(
    level: Level,
    panel: &Panel,
    x: &Activations,
    put: impl FnMut(usize, &[f32; ROWS]),
) {
    match level {
        Level::Scalar => plain::<C>(panel, x, put),
        // SAFETY: a level is only ever one that the machine has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::avx2::multiply::<C, _>(panel, x, put) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::avx512::multiply::<C, _>(panel, x, put) },
    }
}

/// The sums of `x` over the groups of a format.
pub fn sums<C: Codec>(x: &Activations) -> &Sums {
    if C::GROUP_LEN == GROUP { &x.sums16 } else { &x.sums32 }
}

/// The definition: exact integer sums of a group, then its scale and minimum in F32.
fn plain<C: Codec>(panel: &Panel, x: &Activations, mut put: impl FnMut(usize, &[f32; ROWS])) {
    let groups = x.cols() / C::GROUP_LEN;
    for row in 0..x.rows() {
        let (high, low) = (&x.high[row * x.cols()..][..x.cols()], &x.low[row * x.cols()..]);
        let mut out = [0.0f32; ROWS];
        for g in 0..groups {
            let at = g * C::GROUP_LEN;
            let x_scale = x.scale[(row * x.cols() + at) / BLOCK];
            let mut sum = [0i32; ROWS];
            for i in at..at + C::GROUP_LEN {
                let x = 256 * i32::from(high[i]) + i32::from(low[i]);
                let line = &panel.q[i / LINE];
                for (sum, w) in sum.iter_mut().zip(&line.0) {
                    *sum += x * i32::from(w[i % LINE]);
                }
            }
            for r in 0..ROWS {
                out[r] += sum[r] as f32 * (panel.scale[g].0[r] * x_scale);
                if C::HAS_MIN {
                    out[r] -= panel.min[g].0[r] * sums::<C>(x).scaled[row * groups + g];
                }
            }
        }
        put(row, &out);
    }
}
