//! Which pages are free, cached or held.
//!
//! A full page is known by the [`Node`] of its tokens, which [`super::index`] gives. A page that a
//! finished sequence had begun is kept too, with those of the other groups, as a *tail*: one sequence
//! can take it over.

use std::collections::BTreeSet;

use super::index::{Index, Node};
use super::{MAX_GROUPS, PAGE_SIZE, PageGroup, PageTable};

/// A page of each group, where there is one.
pub(super) type Pages = [Option<u32>; MAX_GROUPS];

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// It is full.
    Full(Node),
    /// It is begun; the tail is known by its page in the first group.
    Tail(u32),
}

#[derive(Debug, Default)]
struct Page {
    /// Tables that have it.
    holders: u32,
    entry: Option<Entry>,
    /// When the last holder left it.
    left: u64,
}

/// The page numbers `0..pages` of a group.
#[derive(Debug)]
struct Group {
    pages: Vec<Page>,
    /// Free pages; the last is handed out next, so that warm memory is used again first.
    free: Vec<u32>,
    /// Pages with an entry that nobody holds, by the time they were left. What follows a page is left
    /// before it, and so goes first, but where a window moved on.
    cached: BTreeSet<(u64, u32)>,
}

/// The pages of all groups, who has them, and what is known of them.
#[derive(Debug)]
pub struct PagePool {
    shapes: Vec<PageGroup>,
    groups: Vec<Group>,
    index: Index,
    clock: u64,
}

impl PagePool {
    /// A pool of free pages. If there is a group without a window, it is the first.
    pub fn new(shapes: Vec<PageGroup>) -> Self {
        assert!((1..=MAX_GROUPS).contains(&shapes.len()));
        assert!(shapes[1..].iter().all(|group| group.window.is_some()));
        let group = |shape: &PageGroup| {
            let total = u32::try_from(shape.pages).expect("the planner bounds them");
            Group {
                pages: (0..total).map(|_| Page::default()).collect(),
                free: (0..total).rev().collect(),
                cached: BTreeSet::new(),
            }
        };
        let groups = shapes.iter().map(group).collect();
        Self { shapes, groups, index: Index::default(), clock: 0 }
    }

    /// The groups, as they were given.
    pub fn groups(&self) -> &[PageGroup] {
        &self.shapes
    }

    fn sum(&self, of: impl Fn(&Group) -> usize) -> usize {
        self.groups.iter().map(of).sum()
    }

    /// Pages in all.
    pub fn total(&self) -> usize {
        self.sum(|group| group.pages.len())
    }
    /// Pages that hold nothing of use.
    pub fn free(&self) -> usize {
        self.sum(|group| group.free.len())
    }
    /// Pages that nobody holds and whose tokens are known.
    pub fn cached(&self) -> usize {
        self.sum(|group| group.cached.len())
    }
    /// Pages that sequences hold.
    pub fn held(&self) -> usize {
        self.total() - self.free() - self.cached()
    }
    /// Pages of a group that can be had.
    pub fn available(&self, group: usize) -> usize {
        self.groups[group].free.len() + self.groups[group].cached.len()
    }

    fn page(&mut self, group: usize, page: u32) -> &mut Page {
        &mut self.groups[group].pages[page as usize]
    }

    /// A page for one holder: a free one, else the cached one left first.
    pub(super) fn take(&mut self, group: usize) -> Option<u32> {
        if self.groups[group].free.is_empty() {
            let &(_, page) = self.groups[group].cached.first()?;
            self.forget(group, page);
        }
        let page = self.groups[group].free.pop()?;
        self.page(group, page).holders = 1;
        Some(page)
    }

    /// One holder more.
    fn hold(&mut self, group: usize, page: u32) {
        let Group { pages, cached, .. } = &mut self.groups[group];
        let held = &mut pages[page as usize];
        if held.holders == 0 {
            assert!(cached.remove(&(held.left, page)));
        }
        held.holders += 1;
    }

    /// One holder less; the last one leaves it cached, or free when nothing is known of it.
    pub(super) fn release(&mut self, group: usize, page: u32) {
        self.clock += 1;
        let clock = self.clock;
        let Group { pages, cached, free } = &mut self.groups[group];
        let held = &mut pages[page as usize];
        assert!(held.holders > 0);
        held.holders -= 1;
        if held.holders > 0 {
            return;
        }
        if held.entry.is_none() {
            free.push(page);
            return;
        }
        held.left = clock;
        cached.insert((clock, page));
    }

    /// The nodes of the full pages that `tokens` begin with and of which all pages are known that a
    /// sequence needs to go on after them.
    pub(super) fn known(&self, tokens: &[u32]) -> Vec<Node> {
        let mut chain = self.index.chain(tokens);
        let mut usable = 0;
        // How many of the last pages in a row each group has.
        let mut runs = [0; MAX_GROUPS];
        for (i, &node) in chain.iter().enumerate() {
            let pages = self.index.pages(node);
            let len = i + 1;
            let mut complete = true;
            for (group, shape) in self.shapes.iter().enumerate() {
                runs[group] = if pages[group].is_some() { runs[group] + 1 } else { 0 };
                complete &= runs[group] >= len.saturating_sub(shape.first_page(len * PAGE_SIZE));
            }
            if complete {
                usable = len;
            }
        }
        chain.truncate(usable);
        chain
    }

    /// The full page of a node in a group that has it, held once more.
    pub(super) fn hold_known(&mut self, group: usize, node: Node) -> u32 {
        let page = self.index.pages(node)[group].expect("`known` found it");
        self.hold(group, page);
        page
    }

    /// Says that `pages`, which one table holds, are full with `tokens` after `parent`. Gives their
    /// node, and puts others in their place that are known to hold the same already.
    pub(super) fn add(
        &mut self,
        pages: &mut Pages,
        parent: Node,
        tokens: &[u32; PAGE_SIZE],
    ) -> Node {
        let node = self.index.node(parent, tokens);
        for (group, own) in pages.iter_mut().enumerate() {
            let Some(page) = own else { continue };
            match self.index.pages(node)[group] {
                Some(known) => {
                    self.hold(group, known);
                    self.release(group, *page);
                    *page = known;
                }
                None => {
                    self.index.set_page(node, group, Some(*page));
                    let own = self.page(group, *page);
                    assert!(own.holders == 1 && own.entry.is_none());
                    own.entry = Some(Entry::Full(node));
                }
            }
        }
        self.index.drop_unused(node);
        node
    }

    /// Says that `pages`, one of each group, whose one holder is about to leave them, begin with
    /// `tokens` after `parent`.
    pub(super) fn add_tail(&mut self, pages: &Pages, parent: Node, tokens: &[u32]) {
        assert!((1..PAGE_SIZE).contains(&tokens.len()));
        let name = pages[0].expect("a page of each group");
        for (group, page) in pages.iter().enumerate().filter_map(|(g, page)| Some((g, (*page)?))) {
            let own = self.page(group, page);
            assert!(own.holders == 1 && own.entry.is_none());
            own.entry = Some(Entry::Tail(name));
        }
        if let Some(oldest) = self.index.add_tail(name, *pages, parent, tokens) {
            self.forget(0, oldest);
        }
    }

    /// Takes the tail after `parent` that begins most like `tokens`, and how many of them it holds.
    pub(super) fn take_tail(&mut self, parent: Node, tokens: &[u32]) -> Option<(Pages, usize)> {
        let (name, alike) = self.index.best_tail(parent, tokens)?;
        let pages = self.index.tail_pages(name);
        for (group, page) in pages.iter().enumerate().filter_map(|(g, page)| Some((g, (*page)?))) {
            self.hold(group, page);
        }
        self.forget(0, name);
        Some((pages, alike))
    }

    /// Takes a page out of the index, with the others of its tail; it is free then, or when its
    /// holders leave it.
    pub(super) fn forget(&mut self, group: usize, page: u32) {
        match self.page(group, page).entry {
            Some(Entry::Full(node)) => {
                self.index.set_page(node, group, None);
                self.index.drop_unused(node);
                self.without_entry(group, page);
            }
            Some(Entry::Tail(name)) => {
                let pages = self.index.remove_tail(name);
                for (group, page) in pages.into_iter().enumerate() {
                    page.into_iter().for_each(|page| self.without_entry(group, page));
                }
            }
            None => {}
        }
    }

    /// Forgets a node and all before it, in all groups, whoever holds their pages; what follows them is
    /// not found any more.
    pub(super) fn forget_chain(&mut self, node: Node) {
        for pages in self.index.remove_chain(node) {
            for (group, page) in pages.into_iter().enumerate() {
                page.into_iter().for_each(|page| self.without_entry(group, page));
            }
        }
    }

    /// The page of each group that is full with `tokens` after `parent`, if there is one in all.
    pub(super) fn full_after(&self, parent: Node, tokens: &[u32; PAGE_SIZE]) -> Option<Pages> {
        let pages = self.index.pages(self.index.find(parent, tokens)?);
        let has_all = pages[..self.groups.len()].iter().all(Option::is_some);
        has_all.then_some(pages)
    }

    /// Says that nothing is known of a page.
    fn without_entry(&mut self, group: usize, page: u32) {
        let Group { pages, cached, free } = &mut self.groups[group];
        let own = &mut pages[page as usize];
        own.entry = None;
        if own.holders == 0 {
            assert!(cached.remove(&(own.left, page)));
            free.push(page);
        }
    }

    /// Checks that each page is free, cached or held, held as often as it is in `tables`, and that
    /// the index names what the pages hold.
    ///
    /// # Panics
    /// When it is not: our own bug.
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a PageTable> + Clone) {
        for (number, group) in self.groups.iter().enumerate() {
            let mut holders = vec![0; group.pages.len()];
            let held = tables.clone().flat_map(|table| table.held(number));
            held.for_each(|page| holders[page as usize] += 1);
            self.check_group(number, &holders);
        }
        let entries = |group: &Group| group.pages.iter().filter(|p| p.entry.is_some()).count();
        self.index.check(self.sum(entries));
    }

    fn check_group(&self, number: usize, holders: &[u32]) {
        let group = &self.groups[number];
        let mut free = vec![false; group.pages.len()];
        for &page in &group.free {
            let before = std::mem::replace(&mut free[page as usize], true);
            assert!(!before, "page {page} is free twice");
        }
        let mut cached = 0;
        for (page, own) in (0..).zip(&group.pages) {
            assert_eq!(own.holders, holders[page as usize], "holders of page {page}");
            let is_cached = own.holders == 0 && own.entry.is_some();
            assert_eq!(group.cached.contains(&(own.left, page)), is_cached, "page {page}");
            let is_free = own.holders == 0 && own.entry.is_none();
            let is_listed = free[page as usize];
            assert_eq!(is_listed, is_free, "page {page} is neither free, cached nor held");
            cached += usize::from(is_cached);
            let pages = match own.entry {
                Some(Entry::Full(node)) => self.index.pages(node),
                Some(Entry::Tail(name)) => {
                    assert!(own.holders == 0, "tail {page} is held");
                    self.index.tail_pages(name)
                }
                None => continue,
            };
            assert_eq!(pages[number], Some(page));
        }
        assert_eq!(cached, group.cached.len());
    }
}
