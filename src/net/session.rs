//! The side of a connection that speaks a protocol, as the connection needs it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::gate::Gate;
use crate::base::ids::ShardId;
use crate::broker::byte_queue::QueueHandle;
use crate::broker::link::Congestion;
use crate::net::read_buffer::ReadBuffer;
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::error::CloseReason;

/// Protocol state of one peer: bytes in, bytes in an outbox out, no await.
pub trait Session {
    /// The connection is up: push the first bytes, if the server speaks first.
    fn start(&mut self);

    /// Consumes whole commands, a bounded amount of work per call.
    fn receive(&mut self, input: &mut ReadBuffer) -> Step;

    /// The handshake that `Step::StartTls` asked for has ended. After a failure the connection
    /// closes; what was pushed since never leaves.
    fn tls_ended(&mut self, outcome: Result<TlsFacts, TlsFailure>);

    /// Called at every tick of the shard: pings and deadlines. Some closes the connection.
    fn tick(&mut self, now: Instant) -> Option<CloseReason>;

    /// The connection ends: detach from everything. Called once.
    fn close(&mut self, reason: CloseReason);

    /// The bytes for its peer.
    fn queue(&self) -> QueueHandle;
}

/// The reader's next step after a batch.
pub enum Step {
    ReadMore,
    /// The same, but `receive` is called again after so long even if nothing came.
    ReadMoreWithin(Duration),
    /// Sends what is queued in clear, then speaks TLS; what is in the input already belongs to it.
    /// Asked for at most once.
    StartTls(Arc<TlsServer>),
    /// There is more input in the buffer, but others get their turn first.
    Again,
    WaitFor(Wait),
    /// From now on the connection stays where it is served: on another shard, which then goes on with what is in the
    /// input, or here. Asked for at most once, while nothing that was said must be known anywhere else.
    Settle(Option<ShardId>),
    /// The outbox already holds what the peer is told.
    Close(CloseReason),
}

/// A wait of one reader; it goes on at once when what it waits for ceases to exist.
pub enum Wait {
    Gate {
        gate: Rc<Gate>,
        until: u64,
        at_most: Option<Duration>,
    },
    /// Until the gate is at 1: the outcome of a login is there. The connection ends if its peer
    /// goes meanwhile: nobody is to be checked who does not wait for it.
    Login {
        gate: Rc<Gate>,
    },
    /// Until a consumer's queue has sent so much.
    Sent {
        queue: QueueHandle,
        until: u64,
        at_most: Duration,
    },
}

impl Wait {
    /// For room on a link.
    pub fn for_room(congestion: Congestion) -> Self {
        Self::Gate { gate: congestion.gate, until: congestion.until, at_most: None }
    }
}
