//! A store on a real disk that is given other lanes.

use std::future::{Future, poll_fn};
use std::path::Path;

use super::*;
use crate::storage::folder::StoreSettings;
use crate::storage::store::Store;
use crate::storage::stream::{NewMessage, StreamLimits};

/// Appends a message to a new stream of each lane, durably.
fn write(folder: &StoreFolder) {
    let disk = ThreadDisk::start(folder.root(), WriteMode::Buffered, || {}).expect("threads");
    for lane in 0..folder.settings().lanes {
        let place = folder.journal(lane);
        disk.run(disk.make_folder(&place.folder)).expect("the folder can be made");
        let replayed = disk.run(replay_with(&disk, &place, None)).expect("it can be read");
        let mut store = Store::start(disk.clone(), place, replayed).expect("nothing is lost");
        let lane = store.lane().clone();
        let (mut commit, mut spare) = (Box::pin(lane.commit()), Box::pin(lane.keep_spare()));
        let limits = StreamLimits::default();
        let id = store.create_stream(1, limits, b"").expect("there is room").value;
        let new = NewMessage { time_ns: 1, subject: b"a", headers: b"", payload: b"x" };
        let after = store.append(id, new).expect("there is room").after;
        let mut durable = Box::pin(lane.durable(after));
        let all = poll_fn(|context| {
            assert!(commit.as_mut().poll(context).is_pending());
            assert!(spare.as_mut().poll(context).is_pending());
            durable.as_mut().poll(context)
        });
        disk.run(all).expect("the disk works");
    }
}

/// The streams of each lane, all of which have one message.
fn streams(folder: &StoreFolder) -> Vec<Vec<u64>> {
    let lanes = check::read_lanes(folder).expect("it can be read");
    let ids = |lane: &check::LaneReport| {
        assert!(lane.is_whole(), "{lane}");
        let streams = lane.replayed.iter().flat_map(|replayed| replayed.streams.iter());
        let id = |(id, held): (StreamId, &crate::storage::streams::HeldStream)| {
            assert_eq!(held.stream.totals().messages, 1);
            id.0
        };
        streams.map(id).collect()
    };
    lanes.iter().map(ids).collect()
}

fn folders(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).expect("it is there");
    let name = |entry: io::Result<std::fs::DirEntry>| {
        entry.expect("it is there").file_name().into_string().expect("names are text")
    };
    let mut names: Vec<String> =
        entries.map(name).filter(|name| name.starts_with("lane-")).collect();
    names.sort();
    names
}

#[test]
fn store_is_given_other_lanes_and_keeps_its_streams() {
    let root = std::env::temp_dir().join(format!("midge-store-lanes-{}", std::process::id()));
    let settings = StoreSettings { lanes: 2, journal_file_bytes: 16 << 20 };
    let folder = StoreFolder::open(&root, settings).expect("it is made");
    write(&folder);
    let second = StreamId::first_of(1).0;
    assert_eq!(streams(&folder), [[0], [second]]);
    let old_head = std::fs::read(root.join("store")).expect("it is there");

    let folder = change_lanes(folder, 1).expect("it is whole");
    assert_eq!((folder.settings().lanes, folders(&root)), (1, vec!["lane-0.1".to_owned()]));
    assert_eq!(streams(&folder), [[0, second]]);
    write(&folder);
    let folder = change_lanes(folder, 3).expect("it is whole");
    assert_eq!(folders(&root), ["lane-0.2", "lane-1.2", "lane-2.2"]);
    write(&folder);
    // No id was used twice.
    let (lane, third) = (StreamId::first_of(1).0, StreamId::first_of(2).0);
    assert_eq!(streams(&folder), [vec![0, 2], vec![1, lane + 2], vec![lane, third + 2]]);
    drop(folder);

    // An unfinished attempt is removed by the next start.
    std::fs::create_dir(root.join("lane-0.3")).expect("it is new");
    std::fs::write(root.join("lane-0.3/segment"), b"").expect("it is new");
    let folder = StoreFolder::open(&root, settings).expect("it is there");
    assert_eq!((folder.settings().lanes, folders(&root).len()), (3, 3));
    drop(folder);
    // Somebody put back a head from before.
    std::fs::write(root.join("store"), old_head).expect("it is writable");
    let error = StoreFolder::open(&root, settings).expect_err("it is refused").to_string();
    assert!(error.contains("of another time"), "{error}");
    assert_eq!(folders(&root).len(), 3, "nothing was removed");
    std::fs::remove_dir_all(&root).expect("it is there");
}
