//! Messages on their way into a stream: what is checked, stored and answered.
//!
//! Source of the order of checks and of the texts: nats-server server/stream.go
//! processJetStreamMsgWithBatch.

use std::borrow::Cow;
use std::rc::Rc;

use super::engine::Engine;
use super::error::ApiError;
use super::json::encode::encode;
use super::json::timestamp::Timestamp;
use super::leaving::Outgoing;
use super::publish_headers::{Asked, is_increment, to_be_stored};
use super::stream::StreamHandle;
use super::stream_config::{Retention, StreamConfig};
use crate::base::limits::INGESTED_PER_TURN_MAX;
use crate::broker::mailbox::Letter;
use crate::protocol::headers::{self, FIRST_LINE};
use crate::protocol::nats::encode::decimal;
use crate::protocol::subject::is_sendable;
use crate::storage::block::NotLoaded;
use crate::storage::disk::Disk;
use crate::storage::marks::{TIME_TO_LIVE, TimeToLive, rollup, time_to_live};
use crate::storage::position::CommitNumber;
use crate::storage::store::StoreError;
use crate::storage::stream::expectations::{Expected, Refusal};
use crate::storage::stream::{AtLimit, NewMessage};

/// The largest header block that a stream takes.
const HEADER_BYTES_MAX: usize = u16::MAX as usize;

/// The headers of the answer to a publisher whose message found no room.
const TOO_MANY_REQUESTS: &[u8] = b"NATS/1.0 429 Too Many Requests\r\n\r\n";

/// Bytes of an acknowledgement besides its names.
const ACKNOWLEDGEMENT_BYTES: usize = 96;

/// The end of reply subjects by which a batch without headers is published.
const FAST_BATCH_SUFFIX: &[u8] = b".$FI";

/// Work that has to be done before a message can be taken.
pub(super) enum Wait {
    Load(NotLoaded),
    Removals,
}

impl From<NotLoaded> for Wait {
    fn from(needed: NotLoaded) -> Self {
        Self::Load(needed)
    }
}

/// The answer to a publisher.
enum Fate {
    Stored(u64),
    Duplicate(u64),
    Refused(ApiError),
}

impl<D: Disk> Engine<D> {
    /// Takes the messages of a stream's inlet until the stream is gone.
    pub(super) async fn serve_stream(self: Rc<Self>, stream: Rc<StreamHandle>) {
        while let Some(mut letters) = self.letters(&stream.inlet, &stream.gone).await {
            self.refuse_excess(&stream);
            let mut left = INGESTED_PER_TURN_MAX;
            let mut now_ns = self.host.now_ns();
            while let Some(letter) = letters.next_letter() {
                if stream.is_gone() {
                    return;
                }
                if let Err(wait) = self.ingest(&stream, &letter, now_ns) {
                    letters.again();
                    match wait {
                        Wait::Load(needed) => self.load(stream.id, needed).await,
                        Wait::Removals => self.finish_removals(&stream).await,
                    }
                    now_ns = self.host.now_ns();
                    continue;
                }
                left -= 1;
                if left == 0 || self.leaving.is_full() {
                    self.wait_for_room().await;
                    (left, now_ns) = (INGESTED_PER_TURN_MAX, self.host.now_ns());
                }
            }
            self.host.yield_turn().await;
        }
    }

    /// Answers the publishers whose messages found no room in the inlet.
    fn refuse_excess(&self, stream: &StreamHandle) {
        let refused = stream.inlet.take_refused();
        if refused.is_empty() {
            return;
        }
        tracing::warn!(
            "Dropping messages due to excessive stream ingest rate on '{}' > '{}': IPQ len limit reached",
            stream.account.name,
            stream.name
        );
        let body = refused_json(&stream.name, &ApiError::TOO_MANY_REQUESTS);
        for (account, reply) in refused {
            let (headers, payload) = (TOO_MANY_REQUESTS, body.as_slice());
            let message = Outgoing { subject: &reply, headers, payload, ..Outgoing::default() };
            self.leaving.push(CommitNumber(0), account, &message);
        }
    }

    /// Ends a slice, and goes on once the store and the queue of what leaves have room.
    pub(super) async fn wait_for_room(&self) {
        self.host.yield_turn().await;
        while self.leaving.is_full() || self.store.borrow().is_crowded() {
            let durable = self.store.borrow().lane().clone();
            let next = CommitNumber(durable.durable_commit().0 + 1);
            if next > durable.last_commit() || durable.durable(next).await.is_err() {
                self.host.yield_turn().await;
                return;
            }
        }
    }

    /// Takes a message, or says what has to be done before.
    fn ingest(
        &self,
        stream: &Rc<StreamHandle>,
        letter: &Letter<'_>,
        now_ns: i64,
    ) -> Result<(), Wait> {
        let config = stream.config();
        let message = &letter.message;
        let mut headers = Cow::Borrowed(message.headers);
        let mut asked = Asked::default();
        if !message.headers.is_empty() {
            asked = Asked::read(&headers);
            if let Some(stored) = to_be_stored(&headers, asked.has_request_info) {
                headers = Cow::Owned(stored);
                asked = Asked::default();
            }
        }
        let own;
        if let Cow::Owned(block) = &headers {
            own = block.clone();
            asked = Asked::read(&own);
        }
        let rules = stream.rules();
        let mut random = self.random.borrow_mut();
        let transform = rules.transform.as_ref();
        let subject = transform.and_then(|one| one.apply(message.subject, &mut random));
        drop(random);
        let mut new = NewMessage {
            time_ns: now_ns,
            subject: subject.as_deref().unwrap_or(message.subject),
            headers: &headers,
            payload: message.payload(),
        };
        let raised = raised_time_to_live(&config, &asked, &headers);
        if let Some(raised) = &raised {
            new.headers = raised;
        }
        let (fate, after) = match message.reply.ends_with(FAST_BATCH_SUFFIX) {
            true => (Fate::Refused(ApiError::BATCH_DISABLED), CommitNumber(0)),
            false => self.judge(stream, &config, &asked, new)?,
        };
        let counted = match &fate {
            Fate::Stored(_) => &self.counters.stored,
            Fate::Duplicate(_) => &self.counters.duplicates,
            Fate::Refused(_) => &self.counters.refused,
        };
        counted.add(1);
        if !message.reply.is_empty() && !config.no_ack {
            self.acknowledge(stream, message.reply, &fate, after);
        }
        Ok(())
    }

    fn judge(
        &self,
        stream: &Rc<StreamHandle>,
        config: &StreamConfig,
        asked: &Asked<'_>,
        new: NewMessage<'_>,
    ) -> Result<(Fate, CommitNumber), Wait> {
        let expected = Expected {
            last_sequence: asked.last_sequence,
            last_of: asked
                .last_sequence_of_subject
                .map(|sequence| (asked.subject.unwrap_or(new.subject), sequence)),
            last_id: asked.last_id,
        };
        let mut store = self.store.borrow_mut();
        let told_after = |value: Fate| match store.streams().get(stream.id) {
            Some(held) => held.answer(value),
            None => crate::storage::streams::Answer { value, after: CommitNumber(0) },
        };
        if let Some(refusal) = early_refusal(config, asked, &new) {
            let answer = told_after(Fate::Refused(refusal));
            return Ok((answer.value, answer.after));
        }
        if let Some((refusal, stage)) = self.late_refusal(stream, config, asked, &new) {
            let held = store.streams().get(stream.id);
            let earlier = held.map(|held| held.stream.refuses(&new, &expected)).transpose()?;
            let earlier = earlier.flatten().filter(|earlier| stage_of(earlier) < stage);
            let fate = earlier.map_or(Fate::Refused(refusal), fate_of);
            let answer = told_after(fate);
            return Ok((answer.value, answer.after));
        }
        let mut random = self.random.borrow_mut();
        let republished = stream.rules().republished(new.subject, &mut random);
        drop(random);
        let held = store.streams().get(stream.id).filter(|_| republished.is_some());
        let before = held.map_or(0, |held| held.stream.last_sequence_of(new.subject));
        let is_unwanted =
            config.retention == Retention::Interest && !stream.interest.borrow().wants(new.subject);
        let result = store.append_if(stream.id, new, &expected);
        let (fate, after) = match result {
            Ok(answer) => match answer.value {
                Ok(sequence) => (Fate::Stored(sequence), answer.after),
                Err(refusal) => (fate_of(refusal), answer.after),
            },
            Err(StoreError::NotLoaded(needed)) => return Err(Wait::Load(needed)),
            Err(StoreError::Purging) => return Err(Wait::Removals),
            Err(error) => return Ok((Fate::Refused(refusal_of(&error)), CommitNumber(0))),
        };
        if let Fate::Stored(sequence) = fate {
            if is_unwanted {
                // Nobody wants it: only its sequence is used.
                let _ = store.delete(stream.id, sequence);
            }
            drop(store);
            self.note_change(stream);
            if let Some(subject) = republished.filter(|_| !is_unwanted) {
                self.republish(stream, (&subject, &new), (sequence, before), after);
            }
        }
        Ok((fate, after))
    }

    /// The refusals that come only after some of those that the store finds, and their place among
    /// these.
    fn late_refusal(
        &self,
        stream: &StreamHandle,
        config: &StreamConfig,
        asked: &Asked<'_>,
        new: &NewMessage<'_>,
    ) -> Option<(ApiError, Stage)> {
        if asked.last_sequence_of_subject.is_none() && asked.subject.is_some() {
            return Some((ApiError::LAST_SUBJECT_SEQUENCE_MISSING, Stage::LastOfSubject));
        }
        if asked.schedule.is_some() {
            return Some((ApiError::SCHEDULES_DISABLED, Stage::Schedule));
        }
        if asked.schedule_next.is_some() || asked.scheduler.is_some() {
            let is_well_formed = asked.schedule_next == Some(b"purge")
                && asked.scheduler.is_some_and(|one| one != new.subject && is_sendable(one));
            let error = match is_well_formed {
                true => ApiError::SCHEDULES_DISABLED,
                false => ApiError::SCHEDULE_SCHEDULER_INVALID,
            };
            return Some((error, Stage::Schedule));
        }
        if asked.source.is_some() {
            return Some((ApiError::SOURCE_HEADER_NOT_ALLOWED, Stage::Schedule));
        }
        if let Some(value) = asked.rollup {
            if !config.allow_rollup || config.deny_purge {
                return Some((ApiError::rollup_failed("rollup not permitted"), Stage::Rollup));
            }
            if rollup(value).is_none() {
                let value = String::from_utf8_lossy(&value.to_ascii_lowercase()).into_owned();
                let text = format!("rollup value invalid: {value:?}");
                return Some((ApiError::rollup_failed(text), Stage::Rollup));
            }
        }
        let (is_memory, limits) = (stream.is_memory(), stream.account.limits.borrow());
        let settings = self.settings.borrow();
        let usage = self.usage.get();
        let (used, max) = match is_memory {
            true => (usage.memory, settings.memory_bytes_max),
            false => (usage.store, settings.store_bytes_max),
        };
        if is_above(used, max) {
            return Some((ApiError::INSUFFICIENT_RESOURCES, Stage::Limits));
        }
        let is_kept =
            config.retention != Retention::Interest || stream.interest.borrow().wants(new.subject);
        let limits = limits.as_ref().filter(|_| is_kept)?;
        let usage = stream.account.usage.get();
        let (used, max) = match is_memory {
            true => (usage.memory, limits.memory_bytes_max),
            false => (usage.store, limits.store_bytes_max),
        };
        if max >= 0 {
            let bytes = (new.subject.len() + new.headers.len() + new.payload.len()) as u64;
            if is_above(used + bytes + if is_memory { 16 } else { 30 }, max) {
                return Some((ApiError::RESOURCES_EXCEEDED, Stage::Limits));
            }
        }
        let ttl = asked.time_to_live?;
        time_to_live(ttl).is_none().then_some((ApiError::TTL_INVALID, Stage::Limits))
    }

    /// Publishes a stored message anew.
    fn republish(
        &self,
        stream: &StreamHandle,
        (subject, new): (&[u8], &NewMessage<'_>),
        (sequence, before): (u64, u64),
        after: CommitNumber,
    ) {
        let mut block = new.headers.to_vec();
        headers::append(&mut block, b"Nats-Stream", stream.name.as_bytes());
        headers::append(&mut block, b"Nats-Subject", new.subject);
        headers::append(&mut block, b"Nats-Sequence", sequence.to_string().as_bytes());
        let time = Timestamp::from_unix_ns(new.time_ns).to_string();
        headers::append(&mut block, b"Nats-Time-Stamp", time.as_bytes());
        headers::append(&mut block, b"Nats-Last-Sequence", before.to_string().as_bytes());
        let mut payload = new.payload;
        if stream.rules().republishes_headers_only {
            headers::append(&mut block, b"Nats-Msg-Size", payload.len().to_string().as_bytes());
            payload = b"";
        }
        let message = Outgoing { subject, headers: &block, payload, ..Outgoing::default() };
        self.leaving.push(after, stream.account.id, &message);
    }

    fn acknowledge(&self, stream: &StreamHandle, reply: &[u8], fate: &Fate, after: CommitNumber) {
        let (account, message) =
            (stream.account.id, Outgoing { subject: reply, ..Outgoing::default() });
        let (sequence, is_duplicate) = match fate {
            Fate::Stored(sequence) => (*sequence, false),
            Fate::Duplicate(sequence) => (*sequence, true),
            Fate::Refused(error) => {
                let body = refused_json(&stream.name, error);
                let message = Outgoing { payload: &body, ..message };
                return self.leaving.push(after, account, &message);
            }
        };
        let bytes_max = ACKNOWLEDGEMENT_BYTES + stream.pub_ack.len();
        self.leaving.push_with(after, account, &message, bytes_max, |out| {
            out.extend_from_slice(&stream.pub_ack);
            decimal(out, usize::try_from(sequence).unwrap_or(usize::MAX));
            // The blank is nats-server's.
            out.extend_from_slice(if is_duplicate { b",\"duplicate\": true}" } else { b"}" });
        });
    }
}

/// The answer to a publisher whose message was refused.
fn refused_json(stream: &str, error: &ApiError) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Refused<'a> {
        error: &'a ApiError,
        stream: &'a str,
        seq: u64,
    }
    encode(&Refused { error, stream, seq: 0 })
}

/// The place of a check in the order of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    LastOfSubject,
    LastSequence,
    Schedule,
    Duplicate,
    LastId,
    Rollup,
    Limits,
}

fn stage_of(refusal: &Refusal) -> Stage {
    match refusal {
        Refusal::WrongLastOfSubject { .. } => Stage::LastOfSubject,
        Refusal::WrongLastSequence { .. } => Stage::LastSequence,
        Refusal::Duplicate { .. } => Stage::Duplicate,
        Refusal::WrongLastId { .. } => Stage::LastId,
        Refusal::AtLimit(_) => Stage::Limits,
    }
}

/// The refusals that come before all that depends on the stream's messages.
fn early_refusal(
    config: &StreamConfig,
    asked: &Asked<'_>,
    new: &NewMessage<'_>,
) -> Option<ApiError> {
    if asked.batch.is_some() {
        return Some(ApiError::ATOMIC_DISABLED);
    }
    if config.is_sealed {
        return Some(ApiError::STREAM_SEALED);
    }
    let size = new.headers.len() + new.payload.len();
    if usize::try_from(config.message_size_max).is_ok_and(|max| size > max) {
        return Some(ApiError::MESSAGE_EXCEEDS_MAXIMUM);
    }
    if new.headers.len() > HEADER_BYTES_MAX {
        return Some(ApiError::HEADER_EXCEEDS_MAXIMUM);
    }
    if let Some(value) = asked.increment {
        return Some(match is_increment(value) {
            true => ApiError::COUNTER_DISABLED,
            false => ApiError::COUNTER_INCREMENT_INVALID,
        });
    }
    if asked.stream.is_some_and(|stream| stream != config.name.as_bytes()) {
        return Some(ApiError::STREAM_NOT_MATCHED);
    }
    let has_ttl = asked.time_to_live.is_some_and(|value| time_to_live(value).is_some());
    (has_ttl && !config.allow_ttl).then_some(ApiError::TTL_DISABLED)
}

/// The header block with a longer time to live: a message whose own is shorter than that of markers
/// gets theirs, or a marker that is there already would hide its end.
fn raised_time_to_live(config: &StreamConfig, asked: &Asked<'_>, block: &[u8]) -> Option<Vec<u8>> {
    let TimeToLive::Nanoseconds(own) = time_to_live(asked.time_to_live?)? else { return None };
    let markers = config.marker_ttl_ns;
    if markers <= own || config.messages_per_subject_max == 1 {
        return None;
    }
    let mut raised = FIRST_LINE.to_vec();
    let mut rest = block.strip_prefix(FIRST_LINE)?;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let (line, after) = rest.split_at(end + 2);
        let is_own = line.strip_prefix(TIME_TO_LIVE).is_some_and(|value| value.starts_with(b":"));
        if !is_own {
            raised.extend_from_slice(line);
        }
        rest = after;
    }
    headers::append(&mut raised, TIME_TO_LIVE, (markers / SECOND_NS).to_string().as_bytes());
    Some(raised)
}

const SECOND_NS: i64 = 1_000_000_000;

fn is_above(used: u64, max: i64) -> bool {
    u64::try_from(max).is_ok_and(|max| used > max)
}

fn fate_of(refusal: Refusal) -> Fate {
    Fate::Refused(match refusal {
        Refusal::Duplicate { sequence } => return Fate::Duplicate(sequence),
        Refusal::WrongLastOfSubject { last } | Refusal::WrongLastSequence { last } => {
            ApiError::wrong_last_sequence(last)
        }
        Refusal::WrongLastId { id } => {
            ApiError::wrong_last_message_id(String::from_utf8_lossy(&id))
        }
        Refusal::AtLimit(AtLimit::Messages | AtLimit::Sequences) => {
            ApiError::store_failed("maximum messages exceeded")
        }
        Refusal::AtLimit(AtLimit::Bytes) => ApiError::store_failed("maximum bytes exceeded"),
        Refusal::AtLimit(AtLimit::MessagesPerSubject) => {
            ApiError::store_failed("maximum messages per subject exceeded")
        }
    })
}

fn refusal_of(error: &StoreError) -> ApiError {
    match error {
        StoreError::Short(_) => ApiError::INSUFFICIENT_RESOURCES,
        // The misspelling is nats-server's.
        StoreError::TooLarge => ApiError::store_failed("message to large"),
        StoreError::Refused(refused) => match refused {
            crate::storage::lane::Refused::TooLarge(_) => {
                ApiError::store_failed("message to large")
            }
            crate::storage::lane::Refused::Stopped(stopped) => {
                ApiError::store_failed(stopped.to_string())
            }
        },
        _ => ApiError::store_failed("store is closed"),
    }
}
