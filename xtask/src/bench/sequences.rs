//! Sequences on pages of the key-value cache.

use cuda_std::Global;
use gpu_kernels::kernels::step::{PAGE_SIZE, StepView};

use super::bed::{Bed, BedError};
use super::random::Random;

/// Tokens of a page.
pub const PAGE: usize = PAGE_SIZE as usize;

/// Some sequences: their rows, and the pages they lie on, in no order.
pub struct Sequences {
    /// As kernels see them.
    pub step: StepView,
    /// First row, rows, context length, first page: see [`StepView::spans`].
    pub table: Vec<[u32; 4]>,
    /// See [`StepView::pages`].
    pub pages: Vec<u32>,
    /// Rows of all.
    pub rows: usize,
}

impl Sequences {
    /// For rows and context length of each.
    pub fn new(bed: &Bed, random: &mut Random, spans: &[(u32, u32)]) -> Result<Self, BedError> {
        let page_count: usize = spans.iter().map(|s| s.1.div_ceil(PAGE_SIZE) as usize).sum();
        // Page 0 belongs to nobody.
        let pages: Vec<u32> = random.order(page_count).iter().map(|page| page + 1).collect();
        let (mut table, mut positions, mut row_span) = (vec![], vec![], vec![]);
        let mut first_page = 0;
        for (i, &(rows, context)) in (0..).zip(spans) {
            table.push([positions.len() as u32, rows, context, first_page]);
            positions.extend(context - rows..context);
            row_span.extend((0..rows).map(|_| i));
            first_page += context.div_ceil(PAGE_SIZE);
        }
        let rows = positions.len();
        let step = StepView {
            tokens: bed.upload(&vec![0u32; rows])?,
            positions: bed.upload(&positions)?,
            row_span: bed.upload::<u32>(&row_span)?,
            spans: bed.upload(&table)?,
            pages: bed.upload(&pages)?,
            logit_rows: Global::null(),
        };
        Ok(Self { step, table, pages, rows })
    }

    /// Pages that the cache needs.
    pub fn cache_pages(&self) -> usize {
        self.pages.len() + 1
    }

    /// First element of a position in the cache of one layer.
    pub fn slot(
        &self,
        first_page: u32,
        position: u32,
        head: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> usize {
        let page = self.pages[first_page as usize + position as usize / PAGE] as usize;
        ((page * kv_heads + head) * PAGE + position as usize % PAGE) * head_dim
    }
}
