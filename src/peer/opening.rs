//! A connection before its first command: whether TLS comes before the server's greeting, after it, or not at all.
//!
//! Source of behaviour: nats-server server/server.go createClientEx.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::certificate::CertificateNames;
use crate::config::tls_options::{HandshakeFirst, Verify};
use crate::net::listener::Peer;
use crate::net::tls::{TlsFacts, begins_handshake};
use crate::net::tls_config::{Admission, TlsServer};

/// How far an opening got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The greeting waits, to see whether the peer begins with TLS; the moment the wait ends, once it has begun.
    Listening {
        until: Option<Instant>,
    },
    /// The greeting was sent in clear; the first byte says whether the peer wants TLS.
    FirstByte {
        until: Instant,
    },
    /// TLS is next.
    Due,
    Handshaking,
    /// Commands are next.
    Done,
}

/// The opening of one connection, and what it led to.
pub struct Opening {
    state: State,
    /// The listener's TLS when this connection was accepted.
    tls_server: Option<Arc<TlsServer>>,
    /// The greeting comes after the handshake.
    is_tls_first: bool,
    /// When commands could come first: the time to log in counts from here.
    opened_at: Instant,
    /// Once the connection speaks TLS. Boxed: plain ones have none.
    secured: Option<Box<Secured>>,
}

struct Secured {
    facts: TlsFacts,
    /// The names in the peer's own certificate.
    certificate: Option<CertificateNames>,
}

/// What the reader does before there are commands.
pub enum Next {
    /// There may be commands.
    Commands,
    /// The greeting is to be sent in clear, then `next` is to be asked again.
    Greet,
    ReadMore,
    ReadMoreWithin(Duration),
    /// The handshake comes now. So many were turned away since the last that was let in.
    Handshake(Arc<TlsServer>, u32),
    /// There are too many handshakes.
    Throttled,
}

/// What the greeting says of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsWords {
    /// Else the peer may choose.
    pub is_required: bool,
    /// The peer is to show a certificate.
    pub verifies: bool,
}

impl Opening {
    /// Of a connection just accepted, by the TLS of its listener.
    pub fn new(tls_server: Option<Arc<TlsServer>>, peer: &Peer, now: Instant) -> Self {
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

    /// What the reader does now, with all that the peer sent so far.
    #[cold]
    pub fn next(&mut self, input: &[u8], peer: &Peer) -> Next {
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

    /// The connection speaks TLS from now on.
    pub fn secured(&mut self, facts: TlsFacts, now: Instant) {
        let own = facts.peer_certificates.first();
        let certificate = own.and_then(|der| CertificateNames::from_der(der));
        self.secured = Some(Box::new(Secured { facts, certificate }));
        self.end(now);
    }

    /// For the ticker: whether commands may come, now that so much time has passed.
    pub fn is_over_by(&mut self, now: Instant) -> bool {
        // A peer that says nothing is a plain one; whether it may stay is a matter of its login.
        if matches!(self.state, State::FirstByte { until } if now >= until) {
            self.end(now);
        }
        self.is_over()
    }

    fn end(&mut self, now: Instant) {
        self.state = State::Done;
        self.opened_at = now;
    }

    /// True once the peer may have given a command.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.state == State::Done
    }

    /// True while the peer was told nothing.
    pub fn greeting_is_due(&self) -> bool {
        self.is_tls_first && !self.is_over()
    }

    /// The greeting comes after the handshake.
    pub fn is_tls_first(&self) -> bool {
        self.is_tls_first
    }

    /// When commands could come first.
    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// What TLS told; None = plain, or not there yet.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.secured.as_ref().map(|secured| &secured.facts)
    }

    /// The names in the verified certificate that the peer showed.
    pub fn certificate(&self) -> Option<&CertificateNames> {
        self.secured.as_ref()?.certificate.as_ref()
    }

    /// What the greeting says of TLS; None = nothing.
    pub fn tls_words(&self, peer: &Peer) -> Option<TlsWords> {
        let tls = self.tls_server.as_deref()?;
        // A peer that began with TLS was not asked.
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

/// How long a peer has to begin with TLS before the greeting is sent in clear. On the machine itself it always has the
/// choice, as nats-server's in-process clients do.
fn fallback(tls: &TlsServer) -> Duration {
    match tls.handshake_first {
        HandshakeFirst::Fallback(wait) => wait,
        HandshakeFirst::Always | HandshakeFirst::Never => LOCAL_FALLBACK,
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
