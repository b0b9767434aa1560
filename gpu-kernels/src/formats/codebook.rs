//! Encoding for the codebook formats: try a few scales, take the nearest point under each.
//!
//! A brute-force reference, milliseconds a block.

use core::array::from_fn;

use super::fit::{abs_max, inverse, round};
use super::scalar::F16Le;

/// A point of `W` weights, a signed byte each.
pub(super) trait Point<const W: usize>: Copy {
    fn weights(self) -> [f32; W];
}

impl Point<8> for u64 {
    fn weights(self) -> [f32; 8] {
        self.to_le_bytes().map(|b| f32::from(b as i8))
    }
}

impl Point<4> for u32 {
    fn weights(self) -> [f32; 4] {
        self.to_le_bytes().map(|b| f32::from(b as i8))
    }
}

/// The index of the point nearest to `target` and its squared distance.
fn nearest<const W: usize, P: Point<W>>(points: &[P], target: &[f32; W]) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (index, point) in points.iter().enumerate() {
        let weights = point.weights();
        let distance = weights.iter().zip(target).map(|(p, t)| (p - t) * (p - t)).sum();
        if distance < best.1 {
            best = (index, distance);
        }
    }
    best
}

/// The least-squares scale out of running sums over the weights of a group, for the best of
/// several trials.
#[derive(Clone, Copy, Default)]
struct Trial {
    xq: f32,
    qq: f32,
}

impl Trial {
    fn add<const W: usize>(&mut self, x: &[f32; W], q: &[f32; W]) {
        for (x, q) in x.iter().zip(q) {
            self.xq += x * q;
            self.qq += q * q;
        }
    }
    /// How much of the squared values the least-squares scale explains.
    fn gain(self) -> f32 {
        if self.xq > 0.0 { self.xq * self.xq / self.qq } else { 0.0 }
    }
    fn scale(self) -> f32 {
        if self.xq > 0.0 { self.xq / self.qq } else { 0.0 }
    }
}

/// Group scales rounded to `d · unit · (2·code + 1)`.
pub(super) struct OddSteps<const N: usize> {
    pub(super) d: F16Le,
    pub(super) code: [u8; N],
    unit: f32,
}

impl<const N: usize> OddSteps<N> {
    pub(super) fn new(scales: &[f32; N], unit: f32, code_max: i32) -> Self {
        let d = F16Le::new(abs_max(scales) / (unit * (2 * code_max + 1) as f32));
        let per_step = inverse(d.get() * unit);
        let code = scales.map(|s| round((s * per_step - 1.0) * 0.5).clamp(0, code_max) as u8);
        OddSteps { d, code, unit }
    }
    pub(super) fn scale(&self, g: usize) -> f32 {
        self.d.get() * self.unit * f32::from(2 * self.code[g] + 1)
    }
}

/// Which signs eight weights may have.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Signs {
    /// Any.
    Free,
    /// An even number of minuses: seven bits say which.
    Even,
}

/// A super-block in the manner of IQ2 and IQ3: magnitudes from a codebook, signs, `N` scales.
pub(super) struct SignedFit<const N: usize> {
    pub(super) steps: OddSteps<N>,
    /// A bit a weight, set for minus, for each eight.
    pub(super) signs: [u8; 32],
    magnitudes: [f32; 256],
}

impl<const N: usize> SignedFit<N> {
    pub(super) fn new<const W: usize, P: Point<W>>(
        values: &[f32],
        signs: Signs,
        points: &[P],
        unit: f32,
    ) -> Self {
        let mut magnitudes: [f32; 256] = from_fn(|i| values[i].abs());
        let eights = magnitudes.as_chunks_mut::<8>().0;
        let signs = from_fn(|k| {
            let minus = |j: usize| u8::from(values[8 * k + j] < 0.0) << j;
            let bits = (0..8).map(minus).sum::<u8>();
            let odd = signs == Signs::Even && bits.count_ones() % 2 == 1;
            bits ^ if odd { give_up_smallest(&mut eights[k]) } else { 0 }
        });
        let group = |g: usize| magnitudes[g * (256 / N)..][..256 / N].as_chunks::<W>().0;
        let scales = from_fn(|g| magnitude_scale(group(g), points));
        SignedFit { steps: OddSteps::new(&scales, unit, 15), signs, magnitudes }
    }

    /// The point for the `k`-th `W` weights, given the scales as they were rounded.
    pub(super) fn index<const W: usize, P: Point<W>>(&self, k: usize, points: &[P]) -> usize {
        let per_scale = inverse(self.steps.scale(k * W * N / 256));
        nearest(points, &from_fn(|j| self.magnitudes[W * k + j] * per_scale)).0
    }
}

/// Lets the smallest of eight magnitudes take the wrong sign, where it hurts least: it becomes
/// negative. Returns its sign bit.
fn give_up_smallest(eight: &mut [f32; 8]) -> u8 {
    let smallest = (1..8).fold(0, |best, j| if eight[j] < eight[best] { j } else { best });
    eight[smallest] = -eight[smallest];
    1 << smallest
}

/// The best scale of a group of magnitudes: the largest meets the top level, or overshoots it, or
/// stays below.
fn magnitude_scale<const W: usize, P: Point<W>>(group: &[[f32; W]], points: &[P]) -> f32 {
    let top = points.iter().flat_map(|p| p.weights()).fold(0.0, f32::max);
    let largest = abs_max(group.as_flattened());
    let mut best = Trial::default();
    for step in -6..=6 {
        let per_scale = top * (1.0 + 0.04 * step as f32) * inverse(largest);
        let mut trial = Trial::default();
        for x in group {
            let (index, _) = nearest(points, &x.map(|x| x * per_scale));
            trial.add(x, &points[index].weights());
        }
        if trial.gain() > best.gain() {
            best = trial;
        }
    }
    best.scale()
}

/// How many eights share the shift of an IQ1 format.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shift {
    /// All eights of a group.
    PerGroup,
    /// Each eight has its own.
    PerEight,
}

/// A super-block in the manner of IQ1: ternary eights, each shifted by ±1 eighth, `N` scales.
pub(super) struct ShiftedFit<const N: usize> {
    pub(super) steps: OddSteps<N>,
    /// Codebook index and shift (in eighths, ±1) of each eight.
    pub(super) eights: [(usize, i8); 32],
}

impl<const N: usize> ShiftedFit<N> {
    pub(super) fn new(values: &[f32], shift: Shift, points: &[u64]) -> Self {
        let eights = values.as_chunks::<8>().0;
        let group = |g: usize| &eights[g * (32 / N)..][..32 / N];
        let scales = from_fn(|g| shifted_scale(group(g), shift, points));
        let steps = OddSteps::<N>::new(&scales, 0.125, 7);
        let mut fit = ShiftedFit { steps, eights: [(0, 1); 32] };
        for g in 0..N {
            let places = &mut fit.eights[g * (32 / N)..][..32 / N];
            place_eights(group(g), inverse(fit.steps.scale(g)), shift, points, places);
        }
        fit
    }
}

/// Chooses point and shift of each eight of a group, for values times `per_scale`.
fn place_eights(
    group: &[[f32; 8]],
    per_scale: f32,
    shift: Shift,
    points: &[u64],
    places: &mut [(usize, i8)],
) {
    let nearest_at = |x: &[f32; 8], shift: i8| {
        let (index, error) = nearest(points, &x.map(|x| x * per_scale - f32::from(shift)));
        (error, (index, shift))
    };
    let mut errors = [0.0f32; 2]; // of the whole group, shifted up and down
    for (x, place) in group.iter().zip(&mut *places) {
        let (up, down) = (nearest_at(x, 1), nearest_at(x, -1));
        errors[0] += up.0;
        errors[1] += down.0;
        *place = if up.0 <= down.0 { up.1 } else { down.1 };
    }
    if shift == Shift::PerGroup {
        let common = if errors[0] <= errors[1] { 1 } else { -1 };
        for (x, place) in group.iter().zip(places) {
            *place = nearest_at(x, common).1;
        }
    }
}

/// The best scale of a group: ternary weights want the largest value well above the scale.
fn shifted_scale(group: &[[f32; 8]], shift: Shift, points: &[u64]) -> f32 {
    let largest = abs_max(group.as_flattened());
    let mut places = [(0, 0); 4];
    let mut best = Trial::default();
    for step in 0..8 {
        let per_scale = 8.0 * (1.0 + 0.25 * step as f32) * inverse(largest);
        place_eights(group, per_scale, shift, points, &mut places[..group.len()]);
        let mut trial = Trial::default();
        for (x, &(index, shift)) in group.iter().zip(&places) {
            trial.add(x, &points[index].weights().map(|w| w + f32::from(shift)));
        }
        if trial.gain() > best.gain() {
            best = trial;
        }
    }
    best.scale()
}
