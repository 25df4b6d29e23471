//! Who may connect, and what they may do. Pure: no socket, no clock, no thread.
//!
//! `Authenticator::build` compiles the plain data of `config::auth_options` once per configuration,
//! and every shard shares the result. A session asks the authenticator once per CONNECT and keeps
//! the `Identity`; it asks the identity's `Permissions` once per publish and per subscription. Only
//! bcrypt is slow: the decision then is `NeedsPasswordCheck`, and the caller runs the job
//! elsewhere.

pub(crate) mod account;
mod account_functions;
pub(crate) mod account_imports;
pub(crate) mod account_jwt;
pub(crate) mod authenticator;
pub(crate) mod certificate;
pub(crate) mod import_subject;
pub(crate) mod imports;
pub(crate) mod jwt;
pub(crate) mod mapping;
pub(crate) mod nkey;
pub(crate) mod password;
pub(crate) mod permissions;
pub(crate) mod replies;
pub(crate) mod response_rule;
pub(crate) mod state;
pub(crate) mod subject_set;
pub(crate) mod tls_map;
pub(crate) mod transform;
pub(crate) mod trust;
