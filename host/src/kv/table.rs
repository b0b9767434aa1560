//! The pages of one sequence.

use super::{Node, PAGE_SIZE, PagePool, PagesExhausted, pages_for};

/// The pages of one sequence, and how many of its tokens have keys and values in them.
///
/// ```text
/// [0, 16 · known) others may have these pages, too: never written again
/// [16 · known, len) computed, the sequence's own
/// [len, 16 · pages) room for the next step
/// ```
///
/// Dropping a table does not return its pages, since it does not know its pool: call
/// [`PageTable::release`] or [`PageTable::retire`].
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<u32>,
    len: usize,
    /// Full pages that are in the pool's index, the first ones.
    known: usize,
    /// Of the last of them.
    node: Node,
}

impl PageTable {
    /// The pages, in the order of the positions they hold.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }
    /// Tokens whose keys and values are in the pages.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether no token is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes over the cached pages that hold the first of `tokens`. The table must be empty.
    pub fn adopt(&mut self, pool: &mut PagePool, tokens: &[u32]) {
        assert!(self.pages.is_empty());
        let (full, _) = tokens.as_chunks::<PAGE_SIZE>();
        for tokens in full {
            let Some((page, node)) = pool.find(self.node, tokens) else { break };
            self.pages.push(page);
            (self.known, self.node) = (self.known + 1, node);
        }
        self.len = self.known * PAGE_SIZE;
        if let Some((page, alike)) = pool.take_tail(self.node, &tokens[self.len..]) {
            self.pages.push(page);
            self.len += alike;
        }
    }

    /// Takes pages until there is room for `tokens` tokens; does nothing when there is.
    ///
    /// # Errors
    /// `PagesExhausted`; nothing was changed.
    pub fn reserve(&mut self, pool: &mut PagePool, tokens: usize) -> Result<(), PagesExhausted> {
        let wanted = pages_for(tokens).saturating_sub(self.pages.len());
        let available = pool.available();
        if wanted > available {
            return Err(PagesExhausted { wanted, available });
        }
        self.pages.extend((0..wanted).map_while(|_| pool.take()));
        Ok(())
    }

    /// Says that `tokens` more tokens were computed into reserved pages.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.pages.len() * PAGE_SIZE);
    }

    /// Makes the full pages known to others; `tokens` are the sequence's. Where the same was
    /// computed twice, the page that is known already takes the place of this one.
    pub fn share(&mut self, pool: &mut PagePool, tokens: &[u32]) {
        let (full, _) = tokens[..self.len].as_chunks::<PAGE_SIZE>();
        for (page, tokens) in self.pages.iter_mut().zip(full).skip(self.known) {
            (*page, self.node) = pool.add(*page, self.node, tokens);
        }
        self.known = full.len();
    }

    /// Returns all pages, and leaves in the cache what holds `tokens`, the sequence's.
    pub fn retire(&mut self, pool: &mut PagePool, tokens: &[u32]) {
        self.share(pool, tokens);
        let tail = &tokens[self.known * PAGE_SIZE..self.len];
        if !tail.is_empty() {
            pool.add_tail(self.pages[self.known], self.node, tail);
        }
        self.release(pool);
    }

    /// Returns all pages, the last first. Those that are known stay cached.
    pub fn release(&mut self, pool: &mut PagePool) {
        self.pages.iter().rev().for_each(|&page| pool.release(page));
        *self = Self::default();
    }

    /// Returns all pages, and nobody finds any of them again: what they hold is doubtful.
    pub fn forget(&mut self, pool: &mut PagePool) {
        self.pages.iter().for_each(|&page| pool.forget(page));
        self.release(pool);
    }
}
