//! A connection before its first command: TLS before the server's greeting, after it, or not at
//! all; an upgrade to WebSocket, behind TLS or without; a proxy's header in front of everything.
//!
//! Source of behaviour: nats-server server/server.go createClientEx, server/websocket.go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::certificate::CertificateNames;
use crate::base::limits::PROXY_WAIT_MAX;
use crate::config::tls_options::{HandshakeFirst, Verify};
use crate::net::frames::Upgrade;
use crate::net::listener::Peer;
use crate::net::read_buffer::ReadBuffer;
use crate::net::tls::{TlsFacts, begins_handshake};
use crate::net::tls_config::{Admission, TlsServer};
use crate::peer::upgrade::{HEAD_LIMITS, Introduction, Refused, WebSocketServer};
use crate::protocol::http::HeadReader;
use crate::protocol::proxy::{self, Proxied, ProxyFault};

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
    /// The request for an upgrade to WebSocket is next.
    Upgrading {
        until: Instant,
    },
    /// Plain, but for a proxy's header, which is next.
    Proxied,
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
    /// Boxed: plain connections of a client port have none.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    /// Set once the connection speaks TLS.
    secured: Option<Secured>,
    /// Present if it came to a WebSocket listener.
    web: Option<Web>,
    /// Present until a proxy's header was read, or none came.
    proxy: Option<Proxy>,
}

/// The wait for a proxy's header.
#[derive(Clone, Copy)]
struct Proxy {
    until: Instant,
    /// Bytes of a header that were decided about and have yet to come.
    left: usize,
}

/// The part of an opening that only WebSocket has.
struct Web {
    server: Arc<WebSocketServer>,
    /// The request, until it is whole.
    heads: HeadReader,
    introduction: Introduction,
    is_upgraded: bool,
}

impl Web {
    fn new(server: Arc<WebSocketServer>) -> Self {
        Self {
            server,
            heads: HeadReader::default(),
            introduction: Introduction::default(),
            is_upgraded: false,
        }
    }
}

/// The listener of a connection, with what it asks of its peers.
pub(crate) enum Entrance {
    Client {
        /// The TLS of the port; None = plain.
        tls: Option<Arc<TlsServer>>,
        /// True if a proxy may stand in front.
        proxied: bool,
    },
    WebSocket(Arc<WebSocketServer>),
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
    /// Speak WebSocket, send the greeting, then ask again.
    Upgraded(Box<Upgrade>),
    /// Send the answer, then close.
    NotUpgraded(Refused),
    /// A proxy speaks for this peer; ask again.
    SpokenFor(SocketAddr),
    /// A proxy's header cannot be used: close without a word.
    BadProxy(ProxyFault),
}

/// What the greeting says about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TlsWords {
    pub is_required: bool,
    /// True if the peer may choose, or has chosen by the listener it came to.
    pub is_available: bool,
    /// True if the peer must show a certificate.
    pub verifies: bool,
}

impl Opening {
    /// Begins the opening of a connection just accepted.
    pub(crate) fn new(entrance: Entrance, peer: &Peer, now: Instant) -> Self {
        match entrance {
            Entrance::Client { tls, proxied } => Self::of_client(tls, proxied, peer, now),
            Entrance::WebSocket(server) => Self::of_websocket(server, now),
        }
    }

    fn of_websocket(server: Arc<WebSocketServer>, now: Instant) -> Self {
        let state = match server.tls {
            Some(_) => State::Due,
            None => State::Upgrading { until: now + server.upgrade_wait },
        };
        Self {
            state,
            tls_server: server.tls.clone(),
            is_tls_first: false,
            opened_at: now,
            more: Some(Box::new(More { web: Some(Web::new(server)), ..More::default() })),
        }
    }

    fn of_client(
        tls_server: Option<Arc<TlsServer>>,
        proxied: bool,
        peer: &Peer,
        now: Instant,
    ) -> Self {
        let (state, is_tls_first) = match &tls_server {
            None if proxied => (State::Proxied, false),
            None => (State::Done, false),
            Some(tls) => match (tls.handshake_first, peer) {
                (HandshakeFirst::Fallback(_), _) | (HandshakeFirst::Always, Peer::Unix) => {
                    (State::Listening { until: None }, true)
                }
                (HandshakeFirst::Always, _) => (State::Due, true),
                (HandshakeFirst::Never, _) => (State::after_greeting(tls, peer), false),
            },
        };
        let proxy = proxied.then_some(Proxy { until: now + PROXY_WAIT_MAX, left: 0 });
        let more = proxy.map(|proxy| Box::new(More { proxy: Some(proxy), ..More::default() }));
        Self { state, tls_server, is_tls_first, opened_at: now, more }
    }

    /// Returns what the reader is to do now, given everything that the peer has sent so far. Takes
    /// only what is no command.
    #[cold]
    pub(crate) fn next(&mut self, input: &mut ReadBuffer, peer: &Peer) -> Next {
        if matches!(self.state, State::Upgrading { .. }) {
            return self.upgrade(input);
        }
        if let (State::Listening { until }, Some(tls)) = (self.state, self.tls_server.clone()) {
            let now = Instant::now();
            let until = until.unwrap_or_else(|| now + fallback(&tls));
            if !input.bytes().is_empty() {
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
        if let Some(next) = self.read_proxy(input) {
            return next;
        }
        let Some(tls) = self.tls_server.clone() else {
            self.state = State::Done;
            return Next::Commands;
        };
        let input = input.bytes();
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

    /// Reads a proxy's header, if one is awaited. Some = this comes first.
    fn read_proxy(&mut self, input: &mut ReadBuffer) -> Option<Next> {
        let proxy = self.more.as_mut()?.proxy.as_mut()?;
        let mut source = None;
        if proxy.left == 0 {
            match proxy::read(input.bytes()) {
                Ok(Proxied::Incomplete) => return Some(Next::ReadMore),
                Ok(Proxied::No) => {}
                Ok(Proxied::Yes { size, source: named }) => {
                    proxy.left = size;
                    source = named;
                }
                Err(fault) => return Some(Next::BadProxy(fault)),
            }
        }
        let count = proxy.left.min(input.bytes().len());
        input.consume(count);
        proxy.left -= count;
        if proxy.left == 0 {
            self.end_proxy(Instant::now());
        }
        match source {
            Some(source) => Some(Next::SpokenFor(source)),
            None if self.awaits_proxy() => Some(Next::ReadMore),
            None => None,
        }
    }

    /// Goes on with what follows a proxy's header.
    fn end_proxy(&mut self, now: Instant) {
        if let Some(more) = &mut self.more {
            more.proxy = None;
        }
        match (&mut self.state, &self.tls_server) {
            (State::Proxied, _) => self.end(now),
            (State::FirstByte { until }, Some(tls)) => *until = now + tls.timeout,
            _ => {}
        }
    }

    /// Returns true while a proxy may say for whom it speaks.
    pub(crate) fn awaits_proxy(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.proxy.is_some())
    }

    fn upgrade(&mut self, input: &mut ReadBuffer) -> Next {
        let more = self.more.as_deref_mut();
        let web = more.and_then(|more| more.web.as_mut()).expect("only WebSocket has this state");
        web.heads.push(input.bytes());
        input.consume(input.bytes().len());
        let head = match web.heads.next_head(HEAD_LIMITS) {
            Ok(Some(head)) => head,
            Ok(None) => return Next::ReadMore,
            Err(error) => return Next::NotUpgraded(error.into()),
        };
        let judged = web.server.judge(&head, web.heads.held() > 0);
        web.heads = HeadReader::default();
        match judged {
            Ok((upgrade, introduction)) => {
                web.introduction = introduction;
                web.is_upgraded = true;
                self.end(Instant::now());
                Next::Upgraded(Box::new(upgrade))
            }
            Err(refused) => Next::NotUpgraded(refused),
        }
    }

    /// Returns true if the peer has not asked for an upgrade in the time it has, or no proxy has
    /// said anything. For the ticker.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        let proxy = self.more.as_ref().and_then(|more| more.proxy);
        matches!(self.state, State::Upgrading { until } if now >= until)
            || proxy.is_some_and(|proxy| now >= proxy.until)
    }

    /// Records that the connection speaks TLS from now on.
    pub(crate) fn secured(&mut self, facts: TlsFacts, now: Instant) {
        let own = facts.peer_certificates.first();
        let certificate = own.and_then(|der| CertificateNames::from_der(der));
        let more = self.more.get_or_insert_default();
        more.secured = Some(Secured { facts, certificate });
        match &more.web {
            Some(web) => self.state = State::Upgrading { until: now + web.server.upgrade_wait },
            None => self.end(now),
        }
    }

    /// Returns true if commands may come, now that so much time has passed. For the ticker.
    pub(crate) fn is_over_by(&mut self, now: Instant) -> bool {
        // A silent peer counts as plain; its login decides whether it may stay.
        let is_silent = matches!(self.state, State::FirstByte { until } if now >= until);
        if is_silent && !self.awaits_proxy() {
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
        (self.is_tls_first || self.is_websocket()) && !self.is_over()
    }

    /// Returns true if the greeting does not wait for anything.
    pub(crate) fn greets_at_once(&self) -> bool {
        !self.is_tls_first && !self.is_websocket()
    }

    /// Returns what the upgrade told about the peer; None = it is no WebSocket client, or not yet.
    pub(crate) fn introduction(&self) -> Option<&Introduction> {
        self.web().filter(|web| web.is_upgraded).map(|web| &web.introduction)
    }

    /// Returns the WebSocket listener that the connection came to.
    pub(crate) fn web_server(&self) -> Option<&WebSocketServer> {
        self.web().map(|web| &*web.server)
    }

    /// Returns true if the peer came to a WebSocket listener and was never one of its clients.
    pub(crate) fn is_not_upgraded(&self) -> bool {
        self.web().is_some_and(|web| !web.is_upgraded)
    }

    /// Returns true if the connection came to a WebSocket listener.
    #[inline]
    pub(crate) fn is_websocket(&self) -> bool {
        self.web().is_some()
    }

    fn web(&self) -> Option<&Web> {
        self.more.as_ref()?.web.as_ref()
    }

    fn secured_by(&self) -> Option<&Secured> {
        self.more.as_ref()?.secured.as_ref()
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
        self.secured_by().map(|secured| &secured.facts)
    }

    /// Returns the names in the peer's verified certificate.
    pub(crate) fn certificate(&self) -> Option<&CertificateNames> {
        self.secured_by()?.certificate.as_ref()
    }

    /// Returns what the greeting says about TLS; None = nothing.
    pub(crate) fn tls_words(&self, peer: &Peer) -> Option<TlsWords> {
        let tls = self.tls_server.as_deref()?;
        if self.is_websocket() {
            // Source: nats-server generateClientInfoJSON.
            return Some(TlsWords { is_required: true, is_available: true, verifies: false });
        }
        // A peer that began with TLS had no choice.
        let is_required = self.is_tls_first || !is_optional(tls, peer);
        let verifies = tls.verify == Verify::Required;
        Some(TlsWords { is_required, is_available: !is_required, verifies })
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
