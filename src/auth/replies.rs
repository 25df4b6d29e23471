//! The reply subjects to which a connection may respond although no list allows publishing to them.
//!
//! One table per connection, owned by its session. Subjects that were fully answered are removed at
//! once, expired ones a few with each call. The table is bounded by `limits::TRACKED_REPLIES_MAX`
//! and, since subjects may be long, by `limits::TRACKED_REPLY_BYTES_MAX`: its entries come from
//! other clients' messages.
//!
//! Invariants: `by_reply` has the key of each entry; the `newer` links lead from `oldest` to each
//! entry once, in the order of delivery, and the `older` links lead back; `bytes` is the sum of the
//! entries' sizes.

use std::hash::BuildHasher;
use std::time::Instant;

use slab::Slab;

use super::response_rule::ResponseRule;
use crate::base::limits;
use crate::base::table::Table;

/// Expired subjects that one call removes: more than it adds.
const EXPIRED_PER_CALL: usize = 4;

/// Free entries whose memory is kept once all others are gone.
const FREE_KEPT_MAX: usize = 64;

/// The end of the list by age.
const NONE: u32 = u32::MAX;

pub struct ReplyTable {
    entries: Slab<Tracked>,
    by_reply: Table<u32>,
    hasher: foldhash::fast::RandomState,
    oldest: u32,
    newest: u32,
    /// Number of subjects forgotten because the table was full.
    forgotten_count: u64,
    bytes: usize,
}

struct Tracked {
    reply: Box<[u8]>,
    hash: u64,
    delivered_at: Instant,
    answer_count: u32,
    older: u32,
    newer: u32,
}

impl Tracked {
    fn is_expired(&self, rule: ResponseRule, now: Instant) -> bool {
        rule.expires
            .is_some_and(|expires| now.saturating_duration_since(self.delivered_at) > expires)
    }
}

/// Returns the bytes of a subject, its entry and its place by hash.
fn bytes_of(reply: &[u8]) -> usize {
    reply.len() + size_of::<Tracked>() + 2 * size_of::<u32>()
}

impl Default for ReplyTable {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            by_reply: Table::new(),
            hasher: foldhash::fast::RandomState::default(),
            oldest: NONE,
            newest: NONE,
            forgotten_count: 0,
            bytes: 0,
        }
    }
}

impl ReplyTable {
    /// Returns the number of tracked replies: those that may still be answered, and some that have
    /// expired.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of replies forgotten because the table was full.
    pub fn forgotten_count(&self) -> u64 {
        self.forgotten_count
    }

    /// To be called when a message with this reply subject was delivered. A subject that may still
    /// be answered keeps its count and its time.
    pub fn remember(&mut self, reply: &[u8], rule: ResponseRule, now: Instant) {
        self.expire_some(rule, now);
        let hash = self.hasher.hash_one(reply);
        if let Some(key) = self.find(hash, reply) {
            if !self.entries[key as usize].is_expired(rule, now) {
                return;
            }
            self.remove(key);
        }
        let bytes = bytes_of(reply);
        while self.oldest != NONE
            && (self.len() >= limits::TRACKED_REPLIES_MAX
                || self.bytes + bytes > limits::TRACKED_REPLY_BYTES_MAX)
        {
            self.remove(self.oldest);
            self.forgotten_count += 1;
        }
        self.bytes += bytes;
        let (reply, older) = (reply.into(), self.newest);
        let tracked =
            Tracked { reply, hash, delivered_at: now, answer_count: 0, older, newer: NONE };
        let key = self.entries.insert(tracked) as u32;
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = key,
            None => self.oldest = key,
        }
        self.newest = key;
        let entries = &self.entries;
        self.by_reply.insert_unique(hash, key, |key| entries[*key as usize].hash);
    }

    /// Returns true, and counts the response, if a response to `subject` is allowed now.
    pub fn use_up(&mut self, subject: &[u8], rule: ResponseRule, now: Instant) -> bool {
        self.expire_some(rule, now);
        let Some(key) = self.find(self.hasher.hash_one(subject), subject) else { return false };
        let tracked = &mut self.entries[key as usize];
        if tracked.is_expired(rule, now) {
            self.remove(key);
            return false;
        }
        tracked.answer_count += 1;
        if rule.max.is_some_and(|max| tracked.answer_count >= max) {
            self.remove(key);
        }
        true
    }

    fn find(&self, hash: u64, reply: &[u8]) -> Option<u32> {
        self.by_reply.find(hash, |key| *self.entries[*key as usize].reply == *reply).copied()
    }

    fn expire_some(&mut self, rule: ResponseRule, now: Instant) {
        for _ in 0..EXPIRED_PER_CALL {
            match self.entries.get(self.oldest as usize) {
                Some(oldest) if oldest.is_expired(rule, now) => self.remove(self.oldest),
                _ => return,
            }
        }
    }

    fn remove(&mut self, key: u32) {
        let Tracked { reply, hash, older, newer, .. } = self.entries.remove(key as usize);
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.bytes -= bytes_of(&reply);
        let removed = self.by_reply.remove(hash, |other| *other == key);
        debug_assert!(removed.is_some());
        let entries = &self.entries;
        self.by_reply.shrink(hash, |key| entries[*key as usize].hash);
        if self.entries.is_empty() && self.entries.capacity() > FREE_KEPT_MAX {
            self.entries = Slab::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONCE: ResponseRule =
        ResponseRule { max: Some(1), expires: Some(Duration::from_secs(120)) };

    #[test]
    fn a_response_is_allowed_as_often_as_the_rule_says() {
        let now = Instant::now();
        for max in [1, 2, 5] {
            let rule = ResponseRule { max: Some(max), ..ONCE };
            let mut table = ReplyTable::default();
            assert!(!table.use_up(b"inbox.1", rule, now));
            table.remember(b"inbox.1", rule, now);
            for _ in 0..max {
                assert!(table.use_up(b"inbox.1", rule, now));
            }
            assert!(!table.use_up(b"inbox.1", rule, now));
            assert!(table.is_empty());
            table.remember(b"inbox.1", rule, now);
            assert!(table.use_up(b"inbox.1", rule, now), "a new delivery allows a new answer");
        }
    }

    #[test]
    fn a_response_is_allowed_for_as_long_as_the_rule_says() {
        let start = Instant::now();
        let mut table = ReplyTable::default();
        let rule = ResponseRule { max: None, expires: Some(Duration::from_secs(10)) };
        table.remember(b"a", rule, start);
        table.remember(b"b", rule, start + Duration::from_secs(5));
        assert!(table.use_up(b"a", rule, start + Duration::from_secs(10)));
        let later = start + Duration::from_millis(10_001);
        assert!(!table.use_up(b"a", rule, later));
        assert_eq!(table.len(), 1);
        assert!(table.use_up(b"b", rule, later));
        let forever = ResponseRule { max: None, expires: None };
        assert!(table.use_up(b"b", forever, start + Duration::from_secs(1_000_000)));
    }

    #[test]
    fn a_second_delivery_of_the_same_reply_changes_nothing_while_it_may_be_answered() {
        let start = Instant::now();
        let mut table = ReplyTable::default();
        table.remember(b"a", ONCE, start);
        table.remember(b"a", ONCE, start);
        assert!(table.use_up(b"a", ONCE, start));
        assert!(!table.use_up(b"a", ONCE, start));
    }

    #[test]
    fn a_full_table_forgets_the_oldest_and_counts_it() {
        let now = Instant::now();
        let forever = ResponseRule { max: Some(1), expires: None };
        let mut table = ReplyTable::default();
        for index in 0..=limits::TRACKED_REPLIES_MAX {
            assert_eq!(table.len(), index.min(limits::TRACKED_REPLIES_MAX));
            table.remember(format!("inbox.{index}").as_bytes(), forever, now);
        }
        assert_eq!(table.len(), limits::TRACKED_REPLIES_MAX);
        assert_eq!(table.forgotten_count(), 1);
        assert!(!table.use_up(b"inbox.0", forever, now));
        assert!(table.use_up(b"inbox.1", forever, now));
    }

    #[test]
    fn long_replies_are_bounded_in_bytes() {
        let now = Instant::now();
        let forever = ResponseRule { max: Some(1), expires: None };
        let mut table = ReplyTable::default();
        let reply = |index: usize| format!("{index:06}{}", "x".repeat(4_000)).into_bytes();
        let fit = limits::TRACKED_REPLY_BYTES_MAX / bytes_of(&reply(0));
        for index in 0..fit {
            table.remember(&reply(index), forever, now);
        }
        assert_eq!((table.len(), table.forgotten_count()), (fit, 0));
        table.remember(&reply(fit), forever, now);
        assert_eq!((table.len(), table.forgotten_count()), (fit, 1));
        assert!(table.bytes <= limits::TRACKED_REPLY_BYTES_MAX);
        assert!(!table.use_up(&reply(0), forever, now), "the oldest is forgotten");
        assert!(table.use_up(&reply(1), forever, now));
        // An answered subject makes room.
        table.remember(&reply(fit + 1), forever, now);
        assert_eq!((table.len(), table.forgotten_count()), (fit, 1));
        for index in 2..fit + 2 {
            assert!(table.use_up(&reply(index), forever, now));
        }
        assert_eq!((table.len(), table.bytes), (0, 0));
    }

    #[test]
    fn answered_replies_leave_no_trace_behind_an_unanswered_one() {
        let now = Instant::now();
        let mut table = ReplyTable::default();
        table.remember(b"never answered", ONCE, now);
        for index in 0..10_000 {
            let reply = format!("inbox.{index}");
            table.remember(reply.as_bytes(), ONCE, now);
            assert!(table.use_up(reply.as_bytes(), ONCE, now));
        }
        assert_eq!(table.len(), 1);
        assert!(table.entries.capacity() < 66, "{} entries kept", table.entries.capacity());
    }

    /// However many expire at once, no call does all of the work, and none is answered too late.
    #[test]
    fn expired_replies_are_removed_a_few_with_each_call() {
        const COUNT: usize = 10_000;
        let start = Instant::now();
        let mut table = ReplyTable::default();
        let reply = |index: usize| format!("inbox.{index}").into_bytes();
        for index in 0..COUNT {
            table.remember(&reply(index), ONCE, start);
        }
        let later = start + Duration::from_secs(121);
        assert!(!table.use_up(&reply(COUNT - 1), ONCE, later), "the newest is expired too");
        assert_eq!(table.len(), COUNT - EXPIRED_PER_CALL - 1);
        table.remember(&reply(COUNT - 2), ONCE, later);
        assert!(table.use_up(&reply(COUNT - 2), ONCE, later), "delivered once more");
        let mut calls = 0;
        while !table.is_empty() {
            let before = table.len();
            assert!(!table.use_up(b"other", ONCE, later));
            assert!(before - table.len() <= EXPIRED_PER_CALL);
            calls += 1;
        }
        assert!(calls >= COUNT / EXPIRED_PER_CALL - 3, "{calls}");
        assert_eq!((table.bytes, table.oldest, table.newest), (0, NONE, NONE));
    }

    #[test]
    fn the_rest_keeps_its_order_by_age_whatever_is_answered_or_expires() {
        let mut random = fastrand::Rng::with_seed(4);
        let start = Instant::now();
        let (mut table, mut twin) = (ReplyTable::default(), Vec::new());
        for step in 0..20_000_u64 {
            let now = start + Duration::from_millis(step * 20);
            let reply = format!("inbox.{}", random.u32(..8_000));
            twin.retain(|(_, at): &(String, Instant)| now - *at <= Duration::from_secs(120));
            let place = twin.iter().position(|(other, _)| *other == reply);
            if random.u32(..3) > 0 {
                table.remember(reply.as_bytes(), ONCE, now);
                if place.is_none() {
                    twin.push((reply, now));
                }
            } else {
                assert_eq!(table.use_up(reply.as_bytes(), ONCE, now), place.is_some());
                if let Some(place) = place {
                    twin.remove(place);
                }
            }
            assert!(table.len() >= twin.len());
        }
        let (mut key, mut order) = (table.newest, Vec::new());
        while let Some(tracked) = table.entries.get(key as usize) {
            order.push(String::from_utf8(tracked.reply.to_vec()).expect("text"));
            key = tracked.older;
        }
        order.truncate(twin.len());
        assert!(order.iter().eq(twin.iter().rev().map(|(reply, _)| reply)));
    }
}
