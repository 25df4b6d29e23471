//! Consumers: what each delivers next and to whom, and what becomes of it.
//!
//! The [`machine`] of a consumer decides; it has no I/O, no clock and no broker. It says what it
//! wants looked up in the stream, is offered what was found, and names the receiver. Whoever owns
//! it publishes, and reports back. What it has to say otherwise gathers in its `output`s. Its
//! durable state is behind a `ledger`.
//!
//! `waiting` are pull requests, `redelivery` the messages that may have to be delivered again,
//! `flow` and `rate` slow a push consumer down, `pin` is the client that a priority group belongs
//! to. `ack_subject` and `ack_body` read acknowledgements. `wakes` finds the consumers that a new
//! message is for, and `count` keeps the number of messages that a consumer has before it.

pub(crate) mod ack_body;
pub(crate) mod ack_subject;
pub(crate) mod count;
pub(crate) mod filters;
pub(crate) mod flow;
pub(crate) mod ledger;
pub(crate) mod machine;
pub(crate) mod output;
pub(crate) mod pin;
pub(crate) mod rate;
pub(crate) mod redelivery;
pub(crate) mod request;
pub(crate) mod rules;
pub(crate) mod status;
pub(crate) mod waiting;
pub(crate) mod wakes;
