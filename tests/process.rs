//! The process as its operator sees it: flags, files, signals, log lines, exit codes, drivers.

mod support;

#[path = "process/drivers.rs"]
mod drivers;
#[path = "process/examples.rs"]
mod examples;
#[path = "process/live_rows.rs"]
mod live_rows;
#[path = "process/log_lines.rs"]
mod log_lines;
#[path = "process/pipes.rs"]
mod pipes;
#[path = "process/refusals.rs"]
mod refusals;
#[path = "process/resources.rs"]
mod resources;
#[path = "process/signals.rs"]
mod signals;
#[path = "process/unix_socket.rs"]
mod unix_socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;

use support::raw_client::RawClient;
use support::server::{Directory, Server};
use support::{WAIT_MAX, wait_until};

const MIDGE: &str = env!("CARGO_BIN_EXE_midge");

/// Returns the command for a Midge with one shard on a free port; tests add to it.
fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(["-a", "127.0.0.1", "-p", "-1", "--shards", "1", "--no-pin"]);
    command
}

fn start(arguments: &[&str]) -> Server {
    let mut command = command(MIDGE);
    command.args(arguments);
    start_command(command)
}

fn start_command(command: Command) -> Server {
    match Server::start_command(command, Directory::new().unwrap()) {
        Ok(server) => server,
        Err(text) => panic!("{text}"),
    }
}

/// Returns Midge under the name of the server it stands in for.
fn nats_server(directory: &Directory) -> PathBuf {
    let link = directory.join("nats-server");
    std::os::unix::fs::symlink(MIDGE, &link).unwrap();
    link
}

/// Runs a program that ends by itself.
fn output(program: impl AsRef<Path>, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program.as_ref()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().expect("not ended by a signal"), text(stdout), text(stderr))
}

/// A huge page is resident as a whole from its first byte on.
#[test]
fn a_small_server_has_no_huge_page() {
    let server = start(&[]);
    let path = format!("/proc/{}/smaps_rollup", server.process_id());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with("AnonHugePages:")).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("0"), "{text}");
}

fn exit_code(server: &mut Server) -> Option<i32> {
    let status = server.wait_for_exit(WAIT_MAX);
    status.unwrap_or_else(|| panic!("it runs on:\n{}", log(server))).code()
}

fn log(server: &Server) -> String {
    server.log().lines().join("\n")
}

/// Waits for a log line with this text, from line `start_index` on.
fn wait_for_line(server: &Server, start_index: usize, text: &str) {
    let found =
        server.log().wait_for(start_index, WAIT_MAX, |line| line.contains(text).then_some(()));
    assert!(found.is_some(), "no line with {text:?}:\n{}", log(server));
}

fn serves(server: &Server) {
    RawClient::connect(server.address()).unwrap().round_trip().unwrap();
}

#[test]
fn version_and_help_under_both_names() {
    let directory = Directory::new().unwrap();
    let link = nats_server(&directory);
    for flag in ["-v", "--version", "version"] {
        assert_eq!(output(&link, &[flag]), (0, "nats-server: v2.15.3\n".into(), String::new()));
        let (code, stdout, stderr) = output(MIDGE, &[flag]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.starts_with("midge: v") && stdout.contains("2.15.3"), "{stdout}");
    }
    for flag in ["-h", "--help", "help"] {
        for (program, name) in [(Path::new(MIDGE), "midge"), (&link, "nats-server")] {
            let (code, stdout, _) = output(program, &[flag]);
            assert_eq!(code, 0);
            assert!(stdout.contains(&format!("Usage: {name} [options]")), "{stdout}");
            assert_eq!(stdout.contains("Midge, a NATS server"), name == "midge", "{stdout}");
            for flag in ["--port", "--config", "--signal", "--shards", "--io-driver", "--unix"] {
                assert!(stdout.contains(flag), "{flag} is missing in {stdout}");
            }
        }
    }
}

#[test]
fn a_bad_flag_is_named() {
    let directory = Directory::new().unwrap();
    let (code, _, stderr) = output(MIDGE, &["--nonsense"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("flag provided but not defined: -nonsense\n"), "{stderr}");
    // nats-server shows its usage and exits as if it had been asked for.
    let (code, stdout, stderr) = output(nats_server(&directory), &["--nonsense"]);
    assert_eq!(code, 0);
    assert!(stderr.starts_with("flag provided but not defined: -nonsense\n"), "{stderr}");
    assert!(stdout.contains("Usage: nats-server"), "{stdout}");
    let refused: [(&[&str], &str); 5] = [
        (&["-p", "abc"], "abc"),
        (&["nonsense"], "unrecognized command: \"nonsense\""),
        (&["--io-driver", "kqueue"], "'auto', 'io_uring' or 'epoll'"),
        (&["--cores", "two"], "two"),
        (&["-c", "/nonexistent.conf"], "no such file or directory"),
    ];
    for (arguments, text) in refused {
        let (code, _, stderr) = output(MIDGE, arguments);
        assert_ne!(code, 0, "{arguments:?}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
}

#[test]
fn flags_of_later_features_are_refused_not_ignored() {
    for arguments in [["--cluster", "nats://127.0.0.1:-1"], ["--routes", "nats://x"]] {
        let (code, stdout, stderr) = output(MIDGE, &arguments);
        assert_ne!(code, 0, "{arguments:?}");
        let name = arguments[0].trim_start_matches('-');
        assert!(stdout.is_empty() && stderr.contains(name), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("[INF]"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_failed_start_says_why_and_exits_with_1() {
    let server = start(&[]);
    let port = server.address().port().to_string();
    let taken = format!(
        "[FTL] Error listening on port: 127.0.0.1:{port}, \"listen tcp 127.0.0.1:{port}: bind: address already in use\""
    );
    let cases: [(&[&str], &str); 6] = [
        (&["-p", &port], &taken),
        (&["--cores", "999"], "[FTL] core 999 is not available to this process"),
        (&["--cores", "0", "--shards", "2"], "2 shards need 2 cores, but cores names 1"),
        (&["-P", "/nonexistent/pid"], "[FTL] Could not write pidfile: open /nonexistent/pid"),
        (&["-a", "host.invalid"], "[FTL] Error listening on port: host.invalid"),
        (&["--unix", "/nonexistent/socket"], "[FTL] cannot bind /nonexistent/socket"),
    ];
    for (arguments, text) in cases {
        let mut all = vec!["-a", "127.0.0.1", "-p", "-1"];
        all.extend(arguments);
        let (code, _, stderr) = output(MIDGE, &all);
        assert_eq!(code, 1, "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    serves(&server);
}

#[test]
fn the_pid_file_and_the_ports_file_are_written_and_only_the_ports_file_is_removed() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = Directory::new().unwrap();
        let pid_path = directory.join("midge.pid");
        let mut command = command(nats_server(&directory));
        command.arg("-P").arg(&pid_path).arg("--ports_file_dir").arg(&*directory);
        let mut server = start_command(command);
        let ports_path = directory.join(format!("nats-server_{}.ports", server.process_id()));
        wait_until("the ports file", || {
            std::fs::read_to_string(&ports_path).is_ok_and(|text| text.ends_with('}'))
        });
        let pid = std::fs::read_to_string(&pid_path).unwrap();
        assert_eq!(pid, server.process_id().to_string());
        let ports = std::fs::read_to_string(&ports_path).unwrap();
        assert_eq!(ports, format!("{{\"nats\":[\"nats://{}\"]}}", server.address()));
        let mut client = RawClient::connect(server.address()).unwrap();
        client.round_trip().unwrap();
        server.signal(signal).unwrap();
        assert_eq!(exit_code(&mut server), Some(0));
        // Clients see nothing but the end.
        assert!(client.take_line(std::time::Instant::now() + WAIT_MAX).is_none());
        assert!(client.is_closed() && client.unread().is_empty());
        assert!(!ports_path.exists());
        assert!(pid_path.exists());
        let text = log(&server);
        let name = if signal == Signal::INT { "interrupt" } else { "terminated" };
        assert!(text.contains(&format!("[INF] Trapped \"{name}\" signal")), "{text}");
        assert!(text.contains("[INF] Initiating Shutdown..."), "{text}");
        assert!(text.ends_with("[INF] Server Exiting.."), "{text}");
    }
}

/// Starts a server that logs to a file, which then has its address.
fn start_with_log_file(path: &Path) -> (Server, SocketAddr) {
    let mut command = command(MIDGE);
    command.arg("-l").arg(path);
    let server = Server::spawn(command, Directory::new().unwrap()).unwrap();
    let contents = || std::fs::read_to_string(path).unwrap_or_default();
    wait_until("the log file", || contents().contains("Server is ready"));
    let text = contents();
    let (_, rest) = text.split_once("Listening for client connections on ").unwrap();
    (server, rest.lines().next().unwrap().parse().unwrap())
}

#[test]
fn the_log_file_is_reopened_on_sigusr1() {
    let directory = Directory::new().unwrap();
    let (path, moved) = (directory.join("midge.log"), directory.join("midge.log.1"));
    let (mut server, address) = start_with_log_file(&path);
    std::fs::rename(&path, &moved).unwrap();
    server.signal(Signal::USR1).unwrap();
    wait_until("the new log file", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("File log re-opened"))
    });
    RawClient::connect(address).unwrap().round_trip().unwrap();
    server.signal(Signal::TERM).unwrap();
    assert_eq!(exit_code(&mut server), Some(0));
    let (old, new) =
        (std::fs::read_to_string(&moved).unwrap(), std::fs::read_to_string(&path).unwrap());
    assert!(old.contains("Server is ready") && !old.contains("Server Exiting"), "{old}");
    assert!(new.contains("Server Exiting.."), "{new}");
}

#[test]
fn a_hangup_reloads_the_file_or_logs_why_not() {
    let server = start(&[]);
    let lines = server.log().line_count();
    server.signal(Signal::HUP).unwrap();
    wait_for_line(&server, lines, "Trapped \"hangup\" signal");
    wait_for_line(&server, lines, "Failed to reload server configuration: ");
    serves(&server);

    let server = Server::midge(2, "debug: false");
    let path = server.directory().join("server.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("debug: false", "debug: true")).unwrap();
    let lines = server.log().line_count();
    server.signal(Signal::HUP).unwrap();
    wait_for_line(&server, lines, "[INF] Reloaded server configuration");
    let lines = server.log().line_count();
    serves(&server);
    wait_for_line(&server, lines, "Client connection created");

    std::fs::write(&path, "max_payload: {").unwrap();
    server.signal(Signal::HUP).unwrap();
    wait_for_line(&server, lines, "[ERR] Failed to reload server configuration: ");
    serves(&server);
}

#[test]
fn an_advertised_address_is_announced_and_a_bad_one_refused_at_start_and_by_reload() {
    let server = Server::midge(1, "client_advertise: \"nats.example.com\"");
    let told = || {
        let mut client = RawClient::connect(server.address()).unwrap();
        let info = client.take_line(std::time::Instant::now() + WAIT_MAX).unwrap();
        String::from_utf8(info).unwrap()
    };
    // A host alone takes the listener's port.
    let own = format!("\"host\":\"nats.example.com\",\"port\":{},", server.address().port());
    assert!(told().contains(&own), "{}", told());
    for (text, line, expected) in [
        ("a:b", "Failed to reload server configuration: ", own.as_str()),
        ("nats://a:4222", "Failed to reload server configuration: ", &own),
        ("[::1]:5", "[INF] Reloaded server configuration", "\"host\":\"::1\",\"port\":5,"),
    ] {
        server.rewrite_config(&format!("client_advertise: \"{text}\"")).unwrap();
        let lines = server.log().line_count();
        server.signal(Signal::HUP).unwrap();
        wait_for_line(&server, lines, line);
        assert!(told().contains(expected), "{text}: {}", told());
    }
    for text in ["a:b", "a:", "::1", "nats://a:4222", "a:99999"] {
        let (code, _, stderr) = output(MIDGE, &["-p", "-1", "--client_advertise", text]);
        assert_eq!(code, 1, "{text}");
        assert!(stderr.contains(&format!("invalid ClientAdvertise value of {text}, err=")));
    }
}

#[test]
fn the_signal_flag_reaches_a_server_by_process_id_and_by_pid_file() {
    let directory = Directory::new().unwrap();
    let cases = [
        ("reopen", "Trapped \"user defined signal 1\" signal", false, Some(0)),
        ("reload", "Trapped \"hangup\" signal", false, Some(0)),
        ("ldm", "Trapped \"user defined signal 2\" signal", true, Some(0)),
        ("quit", "Trapped \"interrupt\" signal", true, Some(0)),
        ("term", "Trapped \"terminated\" signal", true, Some(0)),
        ("stop", "", true, None),
    ];
    for (command, line, ends, code) in cases {
        for by_file in [false, true] {
            let pid_path = directory.join(format!("{command}.pid"));
            let mut server = start(&["-P", pid_path.to_str().unwrap()]);
            let target = match by_file {
                true => pid_path.display().to_string(),
                false => server.process_id().to_string(),
            };
            wait_until("the pid file", || {
                std::fs::read_to_string(&pid_path).is_ok_and(|text| !text.is_empty())
            });
            let lines = server.log().line_count();
            let (sent, _, stderr) = output(MIDGE, &["--signal", &format!("{command}={target}")]);
            assert_eq!((sent, stderr.as_str()), (0, ""), "{command}");
            if !line.is_empty() {
                wait_for_line(&server, lines, line);
            }
            if ends {
                assert_eq!(exit_code(&mut server), code, "{command}");
            } else {
                serves(&server);
            }
        }
    }
    let (code, _, stderr) = output(MIDGE, &["--signal", "nonsense=1"]);
    assert_eq!((code, stderr.as_str()), (1, "midge: unknown signal \"nonsense\"\n"));
    // Larger than any process id.
    let (code, _, stderr) = output(MIDGE, &["-sl", "quit=2147483647"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("no such process"), "{stderr}");
}

#[test]
fn lame_duck_ignores_sigterm_and_ends_with_sigint() {
    let mut server = Server::midge_with(2, &[], "lame_duck_grace_period: 25s");
    let mut client = RawClient::connect(server.address()).unwrap();
    client.round_trip().unwrap();
    let lines = server.log().line_count();
    server.signal(Signal::USR2).unwrap();
    wait_for_line(&server, lines, "Entering lame duck mode, stop accepting new clients");
    server.signal(Signal::TERM).unwrap();
    wait_for_line(&server, lines, "Trapped \"terminated\" signal");
    client.round_trip().unwrap();
    server.signal(Signal::INT).unwrap();
    assert_eq!(exit_code(&mut server), Some(0));
}

#[test]
fn it_listens_on_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6");
        return;
    }
    let mut command = Command::new(MIDGE);
    command.args(["-a", "::1", "-p", "-1", "--shards", "2", "--no-pin"]);
    let server = start_command(command);
    assert!(server.address().is_ipv6(), "{}", server.address());
    let mut client = RawClient::connect(server.address()).unwrap();
    let info = client.take_line(std::time::Instant::now() + WAIT_MAX).unwrap();
    let info = String::from_utf8(info).unwrap();
    assert!(info.contains("\"client_ip\":\"::1\"") && info.contains("\"host\":\"::1\""), "{info}");
    client.round_trip().unwrap();
}

#[test]
fn all_interfaces_are_reachable_by_ipv4_and_ipv6() {
    let mut command = Command::new(MIDGE);
    command.args(["-p", "-1", "--shards", "2", "--no-pin"]);
    let server = start_command(command);
    let port = server.address().port();
    RawClient::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap().round_trip().unwrap();
}

/// Returns the port at the end of the log line with this text.
fn port_behind(server: &Server, text: &str) -> u16 {
    let found = server.log().wait_for(0, WAIT_MAX, |line| {
        let address = line.split_once(text)?.1.split(' ').next()?;
        address.rsplit_once(':')?.1.parse().ok()
    });
    found.unwrap_or_else(|| panic!("no line with {text}:\n{}", log(server)))
}

#[test]
fn the_default_host_answers_ipv4_and_ipv6_on_every_port() {
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for host in [&[][..], &["-a", "0.0.0.0"], &["-a", "::"]] {
        let own_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(MIDGE);
        command.args(["-p", "-1", "-m", "-1", "--shards", "1", "--no-pin", "-D"]).args(host);
        command.args(["--shard-ports", &own_port.to_string()]);
        let server = start_command(command);
        let client = port_behind(&server, "Listening for client connections on ");
        let monitoring = port_behind(&server, "Starting http monitor on ");
        let mut addresses = vec![("127.0.0.1", IpAddr::from(Ipv4Addr::LOCALHOST))];
        if has_ipv6 {
            addresses.push(("::1", IpAddr::from(Ipv6Addr::LOCALHOST)));
        }
        for (shown, address) in addresses {
            for port in [client, own_port] {
                let lines = server.log().line_count();
                let mut peer = RawClient::connect(SocketAddr::new(address, port)).unwrap();
                let info = peer.take_line(std::time::Instant::now() + WAIT_MAX).unwrap();
                let info = String::from_utf8(info).unwrap();
                assert!(info.contains(&format!("\"client_ip\":\"{shown}\"")), "{info}");
                peer.round_trip().unwrap();
                let label = SocketAddr::new(address, peer.local_port());
                wait_for_line(&server, lines, &format!("{label} - cid:"));
            }
            let stream = TcpStream::connect(SocketAddr::new(address, monitoring));
            assert!(stream.is_ok(), "{host:?}: monitoring by {shown}");
        }
    }
}

#[test]
fn shards_and_cores_are_as_asked_for() {
    let server = start(&["--shards", "3"]);
    assert!(log(&server).contains("Shards:   3 on "), "{}", log(&server));
    serves(&server);
    let core = first_core_allowed();
    let mut command = Command::new(MIDGE);
    command.args(["-a", "127.0.0.1", "-p", "-1", "--cores", &core]);
    let server = start_command(command);
    let text = log(&server);
    assert!(text.contains("Shards:   1 on ") && text.contains(&format!("cores {core}")), "{text}");
    // The shard's thread may run there and nowhere else.
    let tasks = format!("/proc/{}/task", server.process_id());
    let pinned = std::fs::read_dir(tasks).unwrap().any(|task| {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        name.starts_with("shard-0") && status.contains(&format!("Cpus_allowed_list:\t{core}\n"))
    });
    assert!(pinned, "the shard is not pinned to core {core}");
    serves(&server);
}

/// Returns the lowest core that this process may run on.
fn first_core_allowed() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    list.split([',', '-']).next().unwrap().to_owned()
}

#[test]
fn the_file_descriptor_limit_is_raised_to_its_maximum() {
    let script = format!("ulimit -Sn 200; exec {MIDGE} -a 127.0.0.1 -p -1 --shards 1 --no-pin");
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let server = start_command(command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process_id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
    assert_ne!(words[3], "200", "{line}");
    let clients: Vec<_> = (0..250).map(|_| RawClient::connect(server.address()).unwrap()).collect();
    clients.into_iter().for_each(|mut client| client.round_trip().unwrap());
}

/// Returns the ticks of CPU time used while nothing happens for `duration`.
fn idle_ticks(server: &Server, duration: Duration) -> u64 {
    let before = server.cpu_ticks();
    // The time itself is measured: no condition ends it.
    let nothing: Option<()> = server.log().wait_for(0, duration, |_| None);
    assert!(nothing.is_none());
    server.cpu_ticks() - before
}
