//! The part of a step that kernels read: packed into one staging buffer on the host, copied to the
//! device in one piece, seen by kernels as a [`StepView`].
//!
//! Where a part lies follows from the sizes of the step alone, so that steps with the same key have
//! their parts at the same addresses, and a small step is a small copy.

use cuda_std::Global;
use gpu_kernels::kernels::step::StepView;

use crate::ops::{Span, Step, StepLimits};

/// Every part starts at a multiple of it: the widest load of a kernel.
const ALIGN: usize = 16;

/// Where each part of a step lies in its buffer, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepLayout {
    tokens: usize,
    positions: usize,
    row_span: usize,
    /// Of each group of pages: they differ in where its pages begin.
    spans: Vec<usize>,
    logit_rows: usize,
    /// Cosines and sines of each RoPE.
    ropes: Vec<[usize; 2]>,
    /// Group after group; last, since the number of pages is no part of the key.
    pages: usize,
    bytes: usize,
}

impl StepLayout {
    /// The layout of steps with exactly these sizes.
    pub fn new(sizes: &StepLimits) -> Self {
        let mut next = 0;
        let mut take = |words: usize| {
            let start = next;
            next += (4 * words).next_multiple_of(ALIGN);
            start
        };
        let rows = sizes.rows;
        Self {
            tokens: take(rows),
            positions: take(rows),
            row_span: take(rows),
            spans: (0..sizes.groups).map(|_| take(4 * sizes.spans)).collect(),
            logit_rows: take(sizes.logit_rows),
            ropes: sizes.pairs.iter().map(|pairs| [0; 2].map(|_| take(rows * pairs))).collect(),
            pages: take(sizes.groups * sizes.pages),
            bytes: next,
        }
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The parts of a buffer that starts at a device address, with the pages of a group.
    pub fn view(&self, base: u64, group: usize) -> StepView {
        let at = |offset: usize| base + offset as u64;
        StepView {
            tokens: Global::from_address(at(self.tokens)),
            positions: Global::from_address(at(self.positions)),
            row_span: Global::from_address(at(self.row_span)),
            spans: Global::from_address(at(self.spans[group])),
            pages: Global::from_address(at(self.pages)),
            logit_rows: Global::from_address(at(self.logit_rows)),
        }
    }

    /// Cosines and sines [rows, pairs] of a RoPE, in a buffer that starts at a device address.
    pub fn rope(&self, base: u64, rope: usize) -> [Global<f32>; 2] {
        self.ropes[rope].map(|offset| Global::from_address(base + offset as u64))
    }

    /// The layout of `step`.
    pub fn of(step: &Step) -> Self {
        Self::new(&StepLimits {
            rows: step.batch.tokens.len(),
            logit_rows: step.batch.logit_rows.len(),
            spans: step.batch.spans.len(),
            pages: step.batch.spans.iter().map(Span::page_count).sum(),
            groups: step.batch.spans.first().map_or(0, |span| span.pages.len()),
            pairs: step.ropes.iter().map(|rope| rope.pairs).collect(),
        })
    }

    /// Writes the step that this is the layout of.
    pub fn pack(&self, step: &Step, staging: &mut [u8]) {
        let batch = step.batch;
        let mut put = |offset: usize, index: usize, word: u32| {
            let at = offset + 4 * index;
            staging[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        };
        for (row, &token) in batch.tokens.iter().enumerate() {
            put(self.tokens, row, token);
        }
        for (index, span) in batch.spans.iter().enumerate() {
            let first_position = span.context_len - span.rows;
            for i in 0..span.rows {
                put(self.positions, span.first_row + i, word(first_position + i));
                put(self.row_span, span.first_row + i, word(index));
            }
        }
        let mut first_page = 0;
        for (group, &spans) in self.spans.iter().enumerate() {
            for (index, span) in batch.spans.iter().enumerate() {
                let record = [span.first_row, span.rows, span.context_len, first_page];
                for (i, value) in record.into_iter().enumerate() {
                    put(spans, 4 * index + i, word(value));
                }
                for &page in &span.pages[group] {
                    put(self.pages, first_page, page);
                    first_page += 1;
                }
            }
        }
        for (i, &row) in batch.logit_rows.iter().enumerate() {
            put(self.logit_rows, i, word(row));
        }
        for (rope, offsets) in step.ropes.iter().zip(&self.ropes) {
            for (offset, values) in offsets.iter().zip([&rope.cos, &rope.sin]) {
                let bytes: &[u8] = bytemuck::cast_slice(values);
                staging[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

fn word(n: usize) -> u32 {
    u32::try_from(n).expect("rows and positions of a step fit 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Batch, RopeRows};

    #[test]
    fn parts_lie_where_the_view_says() {
        let span = |first_row, rows, context_len, pages: [&[u32]; 2]| Span {
            first_row,
            rows,
            context_len,
            rope_len: context_len,
            pages: pages.map(<[u32]>::to_vec).to_vec(),
        };
        let batch = Batch {
            tokens: vec![7, 8, 9],
            spans: vec![span(0, 2, 18, [&[4, 2], &[1, 8]]), span(2, 1, 1, [&[6], &[5]])],
            logit_rows: vec![1, 2],
            moves: vec![],
        };
        let rope = |pairs: usize, first: f32| RopeRows {
            pairs,
            cos: (0..3 * pairs).map(|i| first + i as f32).collect(),
            sin: (0..3 * pairs).map(|i| -first - i as f32).collect(),
        };
        let ropes = [rope(2, 1.0), rope(3, 100.0)];
        let step = Step { batch: &batch, ropes: &ropes };
        let layout = StepLayout::of(&step);
        let mut staging = vec![0xff; layout.bytes()];
        layout.pack(&step, &mut staging);

        let words = |address: u64, n: usize| -> Vec<u32> {
            let start = address as usize;
            assert!(start.is_multiple_of(ALIGN) && start + 4 * n <= layout.bytes());
            let bytes = staging[start..start + 4 * n].chunks_exact(4);
            bytes.map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect()
        };
        let view = layout.view(0, 0);
        assert_eq!(words(view.tokens.address(), 3), [7, 8, 9]);
        assert_eq!(words(view.positions.address(), 3), [16, 17, 0]);
        assert_eq!(words(view.row_span.address(), 3), [0, 0, 1]);
        assert_eq!(words(view.spans.address(), 8), [0, 2, 18, 0, 2, 1, 1, 2]);
        assert_eq!(words(view.pages.address(), 6), [4, 2, 6, 1, 8, 5]);
        let other = layout.view(0, 1);
        assert_eq!(words(other.spans.address(), 8), [0, 2, 18, 3, 2, 1, 1, 5]);
        assert_eq!(other.pages.address(), view.pages.address());
        assert_eq!(words(view.logit_rows.address(), 2), [1, 2]);
        for (i, rope) in ropes.iter().enumerate() {
            let [cos, sin] = layout.rope(0, i);
            for (table, expected) in [(cos, &rope.cos), (sin, &rope.sin)] {
                let found = words(table.address(), expected.len());
                assert_eq!(found, expected.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            }
        }
    }
}
