//! Requests about the messages of a stream: get one, delete one, purge many.

use std::rc::Rc;

use data_encoding::BASE64;
use serde::Serialize;

use super::super::directory::Directory;
use super::super::engine::Engine;
use super::super::error::ApiError;
use super::super::json::decode::{Decoded, Object, Reader, decode_request};
use super::super::json::encode::is_default;
use super::super::json::timestamp::Timestamp;
use super::super::message_request::MessageRequest;
use super::super::reads::Wanted;
use super::super::stream::StreamHandle;
use super::streams::{Success, bad_json, store_error};
use super::{Refusal, Reply, Request, reply_of};
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;
use crate::storage::store::StoreError;

#[derive(Default, Serialize)]
struct Got {
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<StoredJson>,
}

#[derive(Serialize)]
struct StoredJson {
    subject: String,
    seq: u64,
    #[serde(skip_serializing_if = "is_default")]
    hdrs: String,
    #[serde(skip_serializing_if = "is_default")]
    data: String,
    time: Timestamp,
}

#[derive(Default, Serialize)]
struct Purged {
    #[serde(skip_serializing_if = "is_default")]
    success: bool,
    purged: u64,
}

#[derive(Default)]
struct DeleteRequest {
    sequence: u64,
    keeps_bytes: bool,
}

impl Object for DeleteRequest {
    const GO_NAME: &'static str = "JSApiMsgDeleteRequest";
    const FIELDS: &'static [&'static str] = &["seq", "no_erase"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "seq" => reader.uint64(&mut self.sequence),
            _ => reader.bool(&mut self.keeps_bytes),
        }
    }
}

#[derive(Default)]
struct PurgeRequest {
    before: u64,
    filter: String,
    keep: u64,
}

impl Object for PurgeRequest {
    const GO_NAME: &'static str = "JSApiStreamPurgeRequest";
    const FIELDS: &'static [&'static str] = &["seq", "filter", "keep"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "seq" => reader.uint64(&mut self.before),
            "keep" => reader.uint64(&mut self.keep),
            _ => reader.string(&mut self.filter),
        }
    }
}

impl<D: Disk> Engine<D> {
    pub(super) async fn get_message(
        &self,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let got = async {
            if request.is_empty() {
                return Err(ApiError::BAD_REQUEST.into());
            }
            let mut asked = MessageRequest::default();
            decode_request(&request.payload, self.settings().is_strict, &mut asked)
                .map_err(bad_json)?;
            let asks_for_many = asked.batch > 0 || asked.bytes_max > 0;
            if asks_for_many || asked.names_no_message() || asked.contradicts_itself() {
                return Err(ApiError::BAD_REQUEST.into());
            }
            let stream = self.find_stream(directory, name)?;
            let from = match asked.start_time {
                Some(time) => self.sequence_since(&stream, time.unix_ns()).await,
                None => asked.sequence,
            };
            let wanted = match () {
                () if !asked.next_of.is_empty() => Wanted::Next(asked.next_of.as_bytes(), from),
                () if from > 0 => Wanted::Sequence(from),
                () => Wanted::Last(asked.last_of.as_bytes()),
            };
            let missing =
                || Refusal { error: ApiError::NO_MESSAGE_FOUND, after: self.told_after(&stream) };
            let sequence = self.locate(&stream, wanted).await.ok_or_else(missing)?;
            let found = self.visit(&stream, sequence, |message, after| {
                let headers = if asked.no_headers { b"" } else { message.headers };
                let message = StoredJson {
                    subject: String::from_utf8_lossy(message.subject).into_owned(),
                    seq: message.sequence,
                    hdrs: BASE64.encode(headers),
                    data: BASE64.encode(message.payload),
                    time: Timestamp::from_unix_ns(message.time_ns),
                };
                (Got { message: Some(message) }, after)
            });
            found.await.ok_or_else(missing)
        };
        reply_of("stream_msg_get_response", got.await)
    }

    pub(super) async fn delete_message(
        &self,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let deleted = async {
            if request.is_empty() {
                return Err(ApiError::BAD_REQUEST.into());
            }
            let mut asked = DeleteRequest::default();
            decode_request(&request.payload, self.settings().is_strict, &mut asked)
                .map_err(bad_json)?;
            let stream = self.find_stream(directory, name)?;
            let (config, after) = (stream.config(), self.told_after(&stream));
            if config.is_sealed {
                return Err(Refusal { error: ApiError::STREAM_SEALED, after });
            }
            if config.deny_delete {
                let error = ApiError::message_delete_failed("message delete not permitted");
                return Err(Refusal { error, after });
            }
            let last = self.look(&stream, |held| Ok(held.stream.totals().last_sequence)).await;
            let last = last.ok_or(ApiError::STREAM_NOT_FOUND)?;
            let error = match asked.sequence {
                0 => Some(ApiError::message_delete_failed("no message found")),
                sequence if sequence > last => {
                    Some(ApiError::message_delete_failed("stream store EOF"))
                }
                _ => None,
            };
            if let Some(error) = error {
                return Err(Refusal { error, after });
            }
            let sequence = asked.sequence;
            let deleted = self.with_store(&stream, |store| store.delete(stream.id, sequence)).await;
            let deleted = deleted.map_err(|error| store_error(&error))?;
            if !deleted.value {
                let error = ApiError::sequence_not_found(sequence);
                return Err(Refusal { error, after: deleted.after });
            }
            stream.removals.advance_by(1);
            self.note_change(&stream);
            Ok((Success { success: true }, deleted.after))
        };
        reply_of("stream_msg_delete_response", deleted.await)
    }

    pub(super) async fn purge_stream(
        &self,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let purged = async {
            let mut asked = PurgeRequest::default();
            if let Some(body) = request.optional_body() {
                decode_request(body, self.settings().is_strict, &mut asked).map_err(bad_json)?;
            }
            if asked.before > 0 && asked.keep > 0 {
                return Err(ApiError::BAD_REQUEST.into());
            }
            let stream = self.find_stream(directory, name)?;
            let (config, after) = (stream.config(), self.told_after(&stream));
            if config.is_sealed {
                return Err(Refusal { error: ApiError::STREAM_SEALED, after });
            }
            if config.deny_purge {
                let error = ApiError::purge_failed("stream purge not permitted");
                return Err(Refusal { error, after });
            }
            let (filter, before, keep) = (asked.filter.as_bytes(), asked.before, asked.keep);
            let purged = self.purge(&stream, filter, before, keep).await;
            let (purged, after) = purged.map_err(|error| store_error(&error))?;
            Ok((Purged { success: true, purged }, after))
        };
        reply_of("stream_purge_response", purged.await)
    }

    /// Removes messages of a stream: see `Stream::purge`. Returns how many, and the commit with
    /// which they are gone.
    pub(crate) async fn purge(
        &self,
        stream: &Rc<StreamHandle>,
        filter: &[u8],
        before: u64,
        keep: u64,
    ) -> Result<(u64, CommitNumber), StoreError> {
        let filter = Some(filter).filter(|filter| !filter.is_empty());
        self.with_store(stream, |store| store.purge(stream.id, filter, before, keep)).await?;
        stream.is_purging.set(true);
        let result = loop {
            let some = self.store.borrow_mut().purge_some(stream.id, LOOKED_AT_PER_TURN_MAX);
            match some {
                Ok(Some(answer)) => break Ok((answer.value, answer.after)),
                Ok(None) => self.host.yield_turn().await,
                Err(StoreError::NotLoaded(needed)) => self.load(stream.id, needed).await,
                Err(error) => break Err(error),
            }
        };
        stream.is_purging.set(false);
        stream.purged.advance_by(1);
        stream.removals.advance_by(1);
        self.note_change(stream);
        result
    }
}
