//! What a client keeps that publishes: what was found out about its last subject, and what is left of its turn.

use std::time::Instant;

use crate::base::ids::ConnectionId;
use crate::broker::Broker;
use crate::broker::link::Congestion;
use crate::broker::passage::Routed;
use crate::broker::route_cache::RouteCache;
use crate::broker::turn::Turn;

/// What a client has that publishes. Taken out of the session for a batch: others do without the memory.
#[derive(Default)]
pub(super) struct Publishing {
    /// How a plain PUB on the last subject begins, if nothing but that subject decides what becomes of it:
    /// no mapping, no pedantry, no `+OK`, and it may be published to whatever was answered before. Empty = none.
    pub(super) known_line: Vec<u8>,
    pub(super) route_cache: RouteCache,
    /// Whether the subject of `route_cache` may be published to whatever was answered before.
    pub(super) route_allowed: bool,
    pub(super) turn: Turn,
    /// What is to be waited for before anything else is published: what came from other shards before these bytes.
    pub(super) held: Option<Congestion>,
    /// That was waited for. Bytes that come later are another matter.
    pub(super) has_waited: bool,
    /// When it began to wait for consumers that are slower, if it does.
    pub(super) stalled_since: Option<Instant>,
}

impl Publishing {
    /// Begins another turn, with what the last one left of a message. False = that takes all of it.
    pub(super) fn begin_turn(&mut self, broker: &mut Broker, connection: ConnectionId) -> bool {
        self.turn.begin(broker.turn_work_max());
        self.turn.publisher = Some(connection);
        self.held = if self.has_waited { None } else { broker.arrivals().cloned() };
        match self.turn.unfinished.take() {
            Some(fan_out) => broker.resume(fan_out, &mut self.turn) != Routed::Unfinished,
            None => true,
        }
    }

    /// Ends the turn.
    pub(super) fn end_turn(&mut self, broker: &mut Broker) {
        self.route_cache.end_batch();
        broker.note_turn_work(self.turn.work());
    }

    /// What was decided or matched for the last subject held for another account or other rights.
    pub(super) fn forget_answers(&mut self) {
        self.route_allowed = false;
        self.known_line.clear();
        self.route_cache = RouteCache::default();
    }
}
