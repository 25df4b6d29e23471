//! Decisions as nats-server takes them, and attacks on them.

use super::*;
use crate::auth::certificate::Attribute;
use crate::config::auth_options::*;
use nkeys::KeyPair;

const NONCE: &[u8] = b"the-nonce-of-15";

/// A configuration in the structure of a file: top-level users, and accounts with users of their
/// own.
#[derive(Clone, Debug, Default)]
struct AuthInput {
    user: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    users: Vec<UserOptions>,
    nkey_users: Vec<NkeyUserOptions>,
    no_auth_user: Option<String>,
    authorization_block: bool,
    verify_and_map: bool,
    accounts: Vec<(AccountOptions, Vec<UserOptions>)>,
    system_account: Option<String>,
    no_system_account: bool,
    cluster_name: Option<String>,
}

impl AuthInput {
    fn build(&self) -> Result<Authenticator, AuthError> {
        let mut users = self.users.clone();
        for (account, own) in &self.accounts {
            let in_account = |user: &UserOptions| UserOptions {
                account: Some(account.name.clone()),
                ..user.clone()
            };
            users.extend(own.iter().map(in_account));
        }
        let options = AuthOptions {
            user: self.user.clone(),
            password: self.password.clone(),
            token: self.token.clone(),
            users,
            nkeys: self.nkey_users.clone(),
            no_auth_user: self.no_auth_user.clone(),
            accounts: self.accounts.iter().map(|(account, _)| account.clone()).collect(),
            system_account: self.system_account.clone(),
            no_system_account: self.no_system_account,
            block_present: self.authorization_block,
            ..AuthOptions::default()
        };
        let surroundings = Surroundings {
            websocket: None,
            verify_and_map: self.verify_and_map,
            cluster_name: self.cluster_name.as_deref(),
            domain: None,
        };
        Authenticator::build(&options, surroundings)
    }
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

fn user(name: &str, password: &str) -> UserOptions {
    UserOptions { user: name.into(), password: secret(password), ..UserOptions::default() }
}

fn nkey_user(nkey: &str) -> NkeyUserOptions {
    NkeyUserOptions { nkey: nkey.into(), ..NkeyUserOptions::default() }
}

fn account(name: &str, users: Vec<UserOptions>) -> (AccountOptions, Vec<UserOptions>) {
    (AccountOptions { name: name.into(), ..AccountOptions::default() }, users)
}

fn may_publish_only(subject: &str) -> Option<PermissionOptions> {
    let allow = Some(vec![subject.to_owned()]);
    let publish = Some(SubjectPermissionOptions { allow, deny: None });
    Some(PermissionOptions { publish, ..PermissionOptions::default() })
}

fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).expect("cost 4 is allowed")
}

fn build(input: &AuthInput) -> Authenticator {
    input.build().expect("test configurations are valid")
}

fn facts<'a>() -> ConnectionFacts<'a> {
    ConnectionFacts {
        nonce: NONCE,
        certificate: None,
        connection_type: ConnectionType::Standard,
        address: None,
        now: 0,
        account_lookup: None,
    }
}

/// Runs the password job too, as the offload thread would.
fn finish(decision: Decision) -> Result<Identity, Refusal> {
    match decision {
        Decision::NeedsAccount(_) => Err(Refusal::NoCredentials),
        Decision::Accepted(identity) => Ok(identity),
        Decision::NeedsPasswordCheck(job, pending) => pending.resume(job.run()),
        Decision::Refused(refusal) => Err(refusal),
    }
}

fn decide(
    authenticator: &Authenticator,
    credentials: &Credentials<'_>,
) -> Result<Identity, Refusal> {
    finish(authenticator.decide(credentials, &facts()))
}

fn by_password<'a>(user: &'a str, password: &'a str) -> Credentials<'a> {
    Credentials { user, password: Given(password), ..Credentials::default() }
}

fn by_token(token: &str) -> Credentials<'_> {
    Credentials { token: Given(token), ..Credentials::default() }
}

/// Returns login, account and name, or the refusal, as one word each.
fn summary(result: &Result<Identity, Refusal>) -> String {
    match result {
        Ok(identity) => {
            format!("{:?} {} {}", identity.login, identity.account.name, identity.user_name)
        }
        Err(refusal) => format!("{refusal:?}"),
    }
}

fn assert_decisions(authenticator: &Authenticator, table: &[(Credentials<'_>, &str)]) {
    for (credentials, expected) in table {
        let result = decide(authenticator, credentials);
        assert_eq!(summary(&result).trim_end(), *expected, "{credentials:?}");
    }
}

#[test]
fn an_open_server_ignores_credentials() {
    let authenticator = build(&AuthInput::default());
    assert!(!authenticator.is_required(ConnectionType::Standard));
    assert!(!authenticator.is_announced(ConnectionType::Standard));
    assert!(!authenticator.needs_nonce());
    assert_decisions(
        &authenticator,
        &[
            (Credentials::default(), "Open $G"),
            (by_password("a", "b"), "Open $G"),
            (by_token("t"), "Open $G"),
        ],
    );
    // So do empty settings, as in nats-server.
    let empty = AuthInput {
        user: Some(String::new()),
        password: secret("x"),
        token: secret(""),
        no_auth_user: Some(String::new()),
        authorization_block: true,
        ..AuthInput::default()
    };
    assert_decisions(&build(&empty), &[(Credentials::default(), "Open $G")]);
}

#[test]
fn naming_an_account_is_refused_whoever_it_is() {
    let open = AuthInput { accounts: vec![account("A", vec![])], ..AuthInput::default() };
    let closed = AuthInput { users: vec![user("a", "x")], ..AuthInput::default() };
    for input in [open, closed] {
        let authenticator = build(&input);
        for (account, new_account) in [("A", false), ("$G", false), ("$SYS", false), ("", true)] {
            let credentials = Credentials { account, new_account, ..by_password("a", "x") };
            assert_eq!(decide(&authenticator, &credentials).err(), Some(Refusal::AccountNamed));
        }
        assert!(decide(&authenticator, &by_password("a", "x")).is_ok());
    }
}

#[test]
fn users_log_in_by_name_and_password_into_their_account() {
    let mut input = AuthInput {
        users: vec![user("plain", "p"), user("hashed", &hash("h")), user("empty", "")],
        accounts: vec![account("A", vec![user("a", "x")]), account("$SYS", vec![user("s", "y")])],
        ..AuthInput::default()
    };
    input.users.push(UserOptions { user: "absent".into(), ..UserOptions::default() });
    let authenticator = build(&input);
    assert!(authenticator.is_required(ConnectionType::Standard));
    assert!(authenticator.is_announced(ConnectionType::Standard));
    assert_decisions(
        &authenticator,
        &[
            (by_password("plain", "p"), "User $G plain"),
            (by_password("plain", "P"), "WrongPassword"),
            (by_password("plain", ""), "WrongPassword"),
            (by_password("hashed", "h"), "User $G hashed"),
            (by_password("hashed", ""), "WrongPassword"),
            (
                by_password("hashed", input.users[1].password.as_ref().expect("has one").expose()),
                "WrongPassword",
            ),
            (by_password("empty", ""), "User $G empty"),
            (by_password("empty", "x"), "WrongPassword"),
            (by_password("absent", ""), "User $G absent"),
            (by_password("a", "x"), "User A a"),
            (by_password("s", "y"), "User $SYS s"),
            (by_password("A", "x"), "UnknownUser"),
            (by_password("nobody", "p"), "UnknownUser"),
            (by_password("", "p"), "NoCredentials"),
            (by_token("p"), "NoCredentials"),
            (Credentials::default(), "NoCredentials"),
            (Credentials { nkey: "UABC", ..Credentials::default() }, "NoCredentials"),
        ],
    );
    let system = decide(&authenticator, &by_password("s", "y")).expect("accepted");
    assert!(system.account.is_system);
    assert!(authenticator.accounts().system().is_some_and(|account| account.is_system));
}

#[test]
fn the_single_user_and_the_token_log_in() {
    for stored in ["b".to_owned(), hash("b")] {
        let single = AuthInput {
            user: Some("a".into()),
            password: Some(Secret::new(stored.clone())),
            ..AuthInput::default()
        };
        assert_decisions(
            &build(&single),
            &[
                (by_password("a", "b"), "SingleUser $G a"),
                (by_password("a", ""), "WrongPassword"),
                (by_password("a", "c"), "WrongPassword"),
                (by_password("x", "b"), "UnknownUser"),
                (by_password("", "b"), "UnknownUser"),
                (by_token("b"), "UnknownUser"),
                (Credentials::default(), "UnknownUser"),
            ],
        );
        let token = AuthInput { token: Some(Secret::new(stored)), ..AuthInput::default() };
        let authenticator = build(&token);
        assert!(decide(&authenticator, &by_token("b")).is_ok());
        for bad in [by_token("c"), by_token(""), by_password("b", "b"), Credentials::default()] {
            assert!(decide(&authenticator, &bad).is_err(), "{bad:?}");
        }
    }
}

#[test]
fn no_auth_user_stands_in_only_for_clients_without_credentials() {
    let input = AuthInput {
        users: vec![user("a", "x"), user("b", "y")],
        no_auth_user: Some("a".into()),
        ..AuthInput::default()
    };
    let authenticator = build(&input);
    assert!(authenticator.is_required(ConnectionType::Standard));
    assert!(!authenticator.is_announced(ConnectionType::Standard));
    assert!(authenticator.has_no_auth_user(ConnectionType::Standard));
    assert_decisions(
        &authenticator,
        &[
            (Credentials::default(), "NoAuthUser $G a"),
            // Without nkey users an nkey is no credential.
            (Credentials { nkey: "UABC", ..Credentials::default() }, "NoAuthUser $G a"),
            (by_password("a", "x"), "User $G a"),
            (by_password("b", "y"), "User $G b"),
            (by_password("a", ""), "WrongPassword"),
            (by_password("", "x"), "NoCredentials"),
            (by_password("c", "x"), "UnknownUser"),
            (by_token("x"), "NoCredentials"),
        ],
    );
    // A hash does not match itself as a password, so this user cannot stand in.
    let hashed = AuthInput {
        users: vec![user("a", &hash("x"))],
        no_auth_user: Some("a".into()),
        ..AuthInput::default()
    };
    assert_decisions(&build(&hashed), &[(Credentials::default(), "WrongPassword")]);
}

#[test]
fn a_file_that_only_adds_system_users_leaves_the_server_open() {
    let input =
        AuthInput { accounts: vec![account("$SYS", vec![user("s", "y")])], ..AuthInput::default() };
    let table = [
        (Credentials::default(), "NoAuthUser $G"),
        (by_password("s", "y"), "User $SYS s"),
        (by_password("x", ""), "UnknownUser"),
        (by_password("", "x"), "NoCredentials"),
    ];
    let authenticator = build(&input);
    assert_decisions(&authenticator, &table);
    assert!(authenticator.is_announced(ConnectionType::Standard));
    let renamed = AuthInput {
        accounts: vec![account("SYS", vec![user("s", "y")])],
        system_account: Some("SYS".into()),
        ..AuthInput::default()
    };
    let sys = decide(&build(&renamed), &Credentials::default()).expect("accepted");
    assert!(sys.account.is_global());
    assert!(!sys.account.is_system);
    // An authorization block, another account, or no system account: nobody is let in silently.
    let block = AuthInput { authorization_block: true, ..input.clone() };
    let mut another = input.clone();
    another.accounts.push(account("A", vec![]));
    let plain =
        AuthInput { accounts: vec![account("A", vec![user("a", "x")])], ..AuthInput::default() };
    for closed in [block, another, plain] {
        let authenticator = build(&closed);
        assert!(!authenticator.has_no_auth_user(ConnectionType::Standard));
        assert_decisions(&authenticator, &[(Credentials::default(), "NoCredentials")]);
    }
    // Nobody can log in under a name of the stand-in.
    for name in ["\0nobody", "nobody", "nats-", "\0"] {
        assert!(decide(&build(&input), &by_password(name, "")).is_err());
    }
}

#[test]
fn nkey_users_prove_themselves_by_signature() {
    let pair = KeyPair::new_user();
    let public = pair.public_key();
    let stranger = KeyPair::new_user();
    let stranger_public = stranger.public_key();
    let sign = |pair: &KeyPair, bytes: &[u8]| {
        data_encoding::BASE64URL_NOPAD.encode(&pair.sign(bytes).expect("the pair has a seed"))
    };
    let (good, other_nonce, foreign) =
        (sign(&pair, NONCE), sign(&pair, b"another"), sign(&stranger, NONCE));
    let input = AuthInput {
        users: vec![user("a", "x")],
        nkey_users: vec![nkey_user(&public)],
        ..AuthInput::default()
    };
    let authenticator = build(&input);
    assert!(authenticator.needs_nonce());
    let with = |nkey, signature| Credentials { nkey, signature, ..Credentials::default() };
    let accepted = format!("Nkey $G {public}");
    assert_decisions(
        &authenticator,
        &[
            (with(&public, &good), &accepted),
            (with(&public, ""), "BadSignature"),
            (with(&public, "short"), "BadSignature"),
            (with(&public, &other_nonce), "BadSignature"),
            (with(&public, &foreign), "BadSignature"),
            (with(&stranger_public, &foreign), "UnknownNkey"),
            (with("U", &good), "UnknownNkey"),
            (with(&public[..55], &good), "UnknownNkey"),
            // An unknown nkey is not tried as a user, and a known nkey comes before the user.
            (Credentials { nkey: "U", ..by_password("a", "x") }, "UnknownNkey"),
            (Credentials { nkey: &public, ..by_password("a", "x") }, "BadSignature"),
            (by_password("a", "x"), "User $G a"),
            (by_password(&public, ""), "UnknownUser"),
            (Credentials::default(), "NoCredentials"),
        ],
    );
    let without_nonce = ConnectionFacts { nonce: b"", ..facts() };
    let decision = authenticator.decide(&with(&public, &sign(&pair, b"")), &without_nonce);
    assert_eq!(finish(decision).err(), Some(Refusal::BadSignature));
}

#[test]
fn an_nkey_can_be_the_no_auth_user() {
    let public = KeyPair::new_user().public_key();
    let input = AuthInput {
        nkey_users: vec![nkey_user(&public)],
        no_auth_user: Some(public.clone()),
        ..AuthInput::default()
    };
    assert_decisions(
        &build(&input),
        &[
            (Credentials::default(), &format!("NoAuthUser $G {public}")),
            (by_password("a", ""), "NoCredentials"),
            // A client that names the nkey has to sign for it.
            (Credentials { nkey: &public, ..Credentials::default() }, "BadSignature"),
        ],
    );
}

#[test]
fn connection_types_are_checked_on_every_way_in() {
    let pair = KeyPair::new_user();
    let public = pair.public_key();
    let signature =
        data_encoding::BASE64URL_NOPAD.encode(&pair.sign(NONCE).expect("the pair has a seed"));
    let types = || Some(vec!["standard".to_owned(), "MQTT".to_owned()]);
    let input = AuthInput {
        users: vec![
            UserOptions { connection_types: types(), ..user("plain", "x") },
            UserOptions { connection_types: types(), ..user("hashed", &hash("x")) },
        ],
        nkey_users: vec![NkeyUserOptions { connection_types: types(), ..nkey_user(&public) }],
        no_auth_user: Some("plain".into()),
        ..AuthInput::default()
    };
    let authenticator = build(&input);
    let certified = CertificateNames { emails: vec!["plain".into()], ..Default::default() };
    let mapped_input = AuthInput { verify_and_map: true, ..input.clone() };
    let mapping = build(&mapped_input);
    for (connection_type, allowed) in [
        (ConnectionType::Standard, true),
        (ConnectionType::Mqtt, true),
        (ConnectionType::Websocket, false),
        (ConnectionType::Leafnode, false),
        (ConnectionType::LeafnodeWebsocket, false),
        (ConnectionType::MqttWebsocket, false),
        (ConnectionType::InProcess, false),
    ] {
        let facts = ConnectionFacts { connection_type, ..facts() };
        for credentials in [
            by_password("plain", "x"),
            by_password("hashed", "x"),
            Credentials { nkey: &public, signature: &signature, ..Credentials::default() },
            Credentials::default(),
        ] {
            let result = finish(authenticator.decide(&credentials, &facts));
            assert_eq!(result.is_ok(), allowed, "{connection_type:?} {credentials:?}");
        }
        let facts = ConnectionFacts { certificate: Some(&certified), ..facts };
        let result = finish(mapping.decide(&by_password("", "x"), &facts));
        assert_eq!(result.is_ok(), allowed, "{connection_type:?} by certificate");
    }
}

#[test]
fn certificates_name_users_and_nothing_else_does() {
    let input = AuthInput {
        users: vec![
            user("joe@acme.com", ""),
            user("CN=joe,O=acme", ""),
            user("locked@acme.com", "pass"),
        ],
        verify_and_map: true,
        no_auth_user: Some("joe@acme.com".into()),
        ..AuthInput::default()
    };
    let authenticator = build(&input);
    let email = |address: &str| CertificateNames {
        emails: vec![address.to_owned()],
        ..CertificateNames::default()
    };
    let attribute =
        |oid: &str, value: &str| vec![Attribute { oid: oid.into(), value: Some(value.into()) }];
    let subject = CertificateNames {
        subject: vec![attribute("2.5.4.10", "acme"), attribute("2.5.4.3", "joe")],
        ..CertificateNames::default()
    };
    for (certificate, credentials, expected) in [
        (Some(email("joe@acme.com")), Credentials::default(), "Certificate $G joe@acme.com"),
        (Some(email("joe@acme.com")), by_password("other", ""), "Certificate $G joe@acme.com"),
        // A password that the user does not have is wrong.
        (Some(email("joe@acme.com")), by_password("", "x"), "CertificatePassword"),
        (Some(email("locked@acme.com")), Credentials::default(), "CertificatePassword"),
        (Some(email("locked@acme.com")), by_password("", "pass"), "Certificate $G locked@acme.com"),
        (Some(subject), Credentials::default(), "Certificate $G CN=joe,O=acme"),
        (Some(email("eve@acme.com")), by_password("joe@acme.com", ""), "UnknownCertificate"),
        (Some(CertificateNames::default()), Credentials::default(), "UnknownCertificate"),
        (None, by_password("joe@acme.com", ""), "NoCertificate"),
        (None, Credentials::default(), "NoCertificate"),
    ] {
        let facts = ConnectionFacts { certificate: certificate.as_ref(), ..facts() };
        let result = finish(authenticator.decide(&credentials, &facts));
        assert_eq!(summary(&result), expected, "{certificate:?} {credentials:?}");
    }
    // Without the option a certificate names nobody.
    let by_name = build(&AuthInput { verify_and_map: false, no_auth_user: None, ..input });
    let certificate = email("locked@acme.com");
    let facts = ConnectionFacts { certificate: Some(&certificate), ..facts() };
    let result = finish(by_name.decide(&Credentials::default(), &facts));
    assert_eq!(result.err(), Some(Refusal::NoCredentials));
}

#[test]
fn a_refused_name_costs_a_comparison_where_somebody_has_a_hash() {
    let input = AuthInput {
        users: vec![
            user("hashed", &hash("h")),
            user("plain", "p"),
            UserOptions { connection_types: Some(vec!["MQTT".into()]), ..user("other way", "p") },
        ],
        ..AuthInput::default()
    };
    let authenticator = build(&input);
    for credentials in [
        by_password("hashed", "wrong"),
        by_password("plain", "wrong"),
        by_password("unknown", "wrong"),
        by_password("other way", "p"),
    ] {
        let decision = authenticator.decide(&credentials, &facts());
        let Decision::NeedsPasswordCheck(job, pending) = decision else {
            panic!("{credentials:?} was refused at once");
        };
        assert!(pending.resume(job.run()).is_err());
        // Even an outcome that cannot occur lets nobody in with a decoy.
        if credentials.user != "hashed" {
            let decision = authenticator.decide(&credentials, &facts());
            let Decision::NeedsPasswordCheck(_, pending) = decision else { panic!("as above") };
            assert!(pending.resume(PasswordOutcome { matches: true }).is_err());
        }
    }
    // Where all passwords are plain there is nothing to hide.
    let plain = AuthInput { users: vec![user("plain", "p")], ..AuthInput::default() };
    let decision = build(&plain).decide(&by_password("unknown", "p"), &facts());
    assert!(matches!(decision, Decision::Refused(Refusal::UnknownUser)));
}

#[test]
fn each_user_has_its_own_permissions() {
    use crate::auth::permissions::PublishRight;
    let input = AuthInput {
        users: vec![
            UserOptions { permissions: may_publish_only("mine"), ..user("bound", "") },
            user("free", ""),
        ],
        accounts: vec![
            account(
                "A",
                vec![UserOptions { permissions: may_publish_only("ours"), ..user("a", "") }],
            ),
            account("$SYS", vec![user("s", "")]),
        ],
        ..AuthInput::default()
    };
    let authenticator = build(&input);
    for (name, allowed) in [
        ("bound", &["mine"][..]),
        ("free", &["mine", "ours"]),
        ("a", &["ours"]),
        // The system account may use what is reserved.
        ("s", &["mine", "ours", "$NRG.x"]),
    ] {
        let identity = decide(&authenticator, &by_password(name, "")).expect("accepted");
        for subject in ["mine", "ours", "$NRG.x"] {
            let right = identity.permissions.may_publish(subject.as_bytes());
            assert_eq!(
                right == PublishRight::Allowed,
                allowed.contains(&subject),
                "{name} {subject}"
            );
        }
    }
}

#[test]
fn accounts_bring_their_mappings_and_limits() {
    let map = |source: &str, subject: &str| MappingOptions {
        source: source.into(),
        destinations: vec![MappingDestinationOptions {
            subject: subject.into(),
            weight: 100,
            cluster: Some("EAST".into()),
        }],
        is_plain: true,
        place: Place::default(),
    };
    let (mut global, none) = account("$G", vec![]);
    global.mappings = vec![map("a", "global")];
    let (mut own, users) = account("A", vec![user("a", "")]);
    own.mappings = vec![map("a", "own")];
    own.limits.connections_max = Some(3);
    let input = AuthInput {
        accounts: vec![(global, none), (own, users)],
        users: vec![user("g", "")],
        cluster_name: Some("EAST".into()),
        ..AuthInput::default()
    };
    for (cluster_name, name, expected, connections_max) in [
        (Some("EAST"), "g", &b"global"[..], None),
        (Some("EAST"), "a", b"own", Some(3)),
        (None, "a", b"a", Some(3)),
    ] {
        let input = AuthInput { cluster_name: cluster_name.map(str::to_owned), ..input.clone() };
        let identity = decide(&build(&input), &by_password(name, "")).expect("accepted");
        let mut output = Vec::new();
        identity.account.mappings.map(b"a", &mut fastrand::Rng::with_seed(1), &mut output);
        assert_eq!(output, expected);
        assert_eq!(identity.account.limits.connections_max, connections_max);
    }
}

#[test]
fn a_reload_renews_clients_whose_proof_still_holds() {
    let stored = hash("h");
    let input = AuthInput {
        users: vec![user("hashed", &stored), user("plain", "p"), user("empty", "")],
        ..AuthInput::default()
    };
    let before = build(&input);
    let standard = ConnectionType::Standard;
    let login = |name, password| decide(&before, &by_password(name, password)).expect("accepted");
    let identities = [login("hashed", "h"), login("plain", "p"), login("empty", "")];
    // Only an account and a permission changed.
    let mut moved = input.clone();
    let users = std::mem::take(&mut moved.users);
    moved.accounts = vec![account("A", users)];
    let after = build(&moved);
    for identity in &identities {
        let renewed = after.renew(identity, standard).expect("still valid");
        assert_eq!(&*renewed.account.name, "A");
        assert_eq!(renewed.user_name, identity.user_name);
        assert!(after.renew(identity, ConnectionType::Mqtt).is_some());
    }
    // Every change of the proof ends it.
    let mut changed = vec![
        AuthInput::default(),
        AuthInput { users: vec![user("other", "x")], ..AuthInput::default() },
        AuthInput { verify_and_map: true, ..input.clone() },
        AuthInput { token: secret("t"), ..AuthInput::default() },
    ];
    let mut passwords = input.clone();
    for user in &mut passwords.users {
        user.password = secret("changed");
    }
    changed.push(passwords);
    let mut types = input.clone();
    for user in &mut types.users {
        user.connection_types = Some(vec!["MQTT".into()]);
    }
    changed.push(types);
    for input in &changed {
        let after = build(input);
        for identity in &identities {
            assert!(after.renew(identity, standard).is_none(), "{input:?}");
        }
    }
    let open = build(&AuthInput::default());
    let nobody = decide(&open, &Credentials::default()).expect("accepted");
    assert!(open.renew(&nobody, standard).is_some());
    assert!(before.renew(&nobody, standard).is_none());
    let with_token = AuthInput { token: secret("t"), ..AuthInput::default() };
    let with_token = build(&with_token);
    let holder = decide(&with_token, &by_token("t")).expect("accepted");
    assert!(with_token.renew(&holder, standard).is_some());
    assert!(before.renew(&holder, standard).is_none());
}

#[test]
fn bad_configurations_are_refused() {
    let public = KeyPair::new_user().public_key();
    let base = AuthInput::default;
    let not_a_user = KeyPair::new_account().public_key();
    for (input, words) in [
        (
            AuthInput { users: vec![user("a", "x"), user("a", "y")], ..base() },
            r#"Duplicate user "a" detected"#.to_owned(),
        ),
        (
            AuthInput {
                users: vec![user("a", "x")],
                accounts: vec![account("A", vec![user("a", "x")])],
                ..base()
            },
            r#"Duplicate user "a" detected"#.to_owned(),
        ),
        (AuthInput { users: vec![user("", "x")], ..base() }, "User entry requires a user".into()),
        (
            AuthInput { nkey_users: vec![nkey_user(&public), nkey_user(&public)], ..base() },
            format!("Duplicate nkey {public:?} detected"),
        ),
        (
            AuthInput { nkey_users: vec![nkey_user(&not_a_user)], ..base() },
            format!("Not a valid public nkey for a user: {not_a_user:?}"),
        ),
        (
            AuthInput { no_auth_user: Some("a".into()), ..base() },
            r#"no_auth_user: "a" present, but users/nkeys are not defined"#.into(),
        ),
        (
            AuthInput { users: vec![user("b", "x")], no_auth_user: Some("a".into()), ..base() },
            "no_auth_user: \"a\" not present as user or nkey in authorization block or account \
             configuration"
                .into(),
        ),
        (
            AuthInput {
                users: vec![UserOptions {
                    connection_types: Some(vec!["FOO".into()]),
                    ..user("a", "x")
                }],
                ..base()
            },
            r#"invalid connection types ["FOO"]"#.into(),
        ),
        (
            AuthInput {
                user: Some("a".into()),
                accounts: vec![account("A", vec![user("b", "x")])],
                ..base()
            },
            "Can not have a single user/pass and accounts".into(),
        ),
        (
            AuthInput {
                token: secret("t"),
                accounts: vec![account("A", vec![user("b", "x")])],
                ..base()
            },
            "Can not have a token and accounts".into(),
        ),
        (
            AuthInput { accounts: vec![account("A", vec![]), account("A", vec![])], ..base() },
            r#"duplicate account "A""#.into(),
        ),
        (
            AuthInput { system_account: Some("X".into()), ..base() },
            r#"error resolving system account: account missing: "X""#.into(),
        ),
        (
            AuthInput {
                users: vec![UserOptions { permissions: may_publish_only("a b"), ..user("a", "x") }],
                ..base()
            },
            r#"invalid permissions for user "a": subject "a b" is not a valid subject"#.into(),
        ),
    ] {
        let error = input.build().expect_err(&words);
        assert_eq!(error.to_string(), words);
    }
    let stray = UserOptions { account: Some("A".into()), ..user("a", "x") };
    let error = AuthInput { users: vec![stray], ..base() }.build().expect_err("no such account");
    assert_eq!(error, AuthError::UnknownAccount("A".into()));
    let mut with_mapping = account("A", vec![]);
    with_mapping.0.mappings =
        vec![MappingOptions { source: "a..b".into(), ..MappingOptions::default() }];
    let error = AuthInput { accounts: vec![with_mapping], ..base() }.build();
    assert!(matches!(error, Err(AuthError::Mapping(_))), "{error:?}");
}

#[test]
fn accounts_come_in_one_order_and_one_is_the_system_account() {
    let names = |input: &AuthInput| -> Vec<String> {
        let authenticator = build(input);
        authenticator
            .accounts()
            .iter()
            .map(|account| format!("{}{}", account.name, if account.is_system { "!" } else { "" }))
            .collect()
    };
    let base = AuthInput::default;
    let two = vec![account("B", vec![]), account("A", vec![])];
    assert_eq!(names(&base()), ["$G", "$SYS!"]);
    assert_eq!(names(&AuthInput { no_system_account: true, ..base() }), ["$G"]);
    assert_eq!(names(&AuthInput { accounts: two.clone(), ..base() }), ["$G", "B", "A", "$SYS!"]);
    let named = AuthInput { accounts: two.clone(), system_account: Some("A".into()), ..base() };
    assert_eq!(names(&named), ["$G", "B", "A!"]);
    let written = AuthInput { accounts: vec![account("$SYS", vec![])], ..base() };
    assert_eq!(names(&written), ["$G", "$SYS!"]);
    assert!(build(&named).accounts().get("B").is_some());
    assert!(build(&named).accounts().get("C").is_none());
}

/// Flags may name a user or a token in addition to a file's `authorization { users }`. As in
/// nats-server the file's users come first, and the token before the single user.
#[test]
fn users_of_the_file_stand_before_what_flags_name() {
    let base = || AuthInput { users: vec![user("a", "x")], ..AuthInput::default() };
    let single = build(&AuthInput { user: Some("u".into()), password: secret("p"), ..base() });
    let token = build(&AuthInput { token: secret("t"), ..base() });
    let all = build(&AuthInput {
        user: Some("u".into()),
        password: secret("p"),
        token: secret("t"),
        users: Vec::new(),
        ..base()
    });
    for (authenticator, expected) in [
        (&single, ["User $G a", "UnknownUser", "UnknownUser", "UnknownUser"]),
        (&token, ["User $G a", "UnknownUser", "Token $G", "WrongToken"]),
        (&all, ["WrongToken", "WrongToken", "Token $G", "WrongToken"]),
    ] {
        assert!(authenticator.is_required(ConnectionType::Standard));
        assert_decisions(
            authenticator,
            &[
                (by_password("a", "x"), expected[0]),
                (by_password("u", "p"), expected[1]),
                (by_token("t"), expected[2]),
                (Credentials::default(), expected[3]),
            ],
        );
    }
    // A reload that adds a token decides again about the single user.
    let alone =
        build(&AuthInput { user: Some("u".into()), password: secret("p"), ..AuthInput::default() });
    let identity = decide(&alone, &by_password("u", "p")).expect("the single user");
    assert!(alone.renew(&identity, ConnectionType::Standard).is_some());
    assert!(all.renew(&identity, ConnectionType::Standard).is_none());
}

#[test]
fn nothing_shows_a_secret() {
    let stored = hash("planted");
    let input = AuthInput {
        users: vec![user("a", "planted-user"), user("b", &stored)],
        ..AuthInput::default()
    };
    let token = AuthInput { token: secret("planted-token"), ..AuthInput::default() };
    let authenticator = build(&input);
    let credentials =
        Credentials { token: Given("planted-given"), ..by_password("b", "planted-given") };
    let decision = authenticator.decide(&credentials, &facts());
    let identity = decide(&authenticator, &by_password("a", "planted-user"));
    let shown = format!(
        "{input:?} {token:?} {authenticator:?} {:?} {credentials:?} {decision:?} {identity:?}",
        build(&token)
    );
    assert!(!shown.contains("planted"), "a plain secret is shown");
    assert!(!shown.contains(&stored[7..]), "a hash is shown");
}

#[test]
fn random_credentials_never_get_in_and_never_panic() {
    let public = KeyPair::new_user().public_key();
    let input = AuthInput {
        users: vec![user("a", "secret"), user("CN=a", "secret")],
        nkey_users: vec![nkey_user(&public)],
        accounts: vec![account("$SYS", vec![user("s", "secret")])],
        authorization_block: true,
        ..AuthInput::default()
    };
    let plain = build(&input);
    let mapping = build(&AuthInput { verify_and_map: true, ..input });
    let mut random = fastrand::Rng::with_seed(11);
    let pool = ["", "a", "s", "CN=a", "\0", "$SYS", "$G", "\u{e9}", "x", &public, "U", "secre"];
    let long = "=".repeat(5_000);
    for _ in 0..20_000 {
        let mut pick = || match random.usize(..=pool.len()) {
            index if index < pool.len() => pool[index],
            _ => long.as_str(),
        };
        let credentials = Credentials {
            jwt: Given::default(),
            user: pick(),
            password: Given(pick()),
            token: Given(pick()),
            nkey: pick(),
            signature: pick(),
            account: pick(),
            new_account: false,
        };
        let nonce = pick().as_bytes();
        let facts = ConnectionFacts { nonce, ..facts() };
        assert!(finish(plain.decide(&credentials, &facts)).is_err(), "{credentials:?}");
        assert!(finish(mapping.decide(&credentials, &facts)).is_err(), "{credentials:?}");
    }
}
