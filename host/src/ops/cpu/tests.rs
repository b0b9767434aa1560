//! Every operation against a plain F64 loop.

use super::*;
use crate::ops::{Batch, KvDtype, KvLayer, Rotation, Span, WeightUse};

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

fn operand(ops: &CpuOps, rows: usize, cols: usize, values: &[f32]) -> Operand {
    let mut x = ops.alloc_operand(rows, cols).unwrap();
    x.host_rows_mut().copy_from_slice(values);
    x
}

fn norm(ops: &CpuOps, weight: &[f32]) -> Norm {
    Norm { weight: ops.vector(weight.to_vec()).unwrap(), eps: 1e-5 }
}

fn weight(ops: &CpuOps, format: Format, rows: usize, cols: usize, noise: &mut Noise) -> Linear {
    // Encoding is slow where it is a search, so a few blocks are drawn from at random.
    let (len, size) = (format.block_len(), format.block_bytes());
    let mut blocks = vec![0; 12 * size];
    format.encode(&noise.values(12 * len), &mut blocks);
    // Half of them are random bytes, with codes and packed scales that no encoder writes.
    let mut decoded = vec![0.0; len];
    for block in blocks.chunks_exact_mut(size).step_by(2).filter(|_| len > 1) {
        loop {
            block.fill_with(|| (noise.next() * 1e6) as i32 as u8);
            format.decode(block, &mut decoded);
            let greatest = decoded.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let finite = decoded.iter().all(|v| v.is_finite());
            if finite && 0.1 < greatest && greatest < 10.0 {
                break;
            }
        }
    }
    let mut bytes = Vec::with_capacity(format.row_bytes(cols).unwrap() * rows);
    for _ in 0..rows * cols / len {
        let pick = (noise.next().abs() * 12.0) as usize % 12;
        bytes.extend_from_slice(&blocks[pick * size..][..size]);
    }
    let weight = ops.weight(WeightUse::Products, format, rows, cols, Bytes::owned(bytes)).unwrap();
    Linear { weight, bias: None }
}

fn decoded(w: &Linear) -> Vec<f64> {
    let mut out = vec![0.0; w.weight.rows * w.weight.cols];
    w.weight.format.decode(w.weight.host_bytes(), &mut out);
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
    let x = operand(ops, x.len() / cols, cols, x);
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

/// What 16-bit blocks of 32 make of `x`, computed apart from the kernel.
fn rounded(x: &[f32]) -> Vec<f64> {
    x.chunks_exact(32)
        .flat_map(|block| {
            let greatest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let scale = f64::from(greatest / 32512.0);
            block
                .iter()
                .map(move |v| f64::from((v * (32512.0 / greatest)).round_ties_even()) * scale)
        })
        .collect()
}

#[test]
fn products_of_every_format_on_quantized_activations() {
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
fn quantized_activations_cost_little_even_beside_outliers() {
    let ops = CpuOps::new(2, false);
    for &format in Format::ALL {
        let mut noise = noise(5);
        let w = weight(&ops, format, 64, 512, &mut noise);
        let x = noise.values(8 * 512);
        let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
        let want = product(&wide, &decoded(&w), 512);
        assert_near(&run(&ops, &w, &x), &want, 1e-7, &format!("{format:?}"));
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
    let shared = operand(&ops, 3, 256, &x);
    let mut ys = [40, 24, 8].map(|n| ops.alloc(3, n).unwrap());
    let [a, b, c] = &mut ys;
    ops.linear(&[&ws[0], &ws[1], &ws[2]], &shared, &mut [a, b, c]).unwrap();
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

#[test]
fn embedded_rows_are_the_decoded_ones() {
    let ops = CpuOps::new(2, false);
    for &format in Format::ALL {
        let table = weight(&ops, format, 9, 256, &mut noise(1)).weight;
        let mut all = vec![0.0; 9 * 256];
        format.decode(table.host_bytes(), &mut all);
        let mut out = ops.alloc(4, 256).unwrap();
        let batch = Batch { tokens: vec![8, 0, 8], ..Batch::default() };
        for scale in [1.0, 16.5] {
            let step = Step { batch: &batch, ropes: &[] };
            ops.embed(&table, &step, scale, &mut out).unwrap();
            let want = [8, 0, 8].iter().flat_map(|t| &all[t * 256..][..256]).map(|v| v * scale);
            assert_eq!(out.host_rows(), want.collect::<Vec<_>>());
        }
    }
}

/// In F64, in groups of `w.len()`.
fn rms_norm(x: &[f64], w: &[f32], eps: f32) -> Vec<f64> {
    let groups = x.chunks_exact(w.len());
    groups
        .flat_map(|x| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            let scale = (mean + f64::from(eps)).sqrt().recip();
            x.iter().zip(w).map(move |(x, w)| x * scale * f64::from(*w))
        })
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

#[test]
fn rms_norm_of_rows_and_of_heads() {
    for ops in backends(false) {
        for (rows, heads, head_dim) in [(1, 1, 1), (3, 1, 20), (2, 6, 16), (300, 1, 576)] {
            let mut noise = noise(rows + head_dim);
            let x = noise.values(rows * heads * head_dim);
            let w = noise.values(head_dim);
            let norm = norm(&ops, &w);
            let want = rms_norm(&wide(&x), &w, norm.eps);
            let mut x = tensor(&ops, rows, heads * head_dim, &x);
            ops.norm_and_rotate(&mut x, HeadShape { heads, head_dim }, Some(&norm), None);
            assert_near(x.host_rows(), &want, 1e-13, "rms_norm");
        }
    }
}

#[test]
fn the_stream_is_added_to_and_normed() {
    for ops in backends(false) {
        for (rows, cols) in [(1, 1), (3, 33), (2, 96), (40, 576)] {
            let mut noise = noise(rows * cols);
            let [x, y] = [(); 2].map(|()| noise.values(rows * cols));
            let [before, after] = [(); 2].map(|()| noise.values(cols));
            let (pre, post) = (norm(&ops, &before), norm(&ops, &after));
            let delta = tensor(&ops, rows, cols, &y);
            for (has_delta, has_post, has_norm) in [
                (false, false, false),
                (false, false, true),
                (true, false, true),
                (true, true, true),
                (true, true, false),
            ] {
                let d = if has_post { rms_norm(&wide(&y), &after, post.eps) } else { wide(&y) };
                let scale = if has_delta { 0.25 } else { 0.0 };
                let sum: Vec<f64> = wide(&x).iter().zip(d).map(|(x, d)| x + scale * d).collect();
                let want = if has_norm { rms_norm(&sum, &before, pre.eps) } else { sum.clone() };

                let post_norm = has_post.then_some(&post);
                let delta = Delta { y: &delta, post_norm, scale: 0.25 };
                let delta = has_delta.then_some(delta);
                let norm = has_norm.then_some(&pre);
                let mut stream = tensor(&ops, rows, cols, &x);
                let mut out = ops.alloc_operand(rows, cols).unwrap();
                ops.residual_norm(&mut stream, delta, norm, Select::All, &mut out).unwrap();
                assert_near(out.host_rows(), &want, 1e-12, "residual_norm");
                assert_near(stream.host_rows(), &sum, 1e-12, "the stream");

                // The last row alone, and the stream alone: the same bits.
                let batch = Batch { logit_rows: vec![rows - 1], ..Batch::default() };
                let select = Select::LogitRows(&Step { batch: &batch, ropes: &[] });
                let mut again = tensor(&ops, rows, cols, &x);
                let mut one = ops.alloc_operand(1, cols).unwrap();
                ops.residual_norm(&mut again, delta, norm, select, &mut one).unwrap();
                assert_eq!(one.host_rows(), &out.host_rows()[(rows - 1) * cols..]);
                if let Some(delta) = delta {
                    let mut again = tensor(&ops, rows, cols, &x);
                    ops.add(&mut again, delta).unwrap();
                    assert_eq!(again.host_rows(), stream.host_rows());
                }
            }
        }
    }
}

#[test]
fn rows_are_selected_and_read() {
    let ops = CpuOps::new(1, false);
    let mut x = tensor(&ops, 3, 2, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let mut out = ops.alloc_operand(3, 2).unwrap();
    let batch = Batch { logit_rows: vec![0, 2], ..Batch::default() };
    let select = Select::LogitRows(&Step { batch: &batch, ropes: &[] });
    ops.residual_norm(&mut x, None, None, select, &mut out).unwrap();
    assert_eq!(out.host_rows(), [0.0, 1.0, 4.0, 5.0]);
    let mut read = vec![9.0];
    x.set_rows(1);
    ops.read(&x, &mut read).unwrap();
    assert_eq!(read, [0.0, 1.0]);
}

#[test]
fn rope_turns_pairs_and_leaves_the_rest() {
    for ops in backends(false) {
        for (heads, head_dim, pairs) in [(1, 2, 1), (3, 20, 10), (2, 64, 16), (9, 64, 32)] {
            for layout in [RopeLayout::Interleaved, RopeLayout::Half] {
                let rows = 70;
                let mut noise = noise(head_dim);
                let x = noise.values(rows * heads * head_dim);
                let angles = RopeRows {
                    pairs,
                    cos: noise.values(rows * pairs),
                    sin: noise.values(rows * pairs),
                };
                let mut want: Vec<f64> = x.iter().copied().map(f64::from).collect();
                for (h, head) in want.chunks_exact_mut(head_dim).enumerate() {
                    for i in 0..pairs {
                        let (a, b) = match layout {
                            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                            RopeLayout::Half => (i, i + pairs),
                        };
                        let at = h / heads * pairs + i;
                        let (c, s) = (f64::from(angles.cos[at]), f64::from(angles.sin[at]));
                        (head[a], head[b]) = (head[a] * c - head[b] * s, head[a] * s + head[b] * c);
                    }
                }
                let mut x = tensor(&ops, rows, heads * head_dim, &x);
                let shape = HeadShape { heads, head_dim };
                ops.norm_and_rotate(&mut x, shape, None, Some((layout, &angles)));
                assert_near(x.host_rows(), &want, 1e-13, "rope");
            }
        }
    }
}

#[test]
fn elementwise_operations() {
    for ops in backends(false) {
        for (rows, cols) in [(1, 1), (3, 33), (40, 1536)] {
            let mut noise = noise(rows * cols);
            let (x, y) = (noise.values(rows * cols), noise.values(rows * cols));
            let (x64, y64) = (wide(&x), wide(&y));
            let both = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
                x64.iter().zip(&y64).map(|(x, y)| f(*x, *y)).collect()
            };
            let second = tensor(&ops, rows, cols, &y);
            let gelu = |x: f64| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            };
            let acts: [(Activation, &dyn Fn(f64) -> f64); 2] =
                [(Activation::Silu, &|x| x / (1.0 + (-x).exp())), (Activation::GeluTanh, &gelu)];
            for (act, f) in acts {
                let mut out = ops.alloc_operand(rows, cols).unwrap();
                ops.gated(&tensor(&ops, rows, cols, &x), &second, act, &mut out).unwrap();
                assert_near(out.host_rows(), &both(&|x, y| f(x) * y), 1e-12, "gated");
            }
            let mut t = tensor(&ops, rows, cols, &x);
            ops.scale_cap(&mut t, 0.5, None).unwrap();
            assert_near(t.host_rows(), &both(&|x, _| x * 0.5), 1e-13, "scale");
            ops.write(&mut t, rows, &x).unwrap();
            ops.scale_cap(&mut t, 3.0, Some(7.0)).unwrap();
            let capped = both(&|x, _| 7.0 * (x * 3.0 / 7.0).tanh());
            assert_near(t.host_rows(), &capped, 1e-13, "scale_cap");
        }
    }
}

/// Equal layers of one group.
fn kv_spec(heads: HeadShape, layers: usize, pages: usize, dtype: KvDtype) -> KvSpec {
    let layers = vec![KvLayer { heads, group: 0 }; layers];
    KvSpec { layers, q_heads: heads.heads, pages: vec![pages], host_slots: 0, dtype }
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let ops = CpuOps::new(1, false);
    assert!(matches!(ops.alloc(1 << 40, 1 << 20), Err(OpsError::OutOfMemory { .. })));
    let heads = HeadShape { heads: 1 << 30, head_dim: 1 << 30 };
    let spec = kv_spec(heads, 1, 1 << 10, KvDtype::F16);
    assert!(matches!(ops.kv_pool(&spec), Err(OpsError::OutOfMemory { .. })));
}

#[test]
fn keys_are_normed_then_turned_then_stored() {
    let ops = CpuOps::new(1, false);
    let (rows, shape) = (3, HeadShape { heads: 2, head_dim: 8 });
    let width = shape.width();
    let mut noise = noise(2);
    let [q, k, v] = [(); 3].map(|()| noise.values(rows * width));
    let whole_rows = norm(&ops, &noise.values(width));
    let ropes = [
        RopeRows::default(),
        RopeRows { pairs: 4, cos: noise.values(rows * 4), sin: noise.values(rows * 4) },
    ];
    let span = Span { first_row: 0, rows, context_len: rows, rope_len: rows, pages: vec![vec![0]] };
    let batch = Batch { tokens: vec![0; rows], spans: vec![span], ..Batch::default() };
    let layout = RopeLayout::Half;
    let inputs = AttentionInputs {
        q: shape,
        kv_heads: shape.heads,
        q_norm: None,
        k_norm: Some(&whole_rows),
        rotation: Some(Rotation { layout, rope: 1 }),
    };
    let spec = kv_spec(shape, 1, 1, KvDtype::F32);
    let mut pool = ops.kv_pool(&spec).unwrap();
    let [mut q_out, mut k_out, v] = [&q, &k, &v].map(|x| tensor(&ops, rows, width, x));
    let qkv = Qkv { q: &mut q_out, k: &mut k_out, v: &v };
    let step = Step { batch: &batch, ropes: &ropes };
    ops.attention_inputs(qkv, &inputs, &mut pool, 0, &step).unwrap();

    let [mut q, mut k] = [&q, &k].map(|x| tensor(&ops, rows, width, x));
    ops.norm_and_rotate(&mut q, shape, None, Some((layout, &ropes[1])));
    assert_eq!(q_out.host_rows(), q.host_rows());
    ops.norm_and_rotate(&mut k, shape, Some(&whole_rows), None);
    ops.norm_and_rotate(&mut k, shape, None, Some((layout, &ropes[1])));
    let mut written = ops.kv_pool(&spec).unwrap();
    written.host_pages_mut().write(0, &k, &v, &batch);
    let [got, want] = [&pool, &written].map(|p| format!("{:?}", p.host_pages().layer(0)));
    assert_eq!(got, want);
}

/// Softmax over whole rows of scores, in F64, from keys and values in order of position.
fn naive_attention(spec: &AttendSpec, q: &[f32], [k, v]: [&[f32]; 2], position: usize) -> Vec<f64> {
    let HeadShape { heads, head_dim } = spec.q;
    let group = heads / spec.kv_heads;
    let key = |p: usize, h: usize| (p * spec.kv_heads + h / group) * head_dim;
    let first = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
    let mut out = Vec::new();
    for h in 0..heads {
        let q = &q[h * head_dim..][..head_dim];
        let scores: Vec<f64> = (first..=position)
            .map(|p| {
                let k = &k[key(p, h)..][..head_dim];
                let s: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let s = s * f64::from(spec.scale);
                spec.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
            })
            .collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for d in 0..head_dim {
            let values = (first..=position).map(|p| f64::from(v[key(p, h) + d]));
            out.push(values.zip(&weights).map(|(v, w)| v * w / total).sum());
        }
    }
    out
}

/// Two sequences on shuffled pages, the cached parts written first, then a batch of the rest.
fn check_attention(ops: &CpuOps, spec: &AttendSpec, dtype: KvDtype, lens: [(usize, usize); 2]) {
    let HeadShape { heads, head_dim } = spec.q;
    let width = spec.kv_heads * head_dim;
    let mut noise = noise(head_dim + heads + lens[0].0);
    let pages = 64;
    let layer = HeadShape { heads: spec.kv_heads, head_dim };
    let mut pool = ops.kv_pool(&kv_spec(layer, 2, pages, dtype)).unwrap();
    // What is left in pages by others must not be seen.
    pool.host_pages_mut().poison(1);
    let exact_in_f16 = |v: f32| half::f16::from_f32(v).to_f32();
    let mut sequences = Vec::new();
    let mut page = 5;
    for (cached, new) in lens {
        let values = |noise: &mut Noise| -> Vec<f32> {
            noise.values((cached + new) * width).into_iter().map(exact_in_f16).collect()
        };
        let (k, v) = (values(&mut noise), values(&mut noise));
        let table: Vec<u32> = (0..(cached + new).div_ceil(16))
            .map(|_| {
                page = (page + 27) % pages as u32;
                page
            })
            .collect();
        sequences.push((k, v, table));
    }
    let mut write = |first: [usize; 2], end: [usize; 2]| {
        let (mut batch, mut k, mut v) = (Batch::default(), Vec::new(), Vec::new());
        for (i, (keys, values, pages)) in sequences.iter().enumerate() {
            let range = first[i] * width..end[i] * width;
            batch.spans.push(Span {
                first_row: k.len() / width,
                rows: end[i] - first[i],
                context_len: end[i],
                rope_len: end[i],
                pages: vec![pages.clone()],
            });
            k.extend_from_slice(&keys[range.clone()]);
            v.extend_from_slice(&values[range]);
        }
        let rows = k.len() / width;
        let (mut k, v) = (tensor(ops, rows, width, &k), tensor(ops, rows, width, &v));
        let mut q = ops.alloc(rows, spec.q.width()).unwrap();
        batch.tokens = vec![0; rows];
        let inputs = AttentionInputs {
            q: spec.q,
            kv_heads: spec.kv_heads,
            q_norm: None,
            k_norm: None,
            rotation: None,
        };
        let qkv = Qkv { q: &mut q, k: &mut k, v: &v };
        let step = Step { batch: &batch, ropes: &[] };
        ops.attention_inputs(qkv, &inputs, &mut pool, 1, &step).unwrap();
        batch
    };
    write([0, 0], lens.map(|l| l.0));
    let batch = write(lens.map(|l| l.0), lens.map(|l| l.0 + l.1));
    let rows: usize = lens.iter().map(|l| l.1).sum();
    let q = noise.values(rows * heads * head_dim);
    let mut want = Vec::new();
    let mut queries = q.chunks_exact(heads * head_dim);
    for ((cached, new), (k, v, _)) in lens.into_iter().zip(&sequences) {
        for i in 0..new {
            let q = queries.next().unwrap();
            want.extend(naive_attention(spec, q, [k, v], cached + i));
        }
    }
    let q = tensor(ops, rows, heads * head_dim, &q);
    let mut out = ops.alloc_operand(rows, heads * head_dim).unwrap();
    let step = Step { batch: &batch, ropes: &[] };
    ops.attend(&q, &pool, 1, spec, &step, &mut out).unwrap();
    let what = format!("{} {spec:?} {dtype:?} {lens:?}", ops.name());
    assert_near(out.host_rows(), &want, 1e-11, &what);

    // The last row of the batch, alone: the same bits.
    let mut span = batch.spans[1].clone();
    (span.first_row, span.rows) = (0, 1);
    let batch = Batch { spans: vec![span], ..Batch::default() };
    let last = &q.host_rows()[(rows - 1) * q.cols..];
    let last = tensor(ops, 1, q.cols, last);
    let mut alone = ops.alloc_operand(1, q.cols).unwrap();
    let step = Step { batch: &batch, ropes: &[] };
    ops.attend(&last, &pool, 1, spec, &step, &mut alone).unwrap();
    assert_eq!(alone.host_rows(), &out.host_rows()[(rows - 1) * out.cols..], "{what}");
}

#[test]
fn attention_over_shuffled_pages() {
    for ops in backends(false) {
        for (heads, kv_heads, head_dim) in [(1, 1, 16), (4, 2, 20), (9, 3, 64), (2, 1, 7)] {
            for window in [None, Some(1), Some(5), Some(16), Some(40)] {
                for (softcap, dtype) in [(None, KvDtype::F16), (Some(3.0), KvDtype::F32)] {
                    let q = HeadShape { heads, head_dim };
                    let scale = 1.0 / (head_dim as f32).sqrt();
                    let spec = AttendSpec { q, kv_heads, scale, window, softcap };
                    for lens in [[(0, 1), (31, 1)], [(0, 33), (17, 16)], [(90, 17), (0, 16)]] {
                        check_attention(&ops, &spec, dtype, lens);
                    }
                }
            }
        }
    }
}
