//! The faults of the disk, one by one.

use std::collections::BTreeSet;

use super::state::ATOM_BYTES;
use super::*;

fn buffer(bytes: usize, fill: u8) -> DiskBuffer {
    let mut buffer = DiskBuffer::zeroed(bytes);
    buffer.as_mut_slice().fill(fill);
    buffer
}

async fn created(disk: &MemoryDisk, name: &str, bytes: usize) -> MemoryFile {
    let file = disk.open(name, Access::Create).await.expect("a new name");
    disk.write(&file, 0, buffer(bytes, 1)).await.0.expect("no fault is set");
    disk.sync(&file).await.expect("no fault is set");
    disk.sync_folder("").await.expect("no fault is set");
    file
}

#[test]
fn unsynced_sectors_survive_singly() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let disk = MemoryDisk::new(seed);
        let file = disk.run(created(&disk, "f", 4096));
        disk.run(disk.write(&file, 0, buffer(4096, 2))).0.expect("no fault is set");
        disk.power_cut();
        let bytes = disk.contents("f").expect("the name is durable");
        let new = bytes.chunks(ATOM_BYTES).filter(|atom| *atom == [2; ATOM_BYTES]).count();
        let old = bytes.chunks(ATOM_BYTES).filter(|atom| *atom == [1; ATOM_BYTES]).count();
        assert_eq!(new + old, 8, "a sector is torn");
        kept += new;
        lost += old;
        torn += usize::from(new > 0 && old > 0);
    }
    assert!(kept > 50 && lost > 50 && torn > 25, "{kept} {lost} {torn}");
}

#[test]
fn synced_bytes_and_durable_writes_survive() {
    for seed in 0..50 {
        let disk = MemoryDisk::new(seed);
        disk.run(created(&disk, "f", 8192));
        let file = disk.run(disk.open("f", Access::Durable)).expect("it is there");
        disk.run(disk.write(&file, 4096, buffer(4096, 2))).0.expect("no fault is set");
        disk.power_cut();
        let bytes = disk.contents("f").expect("the name is durable");
        assert!(bytes[..4096].iter().all(|byte| *byte == 1));
        assert!(bytes[4096..].iter().all(|byte| *byte == 2));
    }
}

#[test]
fn durable_write_in_flight_is_torn() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let disk = MemoryDisk::new(seed);
        disk.run(created(&disk, "f", 4096));
        let file = disk.run(disk.open("f", Access::Durable)).expect("it is there");
        let mut write = std::pin::pin!(disk.write(&file, 0, buffer(4096, 2)));
        assert!(
            write.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
        );
        disk.power_cut();
        let bytes = disk.contents("f").expect("the name is durable");
        outcomes.insert(bytes.iter().filter(|byte| **byte == 2).count() / ATOM_BYTES);
    }
    assert!(outcomes.len() > 6, "{outcomes:?}");
}

#[test]
fn names_need_a_sync_of_their_folder() {
    let (mut there, mut gone, mut back) = (0, 0, 0);
    for seed in 0..100 {
        let disk = MemoryDisk::new(seed);
        disk.run(created(&disk, "old", 4096));
        disk.run(disk.remove("old")).expect("it is there");
        let file = disk.run(disk.open("new", Access::Create)).expect("a new name");
        disk.run(disk.sync(&file)).expect("no fault is set");
        disk.power_cut();
        there += usize::from(disk.contents("new").is_some());
        gone += usize::from(disk.contents("new").is_none());
        back += usize::from(disk.contents("old").is_some());
    }
    assert!(there > 20 && gone > 20 && back > 20, "{there} {gone} {back}");
}

#[test]
fn renamed_file_has_one_of_its_names() {
    let mut names = BTreeSet::new();
    for seed in 0..100 {
        let disk = MemoryDisk::new(seed);
        disk.run(created(&disk, "from", 4096));
        disk.run(disk.rename("from", "to")).expect("it is there");
        disk.power_cut();
        let found = (disk.contents("from").is_some(), disk.contents("to").is_some());
        assert!(found.0 != found.1, "both names or none");
        names.insert(found);
        disk.run(disk.sync_folder("")).expect("no fault is set");
        let before = found;
        disk.power_cut();
        assert_eq!(before, (disk.contents("from").is_some(), disk.contents("to").is_some()));
    }
    assert_eq!(names.len(), 2);
}

#[test]
fn failed_sync_drops_pages_that_no_second_sync_saves() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = MemoryDisk::new(seed);
        let file = disk.run(created(&disk, "f", 4096));
        disk.run(disk.write(&file, 0, buffer(4096, 2))).0.expect("no fault is set");
        disk.set_faults(Faults { failed_syncs: 1, ..Faults::default() });
        disk.run(disk.sync(&file)).expect_err("every sync fails");
        disk.set_faults(Faults::default());
        disk.run(disk.sync(&file)).expect("the second sync says that all is well");
        assert_eq!(disk.contents("f").expect("it is there"), [2; 4096], "a read shows them");
        disk.power_cut();
        lost += usize::from(disk.contents("f").expect("it is there") != [2; 4096]);
    }
    assert!(lost > 25, "{lost}");
}

#[test]
fn media_faults_stick_and_are_noted() {
    let disk = MemoryDisk::new(1);
    let file = disk.run(created(&disk, "f", 4096));
    disk.set_faults(Faults { rotten_bits: 1, ..Faults::default() });
    let first = disk.run(disk.read(&file, 0, DiskBuffer::zeroed(4096))).1;
    disk.set_faults(Faults::default());
    let second = disk.run(disk.read(&file, 0, DiskBuffer::zeroed(4096))).1;
    assert_ne!(first.as_slice(), [1; 4096]);
    assert_eq!(first.as_slice(), second.as_slice());
    assert_eq!(disk.media_faults().len(), 1);

    disk.set_faults(Faults { latent_sectors: 1, ..Faults::default() });
    disk.run(disk.read(&file, 0, DiskBuffer::zeroed(4096))).0.expect_err("a sector is bad");
    disk.set_faults(Faults::default());
    disk.run(disk.read(&file, 0, DiskBuffer::zeroed(4096))).0.expect_err("it stays bad");
    disk.run(disk.write(&file, 0, buffer(4096, 3))).0.expect("no fault is set");
    disk.run(disk.read(&file, 0, DiskBuffer::zeroed(4096))).0.expect("it was written anew");

    disk.set_faults(Faults { misdirected_writes: 1, ..Faults::default() });
    disk.run(created(&disk, "g", 65_536));
    disk.run(disk.write(&file, 0, buffer(4096, 9))).0.expect("the disk says so");
    disk.set_faults(Faults::default());
    let place = disk.media_faults().pop().expect("it was noted");
    let bytes = disk.contents(&place.name).expect("the other file is there");
    assert_eq!(bytes[place.offset as usize..][..512], [9; 512]);
}

#[test]
fn full_disk_takes_overwrites_only() {
    let disk = MemoryDisk::new(1);
    let file = disk.run(created(&disk, "f", 4096));
    disk.set_capacity(4096);
    disk.run(disk.write(&file, 0, buffer(4096, 2))).0.expect("the file does not grow");
    let error = disk.run(disk.write(&file, 4096, buffer(4096, 2))).0.expect_err("the disk is full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.used_bytes(), 4096);
    disk.run(disk.remove("f")).expect("it is there");
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn end_of_the_process_keeps_what_the_kernel_has() {
    let disk = MemoryDisk::new(1);
    let file = disk.run(created(&disk, "f", 4096));
    disk.run(disk.write(&file, 0, buffer(4096, 2))).0.expect("no fault is set");
    disk.kill();
    assert_eq!(disk.contents("f").expect("it is there"), [2; 4096]);
}

#[test]
fn folders_list_what_is_directly_in_them() {
    let disk = MemoryDisk::new(1);
    disk.run(async {
        disk.make_folder("lane-0/data").await.expect("a new name");
        disk.open("lane-0/a", Access::Create).await.expect("a new name");
        disk.open("lane-0/data/b", Access::Create).await.expect("a new name");
        disk.open("lane-1/c", Access::Create).await.map(drop).expect_err("no such folder");
        disk.open("lane-0/a", Access::Create).await.map(drop).expect_err("it is there");
        let mut names = disk.list("lane-0").await.expect("it is there");
        names.sort();
        assert_eq!(names, ["a", "data"]);
        assert_eq!(disk.list("").await.expect("it is there"), ["lane-0"]);
        disk.list("lane-1").await.expect_err("no such folder");
    });
}
