//! Every operation against a plain F64 loop.

use super::*;

/// Deterministic noise in [−1, 1), with an outlier now and then.
pub struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        // Source: Marsaglia 2003, xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let value = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if bits.is_multiple_of(97) { value * 20.0 } else { value }
    }
    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn noise(seed: usize) -> Noise {
    Noise(0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1) << 20)
}

/// Normalised mean squared error.
#[track_caller]
fn assert_near(got: &[f32], want: &[f64], nmse: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let power: f64 = want.iter().map(|w| w * w).sum();
    assert!(error <= nmse * power.max(1e-30), "{what}: NMSE {:e}", error / power);
}

fn tensor(ops: &CpuOps, rows: usize, cols: usize, values: &[f32]) -> Tensor {
    let mut t = ops.alloc(rows, cols).unwrap();
    ops.write(&mut t, rows, values).unwrap();
    t
}

fn weight(ops: &CpuOps, format: Format, rows: usize, cols: usize, noise: &mut Noise) -> Linear {
    let mut bytes = vec![0; format.row_bytes(cols).unwrap() * rows];
    format.encode(&noise.values(rows * cols), &mut bytes);
    let weight = ops.weight(format, rows, cols, Bytes::owned(bytes)).unwrap();
    Linear { weight, bias: None }
}

fn decoded(w: &Linear) -> Vec<f64> {
    let mut out = vec![0.0; w.weight.rows * w.weight.cols];
    w.weight.format.decode(&w.weight.bytes, &mut out);
    out.into_iter().map(f64::from).collect()
}

/// `x · wᵀ` in F64.
fn product(x: &[f64], w: &[f64], cols: usize) -> Vec<f64> {
    let rows = w.chunks_exact(cols);
    x.chunks_exact(cols)
        .flat_map(|x| rows.clone().map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()))
        .collect()
}

fn backends(exact: bool) -> Vec<CpuOps> {
    let level = |l| CpuOps::with_level(if l == Level::Scalar { 1 } else { 2 }, exact, l);
    Level::available().into_iter().map(level).collect()
}

const SHAPES: &[(usize, usize, usize)] = &[
    // rows of x, columns, rows of w
    (1, 32, 1),
    (2, 64, 17),
    (3, 96, 16),
    (5, 160, 33),
    (16, 256, 5),
    (17, 576, 3),
    (33, 256, 31),
    (1, 1536, 33),
    (9, 512, 2),
];

fn run(ops: &CpuOps, w: &Linear, x: &[f32]) -> Vec<f32> {
    let cols = w.weight.cols;
    let x = tensor(ops, x.len() / cols, cols, x);
    let mut y = ops.alloc(x.rows, w.weight.rows).unwrap();
    ops.linear(&[w], &x, &mut [&mut y]).unwrap();
    y.host_rows().to_vec()
}

#[test]
fn exact_products_of_every_format() {
    for ops in backends(true) {
        for &format in Format::ALL {
            for &(m, k, n) in SHAPES {
                if format.row_bytes(k).is_none() {
                    continue;
                }
                let mut noise = noise(m * k + n);
                let mut w = weight(&ops, format, n, k, &mut noise);
                let x = noise.values(m * k);
                let bias = noise.values(n);
                let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
                let mut want = product(&wide, &decoded(&w), k);
                want.iter_mut().enumerate().for_each(|(i, y)| *y += f64::from(bias[i % n]));
                w.bias = Some(ops.vector(bias).unwrap());
                let what = format!("{} {format:?} {m}x{k}x{n}", ops.name());
                assert_near(&run(&ops, &w, &x), &want, 1e-11, &what);
            }
        }
    }
}

/// What 8-bit blocks of 32 make of `x`, computed apart from the kernel.
fn rounded(x: &[f32]) -> Vec<f64> {
    x.chunks_exact(32)
        .flat_map(|block| {
            let greatest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let scale = f64::from(greatest / 127.0);
            block.iter().map(move |v| f64::from((v * (127.0 / greatest)).round_ties_even()) * scale)
        })
        .collect()
}

#[test]
fn products_of_every_format_on_8_bit_activations() {
    for ops in backends(false) {
        for &format in Format::ALL {
            for &(m, k, n) in SHAPES {
                if format.row_bytes(k).is_none() {
                    continue;
                }
                let mut noise = noise(m * k + n + 1);
                let w = weight(&ops, format, n, k, &mut noise);
                let x = noise.values(m * k);
                let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
                let what = format!("{} {format:?} {m}x{k}x{n}", ops.name());
                let got = run(&ops, &w, &x);
                let decoded = decoded(&w);
                assert_near(&got, &product(&wide, &decoded, k), 5e-4, &what);
                if format.block_len() > 1 {
                    assert_near(&got, &product(&rounded(&x), &decoded, k), 1e-9, &what);
                } else {
                    assert_near(&got, &product(&wide, &decoded, k), 1e-11, &what);
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_the_threads() {
    let k = 512;
    for exact in [true, false] {
        let solo = CpuOps::new(1, exact);
        let many = CpuOps::new(3, exact);
        for &format in Format::ALL {
            let mut noise = noise(7);
            let w = weight(&solo, format, 21, k, &mut noise);
            let x = noise.values(15 * k);
            let together = run(&many, &w, &x);
            let alone: Vec<f32> = x.chunks_exact(k).flat_map(|x| run(&solo, &w, x)).collect();
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&together), bits(&alone), "{format:?}");
        }
    }
}

#[test]
fn matrices_of_different_formats_share_an_input() {
    let ops = CpuOps::new(2, false);
    let mut noise = noise(3);
    let ws = [
        weight(&ops, Format::Q4_K, 40, 256, &mut noise),
        weight(&ops, Format::Q6_K, 24, 256, &mut noise),
        weight(&ops, Format::F16, 8, 256, &mut noise),
    ];
    let x = noise.values(3 * 256);
    let tensor = tensor(&ops, 3, 256, &x);
    let mut ys = [40, 24, 8].map(|n| ops.alloc(3, n).unwrap());
    let [a, b, c] = &mut ys;
    ops.linear(&[&ws[0], &ws[1], &ws[2]], &tensor, &mut [a, b, c]).unwrap();
    for (w, y) in ws.iter().zip(&ys) {
        assert_eq!(y.host_rows(), run(&ops, w, &x));
    }
}

#[test]
fn what_is_not_finite_is_not_lost() {
    for ops in backends(false) {
        let mut noise = noise(11);
        let w = weight(&ops, Format::Q8_0, 16, 64, &mut noise);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise.values(64);
            x[40] = bad;
            assert!(run(&ops, &w, &x).iter().all(|y| !y.is_finite()), "{bad}");
        }
        assert_eq!(run(&ops, &w, &[0.0; 64]), [0.0; 16]);
        assert!(run(&ops, &w, &[1e-40; 64]).iter().all(|y| y.abs() < 1e-36));
    }
}
