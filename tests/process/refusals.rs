//! Log lines about refused clients, to the byte as nats-server writes them: tools such as fail2ban
//! parse them. `NATS_SERVER=path` tests that server too.

use std::time::Instant;

use super::*;

/// Returns the log line about this client that has this text, without time and address.
fn line_about(server: &Server, client: &RawClient, text: &str) -> String {
    let who = format!("127.0.0.1:{} - cid:", client.local_port());
    let line = server.log().wait_for(0, WAIT_MAX, |line| {
        let (head, rest) = line.split_once(&who)?;
        let level = head.split(['[', ']']).nth(3)?;
        let (_, rest) = rest.split_once(" - ")?;
        rest.contains(text).then(|| format!("{level} {rest}"))
    });
    line.unwrap_or_else(|| panic!("no {text:?} of {who}:\n{}", log(server)))
}

fn send(server: &Server, bytes: &[u8]) -> RawClient {
    let mut client = RawClient::connect(server.address()).unwrap();
    client.send(bytes).unwrap();
    client
}

/// Runs the test with Midge, and with the original if there is one.
pub(super) fn for_each_server(arguments: &[&str], config: &str, test: impl Fn(&Server)) {
    for shards in ["1", "2"] {
        let all = [&["--shards", shards, "--no-pin"], arguments].concat();
        test(&Server::start(Path::new(MIDGE), &all, config).unwrap());
    }
    if let Some(original) = std::env::var_os("NATS_SERVER") {
        test(&Server::start(Path::new(&original), arguments, config).unwrap());
    }
}

const ACCOUNTS: &str = r#"
max_subscriptions: 10
accounts {
  FULL { limits: { max_connections: 1 }, users: [{ user: one, password: planted }] }
  FEW { limits: { max_subscriptions: 2 }, users: [{ user: few, password: planted }] }
}
"#;

#[test]
fn refused_logins_are_logged_as_by_nats_server() {
    for_each_server(&["-D"], ACCOUNTS, |server| {
        for (login, expected) in [
            (r#"CONNECT {"user":"one","pass":"planted?"}"#, r#" - User "one""#),
            (
                r#"CONNECT {"user":"no\"body","pass":"planted?","name":"x"}"#,
                r#" - User "no\"body""#,
            ),
            (r#"CONNECT {"auth_token":"planted?","lang":"x"}"#, r#" - Token "[REDACTED]""#),
            (r#"CONNECT {"nkey":"UABC","sig":"planted?"}"#, r#" - Nkey "UABC""#),
            (r#"CONNECT {"pass":"planted?","version":"1"}"#, ""),
            ("PING", ""),
        ] {
            let client = send(server, format!("{login}\r\n").as_bytes());
            let expected = format!("ERR authentication error{expected}");
            assert_eq!(line_about(server, &client, "authentication error"), expected);
            // Nobody was let in, so the name that CONNECT gave appears nowhere.
            let expected = "DBG Client connection closed: Authentication Failure";
            assert_eq!(line_about(server, &client, "closed"), expected);
        }
        assert!(!log(server).contains("planted"), "{}", log(server));
    });
}

/// The reason appears in the debug log only.
#[test]
fn the_reason_of_a_refused_login_is_in_the_debug_log() {
    let server = Server::midge_with(1, &["-D"], ACCOUNTS);
    let client = send(&server, b"CONNECT {\"user\":\"one\",\"pass\":\"wrong\"}\r\n");
    assert_eq!(line_about(&server, &client, "refused"), "DBG Login refused: wrong password");
}

#[test]
fn exceeded_limits_are_logged_as_by_nats_server() {
    for_each_server(&["-D"], ACCOUNTS, |server| {
        let login =
            b"CONNECT {\"user\":\"one\",\"pass\":\"planted\",\"name\":\"x\",\"verbose\":false}\r\n";
        let mut first = send(server, login);
        first.round_trip().unwrap();
        let second = send(server, login);
        let expected = "ERR maximum account active connections exceeded";
        assert_eq!(line_about(server, &second, "exceeded"), expected);
        // Each client of a burst has its line.
        let burst: Vec<RawClient> = (0..5).map(|_| send(server, login)).collect();
        for client in &burst {
            assert_eq!(line_about(server, client, "exceeded"), expected);
        }
        let few =
            b"CONNECT {\"user\":\"few\",\"pass\":\"planted\",\"name\":\"x\",\"verbose\":false}\r\n\
                    SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n";
        let few = send(server, few);
        let expected = r#"ERR "x" - "FEW/user:few" - maximum subscriptions exceeded"#;
        assert_eq!(line_about(server, &few, "exceeded"), expected);
    });
    for_each_server(&[], "max_connections: 1", |server| {
        let mut first = RawClient::connect(server.address()).unwrap();
        first.round_trip().unwrap();
        let second = RawClient::connect(server.address()).unwrap();
        let expected = "ERR maximum connections exceeded";
        assert_eq!(line_about(server, &second, "exceeded"), expected);
    });
}

const CONNECT: &str = r#"CONNECT {"headers":true,"lang":"x"}"#;

#[test]
fn protocol_errors_are_logged_as_by_nats_server() {
    let cases: [(&str, &str); 14] = [
        ("FOO", r#"Client parser ERROR, state=0, i=0: proto='"FOO\r"...'"#),
        ("PINX", r#"Client parser ERROR, state=35, i=3: proto='"X\r"...'"#),
        ("PUB a 3\r\nabcdef", r#"Client parser ERROR, state=41, i=12: proto='"def\r"...'"#),
        ("PUB a b c d", r#"processPub Parse Error: "a b c d""#),
        ("PUB a \"\x01", r#"processPub Bad or Missing Size: "a \"\x01""#),
        ("SUB a", r#"processSub Parse Error: "a""#),
        ("UNSUB a b c", r#"processUnsub Parse Error: "a b c""#),
        ("HPUB a 1 2", "message headers not supported"),
        ("+HPUB a b c 1 2", r#"processHeaderPub Parse Error: "a b c 1 2""#),
        ("+HPUB a x 2", r#"processHeaderPub Bad or Missing Header Size: "a x 2""#),
        ("+HPUB a 1 x", r#"processHeaderPub Bad or Missing Total Size: "a 1 x""#),
        ("+HPUB a 3 2", r#"processHeaderPub Header Size larger then TotalSize: "a 3 2""#),
        ("PUB a 100", "maximum payload exceeded: 100 vs 64"),
        ("-ERR 'why'", "Client Error 'why'"),
    ];
    for_each_server(&[], "max_payload: 64", |server| {
        for (line, expected) in cases {
            let (start, who, line) = match line.strip_prefix('+') {
                Some(line) => (format!("{CONNECT}\r\n"), "\"x\" - ", line),
                None => (String::new(), "", line),
            };
            let client = send(server, format!("{start}{line}\r\n").as_bytes());
            assert_eq!(line_about(server, &client, ""), format!("ERR {who}{expected}"));
        }
        // The position is that in the bytes of one read; here there is only one.
        let client = send(server, format!("{CONNECT}\r\nFOO\r\n").as_bytes());
        let expected = r#"ERR "x" - Client parser ERROR, state=0, i=37: proto='"FOO\r"...'"#;
        assert_eq!(line_about(server, &client, ""), expected);
    });
}

/// nats-server quotes the password of a misspelt CONNECT.
#[test]
fn possible_secrets_are_not_quoted() {
    let server = Server::midge(1, "");
    for conversation in [
        "CONECT {\"pass\":\"planted\"}\r\n",
        "FOO\r\nCONNECT {\"pass\":\"planted\"}\r\n",
        "PUB a b CONNECT {\"pass\":\"planted\"}\r\n",
    ] {
        line_about(&server, &send(&server, conversation.as_bytes()), "");
    }
    assert!(!log(&server).contains("planted"), "{}", log(&server));
}

#[test]
fn a_subject_of_too_many_tokens_is_told_as_nats_server_tells_it() {
    for_each_server(&[], "max_sub_tokens: 3", |server| {
        let client = send(server, b"CONNECT {}\r\nSUB a.b.c 1\r\nSUB a.b.c.d 2\r\n");
        let expected = r#"ERR Subscription Violation Too Many Tokens - Subject "a.b.c.d", SID 2"#;
        assert_eq!(line_about(server, &client, "Violation"), expected);
    });
}

/// The file's users win over the user that a flag names, at start and after a reload.
#[test]
fn a_user_of_the_flags_beside_users_of_the_file_is_refused_and_those_get_in() {
    let file = "authorization { users: [ {user: a, password: planted} ] }";
    for_each_server(&["--user", "u", "--pass", "planted"], file, |server| {
        for round in 0..2 {
            let client = send(server, b"CONNECT {\"user\":\"u\",\"pass\":\"planted\"}\r\n");
            let line = line_about(server, &client, "authentication error");
            assert_eq!(line, r#"ERR authentication error - User "u""#);
            let mut client =
                send(server, b"CONNECT {\"user\":\"a\",\"pass\":\"planted\"}\r\nPING\r\n");
            let deadline = Instant::now() + WAIT_MAX;
            let mut said = Vec::new();
            while let Some(line) = client.take_line(deadline) {
                said.extend_from_slice(&line);
                if line.starts_with(b"PONG") || line.starts_with(b"-ERR") {
                    break;
                }
            }
            assert!(String::from_utf8_lossy(&said).contains("PONG"), "round {round}");
            if round == 0 {
                let lines = server.log().line_count();
                server.signal(Signal::HUP).unwrap();
                wait_for_line(server, lines, "Reloaded server configuration");
            }
        }
    });
}

#[test]
fn a_monitoring_port_that_is_taken_ends_the_start_in_nats_servers_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for program in [Some(MIDGE.into()), std::env::var_os("NATS_SERVER")].into_iter().flatten() {
        let (code, _, log) = output(program, &["-a", "127.0.0.1", "-p", "-1", "-m", &port]);
        assert_eq!(code, 1);
        let expected = format!(
            "[FTL] Can't start monitoring: can't listen to the monitor port: listen tcp \
             127.0.0.1:{port}: bind: address already in use"
        );
        assert!(log.contains(&expected), "{log}");
    }
}

#[test]
fn a_deprecated_switch_of_a_health_probe_is_told() {
    for_each_server(&["-m", "-1"], "", |server| {
        let lines = server.log().line_count();
        server.monitor_get("/healthz?js-enabled=true").unwrap();
        let expected = "[WRN] Healthcheck: js-enabled deprecated, use js-enabled-only instead";
        wait_for_line(server, lines, expected);
    });
}
