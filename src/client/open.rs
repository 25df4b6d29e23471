//! A client before its first command: INFO and TLS, in the order that its opening determines.

use super::session::ClientSession;
use crate::net::listener::Peer;
use crate::net::read_buffer::ReadBuffer;
use crate::net::session::Step;
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::peer::opening::Next;
use crate::peer::who::log_peer;
use crate::protocol::nats::error::{CloseReason, text};
use std::time::Instant;

impl ClientSession {
    /// Returns what the reader is to do before there are commands; None once there may be some.
    #[cold]
    pub(super) fn open(&mut self, input: &mut ReadBuffer) -> Option<Step> {
        loop {
            match self.peer.opening.next(input, &self.peer.address) {
                Next::Commands => return None,
                Next::Greet => self.push_info(),
                Next::ReadMore => return Some(Step::ReadMore),
                Next::ReadMoreWithin(at_most) => return Some(Step::ReadMoreWithin(at_most)),
                Next::Handshake(tls, rejected_before) => {
                    if rejected_before > 0 {
                        tracing::warn!(
                            "Rejected {rejected_before} connections due to TLS rate limiting"
                        );
                    }
                    log_peer!(debug, self, "Starting TLS client connection handshake");
                    return Some(Step::StartTls(tls));
                }
                Next::Throttled => {
                    self.outbox.push_error(text::CONNECTION_THROTTLING);
                    return Some(Step::Close(CloseReason::MaximumConnectionsExceeded));
                }
                Next::Upgraded(upgrade) => {
                    self.renew_trace();
                    log_peer!(debug, self, "Client connection created");
                    self.push_info();
                    return Some(Step::StartFrames(upgrade));
                }
                Next::SpokenFor(source) => {
                    self.peer.address = Peer::Tcp(source);
                    self.renew_trace();
                }
                Next::BadProxy(fault) => {
                    self.warn_of_proxy(&fault);
                    return Some(Step::Close(CloseReason::ProtocolViolation));
                }
                Next::NotUpgraded(refused) => {
                    let address = self.peer.address.address();
                    tracing::error!("{address} - websocket handshake error: {}", refused.reason);
                    self.outbox.push_bytes(&refused.answer());
                    return Some(Step::Close(CloseReason::ProtocolViolation));
                }
            }
        }
    }

    fn warn_of_proxy(&self, reason: &dyn std::fmt::Display) {
        let address = self.peer.address.address();
        tracing::warn!("Error reading PROXY protocol header from {address}: {reason}");
    }

    /// Returns why the connection is closed if what comes before commands takes too long.
    pub(super) fn late_opening(&self, now: Instant) -> Option<CloseReason> {
        if !self.peer.opening.is_late(now) {
            return None;
        }
        if self.peer.opening.awaits_proxy() {
            self.warn_of_proxy(&"failed to read protocol version: i/o timeout");
            return Some(CloseReason::ProtocolViolation);
        }
        Some(CloseReason::AuthenticationTimeout)
    }

    pub(super) fn handshake_ended(&mut self, outcome: Result<TlsFacts, TlsFailure>) {
        match outcome {
            Ok(facts) => {
                log_peer!(debug, self, "TLS handshake complete");
                let TlsFacts { version, cipher_suite, .. } = &facts;
                log_peer!(debug, self, "TLS version {version}, cipher suite {cipher_suite}");
                self.peer.opening.secured(facts, Instant::now());
                if self.peer.opening.is_tls_first() {
                    self.push_info();
                }
            }
            // Port scanners and health checks need not concern the operator.
            Err(failure @ (TlsFailure::TimedOut | TlsFailure::NotTls)) => {
                log_peer!(debug, self, "{failure}");
            }
            Err(failure) => {
                match &failure {
                    TlsFailure::NotPinned(Some(id)) => {
                        log_peer!(debug, self, "Failed pinned cert test for key id: {id}");
                    }
                    TlsFailure::NotPinned(None) => {
                        let reason = "client did not provide a certificate";
                        log_peer!(debug, self, "Failed pinned cert test as {reason}");
                    }
                    _ => {}
                }
                log_peer!(error, self, "{failure}");
            }
        }
    }
}
