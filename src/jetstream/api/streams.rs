//! Requests about streams: create, describe, list, delete.

use std::rc::Rc;

use serde::Serialize;

use super::super::details::StreamDetails;
use super::super::directory::Directory;
use super::super::engine::Engine;
use super::super::error::ApiError;
use super::super::json::decode::{DecodeError, Decoded, Object, Reader, decode_request};
use super::super::json::encode::is_default;
use super::super::json::timestamp::Timestamp;
use super::super::stream::StreamHandle;
use super::super::stream_config::StreamConfigRequest;
use super::stream_info::{ClusterJson, StreamJson};
use super::{Refusal, Reply, Request, reply_of};
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::protocol::subject::overlap;
use crate::storage::disk::Disk;
use crate::storage::store::StoreError;

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
            let strict = self.settings().is_strict;
            let request = StreamConfigRequest::from_json(&request.payload, strict);
            let mut config = request.map_err(bad_json)?.config;
            if config.name != name {
                return Err(ApiError::STREAM_MISMATCH.into());
            }
            config.fill_in();
            let stream = match directory.stream(name) {
                Some(known) if *known.config() == config => known,
                Some(known) => {
                    let after = self.told_after(&known);
                    return Err(Refusal { error: ApiError::STREAM_NAME_IN_USE, after });
                }
                None => {
                    let now_ns = self.host.now_ns();
                    let details = StreamDetails::encode(&directory.account.name, now_ns, &config);
                    let (first, limits) = (config.first_sequence, config.limits());
                    let made = self.store.borrow_mut().create_stream(first, limits, &details);
                    let made = made.map_err(|error| store_error(&error))?;
                    self.note_listed(made.after);
                    let created = Timestamp::from_unix_ns(now_ns);
                    self.open_stream(made.value, directory, created, config)
                }
            };
            let described = self.describe(&stream).await;
            Ok((Created { stream: described, did_create: true }, self.told_after(&stream)))
        };
        reply_of("stream_create_response", created.await)
    }

    pub(super) async fn stream_info(
        &self,
        directory: &Directory,
        name: &str,
        _request: &Request,
    ) -> Reply {
        let described = async {
            let stream = self.find_stream(directory, name)?;
            let described = self.describe(&stream).await.ok_or(ApiError::STREAM_NOT_FOUND)?;
            let settings = self.settings();
            let described = StreamJson {
                domain: settings.domain.clone(),
                cluster: Some(ClusterJson { leader: settings.server_name.clone() }),
                ..described
            };
            let body = Described { stream: Some(described), ..Described::default() };
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
            Ok((Success { success: true }, deleted.after))
        };
        reply_of("stream_delete_response", deleted.await)
    }
}
