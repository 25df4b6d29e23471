//! Planted secrets: no endpoint shows any, whether clients logged in or failed to.

use std::time::Instant;

use super::support::raw_client::{Fill, RawClient};
use super::{ENDPOINTS, MIDGE, Monitored, WAIT_MAX};

/// Every way to store a secret in a configuration, and the CONNECT of a client that knows it.
const WAYS: [(&str, &str); 4] = [
    ("authorization { token: \"planted-token\" }", r#"{"auth_token":"planted-token"}"#),
    (
        "authorization { user: ann, password: \"planted-password\" }",
        r#"{"user":"ann","pass":"planted-password"}"#,
    ),
    (
        // bcrypt of "planted-password", cost 4.
        "authorization { users: [ { user: ann, password: \"$2a$04$BCRYPT\" } ] }",
        r#"{"user":"ann","pass":"planted-password"}"#,
    ),
    (
        "accounts { A { users: [ { user: ann, password: \"planted-password\" } ] } }",
        r#"{"user":"ann","pass":"planted-password"}"#,
    ),
];

/// What must not be visible: each secret, and enough of a hash to recognise it.
const SECRETS: [&str; 2] = ["planted-", "$2a$"];

fn say(monitored: &Monitored, connect: &str) -> RawClient {
    let mut client = RawClient::connect(monitored.server.address()).unwrap();
    client.send(format!("CONNECT {connect}\r\nSUB a 1\r\nPING\r\n").as_bytes()).unwrap();
    client
}

#[test]
fn no_endpoint_and_no_log_line_tells_a_secret() {
    let hash = bcrypt::hash("planted-password", 4).unwrap();
    // Go writes the prefix that its own library knows.
    let hash = hash.replacen("$2b$", "$2a$", 1);
    for (config, right) in WAYS {
        let config = config.replace("$2a$04$BCRYPT", &hash);
        let arguments = ["--shards", "2", "--no-pin", "-DV"];
        let monitored = Monitored::start_program(MIDGE.as_ref(), &arguments, &config);
        let deadline = Instant::now() + WAIT_MAX;
        let mut known = say(&monitored, right);
        while known.take_line(deadline).unwrap_or_else(|| panic!("no PONG: {config}"))
            != b"PONG\r\n"
        {}
        let mut strangers = Vec::new();
        for wrong in [
            r#"{"auth_token":"planted-wrong"}"#,
            r#"{"user":"ann","pass":"planted-wrong","auth_token":"planted-too"}"#,
            r#"{"user":"ann","pass":"planted-wrong","jwt":"planted-jwt","sig":"planted-signature"}"#,
            r#"{"nkey":"UNOTAKEY","sig":"planted-signature"}"#,
        ] {
            let mut stranger = say(&monitored, wrong);
            while stranger.fill(deadline) == Fill::Grown {}
            strangers.push(stranger);
        }
        monitored.json_when("/connz?state=closed", |connz| connz["total"] == strangers.len());
        let more = [
            "/",
            "/dashboard",
            "/metrics",
            "/healthz?details=1",
            "/connz?state=all&auth=1&subs=detail&sort=cid",
            "/connz?state=closed&auth=true&subs=1",
            "/connz?user=ann&auth=1",
            "/accountz?acc=A",
        ];
        for path in ENDPOINTS.iter().chain(&more) {
            let body = monitored.get(path).body;
            for secret in SECRETS {
                assert!(!body.contains(secret), "{path} with {config}: {body}");
            }
        }
        let log = monitored.server.log().lines().join("\n");
        for secret in SECRETS {
            assert!(!log.contains(secret), "{config}: {log}");
        }
    }
}
