//! A stream against its naive twin, a flat list, over random histories. Blocks leave memory at any
//! moment, and no more than two at a time come back: each call is repeated until it has the blocks
//! it needs.
//!
//! `MIDGE_STORE_SEEDS=10000 cargo test --lib storage::stream` runs more of them,
//! `MIDGE_STORE_SEED=n` one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;

use fastrand::Rng;

use super::expectations::{Expected, GroupMessage, GroupRefusal, Refusal};
use super::pending::Pending;
use super::*;
use crate::protocol::headers;
use crate::protocol::subject::matches;
use crate::storage::block::Contents;
use crate::storage::marks::{self, TimeToLive};
use crate::storage::seeds;

/// A step of the tests' clock: a time to live is a second at least.
pub(in crate::storage) const TICK_NS: i64 = 10_000_000;

/// Mistakes in the rules; a twin that makes one must be found to differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Plant {
    DeleteUndone,
    SubjectLimitIgnored,
    EvictionTakesTheNewest,
    PurgeKeepsOneLess,
    PurgeIncludesItsEnd,
    LastOfSubjectIsStale,
    PendingCountsFromTheNext,
    ExpiryOfTheEqualAge,
    SequenceUsedAgain,
    DiscardNewForgetsTheReplaced,
    DuplicateTaken,
    WindowTooLong,
    ExpectationIgnored,
    RollupIgnored,
    TimeToLiveIgnored,
    NeverEndsByAge,
    GroupInPart,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Kept {
    pub sequence: u64,
    pub time_ns: i64,
    pub subject: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Kept {
    pub(in crate::storage) fn new_message(&self) -> NewMessage<'_> {
        NewMessage {
            time_ns: self.time_ns,
            subject: &self.subject,
            headers: &self.headers,
            payload: &self.payload,
        }
    }
}

/// Headers that a stream acts on, and others.
pub(in crate::storage) fn random_headers(random: &mut Rng) -> Vec<u8> {
    let mut block = Vec::new();
    let mut put = |often: u8, name: &[u8], values: &[&str]| {
        if random.u8(0..often) == 0 {
            let value = values[random.usize(0..values.len())];
            headers::append(&mut block, name, value.as_bytes());
        }
    };
    put(2, b"X-Other", &["1", "22"]);
    put(3, marks::ID, &["a", "b", "c", "d", "e", "f", "g", "h"]);
    put(4, marks::TIME_TO_LIVE, &["1s", "3", "7s", "never", "1", "bad"]);
    put(40, marks::ROLLUP, &["sub", "sub", "sub", "all", "bad"]);
    block
}

pub(in crate::storage) fn kept(message: Message<'_>) -> Kept {
    Kept {
        sequence: message.sequence,
        time_ns: message.time_ns,
        subject: message.subject.to_vec(),
        headers: message.headers.to_vec(),
        payload: message.payload.to_vec(),
    }
}

/// The twin.
#[derive(Clone)]
pub(in crate::storage) struct Twin {
    plant: Option<Plant>,
    limits: StreamLimits,
    pub messages: Vec<Kept>,
    last_sequence: u64,
    last_time_ns: i64,
    last_id: Option<Vec<u8>>,
    /// Id, end of its window and sequence of all messages there ever were.
    pub ids: Vec<(Vec<u8>, i64, u64)>,
}

impl Twin {
    pub(crate) fn new(limits: StreamLimits, first_sequence: u64, plant: Option<Plant>) -> Self {
        Self {
            plant,
            limits,
            messages: Vec::new(),
            last_sequence: first_sequence.max(1) - 1,
            last_time_ns: i64::MIN,
            last_id: None,
            ids: Vec::new(),
        }
    }

    fn header<'block>(
        &self,
        is_heeded: bool,
        block: &'block [u8],
        name: &[u8],
    ) -> Option<&'block [u8]> {
        marks::find(block, name).filter(|_| is_heeded)
    }

    fn id_of<'block>(&self, block: &'block [u8]) -> Option<&'block [u8]> {
        self.header(self.limits.duplicate_window_ns > 0, block, marks::ID)
    }

    fn time_to_live(&self, block: &[u8]) -> Option<TimeToLive> {
        self.header(self.limits.has_times_to_live, block, marks::TIME_TO_LIVE)
            .and_then(marks::time_to_live)
            .filter(|_| self.plant != Some(Plant::TimeToLiveIgnored))
    }

    fn rollup(&self, block: &[u8]) -> Option<Rollup> {
        self.header(self.limits.has_rollups, block, marks::ROLLUP).and_then(marks::rollup)
    }

    fn is_marker(&self, block: &[u8]) -> bool {
        self.header(self.limits.has_markers(), block, marks::MARKER).is_some()
    }

    /// The message that was taken with this id within the window.
    pub(crate) fn duplicate_of(&self, id: &[u8], now_ns: i64) -> Option<u64> {
        let slack = i64::from(self.plant == Some(Plant::WindowTooLong));
        let latest = self.ids.iter().rfind(|(other, ..)| other == id);
        // A clock that goes back counts as that of the last message.
        let now_ns = now_ns.max(self.last_time_ns);
        latest.filter(|(_, end_ns, _)| end_ns + slack > now_ns).map(|found| found.2)
    }

    pub(crate) fn check(&self, message: &Kept, expected: &Expected<'_>) -> Result<(), Refusal> {
        if self.plant == Some(Plant::ExpectationIgnored) {
            return Ok(());
        }
        if let Some((filter, sequence)) = expected.last_of {
            let last = self.of(filter).next_back().map_or(0, |last| last.sequence);
            if last != sequence {
                return Err(Refusal::WrongLastOfSubject { last });
            }
        }
        if expected.last_sequence.is_some_and(|sequence| sequence != self.last_sequence) {
            return Err(Refusal::WrongLastSequence { last: self.last_sequence });
        }
        let id = self.id_of(&message.headers);
        if let Some(sequence) = id.and_then(|id| self.duplicate_of(id, message.time_ns))
            && self.plant != Some(Plant::DuplicateTaken)
        {
            return Err(Refusal::Duplicate { sequence });
        }
        let last_id = self.last_id.as_deref().unwrap_or_default();
        if expected.last_id.is_some_and(|id| id != last_id) {
            return Err(Refusal::WrongLastId { id: last_id.into() });
        }
        Ok(())
    }

    /// Takes a group if each message is taken after the others. A stream takes fewer, since it
    /// counts limits more strictly.
    fn append_group(&mut self, group: &[(Kept, Expected<'_>)]) -> Result<u64, GroupRefusal> {
        let mut after = self.clone();
        let mut ids = HashSet::new();
        for (index, (message, expected)) in group.iter().enumerate() {
            self.check(message, expected).map_err(|refusal| GroupRefusal { index, refusal })?;
            if let Some(id) = self.id_of(&message.headers)
                && !ids.insert(id.to_vec())
            {
                let is_it =
                    |(other, _): &&(Kept, Expected<'_>)| self.id_of(&other.headers) == Some(id);
                let first = group.iter().position(|other| is_it(&other)).expect("it is there");
                let sequence = self.last_sequence + 1 + first as u64;
                let refusal = Refusal::Duplicate { sequence };
                return Err(GroupRefusal { index, refusal });
            }
            let taken = after.append(message.clone());
            taken.map_err(|limit| GroupRefusal { index, refusal: Refusal::AtLimit(limit) })?;
        }
        let first = self.last_sequence + 1;
        let count = if self.plant == Some(Plant::GroupInPart) { 1 } else { group.len() };
        self.put_group(group.iter().take(count).map(|(message, _)| message.clone()));
        Ok(first)
    }

    /// Takes messages one after the other; the removals that they cause come afterwards.
    pub(crate) fn put_group(&mut self, group: impl Iterator<Item = Kept>) {
        let all: Vec<u64> = group.map(|message| self.put(message)).collect();
        all.iter().for_each(|sequence| self.roll_up(*sequence));
        self.enforce();
    }

    pub(crate) fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
        self.enforce();
    }

    fn bytes_of(&self, message: &Kept) -> u64 {
        self.limits.message_bytes(&message.subject, &message.headers, &message.payload)
    }

    fn bytes(&self) -> u64 {
        self.messages.iter().map(|message| self.bytes_of(message)).sum()
    }

    fn of<'twin>(&'twin self, filter: &'twin [u8]) -> impl DoubleEndedIterator<Item = &'twin Kept> {
        self.messages.iter().filter(move |message| matches(filter, &message.subject))
    }

    pub(crate) fn append(&mut self, message: Kept) -> Result<u64, AtLimit> {
        let max = self.limits.messages_per_subject_max as usize;
        let same: Vec<Kept> = self.of(&message.subject).cloned().collect();
        let is_full =
            max > 0 && same.len() >= max && self.plant != Some(Plant::DiscardNewForgetsTheReplaced);
        let replaces = is_full || (self.is_marker(&message.headers) && !same.is_empty());
        let rollup = self.rollup(&message.headers);
        if self.limits.refuses_new {
            if is_full && self.limits.refuses_new_per_subject && rollup.is_none() {
                return Err(AtLimit::MessagesPerSubject);
            }
            let messages_max = self.limits.messages_max as usize;
            if messages_max > 0 && self.messages.len() >= messages_max && !replaces {
                return Err(AtLimit::Messages);
            }
            let bytes = self.bytes_of(&message);
            let is_above =
                self.limits.bytes_max > 0 && self.bytes() + bytes > self.limits.bytes_max;
            if is_above && (!replaces || self.bytes_of(&same[0]) < bytes) {
                return Err(AtLimit::Bytes);
            }
        }
        let sequence = self.put(message);
        self.roll_up(sequence);
        self.enforce();
        Ok(self.last_sequence)
    }

    fn put(&mut self, mut message: Kept) -> u64 {
        if self.rollup(&message.headers) == Some(Rollup::All)
            && self.plant != Some(Plant::RollupIgnored)
        {
            self.messages.clear();
        }
        self.last_sequence += 1;
        if self.plant == Some(Plant::SequenceUsedAgain) && self.messages.is_empty() {
            self.last_sequence = self.last_sequence.saturating_sub(1).max(1);
        }
        message.sequence = self.last_sequence;
        message.time_ns = message.time_ns.max(self.last_time_ns);
        self.last_time_ns = message.time_ns;
        if let Some(id) = self.id_of(&message.headers).map(<[u8]>::to_vec) {
            let end_ns = message.time_ns + self.limits.duplicate_window_ns;
            self.ids.push((id, end_ns, message.sequence));
        }
        self.last_id = marks::find(&message.headers, marks::ID).map(<[u8]>::to_vec);
        self.messages.push(message);
        self.last_sequence
    }

    /// Removes the messages that the message with this sequence rolls up.
    fn roll_up(&mut self, sequence: u64) {
        let found = self.messages.iter().find(|message| message.sequence == sequence);
        let Some(message) = found.cloned() else { return };
        if self.rollup(&message.headers) == Some(Rollup::Subject)
            && self.plant != Some(Plant::RollupIgnored)
        {
            self.messages
                .retain(|other| other.sequence >= sequence || other.subject != message.subject);
        }
    }

    fn enforce(&mut self) {
        let max = self.limits.messages_per_subject_max as usize;
        if max > 0 && self.plant != Some(Plant::SubjectLimitIgnored) {
            let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
            for message in &self.messages {
                *counts.entry(message.subject.clone()).or_default() += 1;
            }
            self.messages.retain(|message| {
                let count = counts.get_mut(&message.subject).expect("it was counted");
                let stays = *count <= max;
                *count -= usize::from(!stays);
                stays
            });
        }
        let limits = self.limits;
        while !limits.refuses_new
            && ((limits.messages_max > 0 && self.messages.len() as u64 > limits.messages_max)
                || (limits.bytes_max > 0 && self.bytes() > limits.bytes_max))
        {
            match self.plant {
                Some(Plant::EvictionTakesTheNewest) => drop(self.messages.pop()),
                _ => drop(self.messages.remove(0)),
            }
        }
    }

    pub(crate) fn delete(&mut self, sequence: u64) -> bool {
        let found = self.messages.iter().position(|message| message.sequence == sequence);
        if let Some(index) = found.filter(|_| self.plant != Some(Plant::DeleteUndone)) {
            self.messages.remove(index);
        }
        found.is_some()
    }

    pub(crate) fn purge(&mut self, filter: Option<&[u8]>, before: u64, keep: u64) -> u64 {
        let filter = filter.unwrap_or(b">");
        let keep = match self.plant {
            Some(Plant::PurgeKeepsOneLess) if keep > 1 => keep - 1,
            _ => keep,
        };
        let all = self.of(filter).count() as u64;
        let mut left = if keep == 0 { u64::MAX } else { all.saturating_sub(keep) };
        let includes_end = u64::from(self.plant == Some(Plant::PurgeIncludesItsEnd));
        let end = if before == 0 { u64::MAX } else { before + includes_end };
        let count = self.messages.len();
        self.messages.retain(|message| {
            let goes = left > 0 && message.sequence < end && matches(filter, &message.subject);
            left -= u64::from(goes);
            !goes
        });
        if filter == b">" && keep == 0 {
            self.last_sequence = self.last_sequence.max(before.saturating_sub(1));
        }
        (count - self.messages.len()) as u64
    }

    fn is_never(&self, message: &Kept) -> bool {
        self.time_to_live(&message.headers) == Some(TimeToLive::Never)
            && self.plant != Some(Plant::NeverEndsByAge)
    }

    /// The messages that are too old, in order.
    pub(crate) fn aged(&self, now_ns: i64) -> Vec<u64> {
        let age = self.limits.age_ns_max;
        let slack = i64::from(self.plant == Some(Plant::ExpiryOfTheEqualAge));
        let is_old = |message: &&Kept| age > 0 && message.time_ns <= now_ns - age - slack;
        let old =
            self.messages.iter().take_while(|message| is_old(message) || self.is_never(message));
        old.filter(|message| !self.is_never(message)).map(|message| message.sequence).collect()
    }

    /// The messages whose own time to live is over, in the order of their ends.
    pub(crate) fn ended(&self, now_ns: i64) -> Vec<u64> {
        let end = |message: &Kept| match self.time_to_live(&message.headers)? {
            TimeToLive::Never => None,
            TimeToLive::Nanoseconds(length) => Some((message.time_ns + length, message.sequence)),
        };
        let mut ends: Vec<(i64, u64)> =
            self.messages.iter().filter_map(end).filter(|(end_ns, _)| *end_ns <= now_ns).collect();
        ends.sort_unstable();
        ends.into_iter().map(|(_, sequence)| sequence).collect()
    }

    /// True if a marker has to stand for a message that ends.
    pub(crate) fn needs_marker(&self, sequence: u64) -> bool {
        let message = self.messages.iter().find(|message| message.sequence == sequence);
        let message = message.expect("it is there");
        self.limits.has_markers()
            && self.of(&message.subject).count() == 1
            && !self.is_marker(&message.headers)
    }

    pub(crate) fn totals(&self) -> StreamTotals {
        let first_sequence =
            self.messages.first().map_or(self.last_sequence + 1, |message| message.sequence);
        let subjects: HashSet<&[u8]> =
            self.messages.iter().map(|message| message.subject.as_slice()).collect();
        StreamTotals {
            messages: self.messages.len() as u64,
            bytes: self.bytes(),
            first_sequence,
            last_sequence: self.last_sequence,
            subjects: subjects.len() as u64,
            deleted: (self.last_sequence + 1)
                .saturating_sub(first_sequence + self.messages.len() as u64),
        }
    }
}

struct Pair {
    random: Rng,
    stream: Stream,
    /// Contents of blocks that are not in memory, by their bases.
    evicted: BTreeMap<u64, Rc<Contents>>,
    /// Blocks that came back, the latest last.
    back: VecDeque<u64>,
    evicts: bool,
    twin: Twin,
    now_ns: i64,
    /// The number of different names per token of subjects.
    spread: u32,
    payload_bytes_max: usize,
}

const FILTERS: [&[u8]; 9] =
    [b">", b"a.*", b"*.1", b"a.>", b"b.0", b"*.*.0", b"c.*.1", b"d", b"a.2.>"];

impl Pair {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let mut random = Rng::with_seed(seed);
        let limits = random_limits(&mut random);
        let first = if random.bool() { 1 } else { random.u64(1..1000) };
        let stream = Stream::new(limits, first, seed);
        let twin = Twin::new(limits, first, plant);
        let spread = [2, 5, 60][random.usize(0..3)];
        let payload_bytes_max = [20, 3000, 30_000][random.usize(0..3)];
        let evicts = random.u8(0..4) > 0;
        let (evicted, back) = Default::default();
        Self {
            random,
            stream,
            evicted,
            back,
            evicts,
            twin,
            now_ns: 1000,
            spread,
            payload_bytes_max,
        }
    }

    /// Removes blocks from memory.
    fn evict(&mut self) {
        self.back.clear();
        let bases: Vec<u64> = self.stream.blocks_from(0).map(Block::base).collect();
        for base in bases {
            let block = self.stream.block_mut(base).expect("it is there");
            if self.evicts && self.random.u8(0..4) > 0 {
                self.evicted.extend(block.take_contents().map(|contents| (base, contents)));
            }
        }
    }

    /// Brings a block back; of the blocks that came back two stay.
    fn load(&mut self, needed: NotLoaded) {
        let block = self.stream.block_mut(needed.base).expect("what is needed is there");
        let contents = self.evicted.remove(&needed.base).expect("it was taken from memory");
        block.put_contents(contents);
        self.back.push_back(needed.base);
        if self.back.len() > 2
            && let Some(base) = self.back.pop_front()
            && let Some(block) = self.stream.block_mut(base)
        {
            self.evicted.extend(block.take_contents().map(|contents| (base, contents)));
        }
    }

    /// Asks until there is an answer.
    fn ask<T>(&mut self, mut question: impl FnMut(&mut Stream) -> Result<T, NotLoaded>) -> T {
        for _ in 0..10_000 {
            match question(&mut self.stream) {
                Ok(answer) => return answer,
                Err(needed) => self.load(needed),
            }
        }
        panic!("a question is never answered");
    }

    /// Has the stream finish its last change.
    fn settle(&mut self) {
        let slice = self.random.usize(1..50);
        while !self.ask(|stream| stream.settle(slice)) {}
    }

    /// Has all blocks in memory.
    fn load_all(&mut self) {
        for (base, contents) in std::mem::take(&mut self.evicted) {
            if let Some(block) = self.stream.block_mut(base) {
                block.put_contents(contents);
            }
        }
    }

    fn subject(&mut self) -> Vec<u8> {
        let letter = char::from(b'a' + self.random.u8(0..4));
        let mut subject = letter.to_string();
        for _ in 0..self.random.usize(0..3) {
            subject.push_str(&format!(".{}", self.random.u32(0..self.spread)));
        }
        subject.into_bytes()
    }

    fn sequence(&mut self) -> u64 {
        let totals = self.twin.totals();
        let first = totals.first_sequence.saturating_sub(2);
        self.random.u64(first..=totals.last_sequence.max(first) + 2)
    }

    fn step(&mut self) -> Result<(), String> {
        self.now_ns += self.random.i64(-5..20) * TICK_NS;
        if self.random.u8(0..4) == 0 {
            self.evict();
        }
        match self.random.u8(0..25) {
            0..13 => {
                let message = self.message();
                let (filter, id) = (self.expected_filter(&message), self.expected_id());
                let expected = self.expected(&filter, &id);
                let checked = self.ask(|stream| stream.check(&message.new_message(), &expected));
                let expected = self.twin.check(&message, &expected);
                if expected.is_err() {
                    return same("check", checked, expected);
                }
                let taken = self.append(&message);
                let expected = self.twin.append(message);
                let refusal = expected.map(drop).map_err(Refusal::AtLimit);
                same("check", checked, refusal)?;
                same("append", taken, expected)
            }
            13..14 => self.group(),
            14..17 => {
                let sequence = self.sequence();
                let deleted = self.ask(|stream| stream.delete(sequence));
                self.settle();
                same("delete", deleted, self.twin.delete(sequence))
            }
            17 => {
                let filter = FILTERS[self.random.usize(0..FILTERS.len())];
                let filter = (self.random.u8(0..4) > 0).then_some(filter);
                let (before, keep) = match self.random.u8(0..3) {
                    0 => (self.sequence(), 0),
                    1 => (0, self.random.u64(0..20)),
                    _ => (0, 0),
                };
                self.ask(|stream| stream.last_id().map(drop));
                let mut purge = self.stream.purge(filter, before, keep);
                let slice = self.random.usize(1..50);
                while !self.ask(|stream| stream.purge_some(&mut purge, slice)) {}
                self.settle();
                same("purge", purge.purged, self.twin.purge(filter, before, keep))
            }
            18..21 => self.expire(),
            21 => {
                let limits = StreamLimits {
                    is_memory: self.twin.limits.is_memory,
                    is_async: self.twin.limits.is_async,
                    ..random_limits(&mut self.random)
                };
                self.stream.set_limits(limits);
                self.settle();
                self.twin.set_limits(limits);
                Ok(())
            }
            _ => self.read(),
        }
    }

    fn message(&mut self) -> Kept {
        Kept {
            sequence: 0,
            time_ns: self.now_ns,
            subject: self.subject(),
            headers: random_headers(&mut self.random),
            payload: vec![b'p'; self.random.usize(0..self.payload_bytes_max)],
        }
    }

    fn append(&mut self, message: &Kept) -> Result<u64, AtLimit> {
        let taken = self.ask(|stream| stream.append(message.new_message()));
        self.settle();
        taken
    }

    fn expected_filter(&mut self, message: &Kept) -> Vec<u8> {
        match self.random.bool() {
            true => message.subject.clone(),
            false => FILTERS[self.random.usize(0..FILTERS.len())].to_vec(),
        }
    }

    fn expected_id(&mut self) -> Vec<u8> {
        let last = self.twin.last_id.clone().unwrap_or_default();
        if self.random.bool() { last } else { b"a".to_vec() }
    }

    /// Sometimes no condition, sometimes one that holds, sometimes another.
    fn expected<'parts>(&mut self, filter: &'parts [u8], id: &'parts [u8]) -> Expected<'parts> {
        let last_of = self.twin.of(filter).next_back().map_or(0, |last| last.sequence);
        let last_of = last_of + u64::from(self.random.u8(0..4) == 0);
        let last_sequence = self.twin.last_sequence + u64::from(self.random.u8(0..4) == 0);
        let random = &mut self.random;
        Expected {
            last_sequence: (random.u8(0..4) == 0).then_some(last_sequence),
            last_of: (random.u8(0..4) == 0).then_some((filter, last_of)),
            last_id: (random.u8(0..6) == 0).then_some(id),
        }
    }

    fn group(&mut self) -> Result<(), String> {
        let messages: Vec<Kept> = (0..self.random.usize(1..5)).map(|_| self.message()).collect();
        let parts: Vec<(Vec<u8>, Vec<u8>)> = messages
            .iter()
            .map(|message| (self.expected_filter(message), self.expected_id()))
            .collect();
        let group: Vec<(Kept, Expected<'_>)> = messages
            .into_iter()
            .zip(&parts)
            .map(|(message, (filter, id))| (message, self.expected(filter, id)))
            .collect();
        let new: Vec<GroupMessage<'_>> = group
            .iter()
            .map(|(message, expected)| GroupMessage {
                new: message.new_message(),
                expected: *expected,
            })
            .collect();
        let checked = self.ask(|stream| stream.check_group(&new));
        let mut after = self.twin.clone();
        let expected = after.append_group(&group);
        match (&checked, &expected) {
            // A limit may be counted too strictly, never too loosely.
            (Err(GroupRefusal { refusal: Refusal::AtLimit(_), .. }), _) => {
                assert!(self.twin.limits.refuses_new, "there is no such limit");
                Ok(())
            }
            _ => {
                same("group", checked, expected.map(drop))?;
                if after.last_sequence > self.twin.last_sequence {
                    self.twin = after;
                    for (message, _) in &group {
                        self.ask(|stream| stream.ready(&message.headers));
                    }
                    self.ask(|stream| stream.ready(b""));
                    self.stream.take_group(new.iter().map(|message| message.new));
                    self.settle();
                }
                Ok(())
            }
        }
    }

    fn expire(&mut self) -> Result<(), String> {
        let max = self.random.usize(1..20);
        loop {
            let now_ns = self.now_ns;
            let (before, count) = self.ask(|stream| stream.aged_before(now_ns, max));
            let messages = self.stream.totals().messages;
            self.stream.drop_aged(before);
            self.settle();
            same("aged", messages - self.stream.totals().messages, count)?;
            let all = self.twin.aged(self.now_ns);
            if count > all.len().min(max) as u64 {
                return Err(format!("{count} aged of {} and at most {max}", all.len()));
            }
            let gone = &all[..count as usize];
            self.twin.messages.retain(|message| !gone.contains(&message.sequence));
            let goes_on = self.ask(|stream| stream.aged_before(now_ns, max)).0 > before;
            if !goes_on {
                same("aged and still there", self.twin.aged(self.now_ns), Vec::new())?;
                break;
            }
            if self.random.u8(0..4) == 0 {
                break;
            }
        }
        let now_ns = self.now_ns;
        while let Some(sequence) = self.ask(|stream| stream.ended(now_ns)) {
            let needs_marker = self.ask(|stream| stream.needs_marker(sequence));
            let expected = self.twin.ended(self.now_ns);
            same("ended", Some(sequence), expected.first().copied())?;
            same("needs marker", needs_marker, self.twin.needs_marker(sequence))?;
            assert!(self.ask(|stream| stream.delete(sequence)));
            self.settle();
            self.twin.messages.retain(|message| message.sequence != sequence);
        }
        same("ended and still there", self.twin.ended(self.now_ns), Vec::new())?;
        self.stream.forget_ids(self.twin.last_time_ns, max);
        self.load_all();
        let next = self.stream.next_end_ns();
        assert!(
            next.is_none_or(
                |end_ns| end_ns > self.now_ns || !self.twin.aged(self.now_ns).is_empty()
            )
        );
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        self.stream.check_invariants();
        same("totals", self.stream.totals(), self.twin.totals())?;
        let from = self.sequence();
        let found = self.twin.messages.iter().find(|message| message.sequence == from).cloned();
        same("get", self.ask(|stream| Ok(stream.get(from)?.map(kept))), found)?;
        let since = self.now_ns - self.random.i64(0..2000) * TICK_NS;
        let found = self.twin.messages.iter().find(|message| message.time_ns >= since);
        let found = found.map(|message| message.sequence);
        same("first since", self.ask(|stream| stream.first_since(since)), found)?;
        let subject = self.subject();
        let mut last = self.twin.of(&subject).next_back().cloned();
        if self.twin.plant == Some(Plant::LastOfSubjectIsStale) {
            last = self.twin.of(&subject).next().cloned();
        }
        same("last of", self.ask(|stream| Ok(stream.last_of(&subject)?.map(kept))), last)?;
        for filter in FILTERS.into_iter().chain([subject.as_slice()]) {
            let slice = self.random.usize(1..100);
            let next = self.next_in_slices(filter, from, slice);
            let expected = self.twin.of(filter).find(|message| message.sequence >= from);
            same("next", next, expected.cloned())?;
            let previous = self.previous_in_slices(filter, from, slice);
            let expected = self.twin.of(filter).rfind(|message| message.sequence <= from);
            same("previous", previous, expected.cloned())?;
            let skew = u64::from(self.twin.plant == Some(Plant::PendingCountsFromTheNext));
            let all = self.twin.of(filter);
            let expected = all.filter(|message| message.sequence >= from + skew).count() as u64;
            same("pending", self.pending_in_slices(filter, from), expected)?;
            let mut lasts: BTreeMap<Vec<u8>, Kept> = BTreeMap::new();
            for message in self.twin.of(filter) {
                lasts.insert(message.subject.clone(), message.clone());
            }
            let expected: Vec<Kept> = lasts.into_values().collect();
            same("last of each", self.last_of_each(filter, slice), expected)?;
        }
        Ok(())
    }

    fn next_in_slices(&mut self, filter: &[u8], mut from: u64, slice: usize) -> Option<Kept> {
        loop {
            let found = self.ask(|stream| stream.next(filter, from, slice).map(found));
            match found {
                Ok(found) => return found,
                Err(sequence) => from = sequence,
            }
        }
    }

    fn previous_in_slices(
        &mut self,
        filter: &[u8],
        mut through: u64,
        slice: usize,
    ) -> Option<Kept> {
        loop {
            let found = self.ask(|stream| stream.previous(filter, through, slice).map(found));
            match found {
                Ok(found) => return found,
                Err(sequence) => through = sequence,
            }
        }
    }

    fn pending_in_slices(&mut self, filter: &[u8], from: u64) -> u64 {
        let mut pending = Pending::new(filter, from);
        let slice = self.random.usize(1..5);
        loop {
            let count = self.ask(|stream| stream.pending(&mut pending, slice));
            if let Some(count) = count {
                return count;
            }
            if self.random.u8(0..8) == 0 {
                self.evict();
            }
        }
    }

    fn last_of_each(&mut self, filter: &[u8], slice: usize) -> Vec<Kept> {
        let mut all = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            after = self.ask(|stream| {
                stream.last_of_each(filter, after.as_deref(), slice, |message| {
                    all.push(kept(message));
                })
            });
            if after.is_none() {
                return all;
            }
        }
    }
}

/// The message found, or the place to go on from.
fn found(search: Search<'_>) -> Result<Option<Kept>, u64> {
    match search {
        Search::Found(message) => Ok(Some(kept(message))),
        Search::Nothing => Ok(None),
        Search::GoOn(sequence) => Err(sequence),
    }
}

pub(in crate::storage) fn random_limits(random: &mut Rng) -> StreamLimits {
    let mut some = |max: u64| if random.bool() { 0 } else { random.u64(1..max) };
    StreamLimits {
        messages_max: some(200),
        bytes_max: some(200_000),
        age_ns_max: some(2000) as i64 * TICK_NS,
        messages_per_subject_max: some(5),
        refuses_new: some(3) == 1,
        refuses_new_per_subject: some(3) == 1,
        is_memory: some(3) == 1,
        duplicate_window_ns: some(100) as i64 * TICK_NS,
        has_times_to_live: some(3) > 0,
        has_rollups: some(3) > 0,
        marker_ttl_ns: some(4) as i64 * 100 * TICK_NS,
        is_async: some(8) == 1,
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} instead of {expected:?}")),
    }
}

fn run(seed: u64, plant: Option<Plant>, steps: usize) -> Result<(), String> {
    let mut pair = Pair::new(seed, plant);
    for step in 0..steps {
        pair.step().map_err(|reason| format!("step {step}: {reason}"))?;
    }
    pair.read()?;
    pair.load_all();
    pair.stream.check_invariants();
    Ok(())
}

#[test]
fn stream_is_as_its_naive_twin() {
    let seeds = seeds::all(40);
    for seed in seeds {
        if let Err(reason) = run(seed, None, 800) {
            let reason: String = reason.chars().take(2000).collect();
            panic!("MIDGE_STORE_SEED={seed} cargo test --lib storage::stream: {reason}");
        }
    }
}

#[test]
fn each_planted_mistake_is_found() {
    for plant in [
        Plant::DeleteUndone,
        Plant::SubjectLimitIgnored,
        Plant::EvictionTakesTheNewest,
        Plant::PurgeKeepsOneLess,
        Plant::PurgeIncludesItsEnd,
        Plant::LastOfSubjectIsStale,
        Plant::PendingCountsFromTheNext,
        Plant::ExpiryOfTheEqualAge,
        Plant::SequenceUsedAgain,
        Plant::DiscardNewForgetsTheReplaced,
        Plant::DuplicateTaken,
        Plant::WindowTooLong,
        Plant::ExpectationIgnored,
        Plant::RollupIgnored,
        Plant::TimeToLiveIgnored,
        Plant::NeverEndsByAge,
        Plant::GroupInPart,
    ] {
        let found = (0..100).any(|seed| run(seed, Some(plant), 300).is_err());
        assert!(found, "{plant:?} went unseen");
    }
}

#[test]
fn purge_and_search_look_at_no_more_than_they_may() {
    let mut stream = Stream::new(StreamLimits::default(), 1, 0);
    let subjects: Vec<String> = (0..100).map(|number| format!("few.{number}")).collect();
    let append = |stream: &mut Stream, subject: &str| {
        let parts =
            NewMessage { time_ns: 0, subject: subject.as_bytes(), headers: b"", payload: b"" };
        assert!(matches!(stream.append(parts), Ok(Ok(_))), "there is no limit");
    };
    for _ in 0..5000 {
        append(&mut stream, "many");
    }
    subjects.iter().for_each(|subject| append(&mut stream, subject));
    assert_eq!(stream.next(b"few.*", 1, 1000), Ok(Search::GoOn(1001)));
    assert!(
        matches!(stream.next(b"few.*", 4900, 1000), Ok(Search::Found(it)) if it.sequence == 5001)
    );
    let mut purge = stream.purge(Some(b"few.*"), 0, 0);
    let mut slices = 0;
    while stream.purge_some(&mut purge, 1000) == Ok(false) {
        slices += 1;
    }
    assert_eq!((purge.purged, stream.totals().messages), (100, 5000));
    assert!(slices >= 5, "{slices} slices");
}
