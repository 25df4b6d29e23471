//! Operator mode: who is let in by a JWT, and what happens to clients when their account changes.
//!
//! `NATS_SERVER=path` runs the same tests against that server.

mod support;

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use nkeys::KeyPair;
use serde_json::{Value, json};
use support::WAIT_MAX;
use support::jwt::{self, account, account_claims, memory_config, merge, mint, user, user_claims};
use support::raw_client::RawClient;
use support::server::Server;

/// Signs users of account 2.
const SIGNING: u8 = 20;
/// The same, with a scope.
const SCOPED: u8 = 21;

fn start(config: &str) -> Server {
    match std::env::var_os("NATS_SERVER") {
        Some(program) => {
            Server::start(&PathBuf::from(program), &["-D"], config).expect("it starts")
        }
        None => Server::midge_with(3, &["-D"], config),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("it is after 1970").as_secs()
}

/// Connects, and returns the client with the nonce that it was given.
fn open(server: &Server) -> (RawClient, String) {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    let info = client.take_line(Instant::now() + WAIT_MAX).expect("it is greeted");
    let nonce = jwt::nonce(&info);
    (client, nonce)
}

/// Logs in with a JWT; the pair signs the nonce.
fn try_log_in(server: &Server, jwt: &str, signer: Option<&KeyPair>) -> RawClient {
    let (mut client, nonce) = open(server);
    let connect = jwt::connect(jwt, &nonce, signer);
    client.send(format!("{connect}PING\r\n").as_bytes()).expect("the server reads");
    client
}

/// Returns the next line that is not INFO; None = the connection was closed.
fn next_line(client: &mut RawClient) -> Option<String> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let line = client.take_line(deadline);
        assert!(line.is_some() || client.is_closed(), "nothing came in time");
        let line = String::from_utf8(line?).expect("text");
        if !line.starts_with("INFO") && line != "PING\r\n" {
            return Some(line.trim_end().to_owned());
        }
    }
}

fn log_in(server: &Server, jwt: &str, signer: Option<&KeyPair>) -> RawClient {
    let mut client = try_log_in(server, jwt, signer);
    assert_eq!(next_line(&mut client).as_deref(), Some("PONG"), "it is let in");
    client
}

/// A login that is let in, or refused with this text in the log.
struct Case {
    claims: Value,
    issuer: KeyPair,
    signer: Option<KeyPair>,
    refused: Option<&'static str>,
}

fn good(nats: Value) -> Case {
    let claims = user_claims(1, nats);
    Case { claims, issuer: account(2), signer: Some(user(1)), refused: None }
}

fn bad(nats: Value, text: &'static str) -> Case {
    Case { refused: Some(text), ..good(nats) }
}

impl Case {
    /// Changes claims outside of `nats`.
    fn with(mut self, claims: Value) -> Self {
        merge(&mut self.claims, claims);
        self
    }

    fn issued_by(mut self, number: u8) -> Self {
        merge(&mut self.claims["nats"], json!({"issuer_account": account(2).public_key()}));
        self.issuer = account(number);
        self
    }

    fn unsigned(mut self) -> Self {
        self.signer = None;
        self
    }
}

/// Claims that say nothing about rights, for a key with a scope.
fn nothing() -> Value {
    json!({"subs": null, "data": null, "payload": null})
}

fn cases() -> Vec<Case> {
    let stranger = KeyPair::new_account().public_key();
    vec![
        good(json!({})),
        bad(json!({"type": "generic"}), "Authentication requires a user JWT"),
        bad(json!({"version": 3}), "Authentication requires a user JWT"),
        Case { issuer: jwt::operator(), ..bad(json!({}), "Authentication requires a user JWT") },
        bad(json!({"proxy_required": true}), "proxy connection required"),
        bad(json!({}), "User JWT no longer valid: &{Issues:[claim is expired]}")
            .with(json!({"exp": now() - 10})),
        bad(json!({}), "User JWT no longer valid: &{Issues:[claim is not yet valid]}")
            .with(json!({"nbf": now() + 1000})),
        good(json!({})).with(json!({"exp": now() + 1000, "nbf": now() - 10})),
        bad(json!({"src": ["zz"]}), "invalid cidr \"zz\" in user src limits"),
        bad(json!({"times_location": "No/Where"}), "could not parse iana time zone by name"),
        bad(json!({"issuer_account": stranger}), "Account JWT lookup error: account missing"),
        bad(json!({"issuer_account": account(3).public_key()}), "User JWT issuer is not known"),
        good(json!({})).issued_by(SIGNING),
        bad(json!({}), "User JWT issuer is not known").issued_by(22),
        bad(json!({}), "scoped users require no permissions or limits set").issued_by(SCOPED),
        good(nothing()).issued_by(SCOPED),
        bad(json!({"allowed_connection_types": ["ZZZ"]}), "invalid connection types"),
        bad(json!({"allowed_connection_types": ["MQTT"]}), "Connection type not allowed"),
        good(json!({"allowed_connection_types": ["zzz", "standard"]})),
        bad(json!({}), "Signature missing").unsigned(),
        Case { signer: Some(user(9)), ..bad(json!({}), "Signature not verified") },
        good(json!({"bearer_token": true})).unsigned(),
        bad(
            json!({"bearer_token": true, "issuer_account": account(3).public_key()}),
            "User JWT issuer is not known",
        ),
        bad(json!({}), "User authentication revoked").with(json!({"sub": user(8).public_key()})),
        good(json!({})).with(json!({"sub": user(8).public_key(), "iat": 1_700_000_001})),
        bad(json!({"src": ["10.0.0.0/8"]}), "Bad src Ip 127.0.0.1"),
        good(json!({"src": "10.0.0.0/8,127.0.0.0/8"})),
        bad(json!({"times": [{"start": "10:00:00", "end": "10:00:00"}]}), "Outside connect times"),
        good(
            json!({"times": [{"start": "00:00:00", "end": "00:00:00"}, {"start": "23:59:59", "end": "23:59:58"}, {"start": "12:00:00", "end": "11:59:00"}]}),
        ),
    ]
}

fn accounts() -> Vec<Value> {
    let scope = json!({"kind": "user_scope", "key": account(SCOPED).public_key(), "role": "r",
        "template": {"pub": {"allow": ["only.{{name()}}"]}, "sub": {"allow": ["_INBOX.>"]}}});
    vec![
        account_claims(
            2,
            "A",
            json!({
                "signing_keys": [account(SIGNING).public_key(), scope],
                "revocations": {user(8).public_key(): 1_700_000_000},
            }),
        ),
        account_claims(3, "B", json!({"limits": {"disallow_bearer": true}})),
    ]
}

#[test]
fn each_check_refuses_what_it_is_for() {
    let server = start(&memory_config(&accounts(), ""));
    for (number, case) in cases().into_iter().enumerate() {
        let Case { claims, issuer, signer, refused } = case;
        let signer = match claims["sub"] == user(8).public_key() {
            true => Some(user(8)),
            false => signer,
        };
        let lines = server.log().line_count();
        let mut client = try_log_in(&server, &mint(claims.clone(), &issuer), signer.as_ref());
        let line = next_line(&mut client);
        match refused {
            None => assert_eq!(line.as_deref(), Some("PONG"), "case {number}: {claims}"),
            Some(text) => {
                assert_eq!(
                    line.as_deref(),
                    Some("-ERR 'Authorization Violation'"),
                    "case {number}: {claims}"
                );
                assert_eq!(next_line(&mut client), None);
                let found = server
                    .log()
                    .wait_for(lines, WAIT_MAX, |line| line.contains(text).then_some(()));
                assert!(found.is_some(), "case {number}: {text} in {:?}", server.log().lines());
            }
        }
    }
}

fn good_jwt(nats: Value) -> String {
    mint(user_claims(1, nats), &account(2))
}

#[test]
fn a_client_is_told_its_account_and_has_its_rights() {
    let server = start(&memory_config(&accounts(), ""));
    let jwt =
        good_jwt(json!({"payload": 5, "pub": {"deny": ["no"]}, "sub": {"allow": ["a", "b.>"]}}));
    let mut client = try_log_in(&server, &jwt, Some(&user(1)));
    let deadline = Instant::now() + WAIT_MAX;
    assert_eq!(client.take_line(deadline).as_deref(), Some(&b"PONG\r\n"[..]));
    let info = client.take_line(deadline).expect("INFO follows");
    let info: Value = serde_json::from_slice(&info[5..]).expect("JSON");
    assert_eq!(info["remote_account"], account(2).public_key());
    assert_eq!((&info["max_payload"], &info["auth_required"]), (&json!(5), &json!(true)));
    client.send(b"SUB a 1\r\nSUB c 2\r\nPUB no 1\r\nx\r\nPUB a 1\r\nx\r\n").expect("it reads");
    let lines: Vec<String> = (0..3).map(|_| next_line(&mut client).expect("open")).collect();
    assert_eq!(
        lines,
        [
            "-ERR 'Permissions Violation for Subscription to \"c\"'",
            "-ERR 'Permissions Violation for Publish to \"no\"'",
            "MSG a 1 1"
        ]
    );
    assert_eq!(next_line(&mut client).as_deref(), Some("x"));
    client.send(b"PUB a 6\r\n123456\r\n").expect("it reads");
    assert_eq!(next_line(&mut client).as_deref(), Some("-ERR 'Maximum Payload Violation'"));
}

#[test]
fn a_scope_gives_the_rights_of_its_template() {
    let server = start(&memory_config(&accounts(), ""));
    let mut claims = user_claims(1, nothing());
    merge(&mut claims["nats"], json!({"issuer_account": account(2).public_key()}));
    let mut client = log_in(&server, &mint(claims, &account(SCOPED)), Some(&user(1)));
    client
        .send(b"PUB other 1\r\nx\r\nPUB only.user1 1\r\nx\r\nSUB x 1\r\nPING\r\n")
        .expect("reads");
    let lines: Vec<String> = (0..3).map(|_| next_line(&mut client).expect("open")).collect();
    assert_eq!(
        lines,
        [
            "-ERR 'Permissions Violation for Publish to \"other\"'",
            "-ERR 'Permissions Violation for Subscription to \"x\"'",
            "PONG"
        ]
    );
}

/// Account 2 exports to account 3 by activation alone, and to all.
fn trading(activation: Option<String>, revocations: Value) -> Vec<Value> {
    let exporter = account_claims(
        2,
        "P",
        json!({"exports": [
            {"subject": "svc.*", "type": "service"},
            {"subject": "st.>", "type": "stream"},
            {"subject": "private", "type": "service", "token_req": true, "revocations": revocations},
        ]}),
    );
    let mut imports = vec![
        json!({"subject": "svc.*", "local_subject": "my.$1", "type": "service",
            "account": account(2).public_key()}),
        json!({"subject": "st.>", "to": "imp", "type": "stream",
            "account": account(2).public_key()}),
    ];
    imports.extend(activation.map(|token| {
        json!({"subject": "private", "type": "service", "token": token,
            "account": account(2).public_key()})
    }));
    let importer = account_claims(3, "C", json!({"imports": imports}));
    vec![exporter, importer]
}

fn activation(expires: Option<u64>) -> String {
    let mut claims = json!({"sub": account(3).public_key(), "nats": {
        "subject": "private", "kind": "service", "type": "activation", "version": 2}});
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    mint(claims, &account(2))
}

/// A provider in account 2 that has subscribed to everything that it exports, and a requester in
/// account 3.
fn traders(server: &Server) -> (RawClient, RawClient) {
    let mut provider = log_in(server, &good_jwt(json!({})), Some(&user(1)));
    provider.send(b"SUB svc.* 1\r\nSUB private 2\r\n").expect("it reads");
    provider.round_trip().expect("it is served");
    let jwt = mint(user_claims(2, json!({})), &account(3));
    let mut requester = log_in(server, &jwt, Some(&user(2)));
    requester.send(b"SUB inb.> 1\r\nSUB imp.> 2\r\n").expect("it reads");
    requester.round_trip().expect("it is served");
    (provider, requester)
}

/// Sends a request, and checks that it is answered, or that nobody is there.
fn ask(traders: &mut (RawClient, RawClient), subject: &str, is_answered: bool) {
    let (provider, requester) = traders;
    requester.send(format!("PUB {subject} inb.1 1\r\nx\r\n").as_bytes()).expect("it reads");
    if is_answered {
        let head = next_line(provider).expect("a request");
        let reply = head.split(' ').nth(3).expect("it has a reply").to_owned();
        // Two lines of headers, an empty one, the payload.
        (0..4).for_each(|_| drop(next_line(provider)));
        provider.send(format!("PUB {reply} 2\r\nok\r\n").as_bytes()).expect("it reads");
        assert_eq!(next_line(requester).as_deref(), Some("MSG inb.1 1 2"), "{subject}");
        assert_eq!(next_line(requester).as_deref(), Some("ok"));
    } else {
        let head = next_line(requester).expect("a status");
        assert!(head.starts_with("HMSG inb.1 1 "), "{subject}: {head}");
        assert_eq!(next_line(requester).as_deref(), Some("NATS/1.0 503"));
        let subject = format!("Nats-Subject: {subject}");
        assert_eq!(next_line(requester), Some(subject));
        (0..2).for_each(|_| drop(next_line(requester)));
    }
}

fn hears_stream(traders: &mut (RawClient, RawClient)) {
    let (provider, requester) = traders;
    provider.send(b"PUB st.a 1\r\ny\r\n").expect("it reads");
    assert_eq!(next_line(requester).as_deref(), Some("MSG imp.st.a 2 1"));
    assert_eq!(next_line(requester).as_deref(), Some("y"));
}

fn reload(server: &Server, config: &str) {
    let lines = server.log().line_count();
    server.rewrite_config(config).expect("it can be written");
    server.signal(rustix::process::Signal::HUP).expect("it runs");
    let done = |line: &str| line.contains("Reloaded server configuration").then_some(());
    let found = server.log().wait_for(lines, WAIT_MAX, done);
    assert!(found.is_some(), "{:?}", server.log().lines());
}

#[test]
fn accounts_trade_as_their_jwts_say() {
    let server = start(&memory_config(&trading(None, json!({})), ""));
    let mut traders = traders(&server);
    ask(&mut traders, "my.x", true);
    ask(&mut traders, "private", false);
    hears_stream(&mut traders);
    // The activation comes, is revoked, and comes again.
    reload(&server, &memory_config(&trading(Some(activation(None)), json!({})), ""));
    ask(&mut traders, "private", true);
    hears_stream(&mut traders);
    let revoked = json!({"*": 1_700_000_000});
    reload(&server, &memory_config(&trading(Some(activation(None)), revoked), ""));
    ask(&mut traders, "private", false);
    ask(&mut traders, "my.x", true);
    let other = json!({account(3).public_key(): 1_699_999_999});
    reload(&server, &memory_config(&trading(Some(activation(None)), other), ""));
    ask(&mut traders, "private", true);
    // The export goes, and everything with it.
    let mut accounts = trading(None, json!({}));
    accounts[0]["nats"]["exports"] = json!([]);
    reload(&server, &memory_config(&accounts, ""));
    ask(&mut traders, "my.x", false);
    traders.0.send(b"PUB st.a 1\r\ny\r\n").expect("it reads");
    traders.0.round_trip().expect("it is served");
    reload(&server, &memory_config(&trading(None, json!({})), ""));
    ask(&mut traders, "my.x", true);
    hears_stream(&mut traders);
}

#[test]
fn an_activation_that_ends_takes_its_import_along() {
    let ends = now() + 3;
    let accounts = trading(Some(activation(Some(ends))), json!({}));
    let server = start(&memory_config(&accounts, ""));
    let mut traders = traders(&server);
    ask(&mut traders, "private", true);
    support::wait_until("the activation ends", || now() > ends);
    // The server looks once a second.
    support::wait_until("the server has seen that", || now() > ends + 2);
    ask(&mut traders, "private", false);
    ask(&mut traders, "my.x", true);
}

/// Connects clients, changes account 2, and returns the last line of each: None if it is still
/// served.
fn changed(
    before: Value,
    after: Value,
    jwts: &[(String, Option<KeyPair>)],
    expected: &[Option<&str>],
) {
    let config = |nats| memory_config(&[account_claims(2, "A", nats)], "");
    let server = start(&config(before));
    let log_in = |(jwt, signer): &(String, Option<KeyPair>)| log_in(&server, jwt, signer.as_ref());
    let mut clients: Vec<RawClient> = jwts.iter().map(log_in).collect();
    for client in &mut clients {
        client.send(b"SUB a 1\r\nSUB b 2\r\n").expect("it reads");
        client.round_trip().expect("it is served");
    }
    reload(&server, &config(after));
    for (client, expected) in clients.iter_mut().zip(expected) {
        match expected {
            None => assert_stays(client),
            Some(text) => assert_eq!(last_line(client), *text),
        }
    }
}

fn assert_stays(client: &mut RawClient) {
    client.send(b"PING\r\n").expect("it reads");
    assert_eq!(next_line(client).as_deref(), Some("PONG"));
}

/// Waits for the end of a connection and returns the last line before it.
fn last_line(client: &mut RawClient) -> String {
    let mut last = String::new();
    while let Some(line) = next_line(client) {
        last = line;
    }
    last
}

fn plain(number: u8) -> (String, Option<KeyPair>) {
    (mint(user_claims(number, json!({})), &account(2)), Some(user(number)))
}

fn signed_by(number: u8, nats: Value) -> (String, Option<KeyPair>) {
    let mut claims = user_claims(1, nats);
    merge(&mut claims["nats"], json!({"issuer_account": account(2).public_key()}));
    (mint(claims, &account(number)), Some(user(1)))
}

#[test]
fn a_changed_account_closes_whom_it_does_not_admit_any_more() {
    let bearer = mint(user_claims(3, json!({"bearer_token": true})), &account(2));
    changed(
        json!({}),
        json!({"limits": {"disallow_bearer": true}}),
        &[plain(1), (bearer, None)],
        &[None, Some("-ERR 'Authorization Violation'")],
    );
    changed(
        json!({}),
        json!({"revocations": {user(1).public_key(): 1_700_000_000}}),
        &[plain(1), plain(2)],
        &[Some("-ERR 'User Authentication Revoked'"), None],
    );
    changed(
        json!({}),
        json!({"limits": {"subs": 1}}),
        &[plain(1)],
        &[Some("-ERR 'maximum subscriptions exceeded'")],
    );
    changed(json!({}), json!({"limits": {"subs": 3}}), &[plain(1)], &[None]);
    let full = "-ERR 'maximum account active connections exceeded'";
    changed(
        json!({}),
        json!({"limits": {"conn": 1}}),
        &[plain(1), plain(2), plain(3)],
        &[None, Some(full), Some(full)],
    );
}

#[test]
fn a_signing_key_that_changes_closes_its_users_without_a_word() {
    let keys = |role: &str| {
        json!({"signing_keys": [account(SIGNING).public_key(),
            {"kind": "user_scope", "key": account(SCOPED).public_key(), "role": role, "template": {}}]})
    };
    let users = [plain(2), signed_by(SIGNING, json!({})), signed_by(SCOPED, nothing())];
    changed(keys("r"), keys("r"), &users, &[None, None, None]);
    changed(keys("r"), keys("s"), &users, &[None, None, Some("")]);
    changed(keys("r"), json!({"signing_keys": []}), &users, &[None, Some(""), Some("")]);
}

#[test]
fn an_account_that_is_gone_closes_its_clients() {
    let config = |accounts: &[Value]| memory_config(accounts, "");
    let both = [account_claims(2, "A", json!({})), account_claims(3, "B", json!({}))];
    let server = start(&config(&both));
    let mut first = log_in(&server, &plain(1).0, Some(&user(1)));
    let jwt = mint(user_claims(2, json!({})), &account(3));
    let mut second = log_in(&server, &jwt, Some(&user(2)));
    reload(&server, &config(&both[1..]));
    assert_eq!(last_line(&mut first), "-ERR 'Authorization Violation'");
    assert_stays(&mut second);
    // It comes back with the next login.
    reload(&server, &config(&both));
    let mut first = log_in(&server, &plain(1).0, Some(&user(1)));
    assert_stays(&mut first);
}

#[test]
fn default_permissions_apply_to_those_without_their_own() {
    let denying = |subject: &str| json!({"default_permissions": {"pub": {"deny": [subject]}}, "limits": {"conn": -1}});
    let config = |nats| memory_config(&[account_claims(2, "A", nats)], "");
    let server = start(&config(denying("no")));
    let mut client = log_in(&server, &plain(1).0, Some(&user(1)));
    let own = json!({"pub": {"allow": [">"]}});
    let mut free = log_in(&server, &mint(user_claims(2, own), &account(2)), Some(&user(2)));
    let refused = |client: &mut RawClient, subject: &str| {
        client.send(format!("PUB {subject} 1\r\nx\r\nPING\r\n").as_bytes()).expect("it reads");
        let line = next_line(client).expect("open");
        if line != "PONG" {
            assert_eq!(next_line(client).as_deref(), Some("PONG"));
        }
        line != "PONG"
    };
    assert!(refused(&mut client, "no") && !refused(&mut client, "yes"));
    assert!(!refused(&mut free, "no"));
    reload(&server, &config(denying("yes")));
    assert!(!refused(&mut client, "no") && refused(&mut client, "yes"));
    assert!(!refused(&mut free, "yes"));
}

#[test]
fn what_expires_while_connected_ends_the_connection() {
    let soon = now() + 3;
    let mut mortal = account_claims(3, "B", json!({}));
    mortal["exp"] = soon.into();
    let server = start(&memory_config(&[account_claims(2, "A", json!({})), mortal], ""));
    let mut claims = user_claims(1, json!({}));
    claims["exp"] = soon.into();
    let mut user_ends = log_in(&server, &mint(claims, &account(2)), Some(&user(1)));
    let jwt = mint(user_claims(2, json!({})), &account(3));
    let mut account_ends = log_in(&server, &jwt, Some(&user(2)));
    let nothing = mint(user_claims(3, json!({"subs": 0})), &account(2));
    let mut nothing_allowed = try_log_in(&server, &nothing, Some(&user(3)));
    let first = next_line(&mut nothing_allowed).expect("it is told why");
    assert_eq!(first, "-ERR 'maximum subscriptions exceeded'");
    while next_line(&mut nothing_allowed).is_some() {}
    assert_eq!(next_line(&mut user_ends).as_deref(), Some("-ERR 'User Authentication Expired'"));
    assert_eq!(
        next_line(&mut account_ends).as_deref(),
        Some("-ERR 'Account Authentication Expired'")
    );
    assert_eq!(next_line(&mut account_ends), None);
    let mut late = try_log_in(&server, &jwt, Some(&user(2)));
    assert_eq!(next_line(&mut late).as_deref(), Some("-ERR 'Authorization Violation'"));
}

#[test]
fn a_sentinel_stands_in_and_pinned_accounts_keep_others_out() {
    let accounts = [account_claims(2, "A", json!({})), account_claims(3, "B", json!({}))];
    let sentinel = mint(user_claims(1, json!({"bearer_token": true})), &account(2));
    let pinned = account(2).public_key();
    let more = format!("default_sentinel: {sentinel}\nresolver_pinned_accounts: [{pinned}]");
    let server = start(&memory_config(&accounts, &more));
    let mut client = try_log_in(&server, "", None);
    assert_eq!(next_line(&mut client).as_deref(), Some("PONG"));
    let jwt = mint(user_claims(2, json!({})), &account(3));
    let lines = server.log().line_count();
    let mut other = try_log_in(&server, &jwt, Some(&user(2)));
    assert_eq!(next_line(&mut other).as_deref(), Some("-ERR 'Authorization Violation'"));
    let told = |line: &str| line.contains("not listed as operator pinned account").then_some(());
    assert!(server.log().wait_for(lines, WAIT_MAX, told).is_some());
    let system = mint(user_claims(4, json!({})), &account(jwt::SYSTEM));
    log_in(&server, &system, Some(&user(4)));
    let log = server.log().lines().join("\n");
    let secret = sentinel.rsplit('.').next().expect("a signature");
    assert!(!log.contains(secret) && !log.contains(&sentinel), "a bearer's JWT is a password");
}

/// The JWT of a bearer is a password: whoever has it is that user.
#[test]
fn no_endpoint_and_no_log_line_shows_a_bearers_jwt() {
    let bearer = |number| mint(user_claims(number, json!({"bearer_token": true})), &account(2));
    let (good, wrong) = (bearer(1), format!("{}x", bearer(4)));
    let config = memory_config(&accounts(), "http: \"127.0.0.1:-1\"");
    let server = Server::midge_with(2, &["-DV"], &config);
    let mut client = log_in(&server, &good, None);
    client.send(b"SUB a 1\r\nPING\r\n").expect("it reads");
    assert_eq!(next_line(&mut client).as_deref(), Some("PONG"));
    let mut refused = try_log_in(&server, &wrong, None);
    assert_eq!(next_line(&mut refused).as_deref(), Some("-ERR 'Authorization Violation'"));
    assert_eq!(next_line(&mut refused), None);
    let mut gone = log_in(&server, &bearer(5), None);
    gone.close();
    let secrets = [good, bearer(4), bearer(5)];
    let secrets = secrets.iter().flat_map(|jwt| jwt.split('.').skip(1));
    let secrets: Vec<String> = secrets.map(str::to_owned).collect();
    let mut shown = server.log().lines();
    let accountz = format!("/accountz?acc={}", account(2).public_key());
    for path in [
        "/varz",
        "/connz?auth=1&subs=detail",
        "/connz?state=closed&auth=1",
        "/subsz?subs=1",
        "/accountz",
        &accountz,
        "/accstatz?unused=1",
        "/metrics",
    ] {
        let body = server.monitor_get(path).expect("monitoring answers");
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.len() > 10, "{path}: {body}");
        shown.push(body);
    }
    for text in shown {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{text}");
        }
    }
}
