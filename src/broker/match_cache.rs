//! Answers of the subject table, kept for subjects that come again.
//!
//! The cache never checks whether an answer still holds: whoever changes the table says so, with
//! `evict_literal` for a filter without wildcards and `evict_matching` for one with. Then an answer
//! is exact.
//!
//! A hit costs one hash and no allocation. The number of answers is bounded, and so are the bytes
//! of the answers in all caches of a shard: a full cache drops answers that were not asked for
//! since the clock hand last passed, or any after a few steps; one that has nothing left to drop
//! takes nothing. And a full cache takes an answer only when its subject comes the second time of
//! late: where every subject is new, none pays for being kept.
//!
//! Wildcards come and go often (each requester subscribes its own inbox), so a change must not walk
//! the cache. The cached subjects are chained by their first token, again by their first two, and
//! all together. A filter that begins with one or two literal tokens can only match subjects of one
//! such chain: the change costs that chain's length, which for an inbox is the few subjects of that
//! inbox. A filter that begins with a wildcard walks the chain of all. Any scan longer than
//! `MATCH_CACHE_SCAN_MAX`, or of more bytes than `MATCH_CACHE_SCAN_BYTES_MAX`, empties the cache
//! instead; that drops each answer at most once, so it is paid for by what put the answers in.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::subject_table::short_bytes::ShortBytes;
use crate::base::limits::{
    MATCH_ANSWER_BYTES_MAX, MATCH_CACHE_SCAN_BYTES_MAX, MATCH_CACHE_SCAN_MAX, TOKEN_BYTES_PER_UNIT,
};
use crate::protocol::subject;

/// Answers asked for lately that the clock hand spares before it takes one anyway.
const CLOCK_STEPS_MAX: usize = 16;

/// Chains by no token (one, of all answers), by the first token, and by the first two.
const LEVEL_COUNT: usize = 3;

/// Bytes of the answers in all caches of a shard.
#[derive(Default)]
pub struct CachedBytes {
    used: Cell<usize>,
    max: usize,
}

impl CachedBytes {
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { used: Cell::new(0), max })
    }

    pub fn used(&self) -> usize {
        self.used.get()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.used.get() + bytes <= self.max
    }

    fn add(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    fn subtract(&self, bytes: usize) {
        self.used.set(self.used.get() - bytes);
    }
}

/// No answer: the end of a chain.
const NONE: u32 = u32::MAX;

pub struct MatchCache<V> {
    answers: Slab<Answer<V>>,
    /// The keys of `answers` by subject.
    by_subject: HashTable<u32>,
    chains: [HashTable<Chain>; LEVEL_COUNT],
    capacity: usize,
    shared_bytes: Rc<CachedBytes>,
    /// Bytes of this cache's own answers.
    bytes: usize,
    /// The key where the search for one to drop goes on.
    clock_hand: usize,
    hash_state: SeedableRandomState,
    /// Hashes of subjects lately refused, each at a place of its own hash; empty until the cache is
    /// full.
    refused: Box<[u32]>,
}

struct Answer<V> {
    subject: ShortBytes,
    hash: u64,
    value: V,
    bytes: usize,
    asked_for: bool,
    links: [Link; LEVEL_COUNT],
}

/// The outcome of dropping the answers that a changed filter matches.
pub struct Eviction<V> {
    /// Work that it took, in units of `TURN_WORK_MAX`.
    pub work: usize,
    /// All answers, if looking for those to drop would have taken too long.
    pub cleared: Option<Cleared<V>>,
}

/// The answers of a cache that was cleared.
pub struct Cleared<V> {
    answers: slab::IntoIter<Answer<V>>,
    /// Bytes of those that are left.
    bytes: usize,
    shared_bytes: Rc<CachedBytes>,
}

impl<V> Iterator for Cleared<V> {
    type Item = V;

    fn next(&mut self) -> Option<V> {
        let (_, answer) = self.answers.next()?;
        self.bytes -= answer.bytes;
        self.shared_bytes.subtract(answer.bytes);
        Some(answer.value)
    }
}

impl<V> Drop for Cleared<V> {
    fn drop(&mut self) {
        self.shared_bytes.subtract(self.bytes);
    }
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    /// Hash of the leading tokens. Two chains of equal hash are one: the text of each subject
    /// decides.
    hash: u64,
    first: u32,
}

#[derive(Clone, Copy)]
struct Link {
    chain_hash: u64,
    previous: u32,
    next: u32,
    /// A subject that has no token beyond the leading ones is in no chain of this level.
    is_linked: bool,
}

impl<V> MatchCache<V> {
    /// Holds at most `capacity` answers, and what fits into the bytes it shares with others. The
    /// seed should be random: subjects come from peers.
    pub fn new(capacity: usize, shared_bytes: Rc<CachedBytes>, seed: u64) -> MatchCache<V> {
        assert!(capacity < NONE as usize);
        MatchCache {
            answers: Slab::new(),
            by_subject: HashTable::new(),
            chains: [const { HashTable::new() }; LEVEL_COUNT],
            capacity,
            shared_bytes,
            bytes: 0,
            clock_hand: 0,
            hash_state: SeedableRandomState::with_seed(seed, SharedSeed::global_random()),
            refused: Box::default(),
        }
    }

    #[inline]
    pub fn get(&mut self, literal: &[u8]) -> Option<&V> {
        let key = self.find(self.hash(literal), literal)?;
        let answer = &mut self.answers[key as usize];
        answer.asked_for = true;
        Some(&answer.value)
    }

    /// Keeps an answer of so many bytes, in place of an older one for the same subject. A full
    /// cache refuses it unless its subject was refused already, not long ago.
    pub fn insert(&mut self, literal: &[u8], value: V, bytes: usize) {
        let hash = self.hash(literal);
        if let Some(key) = self.find(hash, literal) {
            self.remove(key);
        }
        let bytes = bytes + size_of::<Answer<V>>() + literal.len();
        if self.capacity == 0 || bytes > MATCH_ANSWER_BYTES_MAX {
            return;
        }
        let is_full = self.answers.len() == self.capacity || !self.shared_bytes.has_room(bytes);
        if is_full && !self.comes_again(hash) {
            return;
        }
        if self.answers.len() == self.capacity {
            self.drop_one();
        }
        while !self.shared_bytes.has_room(bytes) {
            if self.answers.is_empty() {
                return;
            }
            self.drop_one();
        }
        self.bytes += bytes;
        self.shared_bytes.add(bytes);
        let unlinked = Link { chain_hash: 0, previous: NONE, next: NONE, is_linked: false };
        let key = self.answers.insert(Answer {
            subject: ShortBytes::new(literal),
            hash,
            value,
            bytes,
            asked_for: false,
            links: [unlinked; LEVEL_COUNT],
        }) as u32;
        let answers = &self.answers;
        self.by_subject.insert_unique(hash, key, |&key| answers[key as usize].hash);
        for level in 0..LEVEL_COUNT {
            if let Some(leading) = leading_tokens(literal, level) {
                self.link(key, level, self.hash(leading));
            }
        }
    }

    /// A filter without wildcards has changed in the table.
    pub fn evict_literal(&mut self, literal: &[u8]) {
        if let Some(key) = self.find(self.hash(literal), literal) {
            self.remove(key);
        }
    }

    /// A filter with wildcards has changed in the table: drops the answers for all subjects it
    /// matches. If looking for those would take too long the cache is cleared, and all are given.
    pub fn evict_matching(&mut self, filter: &[u8]) -> Eviction<V> {
        let literal_count =
            subject::tokens(filter).take_while(|&token| token != b"*" && token != b">").count();
        let level = literal_count.min(LEVEL_COUNT - 1);
        match leading_tokens(filter, level) {
            Some(leading) => self.evict_from_chain(level, self.hash(leading), filter),
            // No wildcard after all.
            None => {
                self.evict_literal(filter);
                Eviction { work: 0, cleared: None }
            }
        }
    }

    /// Forgets all answers and gives them, to be dropped in the time there is for it. Their bytes
    /// count until then.
    pub fn clear(&mut self) -> Cleared<V> {
        self.by_subject.clear();
        self.chains.iter_mut().for_each(HashTable::clear);
        self.clock_hand = 0;
        Cleared {
            answers: std::mem::take(&mut self.answers).into_iter(),
            bytes: std::mem::take(&mut self.bytes),
            shared_bytes: self.shared_bytes.clone(),
        }
    }

    /// All answers, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.answers.iter().map(|(_, answer)| &answer.value)
    }

    pub fn len(&self) -> usize {
        self.answers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    fn evict_from_chain(&mut self, level: usize, chain_hash: u64, filter: &[u8]) -> Eviction<V> {
        let chain = self.chains[level].find(chain_hash, |chain| chain.hash == chain_hash);
        let mut key = chain.map_or(NONE, |chain| chain.first);
        let (mut step_count, mut byte_count) = (0, 0);
        let mut cleared = None;
        while key != NONE {
            if step_count == MATCH_CACHE_SCAN_MAX || byte_count >= MATCH_CACHE_SCAN_BYTES_MAX {
                cleared = Some(self.clear());
                break;
            }
            let answer = &self.answers[key as usize];
            let next = answer.links[level].next;
            let subject = answer.subject.as_slice();
            step_count += 1;
            byte_count += subject.len().min(filter.len());
            if subject::matches(filter, subject) {
                self.remove(key);
            }
            key = next;
        }
        Eviction { work: step_count + byte_count / TOKEN_BYTES_PER_UNIT, cleared }
    }

    /// True if a subject with this hash was refused lately; if not, it is from now on. Another's
    /// hash may stand for it: then it is kept a little early or late.
    fn comes_again(&mut self, hash: u64) -> bool {
        if self.refused.is_empty() {
            self.refused = vec![0; self.capacity.next_power_of_two()].into_boxed_slice();
        }
        let place = hash as usize & (self.refused.len() - 1);
        let kept = (hash >> 32) as u32 | 1;
        std::mem::replace(&mut self.refused[place], kept) == kept
    }

    /// Drops the next answer that was not asked for lately.
    fn drop_one(&mut self) {
        let mut spared = 0;
        while !self.answers.is_empty() {
            let key = self.clock_hand;
            self.clock_hand = (key + 1) % self.answers.capacity().min(self.capacity);
            let Some(answer) = self.answers.get_mut(key) else { continue };
            if answer.asked_for && spared < CLOCK_STEPS_MAX {
                answer.asked_for = false;
                spared += 1;
            } else {
                return self.remove(key as u32);
            }
        }
    }

    fn remove(&mut self, key: u32) {
        for level in 0..LEVEL_COUNT {
            self.unlink(key, level);
        }
        let answer = self.answers.remove(key as usize);
        self.bytes -= answer.bytes;
        self.shared_bytes.subtract(answer.bytes);
        self.by_subject
            .find_entry(answer.hash, |&found| found == key)
            .expect("every answer is found by its subject")
            .remove();
    }

    fn link(&mut self, key: u32, level: usize, chain_hash: u64) {
        let chains = &mut self.chains[level];
        let next = match chains.find_mut(chain_hash, |chain| chain.hash == chain_hash) {
            Some(chain) => std::mem::replace(&mut chain.first, key),
            None => {
                let chain = Chain { hash: chain_hash, first: key };
                chains.insert_unique(chain_hash, chain, |chain| chain.hash);
                NONE
            }
        };
        if next != NONE {
            self.answers[next as usize].links[level].previous = key;
        }
        self.answers[key as usize].links[level] =
            Link { chain_hash, previous: NONE, next, is_linked: true };
    }

    fn unlink(&mut self, key: u32, level: usize) {
        let Link { chain_hash, previous, next, is_linked } =
            self.answers[key as usize].links[level];
        if !is_linked {
            return;
        }
        if next != NONE {
            self.answers[next as usize].links[level].previous = previous;
        }
        if previous != NONE {
            self.answers[previous as usize].links[level].next = next;
            return;
        }
        let mut chain = self.chains[level]
            .find_entry(chain_hash, |chain| chain.hash == chain_hash)
            .expect("a first link has its chain");
        if next == NONE {
            chain.remove();
        } else {
            chain.get_mut().first = next;
        }
    }

    #[inline]
    fn hash(&self, text: &[u8]) -> u64 {
        let mut hasher = self.hash_state.build_hasher();
        hasher.write(text);
        hasher.finish()
    }

    #[inline]
    fn find(&self, hash: u64, literal: &[u8]) -> Option<u32> {
        self.by_subject
            .find(hash, |&key| self.answers[key as usize].subject.as_slice() == literal)
            .copied()
    }
}

/// The first `count` tokens, if at least one more follows.
fn leading_tokens(text: &[u8], count: usize) -> Option<&[u8]> {
    if count == 0 {
        return Some(&[]);
    }
    let dot = memchr::memchr_iter(b'.', text).nth(count - 1)?;
    Some(&text[..dot])
}

#[cfg(any(test, debug_assertions))]
impl<V> MatchCache<V> {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &V)) {
        self.answers.iter().for_each(|(_, answer)| visit(answer.subject.as_slice(), &answer.value));
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.answers.len() <= self.capacity);
        let bytes: usize = self.answers.iter().map(|(_, answer)| answer.bytes).sum();
        assert_eq!(self.bytes, bytes);
        assert!(bytes <= self.shared_bytes.used());
        assert!(self.shared_bytes.used() <= self.shared_bytes.max);
        assert_eq!(self.by_subject.len(), self.answers.len());
        for (key, answer) in &self.answers {
            let subject = answer.subject.as_slice();
            assert_eq!(self.find(self.hash(subject), subject), Some(key as u32), "not found");
            for (level, link) in answer.links.iter().enumerate() {
                let leading = leading_tokens(subject, level);
                assert_eq!(link.is_linked, leading.is_some());
                assert!(leading.is_none_or(|leading| link.chain_hash == self.hash(leading)));
            }
        }
        for (level, chains) in self.chains.iter().enumerate() {
            let mut linked_count = 0;
            for chain in chains {
                let (mut key, mut previous) = (chain.first, NONE);
                assert_ne!(key, NONE);
                while key != NONE {
                    let link = self.answers[key as usize].links[level];
                    assert!(link.is_linked);
                    assert_eq!((link.previous, link.chain_hash), (previous, chain.hash));
                    linked_count += 1;
                    (previous, key) = (key, link.next);
                }
            }
            let expected = self
                .answers
                .iter()
                .filter(|(_, answer)| subject::token_count(answer.subject.as_slice()) > level);
            assert_eq!(linked_count, expected.count());
        }
    }
}

#[cfg(test)]
#[path = "match_cache/tests.rs"]
mod tests;
