//! Pages of the key-value cache: who holds which. Pure code: no device, clock or thread.
//!
//! A backend allocates `pages · PAGE_SIZE` token slots a layer once ([`crate::ops::KvPool`]);
//! [`PagePool`] hands the page numbers out, and a [`PageTable`] maps the positions of one sequence
//! to them: position `p` lies in page `pages[p / PAGE_SIZE]` at slot `p % PAGE_SIZE`. A page has
//! at most one holder, and each is free or held: `free + held == total` at all times.

/// Tokens in a page.
pub const PAGE_SIZE: usize = 16;

/// Pages that hold `tokens` tokens.
pub fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_SIZE)
}

/// The pool holds fewer free pages than were asked for; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} more KV pages are needed and {free} are free")]
pub struct PagesExhausted {
    /// Pages asked for.
    pub wanted: usize,
    /// Pages that are free.
    pub free: usize,
}

/// The page numbers `0..total` and which of them are free.
#[derive(Debug)]
pub struct PagePool {
    /// Free pages; the last is handed out next, so that warm memory is used again first.
    free: Vec<u32>,
    held: Vec<bool>,
}

impl PagePool {
    /// A pool of `total` free pages.
    pub fn new(total: u32) -> Self {
        Self { free: (0..total).rev().collect(), held: vec![false; total as usize] }
    }
    /// Pages in all.
    pub fn total(&self) -> usize {
        self.held.len()
    }
    /// Pages nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }
    fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        assert!(!self.held[page as usize]);
        self.held[page as usize] = true;
        Some(page)
    }
    fn give_back(&mut self, page: u32) {
        assert!(self.held[page as usize]);
        self.held[page as usize] = false;
        self.free.push(page);
    }
    /// Checks that each page is free or in one of `tables`, and only once.
    ///
    /// # Panics
    /// When it is not: our own bug.
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a PageTable>) {
        let mut seen = vec![false; self.total()];
        let mut mark = |page: u32, held: bool| {
            assert_eq!(self.held[page as usize], held, "page {page}");
            assert!(!seen[page as usize], "page {page} is accounted for twice");
            seen[page as usize] = true;
        };
        self.free.iter().for_each(|&page| mark(page, false));
        tables.flat_map(|table| &table.pages).for_each(|&page| mark(page, true));
        assert!(seen.iter().all(|&s| s), "a page is neither free nor held");
    }
}

/// The pages of one sequence, and how many of its tokens have keys and values in them.
///
/// ```text
/// [0, len) computed          [len, 16 · pages) room for the next step
/// ```
///
/// Dropping a table does not return its pages, since it does not know its pool: call
/// [`PageTable::truncate`] with 0.
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<u32>,
    len: usize,
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
    /// Takes pages until there is room for `tokens` tokens; does nothing when there is.
    ///
    /// # Errors
    /// `PagesExhausted`; nothing was changed.
    pub fn reserve(&mut self, pool: &mut PagePool, tokens: usize) -> Result<(), PagesExhausted> {
        let wanted = pages_for(tokens).saturating_sub(self.pages.len());
        if wanted > pool.free() {
            return Err(PagesExhausted { wanted, free: pool.free() });
        }
        self.pages.extend((0..wanted).map_while(|_| pool.take()));
        Ok(())
    }
    /// Says that `tokens` more tokens were computed into reserved pages.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.pages.len() * PAGE_SIZE);
    }
    /// Keeps the first `len` tokens and returns the pages that hold none of them.
    pub fn truncate(&mut self, pool: &mut PagePool, len: usize) {
        assert!(len <= self.len);
        self.len = len;
        for page in self.pages.drain(pages_for(len)..) {
            pool.give_back(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_around_a_page() {
        for (tokens, pages) in [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)] {
            assert_eq!(pages_for(tokens), pages, "{tokens} tokens");
            let mut pool = PagePool::new(4);
            let mut table = PageTable::default();
            table.reserve(&mut pool, tokens).unwrap();
            table.advance(tokens);
            assert_eq!((table.pages().len(), pool.free()), (pages, 4 - pages));
            pool.check([&table].into_iter());
        }
    }

    #[test]
    fn exhaustion_changes_nothing() {
        let mut pool = PagePool::new(3);
        let mut table = PageTable::default();
        table.reserve(&mut pool, 17).unwrap();
        let error = table.reserve(&mut pool, 65).unwrap_err();
        assert_eq!(error, PagesExhausted { wanted: 3, free: 1 });
        assert_eq!((table.pages().len(), pool.free()), (2, 1));
        table.reserve(&mut pool, 48).unwrap();
        assert_eq!(pool.free(), 0);
    }

    #[test]
    fn truncating_keeps_the_pages_of_what_is_kept() {
        let mut pool = PagePool::new(4);
        let mut table = PageTable::default();
        table.reserve(&mut pool, 64).unwrap();
        table.advance(50);
        let before = table.pages().to_vec();
        table.truncate(&mut pool, 17);
        assert_eq!(table.pages(), &before[..2]);
        assert_eq!((table.len(), pool.free()), (17, 2));
        table.truncate(&mut pool, 16);
        assert_eq!(table.pages(), &before[..1]);
        table.truncate(&mut pool, 0);
        assert_eq!((table.is_empty(), pool.free()), (true, 4));
    }

    #[test]
    #[should_panic(expected = "neither free nor held")]
    fn a_lost_page_is_noticed() {
        let mut pool = PagePool::new(2);
        PageTable::default().reserve(&mut pool, 1).unwrap();
        pool.check(std::iter::empty());
    }

    proptest! {
        /// Random sequences on a tiny pool: after each step every page is free or held once.
        #[test]
        fn free_and_held_are_the_total(
            steps in prop::collection::vec((0usize..4, 0u8..3, 0usize..100), 1..200)
        ) {
            let mut pool = PagePool::new(9);
            let mut tables: [PageTable; 4] = Default::default();
            for (who, what, tokens) in steps {
                let table = &mut tables[who];
                match what {
                    0 => {
                        let (pages, free) = (table.pages().len(), pool.free());
                        let fits = pages_for(tokens) <= pages + free;
                        prop_assert_eq!(table.reserve(&mut pool, tokens).is_ok(), fits);
                    }
                    1 => table.advance(tokens.min(table.pages().len() * PAGE_SIZE - table.len())),
                    _ => table.truncate(&mut pool, tokens.min(table.len())),
                }
                pool.check(tables.iter());
                let held: usize = tables.iter().map(|t| t.pages().len()).sum();
                prop_assert_eq!(pool.free() + held, pool.total());
            }
        }
    }
}
