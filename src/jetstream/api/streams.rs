//! Requests about streams: create, describe, list, delete.

use std::rc::Rc;

use serde::Serialize;

use super::super::advisories::StreamAction;
use super::super::details::StreamDetails;
use super::super::directory::Directory;
use super::super::engine::Engine;
use super::super::error::ApiError;
use super::super::json::decode::{DecodeError, Decoded, Object, Reader, decode_request};
use super::super::json::encode::is_default;
use super::super::json::timestamp::Timestamp;
use super::super::names::subjects_overlap;
use super::super::stream::StreamHandle;
use super::super::stream_checks::{
    StreamRules, changes_consumer_limits, check_names, check_replicas, check_update, is_same,
    note_level, with_defaults,
};
use super::super::stream_config::{StorageKind, StreamConfig, StreamConfigRequest};
use super::super::versioning::add_server_facts;
use super::account_info::reserved;
use super::stream_info::{ClusterJson, SUBJECTS_PER_PAGE, StreamJson};
use super::{Refusal, Reply, Request, reply_of};
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::protocol::subject::overlap;
use crate::storage::disk::Disk;
use crate::storage::store::{Store, StoreError};

/// Names and streams of one page.
const NAMES_PER_PAGE: usize = 1024;
const STREAMS_PER_PAGE: usize = 256;

#[derive(Default, Serialize)]
struct Created {
    #[serde(flatten)]
    stream: Option<StreamJson>,
    #[serde(skip_serializing_if = "is_default")]
    did_create: bool,
}

#[derive(Default, Serialize)]
struct Updated {
    #[serde(flatten)]
    stream: Option<StreamJson>,
}

#[derive(Default, Serialize)]
struct Described {
    total: usize,
    offset: usize,
    limit: usize,
    #[serde(flatten)]
    stream: Option<StreamJson>,
}

#[derive(Default, Serialize)]
struct Names {
    total: usize,
    offset: usize,
    limit: usize,
    /// None = `null`, as nats-server has it for none.
    streams: Option<Vec<String>>,
}

#[derive(Default, Serialize)]
struct Streams {
    total: usize,
    offset: usize,
    limit: usize,
    streams: Option<Vec<StreamJson>>,
}

#[derive(Default, Serialize)]
pub(super) struct Success {
    #[serde(skip_serializing_if = "is_default")]
    pub success: bool,
}

/// The body of requests about one stream.
#[derive(Default)]
struct InfoRequest {
    offset: i64,
    has_deleted: bool,
    subjects_filter: String,
}

impl Object for InfoRequest {
    const GO_NAME: &'static str = "JSApiStreamInfoRequest";
    const FIELDS: &'static [&'static str] = &["offset", "deleted_details", "subjects_filter"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "offset" => reader.int(&mut self.offset),
            "deleted_details" => reader.bool(&mut self.has_deleted),
            _ => reader.string(&mut self.subjects_filter),
        }
    }
}

/// The body of requests for lists.
#[derive(Default)]
struct ListRequest {
    subject: String,
    offset: i64,
}

impl Object for ListRequest {
    const GO_NAME: &'static str = "JSApiStreamNamesRequest";
    const FIELDS: &'static [&'static str] = &["offset", "subject"];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "offset" => reader.int(&mut self.offset),
            _ => reader.string(&mut self.subject),
        }
    }
}

pub(super) fn bad_json(DecodeError(text): DecodeError) -> Refusal {
    ApiError::invalid_json(text).into()
}

/// The error of a change that the store does not make.
pub(super) fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::NoSuchStream => ApiError::STREAM_NOT_FOUND,
        StoreError::NoSuchConsumer => ApiError::CONSUMER_NOT_FOUND,
        StoreError::Short(_) => ApiError::INSUFFICIENT_RESOURCES,
        StoreError::TooLarge => ApiError::BAD_REQUEST,
        _ => ApiError::store_failed("the store stopped"),
    }
}

impl<D: Disk> Engine<D> {
    /// A stream of an account.
    pub(crate) fn find_stream(
        &self,
        directory: &Directory,
        name: &str,
    ) -> Result<Rc<StreamHandle>, Refusal> {
        let after = self.listed();
        let refusal = || Refusal { error: ApiError::STREAM_NOT_FOUND, after };
        directory.stream(name).ok_or_else(refusal)
    }

    pub(super) async fn create_stream(
        self: &Rc<Self>,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let created = async {
            let settings = self.settings();
            let request = StreamConfigRequest::from_json(&request.payload, settings.is_strict);
            let mut request = request.map_err(bad_json)?;
            check_names(&mut request, name)?;
            if directory.stream(name).is_none() {
                self.check_room(directory, &request.config, None)?;
            }
            let rules = self.stream_rules(directory);
            let config = with_defaults(request.config, &rules, request.is_pedantic)?;
            check_replicas(&config)?;
            let stream = match directory.stream(name) {
                Some(known) if is_same(config.clone(), &known.config()) => known,
                Some(known) => {
                    let after = self.told_after(&known);
                    return Err(Refusal { error: ApiError::STREAM_NAME_IN_USE, after });
                }
                None => {
                    self.check_overlap(directory, &config).await?;
                    // Another request of this account cannot have come in between: they are
                    // answered one after the other.
                    let now_ns = self.host.now_ns();
                    let details = StreamDetails::encode(&directory.account.name, now_ns, &config);
                    let (first, limits) = (config.first_sequence, config.limits());
                    let made = self.store.borrow_mut().create_stream(first, limits, &details);
                    let made = made.map_err(|error| store_error(&error))?;
                    self.note_listed(made.after);
                    let created = Timestamp::from_unix_ns(now_ns);
                    let stream = self.open_stream(made.value, directory, created, config);
                    self.advise_of_stream(&stream, StreamAction::Create, made.after);
                    stream
                }
            };
            let described = self.describe_with_facts(&stream).await;
            Ok((Created { stream: described, did_create: true }, self.told_after(&stream)))
        };
        reply_of("stream_create_response", created.await)
    }

    /// A stream as those who have to do with it alone are told: its metadata names the server.
    async fn describe_with_facts(&self, stream: &StreamHandle) -> Option<StreamJson> {
        let mut described = self.describe(stream).await?;
        add_server_facts(&mut described.config.metadata, &self.settings().version);
        Some(described)
    }

    fn stream_rules(&self, directory: &Directory) -> StreamRules {
        let limits = directory.account.limits.borrow();
        let limits = limits.as_ref();
        StreamRules {
            duplicate_window_ns_max: self.settings().duplicate_window_ns_max,
            is_bytes_max_required: limits.is_some_and(|limits| limits.needs_bytes_max),
            file_bytes_max: limits.map_or(0, |limits| limits.store_stream_bytes_max),
            memory_bytes_max: limits.map_or(0, |limits| limits.memory_stream_bytes_max),
        }
    }

    /// Checks the limits of the account and the server on the number of streams, and on the bytes
    /// that these reserve. Of an update, `old` is what there was. Source: nats-server
    /// server/jetstream.go checkBytesLimits.
    fn check_room(
        &self,
        directory: &Directory,
        new: &StreamConfig,
        old: Option<&StreamConfig>,
    ) -> Result<(), Refusal> {
        let limits = directory.account.limits.borrow().clone().unwrap_or_default();
        let count = i64::try_from(directory.streams.borrow().len()).unwrap_or(i64::MAX);
        if old.is_none() && limits.streams_max > 0 && count >= limits.streams_max {
            return Err(ApiError::MAXIMUM_STREAMS.into());
        }
        if new.consumers_max > 0
            && limits.consumers_max > 0
            && new.consumers_max > limits.consumers_max
        {
            return Err(ApiError::MAXIMUM_CONSUMERS.into());
        }
        let is_memory = new.storage == StorageKind::Memory;
        let of_kind = |(memory, store): (u64, u64)| if is_memory { memory } else { store };
        let before = old.map_or(0, |old| old.bytes_max.max(0));
        // A stream without a limit takes at least something.
        let added = if new.bytes_max > 0 { new.bytes_max - before } else { 1 };
        let goes_past = |reserved: u64, max: i64| {
            let reserved = i64::try_from(reserved).unwrap_or(i64::MAX);
            added > 0 && reserved.saturating_add(added) > max
        };
        let settings = self.settings();
        let (of_account, of_server) = match is_memory {
            true => (limits.memory_bytes_max, settings.memory_bytes_max),
            false => (limits.store_bytes_max, settings.store_bytes_max),
        };
        let own = of_kind(reserved(directory));
        let directories = self.directories.borrow();
        let all = directories.values().map(|directory| of_kind(reserved(directory))).sum();
        if (of_account >= 0 && goes_past(own, of_account)) || goes_past(all, of_server) {
            let error = match is_memory {
                true => ApiError::MEMORY_EXCEEDED,
                false => ApiError::STORAGE_EXCEEDED,
            };
            return Err(error.into());
        }
        Ok(())
    }

    /// Checks that no other stream of the account takes messages of the same subjects.
    async fn check_overlap(
        &self,
        directory: &Directory,
        config: &StreamConfig,
    ) -> Result<(), Refusal> {
        let all: Vec<Rc<StreamHandle>> = directory.streams.borrow().values().cloned().collect();
        let mut left = LOOKED_AT_PER_TURN_MAX;
        for other in all {
            let taken = other.config();
            for subject in config.subjects.iter().filter(|_| *other.name != *config.name) {
                if subjects_overlap(std::slice::from_ref(subject), &taken.subjects) {
                    let (error, after) = (ApiError::SUBJECT_OVERLAP, self.told_after(&other));
                    return Err(Refusal { error, after });
                }
                left = left.saturating_sub(taken.subjects.len());
                if left == 0 {
                    self.end_slice(true).await;
                    left = LOOKED_AT_PER_TURN_MAX;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn update_stream(
        self: &Rc<Self>,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let updated = async {
            let settings = self.settings();
            let request = StreamConfigRequest::from_json(&request.payload, settings.is_strict);
            let request = request.map_err(bad_json)?;
            let rules = self.stream_rules(directory);
            let mut new = with_defaults(request.config, &rules, request.is_pedantic)?;
            note_level(&mut new);
            if new.name != name {
                return Err(ApiError::STREAM_MISMATCH.into());
            }
            let stream = self.find_stream(directory, name)?;
            let (old, after) = (stream.config(), self.told_after(&stream));
            let refused = |error| Refusal { error, after };
            let new = check_update(&old, new).map_err(refused)?;
            if changes_consumer_limits(&old, &new) {
                stream.check_consumer_limits(&new).map_err(refused)?;
            }
            self.check_overlap(directory, &new).await?;
            self.check_room(directory, &new, Some(&old))?;
            let created_ns = stream.created.unix_ns();
            let details = StreamDetails::encode(&directory.account.name, created_ns, &new);
            let limits = new.limits();
            let change = |store: &mut Store<D>| store.update_stream(stream.id, limits, &details);
            let changed = self.with_store(&stream, change).await;
            changed.map_err(|error| store_error(&error))?;
            let has_other_subjects = old.subjects != new.subjects;
            stream.set_config(new);
            self.renew_consumers(&stream);
            if has_other_subjects {
                self.subscribe_stream(&stream);
            }
            self.finish_removals(&stream).await;
            self.note_change(&stream);
            self.advise_of_stream(&stream, StreamAction::Modify, self.told_after(&stream));
            let described = self.describe_with_facts(&stream).await;
            let domain = settings.domain.clone();
            let stream_json = described.map(|described| StreamJson { domain, ..described });
            Ok((Updated { stream: stream_json }, self.told_after(&stream)))
        };
        reply_of("stream_update_response", updated.await)
    }

    pub(super) async fn stream_info(
        &self,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let described = async {
            let mut asked = InfoRequest::default();
            if let Some(body) = request.optional_body() {
                decode_request(body, self.settings().is_strict, &mut asked).map_err(bad_json)?;
            }
            let stream = self.find_stream(directory, name)?;
            let described = self.describe_with_facts(&stream).await;
            let mut described = described.ok_or(ApiError::STREAM_NOT_FOUND)?;
            let settings = self.settings();
            described.domain = settings.domain.clone();
            described.cluster = Some(ClusterJson { leader: settings.server_name.clone() });
            if asked.has_deleted {
                described.state.deleted = self.deleted(&stream).await.filter(|all| !all.is_empty());
            }
            let mut body = Described::default();
            if !asked.subjects_filter.is_empty() {
                let filter = asked.subjects_filter.as_bytes();
                let (total, subjects) = self.subjects(&stream, filter, asked.offset).await;
                if total > 0 {
                    let offset = usize::try_from(asked.offset).unwrap_or(0);
                    body = Described { total, offset, limit: SUBJECTS_PER_PAGE, stream: None };
                }
                described.state.subjects = Some(subjects).filter(|all| !all.is_empty());
            }
            body.stream = Some(described);
            Ok((body, self.told_after(&stream)))
        };
        reply_of("stream_info_response", described.await)
    }

    /// The streams of an account that a request for a list asks for, and the place where its page
    /// begins.
    async fn listed_streams(
        &self,
        directory: &Directory,
        request: &Request,
    ) -> Result<(Vec<Rc<StreamHandle>>, usize), Refusal> {
        let mut asked = ListRequest::default();
        if let Some(body) = request.optional_body() {
            decode_request(body, self.settings().is_strict, &mut asked).map_err(bad_json)?;
        }
        let all: Vec<Rc<StreamHandle>> = directory.streams.borrow().values().cloned().collect();
        let mut streams = Vec::new();
        for (index, stream) in all.into_iter().enumerate() {
            let filter = asked.subject.as_bytes();
            let config = stream.config();
            let mut subjects = config.subjects.iter();
            if filter.is_empty() || subjects.any(|one| overlap(one.as_bytes(), filter)) {
                streams.push(stream);
            }
            if index % LOOKED_AT_PER_TURN_MAX == LOOKED_AT_PER_TURN_MAX - 1 {
                self.host.yield_turn().await;
            }
        }
        let offset = usize::try_from(asked.offset).unwrap_or(0).min(streams.len());
        Ok((streams, offset))
    }

    pub(super) async fn stream_names(&self, directory: &Directory, request: &Request) -> Reply {
        let names = self.listed_streams(directory, request).await.map(|(streams, offset)| {
            let page = streams.iter().skip(offset).take(NAMES_PER_PAGE);
            let names: Vec<String> = page.map(|stream| stream.name.to_string()).collect();
            let (total, limit) = (streams.len(), NAMES_PER_PAGE);
            let streams = (!names.is_empty()).then_some(names);
            (Names { total, offset, limit, streams }, self.listed())
        });
        reply_of("stream_names_response", names)
    }

    pub(super) async fn stream_list(&self, directory: &Directory, request: &Request) -> Reply {
        let listed = async {
            let (streams, offset) = self.listed_streams(directory, request).await?;
            let (total, limit, mut after) = (streams.len(), STREAMS_PER_PAGE, self.listed());
            let mut page = Vec::new();
            for stream in streams.iter().skip(offset).take(STREAMS_PER_PAGE) {
                if let Some(described) = self.describe(stream).await {
                    page.push(StreamJson { domain: self.settings().domain.clone(), ..described });
                    after = after.max(self.told_after(stream));
                }
            }
            Ok((Streams { total, offset, limit, streams: Some(page) }, after))
        };
        reply_of("stream_list_response", listed.await)
    }

    pub(super) async fn delete_stream(
        &self,
        directory: &Directory,
        name: &str,
        request: &Request,
    ) -> Reply {
        let deleted = async {
            if !request.is_empty() {
                return Err(ApiError::NOT_EMPTY_REQUEST.into());
            }
            let stream = self.find_stream(directory, name)?;
            let deleted = self.store.borrow_mut().delete_stream(stream.id);
            let deleted = deleted.map_err(|error| store_error(&error))?;
            self.close_stream(directory, &stream);
            self.note_listed(deleted.after);
            self.advise_of_stream(&stream, StreamAction::Delete, deleted.after);
            Ok((Success { success: true }, deleted.after))
        };
        reply_of("stream_delete_response", deleted.await)
    }
}
