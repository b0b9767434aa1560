//! `--kl-divergence`: what the configured mode costs against exact mode, on the chunks of
//! [`perplexity`](crate::perplexity).
//!
//! Both engines compute a chunk at the same time and hand their logits over a bounded channel, so
//! that memory holds a few rows and not a chunk of the vocabulary.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use host::engine::Engine;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output;
use crate::perplexity::{Chunks, Nll, log_sum_exp, score_chunk};

/// Rows of logits in flight.
const ROWS: usize = 4;

/// One scored position.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Position {
    /// `−ln p` of the next token in the base.
    base_nll: f64,
    /// In the test.
    test_nll: f64,
    /// `KL(base ‖ test)`.
    divergence: f64,
    /// Whether both think the same token best.
    same_top: bool,
}

impl Position {
    /// Compares two rows of logits; `None` when either is not finite.
    fn compare(base: &[f32], test: &[f32], next: u32) -> Option<Self> {
        let (base_total, test_total) = (log_sum_exp(base)?, log_sum_exp(test)?);
        let mut divergence = 0.0;
        for (b, t) in base.iter().zip(test) {
            let (log_p, log_q) = (f64::from(*b) - base_total, f64::from(*t) - test_total);
            let p = log_p.exp();
            if p > 0.0 {
                divergence += p * (log_p - log_q);
            }
        }
        let next = next as usize;
        Some(Self {
            base_nll: base_total - f64::from(base[next]),
            test_nll: test_total - f64::from(test[next]),
            divergence,
            same_top: best(base) == best(test),
        })
    }
}

/// Index of the largest, the first of equals.
fn best(logits: &[f32]) -> usize {
    let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (1..logits.len()).fold(0, better)
}

/// Compares `test` with `base` on the text of `path` and prints the figures.
///
/// # Errors
/// What reading, either engine and stdout report.
pub(crate) fn divergence(
    base: &Engine,
    test: &Engine,
    path: &Path,
    n_ctx: usize,
    json: bool,
) -> Result<(), CliError> {
    let text = Chunks::read(test, "--kl-divergence", path, n_ctx)?;
    let mut positions = Vec::new();
    for (index, chunk) in text.chunks.iter().enumerate() {
        positions.extend(compare_chunk(base, test, chunk, text.first())?);
        let figures = Figures::of(&positions);
        note!(
            "chunk {}/{}: mean KLD so far {:.6}, same top {:.3} %",
            index + 1,
            text.chunks.len(),
            figures.mean.0,
            100.0 * figures.same_top
        );
    }
    let figures = Figures::of(&positions);
    if json {
        output::show_json(&figures.to_json(&text))
    } else {
        output::show(&figures.to_string())
    }
}

fn compare_chunk(
    base: &Engine,
    test: &Engine,
    chunk: &[u32],
    first: usize,
) -> Result<Vec<Position>, CliError> {
    let (sender, receiver): (SyncSender<Vec<f32>>, Receiver<Vec<f32>>) = sync_channel(ROWS);
    let positions: Arc<Mutex<Vec<Position>>> = Arc::default();
    let found = positions.clone();
    let (base_ended, test_ended) = std::thread::scope(|scope| {
        // when either side stops, its end of the channel is dropped and the other one runs through
        let base = scope.spawn(|| {
            score_chunk(base, chunk, first, move |logits, _| {
                let finite = log_sum_exp(logits).is_some();
                if finite {
                    let _ = sender.send(logits.to_vec()); // a test that ended early says why itself
                }
                finite
            })
        });
        let test = score_chunk(test, chunk, first, move |logits, next| match receiver.recv() {
            Ok(base) => match Position::compare(&base, logits, next) {
                Some(position) => {
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(position);
                    true
                }
                None => false,
            },
            Err(_) => true, // the base failed and says why
        });
        (base.join(), test)
    });
    base_ended.map_err(|_| CliError::Internal("the exact run panicked".to_owned()))??;
    test_ended?;
    let positions = std::mem::take(&mut *positions.lock().unwrap_or_else(PoisonError::into_inner));
    let expected = chunk.len() - 1 - first;
    if positions.len() != expected {
        let message =
            format!("--kl-divergence: {} of {expected} positions were compared", positions.len());
        return Err(CliError::Internal(message));
    }
    Ok(positions)
}

/// The figures of llama-perplexity's report.
#[derive(Clone, Debug, PartialEq)]
struct Figures {
    base: Nll,
    test: Nll,
    /// Mean divergence and its standard error.
    mean: (f64, f64),
    /// Quantiles: (share, divergence).
    quantiles: Vec<(f64, f64)>,
    same_top: f64,
}

const QUANTILES: [f64; 7] = [1.0, 0.999, 0.99, 0.95, 0.9, 0.5, 0.0];

impl Figures {
    /// Of at least one position.
    fn of(positions: &[Position]) -> Self {
        let (mut base, mut test) = (Nll::default(), Nll::default());
        for position in positions {
            base.add(position.base_nll);
            test.add(position.test_nll);
        }
        let n = positions.len() as f64;
        let mean = positions.iter().map(|p| p.divergence).sum::<f64>() / n;
        let variance = positions.iter().map(|p| (p.divergence - mean).powi(2)).sum::<f64>() / n;
        let mut sorted: Vec<f64> = positions.iter().map(|p| p.divergence).collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            base,
            test,
            mean: (mean, (variance / (n - 1.0).max(1.0)).sqrt()),
            quantiles: QUANTILES.iter().map(|share| (*share, quantile(&sorted, *share))).collect(),
            same_top: positions.iter().filter(|p| p.same_top).count() as f64 / n,
        }
    }

    fn quantile(&self, share: f64) -> f64 {
        self.quantiles.iter().find(|(s, _)| *s == share).map_or(f64::NAN, |(_, value)| *value)
    }

    fn to_json(&self, text: &Chunks) -> Value {
        json!({
            "n_tokens": text.n_tokens,
            "n_ctx": text.n_ctx,
            "n_chunks": text.chunks.len(),
            "counted": self.test.count,
            "ppl": self.test.ppl(),
            "stderr_ppl": self.test.ppl_stderr(),
            "ppl_base": self.base.ppl(),
            "stderr_ppl_base": self.base.ppl_stderr(),
            "mean_kld": self.mean.0,
            "stderr_mean_kld": self.mean.1,
            "median_kld": self.quantile(0.5),
            "kld_99": self.quantile(0.99),
            "max_kld": self.quantile(1.0),
            "same_top": self.same_top,
        })
    }
}

/// Between the two nearest values, in proportion; `sorted` holds at least one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] * (1.0 - part) + sorted[above] * part
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "====== Perplexity statistics ======")?;
        writeln!(
            f,
            "Mean PPL(Q)      : {:10.6} ± {:10.6}",
            self.test.ppl(),
            self.test.ppl_stderr()
        )?;
        writeln!(
            f,
            "Mean PPL(base)   : {:10.6} ± {:10.6}",
            self.base.ppl(),
            self.base.ppl_stderr()
        )?;
        writeln!(f, "PPL(Q)/PPL(base) : {:10.6}", self.test.ppl() / self.base.ppl())?;
        writeln!(f, "====== KL divergence statistics ======")?;
        writeln!(f, "Mean    KLD: {:10.6} ± {:10.6}", self.mean.0, self.mean.1)?;
        for (share, value) in &self.quantiles {
            let name = match *share {
                1.0 => "Maximum KLD".to_owned(),
                0.5 => "Median  KLD".to_owned(),
                0.0 => "Minimum KLD".to_owned(),
                share => format!("{:.1}%   KLD", 100.0 * share),
            };
            writeln!(f, "{name}: {value:10.6}")?;
        }
        writeln!(f, "====== Token probability statistics ======")?;
        writeln!(f, "Same top p: {:6.3} %", 100.0 * self.same_top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_matches_a_plain_loop() {
        let (base, test) = ([1.0f32, -2.0, 0.5, 30.0], [1.5f32, -1.0, 0.25, 28.0]);
        let softmax = |logits: &[f32]| -> Vec<f64> {
            let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            logits.iter().map(|l| f64::from(*l).exp() / sum).collect()
        };
        let (p, q) = (softmax(&base), softmax(&test));
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let found = Position::compare(&base, &test, 2).unwrap();
        assert!((found.divergence - expected).abs() < 1e-13, "{found:?} {expected}");
        assert!((found.base_nll + p[2].ln()).abs() < 1e-12);
        assert!((found.test_nll + q[2].ln()).abs() < 1e-12);
        assert!(found.same_top);
    }

    #[test]
    fn equal_rows_do_not_diverge_and_swapped_ones_do() {
        let row = [3.0f32, 1.0, f32::NEG_INFINITY];
        assert_eq!(Position::compare(&row, &row, 0).unwrap().divergence, 0.0);
        let swapped = Position::compare(&row, &[1.0, 3.0, f32::NEG_INFINITY], 0).unwrap();
        assert!(swapped.divergence > 1.0 && !swapped.same_top);
        assert!(Position::compare(&row, &[f32::NAN, 0.0, 0.0], 0).is_none());
    }

    #[test]
    fn quantiles_lie_between_their_neighbours() {
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(quantile(&sorted, 0.0), 0.0);
        assert_eq!(quantile(&sorted, 1.0), 10.0);
        assert_eq!(quantile(&sorted, 0.5), 1.5);
        assert!((quantile(&sorted, 0.9) - 7.6).abs() < 1e-12);
        assert_eq!(quantile(&[4.0], 0.99), 4.0);
    }

    #[test]
    fn figures_of_made_up_positions() {
        let position =
            |divergence, same_top| Position { base_nll: 1.0, test_nll: 2.0, divergence, same_top };
        let figures =
            Figures::of(&[position(0.1, true), position(0.3, true), position(0.2, false)]);
        assert!((figures.mean.0 - 0.2).abs() < 1e-12);
        // population deviation sqrt(0.02 / 3) over sqrt(n − 1)
        assert!((figures.mean.1 - (0.02f64 / 3.0 / 2.0).sqrt()).abs() < 1e-12);
        assert!((figures.same_top - 2.0 / 3.0).abs() < 1e-12);
        assert!((figures.base.ppl() - 1f64.exp()).abs() < 1e-12);
        let text = figures.to_string();
        for name in [
            "Mean    KLD:   0.200000",
            "Median  KLD:   0.200000",
            "Maximum KLD:   0.300000",
            "99.0%   KLD",
        ] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }
}
