//! Pages of the key-value cache: who holds which, and what is known of their contents. Pure code:
//! no device, clock or thread.
//!
//! A backend allocates `pages · PAGE_SIZE` token slots a layer once ([`crate::ops::KvPool`]);
//! [`PagePool`] hands the page numbers out, and a [`PageTable`] maps the positions of one sequence
//! to them: position `p` lies in page `pages[p / PAGE_SIZE]` at slot `p % PAGE_SIZE`.
//!
//! ```text
//! free    nobody holds it, nothing in it is of use
//! cached  nobody holds it, its tokens are known: a sequence that begins alike takes it over
//! held    by one sequence or, when it is full and known, by several
//! ```
//!
//! `free + cached + held == total` at all times. A page that is wanted and not free is the cached
//! one that nobody held for the longest time.

mod pool;
mod table;
#[cfg(test)]
mod tests;

pub use self::pool::{Node, PagePool};
pub use self::table::PageTable;

/// Tokens in a page.
pub const PAGE_SIZE: usize = 16;

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
