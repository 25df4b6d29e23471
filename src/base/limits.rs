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

/// Digits of a size argument: what nats-server's parser accepts, so a size is below 10^9.
pub const SIZE_DIGITS_MAX: usize = 9;

/// Log lines waiting for the log writer. Enough for a burst at start or a reload; past it lines are
/// dropped and counted. Enforced by `Logger::submit`.
pub const LOG_QUEUED_LINES_MAX: usize = 16_384;

/// Bytes of log lines waiting for the log writer: 16,384 lines of a client's text must not be the memory
/// of the server. Enforced by `Logger::submit`.
pub const LOG_QUEUED_BYTES_MAX: usize = 16 << 20;

/// Bytes of one log line; the rest is cut off. A traced payload of the default `max_payload` fits with
/// room for its escapes. Enforced by `LineFormat::line`.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 20;

const _: () =
    assert!(LOG_LINE_BYTES_MAX <= LOG_QUEUED_BYTES_MAX, "one longest line must fit an empty queue");
const _: () =
    assert!(PAYLOAD_BYTES_MAX <= PENDING_BYTES_MAX, "one largest message must fit an empty outbox");
const _: () = assert!(PENDING_BYTES_PACE < PENDING_BYTES_MAX, "pacing comes before cutting");
