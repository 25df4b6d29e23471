//! The parts that every session has, combined.

use std::time::Instant;

use super::facts::Traffic;
use super::keep_alive::KeepAlive;
use super::login::Login;
use super::opening::Opening;
use super::who::Who;
use crate::auth::authenticator::ConnectionType;
use crate::base::ids::ConnectionId;
use crate::net::listener::Peer;
use crate::protocol::nats::handshake::ConnectOptions;

/// The state of one peer that does not depend on its protocol.
pub(crate) struct PeerState {
    pub id: ConnectionId,
    pub address: Peer,
    /// The options of its CONNECT.
    pub connect: ConnectOptions,
    pub opening: Opening,
    pub login: Login,
    pub keep_alive: KeepAlive,
    pub traffic: Traffic,
}

impl PeerState {
    /// Returns its description for log lines.
    pub(crate) fn who(&self) -> Who<'_> {
        let Self { id, address, connect, login, opening, .. } = self;
        let introduction = opening.introduction();
        let forwarded_for = introduction.and_then(|it| it.forwarded_for.as_deref());
        Who {
            id: *id,
            peer: address,
            way: self.way(),
            forwarded_for,
            connect,
            identity: login.identity(),
        }
    }

    /// Returns the kind of connection, which nothing that the peer says changes.
    #[inline]
    pub(crate) fn way(&self) -> ConnectionType {
        match self.opening.is_websocket() {
            true => ConnectionType::Websocket,
            false => ConnectionType::Standard,
        }
    }

    /// Called at each tick. `delivered_at` is the last time that the peer was sent a message, if
    /// it was since the last one.
    pub(crate) fn note_tick(&mut self, now: Instant, delivered_at: Option<Instant>) {
        self.keep_alive.note_tick(now);
        if let Some(at) = delivered_at {
            self.traffic.note_activity(at);
        }
    }
}
