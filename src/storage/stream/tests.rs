//! A stream against its naive twin, a flat list, over random histories.
//!
//! `MIDGE_STORE_SEEDS=10000 cargo test --lib storage::stream` runs more of them, `MIDGE_STORE_SEED=n` one.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;

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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Kept {
    pub sequence: u64,
    pub time_ns: i64,
    pub subject: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
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
}

impl Twin {
    pub(crate) fn new(limits: StreamLimits, first_sequence: u64, plant: Option<Plant>) -> Self {
        Self {
            plant,
            limits,
            messages: Vec::new(),
            last_sequence: first_sequence.max(1) - 1,
            last_time_ns: i64::MIN,
        }
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

    pub(crate) fn append(&mut self, mut message: Kept) -> Result<u64, AtLimit> {
        let max = self.limits.messages_per_subject_max as usize;
        let same: Vec<Kept> = self.of(&message.subject).cloned().collect();
        let replaces =
            max > 0 && same.len() >= max && self.plant != Some(Plant::DiscardNewForgetsTheReplaced);
        if self.limits.refuses_new {
            if replaces && self.limits.refuses_new_per_subject {
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
        self.last_sequence += 1;
        if self.plant == Some(Plant::SequenceUsedAgain) && self.messages.is_empty() {
            self.last_sequence = self.last_sequence.saturating_sub(1).max(1);
        }
        message.sequence = self.last_sequence;
        message.time_ns = message.time_ns.max(self.last_time_ns);
        self.last_time_ns = message.time_ns;
        self.messages.push(message);
        self.enforce();
        Ok(self.last_sequence)
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

    fn expire(&mut self, now_ns: i64, max: usize) -> u64 {
        let age = self.limits.age_ns_max;
        if age == 0 {
            return 0;
        }
        let slack = i64::from(self.plant == Some(Plant::ExpiryOfTheEqualAge));
        let is_old = |message: &&Kept| message.time_ns <= now_ns - age - slack;
        let count = self.messages.iter().take_while(is_old).count().min(max);
        self.messages.drain(..count);
        count as u64
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
    twin: Twin,
    now_ns: i64,
    /// Subjects are of so many names a token.
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
        Self { random, stream, twin, now_ns: 1000, spread, payload_bytes_max }
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
        self.now_ns += self.random.i64(-5..20);
        match self.random.u8(0..24) {
            0..14 => {
                let message = Kept {
                    sequence: 0,
                    time_ns: self.now_ns,
                    subject: self.subject(),
                    headers: vec![b'h'; if self.random.bool() { 0 } else { 12 }],
                    payload: vec![b'p'; self.random.usize(0..self.payload_bytes_max)],
                };
                let taken = self.stream.append(NewMessage {
                    time_ns: message.time_ns,
                    subject: &message.subject,
                    headers: &message.headers,
                    payload: &message.payload,
                });
                same("append", taken, self.twin.append(message))
            }
            14..17 => {
                let sequence = self.sequence();
                same("delete", self.stream.delete(sequence), self.twin.delete(sequence))
            }
            17 => {
                let filter = FILTERS[self.random.usize(0..FILTERS.len())];
                let filter = (self.random.u8(0..4) > 0).then_some(filter);
                let (before, keep) = match self.random.u8(0..3) {
                    0 => (self.sequence(), 0),
                    1 => (0, self.random.u64(0..20)),
                    _ => (0, 0),
                };
                let mut purge = self.stream.purge(filter, before, keep);
                let slice = self.random.usize(1..50);
                while !self.stream.purge_some(&mut purge, slice) {}
                same("purge", purge.purged, self.twin.purge(filter, before, keep))
            }
            18..21 => {
                let max = self.random.usize(1..20);
                let before = self.stream.expired_before(self.now_ns, max);
                let count = self.stream.drop_before(before);
                same("expire", count, self.twin.expire(self.now_ns, max))
            }
            21 => {
                let limits = StreamLimits {
                    is_memory: self.twin.limits.is_memory,
                    ..random_limits(&mut self.random)
                };
                self.stream.set_limits(limits);
                self.twin.set_limits(limits);
                Ok(())
            }
            _ => self.read(),
        }
    }

    fn read(&mut self) -> Result<(), String> {
        self.stream.check_invariants();
        same("totals", self.stream.totals(), self.twin.totals())?;
        let from = self.sequence();
        let found = self.twin.messages.iter().find(|message| message.sequence == from);
        same("get", self.stream.get(from).map(kept), found.cloned())?;
        let since = self.now_ns - self.random.i64(0..2000);
        let found = self.twin.messages.iter().find(|message| message.time_ns >= since);
        same("first since", self.stream.first_since(since).map(kept), found.cloned())?;
        let subject = self.subject();
        let mut last = self.twin.of(&subject).next_back();
        if self.twin.plant == Some(Plant::LastOfSubjectIsStale) {
            last = self.twin.of(&subject).next();
        }
        same("last of", self.stream.last_of(&subject).map(kept), last.cloned())?;
        let first = self.twin.of(&subject).next();
        same("first of", self.stream.first_of(&subject).map(kept), first.cloned())?;
        for filter in FILTERS.into_iter().chain([subject.as_slice()]) {
            let all = || self.twin.of(filter);
            let slice = self.random.usize(1..100);
            let next = next_in_slices(&self.stream, filter, from, slice);
            let expected = all().find(|message| message.sequence >= from);
            same("next", next, expected.cloned())?;
            let skew = u64::from(self.twin.plant == Some(Plant::PendingCountsFromTheNext));
            let pending = all().filter(|message| message.sequence >= from + skew).count() as u64;
            same("pending", self.stream.pending(filter, from), pending)?;
            let mut lasts: BTreeMap<&[u8], Kept> = BTreeMap::new();
            all().for_each(|message| drop(lasts.insert(&message.subject, message.clone())));
            let expected: Vec<Kept> = lasts.into_values().collect();
            same("last of each", last_of_each(&self.stream, filter, slice), expected)?;
        }
        Ok(())
    }
}

pub(in crate::storage) fn random_limits(random: &mut Rng) -> StreamLimits {
    let mut some = |max: u64| if random.bool() { 0 } else { random.u64(1..max) };
    StreamLimits {
        messages_max: some(200),
        bytes_max: some(200_000),
        age_ns_max: some(2000) as i64,
        messages_per_subject_max: some(5),
        refuses_new: some(3) == 1,
        refuses_new_per_subject: some(3) == 1,
        is_memory: some(3) == 1,
    }
}

fn next_in_slices(stream: &Stream, filter: &[u8], from: u64, slice: usize) -> Option<Kept> {
    let mut from = from;
    loop {
        match stream.next(filter, from, slice) {
            Search::Found(message) => return Some(kept(message)),
            Search::Nothing => return None,
            Search::GoOn(sequence) => from = sequence,
        }
    }
}

fn last_of_each(stream: &Stream, filter: &[u8], slice: usize) -> Vec<Kept> {
    let mut all = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        after = stream.last_of_each(filter, after.as_deref(), slice, |message| {
            all.push(kept(message));
        });
        if after.is_none() {
            return all;
        }
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
    pair.read()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn stream_is_as_its_naive_twin() {
    let seeds = match number("MIDGE_STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIDGE_STORE_SEEDS").unwrap_or(40),
    };
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
        stream.append(parts).expect("there is no limit");
    };
    for _ in 0..5000 {
        append(&mut stream, "many");
    }
    subjects.iter().for_each(|subject| append(&mut stream, subject));
    assert_eq!(stream.next(b"few.*", 1, 1000), Search::GoOn(1001));
    assert!(
        matches!(stream.next(b"few.*", 4900, 1000), Search::Found(found) if found.sequence == 5001)
    );
    let mut purge = stream.purge(Some(b"few.*"), 0, 0);
    let mut slices = 0;
    while !stream.purge_some(&mut purge, 1000) {
        slices += 1;
    }
    assert_eq!((purge.purged, stream.totals().messages), (100, 5000));
    assert!(slices >= 5, "{slices} slices");
}
