//! Who may log in and do what, as plain data from the `authorization` and `accounts` blocks. Its
//! meaning (matching, precedence, mappings) is decided in `auth`.

use std::time::Duration;

use crate::config::import_options::{ExportOptions, ImportOptions};
use crate::config::jetstream_options::JetStreamAccountOptions;
use crate::config::operator_options::OperatorOptions;
pub use crate::config::secret::{Place, Secret};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthOptions {
    /// The single user of `authorization { user, password }` or `--user`.
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    /// None = the default of `Options::auth_timeout`.
    pub timeout: Option<Duration>,
    /// Users of the `authorization` block (account None) and of all accounts.
    pub users: Vec<UserOptions>,
    pub nkeys: Vec<NkeyUserOptions>,
    /// The user, or public nkey, that stands in for a client without credentials.
    pub no_auth_user: Option<String>,
    /// The `authorization` block's; already copied to users who have none of their own.
    pub default_permissions: Option<PermissionOptions>,
    /// In file order. `$G` is included only if it has mappings.
    pub accounts: Vec<AccountOptions>,
    /// Where the accounts stand in the file, for what is wrong between them.
    pub accounts_place: Place,
    /// None = `$SYS`.
    pub system_account: Option<String>,
    pub no_system_account: bool,
    /// Operator mode: clients log in by JWTs.
    pub operator: OperatorOptions,
    /// True if the `authorization` block was written, even if it is empty.
    pub block_present: bool,
}

impl AuthOptions {
    /// Returns true if a client must present credentials (unless `no_auth_user` stands in).
    pub fn is_required(&self) -> bool {
        self.user.is_some()
            || self.token.is_some()
            || !self.users.is_empty()
            || !self.nkeys.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserOptions {
    pub user: String,
    /// Plain text or a bcrypt hash; None if the file gives none.
    pub password: Option<Secret>,
    /// None = `$G`.
    pub account: Option<String>,
    pub permissions: Option<PermissionOptions>,
    /// In upper case, such as `STANDARD`; None = all.
    pub connection_types: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NkeyUserOptions {
    /// A public user nkey, `U...`.
    pub nkey: String,
    /// None = `$G`.
    pub account: Option<String>,
    pub permissions: Option<PermissionOptions>,
    /// In upper case, such as `STANDARD`; None = all.
    pub connection_types: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PermissionOptions {
    pub publish: Option<SubjectPermissionOptions>,
    /// Entries may be `subject queue`.
    pub subscribe: Option<SubjectPermissionOptions>,
    pub allow_responses: Option<ResponsePermissionOptions>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubjectPermissionOptions {
    /// None = no list. An empty list in a file counts as no list too, unless `allow_responses`
    /// added it: then it allows nothing.
    pub allow: Option<Vec<String>>,
    pub deny: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResponsePermissionOptions {
    /// Responses per request; None = unlimited.
    pub messages_max: Option<u32>,
    /// None = never.
    pub expires: Option<Duration>,
}

impl Default for ResponsePermissionOptions {
    fn default() -> Self {
        Self { messages_max: Some(1), expires: Some(Duration::from_secs(120)) }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountOptions {
    pub name: String,
    /// A public account nkey, `A...`.
    pub nkey: Option<String>,
    /// Already copied to users who have none of their own.
    pub default_permissions: Option<PermissionOptions>,
    pub mappings: Vec<MappingOptions>,
    pub limits: AccountLimitOptions,
    pub exports: Vec<ExportOptions>,
    pub imports: Vec<ImportOptions>,
    /// None = the account has no JetStream.
    pub jetstream: Option<JetStreamAccountOptions>,
    pub trace: Option<TraceOptions>,
}

/// The destination of traces of messages whose publishers have them traced by `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceOptions {
    pub destination: String,
    /// Percent of such messages that are traced: 1 to 100.
    pub sampling: u8,
}

/// Limits of one account; None = unlimited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountLimitOptions {
    pub connections_max: Option<usize>,
    pub subscriptions_max: Option<usize>,
    pub payload_bytes_max: Option<usize>,
    pub leafnodes_max: Option<usize>,
}

/// One source subject and its destinations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MappingOptions {
    pub source: String,
    pub destinations: Vec<MappingDestinationOptions>,
    /// True if it was written as `source: destination`, without weights: errors then name the
    /// destination.
    pub is_plain: bool,
    /// Its place in the file, for errors.
    pub place: Place,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MappingDestinationOptions {
    pub subject: String,
    /// Percent, 0 to 100.
    pub weight: u8,
    pub cluster: Option<String>,
}
