//! Every bound of the server: its unit, its value, why, and who enforces it.
//!
//! Bounds an operator can change have their default here; the value in force is in `config::Options`.

/// Bytes of arguments of one control line. nats-server's `max_control_line`. Enforced by the parser.
pub const CONTROL_LINE_BYTES_MAX: usize = 4096;

/// Bytes of one message's headers and payload. nats-server's `max_payload`. Enforced by the session when
/// the control line is parsed, before payload bytes are read.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Bytes. Above this a configured `max_payload` earns a warning at start, as in nats-server.
pub const PAYLOAD_BYTES_WARN: usize = 8 << 20;

/// Bytes queued for one connection. nats-server's `max_pending`. Enforced by `Outbox::push`: the
/// connection is closed as a slow consumer.
pub const PENDING_BYTES_MAX: usize = 64 << 20;

/// Bytes queued for one connection past which its producers are slowed while it keeps moving: what is
/// still in cache is cheap to send. Enforced by the router, obeyed by the publisher's session.
pub const PENDING_BYTES_PACE: usize = 1 << 20;

/// Client connections. nats-server's `max_connections`. Enforced at accept over all shards.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Cached subjects looked at for one wildcard change. Past this the match cache is emptied instead: one
/// SUB must not hold a shard. Enforced by `MatchCache::evict_matching`.
pub const MATCH_CACHE_SCAN_MAX: usize = 512;

/// Digits of a size argument: what nats-server's parser accepts, so a size is below 10^9.
pub const SIZE_DIGITS_MAX: usize = 9;

const _: () =
    assert!(PAYLOAD_BYTES_MAX <= PENDING_BYTES_MAX, "one largest message must fit an empty outbox");
const _: () = assert!(PENDING_BYTES_PACE < PENDING_BYTES_MAX, "pacing comes before cutting");
