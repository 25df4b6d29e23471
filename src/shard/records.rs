//! What a shard tells the thread of the server's own service about traced messages, and about
//! requests whose durations are published.

use std::time::{Duration, SystemTime};

use crate::base::ids::{AccountId, ClientKey, ShardId};
use crate::broker::latency::Tracked;
use crate::system::trace::{TraceIngress, TraceStep};

/// A client as a metric describes it.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// A JSON object.
    pub json: String,
    pub rtt: Duration,
}

/// The part of a trace that happened on one shard.
#[derive(Debug)]
pub(crate) struct TracePart {
    /// The shard where the message was published, and the number of the trace there.
    pub home: ShardId,
    pub number: u32,
    /// Present in the part of that shard.
    pub begun: Option<Box<TraceBegun>>,
    pub steps: Vec<(SystemTime, TraceStep)>,
    /// Shards to which the message was forwarded: each has a part.
    pub forwarded: usize,
    /// Bytes that it holds.
    pub bytes: usize,
}

/// The beginning of a trace.
#[derive(Debug)]
pub(crate) struct TraceBegun {
    pub account: AccountId,
    pub destination: Vec<u8>,
    pub ingress: TraceIngress,
}

/// A request whose duration is to be published.
#[derive(Debug)]
pub(crate) struct LatencyRecord {
    /// The shard that the requester is on.
    pub shard: ShardId,
    pub request: Box<Tracked>,
    pub outcome: LatencyOutcome,
}

/// The end of such a request.
#[derive(Debug)]
pub(crate) enum LatencyOutcome {
    Answered {
        round_trip: Duration,
        responder: Responder,
    },
    /// The status and its description.
    Failed(u16, &'static str),
}

/// The client that answered.
#[derive(Debug)]
pub(crate) enum Responder {
    /// It is no client, or left.
    Unknown,
    Known(Described),
    /// A client of another shard, by its key there.
    Elsewhere(ShardId, ClientKey),
}
