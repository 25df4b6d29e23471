//! The JWTs of accounts in a directory: pushed, looked up, listed, deleted, by users of the system
//! account.

mod support;

use std::path::Path;
use std::time::Instant;

use nkeys::KeyPair;
use serde_json::{Value, json};
use support::WAIT_MAX;
use support::jwt::{self, SYSTEM, account, account_claims, mint, operator, user, user_claims};
use support::raw_client::RawClient;
use support::server::{Directory, Server};

/// Starts a server whose accounts are in `directory`, of this type.
fn start(directory: &Path, kind: &str) -> Server {
    let system = account(SYSTEM).public_key();
    let operator_jwt = mint(
        json!({"sub": operator().public_key(),
            "nats": {"type": "operator", "version": 2, "system_account": system}}),
        &operator(),
    );
    let system_jwt = mint(account_claims(SYSTEM, "SYS", json!({})), &operator());
    let path = directory.display();
    let config = format!(
        "operator: {operator_jwt}\nresolver: {{ type: {kind}, dir: \"{path}\" }}\n\
         resolver_preload: {{\n {system}: {system_jwt}\n}}\n"
    );
    Server::midge_with(2, &["-D"], &config)
}

fn log_in(server: &Server, jwt: &str, signer: &KeyPair) -> Option<RawClient> {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    let info = client.take_line(Instant::now() + WAIT_MAX).expect("it is greeted");
    let connect = jwt::connect(jwt, &jwt::nonce(&info), Some(signer));
    client.send(connect.as_bytes()).expect("the server reads");
    client.round_trip().ok()?;
    // What is told about the account comes after the first answer.
    client.round_trip().expect("it is served");
    Some(client)
}

fn admin(server: &Server) -> RawClient {
    let jwt = mint(user_claims(1, json!({})), &account(SYSTEM));
    let mut client = log_in(server, &jwt, &user(1)).expect("it is let in");
    client.send(b"SUB in.* 1\r\n").expect("it reads");
    client
}

fn take(client: &mut RawClient) -> String {
    let deadline = Instant::now() + WAIT_MAX;
    let head = client.take_message_line(deadline);
    assert!(head.starts_with(b"MSG in.x 1 "), "{:?}", head.escape_ascii().to_string());
    let body = client.take_line(deadline).expect("the payload follows");
    String::from_utf8(body).expect("text").trim_end().to_owned()
}

fn ask(client: &mut RawClient, subject: &str, body: &str) -> String {
    let size = body.len();
    client.send(format!("PUB {subject} in.x {size}\r\n{body}\r\n").as_bytes()).expect("it reads");
    take(client)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn of_account(limits: Value, iat: u64) -> Value {
    let mut claims = account_claims(2, "A", json!({"limits": limits}));
    claims["iat"] = iat.into();
    claims
}

#[test]
fn an_account_is_pushed_changed_and_deleted() {
    let directory = Directory::new().expect("there is a place for it");
    let server = start(&directory, "full, allow_delete: true");
    let mut admin = admin(&server);
    let key = account(2).public_key();
    let user_jwt = mint(user_claims(2, json!({})), &account(2));
    assert!(log_in(&server, &user_jwt, &user(2)).is_none(), "its account is not there");
    let first = mint(of_account(json!({}), 1), &operator());
    let answer = json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.UPDATE", &first));
    assert_eq!(answer["data"], json!({"account": key, "code": 200, "message": "jwt updated"}));
    assert!(answer["server"]["id"].is_string());
    let mut client = log_in(&server, &user_jwt, &user(2)).expect("its account is there now");
    let lookup = format!("$SYS.REQ.ACCOUNT.{key}.CLAIMS.LOOKUP");
    assert_eq!(ask(&mut admin, &lookup, ""), first);
    let list = json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.LIST", ""));
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
    // What no trusted operator signed changes nothing, unlike in nats-server.
    let stranger = KeyPair::new_operator();
    let foreign = mint(of_account(json!({"conn": 0}), 2), &stranger);
    for subject in
        ["$SYS.REQ.CLAIMS.UPDATE".to_owned(), format!("$SYS.REQ.ACCOUNT.{key}.CLAIMS.UPDATE")]
    {
        let answer = json_of(&ask(&mut admin, &subject, &foreign));
        let text = "jwt update resulted in error - account validation failed";
        assert_eq!(answer["error"]["description"], text, "{answer}");
        assert_eq!(answer["error"]["code"], 500);
    }
    assert_eq!(ask(&mut admin, &lookup, ""), first);
    client.round_trip().expect("it is served");
    let other = format!("$SYS.ACCOUNT.{}.CLAIMS.UPDATE", account(3).public_key());
    let answer = json_of(&ask(&mut admin, &other, &first));
    let text = "jwt update resulted in error - subject does not match jwt content";
    assert_eq!(answer["error"]["description"], text);
    let answer = json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.UPDATE", "x"));
    let text = "jwt update resulted in error - expected 3 chunks";
    assert_eq!(answer["error"], json!({"account": "n/a", "code": 500, "description": text}));
    // A change reaches the client at once.
    let second = mint(of_account(json!({"payload": 3}), 3), &operator());
    let by_account = format!("$SYS.REQ.ACCOUNT.{key}.CLAIMS.UPDATE");
    assert_eq!(json_of(&ask(&mut admin, &by_account, &second))["data"]["code"], 200);
    client.send(b"PUB a 4\r\nxxxx\r\n").expect("it reads");
    let line = client.take_line(Instant::now() + WAIT_MAX).expect("an error");
    assert_eq!(line, b"-ERR 'Maximum Payload Violation'\r\n");
    let info = format!("$SYS.REQ.ACCOUNT.{key}.INFO");
    let info = json_of(&ask(&mut admin, &info, ""));
    let data = &info["data"];
    assert_eq!((&data["name_tag"], &data["jwt"]), (&json!("A"), &json!(second)));
    assert_eq!(data["issuer_key"], operator().public_key());
    assert_eq!(data["decoded_jwt"]["iat"], 3);
    // Both are in a pack, unless the requester has the same.
    let pack = |admin: &mut RawClient| {
        let mut messages = vec![ask(admin, "$SYS.REQ.CLAIMS.PACK", "")];
        while !messages.last().expect("one").is_empty() {
            messages.push(take(admin));
        }
        messages
    };
    let messages = pack(&mut admin);
    assert_eq!(messages.len(), 3);
    assert!(messages.contains(&format!("{key}|{second}")));
    let mut client = log_in(&server, &user_jwt, &user(2)).expect("it may come again");
    let deletion = |issuer: &KeyPair, name: &str| {
        mint(json!({"sub": issuer.public_key(), "nats": {"accounts": [name]}}), issuer)
    };
    let answer = json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.DELETE", &deletion(&stranger, &key)));
    let text = answer["error"]["description"].as_str().expect("an error");
    assert!(text.ends_with("failed - not trusted"), "{text}");
    let system = account(SYSTEM).public_key();
    let answer =
        json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.DELETE", &deletion(&operator(), &system)));
    let text = answer["error"]["description"].as_str().expect("an error");
    assert!(text.ends_with("failed - not allowed to delete system account"), "{text}");
    let answer = json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.DELETE", &deletion(&operator(), &key)));
    assert_eq!(answer["data"], json!({"code": 200, "message": "deleted 1 accounts"}));
    let line = client.take_line(Instant::now() + WAIT_MAX).expect("it is told");
    assert_eq!(line, b"-ERR 'Account Authentication Expired'\r\n");
    assert!(log_in(&server, &user_jwt, &user(2)).is_none());
    assert_eq!(ask(&mut admin, &lookup, ""), "");
    // The same JWT revives it.
    assert_eq!(json_of(&ask(&mut admin, "$SYS.REQ.CLAIMS.UPDATE", &second))["data"]["code"], 200);
    assert!(log_in(&server, &user_jwt, &user(2)).is_some());
}

#[test]
fn accounts_outlive_the_server_and_nobody_else_may_push() {
    let directory = Directory::new().expect("there is a place for it");
    let first = mint(of_account(json!({}), 1), &operator());
    let user_jwt = mint(user_claims(2, json!({})), &account(2));
    {
        let server = start(&directory, "full");
        ask(&mut admin(&server), "$SYS.REQ.CLAIMS.UPDATE", &first);
    }
    let server = start(&directory, "full");
    let mut client = log_in(&server, &user_jwt, &user(2)).expect("its account is there");
    client.send(b"SUB in.* 1\r\n").expect("it reads");
    let size = first.len();
    let push = format!("PUB $SYS.REQ.CLAIMS.UPDATE in.x {size}\r\n{first}\r\n");
    client.send(push.as_bytes()).expect("it reads");
    let head = client.take_line(Instant::now() + WAIT_MAX).expect("a status");
    assert!(head.starts_with(b"HMSG in.x 1 "), "nobody hears it there");
    let mut admin = admin(&server);
    let deletion = json!({"sub": operator().public_key(),
        "nats": {"accounts": [account(2).public_key()]}});
    let answer = ask(&mut admin, "$SYS.REQ.CLAIMS.DELETE", &mint(deletion, &operator()));
    assert!(answer.contains("delete must be enabled in server config"), "{answer}");
}

#[test]
fn a_cache_takes_updates_of_accounts_that_it_has() {
    let directory = Directory::new().expect("there is a place for it");
    let server = start(&directory, "cache");
    let mut admin = admin(&server);
    let first = mint(of_account(json!({}), 1), &operator());
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account(2).public_key());
    let answer = json_of(&ask(&mut admin, &subject, &first));
    assert_eq!(answer["data"]["message"], "jwt update cache skipped");
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account(SYSTEM).public_key());
    let mut system = account_claims(SYSTEM, "SYS2", json!({}));
    system["iat"] = 1_800_000_000.into();
    let answer = json_of(&ask(&mut admin, &subject, &mint(system, &operator())));
    assert_eq!(answer["data"]["message"], "jwt updated cache");
}

/// The real client with credentials of a JWT.
#[tokio::test]
async fn a_real_client_logs_in_by_its_jwt() {
    use futures_util::StreamExt;
    let directory = Directory::new().expect("there is a place for it");
    let server = start(&directory, "full");
    let pushed = mint(of_account(json!({}), 1), &operator());
    ask(&mut admin(&server), "$SYS.REQ.CLAIMS.UPDATE", &pushed);
    let jwt = mint(user_claims(2, json!({})), &account(2));
    let pair = std::sync::Arc::new(user(2));
    let sign = move |nonce: Vec<u8>| {
        let pair = pair.clone();
        async move { pair.sign(&nonce).map_err(async_nats::AuthError::new) }
    };
    let options = async_nats::ConnectOptions::with_jwt(jwt, sign);
    let url = format!("nats://{}", server.address());
    let client = options.connect(url).await.expect("it is let in");
    let mut messages = client.subscribe("x").await.expect("it may");
    client.publish("x", "hello".into()).await.expect("it may");
    let message = tokio::time::timeout(WAIT_MAX, messages.next()).await.expect("in time");
    assert_eq!(message.expect("one").payload, "hello");
}
