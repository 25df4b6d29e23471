//! A client before its first command: INFO and TLS, in the order that its opening determines.

use super::session::ClientSession;
use crate::net::session::Step;
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::peer::opening::Next;
use crate::peer::who::log_peer;
use crate::protocol::nats::error::{CloseReason, text};
use std::time::Instant;

impl ClientSession {
    /// Returns what the reader is to do before there are commands; None once there may be some.
    #[cold]
    pub(super) fn open(&mut self, input: &[u8]) -> Option<Step> {
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
            }
        }
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
