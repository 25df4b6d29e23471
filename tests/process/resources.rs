//! What the host gives the process: open files and cores.

use super::*;

/// Starts a server with this limit on open files: it is ready, or has ended with a reason.
fn start_with_files(limit: u32) -> Server {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $0; exec \"$@\"", &limit.to_string(), MIDGE]);
    command.args(["-a", "127.0.0.1", "-p", "-1", "--shards", "2", "--no-pin"]);
    Server::spawn(command, Directory::new().unwrap()).unwrap()
}

/// Whichever resource is the first that cannot be had.
#[test]
fn too_few_open_files_are_reported_before_the_server_is_ready() {
    let mut refused = 0;
    for limit in 6..26 {
        let mut server = start_with_files(limit);
        let end = server.log().wait_for(0, WAIT_MAX, |line| {
            let ready = line.contains("Server is ready");
            (ready || line.contains("[FTL]")).then(|| line.to_owned())
        });
        // So few that not even a log is possible.
        let end = end.unwrap_or_default();
        if end.contains("Server is ready") {
            let address = server.log().wait_for(0, WAIT_MAX, |line| {
                line.split_once("Listening for client connections on ")?.1.trim().parse().ok()
            });
            let address: SocketAddr = address.expect("the log names the port");
            RawClient::connect(address).unwrap().round_trip().unwrap();
            continue;
        }
        assert_ne!(exit_code(&mut server), Some(0), "{limit}");
        let log = log(&server);
        assert!(!log.contains("panicked"), "{limit}: {log}");
        if !end.is_empty() {
            let text = "too many open files; raise the limit of open files (ulimit -Hn,";
            assert!(end.contains(text), "{limit}: {log}");
            refused += 1;
        }
    }
    assert!(refused >= 5, "only {refused} limits were too low");
}

/// Returns the cores on which the kernel lets the thread of this name run.
fn cores_of(server: &Server, thread: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process_id())).unwrap();
    let statuses = tasks.map(|task| {
        let path = task.unwrap().path().join("status");
        std::fs::read_to_string(path).unwrap_or_default()
    });
    let is_it = |status: &String| status.starts_with(&format!("Name:\t{thread}\n"));
    let status = statuses.into_iter().find(is_it).expect("the thread runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a line of the kernel").trim().to_owned()
}

#[test]
fn unpinned_shards_stay_on_the_cores_that_are_named() {
    let cores = core_affinity::get_core_ids().expect("the mask can be read");
    let last = cores.last().expect("at least one core").id.to_string();
    let mut command = Command::new(MIDGE);
    command.args(["-a", "127.0.0.1", "-p", "-1", "--shards", "1", "--no-pin", "--cores", &last]);
    let server = start_command(command);
    assert_eq!(cores_of(&server, "shard-0"), last);
    let text = format!("not pinned, on cores {last}");
    assert!(log(&server).contains(&text), "{}", log(&server));
    // Without named cores the kernel decides.
    let server = start(&[]);
    let all: Vec<String> = cores.iter().map(|core| core.id.to_string()).collect();
    if all.len() > 1 {
        assert_ne!(cores_of(&server, "shard-0"), last);
    }
    serves(&server);
}

/// The decision and its reason are in one log line.
#[test]
fn shards_are_pinned_if_asked_for_and_not_where_others_may_run() {
    let cores = core_affinity::get_core_ids().expect("the mask can be read");
    let start = |flags: &[&str]| {
        let mut command = Command::new(MIDGE);
        command.args(["-a", "127.0.0.1", "-p", "-1", "--shards", "1"]).args(flags);
        start_command(command)
    };
    let pinned = start(&["--pin"]);
    let first = cores[0].id.to_string();
    assert!(log(&pinned).contains(&format!("pinned to cores {first} (as asked for)")));
    assert_eq!(cores_of(&pinned, "shard-0"), first);
    let server = start(&[]);
    let text = log(&server);
    let is_shared = text.contains("not pinned (other programs may use the same cores; --pin");
    let is_own = text.contains("(isolated from other programs") || text.contains("(kept for the");
    assert!(is_shared != is_own, "{text}");
    if is_shared {
        let all = std::fs::read_to_string("/proc/self/status").unwrap();
        let all = all.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        assert_eq!(cores_of(&server, "shard-0"), all.trim());
    }
}
