//! Finds the wildcard filters that may match a subject: a trie over token hashes.
//!
//! A filter is a path of symbols: one per token (a literal token's hash, or `*`), then `>` or the end. A
//! node stands for a path that at least one filter takes. A node that a single filter takes is a leaf and
//! has nothing below it; a node that more take is inner and has an id. So a filter's path is stored only as
//! far as it is shared with another, and the shape depends on the set of filters alone, not on its history.
//! All nodes lie in one hash table under (id of the parent, symbol): one probe per step, no pointers.
//!
//! Tokens are known by their hash. Two tokens with equal hashes under one parent share a node, which is
//! harmless: what comes out are candidates, and the caller compares their text. Two filters whose whole
//! paths are equal cannot both be leaves; the later one goes to a list that every match walks. With 62 bits
//! per token that list stays empty unless somebody knows the seed.
//!
//! Bound. A match visits a node at most once, with at most three probes, and only nodes whose path matches
//! the subject's beginning: never more than 2^depth, and never more than the tokens of all wildcard filters
//! together, which an account has paid for by subscribing. No input makes it exponential, none makes it
//! recurse, and it waits on nothing but the two scratch lists, whose length is the depth of the trie.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

use super::growing_table::{Bucket, GrowingTable};

/// The id of the node that every path starts from. It is not in the table and always inner.
const ROOT: u32 = 0;

/// Entries of scratch space kept between matches; 32 subjects' worth of usual depth.
const SCRATCH_KEPT_MAX: usize = 256;

/// Two bits of a symbol tell its kind, so that no token's hash is taken for a wildcard. They are none of
/// the bits that choose a bucket.
const KIND_MASK: u64 = 3 << 54;

/// A literal token (kind 0, the rest is its hash), `*`, a final `>`, or the end of the filter.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Symbol(u64);

const STAR: Symbol = Symbol(1 << 54);
const TAIL: Symbol = Symbol(2 << 54);
const END: Symbol = Symbol(3 << 54);

#[derive(Clone, Copy)]
struct Node {
    symbol: Symbol,
    parent: u32,
    /// Inner: what its children name as parent. Leaf: unused.
    id: u32,
    /// How many filters take this path. 1: a leaf.
    filter_count: u32,
    /// The exclusive or of those filters' entries, so that the last one left is known by itself.
    entries_xor: u32,
    /// Inner: how many of them go on with `*`, and with `>`. Spares probes that would find nothing.
    star_count: u32,
    tail_count: u32,
}

impl Bucket for Node {
    fn hash(&self) -> u64 {
        node_hash(self.parent, self.symbol)
    }
}

#[inline]
fn node_hash(parent: u32, symbol: Symbol) -> u64 {
    // The symbol is already a keyed hash, or one of three constants: it only has to be mixed with the id.
    let left = symbol.0 ^ 0x2d35_8dcc_aa6c_78a5;
    let right = u64::from(parent).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x8bb8_4b93_962e_acc9;
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

pub struct WildcardIndex {
    nodes: GrowingTable<Node>,
    /// Filters in the trie, and how many of them begin with `*` and with `>`.
    filter_count: u32,
    star_count: u32,
    tail_count: u32,
    /// Ids below this were given out; those in `ids_free` are not in use.
    id_next: u32,
    ids_free: Vec<u32>,
    /// Entries whose whole path equals that of a filter in the trie.
    collided: Vec<u32>,
    hasher: TokenHasher,
    /// Kept so that a match allocates nothing.
    scratch: Cell<Scratch>,
}

#[derive(Default)]
struct Scratch {
    /// The subject's tokens, hashed as far as the walk has come.
    symbols: Vec<Symbol>,
    /// Inner nodes found and not yet visited.
    pending: Vec<Pending>,
}

struct Pending {
    id: u32,
    depth: u32,
    has_stars: bool,
    has_tails: bool,
    /// Filters that go on with a literal token, or end here.
    has_others: bool,
}

impl Pending {
    fn new(id: u32, depth: u32, filter_count: u32, star_count: u32, tail_count: u32) -> Pending {
        Pending {
            id,
            depth,
            has_stars: star_count > 0,
            has_tails: tail_count > 0,
            has_others: filter_count > star_count + tail_count,
        }
    }
}

#[derive(Clone)]
struct TokenHasher {
    state: SeedableRandomState,
    /// All ones but in tests that want collisions.
    hash_mask: u64,
}

impl TokenHasher {
    #[inline]
    fn literal(&self, token: &[u8]) -> Symbol {
        let mut hasher = self.state.build_hasher();
        hasher.write(token);
        Symbol(hasher.finish() & self.hash_mask & !KIND_MASK)
    }
}

/// The path of a filter, its last symbol being TAIL or END.
#[derive(Clone)]
struct Path<'a> {
    hasher: &'a TokenHasher,
    /// `None` once the last token was given.
    rest: Option<&'a [u8]>,
}

impl<'a> Path<'a> {
    fn new(hasher: &'a TokenHasher, filter: &'a [u8]) -> Path<'a> {
        Path { hasher, rest: Some(filter) }
    }

    /// The next symbol. Not to be called after TAIL or END.
    fn step(&mut self) -> Symbol {
        let Some(rest) = self.rest else { return END };
        let (token, rest) = split_token(rest);
        self.rest = rest;
        match token {
            b"*" => STAR,
            b">" if rest.is_none() => TAIL,
            _ => self.hasher.literal(token),
        }
    }
}

/// The first token and what follows its dot.
#[inline]
fn split_token(rest: &[u8]) -> (&[u8], Option<&[u8]>) {
    // Tokens are short: a plain loop beats a call.
    match rest.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
        None => (rest, None),
    }
}

impl WildcardIndex {
    pub fn new(seed: u64) -> WildcardIndex {
        let state = SeedableRandomState::with_seed(seed, SharedSeed::global_random());
        WildcardIndex {
            nodes: GrowingTable::new(),
            filter_count: 0,
            star_count: 0,
            tail_count: 0,
            id_next: ROOT + 1,
            ids_free: Vec::new(),
            collided: Vec::new(),
            hasher: TokenHasher { state, hash_mask: !0 },
            scratch: Cell::default(),
        }
    }

    /// Adds the filter of an entry. `filter_of` gives the text of every entry in the index.
    pub fn insert<'a>(&mut self, entry: u32, filter: &[u8], filter_of: impl Fn(u32) -> &'a [u8]) {
        if self.collides(filter, &filter_of) {
            self.collided.push(entry);
            return;
        }
        let hasher = self.hasher.clone();
        let mut path = Path::new(&hasher, filter);
        let mut symbol = path.step();
        self.count_at_root(symbol, 1);
        let mut parent = ROOT;
        let mut depth = 1;
        loop {
            let Some(node) = self.node_mut(parent, symbol) else {
                self.nodes.insert(Node::leaf(parent, symbol, entry));
                return;
            };
            if node.filter_count == 1 {
                let other = node.entries_xor;
                let mut other_path = Path::new(&hasher, filter_of(other));
                for _ in 0..depth {
                    other_path.step();
                }
                self.split((parent, symbol), (entry, path), (other, other_path));
                return;
            }
            let next = path.step();
            node.filter_count += 1;
            node.entries_xor ^= entry;
            node.count_next(next, 1);
            parent = node.id;
            symbol = next;
            depth += 1;
        }
    }

    /// Turns the leaf of `right` into as many inner nodes as its path shares with that of `left`, and
    /// adds a leaf for each. The paths go on from that leaf, and differ somewhere.
    fn split(&mut self, leaf: (u32, Symbol), left: (u32, Path<'_>), right: (u32, Path<'_>)) {
        let (mut parent, mut symbol) = leaf;
        let (left_entry, mut left) = left;
        let (right_entry, mut right) = right;
        self.remove_node(parent, symbol);
        loop {
            let id = self.take_id();
            let mut node = Node::leaf(parent, symbol, left_entry ^ right_entry);
            node.id = id;
            node.filter_count = 2;
            let (left_symbol, right_symbol) = (left.step(), right.step());
            node.count_next(left_symbol, 1);
            node.count_next(right_symbol, 1);
            self.nodes.insert(node);
            if left_symbol != right_symbol {
                self.nodes.insert(Node::leaf(id, left_symbol, left_entry));
                self.nodes.insert(Node::leaf(id, right_symbol, right_entry));
                return;
            }
            parent = id;
            symbol = left_symbol;
        }
    }

    /// Takes the filter of an entry out. `filter_of` must still know it.
    pub fn remove<'a>(&mut self, entry: u32, filter: &[u8], filter_of: impl Fn(u32) -> &'a [u8]) {
        if let Some(position) = self.collided.iter().position(|&found| found == entry) {
            self.collided.swap_remove(position);
            return;
        }
        let hasher = self.hasher.clone();
        let mut path = Path::new(&hasher, filter);
        let mut symbol = path.step();
        self.count_at_root(symbol, -1);
        let mut parent = ROOT;
        let mut depth = 1;
        loop {
            let node = self.node_mut(parent, symbol).expect("a filter's path ends at its leaf");
            if node.filter_count == 1 {
                assert!(node.entries_xor == entry);
                self.remove_node(parent, symbol);
                break;
            }
            let next = path.step();
            node.filter_count -= 1;
            node.entries_xor ^= entry;
            node.count_next(next, -1);
            let id = node.id;
            if node.filter_count == 1 {
                // The one filter left gets its leaf here.
                let other = node.entries_xor;
                *node = Node::leaf(parent, symbol, other);
                let mut other_path = Path::new(&hasher, filter_of(other));
                for _ in 0..depth {
                    other_path.step();
                }
                self.drop_below(id, next, path, other_path);
                break;
            }
            parent = id;
            symbol = next;
            depth += 1;
        }
        if self.nodes.len() == 0 {
            self.id_next = ROOT + 1;
            self.ids_free = Vec::new();
        }
    }

    /// Removes what two paths have below an inner node that just became a leaf. `left_symbol` was taken
    /// from `left` already.
    fn drop_below(&mut self, id: u32, left_symbol: Symbol, left: Path<'_>, right: Path<'_>) {
        let (mut id, mut left_symbol, mut left, mut right) = (id, left_symbol, left, right);
        loop {
            self.ids_free.push(id);
            let right_symbol = right.step();
            let removed = self.remove_node(id, left_symbol);
            if left_symbol != right_symbol {
                self.remove_node(id, right_symbol);
                return;
            }
            assert!(removed.filter_count == 2);
            id = removed.id;
            left_symbol = left.step();
        }
    }

    /// An entry has got another number.
    pub fn renumber(&mut self, old: u32, new: u32, filter: &[u8]) {
        if let Some(found) = self.collided.iter_mut().find(|found| **found == old) {
            *found = new;
            return;
        }
        let hasher = self.hasher.clone();
        let mut path = Path::new(&hasher, filter);
        let mut parent = ROOT;
        loop {
            let node =
                self.node_mut(parent, path.step()).expect("a filter's path ends at its leaf");
            node.entries_xor ^= old ^ new;
            if node.filter_count == 1 {
                assert!(node.entries_xor == new);
                return;
            }
            parent = node.id;
        }
    }

    /// Calls `visit` once with each entry whose filter may match, and all that do match. The subject has
    /// no empty token.
    #[inline]
    pub fn for_each_candidate(&self, literal: &[u8], mut visit: impl FnMut(u32)) {
        for &entry in &self.collided {
            visit(entry);
        }
        if self.filter_count == 0 {
            return;
        }
        // Taken, not borrowed: `visit` may match again.
        let mut scratch = self.scratch.take();
        self.walk(literal, &mut scratch, &mut visit);
        if scratch.symbols.capacity().max(scratch.pending.capacity()) <= SCRATCH_KEPT_MAX {
            self.scratch.set(scratch);
        }
    }

    fn walk(&self, literal: &[u8], scratch: &mut Scratch, visit: &mut impl FnMut(u32)) {
        let Scratch { symbols, pending } = scratch;
        symbols.clear();
        pending.clear();
        let mut rest = Some(literal);
        pending.push(Pending::new(ROOT, 0, self.filter_count, self.star_count, self.tail_count));
        while let Some(Pending { id, depth, has_stars, has_tails, has_others }) = pending.pop() {
            if depth as usize == symbols.len()
                && let Some(text) = rest
            {
                let (token, after) = split_token(text);
                symbols.push(self.hasher.literal(token));
                rest = after;
            }
            let mut step = |symbol| {
                let Some(node) = self.node(id, symbol) else { return };
                if node.filter_count == 1 {
                    visit(node.entries_xor);
                } else {
                    pending.push(Pending::new(
                        node.id,
                        depth + 1,
                        node.filter_count,
                        node.star_count,
                        node.tail_count,
                    ));
                }
            };
            let Some(&symbol) = symbols.get(depth as usize) else {
                // The subject is used up: only a filter that ends here can match.
                if has_others {
                    step(END);
                }
                continue;
            };
            if has_others {
                step(symbol);
            }
            if has_stars {
                step(STAR);
            }
            if has_tails {
                step(TAIL);
            }
        }
    }

    /// Whether the whole path of a filter equals that of one in the trie.
    fn collides<'a>(&self, filter: &[u8], filter_of: &impl Fn(u32) -> &'a [u8]) -> bool {
        let mut path = Path::new(&self.hasher, filter);
        let mut parent = ROOT;
        for depth in 1.. {
            let symbol = path.step();
            let Some(node) = self.node(parent, symbol) else { return false };
            if node.filter_count > 1 {
                parent = node.id;
                continue;
            }
            let mut other = Path::new(&self.hasher, filter_of(node.entries_xor));
            for _ in 0..depth {
                other.step();
            }
            let mut last = symbol;
            while last != TAIL && last != END {
                last = path.step();
                if last != other.step() {
                    return false;
                }
            }
            return true;
        }
        unreachable!("a path ends at a leaf")
    }

    #[inline]
    fn node(&self, parent: u32, symbol: Symbol) -> Option<&Node> {
        self.nodes
            .find(node_hash(parent, symbol), |node| node.symbol == symbol && node.parent == parent)
    }

    fn node_mut(&mut self, parent: u32, symbol: Symbol) -> Option<&mut Node> {
        self.nodes.find_mut(node_hash(parent, symbol), |node| {
            node.symbol == symbol && node.parent == parent
        })
    }

    fn remove_node(&mut self, parent: u32, symbol: Symbol) -> Node {
        self.nodes
            .remove(node_hash(parent, symbol), |node| {
                node.symbol == symbol && node.parent == parent
            })
            .expect("the caller knows that the node is there")
    }

    fn count_at_root(&mut self, symbol: Symbol, change: i32) {
        add(&mut self.filter_count, change);
        match symbol {
            STAR => add(&mut self.star_count, change),
            TAIL => add(&mut self.tail_count, change),
            _ => {}
        }
    }

    fn take_id(&mut self) -> u32 {
        self.ids_free.pop().unwrap_or_else(|| {
            self.id_next += 1;
            self.id_next - 1
        })
    }
}

impl Node {
    fn leaf(parent: u32, symbol: Symbol, entry: u32) -> Node {
        Node {
            symbol,
            parent,
            id: ROOT,
            filter_count: 1,
            entries_xor: entry,
            star_count: 0,
            tail_count: 0,
        }
    }

    fn count_next(&mut self, symbol: Symbol, change: i32) {
        match symbol {
            STAR => add(&mut self.star_count, change),
            TAIL => add(&mut self.tail_count, change),
            _ => {}
        }
    }
}

fn add(count: &mut u32, change: i32) {
    *count = count.checked_add_signed(change).expect("a filter is taken out once");
}

#[cfg(test)]
impl WildcardIndex {
    /// Leaves that many bits of each token's hash. For an empty index.
    pub fn keep_hash_bits(&mut self, bit_count: u32) {
        assert!(self.nodes.len() == 0);
        self.hasher.hash_mask = (1 << bit_count) - 1;
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn candidate_count(&self, literal: &[u8]) -> usize {
        let mut scratch = Scratch::default();
        let mut candidate_count = 0;
        self.walk(literal, &mut scratch, &mut |_| candidate_count += 1);
        candidate_count
    }

    /// Follows every filter to its leaf and counts all paths anew.
    pub fn check_invariants(&self, filters: &[(u32, &[u8])]) {
        use std::collections::{HashMap, HashSet};

        let in_trie: Vec<_> =
            filters.iter().filter(|(entry, _)| !self.collided.contains(entry)).collect();
        assert_eq!(in_trie.len() + self.collided.len(), filters.len());
        assert_eq!(in_trie.len(), self.filter_count as usize);
        let mut expected: HashMap<(u32, u64), (u32, u32, u32, u32)> = HashMap::new();
        for (entry, filter) in in_trie {
            let mut path = Path::new(&self.hasher, filter);
            let mut parent = ROOT;
            let mut symbol = path.step();
            loop {
                let node = self.node(parent, symbol).expect("a path ends at a leaf");
                let counted = expected.entry((parent, symbol.0)).or_default();
                counted.0 += 1;
                counted.1 ^= entry;
                if node.filter_count == 1 {
                    break;
                }
                parent = node.id;
                symbol = path.step();
                counted.2 += u32::from(symbol == STAR);
                counted.3 += u32::from(symbol == TAIL);
            }
        }
        assert_eq!(expected.len(), self.nodes.len());
        let mut ids = HashSet::from([ROOT]);
        for (&(parent, symbol), &counted) in &expected {
            let node = self.node(parent, Symbol(symbol)).expect("found above");
            let kept = (node.filter_count, node.entries_xor, node.star_count, node.tail_count);
            assert_eq!(kept, counted);
            assert!(node.filter_count == 1 || ids.insert(node.id), "an id is used twice");
        }
        assert!(self.ids_free.iter().all(|id| ids.insert(*id)), "a free id is in use");
        assert_eq!(ids.len(), self.id_next as usize, "an id was lost");
    }
}
