//! The side of a connection that speaks a protocol, as the connection sees it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::gate::Gate;
use crate::base::ids::ShardId;
use crate::broker::byte_queue::QueueHandle;
use crate::broker::link::Congestion;
use crate::net::frames::{FrameFailure, FrameLimits, Upgrade};
use crate::net::read_buffer::ReadBuffer;
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::error::CloseReason;

/// Protocol state of one peer. Takes bytes, appends bytes to an outbox, never awaits.
pub trait Session {
    /// Called once the connection is up: pushes the first bytes, if the server speaks first.
    fn start(&mut self);

    /// Consumes whole commands, a bounded amount of work per call.
    fn receive(&mut self, input: &mut ReadBuffer) -> Step;

    /// Called when the handshake requested by `Step::StartTls` has ended. After a failure the
    /// connection closes, and what was pushed since is never sent.
    fn tls_ended(&mut self, outcome: Result<TlsFacts, TlsFailure>);

    /// Returns what the frames of its peer may hold, if it speaks WebSocket.
    fn frame_limits(&self) -> FrameLimits;

    /// Called when the frames of its peer cannot be read on: the connection closes.
    fn framing_failed(&mut self, failure: FrameFailure);

    /// Called at every tick of the shard, for pings and deadlines. Some = close the connection.
    fn tick(&mut self, now: Instant) -> Option<CloseReason>;

    /// Called once when the connection ends: detaches from everything.
    fn close(&mut self, reason: CloseReason);

    /// Returns the queue of bytes for its peer.
    fn queue(&self) -> QueueHandle;
}

/// What the reader is to do after a batch.
pub enum Step {
    ReadMore,
    /// The same, but `receive` is called again after that time even if nothing arrived.
    ReadMoreWithin(Duration),
    /// Send what is queued in the clear, then speak TLS; the rest of the input already belongs to
    /// TLS. Requested at most once.
    StartTls(Arc<TlsServer>),
    /// Speak WebSocket from now on: send the answer to the upgrade, then everything in frames.
    /// Requested at most once, before anything else was sent.
    StartFrames(Box<Upgrade>),
    /// There is more input in the buffer, but others get their turn first.
    Again,
    WaitFor(Wait),
    /// Continue on that shard, with the rest of the input. If the connection cannot leave, `receive`
    /// is called again here.
    Move(ShardId),
    /// The same, but it cannot stay: it leaves once all it was told has been sent.
    Leave(ShardId),
    /// The outbox already holds what the peer is to be told.
    Close(CloseReason),
}

/// What a reader waits for; it continues at once if that ceases to exist.
pub enum Wait {
    Gate {
        gate: Rc<Gate>,
        until: u64,
        at_most: Option<Duration>,
    },
    /// Until the gate is at 1, which means that the outcome of a login is there. The connection
    /// ends if its peer goes meanwhile: a client that does not wait need not be checked.
    Login {
        gate: Rc<Gate>,
    },
    /// Until a consumer's queue has sent that much.
    Sent {
        queue: QueueHandle,
        until: u64,
        at_most: Duration,
    },
}

impl Wait {
    /// Returns the wait for room on a link.
    pub fn for_room(congestion: Congestion) -> Self {
        Self::Gate { gate: congestion.gate, until: congestion.until, at_most: None }
    }
}
