//! The index by which a prefix is found again: a tree of pages of tokens.
//!
//! A node is all tokens from the start of a sequence to the end of a full page. It is found by its parent
//! and its own sixteen tokens, so a look-up hashes one page's tokens instead of all before them,
//! and since the key holds the tokens themselves no collision can give another text's keys. A node
//! lives while a page holds its tokens or another node follows it.

use std::collections::HashMap;

use super::PAGE_SIZE;
use super::pool::Pages;

/// Most tails that follow one node.
const MAX_TAILS: usize = 4;

/// All tokens from the start of a sequence to the end of a full page, as a number that was given
/// to no other tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Node(u64);

impl Node {
    /// No token.
    pub const ROOT: Self = Self(0);
}

#[derive(Debug)]
struct Known {
    parent: Node,
    tokens: [u32; PAGE_SIZE],
    /// Nodes that follow it.
    children: u32,
    /// The pages that hold its tokens.
    pages: Pages,
}

#[derive(Debug)]
struct Tail {
    parent: Node,
    tokens: Vec<u32>,
    pages: Pages,
}

/// Nodes and tails, and the pages that hold them.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_tokens: HashMap<(Node, [u32; PAGE_SIZE]), Node>,
    nodes: HashMap<Node, Known>,
    last: u64,
    /// Tails, by the page of the first group.
    tails: HashMap<u32, Tail>,
    /// The oldest first.
    tails_after: HashMap<Node, Vec<u32>>,
}

impl Index {
    /// The nodes of the full pages that `tokens` begin with, as far as there are any.
    pub fn chain(&self, tokens: &[u32]) -> Vec<Node> {
        let (full, _) = tokens.as_chunks::<PAGE_SIZE>();
        let next = |parent: &mut Node, tokens: &[u32; PAGE_SIZE]| {
            *parent = self.find(*parent, tokens)?;
            Some(*parent)
        };
        full.iter().scan(Node::ROOT, next).collect()
    }

    /// The node of `tokens` after `parent`, if there is one.
    pub fn find(&self, parent: Node, tokens: &[u32; PAGE_SIZE]) -> Option<Node> {
        self.by_tokens.get(&(parent, *tokens)).copied()
    }

    /// The node of `tokens` after `parent`, a new one if there is none. It must get a page, or be
    /// dropped.
    pub fn node(&mut self, parent: Node, tokens: &[u32; PAGE_SIZE]) -> Node {
        if let Some(node) = self.find(parent, tokens) {
            return node;
        }
        self.last += 1;
        let node = Node(self.last);
        let known = Known { parent, tokens: *tokens, children: 0, pages: Pages::default() };
        self.nodes.insert(node, known);
        self.by_tokens.insert((parent, *tokens), node);
        // Its parent may be forgotten: then nobody finds it, and it goes when its pages are wanted.
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children += 1;
        }
        node
    }

    /// The pages that hold a node's tokens; none of a node that is gone.
    pub fn pages(&self, node: Node) -> Pages {
        self.nodes.get(&node).map_or(Pages::default(), |known| known.pages)
    }

    /// Says which page of a group holds a node's tokens.
    pub fn set_page(&mut self, node: Node, group: usize, page: Option<u32>) {
        let known = self.nodes.get_mut(&node).expect("a page's node is known");
        known.pages[group] = page;
    }

    /// Drops a node without pages and followers, and then perhaps those before it.
    pub fn drop_unused(&mut self, mut node: Node) {
        while let Some(known) = self.nodes.get(&node)
            && known.children == 0
            && known.pages == Pages::default()
        {
            let parent = known.parent;
            self.by_tokens.remove(&(parent, known.tokens));
            self.nodes.remove(&node);
            if let Some(parent) = self.nodes.get_mut(&parent) {
                parent.children -= 1;
            }
            node = parent;
        }
    }

    /// Takes a node and all before it out of the index, whatever follows them, which nobody finds then.
    /// Gives the pages of each.
    pub fn remove_chain(&mut self, mut node: Node) -> Vec<Pages> {
        let mut removed = vec![];
        while let Some(known) = self.nodes.remove(&node) {
            self.by_tokens.remove(&(known.parent, known.tokens));
            if let Some(parent) = self.nodes.get_mut(&known.parent) {
                parent.children -= 1;
            }
            removed.push(known.pages);
            node = known.parent;
        }
        removed
    }

    /// Adds a tail; gives the oldest of its node when there are too many, which is to be removed.
    pub fn add_tail(
        &mut self,
        name: u32,
        pages: Pages,
        parent: Node,
        tokens: &[u32],
    ) -> Option<u32> {
        let before = self.tails.insert(name, Tail { parent, tokens: tokens.to_vec(), pages });
        assert!(before.is_none());
        let tails = self.tails_after.entry(parent).or_default();
        tails.push(name);
        (tails.len() > MAX_TAILS).then_some(tails[0])
    }

    /// The tail after `parent` that begins most like `tokens`, and how many of them it holds.
    pub fn best_tail(&self, parent: Node, tokens: &[u32]) -> Option<(u32, usize)> {
        let tails = self.tails_after.get(&parent)?;
        let alike = |name: &u32| {
            let own = self.tails[name].tokens.iter().zip(tokens);
            (own.take_while(|(a, b)| a == b).count(), *name)
        };
        let (alike, name) = tails.iter().map(alike).max()?;
        (alike > 0).then_some((name, alike))
    }

    /// The pages of a tail.
    pub fn tail_pages(&self, name: u32) -> Pages {
        self.tails[&name].pages
    }

    /// Removes a tail; gives its pages.
    pub fn remove_tail(&mut self, name: u32) -> Pages {
        let tail = self.tails.remove(&name).expect("a page's tail is known");
        let tails = self.tails_after.get_mut(&tail.parent).expect("a tail is in the index");
        tails.retain(|&other| other != name);
        if tails.is_empty() {
            self.tails_after.remove(&tail.parent);
        }
        tail.pages
    }

    /// Checks that nothing is left without use, and that `entries` pages are named.
    pub fn check(&self, entries: usize) {
        let of = |pages: &Pages| pages.iter().flatten().count();
        let nodes: usize = self.nodes.values().map(|known| of(&known.pages)).sum();
        let tails: usize = self.tails.values().map(|tail| of(&tail.pages)).sum();
        assert_eq!(nodes + tails, entries);
        assert_eq!(self.by_tokens.len(), self.nodes.len());
        let mut children: HashMap<Node, u32> = HashMap::new();
        self.nodes.values().for_each(|known| *children.entry(known.parent).or_default() += 1);
        for (node, known) in &self.nodes {
            assert_eq!(self.by_tokens[&(known.parent, known.tokens)], *node);
            assert_eq!(children.get(node).copied().unwrap_or(0), known.children);
            assert!(known.children > 0 || of(&known.pages) > 0, "{node:?} is of no use");
        }
        assert_eq!(self.tails_after.values().map(Vec::len).sum::<usize>(), self.tails.len());
    }
}
