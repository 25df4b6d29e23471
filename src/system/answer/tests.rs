//! Answers, byte for byte as nats-server gave them except for `>`, which it escapes.

use super::*;
use crate::config::auth_options::ResponsePermissionOptions;
use crate::config::options::Options;

fn server() -> ServerInfo {
    let info = Info {
        server_name: "real".into(),
        host: "127.0.0.1".into(),
        server_id: "NABC".into(),
        version: "2.15.3".into(),
        ..Info::default()
    };
    let options = Options {
        server_tags: vec!["a:b".into()],
        server_metadata: vec![("x".into(), "y".into())],
        ..Options::default()
    };
    ServerInfo::new(&info, &options, 13, SystemTime::UNIX_EPOCH)
}

const SERVER: &str = r#"{"name":"real","host":"127.0.0.1","id":"NABC","ver":"2.15.3","tags":["a:b"],"metadata":{"x":"y"},"feature_flags":{"js_ack_fc_v2":false,"js_api_reply_v2":false,"js_raft_delete_range":true,"js_snapshot_sources":false},"jetstream":false,"flags":0,"seq":13,"time":"1970-01-01T00:00:00Z"}"#;

fn enveloped(outcome: Outcome) -> String {
    let text = String::from_utf8(envelope(&server(), &outcome)).unwrap();
    let head = format!(r#"{{"server":{SERVER}"#);
    text.strip_prefix(&head).expect("it begins with the server").to_owned()
}

#[test]
fn an_envelope_has_data_or_an_error_or_neither() {
    assert_eq!(enveloped(Outcome::Done), "}");
    let data = b"{\n  \"a b\": \"c \\\" d\\\\\",\n  \"e\": [ 1 ]\n}";
    let expected = r#","data":{"a b":"c \" d\\","e":[1]}}"#;
    assert_eq!(enveloped(Outcome::Data(data.to_vec())), expected);
    let expected = r#","error":{"code":400,"description":"unexpected end of JSON input"}}"#;
    assert_eq!(enveloped(Outcome::BadRequest("unexpected end of JSON input".into())), expected);
    let expected =
        r#","data":null,"error":{"code":500,"description":"invalid sorting option: zz"}}"#;
    assert_eq!(enveloped(Outcome::failed("invalid sorting option: zz")), expected);
    let expected = r#","error":{"code":500,"description":"no such client id"}}"#;
    assert_eq!(enveloped(Outcome::refused("no such client id")), expected);
}

#[test]
fn a_user_is_told_its_permissions() {
    let nobody = enveloped(Outcome::data(&UserInfo::new("", ("$G", "$G"), None)));
    assert_eq!(nobody, r#","data":{"user":"","account":"$G","account_name":"$G"}}"#);
    let list = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    let permissions = PermissionOptions {
        publish: Some(SubjectPermissionOptions {
            allow: list(&["foo.b", "bar"]),
            deny: list(&["foo.x"]),
        }),
        subscribe: Some(SubjectPermissionOptions { allow: list(&["q.* grp"]), deny: None }),
        allow_responses: Some(ResponsePermissionOptions {
            messages_max: Some(3),
            expires: Some(Duration::from_secs(60)),
        }),
    };
    let limited = enveloped(Outcome::data(&UserInfo::new("lim", ("A", "A"), Some(&permissions))));
    let expected = r#","data":{"user":"lim","account":"A","account_name":"A","permissions":{"publish":{"allow":["bar","foo.b"],"deny":["foo.x"]},"subscribe":{"allow":["q.* grp"]},"responses":{"max":3,"ttl":60000000000}}}}"#;
    assert_eq!(limited, expected);
}

#[test]
fn statistics_leave_out_what_never_happened() {
    let mut facts = StatsFacts {
        started: SystemTime::UNIX_EPOCH,
        memory_bytes: 17_698_816,
        core_count: 2,
        shard_count: 3,
        cpu_percent: 0.5,
        connections: 1,
        connections_total: 11,
        active_accounts: 1,
        subscriptions: 70,
        sent: Volume { msgs: 7, bytes: 4668 },
        received: Volume { msgs: 11, bytes: 23 },
        slow_consumers: 0,
        stale_connections: 0,
        stalls: 0,
    };
    let text = String::from_utf8(stats(&server(), &facts)).unwrap();
    let expected = format!(
        r#"{{"server":{SERVER},"statsz":{{"start":"1970-01-01T00:00:00Z","mem":17698816,"cores":2,"cpu":0.5,"connections":1,"total_connections":11,"active_accounts":1,"subscriptions":70,"sent":{{"msgs":7,"bytes":4668}},"sent_to_clients":{{"msgs":7,"bytes":4668}},"received":{{"msgs":11,"bytes":23}},"received_from_clients":{{"msgs":11,"bytes":23}},"slow_consumers":0,"active_servers":1,"gomaxprocs":3}}}}"#
    );
    assert_eq!(text, expected);
    (facts.slow_consumers, facts.stale_connections, facts.stalls) = (2, 3, 4);
    let text = String::from_utf8(stats(&server(), &facts)).unwrap();
    let expected = r#""slow_consumers":2,"slow_consumer_stats":{"clients":2,"routes":0,"gateways":0,"leafs":0},"stale_connections":3,"stale_connection_stats":{"clients":3,"routes":0,"gateways":0,"leafs":0},"stalled_clients":4,"#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn profiles_and_variables_of_go_have_their_shape() {
    let expected = r#","data":{"profile":null,"error":"Profile name not specified"}}"#;
    assert_eq!(enveloped(profile("")), expected);
    let expected = r#","data":{"profile":null,"error":"Profile \"nope\" not found"}}"#;
    assert_eq!(enveloped(profile("nope")), expected);
    let expected = r#","data":{"profile":null,"error":"Profile \"allocs\" not supported: only nats-server has profiles of this kind"}}"#;
    assert_eq!(enveloped(profile("allocs")), expected);
    let expected = r#","data":{"memstats":{"Sys":5},"cmdline":["midge"]}}"#;
    assert_eq!(enveloped(Outcome::Data(variables(5, "midge"))), expected);
}
