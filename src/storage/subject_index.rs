//! The subjects of a stream, sorted, each with how many messages it has, and the first and last of them.
//!
//! Entries lie in chunks of at most [`CHUNK_BYTES_MAX`] bytes, each without the bytes it shares with the one before:
//! a million subjects of a bucket take some twenty bytes each. A lookup is a binary search over the chunks and one
//! scan within a chunk, which compares hardly more bytes than the subject has.
//!
//! An entry: bytes shared with the one before u16, whose highest bit says that there is only one message | bytes of
//! the rest u16 | the rest | sequence of the last message u64 | unless there is only one, the first's u64 and the
//! count u64.
//!
//! Invariants: subjects rise strictly; no chunk is empty; the first entry of a chunk shares nothing, the others all
//! that they have in common with the one before: a lookup relies on it.

use crate::protocol::subject::{matches, tokens};

/// Bytes of a chunk past which it is split. Scans are over half of one on average.
const CHUNK_BYTES_MAX: usize = 2048;

/// Bytes of two neighbours up to which they become one.
const MERGED_BYTES_MAX: usize = CHUNK_BYTES_MAX / 2;

const SINGLE: u16 = 1 << 15;

const PREFIX_BYTES: usize = 4;

/// The messages of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectTotals {
    pub count: u64,
    /// The sequence of the first message.
    pub first: u64,
    /// The sequence of the last message.
    pub last: u64,
}

impl SubjectTotals {
    /// Those of a subject whose only message this is.
    pub fn single(sequence: u64) -> Self {
        Self { count: 1, first: sequence, last: sequence }
    }

    fn value_bytes(&self) -> usize {
        if self.count == 1 { 8 } else { 24 }
    }

    fn encode(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.last.to_le_bytes());
        if self.count != 1 {
            out[8..16].copy_from_slice(&self.first.to_le_bytes());
            out[16..24].copy_from_slice(&self.count.to_le_bytes());
        }
    }

    fn decode(is_single: bool, bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word"));
        match is_single {
            true => Self::single(word(0)),
            false => Self { last: word(0), first: word(8), count: word(16) },
        }
    }
}

/// Where an entry stands in its chunk.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    shared: usize,
    suffix: usize,
    is_single: bool,
}

impl Entry {
    fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let prefix = bytes.get(start..start + PREFIX_BYTES)?;
        let shared = u16::from_le_bytes([prefix[0], prefix[1]]);
        let suffix = u16::from_le_bytes([prefix[2], prefix[3]]);
        Some(Self {
            start,
            shared: usize::from(shared & !SINGLE),
            suffix: usize::from(suffix),
            is_single: shared & SINGLE != 0,
        })
    }

    fn suffix_of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start + PREFIX_BYTES..][..self.suffix]
    }

    fn value_start(self) -> usize {
        self.start + PREFIX_BYTES + self.suffix
    }

    fn end(self) -> usize {
        self.value_start() + if self.is_single { 8 } else { 24 }
    }

    fn totals(self, bytes: &[u8]) -> SubjectTotals {
        SubjectTotals::decode(self.is_single, &bytes[self.value_start()..])
    }
}

/// Where a subject is in a chunk or would be.
struct Found {
    /// The entry of the subject, or of the first one behind it; none at the end.
    entry: Option<Entry>,
    is_here: bool,
    /// Bytes that the subject shares with the entry before it, and with `entry` if that is another's.
    shared_before: usize,
    shared_after: usize,
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
}

impl Chunk {
    fn first_subject(&self) -> &[u8] {
        Entry::read(&self.bytes, 0).expect("no chunk is empty").suffix_of(&self.bytes)
    }

    fn find(&self, subject: &[u8]) -> Found {
        let mut shared_before = 0;
        let mut start = 0;
        while let Some(entry) = Entry::read(&self.bytes, start) {
            let stop = |is_here, shared_after| Found {
                entry: Some(entry),
                is_here,
                shared_before,
                shared_after,
            };
            // An entry that shares more with the one before, which is less, is less for the same reason.
            if entry.shared < shared_before {
                return stop(false, entry.shared);
            }
            if entry.shared == shared_before {
                let (suffix, rest) = (entry.suffix_of(&self.bytes), &subject[shared_before..]);
                let same = common(suffix, rest);
                match (suffix.get(same), rest.get(same)) {
                    (None, None) => return stop(true, shared_before + same),
                    (Some(theirs), Some(ours)) if theirs > ours => {
                        return stop(false, shared_before + same);
                    }
                    (Some(_), None) => return stop(false, shared_before + same),
                    _ => shared_before += same,
                }
            }
            start = entry.end();
        }
        Found { entry: None, is_here: false, shared_before, shared_after: 0 }
    }

    fn insert(&mut self, subject: &[u8], found: &Found, totals: SubjectTotals) {
        let at = found.entry.map_or(self.bytes.len(), |entry| entry.start);
        let mut new = Vec::new();
        push_entry(&mut new, found.shared_before, &subject[found.shared_before..], totals);
        let mut end = at;
        if let Some(next) = found.entry {
            // The next one shares with the new one what it shares with the subject, which is no less than before.
            let suffix = next.suffix_of(&self.bytes);
            let rest = suffix[found.shared_after - next.shared..].to_vec();
            push_entry(&mut new, found.shared_after, &rest, next.totals(&self.bytes));
            end = next.end();
        }
        self.bytes.splice(at..end, new);
    }

    fn remove(&mut self, entry: Entry) {
        let mut new = Vec::new();
        let mut end = entry.end();
        if let Some(next) = Entry::read(&self.bytes, end) {
            // It shares with the one before both what all three share.
            let mut rest = Vec::new();
            let shared = entry.shared.min(next.shared);
            rest.extend_from_slice(&entry.suffix_of(&self.bytes)[..next.shared - shared]);
            rest.extend_from_slice(next.suffix_of(&self.bytes));
            push_entry(&mut new, shared, &rest, next.totals(&self.bytes));
            end = next.end();
        }
        self.bytes.splice(entry.start..end, new);
    }

    fn replace(&mut self, entry: Entry, totals: SubjectTotals) {
        if entry.is_single == (totals.count == 1) {
            totals.encode(&mut self.bytes[entry.value_start()..entry.end()]);
            return;
        }
        let mut new = Vec::new();
        push_entry(&mut new, entry.shared, entry.suffix_of(&self.bytes), totals);
        self.bytes.splice(entry.start..entry.end(), new);
    }

    /// Takes the second half away.
    fn split(&mut self) -> Self {
        let mut subject = Vec::new();
        let mut start = 0;
        while let Some(entry) = Entry::read(&self.bytes, start) {
            subject.truncate(entry.shared);
            subject.extend_from_slice(entry.suffix_of(&self.bytes));
            if start >= self.bytes.len() / 2 {
                let mut bytes = Vec::new();
                push_entry(&mut bytes, 0, &subject, entry.totals(&self.bytes));
                bytes.extend_from_slice(&self.bytes[entry.end()..]);
                self.bytes.truncate(start);
                self.bytes.shrink_to_fit();
                return Self { bytes };
            }
            start = entry.end();
        }
        Self::default()
    }

    /// Appends another, whose subjects are greater. Its first entry shared nothing, and now must share all it can.
    fn merge(&mut self, other: &Self) {
        let mut last = Vec::new();
        let mut start = 0;
        while let Some(entry) = Entry::read(&self.bytes, start) {
            last.truncate(entry.shared);
            last.extend_from_slice(entry.suffix_of(&self.bytes));
            start = entry.end();
        }
        let first = Entry::read(&other.bytes, 0).expect("no chunk is empty");
        let suffix = first.suffix_of(&other.bytes);
        let shared = common(&last, suffix);
        push_entry(&mut self.bytes, shared, &suffix[shared..], first.totals(&other.bytes));
        self.bytes.extend_from_slice(&other.bytes[first.end()..]);
    }
}

fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn push_entry(out: &mut Vec<u8>, shared: usize, suffix: &[u8], totals: SubjectTotals) {
    let flag = if totals.count == 1 { SINGLE } else { 0 };
    let shared = u16::try_from(shared).expect("subjects are shorter") | flag;
    let length = u16::try_from(suffix.len()).expect("subjects are shorter");
    out.extend_from_slice(&shared.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(suffix);
    let value = out.len();
    out.resize(value + totals.value_bytes(), 0);
    totals.encode(&mut out[value..]);
}

/// Bytes of the longest subject that an index takes.
pub(crate) const SUBJECT_BYTES_MAX: usize = SINGLE as usize - 1;

/// The subjects of a stream.
#[derive(Debug, Default)]
pub struct SubjectIndex {
    chunks: Vec<Chunk>,
    subject_count: usize,
}

impl SubjectIndex {
    /// Subjects with at least one message.
    pub fn len(&self) -> usize {
        self.subject_count
    }

    pub fn is_empty(&self) -> bool {
        self.subject_count == 0
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.capacity() + size_of::<Chunk>()).sum()
    }

    pub fn get(&self, subject: &[u8]) -> Option<SubjectTotals> {
        let chunk = self.chunks.get(self.chunk_of(subject))?;
        let found = chunk.find(subject);
        found.entry.filter(|_| found.is_here).map(|entry| entry.totals(&chunk.bytes))
    }

    /// Replaces a subject's totals by what `change` makes of them; none of either means no message.
    ///
    /// # Panics
    /// The subject is longer than [`SUBJECT_BYTES_MAX`].
    pub fn update(
        &mut self,
        subject: &[u8],
        change: impl FnOnce(Option<SubjectTotals>) -> Option<SubjectTotals>,
    ) {
        assert!(subject.len() <= SUBJECT_BYTES_MAX, "a subject is too long for the index");
        let index = self.chunk_of(subject);
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::default());
        }
        let chunk = &mut self.chunks[index];
        let found = chunk.find(subject);
        match found.entry.filter(|_| found.is_here) {
            None => {
                if let Some(totals) = change(None) {
                    chunk.insert(subject, &found, totals);
                    self.subject_count += 1;
                }
            }
            Some(entry) => match change(Some(entry.totals(&chunk.bytes))) {
                Some(totals) => chunk.replace(entry, totals),
                None => {
                    chunk.remove(entry);
                    self.subject_count -= 1;
                }
            },
        }
        self.balance(index);
    }

    /// Gives the subjects behind `after` that match `filter` to `visit`, in order, until it has looked at
    /// `subjects_max` of them or `visit` says that it is enough. Returns the subject to go on after, none at the end.
    pub fn scan(
        &self,
        filter: &[u8],
        after: Option<&[u8]>,
        subjects_max: usize,
        mut visit: impl FnMut(&[u8], SubjectTotals) -> bool,
    ) -> Option<Vec<u8>> {
        let prefix = literal_prefix(filter);
        let begin = after.unwrap_or_default().max(prefix);
        let mut subject = Vec::new();
        let mut seen = 0;
        for chunk in self.chunks.get(self.chunk_of(begin)..).unwrap_or_default() {
            subject.clear();
            let mut start = 0;
            while let Some(entry) = Entry::read(&chunk.bytes, start) {
                subject.truncate(entry.shared);
                subject.extend_from_slice(entry.suffix_of(&chunk.bytes));
                start = entry.end();
                if subject.as_slice() < begin || after.is_some_and(|after| subject == after) {
                    continue;
                }
                if !subject.starts_with(prefix) {
                    return None;
                }
                seen += 1;
                let goes_on =
                    !matches(filter, &subject) || visit(&subject, entry.totals(&chunk.bytes));
                if !goes_on || seen == subjects_max {
                    return Some(subject);
                }
            }
        }
        None
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The chunk that a subject is in or belongs in; 0 where there is none.
    fn chunk_of(&self, subject: &[u8]) -> usize {
        let behind = self.chunks.partition_point(|chunk| chunk.first_subject() <= subject);
        behind.saturating_sub(1)
    }

    /// Splits or merges a chunk that changed.
    fn balance(&mut self, index: usize) {
        let length = self.chunks[index].bytes.len();
        if length == 0 {
            self.chunks.remove(index);
        } else if length > CHUNK_BYTES_MAX {
            let second = self.chunks[index].split();
            if !second.bytes.is_empty() {
                self.chunks.insert(index + 1, second);
            }
        } else if let Some(next) = self.chunks.get(index + 1)
            && length + next.bytes.len() <= MERGED_BYTES_MAX
        {
            let next = self.chunks.remove(index + 1);
            self.chunks[index].merge(&next);
        }
    }

    /// Asserts what the head of this file promises.
    pub fn check_invariants(&self) {
        let mut before: Option<Vec<u8>> = None;
        let mut count = 0;
        for chunk in &self.chunks {
            let mut subject = Vec::new();
            let mut start = 0;
            assert!(!chunk.bytes.is_empty(), "a chunk is empty");
            while let Some(entry) = Entry::read(&chunk.bytes, start) {
                assert!(start > 0 || entry.shared == 0, "a chunk's first entry shares");
                subject.truncate(entry.shared);
                subject.extend_from_slice(entry.suffix_of(&chunk.bytes));
                assert!(before.as_ref().is_none_or(|before| *before < subject), "out of order");
                let shared = before.as_ref().map_or(0, |before| common(before, &subject));
                assert!(start == 0 || entry.shared == shared, "an entry shares less than it can");
                assert!(entry.totals(&chunk.bytes).count > 0, "a subject without messages");
                before = Some(subject.clone());
                count += 1;
                start = entry.end();
            }
            assert!(start == chunk.bytes.len(), "a chunk ends inside an entry");
        }
        assert!(count == self.subject_count, "subjects are miscounted");
    }
}

/// What all subjects that a filter matches begin with.
fn literal_prefix(filter: &[u8]) -> &[u8] {
    let mut length = 0;
    for token in tokens(filter) {
        if token == b"*" || token == b">" {
            return &filter[..length];
        }
        length = (length + token.len() + 1).min(filter.len());
    }
    filter
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;

    use super::*;

    fn subject(random: &mut Rng, spread: u32) -> Vec<u8> {
        let depth = random.usize(1..4);
        let tokens: Vec<String> =
            (0..depth).map(|_| format!("{:x}", random.u32(0..spread))).collect();
        tokens.join(".").into_bytes()
    }

    fn scanned(index: &SubjectIndex, filter: &[u8], slice: usize) -> Vec<(Vec<u8>, SubjectTotals)> {
        let mut all = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            after = index.scan(filter, after.as_deref(), slice, |subject, totals| {
                all.push((subject.to_vec(), totals));
                true
            });
            if after.is_none() {
                return all;
            }
        }
    }

    #[test]
    fn index_is_as_a_sorted_map() {
        for seed in 0..12 {
            let mut random = Rng::with_seed(seed);
            let spread = [3, 40, 5000][seed as usize % 3];
            let mut index = SubjectIndex::default();
            let mut twin: BTreeMap<Vec<u8>, SubjectTotals> = BTreeMap::new();
            for step in 0..2500 {
                let subject = subject(&mut random, spread);
                let removes = random.u8(0..10) < if step / 500 % 2 == 0 { 3 } else { 8 };
                let totals = SubjectTotals {
                    count: random.u64(1..4),
                    first: random.u64(..),
                    last: random.u64(..),
                };
                let totals =
                    if totals.count == 1 { SubjectTotals::single(totals.last) } else { totals };
                let chosen = (!removes).then_some(totals);
                index.update(&subject, |before| {
                    assert_eq!(before, twin.get(&subject).copied());
                    chosen
                });
                match chosen {
                    Some(totals) => drop(twin.insert(subject.clone(), totals)),
                    None => drop(twin.remove(&subject)),
                }
                assert_eq!(index.get(&subject), chosen);
                if step % 50 == 0 {
                    index.check_invariants();
                    assert_eq!(index.len(), twin.len());
                    for filter in ["1", ">", "*", "1.>", "*.2", "1.*.3", "2.2.*", "f"] {
                        let filter = filter.as_bytes();
                        let expected: Vec<_> = twin
                            .iter()
                            .filter(|(subject, _)| matches(filter, subject))
                            .map(|(subject, totals)| (subject.clone(), *totals))
                            .collect();
                        let slice = random.usize(1..100);
                        assert_eq!(scanned(&index, filter, slice), expected, "seed {seed}");
                    }
                }
            }
            for subject in twin.keys() {
                index.update(subject, |_| None);
            }
            assert!(index.is_empty() && index.chunks.is_empty());
        }
    }

    #[test]
    fn million_subjects_of_a_bucket_are_small() {
        let mut index = SubjectIndex::default();
        for number in 0..20_000_u64 {
            let subject = format!("$KV.bucket.user-{:07}", number * 7919 % 20_000);
            index.update(subject.as_bytes(), |_| Some(SubjectTotals::single(number)));
        }
        index.check_invariants();
        let bytes_each = index.bytes() / index.len();
        assert!(bytes_each <= 32, "{bytes_each} bytes a subject");
    }

    #[test]
    fn longest_subject_and_the_empty_one_fit() {
        let mut index = SubjectIndex::default();
        let longest = vec![b'x'; SUBJECT_BYTES_MAX];
        for (sequence, subject) in [&longest[..], b"", b"x", &longest[1..]].into_iter().enumerate()
        {
            index.update(subject, |_| Some(SubjectTotals::single(sequence as u64)));
        }
        index.check_invariants();
        assert_eq!(index.get(&longest), Some(SubjectTotals::single(0)));
        assert_eq!(index.get(b""), Some(SubjectTotals::single(1)));
        index.update(b"x", |_| None);
        index.check_invariants();
        assert_eq!(index.get(&longest[1..]), Some(SubjectTotals::single(3)));
    }
}
