//! The state of a publishing client: what is known about its last subject, and the rest of its
//! turn.

use std::rc::Rc;
use std::time::Instant;

use crate::base::ids::{ConnectionId, ShardId};
use crate::broker::Broker;
use crate::broker::handed_over::Handover;
use crate::broker::link::Congestion;
use crate::broker::passage::Routed;
use crate::broker::route_cache::RouteCache;
use crate::broker::turn::Turn;

/// A move to another shard that a client was asked for.
pub(super) struct AskedMove {
    pub target: ShardId,
    /// Present from the beginning of the handover of its subscriptions on.
    pub handover: Option<Rc<Handover>>,
    /// True once it leaves.
    pub has_begun: bool,
}

/// The state of a client that has published. Taken out of the session during a batch; other clients
/// do not need the memory.
#[derive(Default)]
pub(super) struct Publishing {
    /// The beginning of a plain PUB on the last subject, if only that subject decides about the
    /// message: no mapping, not pedantic, no `+OK`, and publishing is allowed regardless of tracked
    /// replies. Empty = none.
    pub(super) known_line: Vec<u8>,
    pub(super) route_cache: RouteCache,
    /// True if the subject of `route_cache` may be published to regardless of tracked replies.
    pub(super) route_allowed: bool,
    pub(super) turn: Turn,
    /// What must be waited for before anything else is published: messages that came from other
    /// shards before these bytes.
    pub(super) held: Option<Congestion>,
    /// True if that wait is over. Bytes that come later need a new one.
    pub(super) has_waited: bool,
    /// The move that the client was asked for.
    pub(super) asked: Option<AskedMove>,
    /// Since when it has waited for slower consumers, if it does.
    pub(super) stalled_since: Option<Instant>,
}

impl Publishing {
    /// Begins another turn by continuing a message that the last one left unfinished. False = that
    /// took the whole turn.
    pub(super) fn begin_turn(&mut self, broker: &mut Broker, connection: ConnectionId) -> bool {
        self.turn.begin(broker.turn_work_max());
        self.turn.publisher = Some(connection);
        self.held = if self.has_waited { None } else { broker.arrivals().cloned() };
        match self.turn.unfinished.take() {
            Some(fan_out) => {
                broker.resume(fan_out, &mut self.turn) != Routed::Unfinished && !self.turn.is_over()
            }
            None => true,
        }
    }

    /// Ends the turn.
    pub(super) fn end_turn(&mut self, broker: &mut Broker) {
        self.route_cache.end_batch();
        broker.note_turn_work(self.turn.work());
    }

    /// Drops what was decided or matched for the last subject, in another account or with other
    /// rights.
    pub(super) fn forget_answers(&mut self) {
        self.route_allowed = false;
        self.known_line.clear();
        self.route_cache = RouteCache::default();
    }
}
