//! The subjects of a stream, sorted, each with the number of its messages, and the first and last
//! of them.
//!
//! Entries lie in chunks of at most [`CHUNK_BYTES_MAX`] bytes, each without the bytes it shares
//! with the one before: a million subjects of a bucket take some twenty bytes each. A lookup is a
//! binary search over the chunks and one scan within a chunk, which compares hardly more bytes than
//! the subject has.
//!
//! An entry: bytes shared with the one before u16, whose highest bit is set if there is only one
//! message | bytes of the rest u16 | bytes of the numbers u8 | the rest | the numbers. The numbers
//! are the sequence of the last message and, unless there is only one, its distance from the first
//! one, and the count; seven bits to a byte, the lowest first.
//!
//! An index is stored as its chunks: all of them, and later those that changed, each group of them
//! between two that did not ([`ChangedChunks`]).
//!
//! Invariants: subjects rise strictly; no chunk is empty; the first entry of a chunk shares
//! nothing, the others all that they have in common with the one before: a lookup relies on it.

use std::collections::VecDeque;
use std::rc::Rc;

use super::fields::Fields;
use crate::protocol::subject::{matches, tokens};

/// Bytes of a chunk past which it is split. Scans are over half of one on average.
const CHUNK_BYTES_MAX: usize = 2048;

/// Bytes of two neighbours up to which they become one.
const MERGED_BYTES_MAX: usize = CHUNK_BYTES_MAX / 2;

const SINGLE: u16 = 1 << 15;

const PREFIX_BYTES: usize = 5;

/// Bytes of the longest numbers.
const NUMBERS_BYTES_MAX: usize = 30;

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
    /// The totals of a subject whose only message this is.
    pub fn single(sequence: u64) -> Self {
        Self { count: 1, first: sequence, last: sequence }
    }

    /// The totals after a further message, behind all others.
    pub(crate) fn with_another(before: Option<Self>, sequence: u64) -> Self {
        match before {
            None => Self::single(sequence),
            Some(totals) => Self { count: totals.count + 1, last: sequence, ..totals },
        }
    }

    /// The numbers, and their length in bytes.
    fn encode(&self) -> ([u8; NUMBERS_BYTES_MAX], usize) {
        let (mut out, mut length) = ([0; NUMBERS_BYTES_MAX], 0);
        let mut put = |mut number: u64| {
            while number >= 128 {
                out[length] = number as u8 | 128;
                number >>= 7;
                length += 1;
            }
            out[length] = number as u8;
            length += 1;
        };
        put(self.last);
        if self.count != 1 {
            put(self.last.wrapping_sub(self.first));
            put(self.count);
        }
        (out, length)
    }

    /// The inverse; `None` where these are no numbers of one subject.
    fn decode(is_single: bool, bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.iter();
        let mut number = || {
            let (mut number, mut shift) = (0, 0);
            loop {
                let byte = bytes.next().filter(|_| shift < 64)?;
                number |= u64::from(byte & 127) << shift;
                shift += 7;
                if byte & 128 == 0 {
                    return Some(number);
                }
            }
        };
        let last = number()?;
        let totals = match is_single {
            true => Self::single(last),
            false => Self { last, first: last.wrapping_sub(number()?), count: number()? },
        };
        bytes.next().is_none().then_some(totals)
    }
}

/// The place of an entry in its chunk.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    shared: usize,
    suffix: usize,
    numbers: usize,
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
            numbers: usize::from(prefix[4]),
            is_single: shared & SINGLE != 0,
        })
    }

    fn suffix_of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start + PREFIX_BYTES..][..self.suffix]
    }

    fn numbers_start(self) -> usize {
        self.start + PREFIX_BYTES + self.suffix
    }

    fn end(self) -> usize {
        self.numbers_start() + self.numbers
    }

    fn totals(self, bytes: &[u8]) -> SubjectTotals {
        let numbers = &bytes[self.numbers_start()..self.end()];
        SubjectTotals::decode(self.is_single, numbers).expect("chunks are checked when they come")
    }
}

/// The place of a subject in a chunk, or the one it would have.
struct Found {
    /// The entry of the subject, or of the first one behind it; `None` at the end.
    entry: Option<Entry>,
    is_here: bool,
    /// Bytes that the subject shares with the entry before it, and with `entry` if that belongs to
    /// another subject.
    shared_before: usize,
    shared_after: usize,
}

#[derive(Debug, Default)]
struct Chunk {
    /// Shared with a checkpoint that stores it.
    bytes: Rc<[u8]>,
    /// Changed since it was noted for a checkpoint.
    is_changed: bool,
}

impl Chunk {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), is_changed: true }
    }

    /// Puts other bytes in the place of some.
    fn splice(&mut self, from: usize, to: usize, new: &[u8]) {
        let (before, after) = (&self.bytes[..from], &self.bytes[to..]);
        *self = Self::new([before, new, after].concat());
    }

    fn first_subject(&self) -> &[u8] {
        first_subject(&self.bytes)
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
            // An entry that shares more with the one before, which is less, is less for the same
            // reason.
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
            // The next entry shares with the new one the bytes that it shares with the subject,
            // which are no fewer than before.
            let suffix = next.suffix_of(&self.bytes);
            let rest = suffix[found.shared_after - next.shared..].to_vec();
            push_entry(&mut new, found.shared_after, &rest, next.totals(&self.bytes));
            end = next.end();
        }
        self.splice(at, end, &new);
    }

    fn remove(&mut self, entry: Entry) {
        let mut new = Vec::new();
        let mut end = entry.end();
        if let Some(next) = Entry::read(&self.bytes, end) {
            // It shares with the one before the bytes that all three share.
            let mut rest = Vec::new();
            let shared = entry.shared.min(next.shared);
            rest.extend_from_slice(&entry.suffix_of(&self.bytes)[..next.shared - shared]);
            rest.extend_from_slice(next.suffix_of(&self.bytes));
            push_entry(&mut new, shared, &rest, next.totals(&self.bytes));
            end = next.end();
        }
        self.splice(entry.start, end, &new);
    }

    fn replace(&mut self, entry: Entry, totals: SubjectTotals) {
        let (numbers, length) = totals.encode();
        if entry.is_single == (totals.count == 1) && entry.numbers == length {
            let bytes = Rc::make_mut(&mut self.bytes);
            bytes[entry.numbers_start()..entry.end()].copy_from_slice(&numbers[..length]);
            self.is_changed = true;
            return;
        }
        let mut new = Vec::new();
        push_entry(&mut new, entry.shared, entry.suffix_of(&self.bytes), totals);
        self.splice(entry.start, entry.end(), &new);
    }

    /// Splits off the second half.
    fn split(&mut self) -> Option<Self> {
        let mut subject = Vec::new();
        let mut start = 0;
        while let Some(entry) = Entry::read(&self.bytes, start) {
            subject.truncate(entry.shared);
            subject.extend_from_slice(entry.suffix_of(&self.bytes));
            if start >= self.bytes.len() / 2 {
                let mut bytes = Vec::new();
                push_entry(&mut bytes, 0, &subject, entry.totals(&self.bytes));
                bytes.extend_from_slice(&self.bytes[entry.end()..]);
                self.splice(start, self.bytes.len(), b"");
                return Some(Self::new(bytes));
            }
            start = entry.end();
        }
        None
    }

    /// Appends another, whose subjects are greater. Its first entry shared nothing, and now must
    /// share all it can.
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
        let mut new = Vec::new();
        push_entry(&mut new, shared, &suffix[shared..], first.totals(&other.bytes));
        new.extend_from_slice(&other.bytes[first.end()..]);
        self.splice(start, start, &new);
    }
}

fn first_subject(chunk: &[u8]) -> &[u8] {
    Entry::read(chunk, 0).expect("no chunk is empty").suffix_of(chunk)
}

fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn push_entry(out: &mut Vec<u8>, shared: usize, suffix: &[u8], totals: SubjectTotals) {
    let flag = if totals.count == 1 { SINGLE } else { 0 };
    let shared = u16::try_from(shared).expect("subjects are shorter") | flag;
    let length = u16::try_from(suffix.len()).expect("subjects are shorter");
    out.extend_from_slice(&shared.to_le_bytes());
    let (numbers, count) = totals.encode();
    out.extend_from_slice(&length.to_le_bytes());
    out.push(count as u8);
    out.extend_from_slice(suffix);
    out.extend_from_slice(&numbers[..count]);
}

/// Chunks that changed since they were noted, all those between two that did not.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangedChunks {
    /// The chunks before and behind them; `None` at the ends of the index.
    after: Option<Rc<[u8]>>,
    before: Option<Rc<[u8]>>,
    chunks: VecDeque<Rc<[u8]>>,
}

impl ChangedChunks {
    /// Encodes the first of them for storing, until they are that many bytes, and removes them: the
    /// rest is to be stored behind.
    fn encode_some(&mut self, bytes_max: usize, out: &mut Vec<u8>) {
        let mut put = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(0, |bytes| bytes.len() as u64 + 1);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(bytes.unwrap_or_default());
        };
        put(self.after.as_deref().map(first_subject));
        put(self.before.as_deref().map(first_subject));
        let count_at = out.len();
        out.extend_from_slice(&[0; 8]);
        let mut count = 0_u64;
        while (count == 0 || out.len() < bytes_max)
            && let Some(chunk) = self.chunks.pop_front()
        {
            out.extend_from_slice(&(chunk.len() as u64).to_le_bytes());
            out.extend_from_slice(&chunk);
            self.after = Some(chunk);
            count += 1;
        }
        out[count_at..count_at + 8].copy_from_slice(&count.to_le_bytes());
    }
}

/// The changes of an index that have to be stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexChanges {
    groups: VecDeque<ChangedChunks>,
}

impl IndexChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The next part to be stored, of about `bytes_max` bytes.
    pub(crate) fn next_part(&mut self, bytes_max: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < bytes_max
            && let Some(mut group) = self.groups.pop_front()
        {
            group.encode_some(bytes_max, &mut out);
            if !group.chunks.is_empty() {
                self.groups.push_front(group);
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

/// Bytes of the longest subject that an index takes.
pub(crate) const SUBJECT_BYTES_MAX: usize = SINGLE as usize - 1;

/// The subjects of a stream.
#[derive(Debug, Default)]
pub struct SubjectIndex {
    chunks: Vec<Chunk>,
    subject_count: usize,
    /// Changed since it was noted for a checkpoint.
    is_changed: bool,
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
        // Each has two counters.
        self.chunks.iter().map(|chunk| chunk.bytes.len() + size_of::<Chunk>() + 16).sum()
    }

    pub fn get(&self, subject: &[u8]) -> Option<SubjectTotals> {
        let chunk = self.chunks.get(self.chunk_of(subject))?;
        let found = chunk.find(subject);
        found.entry.filter(|_| found.is_here).map(|entry| entry.totals(&chunk.bytes))
    }

    /// Replaces a subject's totals by the result of `change`; `None` on either side means no
    /// message.
    ///
    /// # Panics
    /// The subject is longer than [`SUBJECT_BYTES_MAX`].
    pub fn update(
        &mut self,
        subject: &[u8],
        change: impl FnOnce(Option<SubjectTotals>) -> Option<SubjectTotals>,
    ) {
        assert!(subject.len() <= SUBJECT_BYTES_MAX, "a subject is too long for the index");
        self.is_changed = true;
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

    /// Gives `visit` the subjects behind `after` that match `filter`, in order, until it has looked
    /// at `subjects_max` of them or `visit` returns false. Returns the subject to go on after, or
    /// `None` at the end.
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
        *self = Self { is_changed: true, ..Self::default() };
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Bytes of chunks that changed.
    pub(crate) fn changed_bytes(&self) -> usize {
        let changed = self.chunks.iter().filter(|chunk| chunk.is_changed);
        changed.map(|chunk| chunk.bytes.len()).sum()
    }

    /// Takes the changes since the last call, or the whole index.
    pub(crate) fn take_changes(&mut self, all: bool) -> IndexChanges {
        let mut groups: VecDeque<ChangedChunks> = VecDeque::new();
        let mut after: Option<Rc<[u8]>> = None;
        let mut is_open = false;
        for chunk in &mut self.chunks {
            let is_changed = std::mem::replace(&mut chunk.is_changed, false) || all;
            match (is_changed, is_open) {
                (true, false) => {
                    let chunks = VecDeque::from([chunk.bytes.clone()]);
                    groups.push_back(ChangedChunks { after: after.clone(), before: None, chunks });
                }
                (true, true) => {
                    let group = groups.back_mut().expect("one is open");
                    group.chunks.push_back(chunk.bytes.clone());
                }
                (false, true) => {
                    let group = groups.back_mut().expect("one is open");
                    group.before = Some(chunk.bytes.clone());
                }
                (false, false) => {}
            }
            (is_open, after) = (is_changed, Some(chunk.bytes.clone()));
        }
        if self.chunks.is_empty() && (self.is_changed || all) {
            groups.push_back(ChangedChunks::default());
        }
        self.is_changed = false;
        IndexChanges { groups }
    }

    /// Applies a stored part, behind those before it; `None` where it does not fit.
    pub(crate) fn apply(&mut self, part: &[u8]) -> Option<()> {
        let mut fields = Fields { rest: part };
        while !fields.rest.is_empty() {
            let mut subject = || {
                let length = fields.word()?;
                let length = usize::try_from(length).ok()?;
                if length == 0 {
                    return Some(None);
                }
                let (subject, rest) = fields.rest.split_at_checked(length - 1)?;
                fields.rest = rest;
                Some(Some(subject))
            };
            let (after, before) = (subject()?, subject()?);
            let find = |subject: &[u8]| {
                self.chunks.binary_search_by(|chunk| chunk.first_subject().cmp(subject)).ok()
            };
            let from = after.map_or(Some(0), |subject| Some(find(subject)? + 1))?;
            let to = before.map_or(Some(self.chunks.len()), find)?;
            if from > to {
                return None;
            }
            let mut new = Vec::new();
            for _ in 0..fields.word()? {
                let bytes = fields.prefixed()?;
                let first = Entry::read(bytes, 0)?;
                (first.shared == 0 && first.end() <= bytes.len()).then_some(())?;
                new.push(Chunk { bytes: bytes.into(), is_changed: false });
            }
            self.chunks.splice(from..to, new);
        }
        Some(())
    }

    /// Checks the applied parts, and counts the messages of all subjects; `None` where they are no
    /// index.
    pub(crate) fn check_applied(&mut self) -> Option<u64> {
        let (mut before, mut subject): (Vec<u8>, Vec<u8>) = Default::default();
        let (mut count, mut messages) = (0, 0_u64);
        for chunk in &self.chunks {
            let bytes = &chunk.bytes;
            let mut start = 0;
            while start < bytes.len() {
                let entry = Entry::read(bytes, start).filter(|entry| entry.end() <= bytes.len())?;
                let is_first = start == 0;
                std::mem::swap(&mut before, &mut subject);
                subject.clear();
                if !is_first {
                    subject.extend_from_slice(before.get(..entry.shared)?);
                }
                subject.extend_from_slice(entry.suffix_of(bytes));
                let rises = count == 0 || before < subject;
                let shared = if is_first { 0 } else { common(&before, &subject) };
                let numbers = &bytes[entry.numbers_start()..entry.end()];
                let totals = SubjectTotals::decode(entry.is_single, numbers)?;
                let is_sound = rises
                    && shared == entry.shared
                    && entry.is_single == (totals.count == 1)
                    && totals.count > 0
                    && totals.encode().1 == entry.numbers;
                is_sound.then_some(())?;
                count += 1;
                messages = messages.checked_add(totals.count)?;
                start = entry.end();
            }
        }
        self.subject_count = count;
        Some(messages)
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
            // A removed chunk is noted as a change of its neighbour.
            let beside = index.min(self.chunks.len().saturating_sub(1));
            if let Some(beside) = self.chunks.get_mut(beside) {
                beside.is_changed = true;
            }
        } else if length > CHUNK_BYTES_MAX {
            if let Some(second) = self.chunks[index].split() {
                self.chunks.insert(index + 1, second);
            }
        } else if let Some(next) = self.chunks.get(index + 1)
            && length + next.bytes.len() <= MERGED_BYTES_MAX
        {
            let next = self.chunks.remove(index + 1);
            self.chunks[index].merge(&next);
        }
    }

    /// Asserts the invariants.
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

/// The bytes that all subjects matching a filter begin with.
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
            let mut stored = SubjectIndex::default();
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
                if random.u8(0..40) == 0 {
                    let mut changes = index.take_changes(false);
                    while let Some(part) = changes.next_part(random.usize(1..20_000)) {
                        stored.apply(&part).expect("it was stored");
                    }
                    assert!(stored.check_applied().is_some());
                    assert_eq!(scanned(&stored, b">", 100), scanned(&index, b">", 100));
                    stored.check_invariants();
                }
                if random.u16(0..600) == 0 {
                    index.clear();
                    twin.clear();
                }
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
        assert!(bytes_each <= 16, "{bytes_each} bytes a subject");
        let mut whole = index.take_changes(true);
        let mut again = SubjectIndex::default();
        while let Some(part) = whole.next_part(10_000) {
            again.apply(&part).expect("it was stored");
        }
        assert_eq!(again.check_applied(), Some(20_000));
    }

    #[test]
    fn part_that_was_not_stored_so_is_none_and_never_a_panic() {
        let mut index = SubjectIndex::default();
        for number in 0..300_u64 {
            let subject = (number * 7919 % 300).to_string();
            index.update(subject.as_bytes(), |_| Some(SubjectTotals::single(number)));
        }
        let part = index.take_changes(true).next_part(1 << 20).expect("there is something");
        let mut random = Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut changed = part.clone();
            match random.u8(0..4) {
                0 => changed.truncate(random.usize(0..part.len())),
                _ => changed[random.usize(0..part.len())] ^= 1 << random.u8(0..8),
            }
            let mut other = SubjectIndex::default();
            if other.apply(&changed).and_then(|()| other.check_applied()).is_some() {
                other.check_invariants();
            }
        }
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
