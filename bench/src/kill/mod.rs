//! `kill -9` of a server with JetStream under load, again and again over one store: every message
//! that was acknowledged is there afterwards, once and where the acknowledgement said, and none
//! whose acknowledgement by a consumer was confirmed is delivered again.
//!
//! `arguments` are the flags, `clients` the load, `ledger` what the clients were promised, `rounds`
//! kills and compares.

pub mod arguments;
pub mod clients;
pub mod ledger;
pub mod rounds;
