//! A connection before its first command: INFO, and whether TLS comes before it, after it, or not at all.
//!
//! Source of behaviour: nats-server server/server.go createClientEx.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::session::ClientSession;
use crate::auth::certificate::CertificateNames;
use crate::client::who::log_client;
use crate::config::tls_options::{HandshakeFirst, Verify};
use crate::net::listener::Peer;
use crate::net::session::Step;
use crate::net::tls::{TlsFacts, TlsFailure, begins_handshake};
use crate::net::tls_config::{Admission, TlsServer};
use crate::protocol::nats::error::{CloseReason, text};
use crate::protocol::nats::handshake::Info;

/// How far the opening got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// INFO waits, to see whether the peer begins with TLS; the moment the wait ends, once it has begun.
    Listening {
        wait: Duration,
        until: Option<Instant>,
    },
    /// INFO was sent in clear; the first byte says whether the peer wants TLS.
    FirstByte {
        until: Instant,
    },
    /// TLS is next.
    Due,
    Handshaking,
    /// Commands are next.
    Done,
}

impl Opening {
    /// Where the connection of such a peer begins, and whether INFO waits for TLS.
    pub(super) fn of(tls: Option<&TlsServer>, peer: &Peer) -> (Self, bool) {
        let Some(tls) = tls else { return (Self::Done, false) };
        match (tls.handshake_first, peer) {
            (HandshakeFirst::Fallback(wait), _) => (Self::Listening { wait, until: None }, true),
            // On the machine itself a peer always has the choice, as nats-server's in-process ones do.
            (HandshakeFirst::Always, Peer::Unix) => {
                (Self::Listening { wait: LOCAL_FALLBACK, until: None }, true)
            }
            (HandshakeFirst::Always, _) => (Self::Due, true),
            (HandshakeFirst::Never, _) => (Self::after_info(tls, peer), false),
        }
    }

    fn after_info(tls: &TlsServer, peer: &Peer) -> Self {
        if is_optional(tls, peer) {
            Self::FirstByte { until: Instant::now() + tls.timeout }
        } else {
            Self::Due
        }
    }
}

/// How long a local peer has to begin with TLS where remote ones must. Source: nats-server
/// DEFAULT_TLS_HANDSHAKE_FIRST_FALLBACK_DELAY.
const LOCAL_FALLBACK: Duration = Duration::from_millis(50);

fn is_optional(tls: &TlsServer, peer: &Peer) -> bool {
    tls.allow_plain || matches!(peer, Peer::Unix)
}

/// Seconds since the process first asked.
fn second_now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs()
}

impl ClientSession {
    /// INFO's words about TLS.
    pub(super) fn tls_info(&self, info: Info) -> Info {
        let Some(tls) = &self.tls_server else { return info };
        // A peer that began with TLS was not asked.
        let required = self.tls_first || !is_optional(tls, &self.peer);
        let tls_verify = tls.verify == Verify::Required;
        Info { tls_required: required, tls_available: !required, tls_verify, ..info }
    }

    /// What the reader does before there are commands; None once there may be.
    #[cold]
    pub(super) fn open(&mut self, input: &[u8]) -> Option<Step> {
        let Some(tls) = self.tls_server.clone() else {
            self.opening = Opening::Done;
            return None;
        };
        if let Opening::Listening { wait, until } = self.opening {
            let now = Instant::now();
            let until = until.unwrap_or(now + wait);
            self.opening = if !input.is_empty() {
                Opening::Due
            } else if now < until {
                self.opening = Opening::Listening { wait, until: Some(until) };
                return Some(Step::ReadMoreWithin(until - now));
            } else {
                self.tls_first = false;
                self.push_info();
                Opening::after_info(&tls, &self.peer)
            };
        }
        if let Opening::FirstByte { until } = self.opening {
            let first = input.first().copied();
            let in_time = Instant::now() < until;
            self.opening = match first {
                Some(first) if in_time && begins_handshake(first) => Opening::Due,
                None if in_time => return Some(Step::ReadMore),
                _ => Opening::Done,
            };
            self.opened_at = Instant::now();
        }
        if self.opening == Opening::Due {
            return Some(self.begin_tls(tls));
        }
        None
    }

    fn begin_tls(&mut self, tls: Arc<TlsServer>) -> Step {
        match tls.admit(second_now()) {
            Admission::Admitted { rejected_before } => {
                if rejected_before > 0 {
                    tracing::warn!(
                        "Rejected {rejected_before} connections due to TLS rate limiting"
                    );
                }
                log_client!(debug, self, "Starting TLS client connection handshake");
                self.opening = Opening::Handshaking;
                Step::StartTls(tls)
            }
            Admission::Rejected => {
                self.outbox.push_error(text::CONNECTION_THROTTLING);
                Step::Close(CloseReason::MaximumConnectionsExceeded)
            }
        }
    }

    /// True while the peer cannot have given a command.
    pub(super) fn opening_is_due(&self) -> bool {
        self.opening != Opening::Done
    }

    /// True while the peer was told nothing.
    pub(super) fn info_is_due(&self) -> bool {
        self.tls_first && self.opening_is_due()
    }

    /// For the ticker: whether commands may come, now that so much time has passed.
    pub(super) fn opening_is_over(&mut self, now: Instant) -> bool {
        // A peer that says nothing is a plain one; whether it may stay is a matter of its login.
        if matches!(self.opening, Opening::FirstByte { until } if now >= until) {
            self.opening_ends(now);
        }
        self.opening == Opening::Done
    }

    fn opening_ends(&mut self, now: Instant) {
        self.opening = Opening::Done;
        self.opened_at = now;
    }

    pub(super) fn handshake_ended(&mut self, outcome: Result<TlsFacts, TlsFailure>) {
        match outcome {
            Ok(facts) => {
                log_client!(debug, self, "TLS handshake complete");
                let TlsFacts { version, cipher_suite, .. } = &facts;
                log_client!(debug, self, "TLS version {version}, cipher suite {cipher_suite}");
                let own = facts.peer_certificates.first();
                self.certificate =
                    own.and_then(|der| CertificateNames::from_der(der)).map(Box::new);
                self.tls = Some(Box::new(facts));
                self.opening_ends(Instant::now());
                if self.tls_first {
                    self.push_info();
                }
            }
            // What port scanners and health checks leave behind is no operator's business.
            Err(failure @ (TlsFailure::TimedOut | TlsFailure::NotTls)) => {
                log_client!(debug, self, "{failure}");
            }
            Err(failure) => log_client!(error, self, "{failure}"),
        }
    }
}
