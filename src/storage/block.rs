//! A block: some 64 KiB of a stream's messages, the unit that is held, stored, read and freed.
//!
//! Messages lie behind one another, each: time i64 | bytes of the subject u16, of the headers u32,
//! of the payload u32 | subject, headers, payload. An entry per message holds the place where it
//! begins. Deleting a message marks its entry as dead. The stored form (`segment`) does not change,
//! and the manifest lists the dead entries. Once more than half of the bytes belong to dead
//! entries, the live messages are moved together, at a cost that the deletes before have paid for.
//! These are new contents, which the next checkpoint stores.
//!
//! Stored contents need not be in memory: [`Block::loaded`] returns them or an error, and
//! [`Block::install`] takes them back. The rest of a block is always in memory. For a complete
//! block that includes 16 bits of the hash of each subject: a search for a subject passes over
//! nearly all blocks without it.
//!
//! The stored form is the [`Contents`]: entries u32, a sequence for each u32, counted from the
//! block's base, then the messages.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use twox_hash::XxHash3_64;

use super::marks::{Marks, TimeToLive};
use super::position::StoredPlace;

/// The size in bytes past which a block is complete. A longer message makes a longer block.
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

/// The place where a message begins. Sequences count from the block's first: a block spans at most
/// 2^32 of them.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence_offset: u32,
    byte_offset: u32,
}

/// Hashes subjects, in each stream differently, since subjects come from peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubjectHasher {
    pub seed: u64,
}

impl SubjectHasher {
    pub(crate) fn hash(self, subject: &[u8]) -> u64 {
        XxHash3_64::oneshot_with_seed(self.seed, subject)
    }
}

/// The error that contents are stored and not in memory: those of the block with this base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLoaded {
    pub base: u64,
}

/// The messages of a block, dead ones too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// The ends of the messages that have their own, each with its entry, sorted. Made when first
    /// needed.
    ends: OnceCell<Vec<(i64, u32)>>,
}

impl Contents {
    /// The stored form in two parts: the part before the messages, and the messages.
    pub(crate) fn encode(&self) -> (Vec<u8>, &[u8]) {
        let mut head = Vec::with_capacity(4 * (self.entries.len() + 1));
        let count = u32::try_from(self.entries.len()).expect("a block is shorter than 4 GiB");
        head.extend_from_slice(&count.to_le_bytes());
        for entry in &self.entries {
            head.extend_from_slice(&entry.sequence_offset.to_le_bytes());
        }
        (head, &self.bytes)
    }

    /// The inverse; `None` for bytes that this program does not write.
    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
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
        let is_whole = byte_offset == bytes.len();
        is_whole.then(|| Self { entries, bytes: bytes.to_vec(), ends: OnceCell::new() })
    }

    /// Bytes of memory.
    fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    fn message(&self, base: u64, entry: &Entry) -> Message<'_> {
        let sequence = base + u64::from(entry.sequence_offset);
        decode(sequence, &self.bytes[entry.byte_offset as usize..])
    }

    fn ends(&self) -> &[(i64, u32)] {
        self.ends.get_or_init(|| {
            let end = |(entry, index): (&Entry, u32)| {
                let message = self.message(0, entry);
                let time_to_live = Marks::read(message.headers).time_to_live?;
                Some((end_ns(message.time_ns, time_to_live)?, index))
            };
            let mut ends: Vec<(i64, u32)> = self.entries.iter().zip(0..).filter_map(end).collect();
            ends.sort_unstable();
            ends
        })
    }
}

/// The time at which a message of that time ends; `None` if it never does.
pub(crate) fn end_ns(time_ns: i64, time_to_live: TimeToLive) -> Option<i64> {
    match time_to_live {
        TimeToLive::Never => None,
        TimeToLive::Nanoseconds(length) => Some(time_ns.saturating_add(length)),
    }
}

/// A set of entries, by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntrySet {
    words: Vec<u64>,
}

impl EntrySet {
    pub(crate) fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    pub(crate) fn insert(&mut self, index: usize) {
        if self.words.len() <= index / 64 {
            self.words.resize(index / 64 + 1, 0);
        }
        self.words[index / 64] |= 1 << (index % 64);
    }

    pub(crate) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn from_words(words: Vec<u64>) -> Self {
        Self { words }
    }
}

/// The end of a block none of whose messages ends on its own.
pub(crate) const NO_END: i64 = i64::MAX;

/// The end of a block whose messages' ends are not known.
pub(crate) const END_UNKNOWN: i64 = i64::MIN;

/// The facts about a block that the manifest holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockFacts {
    /// The sequence that entries count from.
    pub base: u64,
    /// The sequences of the first and the last message, and the number of messages.
    pub first: u64,
    pub last: u64,
    pub count: u32,
    /// The times of the first message, and of the last one that was added.
    pub first_time_ns: i64,
    pub last_time_ns: i64,
    /// No message ends on its own before that.
    pub end_ns: i64,
    /// The number of messages that were added with an id.
    pub id_count: u32,
    pub is_complete: bool,
    /// Entries of deleted messages.
    pub dead: EntrySet,
    /// Parts of the hashes of all subjects, sorted; `None` where any subject may be here.
    pub prints: Option<Rc<[u16]>>,
}

/// The part of a subject's hash that blocks keep.
fn print(hash: u64) -> u16 {
    (hash >> 48) as u16
}

/// Consecutive messages of a stream, without those that were deleted.
#[derive(Debug)]
pub(crate) struct Block {
    facts: BlockFacts,
    /// Shared with a checkpoint that stores them; `None` while they are only stored.
    contents: Option<Rc<Contents>>,
    /// Bytes of all messages, and of the dead ones among them. 0 where the contents were never
    /// loaded.
    bytes: usize,
    dead_bytes: usize,
    /// Counts the changes of the contents.
    version: u64,
    /// The place where these contents are stored, if they are.
    stored: Option<StoredPlace>,
    /// The facts changed since they were last noted for a manifest.
    is_changed: bool,
    /// They were noted at least once: a manifest may know the block.
    is_noted: bool,
    /// The contents were used since [`Block::take_used`].
    is_used: Cell<bool>,
    /// The cache counts the contents.
    pub(super) is_cached: bool,
}

/// A block's messages.
#[derive(Clone, Copy)]
pub(crate) struct Loaded<'block> {
    facts: &'block BlockFacts,
    contents: &'block Contents,
}

impl<'block> Loaded<'block> {
    pub(crate) fn get(self, sequence: u64) -> Option<Message<'block>> {
        Some(self.message(&self.contents.entries[self.index_of(sequence)?]))
    }

    /// All messages, in order.
    pub(crate) fn messages(self) -> impl DoubleEndedIterator<Item = Message<'block>> {
        self.live(0)
    }

    /// The messages from a sequence on, in order.
    pub(crate) fn messages_from(
        self,
        sequence: u64,
    ) -> impl DoubleEndedIterator<Item = Message<'block>> {
        let is_before =
            |entry: &Entry| self.facts.base + u64::from(entry.sequence_offset) < sequence;
        self.live(self.contents.entries.partition_point(is_before))
    }

    fn live(self, begin: usize) -> impl DoubleEndedIterator<Item = Message<'block>> {
        (begin..self.contents.entries.len())
            .filter(move |index| !self.facts.dead.contains(*index))
            .map(move |index| self.message(&self.contents.entries[index]))
    }

    /// The number of messages whose subject has one of these hashes.
    pub(crate) fn count_of_set(self, hasher: SubjectHasher, hashes: &HashSet<u64>) -> u64 {
        let is_one = |message: &Message<'_>| hashes.contains(&hasher.hash(message.subject));
        self.messages().filter(is_one).count() as u64
    }

    /// The message that ends first on its own, with its end.
    pub(crate) fn first_end(self) -> Option<(i64, u64)> {
        let is_live = |(_, index): &&(i64, u32)| !self.facts.dead.contains(*index as usize);
        let (end_ns, index) = self.contents.ends().iter().find(is_live)?;
        Some((*end_ns, self.message(&self.contents.entries[*index as usize]).sequence))
    }

    fn index_of(self, sequence: u64) -> Option<usize> {
        let offset = u32::try_from(sequence.checked_sub(self.facts.base)?).ok()?;
        let entries = &self.contents.entries;
        let index = entries.binary_search_by_key(&offset, |entry| entry.sequence_offset).ok()?;
        (!self.facts.dead.contains(index)).then_some(index)
    }

    fn message(self, entry: &Entry) -> Message<'block> {
        self.contents.message(self.facts.base, entry)
    }
}

const IN_MEMORY: &str = "who changes a block has loaded it";

impl Block {
    /// A block that begins with this message.
    pub(crate) fn new(message: &Message<'_>, marks: &Marks<'_>) -> Self {
        let mut block = Self {
            facts: BlockFacts {
                base: message.sequence,
                first: message.sequence,
                last: message.sequence,
                count: 0,
                first_time_ns: message.time_ns,
                last_time_ns: message.time_ns,
                end_ns: NO_END,
                id_count: 0,
                is_complete: false,
                dead: EntrySet::default(),
                prints: None,
            },
            contents: Some(Rc::default()),
            bytes: 0,
            dead_bytes: 0,
            version: 0,
            stored: None,
            is_changed: true,
            is_noted: false,
            is_used: Cell::new(true),
            is_cached: false,
        };
        block.push(message, marks);
        block
    }

    /// A block whose contents are only stored.
    pub(crate) fn restore(facts: BlockFacts, stored: StoredPlace) -> Self {
        Self {
            facts,
            contents: None,
            bytes: 0,
            dead_bytes: 0,
            version: 0,
            stored: Some(stored),
            is_changed: false,
            is_noted: true,
            is_used: Cell::new(false),
            is_cached: false,
        }
    }

    /// The messages.
    ///
    /// # Errors
    /// They are not in memory.
    pub(crate) fn loaded(&self) -> Result<Loaded<'_>, NotLoaded> {
        let contents = self.contents.as_deref().ok_or(NotLoaded { base: self.facts.base })?;
        self.is_used.set(true);
        Ok(Loaded { facts: &self.facts, contents })
    }

    /// The messages, without telling the cache.
    fn peek(&self) -> Option<Loaded<'_>> {
        let contents = self.contents.as_deref()?;
        Some(Loaded { facts: &self.facts, contents })
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.contents.is_some()
    }

    /// True if the contents were used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.is_used.replace(false)
    }

    /// Takes back stored contents; false where they do not fit the facts.
    #[must_use]
    pub(crate) fn install(&mut self, contents: Contents) -> bool {
        assert!(self.contents.is_none(), "the contents are there already");
        let loaded = Loaded { facts: &self.facts, contents: &contents };
        let (mut count, mut dead_bytes) = (0, 0);
        for (index, entry) in contents.entries.iter().enumerate() {
            if self.facts.dead.contains(index) {
                dead_bytes += contents.message(0, entry).encoded_bytes();
                continue;
            }
            let BlockFacts { base, first, last, first_time_ns, last_time_ns, .. } = self.facts;
            let sequence = base.checked_add(u64::from(entry.sequence_offset));
            let time_ns = contents.message(0, entry).time_ns;
            let is_within = sequence.is_some_and(|sequence| (first..=last).contains(&sequence))
                && (first_time_ns..=last_time_ns).contains(&time_ns);
            if !is_within {
                return false;
            }
            count += 1;
        }
        let is_right = count == self.facts.count
            && count > 0
            && loaded.index_of(self.facts.first).is_some()
            && loaded.index_of(self.facts.last).is_some()
            && self.facts.dead.len() + count as usize == contents.entries.len();
        if is_right {
            self.dead_bytes = dead_bytes;
            self.bytes = contents.bytes.len();
            self.contents = Some(Rc::new(contents));
            self.is_used.set(true);
        }
        is_right
    }

    /// Drops the contents from memory; false where they are stored nowhere else, or are not there.
    pub(crate) fn evict(&mut self) -> bool {
        self.stored.is_some() && self.contents.take().is_some()
    }

    /// The place that the contents have to be read from, if they are not in memory.
    pub(crate) fn missing(&self) -> Option<StoredPlace> {
        self.stored.filter(|_| self.contents.is_none())
    }

    #[cfg(test)]
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Takes the contents away though they are stored nowhere.
    #[cfg(test)]
    pub(super) fn take_contents(&mut self) -> Option<Rc<Contents>> {
        self.stored.get_or_insert(StoredPlace { segment: 0, offset: 0, bytes: 0 });
        self.contents.take()
    }

    #[cfg(test)]
    pub(super) fn put_contents(&mut self, contents: Rc<Contents>) {
        assert!(self.contents.replace(contents).is_none(), "the contents are there already");
    }

    /// True if the message has room behind the others, of which there are at most `bytes_full`.
    pub(crate) fn has_room(&self, message: &Message<'_>, bytes_full: usize) -> bool {
        let longer = self.bytes + message.encoded_bytes();
        let spans = u32::try_from(message.sequence - self.facts.base).is_ok();
        !self.facts.is_complete && longer <= bytes_full && spans
    }

    /// # Panics
    /// The sequence is not above all others, the block is complete, or its contents are not in
    /// memory.
    pub(crate) fn push(&mut self, message: &Message<'_>, marks: &Marks<'_>) {
        assert!(!self.facts.is_complete, "the block is complete");
        let sequence_offset =
            u32::try_from(message.sequence - self.facts.base).expect("there is room");
        let contents = Rc::make_mut(self.contents.as_mut().expect(IN_MEMORY));
        let rises = |last: &Entry| last.sequence_offset < sequence_offset;
        assert!(contents.entries.last().is_none_or(rises), "sequences rise");
        let byte_offset = u32::try_from(contents.bytes.len()).expect("there is room");
        contents.entries.push(Entry { sequence_offset, byte_offset });
        contents.ends.take();
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a part is shorter than 4 GiB");
        let subject = u16::try_from(message.subject.len()).expect("subjects are shorter");
        contents.bytes.extend_from_slice(&message.time_ns.to_le_bytes());
        contents.bytes.extend_from_slice(&subject.to_le_bytes());
        contents.bytes.extend_from_slice(&length(message.headers).to_le_bytes());
        contents.bytes.extend_from_slice(&length(message.payload).to_le_bytes());
        for part in [message.subject, message.headers, message.payload] {
            contents.bytes.extend_from_slice(part);
        }
        self.bytes = contents.bytes.len();
        self.facts.count += 1;
        self.facts.last = message.sequence;
        self.facts.last_time_ns = message.time_ns;
        self.facts.id_count += u32::from(marks.id.is_some());
        if let Some(end_ns) = marks.time_to_live.and_then(|ttl| end_ns(message.time_ns, ttl)) {
            self.facts.end_ns = self.facts.end_ns.min(end_ns);
        }
        self.contents_changed();
    }

    fn contents_changed(&mut self) {
        self.version += 1;
        self.stored = None;
        self.is_changed = true;
    }

    /// Makes the block complete: no message is added any more.
    ///
    /// # Panics
    /// The contents are not in memory.
    pub(crate) fn complete(&mut self, hasher: SubjectHasher) {
        let loaded = self.peek().expect(IN_MEMORY);
        let prints = loaded.messages().map(|message| print(hasher.hash(message.subject)));
        let mut prints: Vec<u16> = prints.collect();
        prints.sort_unstable();
        prints.dedup();
        self.facts.prints = Some(prints.into());
        self.facts.is_complete = true;
        self.is_changed = true;
        if let Some(contents) = self.contents.as_mut().and_then(Rc::get_mut) {
            contents.entries.shrink_to_fit();
            contents.bytes.shrink_to_fit();
        }
    }

    /// Makes the block complete, even if its contents are not in memory.
    pub(crate) fn close(&mut self) {
        self.is_changed |= !self.facts.is_complete;
        self.facts.is_complete = true;
    }

    /// Forgets the parts of hashes: any subject may be here.
    pub(crate) fn forget_prints(&mut self) {
        self.is_changed |= self.facts.prints.take().is_some();
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.facts.is_complete
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.facts.count == 0
    }

    /// The sequence that names the block within its stream.
    pub(crate) fn base(&self) -> u64 {
        self.facts.base
    }

    pub(crate) fn facts(&self) -> &BlockFacts {
        &self.facts
    }

    /// The sequence of the first message.
    ///
    /// # Panics
    /// The block is empty: a stream drops a block with its last message.
    pub(crate) fn first(&self) -> u64 {
        assert!(self.facts.count > 0, "no block is empty");
        self.facts.first
    }

    pub(crate) fn last(&self) -> u64 {
        assert!(self.facts.count > 0, "no block is empty");
        self.facts.last
    }

    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.facts.count as usize
    }

    /// No message ends on its own before that.
    pub(crate) fn end_ns(&self) -> i64 {
        self.facts.end_ns
    }

    pub(crate) fn set_end_ns(&mut self, end_ns: i64) {
        self.is_changed |= self.facts.end_ns != end_ns;
        self.facts.end_ns = end_ns;
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.contents.as_ref().map_or(0, |contents| contents.memory_bytes())
            + self.facts.dead.words.capacity() * 8
            + self.facts.prints.as_ref().map_or(0, |prints| prints.len() * 2)
            + size_of::<Self>()
    }

    /// Bytes of messages, dead ones too, that only memory and the journal hold.
    pub(crate) fn unstored_bytes(&self) -> usize {
        if self.stored.is_some() { 0 } else { self.bytes }
    }

    /// True if a message with a subject of this hash may be here.
    pub(crate) fn may_have(&self, hash: u64) -> bool {
        let prints = self.facts.prints.as_ref().filter(|_| self.facts.is_complete);
        prints.is_none_or(|prints| prints.binary_search(&print(hash)).is_ok())
    }

    /// Deletes a message; false where there is none.
    ///
    /// # Panics
    /// The contents are not in memory.
    pub(crate) fn remove(&mut self, sequence: u64) -> bool {
        let loaded = self.peek().expect(IN_MEMORY);
        let Some(index) = loaded.index_of(sequence) else { return false };
        let length = loaded.message(&loaded.contents.entries[index]).encoded_bytes();
        self.facts.dead.insert(index);
        self.facts.count -= 1;
        self.dead_bytes += length;
        self.is_changed = true;
        if self.facts.count > 0 {
            let loaded = self.peek().expect(IN_MEMORY);
            let BlockFacts { mut first, mut first_time_ns, mut last, .. } = self.facts;
            if sequence == first {
                let next = loaded.live(index).next().expect("one is left");
                (first, first_time_ns) = (next.sequence, next.time_ns);
            }
            if sequence == last {
                let before = loaded.live(0).next_back().map(|before| before.sequence);
                last = before.expect("one is left");
            }
            (self.facts.first, self.facts.last) = (first, last);
            self.facts.first_time_ns = first_time_ns;
            if self.dead_bytes > self.bytes / 2 {
                self.compact();
            }
        }
        true
    }

    /// Moves the live messages together. These are new contents, which are stored nowhere.
    fn compact(&mut self) {
        let old = self.contents.as_ref().expect(IN_MEMORY);
        let mut contents = Contents {
            entries: Vec::with_capacity(self.len()),
            bytes: Vec::with_capacity(old.bytes.len() - self.dead_bytes),
            ends: OnceCell::new(),
        };
        for (index, entry) in old.entries.iter().enumerate() {
            if self.facts.dead.contains(index) {
                continue;
            }
            let start = entry.byte_offset as usize;
            let length = old.message(0, entry).encoded_bytes();
            let byte_offset = contents.bytes.len() as u32;
            contents.entries.push(Entry { byte_offset, ..*entry });
            contents.bytes.extend_from_slice(&old.bytes[start..start + length]);
        }
        self.bytes = contents.bytes.len();
        self.contents = Some(Rc::new(contents));
        self.facts.dead = EntrySet::default();
        self.dead_bytes = 0;
        self.contents_changed();
    }

    /// True if both are in memory and complete, and have together no more than so many bytes of
    /// live messages.
    pub(crate) fn can_merge(&self, next: &Self, bytes_max: usize) -> bool {
        let live = |block: &Self| block.bytes - block.dead_bytes;
        let spans = u32::try_from(next.facts.last - self.facts.base).is_ok();
        let are_complete = self.facts.is_complete && next.facts.is_complete;
        let are_loaded = self.is_loaded() && next.is_loaded();
        are_loaded && are_complete && spans && live(self) + live(next) <= bytes_max
    }

    /// Takes the messages of the block behind it.
    ///
    /// # Panics
    /// They can not be merged.
    pub(crate) fn merge(&mut self, next: &Self, hasher: SubjectHasher) {
        assert!(self.can_merge(next, usize::MAX), "the blocks fit together");
        self.compact();
        self.facts.is_complete = false;
        let messages = next.peek().expect(IN_MEMORY).messages();
        messages.for_each(|message| self.push(&message, &Marks::default()));
        self.facts.end_ns = self.facts.end_ns.min(next.facts.end_ns);
        self.facts.id_count += next.facts.id_count;
        self.complete(hasher);
    }

    /// Notes the block for a manifest, if it changed or `all` blocks are to be noted again.
    /// Contents in one of the segments `given_up` are to be stored anew.
    pub(crate) fn note(&mut self, all: bool, given_up: &BTreeSet<u64>) -> Option<NotedBlock> {
        if !self.is_changed && !all {
            return None;
        }
        self.is_changed = false;
        self.is_noted = true;
        let version = self.version;
        let contents = match (self.stored, &self.contents) {
            (Some(stored), _) if !given_up.contains(&stored.segment) => {
                NotedContents::Stored(stored)
            }
            (_, Some(contents)) => NotedContents::New { contents: contents.clone(), version },
            (Some(from), None) => NotedContents::Moved { from, version },
            (None, None) => unreachable!("what is stored nowhere is in memory"),
        };
        Some(NotedBlock { facts: self.facts.clone(), contents })
    }

    /// True if a manifest may know the block: then its removal has to be noted there.
    pub(crate) fn is_noted(&self) -> bool {
        self.is_noted
    }

    /// Notes that the contents of this version are stored, durably.
    pub(crate) fn stored(&mut self, version: u64, place: StoredPlace) {
        if self.version == version {
            self.stored = Some(place);
        }
    }

    /// Asserts the invariants.
    pub(crate) fn check_invariants(&self) {
        assert!(self.is_loaded() || self.stored.is_some(), "the contents are nowhere");
        let Some(loaded) = self.peek() else { return };
        let live: usize = loaded.messages().map(|message| message.encoded_bytes()).sum();
        assert!(live + self.dead_bytes == self.bytes, "bytes are miscounted");
        let count = loaded.messages().count();
        assert!(count == self.len(), "messages are miscounted");
        assert!(loaded.messages().next().is_none_or(|first| first.sequence == self.first()));
        assert!(loaded.messages().next_back().is_none_or(|last| last.sequence == self.last()));
        assert!(loaded.messages().all(|message| message.time_ns >= self.facts.first_time_ns));
        assert!(loaded.messages().all(|message| message.time_ns <= self.facts.last_time_ns));
    }
}

/// A block as a checkpoint has to note it.
#[derive(Debug)]
pub(crate) struct NotedBlock {
    pub facts: BlockFacts,
    pub contents: NotedContents,
}

/// The place of a block's contents.
#[derive(Debug)]
pub(crate) enum NotedContents {
    Stored(StoredPlace),
    /// Only in memory: they have to be stored.
    New {
        contents: Rc<Contents>,
        version: u64,
    },
    /// Not in memory, and stored where they cannot stay.
    Moved {
        from: StoredPlace,
        version: u64,
    },
}

/// The length in bytes of the message that `bytes` begin with; `None` where it does not end within
/// them.
fn encoded_bytes(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    let subject = usize::from(u16::from_le_bytes([prefix[8], prefix[9]]));
    let word = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four bytes"));
    let length = PREFIX_BYTES + subject + word(10) as usize + word(14) as usize;
    (length <= bytes.len()).then_some(length)
}

/// The message that `bytes` begin with. This program wrote them, and they are whole.
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

    fn new(message: &Message<'_>) -> Block {
        Block::new(message, &Marks::default())
    }

    fn push(block: &mut Block, message: &Message<'_>) {
        block.push(message, &Marks::default());
    }

    fn loaded(block: &Block) -> Loaded<'_> {
        block.loaded().expect("it is in memory")
    }

    #[test]
    fn messages_read_back_until_they_are_deleted() {
        let payload = vec![9; 100];
        let mut block = new(&message(1000, &payload));
        for sequence in (1002..1400).step_by(2) {
            assert!(block.has_room(&message(sequence, &payload), BLOCK_BYTES_FULL));
            push(&mut block, &message(sequence, &payload));
        }
        block.complete(HASHER);
        assert!(!block.has_room(&message(2000, b""), BLOCK_BYTES_FULL));
        let (third, other) = (HASHER.hash(b"a.b"), HASHER.hash(b"c"));
        assert!(block.may_have(third) && block.may_have(other));
        assert!(!block.may_have(HASHER.hash(b"d")), "16 bits of both hashes differ");
        assert_eq!(loaded(&block).get(1001), None);
        assert_eq!(loaded(&block).get(1002), Some(message(1002, &payload)));
        let before = block.memory_bytes();
        for sequence in (1000..1400).filter(|sequence| sequence % 8 != 6) {
            assert_eq!(block.remove(sequence), sequence % 2 == 0);
            block.check_invariants();
        }
        assert_eq!(block.len(), 50);
        assert!(block.memory_bytes() < before / 2, "what is deleted stays in memory");
        assert_eq!((block.first(), block.last()), (1006, 1398));
        let left: Vec<u64> =
            loaded(&block).messages_from(1380).map(|message| message.sequence).collect();
        assert_eq!(left, [1382, 1390, 1398]);
        assert!(loaded(&block).messages().all(|found| found == message(found.sequence, &payload)));
        let thirds = loaded(&block).messages().filter(|message| message.subject == b"a.b").count();
        let set = HashSet::from([third]);
        assert_eq!(loaded(&block).count_of_set(HASHER, &set) as usize, thirds);
    }

    #[test]
    fn room_ends_with_the_bytes_and_with_the_span() {
        let payload = vec![0; BLOCK_BYTES_FULL];
        let block = new(&message(1, &payload));
        assert!(
            !block.has_room(&message(2, b""), BLOCK_BYTES_FULL),
            "one longer message has a block of its own"
        );
        let block = new(&message(1, b""));
        let room = BLOCK_BYTES_FULL - 2 * (PREFIX_BYTES + 2);
        assert!(block.has_room(&message(2, &payload[..room]), BLOCK_BYTES_FULL));
        assert!(!block.has_room(&message(2, &payload[..room + 1]), BLOCK_BYTES_FULL));
        assert!(block.has_room(&message(1 + u64::from(u32::MAX), b""), BLOCK_BYTES_FULL));
        assert!(!block.has_room(&message(2 + u64::from(u32::MAX), b""), BLOCK_BYTES_FULL));
    }

    #[test]
    fn stored_block_reads_back_with_its_dead_until_most_of_it_is() {
        let payload = vec![9; 100];
        let mut block = new(&message(1000, &payload));
        for sequence in (1001..1100).filter(|sequence| sequence % 7 > 0) {
            push(&mut block, &message(sequence, &payload));
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
            block.remove(sequence);
            block.check_invariants();
            let noted = block.note(false, &none);
            let Some(NotedBlock { facts, contents: NotedContents::Stored(found) }) = noted else {
                continue;
            };
            assert_eq!(found, place);
            let contents = Contents::decode(&stored).expect("it was encoded");
            let mut restored = Block::restore(facts, place);
            assert_eq!(restored.loaded().err(), Some(NotLoaded { base: 1000 }));
            assert!(restored.install(contents), "it fits");
            restored.check_invariants();
            assert!(loaded(&restored).messages().eq(loaded(&block).messages()), "after {sequence}");
            assert!(restored.evict() && !restored.evict() && restored.missing() == Some(place));
        }
        assert_eq!(block.len(), 3);
        assert!(block.unstored_bytes() > 0, "what is left has to be stored anew");
    }

    #[test]
    fn what_is_put_into_a_block_makes_it_unstored() {
        let mut block = new(&message(1, b"a"));
        let none = BTreeSet::new();
        let noted = block.note(false, &none).expect("it is new");
        let NotedContents::New { version, .. } = noted.contents else { panic!("it is new") };
        push(&mut block, &message(2, b"b"));
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
                let mut block = new(&message(base, b"abc"));
                (base + 1..base + 50).for_each(|next| push(&mut block, &message(next, b"xyz")));
                block.complete(HASHER);
                block
            })
            .collect();
        let mut second = blocks.pop().expect("there are two");
        let mut first = blocks.pop().expect("there are two");
        let bytes = first.bytes + second.bytes;
        assert!(first.can_merge(&second, bytes) && !first.can_merge(&second, bytes - 1));
        assert!(!first.can_merge(&new(&message(300, b"")), usize::MAX), "it takes more");
        (100..140).for_each(|sequence| assert!(first.remove(sequence)));
        (205..250).for_each(|sequence| assert!(second.remove(sequence)));
        let expected: Vec<u64> = (140..150).chain(200..205).collect();
        first.merge(&second, HASHER);
        first.check_invariants();
        let found: Vec<u64> = loaded(&first).messages().map(|message| message.sequence).collect();
        assert_eq!((found, first.base()), (expected, 100));
        assert_eq!((first.first(), first.last()), (140, 204));
    }

    #[test]
    fn contents_that_were_not_written_so_are_none_and_never_a_panic() {
        let mut block = new(&message(1, b"abc"));
        (2..20).for_each(|sequence| push(&mut block, &message(sequence, b"xyz")));
        let facts = block.facts.clone();
        let contents = block.contents.clone().expect("it is in memory");
        let (head, bytes) = contents.encode();
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
                let mut block = Block::restore(facts.clone(), place);
                if block.install(contents) {
                    block.check_invariants();
                }
            }
        }
        for length in 0..stored.len() {
            assert!(Contents::decode(&stored[..length]).is_none(), "{length}");
        }
    }
}
