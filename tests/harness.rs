//! The bundled harness against this Midge: its counts are complete, and it can read the process,
//! over TCP, TLS and a Unix socket. How it tells a bad server from a good one is tested in
//! bench/tests.

use midge_bench::compare::rounds::{self, ComparePlan, Contestant, Server};
use midge_bench::compare::statistics;
use midge_bench::findings::result::RunResult;
use midge_bench::host::spawn::StartedServer;
use midge_bench::load::closed_loop::{self, ClosedLoopPlan};
use midge_bench::load::connections::{self, ConnectionsPlan};
use midge_bench::load::endpoints::Mode;
use midge_bench::load::event_loop::Pacer;
use midge_bench::load::latency::{self, LatencyPlan};
use midge_bench::load::layout::Layout;
use midge_bench::load::schedule::Arrival;
use midge_bench::load::throughput::{self, ThroughputPlan};
use midge_bench::login::LoginArguments;
use midge_bench::progress::Progress;
use midge_bench::setting::Setting;
use midge_bench::stalls::cases::Case;
use midge_bench::stalls::rounds as stall_rounds;
use midge_bench::stalls::rounds::StallsPlan;
use midge_bench::stalls::stage::Contender;
use midge_bench::units::CoreList;
use midge_bench::wire::address::{Address, ServerUrl};
use midge_bench::wire::connection::Dialer;
use midge_bench::workload::Workload;
use std::time::Duration;

/// Returns the command line of a Midge with two shards, whatever the host has.
fn command_line(flags: &str) -> String {
    let program = env!("CARGO_BIN_EXE_midge");
    format!("'{program}' -a 127.0.0.1 -p {{port}} --shards 2 --no-pin {flags}")
}

fn start(flags: &str) -> (StartedServer, Dialer) {
    let server = StartedServer::start(&command_line(flags), &CoreList::default(), None).unwrap();
    let url = ServerUrl { address: server.address.clone(), user: None, password: None };
    let dialer = LoginArguments::default().dialer_with(&url, server.certificates.as_ref()).unwrap();
    (server, dialer)
}

fn layout(publisher_count: usize, subscriber_count: usize, subject_count: usize) -> Layout {
    Layout {
        publisher_count,
        subscriber_count,
        subject_count,
        wildcard: false,
        queue: None,
        payload_size: 100,
        subject_prefix: "bench.midge".to_string(),
        paired: false,
    }
}

fn throughput_plan(layout: Layout) -> ThroughputPlan {
    ThroughputPlan {
        layout,
        warmup: Duration::ZERO,
        duration: Duration::ZERO,
        messages_per_publisher: Some(5_000),
        pin_load: CoreList::default(),
        seed: 1,
    }
}

fn latency_plan(mode: Mode) -> LatencyPlan {
    LatencyPlan {
        layout: layout(3, 2, 1),
        mode,
        rate: 2000.0,
        arrival: Arrival::Constant,
        pacer: Pacer::Sleep,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(300),
        pin_load: CoreList::default(),
        load_threads: 1,
        // Next to other tests only the counts are judged, not the host.
        late_limit: Duration::from_secs(10),
        late_share_max: 1.0,
        seed: 1,
        beside: None,
        pin_beside: CoreList::default(),
    }
}

fn assert_complete(result: &RunResult, received: u64) {
    assert!(result.valid, "{}: {:?}", result.workload, result.faults);
    let counts = result.counts.unwrap();
    assert!(counts.all_good(), "{}: {counts:?}", result.workload);
    assert_eq!(counts.received, received, "{}", result.workload);
}

fn assert_process_was_read(result: &RunResult) {
    let memory = result.value("server_resident_bytes_max");
    assert!(memory.is_some_and(|bytes| bytes > 1e6), "{memory:?} {:?}", result.warnings);
}

#[test]
fn every_message_of_every_shape_is_counted_over_tcp_tls_and_a_unix_socket() {
    let tls = "--tlsverify --tlscert {tls_cert} --tlskey {tls_key} --tlscacert {tls_ca}";
    for flags in ["", tls, "--unix {unix}"] {
        let (server, dialer) = start(flags);
        let over_unix = matches!(dialer.address, Address::Unix { .. });
        assert_eq!((over_unix, dialer.tls.is_some()), (flags.contains("unix"), flags == tls));
        let mut wildcard = layout(2, 3, 10);
        wildcard.wildcard = true;
        let mut queue = layout(2, 3, 1);
        queue.queue = Some("group".to_string());
        for (layout, received) in [
            (layout(1, 1, 1), 5_000),
            (layout(2, 3, 1), 30_000),
            (layout(2, 3, 10), 10_000),
            (wildcard, 30_000),
            (queue, 10_000),
        ] {
            let process = Ok(server.process_id());
            let plan = throughput_plan(layout);
            let result = throughput::run(&dialer, &plan, process, &Progress::new(true)).unwrap();
            assert_complete(&result, received);
            assert_process_was_read(&result);
        }
    }
}

#[test]
fn latency_and_requests_are_complete_in_the_open_and_in_the_closed_loop() {
    let (server, dialer) = start("");
    let process = || Ok(server.process_id());
    let quiet = Progress::new(true);
    let plan = latency_plan(Mode::OneWay);
    let result = latency::run(&dialer, &plan, process(), &quiet).unwrap();
    assert_complete(&result, 1200);
    assert_eq!(result.curves["latency"].count, 1200);
    assert_process_was_read(&result);
    let result = latency::run(&dialer, &latency_plan(Mode::Request), process(), &quiet).unwrap();
    assert_complete(&result, 600);

    let plan = ClosedLoopPlan {
        layout: layout(20, 1, 1),
        shift: None,
        pacer: Pacer::Sleep,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(300),
        pin_load: CoreList::default(),
        load_threads: 2,
        seed: 1,
    };
    let result = closed_loop::run(&dialer, &plan, process(), &quiet).unwrap();
    let received = result.counts.unwrap().received;
    assert!(received >= 20, "{received}");
    assert_complete(&result, received);
    assert!(result.value("server_cpu_us_per_request").unwrap() > 0.0);
}

#[test]
fn idle_connections_stay_open_and_cost_memory() {
    let (server, dialer) = start("");
    let plan = ConnectionsPlan {
        connection_count: 300,
        subscriptions_each: 2,
        probe: latency_plan(Mode::OneWay),
    };
    let process = Ok(server.process_id());
    let result = connections::run(&dialer, &plan, &process, &Progress::new(true)).unwrap();
    assert!(result.valid, "{:?}", result.faults);
    assert_eq!(result.value("connections_open"), Some(300.0));
    assert!(result.value("server_bytes_per_connection").unwrap() > 0.0);
}

#[test]
fn a_unix_socket_is_compared_with_tcp_of_the_same_server() {
    let contestant = |name: &str, flags: &str| Contestant {
        name: name.to_string(),
        server: Server::parse(&command_line(flags)),
    };
    let plan = ComparePlan {
        contestants: [contestant("unix", "--unix {unix}"), contestant("tcp", "")],
        workloads: vec![
            Workload::parse("throughput --messages 2000 --payload 16 --core-taken-max 1").unwrap(),
        ],
        rounds: 2,
        setting: Setting::default(),
        login: LoginArguments::default(),
        store_root: None,
    };
    let runs = rounds::run(&plan, &Progress::new(true)).unwrap();
    let sides: Vec<&str> = runs.iter().map(|run| run.side.as_str()).collect();
    assert_eq!(sides, ["unix", "tcp", "tcp", "unix"]);
    for run in &runs {
        assert_complete(run, 2000);
        // The process behind a Unix socket is found as well as the one behind a port.
        assert_process_was_read(run);
    }
    let comparisons = statistics::compare(&runs, "unix", "tcp", 1);
    assert!(comparisons.iter().any(|c| c.figure == "messages_per_second"));
}

#[test]
fn logins_are_taken_by_the_server_and_wrong_ones_are_reported_in_its_words() {
    let login = |user: &str, password: &str| LoginArguments {
        user: Some(user.to_string()),
        password: Some(password.to_string()),
        ..LoginArguments::default()
    };
    let token = |token: &str| LoginArguments {
        token: Some(token.to_string()),
        ..LoginArguments::default()
    };
    for (flags, good, bad) in [
        ("--user anna --pass secret", login("anna", "secret"), login("anna", "wrong")),
        ("--auth t0ken", token("t0ken"), token("other")),
    ] {
        let server =
            StartedServer::start(&command_line(flags), &CoreList::default(), None).unwrap();
        let url = ServerUrl { address: server.address.clone(), user: None, password: None };
        let connect = |login: &LoginArguments| login.dialer(&url).unwrap().connect("test", 0);
        assert!(connect(&good).is_ok(), "{flags}");
        for refused in [&bad, &LoginArguments::default()] {
            let failure = connect(refused).err().unwrap().to_string();
            assert!(failure.contains("'Authorization Violation'"), "{flags}: {failure}");
        }
    }
}

/// Publishers and requesters in one account, subscribers and responders in another.
#[test]
fn messages_and_requests_through_imports_are_counted() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/imports.conf");
    let server =
        StartedServer::start(&command_line(&format!("-c '{config}'")), &CoreList::default(), None);
    let server = server.unwrap();
    let url = ServerUrl { address: server.address.clone(), user: None, password: None };
    let dialer = |user: &str, subscriber: &str| {
        let of = |name: &str| Some(name.to_string());
        let login = LoginArguments {
            user: of(user),
            password: of(user),
            subscriber_user: of(subscriber),
            subscriber_password: of(subscriber),
            ..LoginArguments::default()
        };
        login.dialer(&url).unwrap()
    };
    let process = || Ok(server.process_id());
    let quiet = Progress::new(true);
    let plan = throughput_plan(layout(2, 3, 1));
    let result = throughput::run(&dialer("exporter", "importer"), &plan, process(), &quiet);
    assert_complete(&result.unwrap(), 30_000);
    let plan = latency_plan(Mode::Request);
    let result = latency::run(&dialer("requester", "responder"), &plan, process(), &quiet);
    assert_complete(&result.unwrap(), 600);
}

#[test]
fn every_case_of_the_stalls_can_be_played() {
    let plan = StallsPlan {
        contenders: vec![Contender {
            name: "midge".to_string(),
            program: env!("CARGO_BIN_EXE_midge").to_string(),
            shard_count: Some(2),
        }],
        cases: Case::all().to_vec(),
        rounds: 1,
        pin_server: CoreList::default(),
        scale: 0.002,
    };
    let runs = stall_rounds::run(&plan, &Progress::new(true)).unwrap();
    assert_eq!(runs.len(), Case::all().len());
    for run in &runs {
        // How long the PINGs took depends on the host here.
        let worst = run.outcome.as_ref();
        assert!(worst.is_ok_and(|worst| worst.near_ns > 0 && worst.far_ns > 0), "{run:?}");
    }
}
