//! Rotations by position, kept: a chunk of a prompt takes milliseconds to compute and a tenth of
//! that to copy, and most positions were computed for a sequence before.
//!
//! A table is as long as the longest sequence so far. Rotations whose frequencies change with every
//! length are not kept.

use super::rope::RopeSpec;
use crate::ops::{Batch, RopeRows};

/// One rotary embedding, and what was computed of it.
#[derive(Debug)]
pub struct RopeTable {
    spec: RopeSpec,
    /// For each set of frequencies, positions from 0 on.
    known: [RopeRows; 2],
}

impl RopeTable {
    /// Nothing is known yet.
    pub fn new(spec: RopeSpec) -> Self {
        Self { spec, known: Default::default() }
    }

    /// Cosines and sines for the rows of a batch.
    pub fn rows(&mut self, batch: &Batch, out: &mut RopeRows) {
        let pairs = self.spec.pairs();
        out.pairs = pairs;
        out.cos.clear();
        out.sin.clear();
        for span in &batch.spans {
            let positions = span.context_len - span.rows..span.context_len;
            let Some(set) = self.spec.set(span.rope_len) else {
                self.spec.turn(span.rope_len, positions, out);
                continue;
            };
            let known = &mut self.known[set];
            grow(&mut known.cos, pairs * positions.end);
            grow(&mut known.sin, pairs * positions.end);
            self.spec.turn(span.rope_len, known.cos.len() / pairs..positions.end, known);
            let elements = pairs * positions.start..pairs * positions.end;
            out.cos.extend_from_slice(&known.cos[elements.clone()]);
            out.sin.extend_from_slice(&known.sin[elements]);
        }
    }
}

/// Makes room for `len` elements, and an eighth more where there was not: a vector left to itself would
/// take twice what is planned.
fn grow(values: &mut Vec<f32>, len: usize) {
    if len > values.capacity() {
        values.reserve_exact(len + len / 8 - values.len());
    }
}

impl RopeSpec {
    /// Bytes of a [`RopeTable`] after sequences of up to `tokens` tokens.
    pub fn table_bytes(&self, tokens: usize) -> u64 {
        let row_bytes = 8 * self.pairs() as u64;
        let kept = self.kept_positions(tokens) as u64;
        row_bytes.saturating_mul(kept.saturating_add(kept / 8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::rope::{RopeParameters, RopeScaling};
    use crate::ops::Span;

    const ORIGINAL: usize = 16;

    fn spec(scaling: RopeScaling) -> RopeSpec {
        let parameters = RopeParameters {
            scaling,
            theta: 10_000.0,
            dims: 8,
            context_len: 64,
            original_len: Some(ORIGINAL),
            factor: 4.0,
            attention_factor: None,
        };
        RopeSpec::new(&parameters).unwrap()
    }

    /// Whatever was asked for before, rows are those that an empty table gives, bit for bit.
    #[test]
    fn what_is_known_changes_nothing() {
        let long = || RopeScaling::LongRope { short: vec![1.0; 4], long: vec![4.0; 4] };
        for scaling in [RopeScaling::None, RopeScaling::Dynamic, long()] {
            let spec = spec(scaling);
            let mut table = RopeTable::new(spec.clone());
            let (mut rows, mut fresh) = (RopeRows::default(), RopeRows::default());
            let mut longest = 0;
            // Rows, context_len and rope_len of two sequences.
            for spans in [
                [(3, 3, 3), (1, 9, 9)],
                [(2, 5, 17), (16, 16, 16)],
                [(1, 6, 17), (1, 17, 17)],
                [(4, 12, 12), (40, 40, 40)],
                [(1, 41, 41), (1, 1, 1)],
            ] {
                let spans = spans.map(|(rows, context_len, rope_len)| {
                    longest = longest.max(context_len);
                    Span { first_row: 0, rows, context_len, rope_len, pages: vec![] }
                });
                let batch = Batch { spans: spans.to_vec(), ..Batch::default() };
                table.rows(&batch, &mut rows);
                RopeTable::new(spec.clone()).rows(&batch, &mut fresh);
                assert_eq!((&rows.cos, &rows.sin), (&fresh.cos, &fresh.sin), "{spec:?}");
                let mut direct = RopeRows::default();
                for span in &batch.spans {
                    let first = span.context_len - span.rows;
                    spec.turn(span.rope_len, first..span.context_len, &mut direct);
                }
                assert_eq!((&rows.cos, &rows.sin), (&direct.cos, &direct.sin), "{spec:?}");
            }
            let bytes = |k: &RopeRows| 4 * (k.cos.capacity() + k.sin.capacity());
            let kept: usize = table.known.iter().map(bytes).sum();
            assert!(kept as u64 <= spec.table_bytes(longest), "{spec:?}");
        }
    }

    #[test]
    fn rows_follow_the_positions_of_each_sequence() {
        let mut table = RopeTable::new(spec(RopeScaling::None));
        let span = |first_row, rows, context_len| Span {
            first_row,
            rows,
            context_len,
            rope_len: context_len,
            pages: vec![],
        };
        let batch = Batch { spans: vec![span(0, 2, 7), span(2, 1, 1)], ..Batch::default() };
        let mut rows = RopeRows::default();
        table.rows(&batch, &mut rows);
        assert_eq!((rows.pairs, rows.cos.len()), (4, 3 * 4));
        for (row, position) in [(0, 5.0f64), (1, 6.0), (2, 0.0)] {
            assert!((f64::from(rows.cos[row * 4]) - position.cos()).abs() < 1e-6);
            assert!((f64::from(rows.sin[row * 4]) - position.sin()).abs() < 1e-6);
        }
    }
}
