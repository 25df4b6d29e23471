//! Some 64 KiB of a stream's messages: the unit that is held, stored, read and freed.
//!
//! Messages lie behind one another, each: time i64 | bytes of the subject u16, of the headers u32, of the payload u32 |
//! subject, headers, payload. An entry per message says where it begins. Deleting one notes its entry as dead; what is
//! stored (`segment`) stays what it was, and the manifest says which entries of it are dead. Once more than half of the
//! bytes belong to dead ones, the rest is moved together, at a cost that the deletes before have paid for: these are
//! other contents, which the next checkpoint stores.
//!
//! A block that is complete knows how many messages of each subject it has, by a hash of 64 bits: who looks for a
//! subject passes over blocks without it.
//!
//! The stored form is the [`Contents`]: entries u32, a sequence for each u32, counted from the block's base, then the
//! messages.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use twox_hash::XxHash3_64;

use super::position::StoredPlace;

/// Bytes of messages past which a block is complete; one longer message makes a longer block.
pub(crate) const BLOCK_BYTES_FULL: usize = 64 << 10;

const PREFIX_BYTES: usize = 8 + 2 + 4 + 4;

/// A message as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'block> {
    pub sequence: u64,
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    pub subject: &'block [u8],
    /// The header block with its first and last line; empty where there is none.
    pub headers: &'block [u8],
    pub payload: &'block [u8],
}

impl Message<'_> {
    fn encoded_bytes(&self) -> usize {
        PREFIX_BYTES + self.subject.len() + self.headers.len() + self.payload.len()
    }
}

/// Where a message begins. Sequences count from the block's first: a block spans at most 2^32 of them.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence_offset: u32,
    byte_offset: u32,
}

/// Hashes subjects: how depends on the stream, since subjects come from peers.
#[derive(Clone, Copy, Debug)]
pub struct SubjectHasher {
    pub seed: u64,
}

impl SubjectHasher {
    pub fn hash(self, subject: &[u8]) -> u64 {
        XxHash3_64::oneshot_with_seed(self.seed, subject)
    }
}

/// The messages of a block, dead ones too.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Contents {
    /// The part of the stored form before the messages, and the messages.
    pub fn encode(&self) -> (Vec<u8>, &[u8]) {
        let mut head = Vec::with_capacity(4 * (self.entries.len() + 1));
        let count = u32::try_from(self.entries.len()).expect("a block is shorter than 4 GiB");
        head.extend_from_slice(&count.to_le_bytes());
        for entry in &self.entries {
            head.extend_from_slice(&entry.sequence_offset.to_le_bytes());
        }
        (head, &self.bytes)
    }

    /// The inverse; none where it is nothing that this program writes.
    pub fn decode(stored: &[u8]) -> Option<Self> {
        let (count, rest) = stored.split_first_chunk::<4>()?;
        let (sequences, bytes) = rest.split_at_checked(4 * u32::from_le_bytes(*count) as usize)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(sequences.len() / 4);
        let mut byte_offset = 0;
        for sequence in sequences.chunks_exact(4) {
            let sequence_offset = u32::from_le_bytes(sequence.try_into().expect("four bytes"));
            let rises = entries.last().is_none_or(|last| last.sequence_offset < sequence_offset);
            rises.then_some(())?;
            entries.push(Entry { sequence_offset, byte_offset: u32::try_from(byte_offset).ok()? });
            byte_offset += encoded_bytes(&bytes[byte_offset..])?;
        }
        (byte_offset == bytes.len()).then(|| Self { entries, bytes: bytes.to_vec() })
    }
}

/// A set of entries, by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySet {
    words: Vec<u64>,
}

impl EntrySet {
    pub fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    pub fn insert(&mut self, index: usize) {
        if self.words.len() <= index / 64 {
            self.words.resize(index / 64 + 1, 0);
        }
        self.words[index / 64] |= 1 << (index % 64);
    }

    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub fn from_words(words: Vec<u64>) -> Self {
        Self { words }
    }
}

/// What the manifest says of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockFacts {
    /// The sequence that entries count from.
    pub base: u64,
    /// The sequences of the first and the last message, and how many there are.
    pub first: u64,
    pub last: u64,
    pub count: u32,
    /// The time of the last message that was put here.
    pub last_time_ns: i64,
    pub is_complete: bool,
    /// Entries of deleted messages.
    pub dead: EntrySet,
}

/// Consecutive messages of a stream, but for those that were deleted.
#[derive(Debug)]
pub struct Block {
    facts: BlockFacts,
    /// Shared with a checkpoint that stores it.
    contents: Rc<Contents>,
    dead_bytes: usize,
    /// Hashes of subjects with the number of their messages here, sorted; once the block is complete.
    subjects: Option<Vec<(u64, u32)>>,
    /// Counts the changes of the contents.
    version: u64,
    /// Where these contents are stored, if they are.
    stored: Option<StoredPlace>,
    /// The facts changed since they were noted for a manifest.
    is_changed: bool,
    /// They were noted at least once: a manifest may know the block.
    is_noted: bool,
}

impl Block {
    /// A block that begins with this message.
    pub fn new(message: &Message<'_>) -> Self {
        let mut block = Self {
            facts: BlockFacts {
                base: message.sequence,
                first: message.sequence,
                last: message.sequence,
                count: 0,
                last_time_ns: message.time_ns,
                is_complete: false,
                dead: EntrySet::default(),
            },
            contents: Rc::default(),
            dead_bytes: 0,
            subjects: None,
            version: 0,
            stored: None,
            is_changed: true,
            is_noted: false,
        };
        block.push(message);
        block
    }

    /// A block as it was stored; none where the contents are not those that the facts tell of.
    pub fn restore(
        facts: BlockFacts,
        contents: Contents,
        stored: StoredPlace,
        hasher: SubjectHasher,
    ) -> Option<Self> {
        let mut block = Self {
            facts,
            contents: Rc::new(contents),
            dead_bytes: 0,
            subjects: None,
            version: 0,
            stored: Some(stored),
            is_changed: false,
            is_noted: true,
        };
        let (mut count, mut dead_bytes) = (0, 0);
        for (index, entry) in block.contents.entries.iter().enumerate() {
            let sequence = block.facts.base.checked_add(u64::from(entry.sequence_offset))?;
            match block.facts.dead.contains(index) {
                true => dead_bytes += block.message(entry).encoded_bytes(),
                false => {
                    let is_within = (block.facts.first..=block.facts.last).contains(&sequence);
                    is_within.then_some(())?;
                    count += 1;
                }
            }
        }
        block.dead_bytes = dead_bytes;
        let is_right = count == block.facts.count
            && count > 0
            && block.index_of(block.facts.first).is_some()
            && block.index_of(block.facts.last).is_some()
            && block.facts.dead.len() + count as usize == block.contents.entries.len();
        is_right.then_some(())?;
        if block.facts.is_complete {
            block.count_subjects(hasher);
        }
        Some(block)
    }

    /// True if the message has room behind the others, of which there are at most `bytes_full`.
    pub fn has_room(&self, message: &Message<'_>, bytes_full: usize) -> bool {
        let longer = self.contents.bytes.len() + message.encoded_bytes();
        let spans = u32::try_from(message.sequence - self.facts.base).is_ok();
        !self.facts.is_complete && longer <= bytes_full && spans
    }

    /// # Panics
    /// The sequence is not above all others, or the block is complete.
    pub fn push(&mut self, message: &Message<'_>) {
        assert!(!self.facts.is_complete, "the block is complete");
        let sequence_offset =
            u32::try_from(message.sequence - self.facts.base).expect("there is room");
        let contents = Rc::make_mut(&mut self.contents);
        let rises = |last: &Entry| last.sequence_offset < sequence_offset;
        assert!(contents.entries.last().is_none_or(rises), "sequences rise");
        let byte_offset = u32::try_from(contents.bytes.len()).expect("there is room");
        contents.entries.push(Entry { sequence_offset, byte_offset });
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a part is shorter than 4 GiB");
        let subject = u16::try_from(message.subject.len()).expect("subjects are shorter");
        contents.bytes.extend_from_slice(&message.time_ns.to_le_bytes());
        contents.bytes.extend_from_slice(&subject.to_le_bytes());
        contents.bytes.extend_from_slice(&length(message.headers).to_le_bytes());
        contents.bytes.extend_from_slice(&length(message.payload).to_le_bytes());
        for part in [message.subject, message.headers, message.payload] {
            contents.bytes.extend_from_slice(part);
        }
        self.facts.count += 1;
        self.facts.last = message.sequence;
        self.facts.last_time_ns = message.time_ns;
        self.contents_changed();
    }

    fn contents_changed(&mut self) {
        self.version += 1;
        self.stored = None;
        self.is_changed = true;
    }

    /// No message is put here any more.
    pub fn complete(&mut self, hasher: SubjectHasher) {
        self.count_subjects(hasher);
        self.facts.is_complete = true;
        self.is_changed = true;
        if let Some(contents) = Rc::get_mut(&mut self.contents) {
            contents.entries.shrink_to_fit();
            contents.bytes.shrink_to_fit();
        }
    }

    fn count_subjects(&mut self, hasher: SubjectHasher) {
        let mut hashes: Vec<u64> =
            self.messages().map(|message| hasher.hash(message.subject)).collect();
        hashes.sort_unstable();
        let count = |same: &[u64]| (same[0], same.len() as u32);
        self.subjects = Some(hashes.chunk_by(|left, right| left == right).map(count).collect());
    }

    pub fn is_complete(&self) -> bool {
        self.facts.is_complete
    }

    pub fn is_empty(&self) -> bool {
        self.facts.count == 0
    }

    /// The sequence that names the block within its stream.
    pub fn base(&self) -> u64 {
        self.facts.base
    }

    /// The sequences of the first and the last message.
    ///
    /// # Panics
    /// There is none: a stream drops a block with its last message.
    pub fn first(&self) -> u64 {
        assert!(self.facts.count > 0, "no block is empty");
        self.facts.first
    }

    pub fn last(&self) -> u64 {
        assert!(self.facts.count > 0, "no block is empty");
        self.facts.last
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.facts.count as usize
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.contents.bytes.capacity()
            + self.contents.entries.capacity() * size_of::<Entry>()
            + self.facts.dead.words.capacity() * 8
            + self.subjects.as_ref().map_or(0, |subjects| subjects.capacity() * 16)
    }

    /// Bytes of messages, dead ones too, that only memory and the journal hold.
    pub fn unstored_bytes(&self) -> usize {
        if self.stored.is_some() { 0 } else { self.contents.bytes.len() }
    }

    pub fn get(&self, sequence: u64) -> Option<Message<'_>> {
        Some(self.message(&self.contents.entries[self.index_of(sequence)?]))
    }

    /// All messages, in order.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = Message<'_>> {
        self.live(0)
    }

    /// Those from a sequence on, in order.
    pub fn messages_from(&self, sequence: u64) -> impl DoubleEndedIterator<Item = Message<'_>> {
        let is_before = |entry: &Entry| self.sequence(entry) < sequence;
        self.live(self.contents.entries.partition_point(is_before))
    }

    fn live(&self, begin: usize) -> impl DoubleEndedIterator<Item = Message<'_>> {
        (begin..self.contents.entries.len())
            .filter(|index| !self.facts.dead.contains(*index))
            .map(|index| self.message(&self.contents.entries[index]))
    }

    /// How many messages have a subject of this hash; those of the block so far where it is not complete.
    pub fn count_of(&self, hasher: SubjectHasher, hash: u64) -> u32 {
        match &self.subjects {
            Some(subjects) => subjects
                .binary_search_by_key(&hash, |(hash, _)| *hash)
                .map_or(0, |index| subjects[index].1),
            None => self.messages().filter(|message| hasher.hash(message.subject) == hash).count()
                as u32,
        }
    }

    /// How many messages have a subject with one of these hashes.
    pub fn count_of_set(&self, hasher: SubjectHasher, hashes: &HashSet<u64>) -> u64 {
        let count = |hash: &u64| u64::from(self.count_of(hasher, *hash));
        match &self.subjects {
            Some(subjects) if subjects.len() < hashes.len() => subjects
                .iter()
                .filter(|(hash, _)| hashes.contains(hash))
                .map(|(_, count)| u64::from(*count))
                .sum(),
            Some(_) => hashes.iter().map(count).sum(),
            None => {
                let is_one = |message: &Message<'_>| hashes.contains(&hasher.hash(message.subject));
                self.messages().filter(is_one).count() as u64
            }
        }
    }

    /// Deletes a message; false where there is none.
    pub fn remove(&mut self, hasher: SubjectHasher, sequence: u64) -> bool {
        let Some(index) = self.index_of(sequence) else { return false };
        let message = self.message(&self.contents.entries[index]);
        let (length, hash) = (message.encoded_bytes(), hasher.hash(message.subject));
        self.facts.dead.insert(index);
        self.facts.count -= 1;
        self.dead_bytes += length;
        self.is_changed = true;
        if let Some(subjects) = &mut self.subjects {
            let found = subjects.binary_search_by_key(&hash, |(hash, _)| *hash);
            let index = found.expect("the subject of a message is counted");
            subjects[index].1 -= 1;
            if subjects[index].1 == 0 {
                subjects.remove(index);
            }
        }
        if self.facts.count > 0 {
            if sequence == self.facts.first {
                let next = self.live(index).next().map(|next| next.sequence);
                self.facts.first = next.expect("one is left");
            }
            if sequence == self.facts.last {
                let before = self.live(0).next_back().map(|before| before.sequence);
                self.facts.last = before.expect("one is left");
            }
            if self.dead_bytes > self.contents.bytes.len() / 2 {
                self.compact();
            }
        }
        true
    }

    /// Moves what is not dead together: other contents, which are stored nowhere.
    fn compact(&mut self) {
        let mut contents = Contents {
            entries: Vec::with_capacity(self.len()),
            bytes: Vec::with_capacity(self.contents.bytes.len() - self.dead_bytes),
        };
        for (index, entry) in self.contents.entries.iter().enumerate() {
            if self.facts.dead.contains(index) {
                continue;
            }
            let start = entry.byte_offset as usize;
            let length = self.message(entry).encoded_bytes();
            let byte_offset = contents.bytes.len() as u32;
            contents.entries.push(Entry { byte_offset, ..*entry });
            contents.bytes.extend_from_slice(&self.contents.bytes[start..start + length]);
        }
        self.contents = Rc::new(contents);
        self.facts.dead = EntrySet::default();
        self.dead_bytes = 0;
        self.contents_changed();
    }

    /// True if both together have no more than so many bytes of messages, and nothing is put into either any more.
    pub fn can_merge(&self, next: &Self, bytes_max: usize) -> bool {
        let live = |block: &Self| block.contents.bytes.len() - block.dead_bytes;
        let spans = u32::try_from(next.facts.last - self.facts.base).is_ok();
        let are_complete = self.facts.is_complete && next.facts.is_complete;
        are_complete && spans && live(self) + live(next) <= bytes_max
    }

    /// Takes the messages of the block behind it.
    ///
    /// # Panics
    /// They can not be merged.
    pub fn merge(&mut self, next: &Self, hasher: SubjectHasher) {
        assert!(self.can_merge(next, usize::MAX), "the blocks fit together");
        self.compact();
        self.facts.is_complete = false;
        next.messages().for_each(|message| self.push(&message));
        self.complete(hasher);
    }

    /// What a manifest is to say of the block, where it has not been said or `all` is to be said again. What is stored in
    /// one of the segments `given_up` is to be stored anew.
    pub fn note(&mut self, all: bool, given_up: &BTreeSet<u64>) -> Option<NotedBlock> {
        if !self.is_changed && !all {
            return None;
        }
        self.is_changed = false;
        self.is_noted = true;
        let contents = match self.stored.filter(|stored| !given_up.contains(&stored.segment)) {
            Some(stored) => NotedContents::Stored(stored),
            None => NotedContents::New { contents: self.contents.clone(), version: self.version },
        };
        Some(NotedBlock { facts: self.facts.clone(), contents })
    }

    /// True if a manifest may know the block: that it is gone has to be said there.
    pub fn is_noted(&self) -> bool {
        self.is_noted
    }

    /// The contents of this version are stored, durably.
    pub fn stored(&mut self, version: u64, place: StoredPlace) {
        if self.version == version {
            self.stored = Some(place);
        }
    }

    fn index_of(&self, sequence: u64) -> Option<usize> {
        let offset = u32::try_from(sequence.checked_sub(self.facts.base)?).ok()?;
        let entries = &self.contents.entries;
        let index = entries.binary_search_by_key(&offset, |entry| entry.sequence_offset).ok()?;
        (!self.facts.dead.contains(index)).then_some(index)
    }

    fn sequence(&self, entry: &Entry) -> u64 {
        self.facts.base + u64::from(entry.sequence_offset)
    }

    fn message(&self, entry: &Entry) -> Message<'_> {
        decode(self.sequence(entry), &self.contents.bytes[entry.byte_offset as usize..])
    }

    /// Asserts what the head of this file promises.
    pub fn check_invariants(&self) {
        let live: usize = self.messages().map(|message| message.encoded_bytes()).sum();
        assert!(live + self.dead_bytes == self.contents.bytes.len(), "bytes are miscounted");
        let count = self.messages().count();
        assert!(count == self.len(), "messages are miscounted");
        assert!(self.messages().next().is_none_or(|first| first.sequence == self.first()));
        assert!(self.messages().next_back().is_none_or(|last| last.sequence == self.last()));
        if let Some(subjects) = &self.subjects {
            let sum: u64 = subjects.iter().map(|(_, count)| u64::from(*count)).sum();
            assert!(sum == count as u64, "subjects are miscounted");
        }
    }
}

/// A block as a checkpoint has to note it.
#[derive(Debug)]
pub struct NotedBlock {
    pub facts: BlockFacts,
    pub contents: NotedContents,
}

/// Where a block's contents are.
#[derive(Debug)]
pub enum NotedContents {
    Stored(StoredPlace),
    /// Only in memory: they have to be stored.
    New {
        contents: Rc<Contents>,
        version: u64,
    },
}

/// Bytes of the message that `bytes` begin with; none where it does not end within them.
fn encoded_bytes(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    let subject = usize::from(u16::from_le_bytes([prefix[8], prefix[9]]));
    let word = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four bytes"));
    let length = PREFIX_BYTES + subject + word(10) as usize + word(14) as usize;
    (length <= bytes.len()).then_some(length)
}

/// The message that `bytes` begin with. They are this program's own, and whole.
fn decode(sequence: u64, bytes: &[u8]) -> Message<'_> {
    let (prefix, rest) = bytes.split_at(PREFIX_BYTES);
    let half_word =
        |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four bytes")) as usize;
    let (subject, rest) = rest.split_at(usize::from(u16::from_le_bytes([prefix[8], prefix[9]])));
    let (headers, rest) = rest.split_at(half_word(10));
    let payload = &rest[..half_word(14)];
    let time_ns = i64::from_le_bytes(prefix[..8].try_into().expect("eight bytes"));
    Message { sequence, time_ns, subject, headers, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASHER: SubjectHasher = SubjectHasher { seed: 5 };

    fn message(sequence: u64, payload: &[u8]) -> Message<'_> {
        let subject: &[u8] = if sequence.is_multiple_of(3) { b"a.b" } else { b"c" };
        Message { sequence, time_ns: -7, subject, headers: b"h", payload }
    }

    #[test]
    fn messages_read_back_until_they_are_deleted() {
        let payload = vec![9; 100];
        let mut block = Block::new(&message(1000, &payload));
        for sequence in (1002..1400).step_by(2) {
            assert!(block.has_room(&message(sequence, &payload), BLOCK_BYTES_FULL));
            block.push(&message(sequence, &payload));
        }
        block.complete(HASHER);
        assert!(!block.has_room(&message(2000, b""), BLOCK_BYTES_FULL));
        let (third, other) = (HASHER.hash(b"a.b"), HASHER.hash(b"c"));
        assert_eq!(block.count_of(HASHER, third) + block.count_of(HASHER, other), 200);
        assert_eq!(block.get(1001), None);
        assert_eq!(block.get(1002), Some(message(1002, &payload)));
        let before = block.memory_bytes();
        for sequence in (1000..1400).filter(|sequence| sequence % 8 != 6) {
            assert_eq!(block.remove(HASHER, sequence), sequence % 2 == 0);
            block.check_invariants();
        }
        assert_eq!(block.len(), 50);
        assert!(block.memory_bytes() < before / 2, "what is deleted stays in memory");
        assert_eq!((block.first(), block.last()), (1006, 1398));
        let left: Vec<u64> = block.messages_from(1380).map(|message| message.sequence).collect();
        assert_eq!(left, [1382, 1390, 1398]);
        assert!(block.messages().all(|found| found == message(found.sequence, &payload)));
        let thirds = block.messages().filter(|message| message.subject == b"a.b").count();
        assert_eq!(block.count_of(HASHER, third) as usize, thirds);
    }

    #[test]
    fn room_ends_with_the_bytes_and_with_the_span() {
        let payload = vec![0; BLOCK_BYTES_FULL];
        let block = Block::new(&message(1, &payload));
        assert!(
            !block.has_room(&message(2, b""), BLOCK_BYTES_FULL),
            "one longer message has a block of its own"
        );
        let block = Block::new(&message(1, b""));
        let room = BLOCK_BYTES_FULL - 2 * (PREFIX_BYTES + 2);
        assert!(block.has_room(&message(2, &payload[..room]), BLOCK_BYTES_FULL));
        assert!(!block.has_room(&message(2, &payload[..room + 1]), BLOCK_BYTES_FULL));
        assert!(block.has_room(&message(1 + u64::from(u32::MAX), b""), BLOCK_BYTES_FULL));
        assert!(!block.has_room(&message(2 + u64::from(u32::MAX), b""), BLOCK_BYTES_FULL));
    }

    #[test]
    fn stored_block_reads_back_with_its_dead_until_most_of_it_is() {
        let payload = vec![9; 100];
        let mut block = Block::new(&message(1000, &payload));
        for sequence in (1001..1100).filter(|sequence| sequence % 7 > 0) {
            block.push(&message(sequence, &payload));
        }
        block.complete(HASHER);
        let none = BTreeSet::new();
        let noted = block.note(false, &none).expect("it is new");
        assert!(block.note(false, &none).is_none() && block.note(true, &none).is_some());
        let NotedContents::New { contents, version } = noted.contents else {
            panic!("it is nowhere stored");
        };
        let (head, bytes) = contents.encode();
        let stored = [&head, bytes].concat();
        let place = StoredPlace { segment: 1, offset: 0, bytes: stored.len() as u32 };
        block.stored(version, place);
        for sequence in 1003..1098 {
            block.remove(HASHER, sequence);
            block.check_invariants();
            let noted = block.note(false, &none);
            let Some(NotedBlock { facts, contents: NotedContents::Stored(found) }) = noted else {
                continue;
            };
            assert_eq!(found, place);
            let contents = Contents::decode(&stored).expect("it was encoded");
            let restored = Block::restore(facts, contents, place, HASHER).expect("it fits");
            restored.check_invariants();
            assert!(restored.messages().eq(block.messages()), "after {sequence}");
            assert_eq!(
                restored.count_of(HASHER, HASHER.hash(b"c")),
                block.count_of(HASHER, HASHER.hash(b"c"))
            );
        }
        assert_eq!(block.len(), 3);
        assert!(block.unstored_bytes() > 0, "what is left has to be stored anew");
    }

    #[test]
    fn what_is_put_into_a_block_makes_it_unstored() {
        let mut block = Block::new(&message(1, b"a"));
        let none = BTreeSet::new();
        let noted = block.note(false, &none).expect("it is new");
        let NotedContents::New { version, .. } = noted.contents else { panic!("it is new") };
        block.push(&message(2, b"b"));
        block.stored(version, StoredPlace { segment: 1, offset: 0, bytes: 9 });
        let noted = block.note(false, &none).expect("it has changed");
        assert!(matches!(noted.contents, NotedContents::New { .. }));
        assert!(block.unstored_bytes() > 0);
    }

    #[test]
    fn what_is_left_of_two_blocks_is_one_block() {
        let mut blocks: Vec<Block> = [100, 200]
            .into_iter()
            .map(|base| {
                let mut block = Block::new(&message(base, b"abc"));
                (base + 1..base + 50).for_each(|next| block.push(&message(next, b"xyz")));
                block.complete(HASHER);
                block
            })
            .collect();
        let mut second = blocks.pop().expect("there are two");
        let mut first = blocks.pop().expect("there are two");
        let bytes = first.contents.bytes.len() + second.contents.bytes.len();
        assert!(first.can_merge(&second, bytes) && !first.can_merge(&second, bytes - 1));
        assert!(!first.can_merge(&Block::new(&message(300, b"")), usize::MAX), "it takes more");
        (100..140).for_each(|sequence| assert!(first.remove(HASHER, sequence)));
        (205..250).for_each(|sequence| assert!(second.remove(HASHER, sequence)));
        let expected: Vec<u64> = (140..150).chain(200..205).collect();
        first.merge(&second, HASHER);
        first.check_invariants();
        let found: Vec<u64> = first.messages().map(|message| message.sequence).collect();
        assert_eq!((found, first.base()), (expected, 100));
        assert_eq!((first.first(), first.last()), (140, 204));
    }

    #[test]
    fn contents_that_were_not_written_so_are_none_and_never_a_panic() {
        let mut block = Block::new(&message(1, b"abc"));
        (2..20).for_each(|sequence| block.push(&message(sequence, b"xyz")));
        let facts = block.facts.clone();
        let (head, bytes) = block.contents.encode();
        let stored = [&head, bytes].concat();
        let place = StoredPlace { segment: 1, offset: 0, bytes: 9 };
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut changed = stored.clone();
            match random.u8(0..3) {
                0 => changed.truncate(random.usize(0..changed.len())),
                _ => {
                    let at = random.usize(0..changed.len().min(120));
                    changed[at] = random.u8(..);
                }
            }
            if let Some(contents) = Contents::decode(&changed) {
                let (head, bytes) = contents.encode();
                assert_eq!([&head, bytes].concat(), changed, "two forms of one block");
                if let Some(block) = Block::restore(facts.clone(), contents, place, HASHER) {
                    block.check_invariants();
                }
            }
        }
        for length in 0..stored.len() {
            assert!(Contents::decode(&stored[..length]).is_none(), "{length}");
        }
    }
}
