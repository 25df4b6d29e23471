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
        assert_eq!(lines, expected);
        let text = log(&server);
        assert!(!text.contains("s3cret") && !text.contains("tok3n"), "{text}");
    }
}

/// The expectation above is what the original writes: checked if one is available. Its CONNECT
/// keeps the order of keys, ours is sorted; its lines about removed subscriptions we do not write.
#[test]
fn expected_trace_lines_are_what_the_original_writes() {
    let Some(original) = std::env::var_os("NATS_SERVER") else {
        println!("NATS_SERVER names no nats-server");
        return;
    };
    let server = Server::start(Path::new(&original), &["-DV"], "").unwrap();
    let lines = lines_of(&server, CONVERSATION);
    let lines: Vec<_> = lines.iter().filter(|line| !line.contains("<-> [DELSUB")).collect();
    let expected: Vec<&str> = EXPECTED.trim().lines().collect();
    assert_eq!(lines, expected);
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
