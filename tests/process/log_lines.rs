//! Log lines, compared with what nats-server wrote for the same conversation.

use std::time::Instant;

use super::*;

/// What nats-server logs with `-DV` for `CONVERSATION`, without time, address and client id.
const EXPECTED: &str = r#"
DBG Client connection created
TRC <<- [CONNECT {"auth_token":"[REDACTED]","headers":true,"lang":"raw","name":"me","pass":"[REDACTED]","user":"u","verbose":true,"version":"1.2"}]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [PING]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [PONG]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [SUB foo 1]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [SUB foo q 2]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [UNSUB 2 9]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [UNSUB 3]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [PUB foo 2]
TRC "v1.2:raw:me" - "$G/user:u" - <<- MSG_PAYLOAD: ["hi"]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [MSG foo 1 2]
TRC "v1.2:raw:me" - "$G/user:u" - ->> MSG_PAYLOAD: ["hi"]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [MSG foo 2 2]
TRC "v1.2:raw:me" - "$G/user:u" - ->> MSG_PAYLOAD: ["hi"]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [HPUB foo bar 12 14]
TRC "v1.2:raw:me" - "$G/user:u" - <<- MSG_PAYLOAD: ["NATS/1.0\r\n\r\nhi"]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [HMSG foo 1 bar 12 14]
TRC "v1.2:raw:me" - "$G/user:u" - ->> MSG_PAYLOAD: ["NATS/1.0\r\n\r\nhi"]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [HMSG foo 2 bar 12 14]
TRC "v1.2:raw:me" - "$G/user:u" - ->> MSG_PAYLOAD: ["NATS/1.0\r\n\r\nhi"]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [PUB nobody 0]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [OK]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [SUB foo..x 9]
TRC "v1.2:raw:me" - "$G/user:u" - ->> [-ERR Invalid Subject]
TRC "v1.2:raw:me" - "$G/user:u" - <<- [PONG]
DBG "v1.2:raw:me" - "$G/user:u" - Client connection closed: Client Closed
"#;

const CONVERSATION: &[u8] = b"CONNECT {\"auth_token\":\"tok3n\",\"headers\":true,\"lang\":\"raw\",\"name\":\"me\",\"pass\":\"s3cret\",\"user\":\"u\",\"verbose\":true,\"version\":\"1.2\"}\r\nPING\r\nSUB foo 1\r\nSUB foo q 2\r\nUNSUB 2 9\r\nUNSUB 3\r\nPUB foo 2\r\nhi\r\nHPUB foo bar 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPUB nobody 0\r\n\r\nSUB foo..x 9\r\nPONG\r\n";

/// Holds the conversation and returns the log lines about this client.
fn lines_of(server: &Server, conversation: &[u8]) -> Vec<String> {
    let mut client = RawClient::connect(server.address()).unwrap();
    let start_index = server.log().line_count();
    client.send(conversation).unwrap();
    client.close();
    let who = format!("127.0.0.1:{} - cid:", client.local_port());
    let marker = |line: &str| line.contains("Client connection closed").then_some(());
    // Without -D this client has no last line: the end of a second one is waited for instead.
    let closed = server.log().wait_for(start_index, std::time::Duration::from_secs(2), marker);
    if closed.is_none() {
        serves(server);
    }
    let lines = server.log().lines();
    lines.iter().filter_map(|line| normalised(line, &who)).collect()
}

/// Extracts `TRC "v1…" - <<- [PING]` from a line about this client.
fn normalised(line: &str, who: &str) -> Option<String> {
    let (head, rest) = line.split_once(who)?;
    let (_, rest) = rest.split_once(" - ")?;
    let level = head.split(['[', ']']).nth(3).expect("[pid] time [level]");
    Some(format!("{level} {rest}"))
}

#[test]
fn trace_lines_are_those_of_nats_server() {
    for shard_count in [1, 2] {
        let server = Server::midge_with(shard_count, &["-DV"], "");
        let lines = lines_of(&server, CONVERSATION);
        let expected: Vec<&str> = EXPECTED.trim().lines().collect();
        assert_eq!(without_deletions(&server, lines), expected);
        let text = log(&server);
        assert!(!text.contains("s3cret") && !text.contains("tok3n"), "{text}");
    }
}

/// Checks that both subscriptions of `CONVERSATION` went with their client, in either order, and
/// returns the other lines.
fn without_deletions(server: &Server, mut lines: Vec<String>) -> Vec<String> {
    for sid in ["1", "2"] {
        wait_for_line(server, 0, &format!(" - <-> [DELSUB {sid}]"));
    }
    lines.retain(|line| !line.contains("<-> [DELSUB"));
    lines
}

/// The expectation above is what the original writes: checked if one is available. Its CONNECT
/// keeps the order of keys, ours is sorted.
#[test]
fn expected_trace_lines_are_what_the_original_writes() {
    let Some(original) = std::env::var_os("NATS_SERVER") else {
        println!("NATS_SERVER names no nats-server");
        return;
    };
    let server = Server::start(Path::new(&original), &["-DV"], "").unwrap();
    let lines = lines_of(&server, CONVERSATION);
    let expected: Vec<&str> = EXPECTED.trim().lines().collect();
    assert_eq!(without_deletions(&server, lines), expected);
}

#[test]
fn levels_are_switched_one_by_one() {
    for (arguments, debug, trace) in [
        (&[][..], false, false),
        (&["-D"], true, false),
        (&["-V"], false, true),
        (&["-D", "-V"], true, true),
    ] {
        let server = Server::midge_with(1, arguments, "");
        let mut client = RawClient::connect(server.address()).unwrap();
        client.send(b"FOO\r\n").unwrap();
        client.close();
        wait_for_line(&server, 0, "[ERR] 127.0.0.1");
        serves(&server);
        let text = log(&server);
        assert_eq!(text.contains("[DBG]"), debug, "{arguments:?}: {text}");
        assert_eq!(text.contains("[TRC]"), trace, "{arguments:?}: {text}");
    }
}

#[test]
fn the_payload_of_a_trace_line_is_cut_at_the_configured_length() {
    let server = Server::midge_with(1, &["-DV", "--max_traced_msg_len", "5"], "");
    let lines = lines_of(&server, b"CONNECT {\"verbose\":false}\r\nPUB foo 11\r\nhello world\r\n");
    assert!(lines.contains(&"TRC <<- MSG_PAYLOAD: [\"hello...\"]".to_owned()), "{lines:?}");
    let server = Server::midge(1, "debug: true, trace: true, trace_headers: true");
    let conversation = b"CONNECT {\"verbose\":false,\"headers\":true}\r\nHPUB foo 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\nPUB foo 2\r\nhi\r\n";
    let lines = lines_of(&server, conversation);
    assert!(
        lines.contains(&r#"TRC <<- MSG_PAYLOAD: ["NATS/1.0\r\nA: b"]"#.to_owned()),
        "{lines:?}"
    );
    assert_eq!(lines.iter().filter(|line| line.contains("MSG_PAYLOAD")).count(), 1, "{lines:?}");
}

#[test]
fn a_line_is_pid_time_level_text() {
    let server = start(&[]);
    let lines = server.log().lines();
    let line = lines.iter().find(|line| line.ends_with("Server is ready")).unwrap();
    let shape: String =
        line.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    let pid = "0".repeat(server.process_id().to_string().len());
    assert_eq!(shape, format!("[{pid}] 0000/00/00 00:00:00.000000 [INF] Server is ready"));
    assert!(line.starts_with(&format!("[{}] ", server.process_id())));

    let server = start(&["-T=false"]);
    let ready = format!("[{}] [INF] Server is ready", server.process_id());
    assert!(server.log().lines().contains(&ready), "{}", log(&server));
    for text in
        ["Starting Midge", ", in place of nats-server 2.15.3", "  Name:     N", "  ID:       N"]
    {
        assert!(log(&server).contains(text), "{text}: {}", log(&server));
    }
    assert!(!log(&server).contains("Starting nats-server"), "{}", log(&server));

    let directory = Directory::new().unwrap();
    let server = start_command(command(nats_server(&directory)));
    for text in ["Starting nats-server", "  Version:  2.15.3", "  Name:     N", "  ID:       N"] {
        assert!(log(&server).contains(text), "{text}: {}", log(&server));
    }
}

#[test]
fn close_reasons_reach_the_log() {
    let server = start(&["-D"]);
    for (conversation, reason) in [
        (&b"FOO\r\n"[..], "Protocol Violation"),
        (b"PUB foo 99999999\r\n", "Maximum Message Payload Exceeded"),
        (b"CONNECT {\"protocol\":4}\r\n", "Bad Client Protocol Version"),
        (b"CONNECT {\"no_responders\":true}\r\n", "No Responders Requires Headers"),
        (b"-ERR 'x'\r\n", "Parse Error"),
        (b"PING\r\n", "Client Closed"),
    ] {
        let lines = server.log().line_count();
        let mut client = RawClient::connect(server.address()).unwrap();
        client.send(conversation).unwrap();
        if reason != "Client Closed" {
            let deadline = Instant::now() + WAIT_MAX;
            while client.take_line(deadline).is_some() {}
            assert!(client.is_closed(), "{reason}");
        }
        client.close();
        wait_for_line(&server, lines, &format!("Client connection closed: {reason}"));
    }
}

/// As nats-server, which traces a line before it judges the arguments.
#[test]
fn refused_commands_are_traced() {
    const UNKNOWN: &str = "TRC ->> [-ERR Unknown Protocol Operation]";
    let headers = "CONNECT {\"headers\":true,\"verbose\":false}\r\n";
    super::refusals::for_each_server(&["-DV"], "max_payload: 1000", |server| {
        for (conversation, expected) in [
            (
                "PUB foo 2000\r\n",
                &[
                    "TRC <<- [PUB foo 2000]",
                    "ERR maximum payload exceeded: 2000 vs 1000",
                    "TRC ->> [-ERR Maximum Payload Violation]",
                ][..],
            ),
            (
                "pub foo abc\r\n",
                &["TRC <<- [PUB foo abc]", "ERR processPub Bad or Missing Size: \"foo abc\""],
            ),
            (
                "PUB foo 3\r\nabcdef\r\n",
                &[
                    "TRC <<- [PUB foo 3]",
                    UNKNOWN,
                    "ERR Client parser ERROR, state=41, i=14: proto='\"def\\r\"...'",
                ],
            ),
            (
                "PUB a b c 3 4\r\n",
                &["TRC <<- [PUB a b c 3 4]", "ERR processPub Parse Error: \"a b c 3 4\""],
            ),
            (
                "SUB a b c d\r\n",
                &["TRC <<- [SUB a b c d]", "ERR processSub Parse Error: \"a b c d\""],
            ),
            (
                "UNSUB 1 2 3\r\n",
                &["TRC <<- [UNSUB 1 2 3]", "ERR processUnsub Parse Error: \"1 2 3\""],
            ),
            ("HPUB foo 1 2\r\n", &["TRC <<- [HPUB foo 1 2]", "ERR message headers not supported"]),
            ("PUB\r\n", &[UNKNOWN, "ERR Client parser ERROR, state=31, i=3: proto='\"\\r\"...'"]),
        ] {
            assert_eq!(traced(server, conversation), expected, "{conversation}");
        }
        let lines = traced(server, &format!("{headers}HPUB foo 10 5\r\n"));
        assert_eq!(lines[1], "TRC <<- [HPUB foo 10 5]", "{lines:?}");
        let lines = traced(server, &format!("{headers}HPUB foo 12 2000\r\n"));
        assert_eq!(lines[1], "TRC <<- [HPUB foo 12 2000]", "{lines:?}");
    });
}

/// The lines of a conversation but those of the debug log.
fn traced(server: &Server, conversation: &str) -> Vec<String> {
    let lines = lines_of(server, conversation.as_bytes());
    lines.into_iter().filter(|line| !line.starts_with("DBG")).collect()
}

#[test]
fn the_end_of_a_subscription_is_traced() {
    let conversation =
        b"SUB foo 1\r\nUNSUB 1 1\r\nPUB foo 1\r\na\r\nSUB x 3\r\nUNSUB 3\r\nUNSUB 9\r\n";
    super::refusals::for_each_server(&["-DV"], "", |server| {
        let lines = lines_of(server, conversation);
        for expected in [
            "DBG Auto-unsubscribe limit of 1 reached for sid '1'",
            "TRC <-> [DELSUB 1]",
            "TRC <-> [DELSUB 3]",
        ] {
            let found = lines.iter().filter(|line| *line == expected).count();
            assert_eq!(found, 1, "{expected}: {lines:?}");
        }
        assert!(!lines.iter().any(|line| line.contains("DELSUB 9")), "{lines:?}");
    });
}

#[test]
fn the_ping_timer_is_told_and_the_last_word_to_a_stale_client_is_not_traced() {
    let config = "ping_interval: \"100ms\"\nping_max: 1";
    super::refusals::for_each_server(&["-DV"], config, |server| {
        let mut client = RawClient::connect(server.address()).unwrap();
        client.send(b"CONNECT {\"verbose\":false}\r\n").unwrap();
        wait_for_line(server, 0, "Client connection closed: Stale Connection");
        let text = log(server);
        assert!(text.contains(" - Client Ping Timer"), "{text}");
        assert!(text.contains("->> [PING]"), "{text}");
        assert!(!text.contains("->> [-ERR"), "{text}");
    });
}

#[test]
fn a_trace_in_json_says_whom_it_is_about_in_fields() {
    let server = Server::midge_with(1, &["-DV", "--log-format", "json"], "");
    let mut client = RawClient::connect(server.address()).unwrap();
    client.send(b"CONNECT {\"verbose\":false,\"name\":\"me\"}\r\n").unwrap();
    client.round_trip().unwrap();
    let line = server
        .log()
        .wait_for(0, WAIT_MAX, |line| line.contains("->> [PONG]").then(|| line.to_owned()));
    let line: serde_json::Value = serde_json::from_str(&line.expect("a trace")).unwrap();
    assert_eq!(line["level"], "trace");
    assert_eq!(line["address"], format!("127.0.0.1:{}", client.local_port()));
    assert_eq!(line["name"], "me");
    assert_eq!(line["account"], "$G");
    let cid = line["cid"].as_u64().expect("a number");
    assert!(line["message"].as_str().unwrap().contains(&format!(" - cid:{cid} - ")), "{line}");
}
