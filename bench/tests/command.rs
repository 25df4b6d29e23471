//! The command itself: what it writes and draws, and its exit status.

mod support;

use midge_bench::findings::result::RunResult;
use midge_bench::host::{core_time, interrupt, spawn};
use midge_bench::output::document::Document;
use midge_bench::units::CoreList;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Action, AnyServer, FakeServer};

fn bench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge-bench"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// For tests that are not about it: a run next to other tests does not have its cores to itself.
const ANY_HOST: [&str; 2] = ["--core-taken-max", "1"];

/// Returns an empty folder for this test alone.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("midge-bench-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

fn output(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Returns the number of points of each line drawn in a report, by its name.
fn drawn_lines(html: &str) -> Vec<(String, usize)> {
    let lines = html.split("<polyline ").skip(1);
    lines
        .map(|line| {
            let attribute = |name: &str| {
                let start = line.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
                line[start..].split('"').next().unwrap().to_string()
            };
            (attribute("data-name"), attribute(" points").split(' ').count())
        })
        .collect()
}

fn run_latency(port: u16, folder: &Path) -> (i32, String, String) {
    output(
        bench()
            .args(["latency", "--rate", "500", "--duration", "500ms", "--warmup", "100ms"])
            .args(ANY_HOST)
            .args([
                "--pacer",
                "sleep",
                "--late-limit",
                "1s",
                "--floor-duration",
                "100ms",
                "--quiet",
                "--server",
                &url(port),
                "--output",
                folder.to_str().unwrap(),
            ]),
    )
}

#[test]
fn the_report_draws_as_many_points_as_the_data_has_and_can_be_drawn_again() {
    let server = AnyServer::start();
    let (first, second, again) = (folder("first"), folder("second"), folder("again"));
    for folder in [&first, &second] {
        let (status, stdout, stderr) = run_latency(server.port(), folder);
        assert_eq!(status, 0, "{stdout}{stderr}");
        assert!(stdout.contains("p99.999"), "{stdout}");
    }
    let document = Document::read(&first.join("result.json")).unwrap();
    let html = std::fs::read_to_string(first.join("report.html")).unwrap();
    let lines = drawn_lines(&html);
    let floor = document.runs.iter().find(|run| run.side == "host").unwrap();
    let relay = document.runs.iter().find(|run| run.side == "raw relay").unwrap();
    let run = document.runs.iter().find(|run| run.side.is_empty()).unwrap();
    let mut expected = Vec::new();
    for (name, curve) in &floor.curves {
        expected.push((name.replace('_', " "), curve.points.len()));
    }
    for (side, run) in [("server", run), ("raw relay", relay)] {
        for curve in run.curves.values() {
            expected.push((side.to_string(), curve.points.len()));
        }
        for series in run.series.values() {
            expected.push((side.to_string(), series.len()));
        }
    }
    let hiccups = floor.curves["hiccup_load_core"].points.len();
    expected.push(("hiccups of the load's core".to_string(), hiccups));
    let sorted = |mut lines: Vec<(String, usize)>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(lines), sorted(expected));
    assert!(
        !html.contains("http://") && !html.contains("https://"),
        "the report needs the network"
    );

    let (status, stdout, stderr) = output(bench().args([
        "report",
        first.to_str().unwrap(),
        second.to_str().unwrap(),
        "--quiet",
        "--output",
        again.to_str().unwrap(),
    ]));
    assert_eq!(status, 0, "{stdout}{stderr}");
    let merged = Document::read(&again.join("result.json")).unwrap();
    assert_eq!(merged.runs.len(), 2 * document.runs.len());
    let twice = [first.to_str().unwrap(), first.to_str().unwrap()];
    let (status, stdout, _) = output(bench().arg("report").args(twice));
    assert_eq!(status, 0);
    let count = document.runs.len();
    let word = format!("*** of {count} runs of a result {count} were there already");
    assert!(stdout.contains(&word), "{stdout}");
    let logs = std::fs::read_dir(&again).unwrap().filter_map(Result::ok);
    assert!(logs.filter(|file| file.file_name().to_string_lossy().ends_with(".hlog")).count() >= 4);
    for folder in [first, second, again] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_figure_worse_than_the_baseline_fails_with_its_name() {
    let server = AnyServer::start();
    let folder = folder("baseline");
    let (status, ..) = run_latency(server.port(), &folder);
    assert_eq!(status, 0);
    let file = folder.join("result.json");
    let mut stored = Document::read(&file).unwrap();
    let run = stored.runs.iter_mut().find(|run| run.side.is_empty()).unwrap();
    run.figures.get_mut("latency_p50_ns").unwrap().value = 1.0;
    std::fs::write(&file, stored.to_json()).unwrap();
    let repeat = |worse_max: &str| {
        output(bench().args(["report", folder.to_str().unwrap()]).args([
            "--baseline",
            file.to_str().unwrap(),
            "--worse-max",
            worse_max,
        ]))
    };
    assert_eq!(repeat("0.1").0, 0, "a result is not worse than itself");
    let (status, _, stderr) = output(bench().args([
        "latency",
        "--rate",
        "500",
        "--duration",
        "500ms",
        "--pacer",
        "sleep",
        "--late-limit",
        "1s",
        "--no-floor",
        "--quiet",
        "--server",
        &url(server.port()),
        "--baseline",
        file.to_str().unwrap(),
        "--core-taken-max",
        "1",
    ]));
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("latency_p50_ns is"), "{stderr}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_interrupt_ends_the_run_and_still_writes_what_was_measured() {
    let server = AnyServer::start();
    let folder = folder("interrupt");
    let mut child = bench()
        .args([
            "throughput",
            "--duration",
            "1h",
            "--warmup",
            "100ms",
            "--no-floor",
            "--format",
            "json",
        ])
        .args(["--server", &url(server.port()), "--output", folder.to_str().unwrap()])
        .spawn()
        .unwrap();
    // Not on a terminal: plain lines, each with the time left. The first one means that the warm-up
    // is over.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut shown = String::new();
    while !shown.contains("throughput: ") {
        assert!(stderr.read_line(&mut shown).unwrap() > 0, "{shown}");
    }
    // Its load is running.
    let until = Instant::now() + Duration::from_secs(20);
    let busy = |id: u32| {
        let content = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let ticks: Vec<&str> = content.rsplit_once(')').unwrap().1.split_whitespace().collect();
        ticks[11].parse::<u64>().unwrap() + ticks[12].parse::<u64>().unwrap() > 20
    };
    while !busy(child.id()) {
        assert!(Instant::now() < until, "the run did not start");
        std::thread::yield_now();
    }
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let document = Document::read(&folder.join("result.json")).unwrap();
    let run = &document.runs[0];
    assert!(run.warnings.iter().any(|text| text.contains("interrupted")), "{:?}", run.warnings);
    assert!(run.seconds < 60.0 && run.counts.unwrap().received > 0);
    stderr.read_to_string(&mut shown).unwrap();
    assert!(shown.contains("throughput: 0 %, 3600 s left\n"), "{shown}");
    assert!(!shown.contains('\r'), "{shown}");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["schema"], "midge-bench/1");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_interrupted_comparison_says_what_is_missing() {
    // Its first message shows that the first server is being measured.
    let (begun, seen) = std::sync::mpsc::channel();
    let a = FakeServer::start(move |number| {
        if number == 0 {
            begun.send(()).unwrap();
        }
        Action::Deliver
    });
    let b = FakeServer::start(|_| Action::Deliver);
    let child = bench()
        .args(["compare", "--a", &url(a.port), "--b", &url(b.port), "--no-floor", "--quiet"])
        .args(["throughput", "--duration", "1h", "--warmup", "0s"])
        .spawn()
        .unwrap();
    seen.recv_timeout(Duration::from_secs(60)).unwrap();
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let expected = "*** INCOMPLETE: interrupted; made were A 1 of 5 runs, B 0 of 5 runs";
    assert!(stdout.contains(expected), "{stdout}");
}

#[test]
fn compare_runs_both_sides_in_turns_and_prints_the_ratio() {
    let (a, b) = (FakeServer::start(|_| Action::Deliver), FakeServer::start(|_| Action::Deliver));
    let (status, stdout, stderr) = output(
        bench()
            .args(["compare", "--a", &url(a.port), "--b", &url(b.port), "--rounds", "3"])
            .args(["--format", "json", "--quiet", "--floor-duration", "50ms"])
            .args(["--run", "throughput --payload 16 --messages 2000 --core-taken-max 1"]),
    );
    assert_eq!(status, 0, "{stderr}");
    let document: Document = serde_json::from_str(&stdout).unwrap();
    let sides: Vec<&str> = document
        .runs
        .iter()
        .filter(|run| run.kind == "throughput" && run.side != "raw relay")
        .map(|run| run.side.as_str())
        .collect();
    assert_eq!(sides, ["A", "B", "B", "A", "A", "B"]);
    assert!(document.comparisons.iter().any(|c| c.figure == "messages_per_second"));
    assert!(document.comparisons.iter().any(|c| c.figure == "share_of_relay_rate"));
}

#[test]
fn idle_connections_are_held_open_and_counted() {
    let server = AnyServer::start();
    let (status, stdout, stderr) = output(
        bench()
            .args(["connections", "--connections", "50", "--subscriptions", "2", "--rate", "500"])
            .args(ANY_HOST)
            .args(["--duration", "300ms", "--warmup", "0s", "--late-limit", "1s", "--no-floor"])
            .args(["--format", "json", "--quiet", "--server", &url(server.port())]),
    );
    assert_eq!(status, 0, "{stderr}");
    let document: Document = serde_json::from_str(&stdout).unwrap();
    let run = &document.runs[0];
    assert_eq!(run.value("connections_open"), Some(50.0));
    assert!(run.value("server_bytes_per_connection").is_some(), "{:?}", run.warnings);
    assert!(run.curves.contains_key("probe before"));
    assert!(run.curves.contains_key("probe with all open"));
}

#[test]
fn an_invalid_probe_ends_with_2_and_is_drawn_nowhere() {
    let server = AnyServer::start();
    let folder = folder("probes");
    // No send leaves within a microsecond of its time in every case.
    let (status, stdout, stderr) = output(
        bench()
            .args(["connections", "--connections", "20", "--rate", "500", "--pacer", "sleep"])
            .args(["--late-limit", "1us", "--late-share-max", "0", "--no-floor", "--quiet"])
            .args(["--duration", "300ms", "--warmup", "0s", "--output", folder.to_str().unwrap()])
            .args(ANY_HOST)
            .args(["--server", &url(server.port())]),
    );
    assert_eq!(status, 2, "{stdout}{stderr}");
    assert!(stdout.contains("*** INVALID IN PART"), "{stdout}");
    let document = Document::read(&folder.join("result.json")).unwrap();
    let run = &document.runs[0];
    // Everything except the probe stays valid.
    assert!(run.valid, "{:?}", run.faults);
    assert_eq!(run.value("connections_open"), Some(20.0));
    assert_eq!(run.invalid_parts.len(), 2, "{:?}", run.invalid_parts);
    for (part, when) in run.invalid_parts.iter().zip(["before", "with all open"]) {
        assert!(part.starts_with(&format!("probe {when}: ")), "{part}");
        assert!(part.contains("the generator was the bottleneck"), "{part}");
        assert!(stdout.contains(&format!("INVALID, left out: {part}")), "{stdout}");
    }
    assert!(run.curves.is_empty());
    let html = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(html.contains("class=\"invalid\">Invalid, left out: probe before"), "{html}");
    assert!(!html.contains("<figcaption>Probe before"));
    let drawn: Vec<String> = drawn_lines(&html).into_iter().map(|(name, _)| name).collect();
    assert!(drawn.len() <= 2, "only CPU and memory over time: {drawn:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_sweep_whose_generator_is_late_does_not_say_start_lower() {
    let server = AnyServer::start();
    let (status, stdout, _) = output(
        bench()
            .args(["sweep", "--rate", "1k", "--step", "300ms", "--warmup", "0s", "--no-floor"])
            .args(["--pacer", "sleep", "--late-limit", "1us", "--late-share-max", "0", "--quiet"])
            .args(["--server", &url(server.port())]),
    );
    assert_eq!(status, 2, "{stdout}");
    assert!(stdout.contains("there is no knee: the run at the first rate, 1000/s, is not valid"));
    assert!(stdout.contains("the generator was the bottleneck"), "{stdout}");
    assert!(!stdout.contains("start lower"), "{stdout}");
}

#[test]
fn a_sweep_finds_the_knee_of_a_server_that_stalls_under_load() {
    // A host that delays everything for longer than the objective shows no knee: the run is then
    // repeated.
    let run =
        (0..5).map(|_| sweep_of_a_stalling_server()).find(|run| run.value("rate_max") > Some(0.0));
    let run = run.expect("five sweeps, and none found the first rate good");
    let rate_max = run.value("rate_max").unwrap();
    assert!((100.0..2000.0).contains(&rate_max), "{rate_max} {:?}", run.warnings);
    assert!(run.load_points.iter().any(|point| point.share_of_max == Some(0.5)));
}

fn sweep_of_a_stalling_server() -> RunResult {
    // After 300 messages the server stops for 400 ms at every hundredth: with steps of 300 ms every
    // rate above 1000/s must run into it, and 100/s must not.
    let server = FakeServer::start(|number| match number {
        number if number > 300 && number % 100 == 0 => Action::Stall(Duration::from_millis(400)),
        _ => Action::Deliver,
    });
    let (status, stdout, stderr) =
        output(bench().args(["sweep", "--rate", "100"]).args(ANY_HOST).args([
            "--step",
            "300ms",
            "--duration",
            "100ms",
            "--warmup",
            "0s",
            "--objective",
            "200ms",
            "--pacer",
            "sleep",
            "--late-limit",
            "1s",
            "--no-floor",
            "--format",
            "json",
            "--quiet",
            "--server",
            &url(server.port),
        ]));
    assert!(status == 0 || status == 2, "{stderr}");
    let mut document: Document =
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
    document.runs.remove(0)
}

#[test]
fn commands_that_cannot_work_are_refused_in_a_sentence() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (status, _, stderr) = output(bench().args(["throughput", "--server", &url(port)]));
    assert_eq!(status, 1);
    assert!(stderr.contains("cannot connect"), "{stderr}");
    let arguments = ["compare", "--a", "x -p 1", "--b", "y -p {port}", "--no-floor", "throughput"];
    let (status, _, stderr) = output(bench().args(arguments));
    assert_eq!(status, 1);
    assert!(stderr.contains("{port}"), "{stderr}");
}

#[test]
fn failures_at_the_end_are_reported_before_anything_is_measured() {
    let server = FakeServer::start(|_| Action::Deliver);
    let server_url = url(server.port);
    let line = ["throughput", "--messages", "1000", "--server", &server_url];
    for wrong in [["--baseline", "/nope"], ["--output", "/dev/null/x"]] {
        let (status, stdout, stderr) = output(bench().args(line).args(wrong));
        assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains(wrong[1]), "{stderr}");
    }
    // An hour of noise floor for the first server would come before the second one.
    for (b, said) in [
        ("sh -c 'echo no flag --bogus >&2; exit 2' server {port}", "no flag --bogus"),
        ("nats://127.0.0.1:1", "cannot connect"),
    ] {
        let arguments = ["compare", "--a", &server_url, "--b", b, "--floor-duration", "1h"];
        let (status, _, stderr) = output(bench().args(arguments).arg("throughput"));
        assert_eq!(status, 1);
        assert!(stderr.starts_with("midge-bench: B: "), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(server.message_count(), 0);
}

#[test]
fn a_duration_of_zero_is_refused() {
    for line in [
        "floor --duration 0s",
        "throughput --duration 0",
        "throughput --floor-duration 0s",
        "sweep --step 0ms",
        "compare --a x:// --b y:// --duration 0s throughput",
    ] {
        let (status, stdout, stderr) = output(bench().args(line.split(' ')));
        assert_eq!((status, stdout.as_str()), (1, ""), "{line}");
        assert!(stderr.contains("above zero"), "{line}: {stderr}");
    }
}

#[test]
fn a_closed_loop_says_what_it_is_and_takes_no_flags_of_the_open_one() {
    let server = AnyServer::start();
    let server = url(server.port());
    let closed = |more: &[&str]| {
        let line = ["latency", "--closed-loop", "--duration", "300ms", "--warmup", "0s"];
        output(
            bench()
                .args(line)
                .args(ANY_HOST)
                .args(["--no-floor", "--quiet", "--server", &server])
                .args(more),
        )
    };
    let (status, stdout, stderr) = closed(&["--mode", "request", "--publishers", "5"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("closed-loop request 5x1 128 B"), "{stdout}");
    assert!(stdout.contains("note: closed loop:"), "{stdout}");
    for figure in ["requests per second", "round trip p50", "round trip p99 "] {
        assert!(stdout.contains(figure), "{stdout}");
    }
    let (status, _, stderr) = closed(&[]);
    assert_eq!(status, 1);
    assert!(stderr.contains("--mode request"), "{stderr}");
    for flags in [["--rate", "10k"], ["--arrival", "poisson"], ["--late-limit", "1ms"]] {
        let (status, _, stderr) = closed(&[&["--mode", "request"], &flags[..]].concat());
        assert_eq!(status, 1, "{flags:?}");
        assert!(stderr.contains("--closed-loop"), "{stderr}");
    }
}

#[test]
fn an_invalid_run_is_loud_in_every_output_and_ends_with_2() {
    let server = AnyServer::start();
    let folder = folder("invalid");
    // No send leaves within a microsecond of its time in every case.
    let line = ["latency", "--rate", "1k", "--duration", "300ms", "--warmup", "0s"];
    let strict = ["--pacer", "sleep", "--late-limit", "1us", "--late-share-max", "0", "--no-floor"];
    let (status, stdout, _) = output(bench().args(line).args(strict).args([
        "--server",
        &url(server.port()),
        "--output",
        folder.to_str().unwrap(),
    ]));
    assert_eq!(status, 2, "{stdout}");
    assert!(stdout.contains("*** INVALID RUN: these figures must not be used ***"), "{stdout}");
    assert!(stdout.contains("the generator was the bottleneck"), "{stdout}");
    let html = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(html.contains("class=\"invalid\">Invalid, left out"));
    let csv = std::fs::read_to_string(folder.join("result.csv")).unwrap();
    assert!(csv.lines().skip(1).all(|line| line.contains(",false,")), "{csv}");
    let logs = std::fs::read_dir(&folder).unwrap().filter_map(Result::ok);
    let logs = logs.filter(|file| file.file_name().to_string_lossy().ends_with(".hlog"));
    assert_eq!(logs.count(), 0, "an invalid run's histogram is not to be merged with others");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_process_that_cannot_be_read_is_reported_as_not_measured() {
    let server = AnyServer::start();
    let (status, stdout, stderr) = output(
        bench()
            .args(["throughput", "--messages", "1000", "--no-floor", "--quiet"])
            .args(ANY_HOST)
            .args(["--server-pid", "4294967295", "--server", &url(server.port())]),
    );
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.contains("note: server CPU and memory not measured: /proc/4294967295"),
        "{stdout}"
    );
    assert!(!stdout.contains("server cpu per message"), "{stdout}");
}

#[test]
fn a_generator_without_a_core_of_its_own_makes_the_run_invalid() {
    let server = AnyServer::start();
    let core = core_time::allowed_cores("self").unwrap().0[0];
    let spinners: Vec<_> = (0..4)
        .map(|_| {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            spawn::spawn_pinned(command, &CoreList(vec![core]), "sh").unwrap()
        })
        .collect();
    let (core, server) = (core.to_string(), url(server.port()));
    let run = |line: &[&str]| {
        let every = ["--duration", "500ms", "--warmup", "0s", "--no-floor", "--quiet"];
        output(bench().args(line).args(every).args(["--pin-load", &core, "--server", &server]))
    };
    // A spinning generator is always ready, whatever happens to the server next to other tests.
    let closed_loop = ["latency", "--mode", "request", "--closed-loop"];
    let strict = run(&closed_loop);
    let lenient = run(&[&closed_loop[..], &ANY_HOST].concat());
    let throughput = run(&["throughput", "--format", "json"]);
    for mut spinner in spinners {
        interrupt::disown_child(spinner.id());
        spinner.kill().unwrap();
        spinner.wait().unwrap();
    }
    assert_eq!(strict.0, 2, "{}{}", strict.1, strict.2);
    assert!(strict.1.contains("*** INVALID RUN: these figures must not be used ***"));
    assert!(strict.1.contains("other programs had the generator's core for"), "{}", strict.1);
    assert!(lenient.1.contains("generator core taken share"), "{}", lenient.1);
    assert!(!lenient.1.contains("generator's core"), "{}", lenient.1);
    // How often a publisher is ready depends on the server; the limit applies to what there was.
    let document: Document = serde_json::from_str(&throughput.1).unwrap();
    let run = &document.runs[0];
    let taken = |whose: &str| run.value(&format!("{whose}_core_taken_share")).unwrap() > 0.1;
    let by_cores = run.faults.iter().any(|fault| fault.starts_with("other programs had"));
    assert_eq!(by_cores, taken("generator") || taken("server"), "{:?}", run.figures);
    assert_eq!(throughput.0 == 0, run.valid);
}

#[test]
fn an_idle_server_is_described_by_its_wake_ups_and_shard_traffic_by_its_varz() {
    let server = AnyServer::start();
    let idle = ["idle", "--duration", "200ms", "--warmup", "0s", "--no-floor", "--quiet"];
    let run = |line: &[&str]| output(bench().args(line).args(["--server", &url(server.port())]));
    let (status, stdout, stderr) = run(&[&idle[..], &ANY_HOST].concat());
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("server wakes per second idle"), "{stdout}");
    assert!(stdout.contains("server cores busy idle"), "{stdout}");
    // A server that reports its shards, with more messages each time.
    let varz = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = varz.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        for (number, stream) in (1..).zip(varz.incoming()) {
            let mut stream = stream.unwrap();
            // The request may come in pieces; its contents are known.
            assert!(stream.read(&mut [0; 256]).unwrap() > 0);
            let lanes = format!("{{\"messages_in\": {number}, \"wakes\": 0}}");
            let shard = format!("{{\"in_msgs\": {}, \"lanes\": {lanes}}}", 4 * number);
            let body = format!("{{\"midge\": {{\"shards\": [{shard}]}}}}");
            stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    let throughput = ["throughput", "--messages", "1000", "--no-floor", "--quiet"];
    let told = run(&[&throughput[..], &ANY_HOST, &["--monitor", &port]].concat());
    assert_eq!(told.0, 0, "{}", told.2);
    let line = told.1.lines().find(|line| line.contains("crossed shards share")).unwrap();
    assert!(line.contains("25.0 %"), "{line}");
    let untold = run(&[&throughput[..], &ANY_HOST, &["--congestion", "reno"]].concat());
    assert!(!untold.1.contains("crossed shards share"), "{}", untold.1);
    assert!(untold.1.contains("congestion control reno (--congestion)"), "{}", untold.1);
}
