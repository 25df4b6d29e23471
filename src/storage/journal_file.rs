//! A journal's file: its name, and the first sector that says where in the lane's history it
//! begins.
//!
//! A file is made long before it is used. It is filled with zeros, so that a write changes only its
//! own sectors, or it is kept from an earlier use under a new number. Its first sector is written
//! when its use begins, before any frame of it. Until its first frame is there, too, the file
//! counts as unused. After that, frames of the file before from that number on count for nothing:
//! their write failed, or they were written once more after a start.
//!
//! First sector, little-endian: checksum of bytes 8..64 | `MJH1` | format u32 | number u64 | first
//! commit u64 | checksum of the header before the first frame u64 | zeros.

use super::disk::{DiskBuffer, SECTOR_BYTES};
use super::file_name;
use super::frame::{HEADER_BYTES, LaneSeed, checksum, half_word, word};
use super::position::{COUNT_MAX, CommitNumber};

const MAGIC: [u8; 4] = *b"MJH1";

/// The format of journal files that this program writes. No other format is read.
pub(crate) const JOURNAL_FORMAT: u32 = 1;

const PREFIX: &str = "journal-";

/// The name of a journal file within its lane's folder.
pub(crate) fn name(number: u64) -> String {
    file_name::of(PREFIX, number)
}

/// The number of a journal file of this name.
pub fn number_of(name: &str) -> Option<u64> {
    file_name::number(PREFIX, name)
}

/// A file's first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub number: u64,
    /// The number of its first frame. Commits before it are in earlier files, and durable.
    pub first: CommitNumber,
    /// The checksum of the previous frame's header.
    pub previous: u64,
}

impl FileHeader {
    pub fn encode(&self, seed: LaneSeed) -> DiskBuffer {
        let mut buffer = DiskBuffer::zeroed(SECTOR_BYTES);
        let bytes = buffer.as_mut_slice();
        bytes[8..12].copy_from_slice(&MAGIC);
        bytes[12..16].copy_from_slice(&JOURNAL_FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous.to_le_bytes());
        let sum = checksum(seed.at(self.number, 0), &bytes[8..HEADER_BYTES]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        buffer
    }

    /// The header of the file with this number. `None` where its use has not begun or its first
    /// sector is damaged.
    pub fn decode(seed: LaneSeed, number: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        let is_whole = word(bytes, 0) == checksum(seed.at(number, 0), &bytes[8..])
            && bytes[8..12] == MAGIC
            && half_word(bytes, 12) == JOURNAL_FORMAT
            && word(bytes, 16) == number
            && (1..=COUNT_MAX).contains(&word(bytes, 24));
        is_whole.then(|| Self {
            number,
            first: CommitNumber(word(bytes, 24)),
            previous: word(bytes, 32),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::StoreId;
    use super::*;

    #[test]
    fn names_read_back_and_others_are_none() {
        for number in [0, 7, 9_999_999_999_999_999] {
            assert_eq!(number_of(&name(number)), Some(number));
        }
        for other in ["journal-7", "journal-+000000000000007", "manifest-0000000000000007", ""] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }

    #[test]
    fn header_reads_back_under_its_own_number() {
        let seed = LaneSeed::new(StoreId([3; 16]), 1);
        let header = FileHeader { number: 4, first: CommitNumber(77), previous: 5 };
        let mut buffer = header.encode(seed);
        assert_eq!(FileHeader::decode(seed, 4, buffer.as_slice()), Some(header));
        assert_eq!(FileHeader::decode(seed, 5, buffer.as_slice()), None);
        assert_eq!(FileHeader::decode(seed, 4, &[0; SECTOR_BYTES]), None);
        assert_eq!(FileHeader::decode(seed, 4, &buffer.as_slice()[..63]), None);
        for bit in 0..HEADER_BYTES * 8 {
            buffer.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(seed, 4, buffer.as_slice()), None, "bit {bit}");
            buffer.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
