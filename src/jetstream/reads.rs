//! Finds messages of a stream, in slices, and loads them where they are not in memory.

use super::engine::Engine;
use super::stream::StreamHandle;
use crate::base::limits::{LOOKED_AT_PER_TURN_MAX, PENDING_BLOCKS_PER_TURN_MAX};
use crate::protocol::subject::has_wildcard;
use crate::storage::block::Message;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;
use crate::storage::store::StoreError;
use crate::storage::stream::pending::Pending;
use crate::storage::stream::{Search, Stream};
use crate::storage::streams::HeldStream;

/// A message to be found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    Sequence(u64),
    /// The last one of a subject, or of those that match a filter.
    Last(&'a [u8]),
    /// The first one from a sequence on that matches a filter.
    Next(&'a [u8], u64),
}

/// The commit that an answer with a message waits for: none if the message is on disk.
pub(super) fn told_after(held: &HeldStream, sequence: u64) -> CommitNumber {
    match sequence <= held.durable_sequence() {
        true => CommitNumber(0),
        false => held.answer(()).after,
    }
}

impl<D: Disk> Engine<D> {
    /// Looks at a stream, once what `look` needs is in memory. None once the stream is gone.
    pub(crate) async fn look<T>(
        &self,
        stream: &StreamHandle,
        mut look: impl FnMut(&HeldStream) -> Result<T, StoreError>,
    ) -> Option<T> {
        let found = self
            .with_store(stream, |store| {
                let held = store.streams().get(stream.id).ok_or(StoreError::NoSuchStream)?;
                if held.is_purging() {
                    return Err(StoreError::Purging);
                }
                look(held)
            })
            .await;
        found.ok()
    }

    /// Finds the sequence of a message.
    pub(super) async fn locate(&self, stream: &StreamHandle, wanted: Wanted<'_>) -> Option<u64> {
        match wanted {
            Wanted::Sequence(sequence) => {
                let is_there = |held: &HeldStream| Ok(held.stream.get(sequence)?.is_some());
                self.look(stream, is_there).await?.then_some(sequence)
            }
            Wanted::Last(filter) if !has_wildcard(filter) => {
                let last = |held: &HeldStream| Ok(held.stream.last_sequence_of(filter));
                self.look(stream, last).await.filter(|sequence| *sequence > 0)
            }
            Wanted::Last(filter) => {
                let (mut after, mut last) = (Some(Vec::new()), 0);
                while let Some(place) = after {
                    let begin = Some(place.as_slice()).filter(|place| !place.is_empty());
                    after = self
                        .look(stream, |held| {
                            let subjects = held.stream.subjects();
                            Ok(subjects.scan(filter, begin, LOOKED_AT_PER_TURN_MAX, |_, totals| {
                                last = last.max(totals.last);
                                true
                            }))
                        })
                        .await?;
                    self.end_slice(after.is_some()).await;
                }
                Some(last).filter(|sequence| *sequence > 0)
            }
            Wanted::Next(filter, from) => {
                let mut from = from;
                loop {
                    let found = self
                        .look(stream, |held| {
                            Ok(match held.stream.next(filter, from, LOOKED_AT_PER_TURN_MAX)? {
                                Search::Found(message) => Ok(Some(message.sequence)),
                                Search::Nothing => Ok(None),
                                Search::GoOn(sequence) => Err(sequence),
                            })
                        })
                        .await?;
                    match found {
                        Ok(found) => return found,
                        Err(sequence) => from = sequence,
                    }
                    self.end_slice(true).await;
                }
            }
        }
    }

    /// Gives a message to `visit`, with the commit that an answer about it waits for. None if it is
    /// not there.
    pub(super) async fn visit<T>(
        &self,
        stream: &StreamHandle,
        sequence: u64,
        mut visit: impl FnMut(&Message<'_>, CommitNumber) -> T,
    ) -> Option<T> {
        let visited = self.look(stream, |held| {
            let message = held.stream.get(sequence)?;
            Ok(message.map(|message| visit(&message, told_after(held, sequence))))
        });
        visited.await.flatten()
    }

    /// The first sequence at or after a time; behind the last one if there is none.
    pub(super) async fn sequence_since(&self, stream: &StreamHandle, time_ns: i64) -> u64 {
        let since = |held: &HeldStream| {
            let found = held.stream.first_since(time_ns)?;
            Ok(found.unwrap_or(held.stream.totals().last_sequence + 1))
        };
        self.look(stream, since).await.unwrap_or(0)
    }

    /// The number of messages from a sequence on that match a filter; empty = all.
    pub(crate) async fn count_pending(
        &self,
        stream: &StreamHandle,
        filter: &[u8],
        from: u64,
    ) -> u64 {
        let mut pending = Pending::new(if filter.is_empty() { b">" } else { filter }, from);
        loop {
            let count = self.look(stream, |held| {
                let stream: &Stream = &held.stream;
                Ok(stream.pending(&mut pending, PENDING_BLOCKS_PER_TURN_MAX)?)
            });
            match count.await {
                Some(Some(count)) => return count,
                Some(None) => self.end_slice(true).await,
                None => return 0,
            }
        }
    }

    /// Lets others have their turn if more follows.
    pub(super) async fn end_slice(&self, goes_on: bool) {
        if goes_on {
            self.host.yield_turn().await;
        }
    }
}
