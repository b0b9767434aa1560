//! What kernels should compute, as plain loops in F64.

/// `width` numbers for each item, by `f(index, item, numbers)`, in the order of the items.
pub fn on_all_cores<T: Sync>(
    items: &[T],
    width: usize,
    f: impl Fn(usize, &T, &mut [f64]) + Sync,
) -> Vec<f64> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(cores).max(1);
    let (mut numbers, f) = (vec![0.0; items.len() * width], &f);
    std::thread::scope(|scope| {
        let parts = numbers.chunks_mut((share * width).max(1)).zip(items.chunks(share));
        for (part, (numbers, items)) in parts.enumerate() {
            scope.spawn(move || {
                for (i, (numbers, item)) in numbers.chunks_mut(width).zip(items).enumerate() {
                    f(part * share + i, item, numbers);
                }
            });
        }
    });
    numbers
}

/// `y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n]`.
pub fn product(x: &[f32], w: &[f32], bias: Option<&[f32]>, tokens: usize, cols: usize) -> Vec<f64> {
    let w: Vec<&[f32]> = w.chunks(cols).collect();
    let transposed = on_all_cores(&w, tokens, |row, w, y| {
        let bias = bias.map_or(0.0, |b| f64::from(b[row]));
        y.iter_mut().zip(x.chunks(cols)).for_each(|(y, x)| *y = dot(x, w) + bias);
    });
    let rows = w.len();
    (0..rows * tokens).map(|i| transposed[i % rows * tokens + i / rows]).collect()
}

/// `Σ a · b`.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `Σ softmax(cap(scale · q · k)) · v` of one query head over keys that begin at these elements.
pub fn attend(q: &[f32], k: &[f32], v: &[f32], keys: &[usize], scale: f64, cap: f64) -> Vec<f64> {
    let score = |&at: &usize| {
        let s = dot(q, &k[at..at + q.len()]) * scale;
        if cap == 0.0 { s } else { cap * (s / cap).tanh() }
    };
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mean = |d: usize| {
        keys.iter().zip(&weights).map(|(at, w)| w * f64::from(v[at + d])).sum::<f64>() / total
    };
    (0..q.len()).map(mean).collect()
}

/// `x · w / sqrt(mean(x²) + eps)`. Source: Zhang & Sennrich 2019, equation 4.
pub fn rms_norm(x: &mut [f64], w: &[f32], eps: f64) {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + eps).sqrt();
    x.iter_mut().zip(w).for_each(|(x, w)| *x *= factor * f64::from(*w));
}

/// `x · sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`. Source: Hendrycks & Gimpel 2016.
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    // 1 + tanh without cancellation.
    x / (1.0 + (-2.0 * inner).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_laid_out_by_token() {
        let (x, w) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let y = product(&x, &w, Some(&[0.0, 10.0, 100.0]), 2, 2);
        assert_eq!(y, [1.0, 12.0, 103.0, 3.0, 14.0, 107.0]);
    }
    #[test]
    fn attention_is_a_mean_of_values() {
        let (k, v) = ([1.0, 0.0, 1.0, 0.0], [4.0, 6.0, 8.0, 2.0]);
        assert_eq!(attend(&[3.0, 1.0], &k, &v, &[0, 2], 1.0, 0.0), [6.0, 4.0]);
        assert_eq!(attend(&[3.0, 1.0], &k, &v, &[2], 1.0, 5.0), [8.0, 2.0]);
    }
    #[test]
    fn activations_have_known_values() {
        assert!((silu(1.0) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!((gelu_tanh(1.0) - 0.841_191_990_607_477_2).abs() < 1e-12);
        let mut x = [3.0, 4.0];
        rms_norm(&mut x, &[1.0, 2.0], 0.0);
        assert!(
            (x[0] - 3.0 / 12.5f64.sqrt()).abs() < 1e-15
                && (x[1] - 8.0 / 12.5f64.sqrt()).abs() < 1e-15
        );
    }
}
