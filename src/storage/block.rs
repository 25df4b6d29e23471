//! Some 64 KiB of a stream's messages: the unit that is held, read and freed.
//!
//! Messages lie behind one another, each: time i64 | bytes of the subject u16, of the headers u32, of the payload u32 |
//! subject, headers, payload. An entry per message that is still there says where it begins. Deleting one removes its
//! entry; once more than half of the bytes belong to none, the rest is moved together, at a cost that the deletes
//! before have paid for.
//!
//! A block that is complete knows how many messages of each subject it has, by a hash of 64 bits: who looks for a
//! subject passes over blocks without it.

use std::collections::HashSet;

use twox_hash::XxHash3_64;

/// Bytes of messages past which a block is complete; one longer message makes a longer block.
pub const BLOCK_BYTES_FULL: usize = 64 << 10;

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

/// Consecutive messages of a stream, but for those that were deleted.
#[derive(Debug)]
pub struct Block {
    /// The sequence that entries count from: that of the first message ever put here.
    base: u64,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    dead_bytes: usize,
    /// Hashes of subjects with the number of their messages here, sorted; once the block is complete.
    subjects: Option<Vec<(u64, u32)>>,
}

impl Block {
    /// A block that begins with this message.
    pub fn new(message: &Message<'_>) -> Self {
        let mut block = Self {
            base: message.sequence,
            entries: Vec::new(),
            bytes: Vec::new(),
            dead_bytes: 0,
            subjects: None,
        };
        block.push(message);
        block
    }

    /// True if the message has room behind the others.
    pub fn has_room(&self, message: &Message<'_>) -> bool {
        let longer = self.bytes.len() + message.encoded_bytes();
        let spans = u32::try_from(message.sequence - self.base).is_ok();
        self.subjects.is_none() && longer <= BLOCK_BYTES_FULL && spans
    }

    /// # Panics
    /// The sequence is not above all others, or there is no room for it and others are there.
    pub fn push(&mut self, message: &Message<'_>) {
        assert!(self.bytes.is_empty() || self.has_room(message), "the block is full");
        let sequence_offset = u32::try_from(message.sequence - self.base).expect("there is room");
        let rises = self.entries.last().is_none_or(|last| last.sequence_offset < sequence_offset);
        assert!(rises, "sequences rise");
        let byte_offset = u32::try_from(self.bytes.len()).expect("there is room");
        self.entries.push(Entry { sequence_offset, byte_offset });
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a part is shorter than 4 GiB");
        let subject = u16::try_from(message.subject.len()).expect("subjects are shorter");
        self.bytes.extend_from_slice(&message.time_ns.to_le_bytes());
        self.bytes.extend_from_slice(&subject.to_le_bytes());
        self.bytes.extend_from_slice(&length(message.headers).to_le_bytes());
        self.bytes.extend_from_slice(&length(message.payload).to_le_bytes());
        for part in [message.subject, message.headers, message.payload] {
            self.bytes.extend_from_slice(part);
        }
    }

    /// No message is put here any more.
    pub fn complete(&mut self, hasher: SubjectHasher) {
        let mut hashes: Vec<u64> =
            self.messages().map(|message| hasher.hash(message.subject)).collect();
        hashes.sort_unstable();
        let count = |same: &[u64]| (same[0], same.len() as u32);
        self.subjects = Some(hashes.chunk_by(|left, right| left == right).map(count).collect());
        self.entries.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }

    pub fn is_complete(&self) -> bool {
        self.subjects.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sequences of the first and the last message.
    ///
    /// # Panics
    /// There is none: a stream drops a block with its last message.
    pub fn first(&self) -> u64 {
        self.sequence(self.entries.first().expect("no block is empty"))
    }

    pub fn last(&self) -> u64 {
        self.sequence(self.entries.last().expect("no block is empty"))
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.subjects.as_ref().map_or(0, |subjects| subjects.capacity() * 16)
    }

    pub fn get(&self, sequence: u64) -> Option<Message<'_>> {
        Some(self.message(&self.entries[self.index_of(sequence)?]))
    }

    /// All messages, in order.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = Message<'_>> {
        self.entries.iter().map(|entry| self.message(entry))
    }

    /// Those from a sequence on, in order.
    pub fn messages_from(&self, sequence: u64) -> impl DoubleEndedIterator<Item = Message<'_>> {
        let begin = self.entries.partition_point(|entry| self.sequence(entry) < sequence);
        self.entries[begin..].iter().map(|entry| self.message(entry))
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
        let message = self.message(&self.entries[index]);
        let (length, hash) = (message.encoded_bytes(), hasher.hash(message.subject));
        self.entries.remove(index);
        self.dead_bytes += length;
        if let Some(subjects) = &mut self.subjects {
            let found = subjects.binary_search_by_key(&hash, |(hash, _)| *hash);
            let index = found.expect("the subject of a message is counted");
            subjects[index].1 -= 1;
            if subjects[index].1 == 0 {
                subjects.remove(index);
            }
        }
        if self.dead_bytes > self.bytes.len() / 2 {
            self.compact();
        }
        true
    }

    fn compact(&mut self) {
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.dead_bytes);
        for entry in &mut self.entries {
            let start = entry.byte_offset as usize;
            let length = decode(0, &self.bytes[start..]).encoded_bytes();
            entry.byte_offset = bytes.len() as u32;
            bytes.extend_from_slice(&self.bytes[start..start + length]);
        }
        self.bytes = bytes;
        self.entries.shrink_to_fit();
        self.dead_bytes = 0;
    }

    fn index_of(&self, sequence: u64) -> Option<usize> {
        let offset = u32::try_from(sequence.checked_sub(self.base)?).ok()?;
        self.entries.binary_search_by_key(&offset, |entry| entry.sequence_offset).ok()
    }

    fn sequence(&self, entry: &Entry) -> u64 {
        self.base + u64::from(entry.sequence_offset)
    }

    fn message(&self, entry: &Entry) -> Message<'_> {
        decode(self.sequence(entry), &self.bytes[entry.byte_offset as usize..])
    }

    /// Asserts what the head of this file promises.
    pub fn check_invariants(&self) {
        let live: usize = self.messages().map(|message| message.encoded_bytes()).sum();
        assert!(live + self.dead_bytes == self.bytes.len(), "bytes are miscounted");
        if let Some(subjects) = &self.subjects {
            let count: u64 = subjects.iter().map(|(_, count)| u64::from(*count)).sum();
            assert!(count == self.entries.len() as u64, "subjects are miscounted");
        }
    }
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
            assert!(block.has_room(&message(sequence, &payload)));
            block.push(&message(sequence, &payload));
        }
        block.complete(HASHER);
        assert!(!block.has_room(&message(2000, b"")));
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
        assert!(!block.has_room(&message(2, b"")), "one longer message has a block of its own");
        let block = Block::new(&message(1, b""));
        let room = BLOCK_BYTES_FULL - 2 * (PREFIX_BYTES + 2);
        assert!(block.has_room(&message(2, &payload[..room])));
        assert!(!block.has_room(&message(2, &payload[..room + 1])));
        assert!(block.has_room(&message(1 + u64::from(u32::MAX), b"")));
        assert!(!block.has_room(&message(2 + u64::from(u32::MAX), b"")));
    }
}
