//! Reports about consumers, for whoever subscribes to reports of that kind: JSON, as nats-server
//! writes it.

use std::rc::Rc;

use serde::Serialize;

use super::consumer::output::{Advisory, Delivery};
use super::consumers::Consumer;
use super::engine::Engine;
use super::json::encode::{encode, is_default};
use super::json::timestamp::Timestamp;
use super::leaving::Outgoing;
use super::stream::StreamHandle;
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;

/// The fields of all reports about consumers; those that do not belong to a kind are left out.
#[derive(Default, Serialize)]
struct Report<'a> {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    account: &'a str,
    stream: &'a str,
    consumer: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    consumer_seq: u64,
    #[serde(skip_serializing_if = "is_default")]
    stream_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_time: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    deliveries: u64,
    #[serde(skip_serializing_if = "is_default")]
    group: String,
    #[serde(skip_serializing_if = "is_default")]
    pinned_id: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
}

impl<'a> Report<'a> {
    fn of(delivery: &Delivery) -> Self {
        let Delivery { consumer_sequence, stream_sequence, deliveries } = *delivery;
        Report {
            consumer_seq: consumer_sequence,
            stream_seq: stream_sequence,
            deliveries,
            ..Report::default()
        }
    }
}

impl<D: Disk> Engine<D> {
    /// Publishes a report, if somebody listens.
    fn report<'a>(
        &self,
        stream: &'a StreamHandle,
        consumer: &'a Consumer,
        (subject, kind): (&str, &str),
        report: Report<'a>,
        after: CommitNumber,
    ) {
        let subject = format!("$JS.EVENT.{subject}.{}.{}", stream.name, consumer.name);
        if !self.has_interest(stream, subject.as_bytes()) {
            return;
        }
        let report = Report {
            kind: format!("io.nats.jetstream.{kind}"),
            id: nuid::next().to_string(),
            timestamp: Some(Timestamp::from_unix_ns(self.host.now_ns())),
            stream: &stream.name,
            consumer: &consumer.name,
            domain: self.settings().domain.clone(),
            ..report
        };
        let payload = encode(&report);
        let outgoing =
            Outgoing { subject: subject.as_bytes(), payload: &payload, ..Outgoing::default() };
        self.leaving.push(after, stream.account.id, &outgoing);
    }

    pub(super) fn advise(
        &self,
        stream: &StreamHandle,
        consumer: &Rc<Consumer>,
        advisory: &Advisory,
    ) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (kind, report) = match advisory {
            Advisory::Nak(delivery) => {
                (("ADVISORY.CONSUMER.MSG_NAKED", "advisory.v1.nak"), Report::of(delivery))
            }
            Advisory::Terminated(delivery, reason) => (
                ("ADVISORY.CONSUMER.MSG_TERMINATED", "advisory.v1.terminated"),
                Report { reason: text(reason), ..Report::of(delivery) },
            ),
            Advisory::MaxDeliveries { stream_sequence, deliveries } => (
                ("ADVISORY.CONSUMER.MAX_DELIVERIES", "advisory.v1.max_deliver"),
                Report {
                    stream_seq: *stream_sequence,
                    deliveries: *deliveries,
                    ..Report::default()
                },
            ),
            Advisory::Acked(delivery, ack_time_ns) => (
                ("METRIC.CONSUMER.ACK", "metric.v1.consumer_ack"),
                Report { ack_time: Some(*ack_time_ns), ..Report::of(delivery) },
            ),
            Advisory::Pinned { group, id } => (
                ("ADVISORY.CONSUMER.PINNED", "advisory.v1.consumer_group_pinned"),
                Report {
                    account: &stream.account.name,
                    group: text(group),
                    pinned_id: id,
                    ..Report::default()
                },
            ),
            Advisory::Unpinned { group, reason } => (
                ("ADVISORY.CONSUMER.UNPINNED", "advisory.v1.consumer_group_unpinned"),
                Report {
                    account: &stream.account.name,
                    group: text(group),
                    reason: reason.text().into(),
                    ..Report::default()
                },
            ),
        };
        self.report(stream, consumer, kind, report, CommitNumber(0));
    }

    pub(super) fn advise_pause(
        &self,
        stream: &StreamHandle,
        consumer: &Rc<Consumer>,
        until: Option<Timestamp>,
    ) {
        let until = until.unwrap_or(Timestamp::ZERO);
        let paused = until.unix_ns() > self.host.now_ns();
        let report = Report { paused: Some(paused), pause_until: Some(until), ..Report::default() };
        let kind = ("ADVISORY.CONSUMER.PAUSE", "advisory.v1.consumer_pause");
        self.report(stream, consumer, kind, report, CommitNumber(0));
    }

    pub(super) fn advise_creation(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        after: CommitNumber,
    ) {
        let report = Report { action: "create", ..Report::default() };
        let kind = ("ADVISORY.CONSUMER.CREATED", "advisory.v1.consumer_action");
        self.report(stream, consumer, kind, report, after);
    }

    pub(super) fn advise_removal(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        after: CommitNumber,
    ) {
        let report = Report { action: "delete", ..Report::default() };
        let kind = ("ADVISORY.CONSUMER.DELETED", "advisory.v1.consumer_action");
        self.report(stream, consumer, kind, report, after);
    }
}
