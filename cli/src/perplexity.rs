//! `--perplexity`: llama.cpp's method. The file is tokenized whole and cut into chunks of `n_ctx`
//! tokens; each is computed from an empty context, its first token replaced by BOS when the
//! vocabulary begins texts with one; the second half is scored:
//! `PPL = exp(mean of −ln p(token[j + 1] | token[0..=j]))`, `j` from `n_ctx / 2` to `n_ctx − 2`.
//!
//! Source: `tools/perplexity/perplexity.cpp` of llama.cpp, its default (non-strided) method.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use host::engine::{Engine, RequestError};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output;
use crate::run::read_text;

/// Chunk length when the user gives none.
pub(crate) const DEFAULT_CHUNK: usize = 512;

/// A text as chunks of token ids.
pub(crate) struct Chunks {
    /// Tokens of the whole text.
    pub(crate) n_tokens: usize,
    /// Tokens a chunk.
    pub(crate) n_ctx: usize,
    /// The chunks; what is left of the text is not used.
    pub(crate) chunks: Vec<Vec<u32>>,
}

impl Chunks {
    /// Reads and cuts the file named by `flag`.
    ///
    /// # Errors
    /// `File`, `Tokenizer`; `BadArgument` with both numbers when the text is shorter than a chunk.
    pub(crate) fn read(
        engine: &Engine,
        flag: &'static str,
        path: &Path,
        n_ctx: usize,
    ) -> Result<Self, CliError> {
        let text = read_text(flag, path)?;
        let Some(tokenizer) = engine.tokenizer() else {
            return Err(CliError::BadArgument(format!(
                "{flag}: the model has no vocabulary to read the text with"
            )));
        };
        let tokens = tokenizer.encode(&text, true, false)?;
        let bos = if tokenizer.adds_bos() { tokenizer.bos() } else { None };
        Self::cut(&tokens, bos, n_ctx).map_err(|what| {
            CliError::BadArgument(format!("{flag} {}: {what} (see --max-seq-len)", path.display()))
        })
    }

    fn cut(tokens: &[u32], bos: Option<u32>, n_ctx: usize) -> Result<Self, String> {
        if n_ctx < 4 {
            return Err(format!("chunks of {n_ctx} tokens; at least 4 are needed to score any"));
        }
        if tokens.len() < n_ctx {
            return Err(format!("{} tokens are fewer than one chunk of {n_ctx}", tokens.len()));
        }
        let mut chunks: Vec<Vec<u32>> = tokens.chunks_exact(n_ctx).map(<[u32]>::to_vec).collect();
        if let Some(bos) = bos {
            chunks.iter_mut().for_each(|chunk| chunk[0] = bos);
        }
        Ok(Self { n_tokens: tokens.len(), n_ctx, chunks })
    }

    /// First position whose logits are scored.
    pub(crate) fn first(&self) -> usize {
        self.n_ctx / 2
    }
}

/// Sums of negative log-likelihoods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Nll {
    sum: f64,
    sum_sq: f64,
    /// Tokens scored.
    pub(crate) count: usize,
}

impl Nll {
    /// Takes one token's `−ln p`.
    pub(crate) fn add(&mut self, nll: f64) {
        self.sum += nll;
        self.sum_sq += nll * nll;
        self.count += 1;
    }

    /// Takes all of another.
    pub(crate) fn merge(&mut self, other: &Nll) {
        self.sum += other.sum;
        self.sum_sq += other.sum_sq;
        self.count += other.count;
    }

    /// Mean `−ln p`.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Perplexity.
    pub(crate) fn ppl(&self) -> f64 {
        self.mean().exp()
    }

    /// Standard error of [`Nll::ppl`]: that of the mean, carried through `exp`.
    pub(crate) fn ppl_stderr(&self) -> f64 {
        let variance = self.sum_sq / self.count as f64 - self.mean().powi(2);
        (variance.max(0.0) / (self.count as f64 - 1.0)).sqrt() * self.ppl()
    }
}

/// `ln Σ exp(logit)` in F64; `None` unless every logit is below +∞ and the sum is finite.
pub(crate) fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - f64::from(max)).exp()).sum();
    let total = f64::from(max) + sum.ln();
    total.is_finite().then_some(total)
}

/// Computes a chunk and gives each scored position's logits and the token they predict to `score`,
/// which returns `false` for logits that are not finite.
///
/// # Errors
/// What the engine reports; `Request` for logits that are not finite.
pub(crate) fn score_chunk(
    engine: &Engine,
    chunk: &[u32],
    first: usize,
    mut score: impl FnMut(&[f32], u32) -> bool + Send + 'static,
) -> Result<(), CliError> {
    let broken: Arc<Mutex<Option<usize>>> = Arc::default();
    let (tokens, report) = (chunk.to_vec(), broken.clone());
    let each = move |position: usize, logits: &[f32]| {
        // the last position predicts a token of the next chunk
        let Some(next) = tokens.get(position + 1) else { return };
        if !score(logits, *next) {
            report.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(position);
        }
    };
    engine.evaluate(chunk.to_vec(), first, Box::new(each))?;
    match *broken.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(tokens) => Err(RequestError::NonFiniteLogits { tokens }.into()),
        None => Ok(()),
    }
}

/// Measures the perplexity of `path` and prints it.
///
/// # Errors
/// What reading, the engine and stdout report.
pub(crate) fn perplexity(
    engine: &Engine,
    path: &Path,
    n_ctx: usize,
    json: bool,
) -> Result<(), CliError> {
    let text = Chunks::read(engine, "--perplexity", path, n_ctx)?;
    let mut total = Nll::default();
    let mut chunk_means = Vec::with_capacity(text.chunks.len());
    for (index, chunk) in text.chunks.iter().enumerate() {
        let tally: Arc<Mutex<Nll>> = Arc::default();
        let shared = tally.clone();
        score_chunk(engine, chunk, text.first(), move |logits, next| {
            let Some(total) = log_sum_exp(logits) else { return false };
            let nll = total - f64::from(logits[next as usize]);
            shared.lock().unwrap_or_else(PoisonError::into_inner).add(nll);
            nll.is_finite()
        })?;
        let chunk_nll = *tally.lock().unwrap_or_else(PoisonError::into_inner);
        total.merge(&chunk_nll);
        chunk_means.push(chunk_nll.mean());
        let (done, all) = (index + 1, text.chunks.len());
        note!(
            "chunk {done}/{all}: mean nll {:.5}, perplexity so far {:.4}",
            chunk_nll.mean(),
            total.ppl()
        );
    }
    if json {
        output::show_json(&to_json(&text, &total, &chunk_means))
    } else {
        output::show_line(&format!(
            "Final estimate: PPL = {:.4} +/- {:.5}",
            total.ppl(),
            total.ppl_stderr()
        ))
    }
}

fn to_json(text: &Chunks, total: &Nll, chunk_means: &[f64]) -> Value {
    json!({
        "n_tokens": text.n_tokens,
        "n_ctx": text.n_ctx,
        "n_chunks": text.chunks.len(),
        "counted": total.count,
        "ppl": total.ppl(),
        "stderr_ppl": total.ppl_stderr(),
        "nll": total.mean(),
        "chunk_mean_nll": chunk_means,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_match_a_plain_loop() {
        // logits of 7 steps over 5 tokens, large ones included
        let logit = |step: usize, id: usize| ((step * 7 + id * 3) % 11) as f32 * 9.5 - 40.0;
        let (steps, vocab) = (7, 5);
        let mut nll = Nll::default();
        let mut values: Vec<f64> = Vec::new();
        for step in 0..steps {
            let logits: Vec<f32> = (0..vocab).map(|id| logit(step, id)).collect();
            let target = step % vocab;
            nll.add(log_sum_exp(&logits).unwrap() - f64::from(logits[target]));
            let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            values.push(-(f64::from(logits[target]).exp() / sum).ln());
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        assert!((nll.mean() - mean).abs() < 1e-12 * mean);
        assert!((nll.ppl() - mean.exp()).abs() < 1e-12 * mean.exp());
        let stderr = (variance / (n - 1.0)).sqrt() * mean.exp();
        assert!((nll.ppl_stderr() - stderr).abs() < 1e-9 * stderr);
    }

    #[test]
    fn merged_chunks_are_the_whole() {
        let values = [0.5, 2.0, 0.25, 8.0];
        let mut whole = Nll::default();
        values.iter().for_each(|v| whole.add(*v));
        let (mut a, mut b) = (Nll::default(), Nll::default());
        values[..1].iter().for_each(|v| a.add(*v));
        values[1..].iter().for_each(|v| b.add(*v));
        a.merge(&b);
        assert_eq!(a, whole);
    }

    #[test]
    fn broken_logits_have_no_sum() {
        assert!(log_sum_exp(&[1.0, f32::NAN]).is_none());
        assert!(log_sum_exp(&[1.0, f32::INFINITY]).is_none());
        assert!(log_sum_exp(&[f32::NEG_INFINITY; 3]).is_none());
        assert!((log_sum_exp(&[f32::NEG_INFINITY, 2.0]).unwrap() - 2.0).abs() < 1e-12);
        // beyond what a naive sum of exponentials can hold
        assert!((log_sum_exp(&[5000.0, 5000.0]).unwrap() - 5000.0 - 2f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn texts_are_cut_as_llama_cpp_cuts_them() {
        let tokens: Vec<u32> = (100..2981 + 100).collect();
        let text = Chunks::cut(&tokens, None, 512).unwrap();
        assert_eq!((text.chunks.len(), text.first()), (5, 256));
        // logits at 256 ..= 510 are scored: the published count of 1275 tokens
        assert_eq!(text.chunks.len() * (512 - 1 - text.first()), 1275);
        assert_eq!(text.chunks[1][0], 612);
        let with_bos = Chunks::cut(&tokens, Some(1), 512).unwrap();
        assert!(with_bos.chunks.iter().all(|chunk| chunk[0] == 1));
        assert_eq!(with_bos.chunks[1][1..], text.chunks[1][1..]);
    }

    #[test]
    fn texts_too_short_are_refused_with_both_numbers() {
        let error = Chunks::cut(&[1; 511], None, 512).err().unwrap();
        assert!(error.contains("511") && error.contains("512"), "{error}");
        assert!(Chunks::cut(&[1; 8], None, 3).is_err());
    }

    #[test]
    fn the_object_has_the_names_of_the_published_figures() {
        let text = Chunks::cut(&[7; 8], None, 8).unwrap();
        let mut nll = Nll::default();
        [1.0, 2.0, 3.0].into_iter().for_each(|v| nll.add(v));
        let object = to_json(&text, &nll, &[2.0]);
        assert_eq!(
            (&object["n_tokens"], &object["n_chunks"], &object["counted"]),
            (&json!(8), &json!(1), &json!(3))
        );
        assert_eq!(object["nll"], 2.0);
        assert_eq!(object["chunk_mean_nll"], json!([2.0]));
    }
}
