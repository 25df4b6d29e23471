//! The smallest possible log, checked by the law that every store keeps, to show that the disk and
//! the oracle find bugs before they guard real code. The law: after a power cut the acknowledged
//! records are there, in order, and beyond them at most a last one that was on its way.

use std::io;

use super::{Disk, DiskBuffer, Faults, MemoryDisk, SECTOR_BYTES};
use crate::storage::disk::Access;

/// Mistakes that stores have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    AcknowledgedBeforeTheSync,
    FolderNotSynced,
    SyncTriedAgain,
    ReplayPastATornRecord,
}

/// A record fills a sector: a checksum of the rest, a number from 1 on, bytes made from the number.
fn record(number: u64) -> DiskBuffer {
    let mut buffer = DiskBuffer::zeroed(SECTOR_BYTES);
    let bytes = buffer.as_mut_slice();
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    for (index, byte) in bytes[16..].iter_mut().enumerate() {
        *byte = (number as usize * 31 + index) as u8;
    }
    let sum = checksum(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    buffer
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(7, |sum: u64, byte| (sum.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9))
}

/// The number of a record that is whole.
fn number_of(bytes: &[u8]) -> Option<u64> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    (word(0) == checksum(&bytes[8..]) && word(8) > 0).then(|| word(8))
}

const RECORDS_MAX: u64 = 24;

async fn create(disk: &MemoryDisk, plant: Option<Plant>) -> io::Result<()> {
    let file = disk.open("log", Access::Create).await?;
    disk.write(&file, 0, DiskBuffer::zeroed(SECTOR_BYTES * RECORDS_MAX as usize)).await.0?;
    disk.sync(&file).await?;
    if plant != Some(Plant::FolderNotSynced) {
        disk.sync_folder("").await?;
    }
    Ok(())
}

/// The numbers of the records that the log holds.
async fn recover(disk: &MemoryDisk, plant: Option<Plant>) -> io::Result<Vec<u64>> {
    let file = disk.open("log", Access::Read).await?;
    let mut found = Vec::new();
    for slot in 0..RECORDS_MAX {
        let (count, buffer) =
            disk.read(&file, slot * SECTOR_BYTES as u64, DiskBuffer::zeroed(SECTOR_BYTES)).await;
        match number_of(buffer.as_slice())
            .filter(|_| count.is_ok_and(|count| count == SECTOR_BYTES))
        {
            Some(number) => found.push(number),
            None if plant == Some(Plant::ReplayPastATornRecord) => {}
            None => break,
        }
    }
    Ok(found)
}

/// Several generations over one disk; the error says which law broke.
fn run(seed: u64, plant: Option<Plant>) -> Result<u64, String> {
    let disk = MemoryDisk::new(seed);
    let mut random = fastrand::Rng::with_seed(seed ^ 0x70F);
    let mut acknowledged = 0;
    // Until the log's creation was acknowledged there need be none.
    let mut is_created = false;
    for _ in 0..4 {
        disk.set_faults(Faults { failed_syncs: 8, failed_writes: 30, ..Faults::default() });
        let mut written = acknowledged;
        if !is_created {
            if disk.contents("log").is_some() {
                disk.run(disk.remove("log")).map_err(|error| error.to_string())?;
            }
            is_created = disk.run(create(&disk, plant)).is_ok();
        }
        let steps = random.u64(0..8);
        if is_created {
            disk.run_steps(work(&disk, plant, &mut acknowledged, &mut written), steps);
        }
        disk.power_cut();
        disk.set_faults(Faults::default());
        if !is_created {
            continue;
        }
        let found =
            disk.run(recover(&disk, plant)).map_err(|error| format!("recovery: {error}"))?;
        let expected: Vec<u64> = (1..=found.len() as u64).collect();
        if found != expected {
            return Err(format!("{found:?} is no row of records"));
        }
        let last = found.len() as u64;
        if last < acknowledged {
            return Err(format!("{acknowledged} were acknowledged, {last} are there"));
        }
        if last > written {
            return Err(format!("{written} were written, {last} are there"));
        }
        acknowledged = last;
    }
    Ok(acknowledged)
}

async fn work(disk: &MemoryDisk, plant: Option<Plant>, acknowledged: &mut u64, written: &mut u64) {
    // Buffered, so that the sync is the barrier.
    let mut file = disk.open("log", Access::Durable).await.expect("it was created");
    file.access = Access::Create;
    while *written < RECORDS_MAX {
        *written += 1;
        let mut records = record(*written);
        // The planted reader goes past a torn record: there is something behind it in a write of
        // two.
        if plant == Some(Plant::ReplayPastATornRecord) && *written < RECORDS_MAX {
            *written += 1;
            records.extend(record(*written).as_slice());
        }
        let offset = *written * SECTOR_BYTES as u64 - records.len() as u64;
        if disk.write(&file, offset, records).await.0.is_err() {
            return;
        }
        if plant != Some(Plant::AcknowledgedBeforeTheSync) {
            let mut result = disk.sync(&file).await;
            if plant == Some(Plant::SyncTriedAgain) && result.is_err() {
                result = disk.sync(&file).await;
            }
            if result.is_err() {
                return;
            }
        }
        *acknowledged = *written;
    }
}

#[test]
fn honest_log_keeps_the_law() {
    let mut kept = 0;
    for seed in 0..300 {
        kept += run(seed, None).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
    assert!(kept > 300, "the histories hold only {kept} records");
}

#[test]
fn each_planted_mistake_is_found() {
    for plant in [
        Plant::AcknowledgedBeforeTheSync,
        Plant::FolderNotSynced,
        Plant::SyncTriedAgain,
        Plant::ReplayPastATornRecord,
    ] {
        let found = (0..100).find_map(|seed| run(seed, Some(plant)).err());
        assert!(found.is_some(), "{plant:?} went unseen");
    }
}

#[test]
fn seed_runs_the_same_way_twice() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}
