//! The parts that every session has, combined.

use std::time::Instant;

use super::facts::Traffic;
use super::keep_alive::KeepAlive;
use super::login::Login;
use super::opening::Opening;
use super::who::Who;
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
        let Self { id, address, connect, login, .. } = self;
        Who { id: *id, peer: address, connect, identity: login.identity() }
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
