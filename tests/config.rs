//! The combinations of options that operators use most, as files, each with the effect it must
//! have. nats-server 2.15.3 accepts every one of them (except for the `midge` block, which it does
//! not know).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use midge::testing::config::auth_options::{PermissionOptions, Secret};
use midge::testing::config::import_options::{ExportKind, ImportKind, ResponseType};
use midge::testing::config::load::{self, Loaded};
use midge::testing::config::options::{
    Balance, IoDriver, LogFormat, Options, PAYLOAD_BYTES_UNLIMITED, WriteTimeoutPolicy,
};
use midge::testing::config::surroundings::SystemSurroundings;
use midge::testing::config::tls_options::{HandshakeFirst, TlsVersion, Verify};

const NKEY: &str = "UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX";
const BCRYPT: &str = "$2a$11$3kIDaCxw.Glsl1.u5nKa6eUnNDLV5HV9tIuUp7EHhMt6Nm9myW1aS";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn load(name: &str) -> Options {
    let path = directory().join(format!("{name}.conf"));
    match load::load_file(&path, &SystemSurroundings::AT_START, false) {
        Ok(Loaded { options, warnings, unsupported }) => {
            assert_eq!((warnings, unsupported), (vec![], vec![]), "{name}");
            load::validate(&options).unwrap_or_else(|reason| panic!("{name}: {reason}"));
            assert!(options.config_digest.starts_with("sha256:"), "{name}");
            options
        }
        Err(reason) => panic!("{name}: {reason}"),
    }
}

fn texts(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(|text| text.to_string()).collect())
}

fn permissions<'a>(options: &'a Options, user: &str) -> &'a PermissionOptions {
    let found = options.auth.users.iter().find(|candidate| candidate.user == user);
    found.and_then(|user| user.permissions.as_ref()).expect("the user has permissions")
}

fn publish_allow(options: &Options, user: &str) -> Option<Vec<String>> {
    permissions(options, user).publish.as_ref().and_then(|lists| lists.allow.clone())
}

fn subscribe_allow(options: &Options, user: &str) -> Option<Vec<String>> {
    permissions(options, user).subscribe.as_ref().and_then(|lists| lists.allow.clone())
}

type Check = fn(&Options);

/// File name without its ending, and a check of the resulting options.
const CASES: &[(&str, Check)] = &[
    ("address_in_one", |o| {
        assert_eq!((o.listen.host.as_str(), o.listen.port), ("127.0.0.1", 5222))
    }),
    ("address_in_parts", |o| assert_eq!((o.listen.host.as_str(), o.listen.port), ("::1", 5222))),
    ("any_port", |o| assert_eq!((o.listen.port, o.monitor.port), (0, Some(0)))),
    ("plain_json", |o| {
        assert_eq!((o.listen.port, o.server_name.as_deref()), (5222, Some("one")));
        assert_eq!(o.auth.user.as_deref(), Some("a"));
        assert!(o.log.debug);
    }),
    ("named_and_tagged", |o| {
        assert_eq!(o.server_name.as_deref(), Some("eu-1"));
        assert_eq!(o.server_tags, ["region:eu", "zone-1"]);
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(o.server_metadata, [pair("owner", "ops"), pair("rack", "7")]);
        let told = o.listen.client_advertise.as_ref().expect("it is given");
        assert_eq!((told.host.as_str(), told.port), ("nats.example.com", Some(4222)));
    }),
    ("monitoring", |o| {
        assert_eq!(o.monitor.host.as_deref(), Some("127.0.0.1"));
        assert_eq!((o.monitor.port, o.monitor.https_port), (Some(8222), None));
        assert_eq!(o.monitor.base_path, "/nats");
    }),
    ("monitoring_port_only", |o| {
        assert_eq!((o.monitor.port, o.monitor.host.as_deref()), (Some(8222), None));
    }),
    ("log_to_file", |o| {
        assert!(o.log.debug && !o.log.trace && o.log.timestamp && o.log.timestamp_utc);
        assert_eq!(o.log.file, Some(PathBuf::from("/var/log/nats.log")));
        assert_eq!((o.log.file_bytes_max, o.log.file_count_max), (100 << 20, 5));
        assert_eq!(o.log.traced_message_bytes_max, 256);
    }),
    ("trace_headers_only", |o| assert!(o.log.trace && o.log.trace_headers)),
    ("trace_verbose", |o| assert!(o.log.trace && o.log.trace_verbose)),
    ("files_of_the_process", |o| {
        assert_eq!(o.files.pid, Some(PathBuf::from("/run/nats.pid")));
        assert_eq!(o.files.ports_dir, Some(PathBuf::from("/run/nats")));
    }),
    ("larger_messages", |o| {
        assert_eq!(o.limits.payload_bytes_max, 8 << 20);
        assert_eq!(o.limits.pending_bytes_max, 256 << 20);
        assert_eq!(o.limits.write_deadline, Duration::from_secs(5));
    }),
    ("limits", |o| {
        assert_eq!((o.limits.connections_max, o.limits.subscriptions_max), (1000, 50));
        assert_eq!((o.limits.subject_tokens_max, o.limits.control_line_bytes_max), (8, 8 << 10));
        assert_eq!(o.limits.closed_connections_max, 100);
    }),
    ("zero_limits", |o| {
        assert_eq!((o.limits.connections_max, o.limits.subscriptions_max), (0, 0));
        assert_eq!(o.limits.payload_bytes_max, PAYLOAD_BYTES_UNLIMITED);
    }),
    ("decimal_units", |o| {
        assert_eq!(o.limits.payload_bytes_max, 2_000_000);
        assert_eq!(o.limits.pending_bytes_max, 1_000_000_000);
    }),
    ("keep_alive", |o| {
        assert_eq!(o.keep_alive.ping_interval, Duration::from_secs(20));
        assert_eq!(o.keep_alive.ping_max, 5);
    }),
    ("lame_duck", |o| {
        assert_eq!(o.lame_duck.duration, Duration::from_secs(60));
        assert_eq!(o.lame_duck.grace_period, Duration::from_secs(5));
    }),
    ("slow_consumers", |o| {
        assert_eq!(o.limits.write_timeout, WriteTimeoutPolicy::Retry);
        assert!(o.limits.no_fast_producer_stall);
    }),
    ("one_user", |o| {
        assert!(o.auth.is_required());
        assert_eq!(o.auth.user.as_deref(), Some("app"));
        assert_eq!(o.auth.password, Some(Secret::new("s3cret")));
        assert_eq!(o.auth_timeout(), Duration::from_secs(5));
    }),
    ("one_user_bcrypt", |o| {
        assert_eq!(o.auth.password, Some(Secret::new(BCRYPT)));
        assert_eq!(o.auth_timeout(), Duration::from_secs(2));
    }),
    ("token", |o| {
        assert_eq!(o.auth.token, Some(Secret::new("s3cr3t token")));
        assert_eq!(o.auth_timeout(), Duration::from_millis(500));
    }),
    ("users", |o| {
        let names: Vec<&str> = o.auth.users.iter().map(|user| user.user.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert_eq!(o.auth.users[1].password, Some(Secret::new(BCRYPT)));
        assert!(o.auth.users.iter().all(|user| user.account.is_none()));
    }),
    ("nkey_users", |o| {
        assert_eq!(o.auth.nkeys.len(), 1);
        assert_eq!(o.auth.nkeys[0].nkey, NKEY);
        assert!(o.auth.is_required() && o.auth.users.is_empty());
    }),
    ("no_auth_user", |o| assert_eq!(o.auth.no_auth_user.as_deref(), Some("guest"))),
    ("permissions_with_variables", |o| {
        assert_eq!(publish_allow(o, "owner"), texts(&[">"]));
        assert_eq!(publish_allow(o, "till"), texts(&["sale.open", "sale.close"]));
        assert_eq!(subscribe_allow(o, "ledger"), texts(&["sale.open", "sale.close"]));
        assert_eq!(publish_allow(o, "visitor"), texts(&["lobby.*"]));
        assert_eq!(o.auth.users[2].password, Some(Secret::new("abcdefghijklmnop")));
    }),
    ("allow_and_deny", |o| {
        let permissions = permissions(o, "a");
        let publish = permissions.publish.clone().expect("lists were given");
        assert_eq!(publish.allow, texts(&["foo.>", "bar"]));
        assert_eq!(publish.deny, texts(&["foo.secret"]));
        let subscribe = permissions.subscribe.clone().expect("lists were given");
        assert_eq!((subscribe.allow, subscribe.deny), (None, texts(&[">"])));
    }),
    ("queue_permissions", |o| {
        assert_eq!(subscribe_allow(o, "a"), texts(&["foo", "foo v1", "foo v1.>"]));
        let subscribe = permissions(o, "a").subscribe.clone().expect("lists were given");
        assert_eq!(subscribe.deny, texts(&["foo *.prod"]));
    }),
    ("allow_responses", |o| {
        let responses = |user: &str| {
            let responses = permissions(o, user).allow_responses.clone();
            responses.map(|responses| (responses.messages_max, responses.expires))
        };
        assert_eq!(responses("a"), Some((Some(1), Some(Duration::from_secs(120)))));
        assert_eq!(responses("c"), Some((Some(5), Some(Duration::from_secs(60)))));
        assert_eq!(responses("e"), Some((None, None)));
        assert_eq!(publish_allow(o, "a"), Some(vec![]), "nothing but replies");
    }),
    ("connection_types", |o| {
        assert_eq!(o.auth.users[0].connection_types, texts(&["STANDARD", "WEBSOCKET"]));
    }),
    ("accounts", |o| {
        let names: Vec<&str> = o.auth.accounts.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["A", "B"]);
        let limits = &o.auth.accounts[0].limits;
        assert_eq!((limits.connections_max, limits.subscriptions_max), (Some(10), Some(100)));
        assert_eq!((limits.payload_bytes_max, limits.leafnodes_max), (Some(64 << 10), None));
        let of_users: Vec<_> = o.auth.users.iter().map(|user| user.account.as_deref()).collect();
        assert_eq!(of_users, [Some("A"), Some("B")]);
        assert_eq!(o.auth.nkeys[0].account.as_deref(), Some("B"));
        assert_eq!(publish_allow(o, "b"), texts(&["b.>"]));
        assert!(o.auth.nkeys[0].permissions.is_some());
        assert!(o.auth.users[0].permissions.is_none());
    }),
    ("imports", |o| {
        let [p, q, c] = &o.auth.accounts[..] else { panic!("three accounts") };
        assert_eq!((p.exports.len(), q.exports.len(), c.imports.len()), (4, 1, 5));
        let ExportKind::Service(ask) = &p.exports[2].kind else { panic!("a service") };
        assert_eq!(ask.response_type, ResponseType::Streamed);
        assert_eq!(ask.response_threshold, Some(Duration::from_secs(5)));
        assert_eq!(p.exports[2].accounts, ["C", "Q"]);
        assert_eq!(p.exports[1].account_token_position, 2);
        let to = Some("my.{{wildcard(1)}}".into());
        assert_eq!(c.imports[3].kind, ImportKind::Service { to, share: true });
    }),
    ("system_account", |o| assert_eq!(o.auth.system_account.as_deref(), Some("SYS"))),
    ("account_names", |o| assert_eq!(o.auth.accounts.len(), 2)),
    ("no_system_account", |o| assert!(o.auth.no_system_account)),
    ("mappings", |o| {
        let account = &o.auth.accounts[0];
        assert_eq!(account.name, "$G");
        assert_eq!(account.mappings[0].destinations[0].subject, "bar");
        assert_eq!(account.mappings[0].destinations[0].weight, 100);
        assert_eq!(account.mappings[1].source, "orders.*.*");
        let weights: Vec<u8> =
            account.mappings[2].destinations.iter().map(|to| to.weight).collect();
        assert_eq!(weights, [90, 10]);
    }),
    ("account_mappings", |o| {
        let destination = &o.auth.accounts[0].mappings[0].destinations[0];
        assert_eq!((destination.subject.as_str(), destination.weight), ("out.>", 100));
        assert_eq!(destination.cluster.as_deref(), Some("east"));
    }),
    ("tls", |o| {
        let tls = o.tls.as_ref().expect("TLS is on");
        let file = PathBuf::from("./tests/config/files/server.pem");
        assert_eq!(tls.certificates[0].certificate_file, file);
        assert_eq!(tls.timeout(), Duration::from_millis(2500));
        assert_eq!(o.auth_timeout(), Duration::from_millis(3500));
        assert_eq!(tls.verify, Verify::Never);
    }),
    ("tls_mutual", |o| {
        let tls = o.tls.as_ref().expect("TLS is on");
        assert_eq!(tls.verify, Verify::Required);
        assert!(tls.verify_and_map && o.allow_non_tls);
        assert_eq!(tls.version_min, TlsVersion::V1_3);
        assert_eq!(tls.cipher_suites.len(), 2);
        assert_eq!(tls.curve_preferences, ["CurveP256", "X25519"]);
        let pin = "7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069";
        assert!(tls.pinned_certificates.contains(pin));
        assert_eq!(tls.connection_rate_max, 100);
        assert_eq!(tls.handshake_first, HandshakeFirst::Fallback(Duration::from_millis(300)));
    }),
    ("tls_several", |o| {
        let tls = o.tls.as_ref().expect("TLS is on");
        assert_eq!(tls.certificates.len(), 2);
        assert_eq!(tls.handshake_first, HandshakeFirst::Fallback(Duration::from_millis(50)));
    }),
    ("includes", |o| {
        assert_eq!((o.listen.host.as_str(), o.listen.port), ("127.0.0.1", 5222));
        assert_eq!(o.auth.users[0].user, "a");
    }),
    ("variables", |o| {
        assert_eq!((o.listen.port, o.limits.payload_bytes_max), (5222, 2 << 20));
    }),
    ("switched_off_features", |o| {
        assert_eq!(o.listen, Options::default().listen);
    }),
    ("midge_block", |o| {
        assert_eq!((o.shards.count, o.shards.cores.clone()), (Some(4), Some(vec![2, 3, 4, 5])));
        assert_eq!(o.shards.pin, Some(false));
        assert_eq!(o.shards.busy_poll, Some(Duration::from_micros(50)));
        assert_eq!(o.shards.io_driver, IoDriver::Epoll);
        assert_eq!(
            (o.shards.ports_base, o.shards.balance),
            (Some(6000), Balance::LeastConnections)
        );
        assert_eq!(o.log.format, LogFormat::Json);
        let unix = o.listen.unix.as_ref().expect("a socket was named");
        assert_eq!((unix.path.as_path(), unix.mode), (Path::new("/run/midge.sock"), 0o600));
    }),
];

#[test]
fn every_file_has_its_effect() {
    for (name, check) in CASES {
        check(&load(name));
    }
}

#[test]
fn every_file_is_a_case_and_every_case_a_file() {
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "conf"))
        .map(|path| path.file_stem().expect("files have names").to_string_lossy().into_owned())
        .collect();
    let cases: BTreeSet<String> = CASES.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(files, cases);
    assert!(cases.len() >= 40);
}

/// No text that can be made from options contains a planted secret.
#[test]
fn secrets_are_never_shown() {
    let options = load("one_user");
    assert!(!format!("{options:?}").contains("s3cret"));
    for row in midge::testing::config::option_table::rows() {
        assert!(!(row.shown)(&options).contains("s3cret"), "{}", row.key);
    }
}

/// The text of a file, and the error that nats-server gives for it.
#[test]
fn bad_options_are_refused_in_nats_servers_words() {
    struct OneFile<'a>(&'a str);
    impl midge::testing::config::surroundings::Surroundings for OneFile<'_> {
        fn read_file(&self, path: &Path) -> std::io::Result<Vec<u8>> {
            if path == Path::new("f") {
                Ok(self.0.as_bytes().to_vec())
            } else {
                Err(std::io::ErrorKind::NotFound.into())
            }
        }
        fn variable(&self, _name: &str) -> Option<std::ffi::OsString> {
            None
        }
    }
    let cases = [
        ("port: true", "f:1:0: interface conversion: interface {} is bool, not int64"),
        ("listen: nope", "f:1:0: could not parse address string \"nope\""),
        ("listen: \"a:b\"", "f:1:0: could not parse port \"b\""),
        ("listen: true", "f:1:0: expected port or host:port, got bool"),
        ("server_name: \"a b\"", "f:1:0: server name cannot contain spaces"),
        ("max_payload: 3GB", "f:1:0: max_payload value is too big"),
        ("max_sub_tokens: 0", "f:1:0: max_sub_tokens value can not be negative"),
        ("max_sub_tokens: 256", "f:1:0: max_sub_tokens value is too big"),
        ("write_deadline: x", "f:1:0: error parsing write_deadline: time: invalid duration \"x\""),
        ("write_timeout: x", "f:1:0: write_timeout must be 'default', 'close' or 'retry'"),
        (
            "lame_duck_duration: 29s",
            "f:1:0: invalid lame_duck_duration of 29s, minimum is 30 seconds",
        ),
        (
            "lame_duck_grace_period: \"-5s\"",
            "f:1:0: invalid lame_duck_grace_period, needs to be positive",
        ),
        ("system_account: 12", "f:1:0: system account name must be a string"),
        ("foo: 1", "f:1:0: unknown field \"foo\""),
        ("authorization { foo: 1 }", "f:1:16: unknown field \"foo\""),
        ("authorization { token: t, user: u }", "f:1:0: Cannot have a user/pass and token"),
        (
            "authorization { user: x, users: [] }",
            "f:1:0: Can not have a single user/pass and a users array",
        ),
        ("authorization { token: x, users: [] }", "f:1:0: Can not have a token and a users array"),
        (
            "authorization { users: [ {user: a}, {user: a} ] }",
            "f:1:0: Duplicate user \"a\" detected",
        ),
        ("authorization { users: [ {password: a} ] }", "f:1:26: User entry requires a user"),
        ("authorization { users: [ {nkey: UFOO} ] }", "f:1:26: Not a valid public nkey for a user"),
        (
            "authorization { permissions: { publish: {allow: 1} } }",
            "f:1:41: Expected subject permissions to be a subject, or array of subjects, got int64",
        ),
        (
            "authorization { permissions: { foo: 1 } }",
            "f:1:31: Unknown field \"foo\" parsing permissions",
        ),
        ("accounts { \"$G\": {} }", "f:1:12: \"$G\" is a Reserved Account"),
        ("accounts [A, A]", "f:1:13: Duplicate Account Entry: A"),
        ("accounts { A: x }", "f:1:11: Expected map entries for accounts"),
        (
            "accounts { A { limits { foo: 5 } } }",
            "f:1:24: Unknown field \"foo\" parsing account limits",
        ),
        ("mappings { a: { dest: b } }", "f:1:11: Missing weight for mapping destination \"b\""),
        (
            "mappings { a: { dest: b, weight: 101 } }",
            "f:1:25: Invalid weight 101 for mapping destination",
        ),
        ("tls { foo: 1 }", "f:1:6: error parsing tls config, unknown field \"foo\""),
        ("tls { cert_file: a }", "f:1:0: missing 'key_file' in TLS configuration"),
        ("tls { key_file: a }", "f:1:0: missing 'cert_file' in TLS configuration"),
        (
            "tls { cert_file: a, key_file: b }",
            "f:1:0: error parsing X509 certificate/key pair: open a: no such file or directory",
        ),
        ("tls { cipher_suites: [\"X\"] }", "f:1:23: unrecognized cipher X"),
        (
            "tls { cipher_suites: [\"TLS_RSA_WITH_RC4_128_SHA\"] }",
            "f:1:0: insecure cipher suites configured without 'allow_insecure_cipher_suites' option set: TLS_RSA_WITH_RC4_128_SHA",
        ),
        (
            "tls { min_version: \"1.1\" }",
            "f:1:6: error parsing tls config: unsupported TLS version: TLS 1.1",
        ),
    ];
    for (text, expected) in cases {
        let refused = load::load_file(Path::new("f"), &OneFile(text), false).map(|_| ());
        assert_eq!(refused, Err(format!("{expected}\n")), "{text}");
    }
}

/// One file, `f`.
struct Text(String);

impl midge::testing::config::surroundings::Surroundings for Text {
    fn read_file(&self, _path: &Path) -> std::io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }
    fn variable(&self, _name: &str) -> Option<std::ffi::OsString> {
        None
    }
}

fn load_text(text: &str, allow_unsupported: bool) -> Result<Loaded, String> {
    load::load_file(Path::new("f"), &Text(text.to_owned()), allow_unsupported)
}

/// Values that ask for a feature that Midge lacks, by the option's first name.
const ASKING: &[(&str, &str)] = &[
    ("default_js_domain", "{ A: b }"),
    ("cluster", "{ port: -1, routes: [x] }"),
    ("cluster", "{ listen: \"h:1\", routes: x }"),
    ("gateway", "{ name: x }"),
    ("gateway", "{ port: 7222 }"),
    ("leafnodes", "{ port: 7422 }"),
    ("leafnodes", "{ remotes: [ {url: x} ] }"),
    ("mqtt", "{ port: 1883 }"),
    ("ocsp", "{ mode: always }"),
    ("ocsp", "{ mode: must }"),
    ("syslog", "true"),
    ("remote_syslog", "x"),
    ("prof_port", "-1"),
    ("prof_block_rate", "5"),
    ("feature_flags", "{ js_ack_fc_v2: true }"),
];

/// The same for features that keep somebody out.
const ASKING_WHO_ENTERS: &[(&str, &str)] = &[("proxies", "{ trusted: [ {key: x} ] }")];

/// Options that ask for nothing, however they are written.
const WITHOUT_EFFECT: [&str; 1] = ["ocsp_cache"];

/// Returns the text under each name of the option.
fn under_every_name(asking: &[(&str, &str)]) -> Vec<String> {
    let mut texts = Vec::new();
    for (key, value) in asking {
        let row = midge::testing::config::later::LATER.iter().find(|row| row.key == *key);
        let row = row.unwrap_or_else(|| panic!("{key} is no option of a later feature"));
        let names = std::iter::once(&row.key).chain(row.aliases);
        texts.extend(names.map(|name| format!("{name}: {value}")));
    }
    texts
}

/// Every feature that Midge lacks is named, and can be allowed with a warning.
#[test]
fn later_features_are_refused_by_name_or_allowed_with_a_warning() {
    for text in under_every_name(ASKING) {
        let reason = load_text(&text, false).err();
        let reason = reason.unwrap_or_else(|| panic!("{text} was accepted"));
        assert!(reason.starts_with("f:1:") && reason.contains(" not supported yet ("), "{reason}");
        let waved = load_text(&text, true);
        let waved = waved.unwrap_or_else(|reason| panic!("{text}: {reason}"));
        assert_eq!(waved.unsupported.len(), 1, "{text}");
    }
}

/// Without these a server would let in whom they keep out.
#[test]
fn what_decides_who_enters_is_refused_whatever_flag_is_given() {
    let mut texts = under_every_name(ASKING_WHO_ENTERS);
    texts.extend(
        [
            "authorization { auth_callout { issuer: x } }",
            "authorization { auth_hook { issuer: x } }",
            "authorization { proxy_required: true }",
            "authorization { users: [ {user: a, pass: b, proxy_required: true} ] }",
            "accounts { A { users: [ {user: a, pass: b, proxy_required: true} ] } }",
            "resolver: \"URL(http://h:1/)\"",
            "account_resolver: \"URL(https://h/)\"",
            "resolver_tls { ca_file: x }",
            "tls { cert_file: c, key_file: k, ocsp_peer: true }",
            "tls { cert_file: c, key_file: k, ocsp_peer: { verify: true } }",
        ]
        .map(String::from),
    );
    for text in texts {
        for allow_unsupported in [false, true] {
            let reason = load_text(&text, allow_unsupported).err();
            let reason = reason.unwrap_or_else(|| panic!("{text} was accepted"));
            assert!(reason.contains("so no flag starts a server without"), "{text}: {reason}");
        }
    }
}

#[test]
fn every_option_of_a_later_feature_is_among_the_cases() {
    let asking = ASKING.iter().chain(ASKING_WHO_ENTERS).map(|(key, _)| *key);
    let cases: BTreeSet<&str> = asking.chain(WITHOUT_EFFECT).collect();
    let rows = midge::testing::config::later::LATER.iter().map(|row| row.key);
    assert_eq!(cases, rows.filter(|key| !key.is_empty()).collect());
}

/// nats-server takes each of these and starts without the feature.
#[test]
fn later_features_that_are_switched_off_are_not_refused() {
    for text in [
        "default_js_domain {}",
        "cluster {}",
        "cluster { name: x }",
        "cluster { name: x, routes: [] }",
        "cluster { routes: [ \"nats://h:1\" ] }",
        "cluster { port: 0, authorization { user: a, password: b } }",
        "cluster { listen: 0, host: h, no_advertise: true, pool_size: 3 }",
        "leafnodes {}",
        "leafnodes { remotes: [], port: 0 }",
        "mqtt {}",
        "mqtt { host: h, port: 0 }",
        "gateway {}",
        "gateway { port: 0, gateways: [ {name: x, url: \"nats://h:1\"} ] }",
        "resolver: MEMORY",
        "resolver: mem",
        "resolver { type: memory }",
        "resolver_preload {}",
        "resolver_tls {}",
        "resolver_pinned_accounts: []",
        "trusted_keys: []",
        "operator: []",
        "default_sentinel: \"\"",
        "ocsp: false",
        "ocsp: true",
        "ocsp {}",
        "ocsp { mode: never }",
        "ocsp { mode: auto, url: x }",
        "ocsp_cache: true",
        "ocsp_cache { type: local }",
        "proxies {}",
        "proxies { trusted: [] }",
        "syslog: false",
        "remote_syslog: \"\"",
        "prof_port: 0",
        "prof_block_rate: 0",
        "feature_flags {}",
        "feature_flags { js_ack_fc_v2: false, js_raft_delete_range: true, foo: true }",
        "accounts { A { imports: [], exports: [], msg_trace {} } }",
    ] {
        let loaded = load_text(text, false).unwrap_or_else(|reason| panic!("{text}: {reason}"));
        assert_eq!((loaded.warnings, loaded.unsupported), (vec![], vec![]), "{text}");
        assert_eq!(loaded.options.listen, Options::default().listen, "{text}");
    }
}

/// As in the official Docker image: a port for routes, and no route.
#[test]
fn a_cluster_that_only_waits_for_others_is_ignored_with_a_warning() {
    let text = "cluster {\n port: 6222\n authorization { user: a, password: b }\n routes = []\n}";
    for allow_unsupported in [false, true] {
        let loaded = load_text(text, allow_unsupported).expect("it starts");
        let note = "f:1:0: Clustering is not supported yet: no port is opened for other servers";
        assert_eq!((loaded.warnings, loaded.unsupported), (vec![], vec![note.to_owned()]));
    }
}
