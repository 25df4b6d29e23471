//! Command lines and their tasks.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::advertise::Advertised;
use crate::config::auth_options::Secret;
use crate::config::options::{Balance, IoDriver, LogFormat};
use crate::config::tls_options::Verify;

/// Files by path, and no environment.
#[derive(Default)]
struct Files(HashMap<PathBuf, Vec<u8>>);

impl Files {
    fn with(path: &str, text: &str) -> Self {
        Files(HashMap::from([(PathBuf::from(path), text.as_bytes().to_vec())]))
    }
}

impl Surroundings for Files {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn variable(&self, _name: &str) -> Option<OsString> {
        None
    }
}

fn invoke(program: &str, line: &str, files: &Files) -> Invocation {
    let args = line.split_whitespace().map(|arg| OsString::from(arg.replace('~', " ")));
    parse_in(OsStr::new(program), args, files)
}

fn options(line: &str) -> Options {
    match invoke("/usr/bin/nats-server", line, &Files::default()) {
        Invocation::Run(start) => start.options,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> Refusal {
    match invoke("nats-server", line, &Files::default()) {
        Invocation::Refused(refusal) => refusal,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn no_flags_give_the_defaults() {
    assert_eq!(options(""), Options::default());
}

#[test]
fn every_way_to_write_a_flag_means_the_same() {
    for line in ["-p 5000", "--p 5000", "-p=5000", "--port=5000", "-port 5000", "-p 0x1388"] {
        assert_eq!(options(line).listen.port, 5000, "{line}");
    }
    for line in ["-D", "--debug", "-D=true", "-D=1", "-debug=T"] {
        assert!(options(line).log.debug, "{line}");
    }
    for line in ["", "-D=false", "-D -D=0"] {
        assert!(!options(line).log.debug, "{line}");
    }
}

#[test]
fn core_flags_reach_their_fields() {
    let got = options(
        "-a 127.0.0.1 -n one -P /run/x.pid --client_advertise h:1 --ports_file_dir /run \
         -l /var/x.log -T=false --logtime_utc --log_size_limit 1000 --max_traced_msg_len 7 \
         --user u --pass p -m 8222",
    );
    assert_eq!(got.listen.host, "127.0.0.1");
    assert_eq!(got.server_name.as_deref(), Some("one"));
    assert_eq!(got.files.pid, Some(PathBuf::from("/run/x.pid")));
    assert_eq!(got.listen.client_advertise, Advertised::parse("h:1").unwrap());
    assert_eq!(got.files.ports_dir, Some(PathBuf::from("/run")));
    assert_eq!(got.log.file, Some(PathBuf::from("/var/x.log")));
    assert!(!got.log.timestamp);
    assert!(got.log.timestamp_utc);
    assert_eq!(got.log.file_bytes_max, 1000);
    assert_eq!(got.log.traced_message_bytes_max, 7);
    assert_eq!(got.auth.user.as_deref(), Some("u"));
    assert_eq!(got.auth.password, Some(Secret::new("p")));
    assert_eq!(got.monitor.port, Some(8222));
    assert_eq!(options("--auth t").auth.token, Some(Secret::new("t")));
    assert_eq!(options("-ms 8443 -tls -tlscert c -tlskey k").monitor.https_port, Some(8443));
}

#[test]
fn ports_take_minus_one_for_any_and_zero_for_the_default() {
    assert_eq!(options("-p -1").listen.port, 0);
    assert_eq!(options("-p 0").listen.port, 4222);
    assert_eq!(options("-m -1").monitor.port, Some(0));
    assert_eq!(options("-m 0").monitor.port, None);
    assert_eq!(refusal("-p 65536").stderr, "nats-server: -p: port must be -1 to 65535\n");
}

#[test]
fn combined_log_switches_win_over_single_ones() {
    let log = options("-DV").log;
    assert!(log.debug && log.trace && !log.trace_verbose);
    let log = options("-VV").log;
    assert!(!log.debug && log.trace && log.trace_verbose);
    let log = options("-DVV").log;
    assert!(log.debug && log.trace && log.trace_verbose);
    let log = options("-DV -D=false").log;
    assert!(log.debug && log.trace);
    let log = options("-D -DV=false").log;
    assert!(!log.debug && !log.trace);
}

#[test]
fn midges_own_flags_reach_their_fields() {
    let got = options(
        "--shards 4 --cores 2-5,8 --no-pin --busy-poll 50 --io-driver epoll --unix /run/m.sock \
         --unix-mode 0600 --lame_duck_duration 40s --lame_duck_grace_period 1s --log-format json \
         --shard-ports 6000 --balance least-connections",
    );
    assert_eq!(got.shards.count, Some(4));
    assert_eq!(got.shards.cores, Some(vec![2, 3, 4, 5, 8]));
    assert_eq!(got.shards.pin, Some(false));
    assert_eq!(got.shards.busy_poll, Some(Duration::from_micros(50)));
    assert_eq!(got.shards.io_driver, IoDriver::Epoll);
    assert_eq!(got.shards.ports_base, Some(6000));
    assert_eq!(got.shards.balance, Balance::LeastConnections);
    assert_eq!(got.log.format, LogFormat::Json);
    let unix = got.listen.unix.expect("a socket was named");
    assert_eq!((unix.path, unix.mode), (PathBuf::from("/run/m.sock"), 0o600));
    assert_eq!(got.lame_duck.duration, Duration::from_secs(40));
    assert_eq!(got.lame_duck.grace_period, Duration::from_secs(1));
}

#[test]
fn values_that_make_no_sense_are_refused_with_the_flag_named() {
    let cases = [
        ("--shards 0", "-shards: shards must be 1 to 1024"),
        ("--shards 1025", "-shards: shards must be 1 to 1024"),
        ("--busy-poll -1", "-busy-poll: busy-poll must be 0 to 1000000"),
        ("--cores 5-2", "-cores: cores \"5-2\" is not a list such as 2-5,8"),
        ("--cores 1,1", "-cores: cores \"1,1\" names a core twice"),
        ("--io-driver kqueue", "-io-driver: io_driver must be 'auto', 'io_uring' or 'epoll'"),
        ("--balance x", "-balance: balance must be 'hash', 'least-connections' or 'auto'"),
        ("--log-format x", "-log-format: log_format must be 'nats' or 'json'"),
        ("--unix-mode 9", "-unix-mode: unix_mode \"9\" is not an octal mode such as 0660"),
        ("--unix-mode 0600", "unix_mode is given without a unix socket path"),
        (
            "--lame_duck_duration 1s",
            "-lame_duck_duration: invalid lame_duck_duration of 1s, minimum is 30 seconds",
        ),
        (
            "--lame_duck_grace_period 3m",
            "lame duck grace period (3m0s) should be strictly lower than lame duck duration (2m0s)",
        ),
        ("--shards 3 --cores 1,2", "3 shards need 3 cores, but cores names 2"),
        ("-n a~b", "server name cannot contain spaces"),
        ("-m 1 -ms 2", "can't specify both HTTP (1) and HTTPs (2) ports"),
        ("-ms 2", "TLS cert and key required for HTTPS"),
    ];
    for (line, text) in cases {
        let refusal = refusal(line);
        assert_eq!(refusal.stderr, format!("nats-server: {text}\n"), "{line}");
        assert_eq!(refusal.exit_code, 1, "{line}");
    }
}

#[test]
fn unreadable_flags_have_gos_texts_and_nats_servers_exit_code() {
    let cases = [
        ("-zz", "flag provided but not defined: -zz"),
        ("--zz=1", "flag provided but not defined: -zz"),
        ("-p abc", "invalid value \"abc\" for flag -p: parse error"),
        (
            "-p 99999999999999999999",
            "invalid value \"99999999999999999999\" for flag -p: value out of range",
        ),
        ("-p", "flag needs an argument: -p"),
        ("-D=foo", "invalid boolean value \"foo\" for -D: parse error"),
        ("-=x", "bad flag syntax: -=x"),
        ("--=x", "bad flag syntax: --=x"),
        ("---x", "bad flag syntax: ---x"),
    ];
    for (line, text) in cases {
        let got = refusal(line);
        assert_eq!(got.stderr, format!("{text}\n"), "{line}");
        assert!(got.stdout.starts_with("\nUsage: nats-server"), "{line}");
        assert_eq!(got.exit_code, 0, "{line}");
        let Invocation::Refused(as_midge) = invoke("midge", line, &Files::default()) else {
            panic!("{line} is refused under every name");
        };
        assert_eq!(as_midge.exit_code, 2, "{line}");
        assert!(as_midge.stderr.starts_with(text), "{line}");
    }
}

#[test]
fn parsing_stops_at_the_first_word() {
    assert_eq!(refusal("foo -v").stderr, "nats-server: unrecognized command: \"foo\"\n");
    assert_eq!(refusal("-").stderr, "nats-server: unrecognized command: \"-\"\n");
    assert!(matches!(invoke("x", "version -zz", &Files::default()), Invocation::Version(_)));
    assert!(matches!(invoke("x", "HELP", &Files::default()), Invocation::Help(_)));
    assert_eq!(options("-- "), Options::default());
}

#[test]
fn version_names_the_program_it_was_started_as() {
    let files = Files::default();
    let nats = Invocation::Version("nats-server: v2.15.3\n".into());
    assert_eq!(invoke("/opt/nats-server", "-v", &files), nats);
    let Invocation::Version(midge) = invoke("/opt/midge", "--version", &files) else {
        panic!("a version was asked for");
    };
    assert!(midge.starts_with("midge: v") && midge.contains("nats-server v2.15.3"));
}

#[test]
fn later_features_are_refused_by_name_and_never_ignored() {
    let cases = [
        ("--routes nats://h:1", "Clustering"),
        ("--cluster nats://h:1", "Clustering"),
        ("--cluster_listen nats://h:1", "Clustering"),
        ("--cluster_listen nats://h:1 --cluster_name x --no_advertise", "Clustering"),
        ("--profile 6060", "Profiling"),
        ("-s", "Syslog"),
        ("-r udp://localhost:514", "Syslog"),
    ];
    for (line, feature) in cases {
        let text = refusal(line).stderr;
        assert!(text.contains(&format!("{feature} is not supported yet")), "{line}: {text}");
        let allowed = invoke("midge", &format!("{line} --allow-unsupported"), &Files::default());
        let Invocation::Run(start) = allowed else { panic!("{line} was let through") };
        assert_eq!(start.warnings.len(), 1, "{line}");
        assert!(start.warnings[0].contains(feature), "{line}");
    }
    // nats-server starts as if these were absent.
    for line in [
        "-js=false --connect_retries 0 -s=false",
        "--cluster_name x",
        "--cluster_advertise x",
        "--no_advertise",
        "--connect_retries 3",
        "--cluster= --routes=",
    ] {
        assert_eq!(options(line), Options::default(), "{line}");
    }
}

/// Both when a file is tested and when a server starts.
#[test]
fn no_flag_starts_a_server_that_lets_in_whom_the_file_keeps_out() {
    for text in [
        "resolver: \"URL(http://h:1/)\"",
        "authorization { auth_callout { issuer: x } }",
        "accounts { A { users: [ {user: a, pass: b, proxy_required: true} ] } }",
    ] {
        let files = Files::with("f", text);
        for line in ["-c f", "-c f --allow-unsupported", "-t -c f", "-t -c f --allow-unsupported"] {
            let Invocation::Refused(refusal) = invoke("midge", line, &files) else {
                panic!("{line} with {text} was let through");
            };
            assert!(refusal.stderr.contains("no flag starts a server without"), "{line}: {text}");
            assert_eq!(refusal.exit_code, 1);
        }
    }
}

#[test]
fn signals_are_left_to_their_own_reader() {
    for line in ["-sl quit=77", "--signal=quit=77", "-signal quit=77"] {
        let expected =
            Invocation::Signal { parameters: "quit=77".into(), program: "nats-server".into() };
        assert_eq!(invoke("nats-server", line, &Files::default()), expected, "{line}");
    }
}

#[test]
fn testing_needs_a_file() {
    let text =
        "nats-server: must specify [-c, --config] option to check configuration file syntax\n";
    assert_eq!(refusal("-t").stderr, text);
}

#[test]
fn tls_flags_need_a_certificate_and_a_key() {
    let tls = options("--tlscert c --tlskey k --tlscacert a --tlsverify").tls.expect("TLS is on");
    assert_eq!(tls.certificates[0].certificate_file, PathBuf::from("c"));
    assert_eq!(tls.certificates[0].key_file, PathBuf::from("k"));
    assert_eq!(tls.certificate_authorities_file, Some(PathBuf::from("a")));
    assert_eq!(tls.verify, Verify::Required);
    let no_certificate = "nats-server: TLS Server certificate must be present and valid\n";
    let no_key = "nats-server: TLS Server private key must be present and valid\n";
    for line in ["--tls", "--tlsverify", "--tlskey k"] {
        assert_eq!(refusal(line).stderr, no_certificate, "{line}");
    }
    assert_eq!(refusal("--tlscert c").stderr, no_key);
    assert_eq!(options("--tls=false --tlscert c").tls, None);
    let pair = "--tlscert c --tlskey k";
    for (flag, expected) in [
        ("--tlsverify=optional", Verify::Optional),
        ("-tlsverify=OPTIONAL", Verify::Optional),
        ("--tlsverify=optional --tlsverify", Verify::Required),
        ("--tlsverify --tlsverify=optional", Verify::Optional),
        ("--tlsverify=false", Verify::Never),
    ] {
        let tls = options(&format!("{pair} {flag}")).tls.expect("TLS is on");
        assert_eq!(tls.verify, expected, "{flag}");
    }
    let words = "invalid boolean value \"x\" for -tlsverify: expected true, false, or optional: \
                 strconv.ParseBool: parsing \"x\": invalid syntax";
    assert!(refusal("--tlsverify=x").stderr.starts_with(words));
}

#[test]
fn help_names_every_flag_once() {
    let Invocation::Help(text) = invoke("midge", "-h", &Files::default()) else {
        panic!("help was asked for");
    };
    let (text, _) = text.split_once("\nExamples:").expect("examples come last");
    for flag in ["--port", "--tlscert", "--shards", "--no-pin", "--allow-unsupported", "--signal"] {
        assert_eq!(text.matches(&format!("{flag} ")).count(), 1, "{flag}\n{text}");
    }
}

/// Seeded: the same lines in each run. `parse` answers whatever is written.
#[test]
fn twenty_thousand_command_lines_are_answered() {
    let mut pieces: Vec<String> =
        ["", "-", "--", "=", "-=", "x", "1", "-1", "true", "f.conf", "2s", "[", "\u{e9}"]
            .map(String::from)
            .to_vec();
    for row in crate::config::option_table::rows().chain(crate::config::later::LATER) {
        let names = row.flag.iter().flat_map(|flag| flag.names.iter());
        pieces.extend(names.map(|name| format!("-{name}")));
    }
    for (names, _, _) in crate::server::command::flags::SPECIALS {
        pieces.extend(names.iter().map(|name| format!("--{name}")));
    }
    let files = Files::with("f.conf", "port: 5000\ntls { timeout: 1 }");
    let mut random = fastrand::Rng::with_seed(1);
    let mut counts = [0; 3];
    for _ in 0..20_000 {
        let mut args: Vec<OsString> = Vec::new();
        for _ in 0..random.usize(0..5) {
            let mut arg = pieces[random.usize(0..pieces.len())].clone();
            if random.u8(0..3) == 0 {
                arg.push('=');
                arg.push_str(&pieces[random.usize(0..pieces.len())]);
            }
            let mut bytes = arg.into_bytes();
            if !bytes.is_empty() && random.u8(0..8) == 0 {
                let place = random.usize(0..bytes.len());
                bytes[place] = random.u8(1..);
            }
            args.push(std::os::unix::ffi::OsStringExt::from_vec(bytes));
        }
        let program = if random.bool() { "midge" } else { "nats-server" };
        match parse_in(OsStr::new(program), args.into_iter(), &files) {
            Invocation::Run(_) => counts[0] += 1,
            Invocation::Refused(refusal) => {
                assert!(!refusal.stderr.is_empty(), "a refusal says why");
                counts[1] += 1;
            }
            _ => counts[2] += 1,
        }
    }
    assert!(counts.iter().all(|&count| count > 300), "{counts:?}");
}

#[test]
fn flags_win_over_the_file_and_leave_the_rest_of_it() {
    let text = "port: 5000\nserver_name: one\ndebug: true\nmax_payload: 2MB\n\
                tls { cert_file: c.pem, key_file: k.pem, min_version: \"1.3\", \
                cipher_suites: [\"TLS_AES_256_GCM_SHA384\"], timeout: 7 }\n";
    let mut files = Files::with("f.conf", text);
    files.0.insert(PathBuf::from("c.pem"), Vec::new());
    files.0.insert(PathBuf::from("k.pem"), Vec::new());
    let line = "-c f.conf -p 6000 -D=false --tlsverify --tlscacert a.pem --tlscert other.pem";
    let Invocation::Run(start) = invoke("nats-server", line, &files) else {
        panic!("file and flags are good");
    };
    let got = start.options;
    assert_eq!((got.listen.port, got.server_name.as_deref()), (6000, Some("one")));
    assert!(!got.log.debug);
    assert_eq!(got.limits.payload_bytes_max, 2 << 20);
    // CVE-2021-32026: TLS flags must not discard settings of the file that no flag names.
    let tls = got.tls.expect("TLS is on");
    assert_eq!(tls.certificates[0].certificate_file, PathBuf::from("other.pem"));
    assert_eq!(tls.certificates[0].key_file, PathBuf::from("k.pem"));
    assert_eq!(tls.version_min, crate::config::tls_options::TlsVersion::V1_3);
    assert_eq!(tls.cipher_suites, ["TLS_AES_256_GCM_SHA384"]);
    assert_eq!(tls.timeout, Some(Duration::from_secs(7)));
    assert_eq!(tls.verify, Verify::Required);
}

#[test]
fn a_tested_file_is_called_valid_with_its_digest_or_refused() {
    let test = |text: &str| invoke("nats-server", "-t -c f.conf", &Files::with("f.conf", text));
    let digest = "sha256:797533ebd0dfba7d34a0f9337ecf147e442871f48ddfd07ed751575a5737267e";
    let text = format!("nats-server: configuration file f.conf is valid ({digest})\n");
    assert_eq!(test("port: 4222\n"), Invocation::TestConfig(text));
    let cases = [
        ("", "f.conf: config has no values or is empty\n\n"),
        (
            "ping_interval: 5",
            "f.conf:1:0: invalid use of field \"ping_interval\": ping_interval should be converted to a duration\n\n",
        ),
        (
            "a: [",
            "Parse error on line 1: 'Expected an array value terminator \",\" or an array terminator \"]\", but got '\0' instead.'\n",
        ),
        ("a", "config is invalid (f.conf:1:1)\n"),
        ("foo: 1", "f.conf:1:0: unknown field \"foo\"\n\n"),
    ];
    for (text, expected) in cases {
        let Invocation::Refused(refusal) = test(text) else { panic!("{text} is refused") };
        assert_eq!(refusal.stderr, format!("nats-server: {expected}"), "{text}");
        assert_eq!(refusal.exit_code, 1, "{text}");
    }
}

#[test]
fn a_tested_reload_is_possible_or_takes_a_restart() {
    let mut files = Files::with("f.conf", "debug: true");
    files.0.insert("live.conf".into(), b"debug: false\nping_interval: 5".to_vec());
    files.0.insert("restart.conf".into(), b"max_subs: 5".to_vec());
    files.0.insert("port.conf".into(), b"port: 5000".to_vec());
    files.0.insert("broken.conf".into(), b"foo: 1".to_vec());
    let test = |line: &str| invoke("nats-server", line, &files);
    let refused = |line: &str| match test(line) {
        Invocation::Refused(refusal) => (refusal.exit_code, refusal.stderr),
        other => panic!("{line}: {other:?}"),
    };
    let Invocation::TestConfig(text) = test("-t -c f.conf --test_reload live.conf") else {
        panic!("a warning does not keep a server from reloading");
    };
    let (valid, reloadable) = text.split_once('\n').expect("two lines");
    assert!(valid.starts_with("nats-server: configuration file f.conf is valid (sha256:"));
    assert_eq!(reloadable, "nats-server: configuration file live.conf can be reloaded\n");
    let text = "nats-server: config reload not supported for MaxSubs: old=0, new=5\n";
    assert_eq!(refused("-t -c f.conf --test_reload restart.conf"), (3, text.into()));
    let text = "nats-server: broken.conf:1:0: unknown field \"foo\"\n\n";
    assert_eq!(refused("-t -c f.conf --test_reload broken.conf"), (1, text.into()));
    let text = "nats-server: --test_reload can only be used together with -t\n";
    assert_eq!(refused("-c f.conf --test_reload live.conf"), (1, text.into()));
    // Flags take precedence over either file.
    let same = test("-t -c f.conf -p 6000 --test_reload port.conf");
    assert!(matches!(same, Invocation::TestConfig(_)));
    assert_eq!(refused("-t -c f.conf --test_reload port.conf").0, 3);
}

#[test]
fn a_test_finds_what_only_file_and_flags_together_show() {
    let files = Files::with("f.conf", "lame_duck_duration: \"40s\"");
    let Invocation::Refused(refusal) =
        invoke("nats-server", "-t -c f.conf --lame_duck_grace_period 50s", &files)
    else {
        panic!("no server starts so");
    };
    let text = "nats-server: lame duck grace period (50s) should be strictly lower than lame duck \
                duration (40s)\n";
    assert_eq!((refusal.exit_code, refusal.stderr.as_str()), (1, text));
}

#[test]
fn warnings_of_a_file_do_not_keep_the_server_from_starting() {
    let files = Files::with("f.conf", "ping_interval: 5");
    let Invocation::Run(start) = invoke("nats-server", "-c f.conf", &files) else {
        panic!("a warning is no error");
    };
    assert_eq!(start.options.keep_alive.ping_interval, Duration::from_secs(5));
    assert_eq!(start.warnings.len(), 1);
}
