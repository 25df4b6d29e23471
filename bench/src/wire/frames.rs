//! `PUB` frames that are built once and sent again and again: only the stamp at the start of each
//! payload changes.
//!
//! The stamp is 8 bytes, `publisher << 48 | sequence`; latency runs add 8 bytes with the intended
//! time of sending.

/// Bytes of the stamp with publisher and sequence.
pub const STAMP_SIZE: usize = 8;
/// Bytes of the stamp plus the intended time of a latency run.
pub const TIMED_STAMP_SIZE: usize = 16;
/// Largest sequence that fits the stamp.
pub const SEQUENCE_MAX: u64 = (1 << 48) - 1;
/// Approximate number of bytes given to the kernel in one write.
pub const WRITE_BYTES: usize = 128 * 1024;

/// Returns the first word of a payload.
pub fn stamp(publisher: u16, sequence: u64) -> u64 {
    u64::from(publisher) << 48 | sequence
}

/// Returns publisher and sequence of a payload; None if it is too short to hold them.
pub fn read_stamp(payload: &[u8]) -> Option<(u16, u64)> {
    let word = u64::from_le_bytes(*payload.first_chunk::<STAMP_SIZE>()?);
    Some(((word >> 48) as u16, word & SEQUENCE_MAX))
}

/// Returns the intended time of a payload in a latency run, in nanoseconds since the run's epoch.
pub fn read_intended_time(payload: &[u8]) -> Option<u64> {
    let bytes = payload.get(STAMP_SIZE..TIMED_STAMP_SIZE)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Builds one frame, `PUB subject [reply] size` and a payload that starts with an empty stamp.
/// Returns the bytes and the offset of the payload.
pub fn frame(
    subject: &str,
    reply: Option<&str>,
    payload_size: usize,
    seed: u64,
) -> (Vec<u8>, usize) {
    let mut bytes = match reply {
        None => format!("PUB {subject} {payload_size}\r\n"),
        Some(reply) => format!("PUB {subject} {reply} {payload_size}\r\n"),
    }
    .into_bytes();
    let payload_offset = bytes.len();
    let mut random = fastrand::Rng::with_seed(seed);
    bytes.extend((0..payload_size).map(|_| random.alphanumeric() as u8));
    bytes.extend_from_slice(b"\r\n");
    (bytes, payload_offset)
}

/// A ring of frames, one per message of a cycle over all subjects, repeated to fill a write.
pub struct FrameRing {
    bytes: Vec<u8>,
    /// Offset of each frame, and the end of the last.
    frame_offsets: Vec<usize>,
    /// Offset of each payload.
    payload_offsets: Vec<usize>,
    stamped: bool,
    next_frame: usize,
    publisher: u16,
    sequence: u64,
}

impl FrameRing {
    /// Message `n` of the publisher goes to `subjects[n % subjects.len()]`.
    pub fn new(publisher: u16, subjects: &[String], payload_size: usize, seed: u64) -> FrameRing {
        assert!(!subjects.is_empty(), "a publisher needs a subject");
        let mut ring = FrameRing {
            bytes: Vec::new(),
            frame_offsets: vec![0],
            payload_offsets: Vec::new(),
            stamped: payload_size >= STAMP_SIZE,
            next_frame: 0,
            publisher,
            sequence: 0,
        };
        loop {
            for subject in subjects {
                let (bytes, payload_offset) = frame(subject, None, payload_size, seed);
                ring.payload_offsets.push(ring.bytes.len() + payload_offset);
                ring.bytes.extend_from_slice(&bytes);
                ring.frame_offsets.push(ring.bytes.len());
            }
            if ring.bytes.len() >= WRITE_BYTES {
                return ring;
            }
        }
    }

    /// Returns the sequence of the next message, which is also the number handed out.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Stamps and returns the next frames, about `WRITE_BYTES` of them, at most `count_max` (at
    /// least 1).
    pub fn next_write(&mut self, count_max: u64) -> &[u8] {
        let first = self.next_frame;
        let frame_count = self.payload_offsets.len();
        let mut last = first;
        let begin = self.frame_offsets[first];
        while last < frame_count
            && ((last - first) as u64) < count_max
            && (last == first || self.frame_offsets[last + 1] - begin <= WRITE_BYTES)
        {
            if self.stamped {
                let offset = self.payload_offsets[last];
                let word = stamp(self.publisher, self.sequence);
                self.bytes[offset..offset + STAMP_SIZE].copy_from_slice(&word.to_le_bytes());
            }
            self.sequence += 1;
            last += 1;
        }
        self.next_frame = if last == frame_count { 0 } else { last };
        &self.bytes[begin..self.frame_offsets[last]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scanner::{Control, Scanner};

    #[test]
    fn a_ring_cycles_over_subjects_and_counts_without_a_gap() {
        let subjects = ["a.1".to_string(), "bb.2".to_string(), "c".to_string()];
        let mut ring = FrameRing::new(7, &subjects, 16, 1);
        let mut scanner = Scanner::new(WRITE_BYTES);
        let mut expected = 0;
        while expected < 20_000 {
            let bytes = ring.next_write(20_000 - expected);
            scanner.space()[..bytes.len()].copy_from_slice(bytes);
            scanner.filled(bytes.len());
            let check = |header: &[u8], payload: &[u8]| {
                let subject = &subjects[(expected % 3) as usize];
                assert_eq!(header, format!("PUB {subject} 16\r\n").as_bytes());
                assert_eq!(read_stamp(payload), Some((7, expected)));
                expected += 1;
            };
            scanner.scan(check, &mut Control::default()).unwrap();
        }
        assert_eq!(expected, 20_000);
        assert_eq!(ring.sequence(), 20_000);
    }

    #[test]
    fn a_payload_too_short_for_a_stamp_has_none() {
        let mut ring = FrameRing::new(0, &["s".to_string()], 7, 1);
        assert!(ring.next_write(1).starts_with(b"PUB s 7\r\n"));
        assert_eq!(read_stamp(b"1234567"), None);
    }
}
