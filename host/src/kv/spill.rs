//! Room on the host for the pages of sequences that wait.
//!
//! A sequence that gave its pages back is computed again, or its keys and values come back from
//! here, where that is cheaper. Slots are handed out as page numbers are.

use super::{MAX_GROUPS, PageGroup, PageMove, PagePlace, PagePool, PageTable, PagesExhausted};
use super::{PAGE_SIZE, pages_for};

/// The slots `0..slots` of each group, and which are free.
#[derive(Debug)]
pub struct Spill {
    slots: usize,
    free: [Vec<u32>; MAX_GROUPS],
}

/// Where the pages of a sequence went. It must be loaded or discarded: it does not know its slots'
/// owner.
#[derive(Debug)]
pub struct Saved {
    /// Tokens whose keys and values there are.
    len: usize,
    /// Of each group, the first page that was held, and the slots from it on.
    groups: [(usize, Vec<u32>); MAX_GROUPS],
}

impl Spill {
    /// So many free slots for each group.
    pub fn new(slots: usize) -> Self {
        let total = u32::try_from(slots).expect("the planner bounds them");
        Self { slots, free: std::array::from_fn(|_| (0..total).rev().collect()) }
    }

    /// Takes slots for all that a table holds of its tokens, and says what is to be copied there before
    /// its pages are written by others; `None` when there is nothing, or no room.
    pub fn save(
        &mut self,
        groups: &[PageGroup],
        table: &PageTable,
    ) -> Option<(Saved, Vec<PageMove>)> {
        let len = table.len();
        let mut pages: [Vec<u32>; MAX_GROUPS] = Default::default();
        for (group, pages) in pages.iter_mut().enumerate().take(groups.len()) {
            let beyond = table.pages(group).len() - pages_for(len); // room for the next step
            *pages = table.held(group).collect();
            pages.truncate(pages.len().saturating_sub(beyond));
        }
        let fits = pages.iter().zip(&self.free).all(|(pages, free)| pages.len() <= free.len());
        if len == 0 || !fits {
            return None;
        }
        let mut moves = vec![];
        let groups = std::array::from_fn(|group| {
            let (pages, free) = (&pages[group], &mut self.free[group]);
            let mut slots = free.split_off(free.len() - pages.len());
            slots.reverse(); // mostly in order then, as the pages are: runs are copied at once
            moves.extend(pages.iter().zip(&slots).map(|(&page, &slot)| {
                let (from, to) = (PagePlace::Pool(page), PagePlace::Host(slot));
                PageMove { group, from, to }
            }));
            (pages_for(len) - pages.len(), slots)
        });
        Some((Saved { len, groups }, moves))
    }

    /// Gives a table pages for what was saved beyond its own tokens, and says what is to be copied
    /// there before it is computed with. The slots are free afterwards.
    ///
    /// # Errors
    /// `PagesExhausted`; then nothing was changed but the slots.
    pub fn load(
        &mut self,
        saved: Saved,
        table: &mut PageTable,
        pool: &mut PagePool,
    ) -> Result<Vec<PageMove>, PagesExhausted> {
        let (first, has_more) = (table.len() / PAGE_SIZE, saved.len > table.len());
        let starts = saved.groups.each_ref().map(|(first, _)| *first);
        let resumed = if has_more { table.resume(pool, saved.len, starts) } else { Ok(()) };
        let mut moves = vec![];
        if has_more && resumed.is_ok() {
            for group in 0..pool.groups().len() {
                let (start, slots) = &saved.groups[group];
                let pages = table.pages(group);
                let missing = (*start..).zip(slots).filter(|&(page, _)| page >= first);
                moves.extend(missing.map(|(page, &slot)| {
                    let (from, to) = (PagePlace::Host(slot), PagePlace::Pool(pages[page]));
                    PageMove { group, from, to }
                }));
            }
        }
        self.discard(saved);
        resumed.map(|()| moves)
    }

    /// Frees the slots of what nobody wants any more.
    pub fn discard(&mut self, saved: Saved) {
        for (free, (_, slots)) in self.free.iter_mut().zip(saved.groups) {
            free.extend(slots.into_iter().rev());
        }
    }

    /// Checks that each slot is free or in one of `saved`.
    ///
    /// # Panics
    /// When it is not: our own bug.
    pub fn check<'a>(&self, saved: impl Iterator<Item = &'a Saved> + Clone) {
        for (group, free) in self.free.iter().enumerate() {
            let mut all = free.clone();
            all.extend(saved.clone().flat_map(|saved| &saved.groups[group].1));
            all.sort_unstable();
            assert!(all.into_iter().eq(0..self.slots as u32), "slots of group {group}");
        }
    }
}
