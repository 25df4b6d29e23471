//! Rows: who may log in, and TLS.

use super::*;
use crate::config::tls_options::{TlsOptions, Verify};
use crate::config::{read_accounts, read_auth, read_operator, read_tls};
use Kind::{Part, Structure, Text, Toggle};

pub(super) static AUTHENTICATION: &[Row] = &[
    entry_row!(
        "authorization",
        Structure { shape: "block", read: read_auth::read_authorization },
        "Who may log in. Its options follow."
    ),
    hidden_row!(
        "authorization.user",
        "Username",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                options.auth.user = text_or_none(text);
            })
        },
        "",
        Live,
        |options| options.auth.user.clone(),
        "Name of the one user; `password` belongs to it."
    )
    .aliases(&["username"])
    .flag(&["user"], "<user>")
    .flag_help("Name that clients must log in with, together with --pass."),
    hidden_row!(
        "authorization.password",
        "Password",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                options.auth.password =
                    text_or_none(text).map(crate::config::auth_options::Secret::new);
            })
        },
        "",
        Live,
        |options| options.auth.password.clone(),
        "Its password, or a bcrypt hash of it."
    )
    .aliases(&["pass"])
    .flag(&["pass"], "<password>")
    .flag_help("Password of that user, or a bcrypt hash of it."),
    hidden_row!(
        "authorization.token",
        "Authorization",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                options.auth.token =
                    text_or_none(text).map(crate::config::auth_options::Secret::new);
            })
        },
        "",
        Live,
        |options| options.auth.token.clone(),
        "A token every client must show, or a bcrypt hash of it."
    )
    .flag(&["auth"], "<token>"),
    hidden_row!(
        "authorization.timeout",
        "AuthTimeout",
        Part { shape: "seconds or duration", flag: PartFlag::None },
        "2s",
        Live,
        |options| options.auth_timeout(),
        "Time a client has to log in; with TLS, the TLS timeout and one second."
    ),
    hidden_row!(
        "authorization.users",
        "Users",
        Part { shape: "list of users", flag: PartFlag::None },
        "",
        Live,
        |options| options.auth.users.clone(),
        "Users with `user`, `password`, `permissions`, `allowed_connection_types`; or `nkey` in place of user and password."
    ),
    hidden_row!(
        "authorization.default_permissions",
        "Users",
        Part { shape: "block", flag: PartFlag::None },
        "",
        Live,
        |options| options.auth.default_permissions.clone(),
        "`publish`, `subscribe` and `allow_responses` of users without permissions of their own."
    )
    .aliases(&["default_permission", "permissions"]),
    hidden_row!(
        "authorization.nkeys",
        "Nkeys",
        Part { shape: "", flag: PartFlag::None },
        "",
        Live,
        |options| options.auth.nkeys.clone(),
        ""
    ),
    row!(
        "no_auth_user",
        "NoAuthUser",
        Text(|options, text| {
            options.auth.no_auth_user = text_or_none(text);
            Ok(())
        }),
        "",
        Restart,
        auth.no_auth_user,
        "The user that a client without credentials becomes."
    ),
    hidden_row!(
        "accounts",
        "Accounts",
        Structure { shape: "block", read: read_accounts::read_accounts },
        "",
        Live,
        |options| options.auth.accounts.clone(),
        "Isolated subject spaces by name: `users`, `mappings`, `limits`, `default_permissions`, `nkey`, `exports`, `imports`, `msg_trace`."
    ),
    entry_row!(
        "mappings",
        Structure { shape: "block", read: read_accounts::read_global_mappings },
        "Subject mappings of the default account."
    )
    .aliases(&["maps"]),
    row!(
        "system_account",
        "SystemAccount",
        Structure { shape: "text", read: read_system_account },
        "$SYS",
        Restart,
        auth.system_account,
        "The account that sees the server's own subjects."
    )
    .aliases(&["system"]),
    row!(
        "no_system_account",
        "NoSystemAccount",
        Toggle(|options, on| options.auth.no_system_account = on),
        "false",
        Restart,
        auth.no_system_account,
        "Have no system account."
    )
    .aliases(&["no_system", "no_sys_acc"]),
    hidden_row!(
        "operator",
        "TrustedOperators",
        Structure { shape: "text or list of text", read: read_operator::read_operators },
        "",
        Restart,
        |options| options.auth.operator.operators.clone(),
        "Operators whose accounts are let in by JWT: files with the operators' JWTs, or these themselves."
    )
    .aliases(&["operators", "roots", "root", "root_operators", "root_operator"]),
    hidden_row!(
        "trusted_keys",
        "TrustedKeys",
        Structure { shape: "text or list of text", read: read_operator::read_trusted_keys },
        "",
        Restart,
        |options| options.auth.operator.trusted_keys.clone(),
        "Public keys of operators, in place of their JWTs."
    )
    .aliases(&["trusted"]),
    hidden_row!(
        "resolver",
        "AccountResolver",
        Structure { shape: "text or block", read: read_operator::read_resolver },
        "",
        Restart,
        |options| options.auth.operator.resolver.clone(),
        "Where the JWTs of accounts are found: `MEMORY`, or a directory with `type` (`full` or `cache`), `dir`, `limit`, `ttl`, `allow_delete`, `hard_delete`."
    )
    .aliases(&["account_resolver", "accounts_resolver"]),
    entry_row!(
        "resolver_tls",
        Structure { shape: "block", read: read_operator::read_resolver_tls },
        "TLS of a resolver that is a web server."
    ),
    hidden_row!(
        "resolver_preload",
        "ResolverPreloads",
        Structure { shape: "block", read: read_operator::read_preloads },
        "",
        Live,
        |options| options.auth.operator.preloads.clone(),
        "JWTs of accounts, each under the account's key."
    ),
    hidden_row!(
        "resolver_pinned_accounts",
        "ResolverPinnedAccounts",
        Structure { shape: "list of text", read: read_operator::read_pinned_accounts },
        "",
        Live,
        |options| options.auth.operator.pinned_accounts.clone(),
        "Keys of the accounts whose users may log in; all, if there are none."
    ),
    hidden_row!(
        "default_sentinel",
        "DefaultSentinel",
        Structure { shape: "text", read: read_operator::read_default_sentinel },
        "",
        Live,
        |options| options.auth.operator.default_sentinel.clone(),
        "JWT of the user that a client without a JWT becomes."
    ),
];

pub(super) static TLS: &[Row] = &[
    hidden_row!(
        "tls",
        "TLSConfig",
        Structure { shape: "block", read: read_tls::read_tls },
        "",
        Reconnect,
        |options| options.tls.clone(),
        "Encrypt client connections. Its options follow."
    )
    .flag(&["tls"], "")
    .flag_help("Encrypt client connections; needs a certificate and its key."),
    entry_row!(
        "tls.cert_file",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                read_tls::set_certificate_file(tls(options), text);
            })
        },
        "The server's certificate chain, PEM."
    )
    .flag(&["tlscert"], "<file>"),
    entry_row!(
        "tls.key_file",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                read_tls::set_key_file(tls(options), text);
            })
        },
        "The certificate's private key, PEM."
    )
    .flag(&["tlskey"], "<file>"),
    entry_row!(
        "tls.ca_file",
        Part {
            shape: "text",
            flag: PartFlag::Text(|options, text| {
                tls(options).certificate_authorities_file = path_or_none(text);
            })
        },
        "Authorities that client certificates must be signed by, PEM."
    )
    .flag(&["tlscacert"], "<file>"),
    entry_row!(
        "tls.verify",
        Part {
            shape: "true, false or optional",
            flag: PartFlag::ToggleOr { word: read_tls::OPTIONAL, set: set_verify }
        },
        "Clients must present a certificate; `optional`: what they present must be good."
    )
    .flag(&["tlsverify"], "")
    .flag_help("Clients must present a certificate."),
    entry_row!(
        "tls.verify_and_map",
        Part { shape: "true or false", flag: PartFlag::None },
        "Clients must present a certificate, which names their user."
    ),
    entry_row!(
        "tls.timeout",
        Part { shape: "seconds or duration", flag: PartFlag::None },
        "Time a handshake may take."
    )
    .default("2s"),
    entry_row!(
        "tls.cipher_suites",
        Part { shape: "list of names", flag: PartFlag::None },
        "Cipher suites to accept."
    ),
    entry_row!(
        "tls.allow_insecure_cipher_suites",
        Part { shape: "true or false", flag: PartFlag::None },
        "Without effect but on the words of the refusal: suites known to be weak are not supported."
    ),
    entry_row!(
        "tls.curve_preferences",
        Part { shape: "list of names", flag: PartFlag::None },
        "Key exchange groups, the preferred first."
    ),
    entry_row!(
        "tls.min_version",
        Part { shape: "\"1.2\" or \"1.3\"", flag: PartFlag::None },
        "The oldest TLS version to accept."
    ),
    entry_row!(
        "tls.pinned_certs",
        Part { shape: "list of text", flag: PartFlag::None },
        "Hex SHA-256 of the public keys of clients to let in."
    ),
    entry_row!(
        "tls.handshake_first",
        Part { shape: "true, false, auto or duration", flag: PartFlag::None },
        "Begin with the handshake, INFO follows encrypted; `auto` waits 50 ms for it."
    )
    .aliases(&["first", "immediate"]),
    entry_row!(
        "tls.connection_rate_limit",
        Part { shape: "number", flag: PartFlag::None },
        "Handshakes begun per second; 0 for no limit."
    ),
    entry_row!(
        "tls.certs",
        Part { shape: "list of blocks", flag: PartFlag::None },
        "Several certificates, each with `cert_file` and `key_file`, chosen by server name."
    )
    .aliases(&["certificates"]),
    entry_row!(
        "tls.insecure",
        Part { shape: "true or false", flag: PartFlag::None },
        "Where this server is the client: accept any certificate."
    ),
    row!(
        "allow_non_tls",
        "AllowNonTLS",
        Toggle(|options, on| options.allow_non_tls = on),
        "false",
        Restart,
        allow_non_tls,
        "With TLS configured: clients may stay plain."
    ),
];

fn read_system_account(reader: &mut Reader<'_>, value: &Value) {
    match value.as_text() {
        Some(name) => reader.options.auth.system_account = text_or_none(&name),
        None => reader.error(value, "system account name must be a string"),
    }
}

fn set_verify(options: &mut Options, on: Option<bool>) -> Result<(), String> {
    let tls = tls(options);
    tls.verify = match on {
        Some(true) => Verify::Required,
        Some(false) => Verify::Never,
        None if tls.verify_and_map => {
            return Err("the configuration file has 'verify_and_map', which requires client \
                        certificates"
                .into());
        }
        None => Verify::Optional,
    };
    Ok(())
}

fn tls(options: &mut Options) -> &mut TlsOptions {
    options.tls.get_or_insert_default()
}
