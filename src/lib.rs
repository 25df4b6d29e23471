//! Midge: a NATS server with one thread per core and nothing shared on the hot path.
//!
//! A message's way in fifteen lines. A `shard` accepts a socket on its own SO_REUSEPORT listener
//! and gives it to `net::connection`, which reads bytes into a `ReadBuffer` and hands them to a
//! session. `client::receive` turns bytes into commands (`protocol::nats::parser`, ranges into the
//! read buffer, no copies) and calls a verb of `broker`, this shard's routing state.
//! `broker::publish` asks the match cache or the subject table who wants the subject, copies one
//! framed message into each local subscriber's `Outbox`, picks one member of each queue group, and
//! forwards at most one copy per other shard. The copy travels in a batch over the `mesh` message
//! lane (an SPSC ring); the other shard's drain delivers it there. The first push into an outbox
//! wakes that connection's writer, which sends everything the turn produced in one system call.
//! Interest travels the other way, over interest lanes. Every shard takes what waits in its lanes
//! before it handles a client's bytes, and fills its own lanes before it sends any: that is what
//! makes `flush()` mean the same thing on sixteen shards as on one.
//!
//! The modules below are floors: each uses only those above it, and `tests/tidy.rs` checks that.
//! `client`, `jetstream`, `mesh`, `monitor` and `system` are siblings and never import each other.
//!
//! Hot path: `base::ring`, `protocol::{subject, message}`, `protocol::nats::{parser, plain,
//! encode}`, `broker::{publish, route_cache, walk, deliver, forward, frame, mailbox, subject_table,
//! match_cache, outbox, byte_queue, queue_group}`, `net::{connection, read_buffer}`,
//! `client::{receive, publish}`, `mesh::{inbound, outbound}`. There: no allocation per message, no
//! lock, no format.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

// rustfmt sorts modules only between blank lines or comments: the order of floors is the law.
// F0
mod base;
// F1
mod protocol;
// F2
mod config;
// F3
mod auth;
// F4
mod broker;
// F5
mod net;
mod storage;
// F6
mod peer;
// F7
mod client;
mod jetstream;
mod mesh;
mod monitor;
mod system;
// F8
mod shard;
// F9
mod server;

pub use base::huge_pages::avoid as avoid_huge_pages;
/// The whole process, as the binary runs it.
pub use server::run::process::main;

#[doc(hidden)]
pub mod testing;
