//! Choosing tokens: the best, and draws from narrowed distributions.

use gpu_kernels::kernels::sample::{
    CHOSEN, COUNT, CountParams, DRAW, MAX_CANDIDATES, NEEDS_HOST, SCAN, SampleParams, SampleRow,
    count_launch, launch, parts,
};

use super::super::bed::BedError;
use super::super::random::Random;
use super::Checker;

/// Times that each seen token of a row with penalties was seen.
const SEEN: u32 = 2;

pub fn check(c: &mut Checker<'_>) -> Result<(), BedError> {
    for &vocab in c.some(&[5000usize, 1, 4096, 4097, 32_000, 151_936]) {
        let row = |c: &mut Checker<'_>, temperature| {
            // Away from 0 and 1, where nothing can be drawn but the ends.
            SampleRow::plain(temperature, f64::from(c.random.number()) * 0.49 + 0.5)
        };
        let mut rows = vec![row(c, 0.0), row(c, 1.0), row(c, 0.7)];
        rows.push(SampleRow { top_k: 40, top_p: 0.95, ..row(c, 0.8) });
        rows.push(SampleRow { top_p: 0.9, ..row(c, 1.3) });
        rows.push(SampleRow { top_p: 0.3, ..row(c, 0.9) });
        rows.push(SampleRow { top_k: 5, min_keep: 1, ..row(c, 1.0) });
        for slot in [rows.len() as u32, rows.len() as u32 + 1] {
            let temperature = if slot.is_multiple_of(2) { 0.0 } else { 1.0 };
            rows.push(SampleRow {
                counts: Some(slot),
                repeat_penalty: 1.2,
                frequency_penalty: 0.3,
                presence_penalty: 0.1,
                ..row(c, temperature)
            });
        }
        sample(c, &rows, vocab)?;
        c.bed.clear();
    }
    Ok(())
}

/// Logits as models give them: most near each other, a few far ahead, some equal.
fn logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    let one = |random: &mut Random| {
        let bell: f32 = (0..6).map(|_| random.number()).sum();
        let ahead = if random.below(300) == 0 { 4.0 + 4.0 * random.number() } else { 0.0 };
        ((2.0 * bell + ahead) * 64.0).round() / 64.0
    };
    (0..vocab).map(|_| one(random)).collect()
}

fn sample(c: &mut Checker<'_>, rows: &[SampleRow], vocab: usize) -> Result<(), BedError> {
    let bed = c.bed;
    let logits: Vec<Vec<f32>> = rows.iter().map(|_| logits(&mut c.random, vocab)).collect();
    let words: Vec<[u32; 4]> =
        rows.iter().flat_map(|row| row.words(vocab as u32, row.min_p.ln())).collect();
    let counts = bed.zeros::<u32>(rows.len() * vocab)?;
    // The best tokens, so that penalties change the choice.
    let mut seen: Vec<Vec<usize>> = vec![vec![]; rows.len()];
    let mut changes = vec![];
    for (i, row) in rows.iter().enumerate() {
        if let Some(slot) = row.counts {
            seen[i] = best_first(&logits[i]).into_iter().take(20).collect();
            changes.extend(seen[i].iter().map(|&token| [slot, token as u32, SEEN, 0]));
        }
    }
    let n = changes.len() as u32;
    let change = CountParams { changes: bed.upload(&changes)?, counts, vocab: vocab as u32, n };
    bed.run(&COUNT, count_launch(n), &change)?;
    let counted: u32 = bed.read(counts, rows.len() * vocab)?.iter().sum();
    let text = format!("{vocab} tokens");
    c.require(COUNT.info.name, "counts", &text, counted == SEEN * n);

    let parts = parts(vocab as u32) as usize;
    let params = SampleParams {
        logits: bed.upload(&logits.concat())?,
        rows: bed.upload(&words)?,
        bias: bed.upload::<[u32; 2]>(&[])?,
        counts: counts.read(),
        adjusted: bed.poisoned(rows.len() * vocab)?,
        scanned: bed.poisoned(rows.len() * parts)?,
        summary: bed.poisoned(rows.len())?,
        sums: bed.poisoned(rows.len() * parts)?,
        candidates: bed.poisoned(rows.len() * parts * MAX_CANDIDATES as usize)?,
        tickets: bed.zeros(rows.len())?,
        out: bed.poisoned(rows.len())?,
        vocab: vocab as u32,
    };
    let launch = launch(rows.len() as u32, vocab as u32);
    bed.run(&SCAN, launch, &params)?;
    bed.run(&DRAW, launch, &params)?;
    let out = bed.read(params.out, rows.len())?;
    for (i, (row, &[token, status, logprob, _])) in rows.iter().zip(&out).enumerate() {
        let entry = if row.temperature == 0.0 { SCAN.info.name } else { DRAW.info.name };
        let text = format!("row {i} of {vocab} tokens, {row:?}");
        let candidates = candidates(row, &logits[i], &seen[i]);
        if row.top_p < 1.0 && candidates.len() > MAX_CANDIDATES as usize {
            let text = format!("{text}: {} candidates", candidates.len());
            c.require(entry, "leaves many candidates to the host", &text, status == NEEDS_HOST);
            continue;
        }
        let right = status == CHOSEN && may_be(row, &candidates, token as usize);
        c.require(entry, "token", &format!("{text}: {token}, status {status}"), right);
        let expected = log_softmax(&logits[i], token as usize);
        let error = (f64::from(f32::from_bits(logprob)) - expected).abs();
        let close = error <= 4e-6 * expected.abs().max(1.0);
        c.require(entry, "log-probability", &format!("{text}: off by {error:e}"), close);
    }
    let cleared = bed.read(params.tickets, rows.len())?.iter().all(|n| *n == 0);
    c.require(DRAW.info.name, "tickets are zeros again", &text, cleared);
    Ok(())
}

/// Tokens by falling logit, equal ones by id.
fn best_first(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order
}

fn log_softmax(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, x| max.max(f64::from(*x)));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    logits.get(token).map_or(f64::NAN, |x| f64::from(*x) - max - sum.ln())
}

/// The tokens that a row draws from, in the order of the draw, with their weights.
fn candidates(row: &SampleRow, logits: &[f32], seen: &[usize]) -> Vec<(usize, f64)> {
    let mut logits = logits.to_vec();
    for &token in seen {
        let (logit, repeat) = (&mut logits[token], row.repeat_penalty);
        *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
        *logit -= SEEN as f32 * row.frequency_penalty + row.presence_penalty;
    }
    let mut order = best_first(&logits);
    if row.temperature == 0.0 {
        return vec![(order[0], 1.0)];
    }
    let max = f64::from(logits[order[0]]);
    let ahead = |token: usize| f64::from(logits[token]) - max;
    let narrowed = (row.top_k > 0 && (row.top_k as usize) < logits.len()) || row.top_p < 1.0;
    if row.top_k > 0 {
        order.truncate(row.top_k as usize);
    }
    if row.top_p < 1.0 {
        let total: f64 = order.iter().map(|&t| ahead(t).exp()).sum();
        let mut sum = 0.0;
        let last = order.iter().position(|&t| {
            sum += ahead(t).exp();
            sum >= f64::from(row.top_p) * total
        });
        order.truncate(last.map_or(order.len(), |last| last + 1));
    }
    if !narrowed {
        order.sort_unstable();
    }
    let weight = |t: usize| (ahead(t) / f64::from(row.temperature)).exp();
    order.into_iter().map(|t| (t, weight(t))).collect()
}

/// Whether a row's random number may fall to `token`: its share of the line from 0 to 1, with the
/// error of sums in F32.
fn may_be(row: &SampleRow, candidates: &[(usize, f64)], token: usize) -> bool {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let Some(place) = candidates.iter().position(|(t, _)| *t == token) else { return false };
    let before: f64 = candidates[..place].iter().map(|(_, weight)| weight).sum();
    let (from, to) = (before / total, (before + candidates[place].1) / total);
    row.temperature == 0.0 || (from - 1e-6 <= row.uniform && row.uniform <= to + 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_be_drawn_where_its_share_lies() {
        let logits = [0.0, 2f32.ln(), f32::NEG_INFINITY, 0.0];
        let drawn = |row: SampleRow| {
            let candidates = candidates(&row, &logits, &[]);
            (0..4).filter(|&t| may_be(&row, &candidates, t)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(SampleRow::plain(1.0, 0.1)), [0]);
        assert_eq!(drawn(SampleRow::plain(1.0, 0.5)), [1]);
        assert_eq!(drawn(SampleRow::plain(1.0, 0.9)), [3]);
        assert_eq!(drawn(SampleRow::plain(0.0, 0.0)), [1]);
        assert_eq!(drawn(SampleRow { top_k: 1, ..SampleRow::plain(1.0, 0.9) }), [1]);
        // Best first where they were sorted.
        assert_eq!(drawn(SampleRow { top_p: 0.7, ..SampleRow::plain(1.0, 0.1) }), [1]);
        assert_eq!(drawn(SampleRow { top_p: 0.7, ..SampleRow::plain(1.0, 0.9) }), [0]);
    }
    #[test]
    fn penalties_change_the_best() {
        let row = SampleRow { repeat_penalty: 4.0, ..SampleRow::plain(0.0, 0.0) };
        assert_eq!(candidates(&row, &[1.0, 2.0], &[])[0].0, 1);
        assert_eq!(candidates(&row, &[1.0, 2.0], &[1])[0].0, 0);
    }
}
