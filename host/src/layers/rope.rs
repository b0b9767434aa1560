//! Rotary position embeddings and every scaling of their frequencies.
//!
//! [`RopeSpec::new`] turns [`RopeParameters`] into inverse frequencies; a
//! [`RopeTable`](super::rope_table::RopeTable) turns the positions of a batch into cosines and sines,
//! once a step for all layers that share them.
//!
//! Sources: Su et al. 2021 (RoPE); Peng et al. 2023 (NTK-aware, YaRN, eq. 17–23); Ding et al. 2024
//! (LongRoPE); the reference behaviour of transformers' `modeling_rope_utils` 4.57.

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use crate::ops::{RopeLayout, RopeRows};

/// One rotary embedding.
#[derive(Clone, Debug)]
pub struct RopeSpec {
    /// Which elements turn together.
    pub layout: RopeLayout,
    frequencies: Frequencies,
}

/// What a rotary embedding is made from.
#[derive(Clone, Debug)]
pub struct RopeParameters {
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
    /// Base of the frequencies.
    pub theta: f64,
    /// Elements of a head that turn.
    pub dims: usize,
    /// Positions the checkpoint is said to support.
    pub context_len: usize,
    /// Positions it was first trained for, when they differ.
    pub original_len: Option<usize>,
    /// How many times longer the context gets.
    pub factor: f64,
    /// Multiplies cosines and sines, where given rather than derived.
    pub attention_factor: Option<f64>,
}

/// The scalings.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by the factor.
    Linear,
    /// Dynamic NTK: the base grows with the length of the sequence.
    Dynamic,
    /// Llama 3.1: long wavelengths divided, short ones kept, a ramp between.
    Llama3 {
        /// Wavelengths above `original_len / low` are divided.
        low: f64,
        /// Wavelengths below `original_len / high` are kept.
        high: f64,
    },
    /// NTK by parts.
    Yarn {
        /// Rotations over the original context above which a pair is left alone.
        beta_fast: f64,
        /// Rotations below which it is interpolated fully.
        beta_slow: f64,
        /// `mscale` and `mscale_all_dim`, where both are given.
        mscale: Option<(f64, f64)>,
        /// Whether the ramp starts and ends at whole pairs.
        truncate: bool,
    },
    /// A divisor a pair, one set up to the original length and another beyond.
    LongRope {
        /// [pairs].
        short: Vec<f32>,
        /// [pairs].
        long: Vec<f32>,
    },
    /// A divisor a pair.
    Divisors(Vec<f32>),
}

/// Inverse frequencies, one a pair.
#[derive(Clone, Debug, PartialEq)]
enum Frequencies {
    /// The same for every length; cosines and sines are multiplied by `factor`.
    Fixed { inverse: Vec<f32>, factor: f32 },
    /// One set up to `original_len` tokens, another beyond.
    Long { short: Vec<f32>, long: Vec<f32>, original_len: usize, factor: f32 },
    /// The base grows with the length beyond `original_len`.
    Dynamic { theta: f64, dims: usize, scale: f64, original_len: usize },
}

impl RopeSpec {
    /// Checks the parameters and computes the frequencies; `Half` layout.
    ///
    /// # Errors
    /// What is wrong, and what was expected.
    pub fn new(p: &RopeParameters) -> Result<Self, String> {
        if !(p.theta > 1.0 && p.theta.is_finite()) {
            return Err(format!("is {}, expected above 1", p.theta));
        }
        if p.dims == 0 || !p.dims.is_multiple_of(2) {
            return Err(format!("turns {} dimensions, expected an even number", p.dims));
        }
        if !(p.factor > 0.0 && p.factor.is_finite()) {
            return Err(format!("has a scaling factor of {}, expected above 0", p.factor));
        }
        let pairs = p.dims / 2;
        let check = |name: &str, values: &[f32]| {
            if values.len() != pairs {
                return Err(format!("has {} {name}, expected {pairs}", values.len()));
            }
            match values.iter().find(|v| !(**v > 0.0 && v.is_finite())) {
                Some(v) => Err(format!("has {v} among its {name}, expected above 0")),
                None => Ok(()),
            }
        };
        match &p.scaling {
            RopeScaling::LongRope { short, long } => {
                check("short factors", short)?;
                check("long factors", long)?;
            }
            RopeScaling::Divisors(d) => check("frequency divisors", d)?,
            RopeScaling::Llama3 { low, high } if !(*low > 0.0 && high > low) => {
                return Err(format!(
                    "has a high_freq_factor of {high}, expected above low_freq_factor {low}"
                ));
            }
            RopeScaling::Yarn { beta_fast, beta_slow, .. }
                if !(*beta_slow > 0.0 && beta_fast >= beta_slow) =>
            {
                return Err(format!(
                    "has a beta_fast of {beta_fast}, expected at least beta_slow {beta_slow}"
                ));
            }
            RopeScaling::Dynamic if p.dims <= 2 => {
                return Err("cannot scale two dimensions dynamically".into());
            }
            _ => {}
        }
        Ok(Self { layout: RopeLayout::Half, frequencies: frequencies(p) })
    }

    /// Pairs that turn.
    pub fn pairs(&self) -> usize {
        match &self.frequencies {
            Frequencies::Fixed { inverse, .. } => inverse.len(),
            Frequencies::Long { short, .. } => short.len(),
            Frequencies::Dynamic { dims, .. } => dims / 2,
        }
    }

    /// Whether rotations change with the length of the sequence.
    pub fn depends_on_length(&self) -> bool {
        !matches!(self.frequencies, Frequencies::Fixed { .. })
    }

    /// Length beyond which all positions are turned by other factors.
    pub fn switches_at(&self) -> Option<usize> {
        match &self.frequencies {
            Frequencies::Long { original_len, .. } => Some(*original_len),
            _ => None,
        }
    }

    /// The set of frequencies that turns a sequence of `len` tokens, below 2; `None` where it serves
    /// no other length.
    pub(super) fn set(&self, len: usize) -> Option<usize> {
        match &self.frequencies {
            Frequencies::Fixed { .. } => Some(0),
            Frequencies::Long { original_len, .. } => Some(usize::from(len > *original_len)),
            Frequencies::Dynamic { original_len, .. } => (len <= *original_len).then_some(0),
        }
    }

    /// Positions of all sets that sequences of up to `len` tokens are turned by.
    pub(super) fn kept_positions(&self, len: usize) -> usize {
        match &self.frequencies {
            Frequencies::Fixed { .. } => len,
            Frequencies::Long { original_len, .. } if len > *original_len => {
                len.saturating_add(*original_len)
            }
            Frequencies::Long { .. } => len,
            Frequencies::Dynamic { original_len, .. } => len.min(*original_len),
        }
    }

    /// Appends cosines and sines for positions of a sequence of `len` tokens.
    pub(super) fn turn(&self, len: usize, positions: Range<usize>, out: &mut RopeRows) {
        let (inverse, factor) = self.at_length(len);
        for position in positions {
            for &f in inverse.iter() {
                let (sin, cos) = (position as f32 * f).sin_cos();
                out.cos.push(cos * factor);
                out.sin.push(sin * factor);
            }
        }
    }

    /// Inverse frequencies and the factor on cosines and sines for a sequence of `len` tokens.
    fn at_length(&self, len: usize) -> (Cow<'_, [f32]>, f32) {
        match &self.frequencies {
            Frequencies::Fixed { inverse, factor } => (inverse.into(), *factor),
            Frequencies::Long { short, long, original_len, factor } => {
                (if len > *original_len { long.into() } else { short.into() }, *factor)
            }
            Frequencies::Dynamic { theta, dims, scale, original_len } => {
                let len = len.max(*original_len) as f64;
                let grow = scale * len / *original_len as f64 - (scale - 1.0);
                let exponent = *dims as f64 / (*dims as f64 - 2.0);
                (plain(theta * grow.powf(exponent), *dims).collect::<Vec<_>>().into(), 1.0)
            }
        }
    }
}

/// `theta^(−2i / dims)`.
fn plain(theta: f64, dims: usize) -> impl Iterator<Item = f32> {
    (0..dims / 2).map(move |i| theta.powf(-2.0 * i as f64 / dims as f64) as f32)
}

fn frequencies(p: &RopeParameters) -> Frequencies {
    let base: Vec<f32> = plain(p.theta, p.dims).collect();
    let scaled = |f: &dyn Fn(usize, f64) -> f64| {
        base.iter().enumerate().map(|(i, &v)| f(i, f64::from(v)) as f32).collect::<Vec<f32>>()
    };
    let divided = |by: &[f32]| base.iter().zip(by).map(|(f, d)| f / d).collect::<Vec<f32>>();
    let original = p.original_len.unwrap_or(p.context_len);
    let fixed = |inverse, factor: f64| Frequencies::Fixed { inverse, factor: factor as f32 };
    match &p.scaling {
        RopeScaling::None => fixed(base, 1.0),
        RopeScaling::Divisors(d) => fixed(divided(d), 1.0),
        RopeScaling::Linear => fixed(scaled(&|_, f| f / p.factor), 1.0),
        RopeScaling::Dynamic => Frequencies::Dynamic {
            theta: p.theta,
            dims: p.dims,
            scale: p.factor,
            original_len: original,
        },
        RopeScaling::Llama3 { low, high } => {
            fixed(scaled(&|_, f| llama3(f, p.factor, *low, *high, original as f64)), 1.0)
        }
        RopeScaling::Yarn { beta_fast, beta_slow, mscale, truncate } => {
            let ramp = yarn_ramp(p, original as f64, *beta_fast, *beta_slow, *truncate);
            let attention = p.attention_factor.unwrap_or_else(|| match mscale {
                Some((m, all)) => yarn_attention(p.factor, *m) / yarn_attention(p.factor, *all),
                None => yarn_attention(p.factor, 1.0),
            });
            // ramp 0: as trained; 1: interpolated.
            fixed(scaled(&|i, f| f / p.factor * ramp(i) + f * (1.0 - ramp(i))), attention)
        }
        RopeScaling::LongRope { short, long } => {
            let stretch = match p.original_len {
                Some(_) => p.context_len as f64 / original as f64,
                None => p.factor,
            };
            Frequencies::Long {
                short: divided(short),
                long: divided(long),
                original_len: original,
                factor: p.attention_factor.unwrap_or_else(|| longrope_attention(stretch, original))
                    as f32,
            }
        }
    }
}

/// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
fn llama3(f: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * PI / f;
    if wavelength > original / low {
        f / factor
    } else if wavelength < original / high {
        f
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// YaRN eq. 22: `0.1 · mscale · ln(factor) + 1`.
pub fn yarn_attention(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE: `sqrt(1 + ln(stretch) / ln(original))`.
fn longrope_attention(stretch: f64, original: usize) -> f64 {
    if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() }
}

/// YaRN eq. 18–20: which share of pair `i` is interpolated.
fn yarn_ramp(
    p: &RopeParameters,
    original: f64,
    beta_fast: f64,
    beta_slow: f64,
    truncate: bool,
) -> impl Fn(usize) -> f64 {
    let dims = p.dims as f64;
    // The pair that makes `rotations` turns over the original context.
    let pair =
        |rotations: f64| dims * (original / (rotations * 2.0 * PI)).ln() / (2.0 * p.theta.ln());
    let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
    if low == high {
        high += 0.001; // a step instead of a division by zero
    }
    move |i| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(scaling: RopeScaling) -> RopeParameters {
        RopeParameters {
            scaling,
            theta: 10_000.0,
            dims: 64,
            context_len: 4096,
            original_len: None,
            factor: 1.0,
            attention_factor: None,
        }
    }

    fn fixed(p: &RopeParameters) -> (Vec<f32>, f32) {
        let rope = RopeSpec::new(p).unwrap();
        let (inverse, factor) = rope.at_length(1);
        (inverse.into_owned(), factor)
    }

    fn close(found: &[f32], expected: impl IntoIterator<Item = f64>) {
        let expected: Vec<f64> = expected.into_iter().collect();
        assert_eq!(found.len(), expected.len());
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            assert!((f64::from(*f) / e - 1.0).abs() < 1e-6, "pair {i}: {f}, expected {e}");
        }
    }

    #[test]
    fn plain_and_linear_follow_the_formula() {
        let expected = (0..32).map(|i| 1.0 / 10_000f64.powf(f64::from(i) / 32.0));
        close(&fixed(&parameters(RopeScaling::None)).0, expected.clone());
        let p = RopeParameters { factor: 4.0, ..parameters(RopeScaling::Linear) };
        close(&fixed(&p).0, expected.map(|f| f / 4.0));
    }

    /// Llama 3.1 8B: wavelengths up to 8192 / 4 (pairs 0 to 28) are kept, those above 8192 (pairs
    /// from 36 on) divided by 8.
    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let p = RopeParameters {
            theta: 500_000.0,
            dims: 128,
            original_len: Some(8192),
            factor: 8.0,
            ..parameters(RopeScaling::Llama3 { low: 1.0, high: 4.0 })
        };
        let (inverse, factor) = fixed(&p);
        assert_eq!(factor, 1.0);
        let divisor = |i: usize| 500_000f64.powf(-(i as f64) / 64.0) / f64::from(inverse[i]);
        for i in 0..=28 {
            assert!((divisor(i) - 1.0).abs() < 1e-6, "pair {i}");
        }
        for i in 36..64 {
            assert!((divisor(i) - 8.0).abs() < 1e-5, "pair {i}");
        }
        assert!((29..35).all(|i| divisor(i) < divisor(i + 1)), "the ramp rises");
    }

    /// Peng et al. 2023, eq. 17–23, as a plain loop: pairs by the turns they make over the original
    /// context; the attention factor for 32× is the one published with gpt-oss.
    #[test]
    fn yarn_interpolates_by_parts() {
        let scaling =
            RopeScaling::Yarn { beta_fast: 32.0, beta_slow: 1.0, mscale: None, truncate: false };
        let p = RopeParameters {
            theta: 150_000.0,
            original_len: Some(4096),
            factor: 32.0,
            ..parameters(scaling)
        };
        let (inverse, factor) = fixed(&p);
        assert!((f64::from(factor) - 1.346_573_590_279_972_7).abs() < 1e-6);
        // In pair units the turns fall geometrically, so eq. 18's ramp is linear in the logarithm.
        let expected = (0..32).map(|i| {
            let f = 150_000f64.powf(-f64::from(i) / 32.0);
            let turns = 4096.0 * f / (2.0 * PI);
            let kept = (turns.ln() / 32f64.ln()).clamp(0.0, 1.0);
            f * kept + f / 32.0 * (1.0 - kept)
        });
        close(&inverse, expected);
    }

    #[test]
    fn yarn_with_whole_pairs_starts_and_ends_on_them() {
        let yarn = |truncate| {
            let scaling =
                RopeScaling::Yarn { beta_fast: 32.0, beta_slow: 1.0, mscale: None, truncate };
            fixed(&RopeParameters { original_len: Some(4096), factor: 4.0, ..parameters(scaling) })
                .0
        };
        let base = fixed(&parameters(RopeScaling::None)).0;
        let kept = |set: &[f32]| set.iter().zip(&base).take_while(|(a, b)| a == b).count();
        // 64·ln(4096/(32·2π))/(2·ln 10⁴) = 10.47: pairs 0..=10 lie before the ramp both ways, and
        // cut to 10 it starts a little earlier.
        assert_eq!((kept(&yarn(false)), kept(&yarn(true))), (11, 11));
        assert!(yarn(true)[11] < yarn(false)[11]);
    }

    #[test]
    fn mscale_pairs_cancel() {
        let scaling = RopeScaling::Yarn {
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: Some((0.707, 0.707)),
            truncate: true,
        };
        let p = RopeParameters { original_len: Some(4096), factor: 40.0, ..parameters(scaling) };
        assert_eq!(fixed(&p).1, 1.0); // DeepSeek V2
    }

    #[test]
    fn dynamic_grows_only_beyond_the_original_length() {
        let p =
            RopeParameters { factor: 2.0, context_len: 2048, ..parameters(RopeScaling::Dynamic) };
        let rope = RopeSpec::new(&p).unwrap();
        let base = fixed(&parameters(RopeScaling::None)).0;
        assert_eq!(*rope.at_length(2048).0, *base);
        // theta · (2·4096/2048 − 1)^(64/62)
        let theta = 10_000.0 * 3f64.powf(64.0 / 62.0);
        let expected = (0..32).map(|i| theta.powf(-f64::from(i) / 32.0));
        close(&rope.at_length(4096).0, expected);
        assert!(rope.depends_on_length());
    }

    #[test]
    fn longrope_changes_sets_beyond_the_original_length() {
        let (short, long) = (vec![1.0; 32], vec![4.0; 32]);
        let p = RopeParameters {
            original_len: Some(32),
            context_len: 512,
            ..parameters(RopeScaling::LongRope { short, long })
        };
        let rope = RopeSpec::new(&p).unwrap();
        let (near, factor) = rope.at_length(32);
        let (far, _) = rope.at_length(33);
        assert!(near.iter().zip(far.iter()).all(|(n, f)| n / f == 4.0));
        // sqrt(1 + ln 16 / ln 32) = sqrt(1.8)
        assert!((f64::from(factor) - 1.8f64.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn impossible_parameters_are_refused() {
        let refuse = |p: RopeParameters, part: &str| {
            let e = RopeSpec::new(&p).unwrap_err();
            assert!(e.contains(part), "{e}");
        };
        refuse(RopeParameters { theta: f64::NAN, ..parameters(RopeScaling::None) }, "NaN");
        refuse(RopeParameters { dims: 5, ..parameters(RopeScaling::None) }, "even");
        refuse(RopeParameters { factor: 0.0, ..parameters(RopeScaling::Linear) }, "factor");
        refuse(parameters(RopeScaling::Divisors(vec![1.0; 31])), "expected 32");
        refuse(parameters(RopeScaling::Divisors(vec![0.0; 32])), "above 0");
        refuse(parameters(RopeScaling::Llama3 { low: 4.0, high: 4.0 }), "high_freq_factor");
    }
}
