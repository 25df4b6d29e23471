//! The API: requests below `$JS.API.`, each answered by one message of JSON.
//!
//! Subjects that the API does not know are swallowed, as by nats-server: its wildcard has interest.
//! Requests for messages (`DIRECT.GET`, `CONSUMER.MSG.NEXT`) are no part of it: nobody listens to
//! those of a stream or consumer that is not there.

use std::rc::{Rc, Weak};

use serde::Serialize;

use super::directory::Directory;
use super::engine::Engine;
use super::error::ApiError;
use super::json::encode::encode;
use super::leaving::Outgoing;
use super::stream::StreamHandle;
use super::versioning::{REQUIRED_LEVEL_HEADER, is_level_met};
use crate::base::limits::INGESTED_PER_TURN_MAX;
use crate::broker::mailbox::Letter;
use crate::broker::service::{Reach, ServiceInterest};
use crate::protocol::message::Message;
use crate::storage::disk::Disk;
use crate::storage::marks::headers;
use crate::storage::position::CommitNumber;
use crate::storage::streams::HeldStream;

pub(crate) mod account_info;
mod consumer_info;
mod consumers;
mod messages;
pub(crate) mod stream_info;
mod streams;

pub(crate) const PREFIX: &str = "$JS.API.";

/// Families that are no part of the API.
const NEXT_PREFIX: &[u8] = b"$JS.API.CONSUMER.MSG.NEXT.";
/// Requests that are counted and told only where they are refused, as by nats-server.
const GET_PREFIX: &str = "$JS.API.STREAM.MSG.GET.";

pub(super) const DIRECT_PREFIX: &[u8] = b"$JS.API.DIRECT.GET.";

/// A request, on its own.
pub(crate) struct Request {
    pub subject: String,
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Request {
    /// None = its subject is no text, so that it names nothing.
    pub(super) fn new(letter: &Letter<'_>) -> Option<Self> {
        let Message { subject, reply, headers, .. } = letter.message;
        Some(Self {
            subject: String::from_utf8(subject.to_vec()).ok()?,
            reply: reply.to_vec(),
            headers: headers.to_vec(),
            payload: letter.message.payload().to_vec(),
        })
    }

    /// The error for a request that needs a newer server.
    pub(super) fn check_level(&self) -> Result<(), ApiError> {
        match Self::is_level_met(&self.headers) {
            true => Ok(()),
            false => Err(ApiError::REQUIRED_API_LEVEL),
        }
    }

    /// True if these headers of a request ask for no newer server.
    pub(super) fn is_level_met(block: &[u8]) -> bool {
        let mut all = headers(block);
        let required = all.find(|(name, _)| *name == REQUIRED_LEVEL_HEADER);
        required.is_none_or(|(_, value)| is_level_met(value))
    }

    /// The body of a request whose body is optional: what begins like no JSON is none.
    pub(crate) fn optional_body(&self) -> Option<&[u8]> {
        Some(self.payload.as_slice()).filter(|body| matches!(body.first(), Some(b'{' | b'[')))
    }

    /// True for a body that says nothing: none, or an object without fields.
    pub(crate) fn is_empty(&self) -> bool {
        let mut bytes = self.payload.iter().filter(|byte| !byte.is_ascii_whitespace());
        let first = (bytes.next(), bytes.next(), bytes.next());
        matches!(first, (None, ..) | (Some(b'{'), Some(b'}'), None))
    }
}

/// An answer, and the commit that it waits for.
pub(crate) struct Reply {
    pub body: Vec<u8>,
    pub after: CommitNumber,
    pub is_error: bool,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ApiError>,
    #[serde(flatten)]
    body: &'a T,
}

/// For answers whose errors carry nothing else.
#[derive(Default, Serialize)]
pub(crate) struct Nothing {}

impl Reply {
    /// An answer whose type is `kind` behind the common prefix.
    pub(crate) fn new<T: Serialize>(kind: &str, body: &T, after: CommitNumber) -> Self {
        let kind = format!("io.nats.jetstream.api.v1.{kind}");
        let body = encode(&Envelope { kind: &kind, error: None, body });
        Self { body, after, is_error: false }
    }

    /// A refusal; `body` are the fields that such an answer has nevertheless.
    pub(crate) fn refusal<T: Serialize>(
        kind: &str,
        error: &ApiError,
        body: &T,
        after: CommitNumber,
    ) -> Self {
        let kind = format!("io.nats.jetstream.api.v1.{kind}");
        let body = encode(&Envelope { kind: &kind, error: Some(error), body });
        Self { body, after, is_error: true }
    }
}

/// A refusal, and the commit that it waits for.
pub(crate) struct Refusal {
    pub error: ApiError,
    pub after: CommitNumber,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, after: CommitNumber(0) }
    }
}

/// Makes the answer of a result. The fields of `T::default()` that are not left out stand beside
/// the error.
pub(crate) fn reply_of<T: Serialize + Default>(
    kind: &str,
    result: Result<(T, CommitNumber), Refusal>,
) -> Reply {
    match result {
        Ok((body, after)) => Reply::new(kind, &body, after),
        Err(Refusal { error, after }) => Reply::refusal(kind, &error, &T::default(), after),
    }
}

impl<D: Disk> Engine<D> {
    /// Subscribes to an account's requests.
    pub(super) fn subscribe_account(&self, directory: &Rc<Directory>) {
        let account = directory.account.id;
        let mut broker = self.broker.borrow_mut();
        let is_other = |message: &Message<'_>| {
            message.subject.starts_with(NEXT_PREFIX) || message.subject.starts_with(DIRECT_PREFIX)
        };
        let requests = ServiceInterest {
            declines: Some(Box::new(is_other)),
            ..ServiceInterest::all(account, b"$JS.API.>", Reach::Server)
        };
        let weak = Rc::downgrade(directory);
        let gets = ServiceInterest {
            declines: Some(Box::new(move |message| !answers_get(&weak, message.subject))),
            ..ServiceInterest::all(account, b"$JS.API.DIRECT.GET.>", Reach::Server)
        };
        let mut subscriptions = directory.subscriptions.borrow_mut();
        subscriptions.push(broker.subscribe_service(requests, &directory.requests));
        subscriptions.push(broker.subscribe_service(gets, &directory.direct_gets));
    }

    /// Answers an account's requests, one after the other.
    pub(super) async fn serve_requests(self: Rc<Self>, directory: Rc<Directory>) {
        while let Some(mut letters) = self.letters(&directory.requests, &directory.gone).await {
            let mut left = INGESTED_PER_TURN_MAX;
            while let Some(letter) = letters.next_letter() {
                let request = Request::new(&letter);
                if let Some(request) = request
                    && let Some(reply) = self.answer(&directory, &request).await
                {
                    if reply.is_error || !request.subject.starts_with(GET_PREFIX) {
                        directory.api_total.set(directory.api_total.get() + 1);
                        let bodies = (request.payload.as_slice(), reply.body.as_slice());
                        self.audit(&directory.account, &request.subject, bodies, reply.after);
                        self.counters.api_requests.add(1);
                    }
                    if reply.is_error {
                        directory.api_errors.set(directory.api_errors.get() + 1);
                        self.counters.api_errors.add(1);
                    }
                    self.send_reply(&directory, &request, &reply);
                }
                left -= 1;
                if left == 0 {
                    self.host.yield_turn().await;
                    left = INGESTED_PER_TURN_MAX;
                }
            }
            self.host.yield_turn().await;
        }
    }

    pub(crate) fn send_reply(&self, directory: &Directory, request: &Request, reply: &Reply) {
        if !request.reply.is_empty() {
            let (subject, payload) = (request.reply.as_slice(), reply.body.as_slice());
            let message = Outgoing { subject, payload, ..Outgoing::default() };
            self.leaving.push(reply.after, directory.account.id, &message);
        }
    }

    /// Finds the request's answer; None for a subject that the API does not know.
    async fn answer(
        self: &Rc<Self>,
        directory: &Rc<Directory>,
        request: &Request,
    ) -> Option<Reply> {
        let account = &directory.account;
        let rest = request.subject.strip_prefix(PREFIX)?;
        let tokens: Vec<&str> = rest.split('.').collect();
        let kind = kind_of(&tokens)?;
        if is_for_clusters(&tokens) {
            return Some(refusal_of_kind(kind, &ApiError::CLUSTER_REQUIRED));
        }
        if account.is_system && tokens != ["INFO"] {
            let error = ApiError::NOT_ENABLED_FOR_ACCOUNT;
            return Some(Reply::refusal("system_response", &error, &Nothing {}, CommitNumber(0)));
        }
        let allowed = request.check_level().and_then(|()| match account.is_enabled() {
            true => Ok(()),
            false => Err(ApiError::NOT_ENABLED_FOR_ACCOUNT),
        });
        if let Err(error) = allowed {
            return Some(refusal_of_kind(kind, &error));
        }
        Some(match tokens.as_slice() {
            ["INFO"] => self.account_info(directory),
            ["STREAM", "UPDATE", name] => self.update_stream(directory, name, request).await,
            ["STREAM", "PURGE", name] => self.purge_stream(directory, name, request).await,
            ["STREAM", "MSG", "GET", name] => self.get_message(directory, name, request).await,
            ["STREAM", "MSG", "DELETE", name] => {
                self.delete_message(directory, name, request).await
            }
            ["STREAM", "CREATE", name] => self.create_stream(directory, name, request).await,
            ["STREAM", "INFO", name] => self.stream_info(directory, name, request).await,
            ["STREAM", "NAMES"] => self.stream_names(directory, request).await,
            ["STREAM", "LIST"] => self.stream_list(directory, request).await,
            ["STREAM", "DELETE", name] => self.delete_stream(directory, name, request).await,
            ["STREAM", "SNAPSHOT" | "RESTORE", _] if request.is_empty() => {
                refusal_of_kind(kind, &ApiError::BAD_REQUEST)
            }
            ["STREAM", "SNAPSHOT", _] => {
                refusal_of_kind(kind, &ApiError::snapshot_failed(NOT_SUPPORTED))
            }
            ["STREAM", "RESTORE", _] => {
                refusal_of_kind(kind, &ApiError::restore_failed(NOT_SUPPORTED))
            }
            ["CONSUMER", ..] => return self.answer_consumers(directory, &tokens, request).await,
            _ => return None,
        })
    }

    /// The commit that an answer about a stream waits for.
    pub(crate) fn told_after(&self, stream: &StreamHandle) -> CommitNumber {
        let store = self.store.borrow();
        let held: Option<&HeldStream> = store.streams().get(stream.id);
        held.map_or(CommitNumber(0), |held| held.answer(()).after)
    }
}

/// The text of refusals of what is not built yet.
const NOT_SUPPORTED: &str = "not supported yet by this server";

/// True for requests that only the servers of a cluster carry out.
fn is_for_clusters(tokens: &[&str]) -> bool {
    matches!(tokens, [_, "PEER", ..] | [_, "LEADER", "STEPDOWN", ..] | ["STREAM", "CANCEL_MOVE", _])
}

/// The type of the answer to a request; None for subjects that the API does not know.
fn kind_of(tokens: &[&str]) -> Option<&'static str> {
    Some(match tokens {
        ["INFO"] => "account_info_response",
        ["STREAM", "CREATE", _] => "stream_create_response",
        ["STREAM", "UPDATE", _] => "stream_update_response",
        ["STREAM", "INFO", _] => "stream_info_response",
        ["STREAM", "NAMES"] => "stream_names_response",
        ["STREAM", "LIST"] => "stream_list_response",
        ["STREAM", "DELETE", _] => "stream_delete_response",
        ["STREAM", "PURGE", _] => "stream_purge_response",
        ["STREAM", "MSG", "GET", _] => "stream_msg_get_response",
        ["STREAM", "MSG", "DELETE", _] => "stream_msg_delete_response",
        ["STREAM", "SNAPSHOT", _] => "stream_snapshot_response",
        ["STREAM", "RESTORE", _] => "stream_restore_response",
        ["CONSUMER", "CREATE", _, ..] | ["CONSUMER", "DURABLE", "CREATE", _, _] => {
            "consumer_create_response"
        }
        ["CONSUMER", "INFO", _, _] => "consumer_info_response",
        ["CONSUMER", "NAMES", _] => "consumer_names_response",
        ["CONSUMER", "LIST", _] => "consumer_list_response",
        ["CONSUMER", "DELETE", _, _] => "consumer_delete_response",
        ["CONSUMER", "PAUSE", _, _] => "consumer_pause_response",
        ["CONSUMER", "UNPIN", _, _] => "consumer_unpin_response",
        ["CONSUMER", "RESET", _, _] => "consumer_reset_response",
        ["STREAM", "PEER", "REMOVE", _] => "stream_remove_peer_response",
        ["STREAM", "PEER", "EVACUATE", _] => "stream_evacuate_peer_response",
        ["STREAM", "CANCEL_MOVE", _] => "stream_cancel_move_response",
        ["STREAM", "LEADER", "STEPDOWN", _] => "stream_leader_stepdown_response",
        ["CONSUMER", "LEADER", "STEPDOWN", _, _] => "consumer_leader_stepdown_response",
        ["CONSUMER", "PEER", "REMOVE", _, _] => "consumer_remove_peer_response",
        ["CONSUMER", "PEER", "EVACUATE", _, _] => "consumer_evacuate_peer_response",
        _ => return None,
    })
}

/// A refusal before anything of the request was looked at.
fn refusal_of_kind(kind: &str, error: &ApiError) -> Reply {
    Reply::refusal(kind, error, &Nothing {}, CommitNumber(0))
}

/// True if somebody answers a direct get on this subject.
fn answers_get(directory: &Weak<Directory>, subject: &[u8]) -> bool {
    let Some(directory) = directory.upgrade() else { return false };
    let rest = subject.strip_prefix(DIRECT_PREFIX).unwrap_or_default();
    let name = rest.split(|byte| *byte == b'.').next().unwrap_or_default();
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let streams = directory.streams.borrow();
    streams.get(name).is_some_and(|stream| stream.config().allow_direct)
}
