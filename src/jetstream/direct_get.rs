//! Requests for messages that are answered by the messages themselves, with headers that say where
//! they are from.
//!
//! Source: nats-server server/stream.go getDirectRequest, getDirectMulti.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::api::{DIRECT_PREFIX, Request};
use super::directory::Directory;
use super::engine::Engine;
use super::json::decode::decode;
use super::leaving::Outgoing;
use super::message_request::MessageRequest;
use super::reads::{Wanted, told_after};
use super::stream::StreamHandle;
use crate::base::limits::{
    DIRECT_GETS_AT_ONCE_MAX, INGESTED_PER_TURN_MAX, LAST_OF_EACH_MAX, LOOKED_AT_PER_TURN_MAX,
};
use crate::base::time_text::timestamp;
use crate::broker::mailbox::Letter;
use crate::protocol::headers;
use crate::protocol::nats::encode::decimal;
use crate::storage::block::Message;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;
use crate::storage::stream::Search;

/// The part of a batch that a message is.
#[derive(Clone, Copy, Debug)]
struct InBatch {
    pending: u64,
    last_sequence: u64,
}

/// Appends what says where a message is from.
fn describe(block: &mut Vec<u8>, stream: &str, message: &Message<'_>, batch: Option<InBatch>) {
    let at = SystemTime::UNIX_EPOCH
        + Duration::from_nanos(u64::try_from(message.time_ns).unwrap_or_default());
    headers::append(block, b"Nats-Stream", stream.as_bytes());
    headers::append(block, b"Nats-Subject", message.subject);
    headers::append(block, b"Nats-Sequence", &digits(message.sequence));
    headers::append(block, b"Nats-Time-Stamp", timestamp(at).as_bytes());
    if let Some(InBatch { pending, last_sequence }) = batch {
        headers::append(block, b"Nats-Num-Pending", &digits(pending));
        headers::append(block, b"Nats-Last-Sequence", &digits(last_sequence));
    }
}

fn digits(number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    decimal(&mut digits, usize::try_from(number).unwrap_or(usize::MAX));
    digits
}

impl<D: Disk> Engine<D> {
    /// Answers an account's requests for messages. Those that need the disk do not hold up others.
    pub(super) async fn serve_direct_gets(self: Rc<Self>, directory: Rc<Directory>) {
        let under_way = Rc::new(std::cell::Cell::new(0usize));
        while let Some(mut letters) = self.letters(&directory.direct_gets, &directory.gone).await {
            let mut left = INGESTED_PER_TURN_MAX;
            while let Some(letter) = letters.next_letter() {
                if !self.get_at_once(&directory, &letter)
                    && let Some(request) = Request::new(&letter)
                {
                    let (engine, directory) = (self.clone(), directory.clone());
                    if under_way.get() < DIRECT_GETS_AT_ONCE_MAX {
                        let under_way = under_way.clone();
                        under_way.set(under_way.get() + 1);
                        self.host.spawn(Box::pin(async move {
                            engine.get_directly(&directory, &request).await;
                            under_way.set(under_way.get() - 1);
                        }));
                    } else {
                        engine.get_directly(&directory, &request).await;
                    }
                }
                left -= 1;
                if left == 0 || self.leaving.is_full() {
                    self.wait_for_room().await;
                    left = INGESTED_PER_TURN_MAX;
                }
            }
            self.host.yield_turn().await;
        }
    }

    /// Answers a request for the last message of a subject if that is in memory: the usual case of
    /// a key-value store.
    fn get_at_once(&self, directory: &Directory, letter: &Letter<'_>) -> bool {
        let message = &letter.message;
        let rest = message.subject.strip_prefix(DIRECT_PREFIX).unwrap_or_default();
        let Some(at) = memchr::memchr(b'.', rest) else { return false };
        let (name, key) = (&rest[..at], &rest[at + 1..]);
        if !message.body.is_empty() || message.reply.is_empty() || key.is_empty() {
            return false;
        }
        let Some(stream) = std::str::from_utf8(name).ok().and_then(|name| directory.stream(name))
        else {
            return false;
        };
        let store = self.store.borrow();
        let Some(held) = store.streams().get(stream.id).filter(|held| !held.is_purging()) else {
            return false;
        };
        let Ok(Some(found)) = held.stream.last_of(key) else { return false };
        let after = told_after(held, found.sequence);
        self.send_message(&stream, message.reply, &found, (after, None, true));
        true
    }

    async fn get_directly(&self, directory: &Directory, request: &Request) {
        if request.reply.is_empty() {
            return;
        }
        let rest = request.subject.strip_prefix("$JS.API.DIRECT.GET.").unwrap_or_default();
        let (name, key) =
            rest.split_once('.').map_or((rest, None), |(name, key)| (name, Some(key)));
        let Some(stream) = directory.stream(name) else { return };
        let send_status = |status: &str, after| {
            let block = format!("NATS/1.0 {status}\r\n\r\n");
            let (subject, headers) = (request.reply.as_slice(), block.as_bytes());
            let message = Outgoing { subject, headers, ..Outgoing::default() };
            self.leaving.push(after, directory.account.id, &message);
        };
        let refuse = |status: &str| send_status(status, CommitNumber(0));
        if request.check_level().is_err() {
            return refuse("412 Required Api Level");
        }
        if request.payload.is_empty() && key.is_none() {
            return refuse("408 Empty Request");
        }
        let mut asked = MessageRequest::default();
        if !request.payload.is_empty() && decode(&request.payload, &mut asked).is_err() {
            return refuse("408 Malformed Request");
        }
        if let Some(key) = key {
            let allowed = MessageRequest {
                no_headers: asked.no_headers,
                bytes_max: asked.bytes_max,
                ..MessageRequest::default()
            };
            if key.is_empty() || asked != allowed {
                return refuse("408 Bad Request");
            }
            asked.last_of = key.into();
        }
        if asked.names_no_message() && asked.last_of_each.is_empty() {
            return refuse("408 Empty Request");
        }
        let has_last = !asked.last_of.is_empty();
        if asked.contradicts_itself()
            || (has_last && (asked.batch > 0 || !asked.last_of_each.is_empty()))
            || (!asked.next_of.is_empty() && !asked.last_of_each.is_empty())
            || (asked.up_to_sequence > 0 && asked.up_to_time.is_some())
        {
            return refuse("408 Bad Request");
        }
        let status = match asked.last_of_each.is_empty() {
            true => self.get_one_or_batch(&stream, &request.reply, &asked).await,
            false => self.get_last_of_each(&stream, &request.reply, &asked).await,
        };
        if let Err(status) = status {
            send_status(status, self.told_after(&stream));
        }
    }

    /// Sends a message to a requester.
    fn send_message(
        &self,
        stream: &StreamHandle,
        reply: &[u8],
        message: &Message<'_>,
        (after, batch, has_headers): (CommitNumber, Option<InBatch>, bool),
    ) {
        let mut block = Vec::new();
        if has_headers {
            block.extend_from_slice(message.headers);
            describe(&mut block, &stream.name, message, batch);
        }
        let outgoing = Outgoing {
            subject: reply,
            headers: &block,
            payload: message.payload,
            ..Outgoing::default()
        };
        self.leaving.push(after, stream.account.id, &outgoing);
    }

    fn bytes_max(&self, asked: &MessageRequest) -> usize {
        match usize::try_from(asked.bytes_max) {
            Ok(bytes) if bytes > 0 => bytes,
            _ if asked.bytes_max == 0 => self.settings().pending_bytes_max,
            // The first message is already more.
            _ => 0,
        }
    }

    async fn get_one_or_batch(
        &self,
        stream: &StreamHandle,
        reply: &[u8],
        asked: &MessageRequest,
    ) -> Result<(), &'static str> {
        let mut from = match asked.start_time {
            Some(time) => self.sequence_since(stream, time.unix_ns()).await,
            None => asked.sequence,
        };
        let is_batch = asked.batch != 0;
        let filter = asked.next_of.as_bytes();
        let mut pending = match is_batch {
            true => self.count_pending(stream, filter, from).await,
            false => 0,
        };
        let (bytes_max, mut bytes, mut last_sequence) = (self.bytes_max(asked), 0, 0);
        let count = if is_batch { asked.batch } else { 1 };
        for index in 0..count {
            let wanted = match () {
                () if !filter.is_empty() => Wanted::Next(filter, from),
                () if from == 0 => Wanted::Last(asked.last_of.as_bytes()),
                () if index == 0 && !is_batch => Wanted::Sequence(from),
                () => Wanted::Next(b">", from),
            };
            let found = self.locate(stream, wanted).await;
            let Some(sequence) = found else {
                if count > 1 && index > 0 {
                    break;
                }
                return Err("404 Message Not Found");
            };
            pending = pending.saturating_sub(1);
            let batch = is_batch.then_some(InBatch { pending, last_sequence });
            let sent = self.visit(stream, sequence, |message, after| {
                self.send_message(stream, reply, message, (after, batch, !asked.no_headers));
                message.subject.len() + message.headers.len() + message.payload.len()
            });
            bytes += sent.await.unwrap_or(0);
            (last_sequence, from) = (sequence, sequence + 1);
            if bytes >= bytes_max {
                break;
            }
            if index % 64 == 63 || self.leaving.is_full() {
                self.wait_for_room().await;
            }
        }
        if is_batch {
            let after = self.told_after(stream);
            self.send_end(stream, reply, after, (pending, last_sequence), None);
        }
        Ok(())
    }

    fn send_end(
        &self,
        stream: &StreamHandle,
        reply: &[u8],
        after: CommitNumber,
        (pending, last_sequence): (u64, u64),
        up_to: Option<u64>,
    ) {
        let mut block = b"NATS/1.0 204 EOB\r\n\r\n".to_vec();
        headers::append(&mut block, b"Nats-Num-Pending", &digits(pending));
        headers::append(&mut block, b"Nats-Last-Sequence", &digits(last_sequence));
        if let Some(up_to) = up_to {
            headers::append(&mut block, b"Nats-UpTo-Sequence", &digits(up_to));
        }
        let message = Outgoing { subject: reply, headers: &block, ..Outgoing::default() };
        self.leaving.push(after, stream.account.id, &message);
    }

    /// Sends the last message of each subject that one of the filters matches, by sequence.
    async fn get_last_of_each(
        &self,
        stream: &StreamHandle,
        reply: &[u8],
        asked: &MessageRequest,
    ) -> Result<(), &'static str> {
        let totals = self.look(stream, |held| Ok(held.stream.totals())).await;
        let totals = totals.ok_or("404 No Results")?;
        let mut up_to = asked.up_to_sequence;
        if let Some(time) = asked.up_to_time {
            let first_after = self.sequence_since(stream, time.unix_ns()).await;
            if first_after <= totals.first_sequence {
                return Err("404 No Results");
            }
            up_to = first_after - 1;
        }
        if up_to == 0 {
            up_to = totals.last_sequence;
        }
        let mut found = BTreeMap::new();
        for filter in &asked.last_of_each {
            self.collect_last(stream, filter.as_bytes(), up_to, &mut found).await?;
        }
        found.retain(|sequence, ()| *sequence >= asked.sequence);
        if found.is_empty() {
            return Err("404 No Results");
        }
        let (bytes_max, mut bytes, mut last_sequence) = (self.bytes_max(asked), 0, 0);
        let mut pending = found.len() as u64;
        for (index, sequence) in found.into_keys().enumerate() {
            pending -= 1;
            let batch = Some(InBatch { pending, last_sequence });
            let sent = self.visit(stream, sequence, |message, after| {
                self.send_message(stream, reply, message, (after, batch, true));
                message.subject.len() + message.headers.len() + message.payload.len()
            });
            bytes += sent.await.unwrap_or(0);
            last_sequence = sequence;
            let is_full = usize::try_from(asked.batch).is_ok_and(|max| max > 0 && index + 1 >= max);
            if bytes >= bytes_max || is_full {
                break;
            }
            if self.leaving.is_full() {
                self.wait_for_room().await;
            }
        }
        let after = self.told_after(stream);
        self.send_end(stream, reply, after, (pending, last_sequence), Some(up_to));
        Ok(())
    }

    /// Adds the sequences of the last messages at or below `up_to` of all subjects of a filter.
    async fn collect_last(
        &self,
        stream: &StreamHandle,
        filter: &[u8],
        up_to: u64,
        found: &mut BTreeMap<u64, ()>,
    ) -> Result<(), &'static str> {
        let mut after = Some(Vec::new());
        while let Some(place) = after {
            let begin = Some(place.as_slice()).filter(|place| !place.is_empty());
            let mut page = Vec::new();
            after = self
                .look(stream, |held| {
                    page.clear();
                    let subjects = held.stream.subjects();
                    Ok(subjects.scan(filter, begin, LOOKED_AT_PER_TURN_MAX, |subject, totals| {
                        let is_later = totals.last > up_to;
                        page.push((totals.last, is_later.then(|| subject.to_vec())));
                        true
                    }))
                })
                .await
                .ok_or("404 No Results")?;
            for (last, subject) in page {
                let sequence = match subject {
                    None => Some(last),
                    Some(subject) => self.last_through(stream, &subject, up_to).await,
                };
                found.extend(sequence.map(|sequence| (sequence, ())));
                if found.len() > LAST_OF_EACH_MAX {
                    return Err("413 Too Many Results");
                }
            }
            self.end_slice(after.is_some()).await;
        }
        Ok(())
    }

    /// The last message of a subject at or below a sequence.
    async fn last_through(
        &self,
        stream: &StreamHandle,
        subject: &[u8],
        through: u64,
    ) -> Option<u64> {
        let mut through = through;
        loop {
            let found = self.look(stream, |held| {
                Ok(match held.stream.previous(subject, through, LOOKED_AT_PER_TURN_MAX)? {
                    Search::Found(message) => Ok(Some(message.sequence)),
                    Search::Nothing => Ok(None),
                    Search::GoOn(sequence) => Err(sequence),
                })
            });
            match found.await? {
                Ok(found) => return found,
                Err(sequence) => through = sequence,
            }
            self.end_slice(true).await;
        }
    }
}
