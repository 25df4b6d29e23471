//! The reply subjects a connection may answer although no list allows publishing to them.
//!
//! One table per connection, owned by its session. Answered and expired subjects go at once; the table is
//! bounded by `limits::TRACKED_REPLIES_MAX` and, as subjects may be long, by `limits::TRACKED_REPLY_BYTES_MAX`,
//! because its entries come from other clients' messages.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use hashbrown::HashMap;

use super::permissions::ResponseRule;
use crate::base::limits;

#[derive(Debug, Default)]
pub struct ReplyTable {
    replies: HashMap<Rc<[u8]>, Tracked>,
    /// Every entry of `replies` in order of delivery, and some that are gone since.
    by_age: VecDeque<(Rc<[u8]>, u64)>,
    /// Tells an entry from an earlier one of the same subject.
    last_serial: u64,
    /// Forgotten because the table was full.
    forgotten_count: u64,
    /// Of all entries of `by_age`.
    bytes: usize,
}

/// A subject and its places in both tables.
fn bytes_of(reply: &[u8]) -> usize {
    const AROUND: usize = 2 * size_of::<usize>() + size_of::<(Rc<[u8]>, Tracked)>();
    reply.len() + AROUND + size_of::<(Rc<[u8]>, u64)>()
}

#[derive(Debug)]
struct Tracked {
    serial: u64,
    delivered_at: Instant,
    answer_count: u32,
}

impl ReplyTable {
    /// Replies that may still be answered, as of the last call.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Replies that were dropped because the table was full.
    pub fn forgotten_count(&self) -> u64 {
        self.forgotten_count
    }

    /// A message with this reply subject was delivered. A subject that may still be answered keeps its
    /// count and its time.
    pub fn remember(&mut self, reply: &[u8], rule: ResponseRule, now: Instant) {
        self.expire(rule, now);
        if self.replies.contains_key(reply) {
            return;
        }
        let bytes = bytes_of(reply);
        if self.replies.len() >= limits::TRACKED_REPLIES_MAX {
            self.forget_oldest();
        }
        while self.bytes + bytes > limits::TRACKED_REPLY_BYTES_MAX && !self.by_age.is_empty() {
            self.forget_oldest();
        }
        self.bytes += bytes;
        self.last_serial += 1;
        let serial = self.last_serial;
        let key: Rc<[u8]> = reply.into();
        self.by_age.push_back((key.clone(), serial));
        self.replies.insert(key, Tracked { serial, delivered_at: now, answer_count: 0 });
    }

    /// True when an answer to `subject` is allowed now; it is counted.
    pub fn use_up(&mut self, subject: &[u8], rule: ResponseRule, now: Instant) -> bool {
        self.expire(rule, now);
        let Some(tracked) = self.replies.get_mut(subject) else { return false };
        let Some(max) = rule.max else { return true };
        tracked.answer_count += 1;
        if tracked.answer_count >= max {
            self.replies.remove(subject);
            self.drop_stale();
        }
        true
    }

    fn expire(&mut self, rule: ResponseRule, now: Instant) {
        let Some(expires) = rule.expires else { return };
        while let Some((key, serial)) = self.by_age.front() {
            match self.replies.get(key) {
                Some(tracked) if tracked.serial == *serial => {
                    if now.saturating_duration_since(tracked.delivered_at) <= expires {
                        return;
                    }
                    self.replies.remove(key);
                }
                _ => {}
            }
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) -> Option<(Rc<[u8]>, u64)> {
        let oldest = self.by_age.pop_front()?;
        self.bytes -= bytes_of(&oldest.0);
        Some(oldest)
    }

    fn forget_oldest(&mut self) {
        while let Some((key, serial)) = self.pop_oldest() {
            if self.is_current(&key, serial) {
                self.replies.remove(&key);
                self.forgotten_count += 1;
                return;
            }
        }
    }

    /// Keeps `by_age` within twice the table, so that answered replies do not pile up until they expire.
    fn drop_stale(&mut self) {
        while let Some((key, serial)) = self.by_age.front()
            && !self.is_current(key, *serial)
        {
            self.pop_oldest();
        }
        if self.by_age.len() > 2 * self.replies.len() + 64 {
            let replies = &self.replies;
            let mut dropped = 0;
            self.by_age.retain(|(key, serial)| {
                let is_kept = replies.get(key).is_some_and(|tracked| tracked.serial == *serial);
                dropped += if is_kept { 0 } else { bytes_of(key) };
                is_kept
            });
            self.bytes -= dropped;
        }
    }

    fn is_current(&self, key: &[u8], serial: u64) -> bool {
        self.replies.get(key).is_some_and(|tracked| tracked.serial == serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONCE: ResponseRule =
        ResponseRule { max: Some(1), expires: Some(Duration::from_secs(120)) };

    #[test]
    fn an_answer_is_allowed_as_often_as_the_rule_says() {
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
    fn an_answer_is_allowed_until_the_rule_says() {
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
        // What is answered makes room.
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
        assert!(table.by_age.len() <= 66, "{} entries kept", table.by_age.len());
    }
}
