//! The pages of one sequence.

use super::index::Node;
use super::pool::Pages;
use super::{MAX_GROUPS, PAGE_SIZE, PageMove, PagePlace, PagePool, PagesExhausted, pages_for};

/// The pages of one sequence, and how many of its tokens have keys and values in them.
///
/// ```text
/// [0, 16 · first) before the window of a group that has one: given back
/// [.., 16 · known) others may have these pages, too: never written again
/// [16 · known, len) computed, the sequence's own
/// [len, 16 · pages) room for the next step
/// ```
///
/// Dropping a table does not return its pages, since it does not know its pool: call
/// [`PageTable::release`] or [`PageTable::retire`].
#[derive(Debug, Default)]
pub struct PageTable {
    groups: [Held; MAX_GROUPS],
    len: usize,
    /// Full pages that are in the pool's index, the first ones.
    known: usize,
    /// Of the last of them.
    node: Node,
}

/// The pages of a group.
#[derive(Debug, Default)]
struct Held {
    /// In the order of the positions they hold; those before `first` are anybody's.
    pages: Vec<u32>,
    /// The first that is held.
    first: usize,
}

impl PageTable {
    /// The pages of a group, in the order of the positions they hold. Those before its window may be
    /// anybody's by now.
    pub fn pages(&self, group: usize) -> &[u32] {
        &self.groups[group].pages
    }
    /// The pages of a group that it holds.
    pub fn held(&self, group: usize) -> impl Iterator<Item = u32> {
        let Held { pages, first } = &self.groups[group];
        pages[*first..].iter().copied()
    }
    /// Tokens whose keys and values are in the pages, or were before they left the window.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether no token is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Whether it holds no page.
    pub fn holds_nothing(&self) -> bool {
        self.groups.iter().all(|held| held.pages.is_empty())
    }

    /// Takes over the cached pages that hold the first of `tokens`. The table must be empty.
    pub fn adopt(&mut self, pool: &mut PagePool, tokens: &[u32]) {
        assert!(self.holds_nothing());
        let nodes = pool.known(tokens);
        self.known = nodes.len();
        self.node = nodes.last().copied().unwrap_or(Node::ROOT);
        self.len = self.known * PAGE_SIZE;
        for group in 0..pool.groups().len() {
            let first = pool.groups()[group].first_page(self.len).min(self.known);
            let held = &mut self.groups[group];
            held.first = first;
            held.pages.resize(first, 0);
            held.pages.extend(nodes[first..].iter().map(|&node| pool.hold_known(group, node)));
        }
        if let Some((pages, alike)) = pool.take_tail(self.node, &tokens[self.len..]) {
            for (held, page) in self.groups.iter_mut().zip(pages) {
                held.pages.extend(page);
            }
            self.len += alike;
        }
    }

    /// What of `tokens`, the sequence's, is worth copying from a page that `other` holds: how many
    /// tokens after the full pages taken over are the same and computed there, or 0.
    pub fn alike(&self, pool: &PagePool, tokens: &[u32], other: &Self, others: &[u32]) -> usize {
        let first = self.known * PAGE_SIZE;
        // A page that both hold has the same tokens before it, too.
        let last = |table: &Self| table.held_at(self.known - 1)[0];
        let same = self.known == 0 || (last(self).is_some() && last(self) == last(other));
        if self.len != first || !same || !other.holds(pool, first) {
            return 0;
        }
        let end = other.len.min(first + PAGE_SIZE - 1).min(tokens.len());
        let both = tokens[first..end.max(first)].iter().zip(&others[first..]);
        both.take_while(|(a, b)| a == b).count()
    }

    /// Begins the page after the full ones that were taken over, for the first `tokens` of those that
    /// another table holds there, and says what is to be copied.
    ///
    /// # Errors
    /// `PagesExhausted`; nothing was changed.
    pub fn fork(
        &mut self,
        pool: &mut PagePool,
        other: &Self,
        tokens: usize,
    ) -> Result<Vec<PageMove>, PagesExhausted> {
        assert!(other.len >= self.len + tokens);
        self.begin_copy(pool, other.held_at(self.known), tokens)
    }

    /// The same from a full page that is known to hold the rest of `tokens`, of which one more is to be
    /// computed.
    ///
    /// # Errors
    /// `PagesExhausted`; nothing was changed.
    pub fn fork_known(
        &mut self,
        pool: &mut PagePool,
        tokens: &[u32],
    ) -> Result<Vec<PageMove>, PagesExhausted> {
        if self.len != self.known * PAGE_SIZE {
            return Ok(vec![]);
        }
        let rest = <&[u32; PAGE_SIZE]>::try_from(&tokens[self.len..]);
        match rest.ok().and_then(|rest| pool.full_after(self.node, rest)) {
            // It may be taken for another in this step: it is copied before.
            Some(pages) => self.begin_copy(pool, pages, PAGE_SIZE - 1),
            None => Ok(vec![]),
        }
    }

    fn begin_copy(
        &mut self,
        pool: &mut PagePool,
        from: Pages,
        tokens: usize,
    ) -> Result<Vec<PageMove>, PagesExhausted> {
        assert!(self.len == self.known * PAGE_SIZE && (1..PAGE_SIZE).contains(&tokens));
        self.reserve(pool, self.len + tokens)?;
        self.len += tokens;
        let to = self.held_at(self.known);
        let pages = from.into_iter().zip(to).enumerate();
        let copy = |(group, (from, to)): (usize, (Option<u32>, Option<u32>))| {
            let (from, to) = (PagePlace::Pool(from?), PagePlace::Pool(to?));
            Some(PageMove { group, from, to })
        };
        // A cached page may have become this table's own.
        Ok(pages.filter_map(copy).filter(|one| one.from != one.to).collect())
    }

    /// Takes pages for what was computed up to `len` tokens, more than it has, and is to be copied there;
    /// of each group the pages before `starts` are not wanted any more.
    ///
    /// # Errors
    /// `PagesExhausted`; nothing was changed.
    pub fn resume(
        &mut self,
        pool: &mut PagePool,
        len: usize,
        starts: [usize; MAX_GROUPS],
    ) -> Result<(), PagesExhausted> {
        assert!(len > self.len);
        self.check_room(pool, len, starts)?;
        for (group, &start) in starts.iter().enumerate().take(pool.groups().len()) {
            self.give_back_before(pool, group, start);
            let Held { pages, first } = &mut self.groups[group];
            *first = start.max(*first);
            pages.resize(pages.len().max(*first), 0);
        }
        self.reserve(pool, len)?;
        self.len = len;
        Ok(())
    }

    /// Whether the page that position `position` lies in is held, in all groups.
    pub fn holds(&self, pool: &PagePool, position: usize) -> bool {
        let page = position / PAGE_SIZE;
        let mut groups = self.groups[..pool.groups().len()].iter();
        groups.all(|held| (held.first..held.pages.len()).contains(&page))
    }

    /// Takes pages until there is room for `tokens` tokens; does nothing when there is.
    ///
    /// # Errors
    /// `PagesExhausted`; nothing was changed.
    pub fn reserve(&mut self, pool: &mut PagePool, tokens: usize) -> Result<(), PagesExhausted> {
        self.check_room(pool, tokens, [0; MAX_GROUPS])?;
        for group in 0..pool.groups().len() {
            let pages = &mut self.groups[group].pages;
            let wanted = pages_for(tokens).saturating_sub(pages.len());
            pages.extend((0..wanted).map_while(|_| pool.take(group)));
        }
        Ok(())
    }

    /// Whether the pool has the pages that are missing for `tokens` tokens, of each group from `starts` on.
    fn check_room(
        &self,
        pool: &PagePool,
        tokens: usize,
        starts: [usize; MAX_GROUPS],
    ) -> Result<(), PagesExhausted> {
        for (group, &start) in starts.iter().enumerate().take(pool.groups().len()) {
            let there = self.groups[group].pages.len().max(start);
            let (wanted, available) =
                (pages_for(tokens).saturating_sub(there), pool.available(group));
            if wanted > available {
                return Err(PagesExhausted { wanted, available });
            }
        }
        Ok(())
    }

    /// Gives back the pages of a group that it holds before an index.
    fn give_back_before(&mut self, pool: &mut PagePool, group: usize, index: usize) {
        let Held { pages, first } = &mut self.groups[group];
        let index = index.min(pages.len()).max(*first);
        pages[*first..index].iter().for_each(|&page| pool.release(group, page));
        *first = index;
    }

    /// Says that `tokens` more tokens were computed into reserved pages.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.groups[0].pages.len() * PAGE_SIZE);
    }

    /// Makes the full pages known to others; `tokens` are the sequence's. Where the same was
    /// computed twice, the page that is known already takes the place of this one.
    pub fn share(&mut self, pool: &mut PagePool, tokens: &[u32]) {
        let (full, _) = tokens[..self.len].as_chunks::<PAGE_SIZE>();
        for (i, tokens) in full.iter().enumerate().skip(self.known) {
            let mut pages = self.held_at(i);
            self.node = pool.add(&mut pages, self.node, tokens);
            for (held, page) in self.groups.iter_mut().zip(pages) {
                page.into_iter().for_each(|page| held.pages[i] = page);
            }
        }
        self.known = full.len();
    }

    /// The pages at an index, of groups that hold one there.
    fn held_at(&self, index: usize) -> Pages {
        self.groups
            .each_ref()
            .map(|Held { pages, first }| pages.get(index).copied().filter(|_| index >= *first))
    }

    /// Gives back the pages that no token from here on sees.
    pub fn leave_window(&mut self, pool: &mut PagePool) {
        for group in 0..pool.groups().len() {
            let first = pool.groups()[group].first_page(self.len);
            self.give_back_before(pool, group, first);
        }
    }

    /// Returns all pages, and leaves in the cache what holds `tokens`, the sequence's.
    pub fn retire(&mut self, pool: &mut PagePool, tokens: &[u32]) {
        self.share(pool, tokens);
        let tail = &tokens[self.known * PAGE_SIZE..self.len];
        if !tail.is_empty() {
            pool.add_tail(&self.held_at(self.known), self.node, tail);
        }
        self.release(pool);
    }

    /// Returns all pages, the last first. Those that are known stay cached.
    pub fn release(&mut self, pool: &mut PagePool) {
        for (group, held) in self.groups.iter().enumerate() {
            held.pages[held.first..].iter().rev().for_each(|&page| pool.release(group, page));
        }
        *self = Self::default();
    }

    /// Returns all pages, and nobody finds any of them again, nor those that left a window: what they
    /// hold is doubtful.
    pub fn forget(&mut self, pool: &mut PagePool) {
        pool.forget_chain(self.node);
        self.release(pool);
    }
}
