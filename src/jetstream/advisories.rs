//! Messages about what happens to streams, and about requests to the API.

use serde::Serialize;

use super::account::Account;
use super::engine::Engine;
use super::json::encode::encode;
use super::json::timestamp::Timestamp;
use super::leaving::Outgoing;
use super::stream::StreamHandle;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;

const AUDIT_SUBJECT: &str = "$JS.EVENT.ADVISORY.API";

/// Characters of an id: as many as nats-server's have.
const ID_CHARACTERS: usize = 22;

/// A change of which streams there are, or of a stream's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamAction {
    Create,
    Modify,
    Delete,
}

impl StreamAction {
    /// Its name in the message, and in the message's subject.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Create => ("create", "CREATED"),
            Self::Modify => ("modify", "UPDATED"),
            Self::Delete => ("delete", "DELETED"),
        }
    }
}

#[derive(Serialize)]
struct StreamJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    timestamp: Timestamp,
    stream: &'a str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
}

#[derive(Serialize)]
struct AuditJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    timestamp: Timestamp,
    server: &'a str,
    client: ClientJson<'a>,
    subject: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request: &'a str,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
}

/// A requester, as far as it is known on the shard that answers.
#[derive(Serialize)]
struct ClientJson<'a> {
    acc: &'a str,
}

impl<D: Disk> Engine<D> {
    fn advisory_id(&self) -> String {
        let mut random = self.random.borrow_mut();
        (0..ID_CHARACTERS).map(|_| random.alphanumeric()).collect()
    }

    /// Says what happened to a stream, once that is on disk.
    pub(super) fn advise_of_stream(
        &self,
        stream: &StreamHandle,
        action: StreamAction,
        after: CommitNumber,
    ) {
        let (action, name) = action.names();
        let settings = self.settings();
        let body = encode(&StreamJson {
            kind: "io.nats.jetstream.advisory.v1.stream_action",
            id: self.advisory_id(),
            timestamp: Timestamp::from_unix_ns(self.host.now_ns()),
            stream: &stream.name,
            action,
            domain: settings.domain.as_deref(),
        });
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.{name}.{}", stream.name);
        let (subject, payload) = (subject.as_bytes(), body.as_slice());
        let message = Outgoing { subject, payload, ..Outgoing::default() };
        self.leaving.push(after, stream.account.id, &message);
    }

    /// Says what was asked and answered, if anybody listens.
    pub(super) fn audit(
        &self,
        account: &Account,
        asked: &str,
        (request, response): (&[u8], &[u8]),
        after: CommitNumber,
    ) {
        let subject = AUDIT_SUBJECT.as_bytes();
        if !self.broker.borrow_mut().is_wanted(account.id, subject) {
            return;
        }
        let settings = self.settings();
        let body = encode(&AuditJson {
            kind: "io.nats.jetstream.advisory.v1.api_audit",
            id: self.advisory_id(),
            timestamp: Timestamp::from_unix_ns(self.host.now_ns()),
            server: &settings.server_id,
            client: ClientJson { acc: &account.name },
            subject: asked,
            request: &String::from_utf8_lossy(request),
            response: &String::from_utf8_lossy(response),
            domain: settings.domain.as_deref(),
        });
        let message = Outgoing { subject, payload: &body, ..Outgoing::default() };
        self.leaving.push(after, account.id, &message);
    }
}
