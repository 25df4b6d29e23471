//! Exports and imports of accounts as plain data. What they mean, and whether they fit each other, is decided in `auth`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An account lets others hear its messages, or send it requests.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// May have wildcards and account functions.
    pub subject: String,
    pub kind: ExportKind,
    /// Names of the accounts that may import it; empty = all.
    pub accounts: Vec<String>,
    /// Only those may import it to whom the account has given an activation.
    pub activation_required: bool,
    /// Importing accounts, or `*`: activations issued until these seconds since 1970 are void.
    pub revocations: BTreeMap<String, i64>,
    /// The token, counted from 1, in which an import has the name of the importing account; 0 = none.
    pub account_token_position: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExportKind {
    Stream,
    Service(ServiceExportOptions),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceExportOptions {
    pub response_type: ResponseType,
    /// The time that an answer may take; None = the default, zero = every answer is late.
    pub response_threshold: Option<Duration>,
    pub latency: Option<LatencyOptions>,
    /// The traces of an importing account's requests go on in this account.
    pub allow_trace: bool,
}

/// The answers that a request may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseType {
    #[default]
    Singleton,
    /// Any number, until an empty one.
    Streamed,
    /// As `Streamed`.
    Chunked,
}

/// Requests whose durations are told on a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyOptions {
    pub subject: String,
    /// Percent, 1 to 100; 0 = only those whose headers ask for it.
    pub sampling: u8,
}

/// An account takes part in what another one exports.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportOptions {
    /// The exporting account.
    pub account: String,
    /// The subject there; may have wildcards and account functions.
    pub subject: String,
    /// The JWT by which the exporting account allows it; absent in files.
    pub activation: Option<Arc<str>>,
    pub kind: ImportKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ImportKind {
    Stream {
        /// Comes before the subject; wins over `to`.
        prefix: Option<String>,
        /// The subject here.
        to: Option<String>,
        /// Traces of the exporting account's messages go on in this account.
        allow_trace: bool,
    },
    Service {
        /// The subject here.
        to: Option<String>,
        /// The exporting account learns who asks.
        share: bool,
    },
}
