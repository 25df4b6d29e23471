//! Plain data that configuration comes down to before it is compiled: users, permissions, accounts.
//!
//! Nothing here is checked; `Authenticator::build` checks everything and says what is wrong.

use std::time::Duration;

use super::password::Secret;

/// The whole of `authorization`, `accounts`, `mappings` and the TLS option that maps certificates.
#[derive(Clone, Debug, Default)]
pub struct AuthInput {
    /// Single user of the `authorization` block. An empty name counts as absent.
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    /// Users of the `authorization` block; they live in `$G`.
    pub users: Vec<UserInput>,
    pub nkey_users: Vec<NkeyUserInput>,
    /// For users of the `authorization` block without permissions of their own.
    pub default_permissions: Option<PermissionsInput>,
    /// Who a client is that gives no credentials.
    pub no_auth_user: Option<String>,
    /// The file has an `authorization` block, even an empty one.
    pub authorization_block: bool,
    /// `tls.verify_and_map`: the client's certificate names the user.
    pub verify_and_map: bool,
    pub accounts: Vec<AccountInput>,
    pub system_account: Option<String>,
    pub no_system_account: bool,
    /// Subject mappings of `$G`.
    pub mappings: Vec<MappingInput>,
    /// Which cluster-scoped mapping destinations apply here.
    pub cluster_name: Option<String>,
    /// Connections must come through a trusted proxy, which Midge does not have yet: all are refused.
    pub proxy_required: bool,
}

/// A user with a name and a password, plain or bcrypt.
#[derive(Clone, Debug, Default)]
pub struct UserInput {
    pub name: String,
    /// Absent is the same as empty.
    pub password: Option<Secret>,
    pub permissions: Option<PermissionsInput>,
    /// Names such as `STANDARD`; empty = all.
    pub connection_types: Vec<String>,
    pub proxy_required: bool,
}

/// A user with a public nkey.
#[derive(Clone, Debug, Default)]
pub struct NkeyUserInput {
    /// Public user key, `U...`, 56 characters.
    pub nkey: String,
    pub permissions: Option<PermissionsInput>,
    /// Names such as `STANDARD`; empty = all.
    pub connection_types: Vec<String>,
    pub proxy_required: bool,
}

/// One entry of `accounts`.
#[derive(Clone, Debug, Default)]
pub struct AccountInput {
    pub name: String,
    pub users: Vec<UserInput>,
    pub nkey_users: Vec<NkeyUserInput>,
    /// For users of this account without permissions of their own.
    pub default_permissions: Option<PermissionsInput>,
    pub limits: AccountLimits,
    pub mappings: Vec<MappingInput>,
}

/// Limits of one account over all its connections; None = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountLimits {
    pub connections_max: Option<u64>,
    /// Over all connections of the account.
    pub subscriptions_max: Option<u64>,
    pub payload_bytes_max: Option<u64>,
    pub leafnodes_max: Option<u64>,
}

/// `permissions`: what may be published and subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionsInput {
    pub publish: SubjectsInput,
    /// Entries may carry a queue: `"subject queue"`.
    pub subscribe: SubjectsInput,
    pub responses: Option<ResponsesInput>,
}

/// Allow and deny lists. An empty allow list is no allow list: everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectsInput {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

/// `allow_responses`: publishing to the reply subjects of delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsesInput {
    /// Answers per delivered message; None = unlimited.
    pub max: Option<u32>,
    /// Counted from delivery; None = forever.
    pub expires: Option<Duration>,
}

impl Default for ResponsesInput {
    fn default() -> Self {
        Self { max: Some(1), expires: Some(Duration::from_secs(120)) }
    }
}

/// One subject mapping of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingInput {
    pub source: String,
    pub destinations: Vec<DestinationInput>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationInput {
    pub subject: String,
    /// Percent, 0 to 100.
    pub weight: u8,
    /// Only on servers of this cluster.
    pub cluster: Option<String>,
}
