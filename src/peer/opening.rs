//! A connection before its first command: TLS before the server's greeting, after it, or not at
//! all.
//!
//! Source of behaviour: nats-server server/server.go createClientEx.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::certificate::CertificateNames;
use crate::config::tls_options::{HandshakeFirst, Verify};
use crate::net::listener::Peer;
use crate::net::tls::{TlsFacts, begins_handshake};
use crate::net::tls_config::{Admission, TlsServer};

/// How far an opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The greeting is held back to see whether the peer begins with TLS. `until` is the end of
    /// that wait, once it has begun.
    Listening {
        until: Option<Instant>,
    },
    /// The greeting was sent in the clear; the first byte tells whether the peer wants TLS.
    FirstByte {
        until: Instant,
    },
    /// The TLS handshake is next.
    Due,
    Handshaking,
    /// Commands are next.
    Done,
}

/// The opening of one connection, and its outcome.
pub(crate) struct Opening {
    state: State,
    /// The listener's TLS when this connection was accepted.
    tls_server: Option<Arc<TlsServer>>,
    /// True if the greeting comes after the handshake.
    is_tls_first: bool,
    /// The first time at which commands could come: the time to log in starts here.
    opened_at: Instant,
    /// Set once the connection speaks TLS. Boxed: plain ones have none.
    secured: Option<Box<Secured>>,
}

struct Secured {
    facts: TlsFacts,
    /// The names in the peer's own certificate.
    certificate: Option<CertificateNames>,
}

/// What the reader is to do before there are commands.
pub(crate) enum Next {
    /// Commands may follow.
    Commands,
    /// Send the greeting in the clear, then ask again.
    Greet,
    ReadMore,
    ReadMoreWithin(Duration),
    /// Start the handshake. With the number of handshakes rejected since the last admitted one.
    Handshake(Arc<TlsServer>, u32),
    /// Too many handshakes per second.
    Throttled,
}

/// What the greeting says about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TlsWords {
    /// True if TLS is required; else the peer may choose.
    pub is_required: bool,
    /// True if the peer must show a certificate.
    pub verifies: bool,
}

impl Opening {
    /// Begins the opening of a connection just accepted, with the TLS of its listener.
    pub(crate) fn new(tls_server: Option<Arc<TlsServer>>, peer: &Peer, now: Instant) -> Self {
        let (state, is_tls_first) = match &tls_server {
            None => (State::Done, false),
            Some(tls) => match (tls.handshake_first, peer) {
                (HandshakeFirst::Fallback(_), _) | (HandshakeFirst::Always, Peer::Unix) => {
                    (State::Listening { until: None }, true)
                }
                (HandshakeFirst::Always, _) => (State::Due, true),
                (HandshakeFirst::Never, _) => (State::after_greeting(tls, peer), false),
            },
        };
        Self { state, tls_server, is_tls_first, opened_at: now, secured: None }
    }

    /// Returns what the reader is to do now, given everything that the peer has sent so far.
    #[cold]
    pub(crate) fn next(&mut self, input: &[u8], peer: &Peer) -> Next {
        let Some(tls) = self.tls_server.clone() else {
            self.state = State::Done;
            return Next::Commands;
        };
        if let State::Listening { until } = self.state {
            let now = Instant::now();
            let until = until.unwrap_or_else(|| now + fallback(&tls));
            if !input.is_empty() {
                self.state = State::Due;
            } else if now < until {
                self.state = State::Listening { until: Some(until) };
                return Next::ReadMoreWithin(until - now);
            } else {
                self.is_tls_first = false;
                self.state = State::after_greeting(&tls, peer);
                return Next::Greet;
            }
        }
        if let State::FirstByte { until } = self.state {
            let in_time = Instant::now() < until;
            self.state = match input.first() {
                Some(first) if in_time && begins_handshake(*first) => State::Due,
                None if in_time => return Next::ReadMore,
                _ => State::Done,
            };
            self.opened_at = Instant::now();
        }
        if self.state != State::Due {
            return Next::Commands;
        }
        match tls.admit(second_now()) {
            Admission::Admitted { rejected_before } => {
                self.state = State::Handshaking;
                Next::Handshake(tls, rejected_before)
            }
            Admission::Rejected => Next::Throttled,
        }
    }

    /// Records that the connection speaks TLS from now on.
    pub(crate) fn secured(&mut self, facts: TlsFacts, now: Instant) {
        let own = facts.peer_certificates.first();
        let certificate = own.and_then(|der| CertificateNames::from_der(der));
        self.secured = Some(Box::new(Secured { facts, certificate }));
        self.end(now);
    }

    /// Returns true if commands may come, now that so much time has passed. For the ticker.
    pub(crate) fn is_over_by(&mut self, now: Instant) -> bool {
        // A silent peer counts as plain; its login decides whether it may stay.
        if matches!(self.state, State::FirstByte { until } if now >= until) {
            self.end(now);
        }
        self.is_over()
    }

    fn end(&mut self, now: Instant) {
        self.state = State::Done;
        self.opened_at = now;
    }

    /// Returns true once the peer may have sent a command.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Done
    }

    /// Returns true while the peer has been told nothing.
    pub(crate) fn greeting_is_due(&self) -> bool {
        self.is_tls_first && !self.is_over()
    }

    /// Returns true if the greeting comes after the handshake.
    pub(crate) fn is_tls_first(&self) -> bool {
        self.is_tls_first
    }

    /// Returns the first time at which commands could come.
    pub(crate) fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// Returns the facts of TLS; None = plain, or the handshake has not ended.
    pub(crate) fn tls(&self) -> Option<&TlsFacts> {
        self.secured.as_ref().map(|secured| &secured.facts)
    }

    /// Returns the names in the peer's verified certificate.
    pub(crate) fn certificate(&self) -> Option<&CertificateNames> {
        self.secured.as_ref()?.certificate.as_ref()
    }

    /// Returns what the greeting says about TLS; None = nothing.
    pub(crate) fn tls_words(&self, peer: &Peer) -> Option<TlsWords> {
        let tls = self.tls_server.as_deref()?;
        // A peer that began with TLS had no choice.
        let is_required = self.is_tls_first || !is_optional(tls, peer);
        Some(TlsWords { is_required, verifies: tls.verify == Verify::Required })
    }
}

impl State {
    fn after_greeting(tls: &TlsServer, peer: &Peer) -> Self {
        if is_optional(tls, peer) {
            Self::FirstByte { until: Instant::now() + tls.timeout }
        } else {
            Self::Due
        }
    }
}

/// Returns how long a peer has to begin with TLS before the greeting is sent in the clear. A local
/// peer always has the choice, like nats-server's in-process clients.
fn fallback(tls: &TlsServer) -> Duration {
    match tls.handshake_first {
        HandshakeFirst::Fallback(wait) => wait,
        HandshakeFirst::Always | HandshakeFirst::Never => LOCAL_FALLBACK,
    }
}

/// Time for a local peer to begin with TLS if remote ones must. Source: nats-server
/// DEFAULT_TLS_HANDSHAKE_FIRST_FALLBACK_DELAY.
const LOCAL_FALLBACK: Duration = Duration::from_millis(50);

fn is_optional(tls: &TlsServer, peer: &Peer) -> bool {
    tls.allow_plain || matches!(peer, Peer::Unix)
}

/// Returns the seconds since the first call in this process.
fn second_now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs()
}
