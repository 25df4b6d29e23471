//! Loads blocks for callers that were told that they are not in memory. No other task waits
//! meanwhile: while the disk reads, the store is free.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use super::Store;
use crate::base::gate::Gate;
use crate::base::limits::{BLOCK_READS_MAX, REMOVED_AT_ONCE_MAX};
use crate::storage::block::NotLoaded;
use crate::storage::disk::Disk;
use crate::storage::journal::Urgency;
use crate::storage::loads::Load;
use crate::storage::record::{Change, StreamId};
use crate::storage::segment::BlockDamage;
use crate::storage::streams::{HeldStream, LostBlock};
use crate::storage::turns::yield_now;

/// Loads a block, and goes on with the removals of the stream's last change that wait for it. A
/// block that several reads do not get is lost, and the journal records that.
///
/// # Errors
/// Its segment cannot be opened now; the caller may try again later.
pub async fn load<D: Disk>(
    store: &RefCell<Store<D>>,
    id: StreamId,
    needed: NotLoaded,
) -> io::Result<()> {
    let (reader, loading) = {
        let store = store.borrow();
        (store.reader.clone(), store.loading.clone())
    };
    if loading.is_under_way(id, needed.base) {
        loading.ended.reached(loading.ended.value() + 1).await;
        return Ok(());
    }
    let mut result = Ok(());
    for _ in 0..BLOCK_READS_MAX {
        let load = store.borrow_mut().streams.plan_load(id, needed);
        let Some(load) = load else {
            store.borrow_mut().settle_some(id);
            yield_now().await;
            return Ok(());
        };
        let read = {
            let _reading = Reading::begin(&loading, id, &load);
            reader.read(load.span()).await
        };
        let mut store = store.borrow_mut();
        let read = read.as_ref().map_err(|damage| *damage);
        result = store.streams.install(&load, read, &reader);
        if result.is_ok() {
            store.settle_some(id);
            return Ok(());
        }
    }
    match result {
        Err(BlockDamage::Unavailable(kind)) => Err(kind.into()),
        _ => {
            store.borrow_mut().lose(id, needed);
            Ok(())
        }
    }
}

/// The reads under way.
#[derive(Default)]
pub(super) struct Loading {
    blocks: RefCell<BTreeSet<(StreamId, u64)>>,
    /// Counts the reads that ended.
    ended: Gate,
}

impl Loading {
    fn is_under_way(&self, id: StreamId, base: u64) -> bool {
        self.blocks.borrow().contains(&(id, base))
    }
}

/// A read under way, until it ends or nobody waits for it any more.
struct Reading {
    loading: Rc<Loading>,
    blocks: Vec<(StreamId, u64)>,
}

impl Reading {
    fn begin(loading: &Rc<Loading>, id: StreamId, load: &Load) -> Self {
        let blocks: Vec<(StreamId, u64)> = load.bases().map(|base| (id, base)).collect();
        loading.blocks.borrow_mut().extend(blocks.iter().copied());
        Self { loading: loading.clone(), blocks }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut blocks = self.loading.blocks.borrow_mut();
        blocks.retain(|block| !self.blocks.contains(block));
        drop(blocks);
        self.loading.ended.advance_by(1);
    }
}

impl<D: Disk> Store<D> {
    /// Goes on with the removals of the stream's last change, if they waited for a block.
    fn settle_some(&mut self, id: StreamId) {
        let is_unsettled = |held: &&mut HeldStream| !held.stream.is_settled();
        if let Some(held) = self.streams.streams.get_mut(&id).filter(is_unsettled) {
            // Blocks that are still missing are named to whoever asks next.
            let _ = held.stream.settle(REMOVED_AT_ONCE_MAX);
        }
    }

    fn lose(&mut self, id: StreamId, NotLoaded { base }: NotLoaded) {
        let lost = |store: &Self| store.streams.get(id).map_or(0, |held| held.lost().len() as u64);
        let before = lost(self);
        self.streams.lose(id, base);
        self.lost_blocks += lost(self) - before;
        self.write_lost(id);
        self.settle_some(id);
    }

    /// Writes to the journal which blocks of a stream were lost: a replay goes on without them as
    /// this process does.
    pub(super) fn write_lost(&mut self, id: StreamId) {
        let held = self.streams.streams.get_mut(&id);
        let lost = held.map(|held| std::mem::take(&mut held.unwritten_lost));
        for (base, LostBlock { first, last, segment }) in lost.unwrap_or_default() {
            // A lane that takes no record has stopped.
            let change = Change::BlockLost { base, first, last, segment };
            let _ = self.write(id, change, Urgency::Rides);
        }
    }
}
