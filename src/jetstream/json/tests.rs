//! Decoding and encoding against `cases.txt`, which Go's `encoding/json` made from nats-server's own
//! structs.

use serde::Serialize;

use super::decode::{DecodeError, decode};
use super::encode::encode;
use super::timestamp::Timestamp;
use crate::base::limits::JSON_DEPTH_MAX;
use crate::jetstream::consumer_config::{ConsumerConfig, CreateConsumerRequest};
use crate::jetstream::stream_config::{StreamConfig, StreamConfigRequest};

#[test]
fn bodies_give_the_same_configuration_or_error_as_in_go() {
    let mut failures = Vec::new();
    for line in include_str!("cases.txt").lines().filter(|line| !line.starts_with('#')) {
        let (kind, rest) = line.split_once(' ').expect("a kind stands first");
        let (body, expected) = rest.split_once('\t').expect("two columns");
        let text = |column| serde_json::from_str::<String>(column).expect("a JSON string");
        let (body, expected) = (text(body), text(expected));
        let result = again(kind, body.as_bytes());
        if result != expected {
            failures.push(format!("{kind} {body}\n   Go  {expected}\n   own {result}"));
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// The configuration in `body` written again, or the error.
fn again(kind: &str, body: &[u8]) -> String {
    let json = match kind {
        "S" => StreamConfigRequest::from_json(body, true).map(|request| request.config.to_json()),
        "C" => CreateConsumerRequest::from_json(body, true).map(|request| request.config.to_json()),
        "L" => {
            let mut request = StreamConfigRequest::default();
            decode(body, &mut request).map(|()| request.config.to_json())
        }
        "D" => {
            let mut request = CreateConsumerRequest::default();
            decode(body, &mut request).map(|()| request.config.to_json())
        }
        other => panic!("no kind {other}"),
    };
    match json {
        Ok(json) => String::from_utf8(json).expect("what is written is text"),
        Err(DecodeError(text)) => format!("E {text}"),
    }
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    let cases: [(&[u8], &str); 4] = [
        (b"{\"name\":\"a\xffb\"}", "a\u{fffd}b"),
        (b"{\"name\":\"\xc3\"}", "\u{fffd}"),
        (b"{\"name\":\"\xe2\x82\"}", "\u{fffd}\u{fffd}"),
        (b"{\"name\":\"\xed\xa0\x80\"}", "\u{fffd}\u{fffd}\u{fffd}"),
    ];
    for (body, expected) in cases {
        let request = StreamConfigRequest::from_json(body, true).expect("the body is valid");
        assert_eq!(request.config.name, expected);
    }
    let error = StreamConfigRequest::from_json(b"{\"retention\":\"\xff\xc3\xa9\"}", true);
    assert_eq!(error.expect_err("no name").0, "can not unmarshal \"\\\"\\xff\u{e9}\\\"\"");
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| {
        let body = format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        StreamConfigRequest::from_json(body.as_bytes(), true).expect_err("there is no field a").0
    };
    assert_eq!(nested(JSON_DEPTH_MAX), "json: unknown field \"a\"");
    let offset = "{\"a\":".len() + JSON_DEPTH_MAX;
    assert_eq!(
        nested(JSON_DEPTH_MAX + 1),
        format!("invalid character '[' exceeded max depth at offset {offset}")
    );
}

#[test]
fn a_lenient_request_drops_unknown_fields_and_nothing_else() {
    let lenient = |body: &str| {
        StreamConfigRequest::from_json(body.as_bytes(), false).map(|request| request.config.name)
    };
    assert_eq!(lenient("{\"name\":\"S\",\"bogus\":1}"), Ok("S".into()));
    assert_eq!(lenient("{\"name\":\"S\"}{\"name\":\"T\"}"), Ok("T".into()));
    let texts = [
        (
            "{\"name\":1,\"bogus\":1}",
            "json: cannot unmarshal number into Go struct field \
             StreamConfigRequest.StreamConfig.name of type string",
        ),
        ("{\"name\":", "unexpected end of JSON input"),
        ("{\"bogus\":1}{}", "invalid character '{' after top-level value"),
    ];
    for (body, text) in texts {
        assert_eq!(lenient(body), Err(DecodeError(text.into())), "{body}");
    }
}

#[test]
fn times_keep_the_clients_offset_and_count_from_1970() {
    let parse = |text: &str| Timestamp::parse(text.as_bytes()).expect("the time is valid");
    let time = parse("2024-01-02T03:04:05.000000006-01:30");
    assert_eq!(time.unix_ns(), 1_704_170_045_000_000_006);
    assert_eq!(time.to_string(), "2024-01-02T03:04:05.000000006-01:30");
    assert_eq!(
        Timestamp::from_unix_ns(time.unix_ns()).to_string(),
        "2024-01-02T04:34:05.000000006Z"
    );
    assert_eq!(Timestamp::from_unix_ns(-1).to_string(), "1969-12-31T23:59:59.999999999Z");
    assert_eq!(parse("9999-12-31T23:59:59Z").unix_ns(), i64::MAX);
    assert_eq!(parse("0001-01-01T00:00:00Z").unix_ns(), i64::MIN);
    assert!(parse("0001-01-01T01:00:00+01:00").is_zero());
    assert_eq!(Timestamp::ZERO.to_string(), "0001-01-01T00:00:00Z");
    assert!(Timestamp::parse(b"2024-01-02T03:04:05+24:00").is_err());
}

#[test]
fn strings_are_written_with_the_escapes_of_go() {
    #[derive(Serialize)]
    struct Text(&'static str);
    let cases = [
        ("a<b>c&d", "\"a\\u003cb\\u003ec\\u0026d\""),
        ("\u{2028}x\u{2029}", "\"\\u2028x\\u2029\""),
        ("\x00\x08\x0c\n\r\t\x1f\x7f", "\"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\""),
        ("\"\\/\u{e9}\u{1f600}", "\"\\\"\\\\/\u{e9}\u{1f600}\""),
    ];
    for (text, expected) in cases {
        assert_eq!(String::from_utf8(encode(&Text(text))).expect("it is text"), expected);
    }
}

/// Bodies of the table with bytes changed, doubled, taken out or cut: each is read or refused, and
/// what is read is the same once it was written.
#[test]
fn changed_bodies_are_read_or_refused_and_read_again_the_same() {
    let bodies: Vec<Vec<u8>> = include_str!("cases.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let column = line.split_once(' ').expect("a kind stands first").1;
            let (body, _) = column.split_once('\t').expect("two columns");
            serde_json::from_str::<String>(body).expect("a JSON string").into_bytes()
        })
        .collect();
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut body = bodies[random.usize(..bodies.len())].clone();
        for _ in 0..random.usize(..4) {
            let at = random.usize(..=body.len());
            match random.u8(..4) {
                0 => body.truncate(at),
                1 => body.insert(at, b"{}[]\",:\\u0e-.n \xff"[random.usize(..16)]),
                2 if at < body.len() => body[at] = random.u8(..),
                _ => body.extend_from_within(at..),
            }
        }
        let is_strict = random.bool();
        if let Ok(request) = StreamConfigRequest::from_json(&body, is_strict) {
            let json = request.config.to_json();
            assert_eq!(StreamConfig::from_json(&json), Ok(request.config), "seed {seed}");
        }
        if let Ok(request) = CreateConsumerRequest::from_json(&body, is_strict) {
            let json = request.config.to_json();
            assert_eq!(ConsumerConfig::from_json(&json), Ok(request.config), "seed {seed}");
        }
    }
}
