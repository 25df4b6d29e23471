//! Pending requests to another account: maps the reply subjects that the exporting account sees
//! (`_R_.…`) to those of the requesters.
//!
//! There is one table per exporting account and shard. A reply subject names the table and the
//! entry, with 40 random bits. An entry ends with its answer (for streamed services with an empty
//! answer), or when it expires. The number and the bytes of an importing account's entries are
//! limited; beyond that its requests are treated as if nobody listened.
//!
//! Invariants: `counts` has the number and the bytes of the entries of each importing account. Each
//! `insert` examines more entries for expiry than it adds, so that expired ones do not pile up.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use slab::Slab;

use super::latency::Tracked;
use super::route_cache::RouteCache;
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::{RESPONSE_BYTES_MAX, RESPONSES_MAX};

/// Slots that one insertion examines for expired entries.
const LOOKS_PER_INSERT: usize = 4;

/// Buffers of removed entries that are kept for reuse.
const SPARE_TEXTS_MAX: usize = 64;

/// The most bytes of a buffer that is kept.
const SPARE_TEXT_BYTES_MAX: usize = 256;

/// The digits of a token.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of the token that names a table, as in nats-server.
const TABLE_TOKEN_SIZE: usize = 6;

/// Characters of the token that names an entry: 64 bits.
pub(super) const ENTRY_TOKEN_SIZE: usize = 11;

/// Bits of an entry's number that are its slot; the others are random.
const PLACE_BITS: u32 = 24;

const _: () = assert!(RESPONSES_MAX <= 1 << PLACE_BITS);

/// The end of the reply subject of a request whose duration is to be published.
const TRACKED: &[u8] = b".T";

/// The start of every reply subject across accounts.
pub(super) const PREFIX: &[u8] = b"_R_.";

/// A request that crosses.
pub(super) struct Request<'a> {
    pub importer: AccountId,
    /// The requester, if it is a client of this shard.
    pub requester: Option<ClientKey>,
    /// The request's subject and reply subject in the importing account.
    pub subject: &'a [u8],
    pub reply: &'a [u8],
    pub threshold: Duration,
    /// True if more than one answer is allowed.
    pub is_streamed: bool,
}

pub(super) struct Response {
    /// Random bits and the slot.
    pub number: u64,
    pub importer: AccountId,
    pub requester: Option<ClientKey>,
    /// Subject, then reply.
    text: Vec<u8>,
    subject_size: usize,
    threshold: Duration,
    expires_at: Instant,
    pub is_streamed: bool,
    /// Present if its duration is to be published.
    tracked: Option<Box<Tracked>>,
}

impl Response {
    pub(super) fn subject(&self) -> &[u8] {
        &self.text[..self.subject_size]
    }

    pub(super) fn reply(&self) -> &[u8] {
        &self.text[self.subject_size..]
    }

    fn bytes(&self) -> usize {
        let tracked = self.tracked.as_ref().map_or(0, |tracked| tracked.bytes());
        size_of::<Self>() + self.text.len() + tracked
    }
}

#[derive(Default)]
struct Count {
    entries: usize,
    bytes: usize,
}

/// The pending requests from one shard to one exporting account.
pub(super) struct Responses {
    entries: Slab<Response>,
    counts: HashMap<AccountId, Count>,
    table_token: [u8; TABLE_TOKEN_SIZE],
    spare: Vec<Vec<u8>>,
    /// The next slot to examine for expiry.
    hand: usize,
    /// Tracked requests that expired.
    timed_out: Vec<Tracked>,
    /// The route of the last answer.
    pub last_route: RouteCache,
}

impl Responses {
    pub(super) fn new(random: &mut fastrand::Rng) -> Self {
        let table_token = std::array::from_fn(|_| DIGITS[random.usize(..DIGITS.len())]);
        Self {
            entries: Slab::new(),
            counts: HashMap::new(),
            table_token,
            spare: Vec::new(),
            hand: 0,
            timed_out: Vec::new(),
            last_route: RouteCache::default(),
        }
    }

    /// Returns the filter that matches all answers.
    pub(super) fn filter(&self) -> Vec<u8> {
        [PREFIX, &self.table_token, b".>"].concat()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a request and sets `reply` to its new reply subject; the number is for `remove`. None =
    /// the importing account has too many pending.
    pub(super) fn insert(
        &mut self,
        request: &Request<'_>,
        now: Instant,
        random: &mut fastrand::Rng,
        reply: &mut Vec<u8>,
    ) -> Option<u64> {
        self.look_for_expired(LOOKS_PER_INSERT, now);
        let bytes = size_of::<Response>() + request.subject.len() + request.reply.len();
        let count = self.counts.entry(request.importer).or_default();
        let is_full = count.entries >= RESPONSES_MAX || count.bytes + bytes > RESPONSE_BYTES_MAX;
        if is_full || self.entries.len() >= 1 << PLACE_BITS {
            return None;
        }
        count.entries += 1;
        count.bytes += bytes;
        let mut text = self.spare.pop().unwrap_or_default();
        text.clear();
        text.extend_from_slice(request.subject);
        text.extend_from_slice(request.reply);
        let place = self.entries.vacant_entry();
        let number = (random.u64(..) << PLACE_BITS) | place.key() as u64;
        place.insert(Response {
            number,
            importer: request.importer,
            requester: request.requester,
            text,
            subject_size: request.subject.len(),
            threshold: request.threshold,
            expires_at: now + request.threshold,
            is_streamed: request.is_streamed,
            tracked: None,
        });
        reply.clear();
        reply.extend_from_slice(PREFIX);
        reply.extend_from_slice(&self.table_token);
        reply.push(b'.');
        reply.extend_from_slice(&encode(number));
        Some(number)
    }

    /// Has the duration of a request published; its reply subject gets a further token.
    pub(super) fn track(&mut self, number: u64, tracked: Box<Tracked>, reply: &mut Vec<u8>) {
        let entry = self.entries.get_mut(place_of(number)).filter(|entry| entry.number == number);
        let Some(entry) = entry else { return };
        let count = self.counts.get_mut(&entry.importer).expect("it was counted");
        count.bytes += tracked.bytes();
        entry.tracked = Some(tracked);
        reply.extend_from_slice(TRACKED);
    }

    /// Returns the request that an answer on `subject` is for, with its number.
    pub(super) fn find(&mut self, subject: &[u8], now: Instant) -> Option<(u64, &Response)> {
        let rest = subject.strip_prefix(PREFIX)?.strip_prefix(&self.table_token)?;
        let rest = rest.strip_prefix(b".")?;
        let (token, is_tracked) = match rest.strip_suffix(TRACKED) {
            Some(token) => (token, true),
            None => (rest, false),
        };
        let number = decode(token)?;
        let place = place_of(number);
        let is_it =
            |entry: &&Response| entry.number == number && entry.tracked.is_some() == is_tracked;
        let entry = self.entries.get(place).filter(is_it)?;
        if now > entry.expires_at {
            self.expire(number);
            return None;
        }
        Some((number, &self.entries[place]))
    }

    /// Restarts the expiry of a request that may have further answers.
    pub(super) fn prolong(&mut self, number: u64, now: Instant) {
        let entry = self.entries.get_mut(place_of(number)).filter(|entry| entry.number == number);
        if let Some(entry) = entry {
            entry.expires_at = now + entry.threshold;
        }
    }

    /// Removes a request whose time is over.
    fn expire(&mut self, number: u64) {
        let tracked = self.remove(number);
        self.timed_out.extend(tracked.map(|tracked| *tracked));
    }

    /// Takes the tracked requests whose time is over.
    pub(super) fn take_timed_out(&mut self) -> Vec<Tracked> {
        std::mem::take(&mut self.timed_out)
    }

    /// Removes a request, if it is still there. Returns its record if its duration is to be
    /// published.
    pub(super) fn remove(&mut self, number: u64) -> Option<Box<Tracked>> {
        let place = place_of(number);
        self.entries.get(place).filter(|entry| entry.number == number)?;
        let mut entry = self.entries.remove(place);
        let count = self.counts.get_mut(&entry.importer).expect("it was counted");
        count.entries -= 1;
        count.bytes -= entry.bytes();
        let tracked = entry.tracked.take();
        if count.entries == 0 {
            self.counts.remove(&entry.importer);
        }
        if self.spare.len() < SPARE_TEXTS_MAX && entry.text.capacity() <= SPARE_TEXT_BYTES_MAX {
            self.spare.push(entry.text);
        }
        if self.entries.is_empty() && self.entries.capacity() > SPARE_TEXTS_MAX {
            self.entries = Slab::new();
        }
        tracked
    }

    /// Examines so many slots, and removes expired entries.
    pub(super) fn look_for_expired(&mut self, looks: usize, now: Instant) {
        self.look(looks, now, |_| {});
    }

    /// Does the same, and calls `visit` with each tracked request that is not expired.
    pub(super) fn look(&mut self, looks: usize, now: Instant, mut visit: impl FnMut(&Response)) {
        for _ in 0..looks.min(self.entries.capacity()) {
            self.hand = if self.hand + 1 < self.entries.capacity() { self.hand + 1 } else { 0 };
            match self.entries.get(self.hand) {
                Some(entry) if now > entry.expires_at => {
                    let number = entry.number;
                    self.expire(number);
                }
                Some(entry) if entry.tracked.is_some() => visit(entry),
                _ => {}
            }
        }
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let mut counts: HashMap<AccountId, (usize, usize)> = HashMap::new();
        for (place, entry) in &self.entries {
            assert_eq!(place_of(entry.number), place);
            let count = counts.entry(entry.importer).or_default();
            count.0 += 1;
            count.1 += entry.bytes();
        }
        assert_eq!(counts.len(), self.counts.len());
        for (importer, count) in &self.counts {
            assert_eq!(counts.get(importer), Some(&(count.entries, count.bytes)));
            assert!(count.entries <= RESPONSES_MAX && count.bytes <= RESPONSE_BYTES_MAX);
        }
    }
}

fn place_of(number: u64) -> usize {
    (number & ((1 << PLACE_BITS) - 1)) as usize
}

fn encode(mut number: u64) -> [u8; ENTRY_TOKEN_SIZE] {
    let mut token = [0; ENTRY_TOKEN_SIZE];
    for digit in token.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    token
}

fn decode(token: &[u8]) -> Option<u64> {
    if token.len() != ENTRY_TOKEN_SIZE {
        return None;
    }
    token.iter().try_fold(0_u64, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'Z' => digit - b'A' + 10,
            b'a'..=b'z' => digit - b'a' + 36,
            _ => return None,
        };
        number.checked_mul(62)?.checked_add(u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: AccountId = AccountId(3);

    fn request<'a>(reply: &'a [u8]) -> Request<'a> {
        Request {
            importer: C,
            requester: None,
            subject: b"ask",
            reply,
            threshold: Duration::from_secs(120),
            is_streamed: false,
        }
    }

    fn table() -> (Responses, fastrand::Rng) {
        let mut random = fastrand::Rng::with_seed(5);
        (Responses::new(&mut random), random)
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 1, 61, 62, u64::MAX - 1, u64::MAX] {
            assert_eq!(decode(&encode(number)), Some(number));
        }
        for bad in [&b""[..], b"0000000000", b"000000000000", b"zzzzzzzzzzz", b"0000000000."] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_finds_its_request_and_nothing_else_does() {
        let (mut table, mut random) = table();
        let (now, mut reply) = (Instant::now(), Vec::new());
        let number = table.insert(&request(b"inbox"), now, &mut random, &mut reply).expect("room");
        let (found, response) = table.find(&reply, now).expect("it is there");
        assert_eq!(
            (found, response.subject(), response.reply()),
            (number, &b"ask"[..], &b"inbox"[..])
        );
        for index in 0..reply.len() {
            let mut other = reply.clone();
            other[index] = if other[index] == b'x' { b'y' } else { b'x' };
            assert!(table.find(&other, now).is_none(), "{other:?}");
        }
        assert!(table.find(&[&reply[..], b".x"].concat(), now).is_none());
        table.remove(number);
        assert!(table.find(&reply, now).is_none());
        // The place is taken again by another.
        let mut second = Vec::new();
        table.insert(&request(b"inbox"), now, &mut random, &mut second).expect("room");
        assert!(table.find(&reply, now).is_none());
        assert!(table.find(&second, now).is_some());
        table.check_invariants();
    }

    #[test]
    fn a_request_ends_at_its_time() {
        let (mut table, mut random) = table();
        let (start, mut reply) = (Instant::now(), Vec::new());
        table.insert(&request(b"inbox"), start, &mut random, &mut reply).expect("room");
        let end = start + Duration::from_secs(120);
        let (number, _) = table.find(&reply, end).expect("to the last moment");
        table.prolong(number, end);
        assert!(table.find(&reply, end + Duration::from_secs(120)).is_some());
        assert!(table.find(&reply, end + Duration::from_secs(121)).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn expired_requests_do_not_pile_up() {
        let (mut table, mut random) = table();
        let (start, mut reply) = (Instant::now(), Vec::new());
        for step in 0..20_000_u64 {
            let now = start + Duration::from_secs(step);
            table.insert(&request(b"inbox"), now, &mut random, &mut reply).expect("room");
            assert!(table.len() <= 400, "{} entries", table.len());
        }
        table.check_invariants();
    }

    #[test]
    fn an_account_has_no_more_under_way_than_it_may() {
        let (mut table, mut random) = table();
        let (now, mut reply) = (Instant::now(), Vec::new());
        for _ in 0..RESPONSES_MAX {
            table.insert(&request(b"i"), now, &mut random, &mut reply).expect("room");
        }
        assert!(table.insert(&request(b"i"), now, &mut random, &mut reply).is_none());
        // Another account is not concerned.
        let other = Request { importer: AccountId(9), ..request(b"i") };
        assert!(table.insert(&other, now, &mut random, &mut reply).is_some());
        table.check_invariants();
    }

    #[test]
    fn an_account_has_no_more_bytes_under_way_than_it_may() {
        let (mut table, mut random) = table();
        let (now, mut reply, long) = (Instant::now(), Vec::new(), vec![b'x'; 4_000]);
        let each = size_of::<Response>() + 3 + long.len();
        for _ in 0..RESPONSE_BYTES_MAX / each {
            table.insert(&request(&long), now, &mut random, &mut reply).expect("room");
        }
        assert!(table.insert(&request(&long), now, &mut random, &mut reply).is_none());
        table.check_invariants();
    }
}
