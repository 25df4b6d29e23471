//! Compiles plain options to an `Authenticator`; finds everything that can be wrong with them.

use std::collections::HashSet;

use super::*;
use crate::auth::account::{GLOBAL_ACCOUNT_NAME, SYSTEM_ACCOUNT_NAME};
use crate::auth::imports::{self, ImportErrors};
use crate::auth::mapping::{MappingError, Mappings};
use crate::auth::permissions::PermissionsError;
use crate::config::auth_options::{
    AccountLimitOptions, AccountOptions, AuthOptions, MappingDestinationOptions, MappingOptions,
    NkeyUserOptions, PermissionOptions, Place, UserOptions,
};
use crate::config::websocket_options::WebSocketOptions;

/// Settings outside of the authentication options that matter to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// `tls.verify_and_map`: the client's certificate names its user.
    pub verify_and_map: bool,
    /// Decides which cluster-scoped mapping destinations apply.
    pub cluster_name: Option<&'a str>,
    /// The options of the listener for WebSocket clients; None = there is none.
    pub websocket: Option<&'a WebSocketOptions>,
    /// JetStream's domain: requests to it are mapped in each account that has JetStream.
    pub domain: Option<&'a str>,
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthError {
    UnknownAccount(String),
    DuplicateAccount(String),
    UnknownSystemAccount(String),
    DuplicateUser(String),
    EmptyUserName,
    DuplicateNkey(String),
    BadNkey(String),
    /// `no_auth_user` is given but there are no users.
    NoAuthUserWithoutUsers(String),
    UnknownNoAuthUser(String),
    ConnectionType(String),
    /// Flags name a single user, and the file's accounts have users.
    SingleUserAndAccounts,
    /// Flags name a token, and the file's accounts have users.
    TokenAndAccounts,
    /// The name of a user, or an nkey.
    Permissions(String, PermissionsError),
    Mapping(MappingError),
    Imports(ImportErrors),
    /// Of operator mode, in nats-server's words.
    Operator(String),
}

impl fmt::Display for AuthError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAccount(name) => write!(formatter, "account missing: {name:?}"),
            Self::DuplicateAccount(name) => write!(formatter, "duplicate account {name:?}"),
            Self::UnknownSystemAccount(name) => {
                write!(formatter, "error resolving system account: account missing: {name:?}")
            }
            Self::DuplicateUser(name) => write!(formatter, "Duplicate user {name:?} detected"),
            Self::EmptyUserName => formatter.write_str("User entry requires a user"),
            Self::DuplicateNkey(nkey) => write!(formatter, "Duplicate nkey {nkey:?} detected"),
            Self::BadNkey(nkey) => {
                write!(formatter, "Not a valid public nkey for a user: {nkey:?}")
            }
            Self::NoAuthUserWithoutUsers(name) => write!(
                formatter,
                "no_auth_user: \"{name}\" present, but users/nkeys are not defined"
            ),
            Self::UnknownNoAuthUser(name) => write!(
                formatter,
                "no_auth_user: \"{name}\" not present as user or nkey in authorization block or \
                 account configuration"
            ),
            Self::ConnectionType(name) => write!(formatter, "invalid connection types [{name:?}]"),
            Self::SingleUserAndAccounts => {
                formatter.write_str("Can not have a single user/pass and accounts")
            }
            Self::TokenAndAccounts => formatter.write_str("Can not have a token and accounts"),
            Self::Permissions(user, error) => {
                write!(formatter, "invalid permissions for user {user:?}: {error}")
            }
            Self::Mapping(error) => error.fmt(formatter),
            Self::Imports(errors) => errors.fmt(formatter),
            Self::Operator(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for AuthError {}

impl From<MappingError> for AuthError {
    fn from(error: MappingError) -> Self {
        Self::Mapping(error)
    }
}

impl ConnectionTypes {
    fn compile(names: Option<&[String]>) -> Result<Self, AuthError> {
        let mut bits = 0;
        for name in names.unwrap_or_default() {
            let connection_type = ConnectionType::parse(name)
                .ok_or_else(|| AuthError::ConnectionType(name.clone()))?;
            bits |= 1 << connection_type as u8;
        }
        Ok(Self { bits })
    }
}

impl Authenticator {
    /// Compiles the options.
    ///
    /// # Errors
    /// If the options are wrong; the text says what an operator has to change.
    pub fn build(options: &AuthOptions, surroundings: Surroundings<'_>) -> Result<Self, AuthError> {
        let trust = Trust::build(options).map_err(AuthError::Operator)?;
        let accounts = build_accounts(options, trust.as_deref(), surroundings)?;
        let has_system_account = accounts.system().is_some();
        let imports =
            imports::compile(&options.accounts, &options.accounts_place, has_system_account)
                .map_err(AuthError::Imports)?;
        let mut users = UserTables::default();
        for user in &options.users {
            users.add(user, find_account(&accounts, user.account.as_deref())?)?;
        }
        for user in &options.nkeys {
            users.add_nkey(user, find_account(&accounts, user.account.as_deref())?)?;
        }
        let global = accounts.global().clone();
        let single = |name: &str, stored: &Secret| User {
            name: name.into(),
            stored: stored.clone(),
            account: global.clone(),
            permissions: Arc::new(Permissions::unrestricted(global.is_system)),
            connection_types: ConnectionTypes { bits: 0 },
        };
        let no_secret = Secret::new("");
        let single_user = options
            .user
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(|name| single(name, options.password.as_ref().unwrap_or(&no_secret)));
        let token = options
            .token
            .as_ref()
            .filter(|token| !token.expose().is_empty())
            .map(|token| single("", token));
        let has_users = !users.users.is_empty() || !users.nkey_users.is_empty();
        // Users of the `authorization` block go together with a user or token that flags name: the
        // reader refuses them only where one file has both.
        let accounts_have_users = options.users.iter().any(|user| user.account.is_some())
            || options.nkeys.iter().any(|user| user.account.is_some());
        if single_user.is_some() && accounts_have_users {
            return Err(AuthError::SingleUserAndAccounts);
        }
        if token.is_some() && accounts_have_users {
            return Err(AuthError::TokenAndAccounts);
        }
        let stands_in = |name: &str| match (users.by_name.get(name), users.nkey_users.get(name)) {
            _ if !has_users => Err(AuthError::NoAuthUserWithoutUsers(name.to_owned())),
            (Some(&index), _) => Ok(NoAuthUser::User(index)),
            (None, Some(_)) => Ok(NoAuthUser::Nkey(name.into())),
            (None, None) => Err(AuthError::UnknownNoAuthUser(name.to_owned())),
        };
        let no_auth_user = match options.no_auth_user.as_deref().filter(|name| !name.is_empty()) {
            None => implies_no_auth_user(options).then_some(NoAuthUser::Implied),
            Some(name) => Some(stands_in(name)?),
        };
        let websocket_maps = surroundings
            .websocket
            .and_then(|own| own.tls.as_ref())
            .is_some_and(|tls| tls.verify_and_map);
        let certificates = (surroundings.verify_and_map || websocket_maps).then(|| {
            let mut certificates = CertificateMap::default();
            for (index, user) in users.users.iter().enumerate() {
                certificates.insert(index, &user.name);
            }
            certificates
        });
        let required = trust.is_some()
            || has_users
            || token.is_some()
            || single_user.is_some()
            || matches!(no_auth_user, Some(NoAuthUser::Implied));
        let front = Door {
            required,
            token,
            single_user,
            no_auth_user,
            maps_certificates: surroundings.verify_and_map,
        };
        let websocket = match surroundings.websocket {
            None => None,
            // Source: nats-server server/auth.go processClientOrLeafAuthentication.
            Some(own) if own.overrides_auth() => Some(Door {
                required: true,
                token: own.token.as_ref().map(|token| single("", token)),
                single_user: own
                    .user
                    .as_deref()
                    .map(|name| single(name, own.password.as_ref().unwrap_or(&no_secret))),
                no_auth_user: own.no_auth_user.as_deref().map(stands_in).transpose()?,
                maps_certificates: websocket_maps,
            }),
            Some(_) => Some(Door {
                required: front.required,
                token: front.token.clone(),
                single_user: front.single_user.clone(),
                no_auth_user: front.no_auth_user.clone(),
                maps_certificates: websocket_maps,
            }),
        };
        let singles = [Some(&front), websocket.as_ref()].into_iter().flatten();
        let singles = singles.filter_map(|door| door.single_user.as_ref());
        let stored = users.users.iter().chain(singles).map(|user| &user.stored);
        let decoy = stored
            .filter(|stored| password::is_bcrypt(stored.expose()))
            .max_by_key(|stored| password::cost_of(stored.expose()).to_owned())
            .and_then(|stored| password::decoy_of(stored.expose()));
        Ok(Self {
            trust,
            front,
            websocket,
            users: users.users,
            user_by_name: users.by_name,
            nkey_users: users.nkey_users,
            certificates,
            decoy,
            open_permissions: Arc::new(Permissions::unrestricted(global.is_system)),
            accounts,
            imports,
        })
    }
}

/// Returns true if the file only adds a system account to an otherwise open server: then clients
/// without credentials still get `$G`. An `authorization` block, even an empty one, rules that out.
fn implies_no_auth_user(options: &AuthOptions) -> bool {
    // `$G` is listed only where it has mappings.
    let mut others = options.accounts.iter().filter(|account| account.name != GLOBAL_ACCOUNT_NAME);
    let (Some(only), None) = (others.next(), others.next()) else { return false };
    let names_system = options.system_account.as_ref().is_some_and(|name| !name.is_empty())
        || only.name == SYSTEM_ACCOUNT_NAME;
    names_system && !options.block_present
}

#[derive(Default)]
struct UserTables {
    users: Vec<User>,
    by_name: HashMap<Arc<str>, usize>,
    nkey_users: HashMap<Arc<str>, (UserKey, User)>,
}

impl UserTables {
    fn add(&mut self, options: &UserOptions, account: &Arc<Account>) -> Result<(), AuthError> {
        if options.user.is_empty() {
            return Err(AuthError::EmptyUserName);
        }
        let user = User {
            name: options.user.as_str().into(),
            stored: options.password.clone().unwrap_or_else(|| Secret::new("")),
            account: account.clone(),
            permissions: compile(&options.user, options.permissions.as_ref(), account)?,
            connection_types: ConnectionTypes::compile(options.connection_types.as_deref())?,
        };
        if self.by_name.insert(user.name.clone(), self.users.len()).is_some() {
            return Err(AuthError::DuplicateUser(options.user.clone()));
        }
        self.users.push(user);
        Ok(())
    }

    fn add_nkey(
        &mut self,
        options: &NkeyUserOptions,
        account: &Arc<Account>,
    ) -> Result<(), AuthError> {
        let key =
            UserKey::parse(&options.nkey).map_err(|_| AuthError::BadNkey(options.nkey.clone()))?;
        let user = User {
            name: options.nkey.as_str().into(),
            stored: Secret::new(""),
            account: account.clone(),
            permissions: compile(&options.nkey, options.permissions.as_ref(), account)?,
            connection_types: ConnectionTypes::compile(options.connection_types.as_deref())?,
        };
        if self.nkey_users.insert(user.name.clone(), (key, user)).is_some() {
            return Err(AuthError::DuplicateNkey(options.nkey.clone()));
        }
        Ok(())
    }
}

fn compile(
    user_name: &str,
    options: Option<&PermissionOptions>,
    account: &Account,
) -> Result<Arc<Permissions>, AuthError> {
    let permissions = match options {
        Some(options) => Permissions::compile(options, account.is_system)
            .map_err(|error| AuthError::Permissions(user_name.to_owned(), error))?,
        None => Permissions::unrestricted(account.is_system),
    };
    Ok(Arc::new(permissions))
}

fn find_account<'a>(
    accounts: &'a AccountSet,
    name: Option<&str>,
) -> Result<&'a Arc<Account>, AuthError> {
    match name {
        None => Ok(accounts.global()),
        Some(name) => accounts.get(name).ok_or_else(|| AuthError::UnknownAccount(name.to_owned())),
    }
}

/// The mappings by which an account's clients reach JetStream under the name of its domain. Source:
/// nats-server server/jetstream.go generateJSMappingTable.
fn domain_mappings(domain: &str) -> impl Iterator<Item = MappingOptions> {
    const API: [&str; 7] =
        ["INFO", "STREAM.>", "CONSUMER.>", "DIRECT.>", "META.>", "SERVER.>", "ACCOUNT.>"];
    const STORES: [&str; 2] = ["$KV.>", "$OBJ.>"];
    let api = API.map(|rest| (rest, format!("$JS.API.{rest}")));
    let stores = STORES.map(|subject| (subject, subject.to_owned()));
    let domain = domain.to_owned();
    api.into_iter().chain(stores).map(move |(rest, subject)| MappingOptions {
        source: format!("$JS.{domain}.API.{rest}"),
        destinations: vec![MappingDestinationOptions { subject, weight: 100, cluster: None }],
        is_plain: true,
        place: Place::default(),
    })
}

fn build_accounts(
    options: &AuthOptions,
    trust: Option<&Trust>,
    surroundings: Surroundings<'_>,
) -> Result<AccountSet, AuthError> {
    let Surroundings { cluster_name, domain, .. } = surroundings;
    let system_name = match &options.system_account {
        _ if options.no_system_account => None,
        // It comes from the resolver, if there is one.
        _ if trust
            .is_some_and(|trust| trust.system_account.is_some() || !trust.operators.is_empty()) =>
        {
            None
        }
        Some(name) if !name.is_empty() => Some(name.as_str()),
        _ => Some(SYSTEM_ACCOUNT_NAME),
    };
    let compile = |options: &AccountOptions| {
        let AccountOptions { name, limits, mappings, jetstream, trace, .. } = options;
        let mut mappings = mappings.clone();
        if let (Some(domain), Some(_)) = (domain, jetstream) {
            mappings.extend(domain_mappings(domain));
        }
        Ok::<_, AuthError>(Arc::new(Account {
            name: name.as_str().into(),
            is_system: system_name == Some(name.as_str()),
            limits: limits.clone(),
            mappings: Mappings::compile(&mappings, name, cluster_name)?,
            jetstream: jetstream.clone(),
            jwt: None,
            trace: trace.clone(),
        }))
    };
    let global = options.accounts.iter().find(|account| account.name == GLOBAL_ACCOUNT_NAME);
    let mut global = global.cloned().unwrap_or_default();
    global.name = GLOBAL_ACCOUNT_NAME.into();
    global.limits = AccountLimitOptions::default();
    // Where no account but the system's is defined, JetStream is for everybody.
    let is_special = |name: &str| {
        name == GLOBAL_ACCOUNT_NAME || system_name.is_some_and(|system| system == name)
    };
    if options.accounts.iter().all(|account| is_special(&account.name)) {
        global.jetstream.get_or_insert_default();
    }
    let mut accounts = vec![compile(&global)?];
    let mut names = HashSet::new();
    for account in &options.accounts {
        if account.name == GLOBAL_ACCOUNT_NAME {
            continue;
        }
        if !names.insert(account.name.as_str()) {
            return Err(AuthError::DuplicateAccount(account.name.clone()));
        }
        accounts.push(compile(account)?);
    }
    if let Some(name) = system_name
        && !accounts.iter().any(|account| account.is_system)
    {
        if name != SYSTEM_ACCOUNT_NAME {
            return Err(AuthError::UnknownSystemAccount(name.to_owned()));
        }
        let system = AccountOptions { name: name.to_owned(), ..AccountOptions::default() };
        accounts.push(compile(&system)?);
    }
    Ok(AccountSet::new(accounts))
}
