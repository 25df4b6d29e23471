//! A store's files as nobody writes them but on purpose: numbers at the edges of what fits, in every kind of file and
//! under every name, with checksums that are right.

use fastrand::Rng;
use midge::testing::storage::disk::{DiskBuffer, SECTOR_BYTES};
use midge::testing::storage::frame::{
    FrameFields, HEADER_BYTES, LaneSeed, checksum, header, push_record, records, seal,
};
use midge::testing::storage::journal_file::{self, FileHeader};
use midge::testing::storage::manifest::ManifestName;
use midge::testing::storage::position::CommitNumber;
use midge::testing::storage::segment;

use super::mutate::choose;
use super::store::{Files, place};

/// Numbers that counts, ids, sequences and places are not made for.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    u64::MAX,
    u64::MAX - 1,
    u64::MAX - 2,
    u64::MAX - 40,
    1 << 63,
    (1 << 63) - 1,
    (1 << 63) - 2,
    (1 << 62) - 1,
    1 << 62,
    1 << 32,
    (1 << 32) - 1,
    (1 << 31) - 1,
    9_999_999_999_999_999,
    10_000_000_000_000_000,
    999_999_999_999_999,
    4096,
    65_536,
];

/// Changes some of the files.
pub fn forge(random: &mut Rng, files: &mut Files) {
    for _ in 0..random.usize(1..3) {
        let index = random.usize(0..files.len());
        let name = files[index].0.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(number) = journal_file::number_of(&name) {
            forge_journal(random, number, &mut files[index]);
        } else if let Some(ManifestName { number, .. }) = ManifestName::parse(&name) {
            forge_manifest(random, number, &mut files[index]);
        } else if let Some(number) = segment::number_of(&name) {
            forge_segment(random, number, &mut files[index]);
        }
        // Of two files with one name a folder holds the later one.
        let (name, rest) = (files[index].0.clone(), index + 1..files.len());
        if files[..index].iter().chain(&files[rest]).any(|(other, _)| *other == name) {
            files.remove(index);
        }
    }
}

struct Frame {
    fields: FrameFields,
    records: Vec<Vec<u8>>,
}

/// The frames from `begin` on.
fn frames(seed: LaneSeed, number: u64, begin: usize, bytes: &[u8]) -> Vec<Frame> {
    let (mut frames, mut offset) = (Vec::new(), begin);
    while let Some(head) =
        bytes.get(offset..).and_then(|at| header(seed.at(number, offset as u64), at))
    {
        let body = &bytes[offset + HEADER_BYTES..][..head.body_bytes];
        frames.push(Frame {
            fields: head.fields,
            records: records(body).map(<[u8]>::to_vec).collect(),
        });
        offset += head.frame_bytes();
    }
    frames
}

/// The same as bytes, each naming the one before it.
fn sealed(seed: LaneSeed, number: u64, begin: usize, frames: &[Frame]) -> Vec<u8> {
    let (mut bytes, mut previous) = (Vec::new(), None);
    for Frame { fields, records } in frames {
        let mut buffer = DiskBuffer::zeroed(HEADER_BYTES);
        records.iter().for_each(|record| push_record(&mut buffer, &[record]));
        let fields = FrameFields { previous: previous.unwrap_or(fields.previous), ..*fields };
        let place = seed.at(number, (begin + bytes.len()) as u64);
        previous = Some(seal(&mut buffer, fields, place));
        bytes.extend_from_slice(buffer.as_slice());
    }
    bytes
}

fn edge(random: &mut Rng) -> u64 {
    if random.bool() {
        return u64::MAX - random.u64(0..3);
    }
    choose(random, &EDGES).wrapping_add(random.u64(0..3)).wrapping_sub(1)
}

/// Another name for a file: a number that names hardly hold.
fn renumber(random: &mut Rng, name: &mut String, number: u64) -> u64 {
    let other =
        *choose(random, &[9_999_999_999_999_999, 9_999_999_999_999_998, 999_999_999_999_999]);
    *name = name.replace(&format!("{number:016}"), &format!("{other:016}"));
    other
}

fn forge_journal(random: &mut Rng, number: u64, (name, bytes): &mut (String, Vec<u8>)) {
    let seed = place().seed;
    let Some(mut head) = FileHeader::decode(seed, number, bytes) else { return };
    let mut all = frames(seed, number, SECTOR_BYTES, bytes);
    let mut number = number;
    match random.u8(0..6) {
        0 => number = renumber(random, name, number),
        1 => head.first = CommitNumber(edge(random)),
        2 => {
            // All commits are other ones.
            let shift = edge(random).wrapping_sub(head.first.0);
            head.first.0 = head.first.0.wrapping_add(shift);
            for frame in &mut all {
                frame.fields.number = frame.fields.number.wrapping_add(shift);
                frame.fields.durable = frame.fields.durable.wrapping_add(shift);
            }
        }
        3 if !all.is_empty() => {
            let index = random.usize(0..all.len());
            let fields = &mut all[index].fields;
            match random.u8(0..3) {
                0 => fields.durable = edge(random),
                1 => fields.record_count = edge(random) as u32,
                // Those behind it follow.
                _ => {
                    let shift = edge(random).wrapping_sub(fields.number);
                    for frame in &mut all[index..] {
                        frame.fields.number = frame.fields.number.wrapping_add(shift);
                    }
                }
            }
        }
        _ => change_one(random, &mut all),
    }
    head.number = number;
    let length = bytes.len();
    bytes.clear();
    bytes.extend_from_slice(head.encode(seed).as_slice());
    bytes.extend_from_slice(&sealed(seed, number, SECTOR_BYTES, &all));
    bytes.resize(length, 0);
}

fn forge_manifest(random: &mut Rng, number: u64, (name, bytes): &mut (String, Vec<u8>)) {
    let seed = place().seed.of_kind(b"manifest");
    let mut all = frames(seed, number, 0, bytes);
    let mut number = number;
    match random.u8(0..8) {
        0 => number = renumber(random, name, number),
        // The last entry says where the journal goes on, and the next ids.
        1..4 => {
            if let Some(end) = all.last_mut().and_then(|frame| frame.records.last_mut()) {
                let words = (end.len() - 1) / 8;
                let at = 1 + 8 * random.usize(0..words);
                end[at..at + 8].copy_from_slice(&edge(random).to_le_bytes());
            }
        }
        _ => change_one(random, &mut all),
    }
    *bytes = sealed(seed, number, 0, &all);
}

/// Changes a word of a block that begins where another one ends.
fn forge_segment(random: &mut Rng, number: u64, (name, bytes): &mut (String, Vec<u8>)) {
    const BLOCK_HEADER_BYTES: usize = 32;
    let seed = place().seed.of_kind(b"segment");
    let (mut offset, left) = (0, random.usize(0..8));
    for index in 0.. {
        let Some(length) = bytes.get(offset + 8..offset + 12) else { break };
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let end = offset + BLOCK_HEADER_BYTES + length;
        if end > bytes.len() {
            break;
        }
        if index == left {
            let block = &mut bytes[offset..end];
            match random.u8(0..4) {
                0 => change(random, &mut block[8..BLOCK_HEADER_BYTES]),
                _ => change(random, &mut block[BLOCK_HEADER_BYTES..]),
            }
            let sum = checksum(seed.at(number, offset as u64), &block[8..]);
            block[..8].copy_from_slice(&sum.to_le_bytes());
        }
        offset = end;
    }
    if random.u8(0..8) == 0 {
        renumber(random, name, number);
    }
}

fn change_one(random: &mut Rng, frames: &mut [Frame]) {
    let mut all: Vec<&mut Vec<u8>> =
        frames.iter_mut().flat_map(|frame| &mut frame.records).collect();
    if all.is_empty() {
        return;
    }
    let index = random.usize(0..all.len());
    let record = &mut *all[index];
    for _ in 0..random.usize(1..4) {
        match random.u8(0..8) {
            0 => record.truncate(random.usize(1..=record.len().max(1))),
            1 => record.extend(std::iter::repeat_n(random.u8(..), random.usize(1..40))),
            _ => change(random, record),
        }
    }
}

/// Puts another number where one stands: fields have eight bytes, or four, counted from the front behind the kind, or
/// from the end.
fn change(random: &mut Rng, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    let width = *choose(random, &[8, 8, 8, 4, 2]);
    let count = bytes.len() / width;
    let at = match random.u8(0..8) {
        0 => random.usize(0..bytes.len()),
        _ if count == 0 => 0,
        1..3 => bytes.len() - width * random.usize(1..=count),
        3 => width * random.usize(0..count),
        // The first fields say most: ids and sequences.
        4..6 => 1 + width * random.usize(0..count.min(9)),
        _ => 1 + width * random.usize(0..count.min(3)),
    };
    if at + width <= bytes.len() {
        let edge = match random.u8(0..4) {
            0 => random.u64(0..40),
            _ => edge(random),
        };
        bytes[at..at + width].copy_from_slice(&edge.to_le_bytes()[..width]);
    } else {
        let at = at.min(bytes.len() - 1);
        bytes[at] = random.u8(..);
    }
}
