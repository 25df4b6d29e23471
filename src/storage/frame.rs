//! A commit's form on disk: a frame, whose checksum fits one place of one file of one store.
//!
//! A frame begins at a sector and fills whole sectors. Its header is 64 bytes, little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | checksum of bytes 8..64 |
//! | 8..12 | `MJF1` |
//! | 12..16 | bytes of the body |
//! | 16..24 | number of the commit; they count from 1 without gaps |
//! | 24..32 | checksum of the body |
//! | 32..40 | checksum (bytes 0..8) of the header before: frames are a chain |
//! | 40..48 | highest number that was durable when this frame was made |
//! | 48..52 | records in the body |
//! | 52..64 | zero |
//!
//! The body is records, each its length in four bytes and its bytes. Checksums are XXH3 of 64 bits
//! with a seed made from the store, the lane, the file and the offset: a frame of an earlier use of
//! the file, of another place or of another store is not valid. A body's length is trusted only
//! under the header's checksum.

use twox_hash::XxHash3_64;

use super::disk::{DiskBuffer, SECTOR_BYTES};
use super::position::COUNT_MAX;

const MAGIC: [u8; 4] = *b"MJF1";

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 64;

/// Bytes before a record: its length.
pub(crate) const RECORD_PREFIX_BYTES: usize = 4;

/// Distinguishes a store from all others: random, made when the store is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

/// The part of all seeds of a lane that its files share.
#[derive(Clone, Copy, Debug)]
pub struct LaneSeed {
    store: StoreId,
    lane: u32,
    seed: u64,
}

impl LaneSeed {
    pub fn new(store: StoreId, lane: u32) -> Self {
        let seed = XxHash3_64::oneshot_with_seed(u64::from(lane), &store.0);
        Self { store, lane, seed }
    }

    /// The number of the lane.
    pub(crate) fn lane(self) -> u32 {
        self.lane
    }

    /// The seed of another lane of the same store.
    #[must_use]
    pub(crate) fn of_lane(self, lane: u32) -> Self {
        Self::new(self.store, lane)
    }

    /// A seed of the store for hashes that are stored: the same in all lanes and at all times, and
    /// known to no peer.
    pub(crate) fn of_store(self) -> u64 {
        XxHash3_64::oneshot_with_seed(u64::MAX, &self.store.0)
    }

    /// The seed of the lane's files of another kind than its journal's: none of them can pass for a
    /// journal file.
    #[must_use]
    pub fn of_kind(self, kind: &[u8]) -> Self {
        Self { seed: XxHash3_64::oneshot_with_seed(self.seed, kind), ..self }
    }

    /// The seed of a frame or block at `offset` of the file with the number `file`.
    pub fn at(self, file: u64, offset: u64) -> u64 {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&file.to_le_bytes());
        place[8..].copy_from_slice(&offset.to_le_bytes());
        XxHash3_64::oneshot_with_seed(self.seed, &place)
    }
}

/// XXH3 of 64 bits.
pub fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// The fields of a frame that are not computed from its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFields {
    pub number: u64,
    pub previous: u64,
    pub durable: u64,
    pub record_count: u32,
}

/// A header whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub fields: FrameFields,
    pub body_bytes: usize,
    pub body_checksum: u64,
    /// The header's own checksum, which the next frame has as its `previous`.
    pub checksum: u64,
}

impl FrameHeader {
    /// Bytes that the frame takes in its file.
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.body_bytes)
    }

    /// True if this is the body that the header was made for.
    pub fn fits(&self, seed: u64, body: &[u8]) -> bool {
        body.len() == self.body_bytes && checksum(seed, body) == self.body_checksum
    }
}

/// Bytes of whole sectors that a frame with such a body takes.
pub(crate) fn frame_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(SECTOR_BYTES)
}

/// Makes a frame of a buffer that holds space for the header, and the body. Returns the header's
/// checksum.
pub fn seal(buffer: &mut DiskBuffer, fields: FrameFields, seed: u64) -> u64 {
    let length = buffer.len();
    assert!(length >= HEADER_BYTES, "the header has its room");
    buffer.pad_to(frame_bytes(length - HEADER_BYTES));
    let (header, rest) = buffer.as_mut_slice().split_at_mut(HEADER_BYTES);
    let body = &rest[..length - HEADER_BYTES];
    let body_bytes = u32::try_from(body.len()).expect("a frame is shorter than its file");
    header.fill(0);
    header[8..12].copy_from_slice(&MAGIC);
    header[12..16].copy_from_slice(&body_bytes.to_le_bytes());
    header[16..24].copy_from_slice(&fields.number.to_le_bytes());
    header[24..32].copy_from_slice(&checksum(seed, body).to_le_bytes());
    header[32..40].copy_from_slice(&fields.previous.to_le_bytes());
    header[40..48].copy_from_slice(&fields.durable.to_le_bytes());
    header[48..52].copy_from_slice(&fields.record_count.to_le_bytes());
    let sum = checksum(seed, &header[8..]);
    header[..8].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// The header that `bytes` begin with, if it was made for the place of this seed.
pub fn header(seed: u64, bytes: &[u8]) -> Option<FrameHeader> {
    let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
    if bytes[8..12] != MAGIC {
        return None;
    }
    let (sum, number) = (word(bytes, 0), word(bytes, 16));
    let is_whole = sum == checksum(seed, &bytes[8..]) && (1..=COUNT_MAX).contains(&number);
    is_whole.then(|| FrameHeader {
        fields: FrameFields {
            number,
            previous: word(bytes, 32),
            durable: word(bytes, 40),
            record_count: half_word(bytes, 48),
        },
        body_bytes: half_word(bytes, 12) as usize,
        body_checksum: word(bytes, 24),
        checksum: sum,
    })
}

/// Appends a record that consists of `parts`.
pub fn push_record(buffer: &mut DiskBuffer, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("a record is shorter than its file");
    buffer.extend(&length.to_le_bytes());
    parts.iter().for_each(|part| buffer.extend(part));
}

/// The records of a body, in order. They end early where a length leads past the end: their number
/// is then below the header's.
pub fn records(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<RECORD_PREFIX_BYTES>()?;
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(record)
    })
}

/// Eight bytes of a header.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Four bytes of a header.
pub(crate) fn half_word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(lane: u32) -> LaneSeed {
        LaneSeed::new(StoreId(*b"0123456789abcdef"), lane)
    }

    fn sealed(body: &[&[u8]], seed: u64) -> DiskBuffer {
        let mut buffer = DiskBuffer::zeroed(HEADER_BYTES);
        body.iter().for_each(|record| push_record(&mut buffer, &[record]));
        let fields =
            FrameFields { number: 7, previous: 5, durable: 6, record_count: body.len() as u32 };
        seal(&mut buffer, fields, seed);
        buffer
    }

    #[test]
    fn frame_reads_back() {
        for sizes in [&[][..], &[0], &[1, 0, 5], &[4000, 28], &[4096; 3], &[70_000]] {
            let bodies: Vec<Vec<u8>> =
                sizes.iter().map(|size| (0..*size).map(|index| index as u8).collect()).collect();
            let parts: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
            let seed = lane(0).at(1, 4096);
            let buffer = sealed(&parts, seed);
            assert_eq!(buffer.len() % SECTOR_BYTES, 0);
            let found = header(seed, buffer.as_slice()).expect("it is a frame");
            assert_eq!(found.frame_bytes(), buffer.len());
            assert_eq!(found.fields.number, 7);
            assert_eq!((found.fields.previous, found.fields.durable), (5, 6));
            let body = &buffer.as_slice()[HEADER_BYTES..][..found.body_bytes];
            assert!(found.fits(seed, body));
            assert_eq!(records(body).collect::<Vec<_>>(), parts);
        }
    }

    #[test]
    fn frame_of_another_place_is_none() {
        let seed = lane(0).at(1, 4096);
        let buffer = sealed(&[b"abc"], seed);
        assert!(header(seed, buffer.as_slice()).is_some());
        for other in [lane(0).at(1, 8192), lane(0).at(2, 4096), lane(1).at(1, 4096)] {
            assert_eq!(header(other, buffer.as_slice()), None);
        }
        let other_store = LaneSeed::new(StoreId([0; 16]), 0);
        assert_eq!(header(other_store.at(1, 4096), buffer.as_slice()), None);
    }

    #[test]
    fn each_flipped_bit_is_found() {
        let seed = lane(0).at(1, 4096);
        let mut buffer = sealed(&[b"abc", b"defg"], seed);
        let length = HEADER_BYTES + 15;
        for bit in 0..length * 8 {
            buffer.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
            let bytes = buffer.as_slice();
            let fits = header(seed, bytes)
                .is_some_and(|header| header.fits(seed, &bytes[HEADER_BYTES..length]));
            assert!(!fits, "bit {bit}");
            buffer.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn records_end_where_a_length_leads_too_far() {
        assert_eq!(records(&[1, 0, 0]).count(), 0);
        assert_eq!(records(&[1, 0, 0, 0, 9, 2, 0, 0, 0, 1]).collect::<Vec<_>>(), [[9]]);
        assert_eq!(records(&[255, 255, 255, 255, 9]).count(), 0);
    }
}
