//! Passes on what the broker recorded of traced messages, and of requests whose durations are
//! published, with the names that only this shard knows.

use super::core::Shard;
use super::records::{Described, LatencyOutcome, LatencyRecord, Responder, TraceBegun, TracePart};
use super::speaker::Speaker;
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ClientKey, ConnectionId};
use crate::base::limits::RECORDS_PER_TURN_MAX;
use crate::broker::latency::{Ending, LatencyNote};
use crate::broker::link::shard_behind;
use crate::broker::message_trace::{Ingress, TraceEvent, TraceNote};
use crate::system::trace::{TraceIngress, TraceStep};

impl Shard {
    /// Passes on what the broker recorded, as far as there is room.
    pub(super) fn pass_records_on(&self) {
        let has_records = {
            let broker = self.broker.borrow();
            broker.has_trace_notes() || broker.has_latency_notes()
        };
        if has_records {
            self.pass_some_records_on();
        }
    }

    #[cold]
    fn pass_some_records_on(&self) {
        let auth = self.clients.auth.borrow().clone();
        for _ in 0..RECORDS_PER_TURN_MAX {
            if !self.system.has_room_for_record() {
                return;
            }
            let trace = self.broker.borrow_mut().next_trace_note();
            let latency = self.broker.borrow_mut().next_latency_note();
            if trace.is_none() && latency.is_none() {
                return;
            }
            if let Some(note) = trace {
                self.system.pass_trace_on(Box::new(self.trace_part(note, &auth)));
            }
            if let Some(note) = latency {
                self.system.pass_latency_on(Box::new(self.latency_record(note)));
            }
        }
        self.hook.request();
    }

    fn trace_part(&self, note: TraceNote, auth: &AuthState) -> TracePart {
        let bytes = note.bytes();
        let TraceNote { home, number, ingress, events, forwarded } = note;
        let steps = events.into_iter().map(|(at, event)| (at, self.trace_step(event, auth)));
        TracePart {
            home: home.map_or(self.id, |link| shard_behind(link, self.id)),
            number,
            begun: ingress.map(|ingress| Box::new(begun(*ingress, auth))),
            steps: steps.collect(),
            forwarded,
            bytes,
        }
    }

    fn trace_step(&self, event: TraceEvent, auth: &AuthState) -> TraceStep {
        match event {
            TraceEvent::StreamImport { account, to } => {
                TraceStep::StreamImport { account: account_name(account, auth), to: text(&to) }
            }
            TraceEvent::ServiceImport { account, from, to } => TraceStep::ServiceImport {
                account: account_name(account, auth),
                from: text(&from),
                to: text(&to),
            },
            TraceEvent::Egress { connection, account, filter, queue, error } => TraceStep::Egress {
                connection: connection.0,
                name: self.name_of(connection),
                account: account_name(account, auth),
                filter: text(&filter),
                queue: text(&queue),
                error,
            },
        }
    }

    /// Returns the name that a client gave itself; empty if it has left.
    fn name_of(&self, connection: ConnectionId) -> String {
        match self.speaker(connection) {
            Some(Speaker::Client(session)) => session.borrow().facts().connect.name.to_string(),
            None => String::new(),
        }
    }

    fn latency_record(&self, note: LatencyNote) -> LatencyRecord {
        let LatencyNote { request, ending } = note;
        let outcome = match ending {
            Ending::Answered { round_trip, responder } => {
                let responder = match responder {
                    None => Responder::Unknown,
                    Some((None, client)) => {
                        self.describe(client).map_or(Responder::Unknown, Responder::Known)
                    }
                    Some((Some(link), client)) => {
                        Responder::Elsewhere(shard_behind(link, self.id), client)
                    }
                };
                LatencyOutcome::Answered { round_trip, responder }
            }
            Ending::NoReply => LatencyOutcome::Failed(400, "Bad Request"),
            Ending::InterestLost => LatencyOutcome::Failed(408, "Request Timeout"),
            Ending::Nobody => LatencyOutcome::Failed(503, "Service Unavailable"),
            Ending::TimedOut => LatencyOutcome::Failed(504, "Service Timeout"),
        };
        LatencyRecord { shard: self.id, request, outcome }
    }

    /// Describes a client of this shard; None if it has left.
    pub(super) fn describe(&self, client: ClientKey) -> Option<Described> {
        let connection = self.broker.borrow().connection_of(client)?;
        let Speaker::Client(session) = self.speaker(connection)?;
        let session = session.borrow();
        let (json, rtt) = session.description();
        Some(Described { json, rtt })
    }
}

fn begun(ingress: Ingress, auth: &AuthState) -> TraceBegun {
    let Ingress { at, account, destination, connection, name, subject, headers, size, .. } =
        ingress;
    TraceBegun {
        account,
        destination,
        ingress: TraceIngress {
            at,
            connection: connection.0,
            name,
            account: account_name(account, auth),
            subject: text(&subject),
            mapped: ingress.mapped.as_deref().map(text),
            error: ingress.error,
            headers,
            size,
        },
    }
}

fn account_name(account: AccountId, auth: &AuthState) -> String {
    auth.account(account).map(|account| account.name.to_string()).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
