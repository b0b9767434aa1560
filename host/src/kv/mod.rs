//! Pages of the key-value cache: who holds which, and what is known of their contents. Pure code:
//! no device, clock or thread.
//!
//! A backend allocates `pages · PAGE_SIZE` token slots a layer once ([`crate::ops::KvPool`]);
//! [`PagePool`] hands the page numbers out, and a [`PageTable`] maps the positions of one sequence
//! to them: position `p` lies in page `pages[p / PAGE_SIZE]` at slot `p % PAGE_SIZE`.
//!
//! Layers that attend to a window need its pages only, the others all. So there is a [`PageGroup`]
//! of each kind that a model has, with page numbers and a page list of its own.
//!
//! ```text
//! free    nobody holds it, nothing in it is of use
//! cached  nobody holds it, its tokens are known: a sequence that begins alike takes it over
//! held    by one sequence or, when it is full and known, by several
//! ```
//!
//! `free + cached + held == total` at all times. A page that is wanted and not free is the cached
//! one that nobody held for the longest time.

mod index;
mod pool;
mod spill;
mod table;
#[cfg(test)]
mod tests;

pub use self::pool::PagePool;
pub use self::spill::{Saved, Spill};
pub use self::table::PageTable;

/// Tokens in a page.
pub const PAGE_SIZE: usize = 16;

/// Most groups of a model: layers with a window, and layers without.
pub const MAX_GROUPS: usize = 2;

/// Where a page's keys and values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePlace {
    /// A page of the pool.
    Pool(u32),
    /// A slot of the [`Spill`].
    Host(u32),
}

/// A copy of a page's keys and values in all layers of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageMove {
    /// Index of the [`PageGroup`].
    pub group: usize,
    /// What is read.
    pub from: PagePlace,
    /// What is written; one of both is in the pool.
    pub to: PagePlace,
}

impl PageMove {
    /// Whether `next` goes on behind it, between the pool and the host: both can be one copy.
    pub fn goes_on(&self, next: &Self) -> bool {
        use PagePlace::{Host, Pool};
        self.group == next.group
            && match (self.from, self.to, next.from, next.to) {
                (Pool(from), Host(to), Pool(next_from), Host(next_to))
                | (Host(from), Pool(to), Host(next_from), Pool(next_to)) => {
                    (from + 1, to + 1) == (next_from, next_to)
                }
                _ => false,
            }
    }
}

/// Layers whose keys and values are wanted equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageGroup {
    /// Tokens, the own one included, that a token sees; `None` is all before it.
    pub window: Option<usize>,
    /// Pages of each of its layers.
    pub pages: usize,
}

impl PageGroup {
    /// The first page that a token at `position`, and those after it, may see.
    pub fn first_page(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window) / PAGE_SIZE)
    }

    /// Most pages that a sequence of `tokens` holds between two steps.
    pub fn pages_of(&self, tokens: usize) -> usize {
        let all = pages_for(tokens);
        self.window.map_or(all, |window| all.min(pages_for(window) + 1))
    }
}

/// The group of a layer with this window.
pub fn group_of(groups: &[PageGroup], window: Option<usize>) -> usize {
    window.and_then(|_| groups.iter().position(|group| group.window.is_some())).unwrap_or(0)
}

/// Pages with which a group of such a window never runs out, whatever `sequences` sequences in steps of
/// up to `rows` rows do: each holds its window, which may begin and end within a page, and one
/// page more that its rows begin.
pub fn window_pages(window: usize, sequences: usize, rows: usize) -> usize {
    let own = pages_for(window).saturating_add(2);
    own.saturating_mul(sequences).saturating_add(pages_for(rows))
}

/// Pages that hold `tokens` tokens.
pub fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_SIZE)
}

/// The pool has fewer pages to give than were asked for; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} more KV pages are needed and {available} can be had")]
pub struct PagesExhausted {
    /// Pages asked for.
    pub wanted: usize,
    /// Pages that are free or cached.
    pub available: usize,
}
