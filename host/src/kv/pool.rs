//! Which pages are free, cached or held, and the index by which a prefix is found again.
//!
//! A full page is known by the [`Node`] of the page before it and its own sixteen tokens. Equal
//! nodes are equal prefixes, so a look-up hashes one page's tokens instead of all before them, and
//! since the key holds the tokens themselves no collision can give another text's keys. A page
//! that a finished sequence had begun is kept too, as a *tail*: one sequence can take it over.

use std::collections::{BTreeSet, HashMap};

use super::{PAGE_SIZE, PageTable};

/// Most tails that follow one node.
const MAX_TAILS: usize = 4;

/// All tokens from the start of a sequence to the end of a full page, as a number that was given
/// to no other tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node(u64);

impl Node {
    /// No token.
    pub const ROOT: Self = Self(0);
}

/// What a page holds: the tokens after a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Full { parent: Node, tokens: [u32; PAGE_SIZE] },
    Tail { parent: Node, tokens: Vec<u32> },
}

#[derive(Debug, Default)]
struct Page {
    /// Tables that have it.
    holders: u32,
    entry: Option<Entry>,
    /// When the last holder left it.
    left: u64,
}

/// The page numbers `0..total`, who has them, and what is known of them.
#[derive(Debug)]
pub struct PagePool {
    pages: Vec<Page>,
    /// Free pages; the last is handed out next, so that warm memory is used again first.
    free: Vec<u32>,
    /// Pages with an entry that nobody holds, by the time they were left. What follows a page is
    /// always left before it, and so goes first.
    cached: BTreeSet<(u64, u32)>,
    full: HashMap<(Node, [u32; PAGE_SIZE]), (u32, Node)>,
    /// The oldest first.
    tails: HashMap<Node, Vec<u32>>,
    last_node: u64,
    clock: u64,
}

impl PagePool {
    /// A pool of `total` free pages.
    pub fn new(total: u32) -> Self {
        Self {
            pages: (0..total).map(|_| Page::default()).collect(),
            free: (0..total).rev().collect(),
            cached: BTreeSet::new(),
            full: HashMap::new(),
            tails: HashMap::new(),
            last_node: 0,
            clock: 0,
        }
    }

    /// Pages in all.
    pub fn total(&self) -> usize {
        self.pages.len()
    }
    /// Pages that hold nothing of use.
    pub fn free(&self) -> usize {
        self.free.len()
    }
    /// Pages that nobody holds and whose tokens are known.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }
    /// Pages that can be had.
    pub fn available(&self) -> usize {
        self.free() + self.cached()
    }
    /// Pages that sequences hold.
    pub fn held(&self) -> usize {
        self.total() - self.available()
    }

    /// A page for one holder: a free one, else the cached one left first.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let &(_, page) = self.cached.first()?;
            self.forget(page);
        }
        let page = self.free.pop()?;
        self.pages[page as usize].holders = 1;
        Some(page)
    }

    /// One holder more.
    fn hold(&mut self, page: u32) {
        let held = &mut self.pages[page as usize];
        if held.holders == 0 {
            assert!(self.cached.remove(&(held.left, page)));
        }
        held.holders += 1;
    }

    /// One holder less; the last one leaves it cached, or free when nothing is known of it.
    pub(super) fn release(&mut self, page: u32) {
        let held = &mut self.pages[page as usize];
        assert!(held.holders > 0);
        held.holders -= 1;
        if held.holders > 0 {
            return;
        }
        if held.entry.is_none() {
            self.free.push(page);
            return;
        }
        self.clock += 1;
        held.left = self.clock;
        self.cached.insert((self.clock, page));
    }

    /// The full page of `tokens` after `parent`, held once more.
    pub(super) fn find(&mut self, parent: Node, tokens: &[u32; PAGE_SIZE]) -> Option<(u32, Node)> {
        let &(page, node) = self.full.get(&(parent, *tokens))?;
        self.hold(page);
        Some((page, node))
    }

    /// Says that `page`, which one table holds, is full with `tokens` after `parent`. Gives the page
    /// to hold instead: another one when these tokens are known already.
    pub(super) fn add(
        &mut self,
        page: u32,
        parent: Node,
        tokens: &[u32; PAGE_SIZE],
    ) -> (u32, Node) {
        if let Some(known) = self.find(parent, tokens) {
            self.release(page);
            return known;
        }
        let own = &mut self.pages[page as usize];
        assert!(own.holders == 1 && own.entry.is_none());
        own.entry = Some(Entry::Full { parent, tokens: *tokens });
        self.last_node += 1;
        let node = Node(self.last_node);
        self.full.insert((parent, *tokens), (page, node));
        (page, node)
    }

    /// Says that `page`, whose one holder is about to leave it, begins with `tokens` after
    /// `parent`.
    pub(super) fn add_tail(&mut self, page: u32, parent: Node, tokens: &[u32]) {
        let own = &mut self.pages[page as usize];
        assert!(own.holders == 1 && own.entry.is_none());
        assert!((1..PAGE_SIZE).contains(&tokens.len()));
        own.entry = Some(Entry::Tail { parent, tokens: tokens.to_vec() });
        let tails = self.tails.entry(parent).or_default();
        tails.push(page);
        if tails.len() > MAX_TAILS {
            let oldest = tails[0];
            self.forget(oldest);
        }
    }

    /// Takes the tail after `parent` that begins most like `tokens`, and how many of them it holds.
    pub(super) fn take_tail(&mut self, parent: Node, tokens: &[u32]) -> Option<(u32, usize)> {
        let tails = self.tails.get(&parent)?;
        let (alike, page) = tails.iter().map(|&page| (self.alike(page, tokens), page)).max()?;
        if alike == 0 {
            return None;
        }
        self.hold(page);
        self.forget(page);
        Some((page, alike))
    }

    /// How many tokens of a tail are the first of `tokens`.
    fn alike(&self, page: u32, tokens: &[u32]) -> usize {
        match &self.pages[page as usize].entry {
            Some(Entry::Tail { tokens: own, .. }) => {
                own.iter().zip(tokens).take_while(|(a, b)| a == b).count()
            }
            _ => 0,
        }
    }

    /// Takes a page out of the index; it is free then, or when its holders leave it.
    pub(super) fn forget(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        match own.entry.take() {
            Some(Entry::Full { parent, tokens }) => {
                self.full.remove(&(parent, tokens));
            }
            Some(Entry::Tail { parent, .. }) => {
                let tails = self.tails.get_mut(&parent).expect("an entry is in the index");
                tails.retain(|&tail| tail != page);
                if tails.is_empty() {
                    self.tails.remove(&parent);
                }
            }
            None => return,
        }
        if own.holders == 0 {
            assert!(self.cached.remove(&(own.left, page)));
            self.free.push(page);
        }
    }

    /// Checks that each page is free, cached or held, held as often as it is in `tables`, and that
    /// the index names what the pages hold.
    ///
    /// # Panics
    /// When it is not: our own bug.
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a PageTable>) {
        let mut holders = vec![0; self.total()];
        tables.flat_map(PageTable::pages).for_each(|&page| holders[page as usize] += 1);
        let mut free = vec![false; self.total()];
        for &page in &self.free {
            assert!(
                !std::mem::replace(&mut free[page as usize], true),
                "page {page} is free twice"
            );
        }
        let mut held = 0;
        for (number, page) in self.pages.iter().enumerate() {
            let at = (page.left, number as u32);
            assert_eq!(page.holders, holders[number], "holders of page {number}");
            let is_cached = page.holders == 0 && page.entry.is_some();
            assert_eq!(self.cached.contains(&at), is_cached, "page {number}");
            let is_free = page.holders == 0 && page.entry.is_none();
            assert_eq!(free[number], is_free, "page {number} is neither free, cached nor held");
            held += usize::from(page.holders > 0);
            match &page.entry {
                Some(Entry::Full { parent, tokens }) => {
                    let known = self.full.get(&(*parent, *tokens));
                    assert_eq!(known.map(|known| known.0), Some(number as u32));
                }
                Some(Entry::Tail { parent, .. }) => {
                    assert!(page.holders == 0, "tail {number} is held");
                    assert!(self.tails[parent].contains(&(number as u32)));
                }
                None => {}
            }
        }
        assert_eq!(self.free() + self.cached() + held, self.total());
        let entries = self.pages.iter().filter(|page| page.entry.is_some()).count();
        let tails: usize = self.tails.values().map(Vec::len).sum();
        assert_eq!(self.full.len() + tails, entries);
    }
}
