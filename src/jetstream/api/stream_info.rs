//! A stream as answers describe it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::engine::Engine;
use super::super::json::encode::is_default;
use super::super::json::timestamp::Timestamp;
use super::super::stream::StreamHandle;
use super::super::stream_config::StreamConfig;
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::storage::disk::Disk;
use crate::storage::store::StoreError;
use crate::storage::stream::Search;

/// Subjects of one page of a stream's description.
pub(super) const SUBJECTS_PER_PAGE: usize = 100_000;

/// The state of a stream, with nats-server's names.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StateJson {
    pub messages: u64,
    pub bytes: u64,
    pub first_seq: u64,
    pub first_ts: Timestamp,
    pub last_seq: u64,
    pub last_ts: Timestamp,
    #[serde(skip_serializing_if = "is_default")]
    pub num_subjects: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subjects: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "is_default")]
    pub num_deleted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostJson>,
    pub consumer_count: usize,
}

/// Messages that were lost by damage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LostJson {
    pub msgs: Vec<u64>,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterJson {
    pub leader: String,
}

/// A stream, with nats-server's names.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamJson {
    pub config: StreamConfig,
    pub created: Timestamp,
    pub state: StateJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterJson>,
    pub ts: Timestamp,
}

impl<D: Disk> Engine<D> {
    /// Describes a stream. None once it is gone.
    pub(crate) async fn describe(&self, stream: &StreamHandle) -> Option<StreamJson> {
        let state = self.describe_state(stream).await?;
        Some(StreamJson {
            config: (*stream.config()).clone(),
            created: stream.created,
            state,
            domain: None,
            cluster: None,
            ts: Timestamp::from_unix_ns(self.host.now_ns()),
        })
    }

    /// The state of a stream. None once it is gone.
    pub(crate) async fn describe_state(&self, stream: &StreamHandle) -> Option<StateJson> {
        let first_sequence = stream.config().first_sequence;
        let described = self
            .with_store(stream, |store| {
                let held = store.streams().get(stream.id).ok_or(StoreError::NoSuchStream)?;
                if held.is_purging() {
                    return Err(StoreError::Purging);
                }
                let (totals, first_ns) = (held.stream.totals(), held.stream.first_time_ns()?);
                let time = |ns: Option<i64>| ns.map_or(Timestamp::ZERO, Timestamp::from_unix_ns);
                let is_new = totals.last_sequence == 0 && first_sequence == 0;
                let lost: Vec<u64> =
                    held.lost().iter().flat_map(|lost| lost.first..=lost.last).collect();
                Ok(StateJson {
                    messages: totals.messages,
                    bytes: totals.bytes,
                    first_seq: if is_new { 0 } else { totals.first_sequence },
                    first_ts: time(first_ns),
                    last_seq: totals.last_sequence,
                    last_ts: time(held.stream.last_time_ns()),
                    num_subjects: totals.subjects,
                    subjects: None,
                    num_deleted: totals.deleted,
                    deleted: None,
                    lost: (!lost.is_empty()).then_some(LostJson { msgs: lost, bytes: 0 }),
                    consumer_count: stream.consumers.shown(),
                })
            })
            .await;
        described.ok()
    }

    /// The sequences of messages that are missing between the first and the last one.
    pub(super) async fn deleted(&self, stream: &StreamHandle) -> Option<Vec<u64>> {
        let (mut deleted, mut from) = (Vec::new(), None);
        loop {
            // The messages of one block at a time.
            let step = self.look(stream, |held| {
                let totals = held.stream.totals();
                let begin = from.unwrap_or(totals.first_sequence);
                let (mut expected, mut missing) = (begin, Vec::new());
                let mut looked_at = 0;
                while looked_at < LOOKED_AT_PER_TURN_MAX {
                    let found = match held.stream.next(b">", expected, 1) {
                        Ok(Search::Found(message)) => message.sequence,
                        Ok(_) => totals.last_sequence + 1,
                        Err(needed) if looked_at == 0 => return Err(needed.into()),
                        Err(_) => break,
                    };
                    missing.extend(expected..found);
                    if found > totals.last_sequence {
                        return Ok((missing, None));
                    }
                    expected = found + 1;
                    looked_at += 1;
                }
                Ok((missing, Some(expected)))
            });
            let (missing, next) = step.await?;
            deleted.extend(missing);
            from = next;
            if from.is_none() {
                return Some(deleted);
            }
            self.host.yield_turn().await;
        }
    }

    /// The number of subjects that match a filter, and a page of them with their counts.
    pub(super) async fn subjects(
        &self,
        stream: &StreamHandle,
        filter: &[u8],
        offset: i64,
    ) -> (usize, BTreeMap<String, u64>) {
        let offset = usize::try_from(offset).unwrap_or(0);
        let (mut total, mut page) = (0, BTreeMap::new());
        let mut after = Some(Vec::new());
        while let Some(place) = after {
            let begin = Some(place.as_slice()).filter(|place| !place.is_empty());
            let scanned = self.look(stream, |held| {
                let subjects = held.stream.subjects();
                Ok(subjects.scan(filter, begin, LOOKED_AT_PER_TURN_MAX, |subject, totals| {
                    if total >= offset && page.len() < SUBJECTS_PER_PAGE {
                        let subject = String::from_utf8_lossy(subject).into_owned();
                        page.insert(subject, totals.count);
                    }
                    total += 1;
                    true
                }))
            });
            after = scanned.await.flatten();
            self.end_slice(after.is_some()).await;
        }
        (total, page)
    }
}
