//! From plain input to an `Authenticator`, and everything that can be wrong with the input.

use super::*;
use crate::auth::account::{GLOBAL_ACCOUNT_NAME, SYSTEM_ACCOUNT_NAME};
use crate::auth::input::{
    AccountInput, AccountLimits, AuthInput, MappingInput, NkeyUserInput, PermissionsInput,
    UserInput,
};
use crate::auth::mapping::{MappingError, Mappings};
use crate::auth::permissions::PermissionsError;

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    ReservedAccount(String),
    DuplicateAccount(String),
    UnknownSystemAccount(String),
    DuplicateUser(String),
    EmptyUserName,
    DuplicateNkey(String),
    BadNkey(String),
    /// `no_auth_user` where there are no users.
    NoAuthUserWithoutUsers(String),
    UnknownNoAuthUser(String),
    ConnectionType(String),
    SingleUserAndToken,
    SingleUserAndUsers,
    TokenAndUsers,
    /// Of a user or nkey.
    Permissions(String, PermissionsError),
    Mapping(MappingError),
}

impl fmt::Display for AuthError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedAccount(name) => write!(formatter, "{name:?} is a Reserved Account"),
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
            Self::SingleUserAndToken => formatter.write_str("Cannot have a user/pass and token"),
            Self::SingleUserAndUsers => {
                formatter.write_str("Can not have a single user/pass and a users array")
            }
            Self::TokenAndUsers => formatter.write_str("Can not have a token and a users array"),
            Self::Permissions(user, error) => {
                write!(formatter, "invalid permissions for user {user:?}: {error}")
            }
            Self::Mapping(error) => error.fmt(formatter),
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
    fn compile(names: &[String]) -> Result<Self, AuthError> {
        let mut bits = 0;
        for name in names {
            let connection_type = match &*name.to_ascii_uppercase() {
                "STANDARD" => ConnectionType::Standard,
                "WEBSOCKET" => ConnectionType::Websocket,
                "LEAFNODE" => ConnectionType::Leafnode,
                "LEAFNODE_WS" => ConnectionType::LeafnodeWebsocket,
                "MQTT" => ConnectionType::Mqtt,
                "MQTT_WS" => ConnectionType::MqttWebsocket,
                "IN_PROCESS" => ConnectionType::InProcess,
                _ => return Err(AuthError::ConnectionType(name.clone())),
            };
            bits |= 1 << connection_type as u8;
        }
        Ok(Self { bits })
    }
}

impl Authenticator {
    /// # Errors
    /// What an operator has to change.
    pub fn build(input: &AuthInput) -> Result<Self, AuthError> {
        let accounts = build_accounts(input)?;
        let mut users = UserTables::default();
        let global = accounts.global().clone();
        users.add(
            &input.users,
            &input.nkey_users,
            input.default_permissions.as_ref(),
            &global,
            input.proxy_required,
        )?;
        for account in &input.accounts {
            let compiled = accounts.get(&account.name).expect("every account was compiled above");
            users.add(
                &account.users,
                &account.nkey_users,
                account.default_permissions.as_ref(),
                compiled,
                input.proxy_required,
            )?;
        }
        let single = |name: &str, stored: &Secret| User {
            name: name.into(),
            stored: stored.clone(),
            account: global.clone(),
            permissions: Arc::new(Permissions::unrestricted(global.is_system)),
            connection_types: ConnectionTypes { bits: 0 },
            proxy_required: input.proxy_required,
        };
        let no_secret = Secret::default();
        let single_user = input
            .user
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(|name| single(name, input.password.as_ref().unwrap_or(&no_secret)));
        let token =
            input.token.as_ref().filter(|token| !token.is_empty()).map(|token| single("", token));
        let has_users = !users.users.is_empty() || !users.nkey_users.is_empty();
        if single_user.is_some() && token.is_some() {
            return Err(AuthError::SingleUserAndToken);
        }
        if single_user.is_some() && has_users {
            return Err(AuthError::SingleUserAndUsers);
        }
        if token.is_some() && has_users {
            return Err(AuthError::TokenAndUsers);
        }
        let no_auth_user = match input.no_auth_user.as_deref().filter(|name| !name.is_empty()) {
            None => implies_no_auth_user(input).then_some(NoAuthUser::Implied),
            Some(name) if !has_users => {
                return Err(AuthError::NoAuthUserWithoutUsers(name.to_owned()));
            }
            Some(name) => Some(match (users.by_name.get(name), users.nkey_users.get(name)) {
                (Some(&index), _) => NoAuthUser::User(index),
                (None, Some(_)) => NoAuthUser::Nkey(name.into()),
                (None, None) => return Err(AuthError::UnknownNoAuthUser(name.to_owned())),
            }),
        };
        let certificates = input.verify_and_map.then(|| {
            let mut certificates = CertificateMap::default();
            for (index, user) in users.users.iter().enumerate() {
                certificates.insert(index, &user.name);
            }
            certificates
        });
        let stored = users.users.iter().chain(&single_user).map(|user| &user.stored);
        let decoy = stored
            .filter(|stored| password::is_bcrypt(stored.expose()))
            .max_by_key(|stored| stored.expose()[4..6].to_owned())
            .and_then(|stored| password::decoy_of(stored.expose()));
        let required = has_users
            || token.is_some()
            || single_user.is_some()
            || matches!(no_auth_user, Some(NoAuthUser::Implied));
        Ok(Self {
            required,
            users: users.users,
            user_by_name: users.by_name,
            nkey_users: users.nkey_users,
            token,
            single_user,
            no_auth_user,
            certificates,
            decoy,
            open_permissions: Arc::new(Permissions::unrestricted(global.is_system)),
            accounts,
        })
    }
}

/// Whether the file only adds a system account to what would otherwise be an open server: then clients
/// without credentials still get `$G`. An `authorization` block, even an empty one, says otherwise.
fn implies_no_auth_user(input: &AuthInput) -> bool {
    let names_system = input.system_account.as_ref().is_some_and(|name| !name.is_empty())
        || input.accounts.iter().any(|account| account.name == SYSTEM_ACCOUNT_NAME);
    names_system && input.accounts.len() == 1 && !input.authorization_block
}

#[derive(Default)]
struct UserTables {
    users: Vec<User>,
    by_name: HashMap<Arc<str>, usize>,
    nkey_users: HashMap<Arc<str>, (UserKey, User)>,
}

impl UserTables {
    fn add(
        &mut self,
        users: &[UserInput],
        nkey_users: &[NkeyUserInput],
        default_permissions: Option<&PermissionsInput>,
        account: &Arc<Account>,
        proxy_required: bool,
    ) -> Result<(), AuthError> {
        let compile = |name: &str, own: Option<&PermissionsInput>| {
            let permissions = match own.or(default_permissions) {
                Some(input) => Permissions::compile(input, account.is_system)
                    .map_err(|error| AuthError::Permissions(name.to_owned(), error))?,
                None => Permissions::unrestricted(account.is_system),
            };
            Ok::<_, AuthError>(Arc::new(permissions))
        };
        for input in users {
            if input.name.is_empty() {
                return Err(AuthError::EmptyUserName);
            }
            let user = User {
                name: input.name.as_str().into(),
                stored: input.password.clone().unwrap_or_default(),
                account: account.clone(),
                permissions: compile(&input.name, input.permissions.as_ref())?,
                connection_types: ConnectionTypes::compile(&input.connection_types)?,
                proxy_required: proxy_required || input.proxy_required,
            };
            if self.by_name.insert(user.name.clone(), self.users.len()).is_some() {
                return Err(AuthError::DuplicateUser(input.name.clone()));
            }
            self.users.push(user);
        }
        for input in nkey_users {
            let key =
                UserKey::parse(&input.nkey).map_err(|_| AuthError::BadNkey(input.nkey.clone()))?;
            let user = User {
                name: input.nkey.as_str().into(),
                stored: Secret::default(),
                account: account.clone(),
                permissions: compile(&input.nkey, input.permissions.as_ref())?,
                connection_types: ConnectionTypes::compile(&input.connection_types)?,
                proxy_required: proxy_required || input.proxy_required,
            };
            if self.nkey_users.insert(user.name.clone(), (key, user)).is_some() {
                return Err(AuthError::DuplicateNkey(input.nkey.clone()));
            }
        }
        Ok(())
    }
}

fn build_accounts(input: &AuthInput) -> Result<AccountSet, AuthError> {
    let cluster_name = input.cluster_name.as_deref();
    let system_name = match &input.system_account {
        _ if input.no_system_account => None,
        Some(name) if !name.is_empty() => Some(name.as_str()),
        _ => Some(SYSTEM_ACCOUNT_NAME),
    };
    let compile = |name: &str, limits: AccountLimits, mappings: &[MappingInput]| {
        Ok::<_, AuthError>(Arc::new(Account {
            name: name.into(),
            is_system: system_name == Some(name),
            limits,
            mappings: Mappings::compile(mappings, cluster_name)?,
        }))
    };
    let mut accounts =
        vec![compile(GLOBAL_ACCOUNT_NAME, AccountLimits::default(), &input.mappings)?];
    for AccountInput { name, limits, mappings, .. } in &input.accounts {
        if name == GLOBAL_ACCOUNT_NAME {
            return Err(AuthError::ReservedAccount(name.clone()));
        }
        if accounts.iter().any(|known| *known.name == **name) {
            return Err(AuthError::DuplicateAccount(name.clone()));
        }
        accounts.push(compile(name, *limits, mappings)?);
    }
    if let Some(name) = system_name
        && !accounts.iter().any(|account| account.is_system)
    {
        if name != SYSTEM_ACCOUNT_NAME {
            return Err(AuthError::UnknownSystemAccount(name.to_owned()));
        }
        accounts.push(compile(name, AccountLimits::default(), &[])?);
    }
    Ok(AccountSet::new(accounts))
}
