//! A server under test: started on a port of its own choice, followed through its log, ended by its
//! id.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::WAIT_MAX;

/// One running server. Dropping it ends the process and removes its files.
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: Arc<Log>,
    directory: Directory,
}

/// The lines that a server has written to standard error so far.
#[derive(Default)]
pub struct Log {
    state: Mutex<LogState>,
    grown: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Server {
    /// Starts `program` with `arguments` and a configuration file that contains `config`, and waits
    /// until it reports that it is ready. The file's first line asks for any free port of
    /// 127.0.0.1.
    ///
    /// # Errors
    /// If the program cannot be started, ends early, or is not ready in time; the text has its log.
    pub fn start(program: &Path, arguments: &[&str], config: &str) -> Result<Self, String> {
        let directory = Directory::new()?;
        let config_path = directory.join("server.conf");
        let text = format!("listen: \"127.0.0.1:-1\"\n{config}\n");
        std::fs::write(&config_path, text).map_err(|e| format!("cannot write the config: {e}"))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config_path).args(arguments);
        Self::start_command(command, directory)
    }

    /// Starts `program` with a file of `tests/config`, changed to free ports and to the server's
    /// directory.
    ///
    /// # Errors
    /// As `start`, or if the file cannot be read.
    pub fn start_file(program: &Path, arguments: &[&str], path: &Path) -> Result<Self, String> {
        let directory = Directory::new()?;
        let moved = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut text = std::fs::read_to_string(path).map_err(moved)?;
        let names_port = text.contains("5222") || text.contains("port: -1");
        for port in ["5222", "8222", "8443"] {
            text = text.replace(port, "-1");
        }
        let place = format!("{}/", directory.display());
        for folder in ["/var/log/", "/var/lib/", "/run/"] {
            text = text.replace(folder, &place);
        }
        let config_path = directory.join("server.conf");
        std::fs::write(&config_path, text).map_err(moved)?;
        let files = path.parent().expect("a file has a folder").join("files");
        std::os::unix::fs::symlink(files, directory.join("files")).map_err(moved)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config_path).args(arguments);
        if !names_port {
            command.args(["-p", "-1"]);
        }
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        Self::start_command(command, directory)
    }

    /// Writes a new configuration, in the form that `start` uses, for the next reload.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn rewrite_config(&self, config: &str) -> Result<(), String> {
        let text = format!("listen: \"127.0.0.1:-1\"\ndebug: true\n{config}\n");
        std::fs::write(self.directory.join("server.conf"), text).map_err(|e| e.to_string())
    }

    /// Returns the body of an answer of the monitoring port.
    ///
    /// # Errors
    /// If there is no such port, or no complete answer in time.
    pub fn monitor_get(&self, path: &str) -> Result<Vec<u8>, String> {
        let address = self.log.wait_for(0, WAIT_MAX, |line| {
            line.split_once("Starting http monitor on ")?.1.trim().parse::<SocketAddr>().ok()
        });
        let address = address.ok_or_else(|| self.complaint("has no monitoring port"))?;
        let ask = || -> std::io::Result<Vec<u8>> {
            let mut stream = std::net::TcpStream::connect_timeout(&address, WAIT_MAX)?;
            stream.set_read_timeout(Some(WAIT_MAX))?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
            std::io::Write::write_all(&mut stream, request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|e| format!("{path}: {e}"))?;
        let body = memchr::memmem::find(&answer, b"\r\n\r\n").map(|end| end + 4);
        body.map(|start| answer[start..].to_vec()).ok_or_else(|| format!("{path}: no answer"))
    }

    /// Starts Midge with this number of shards, unpinned.
    pub fn midge(shard_count: usize, config: &str) -> Self {
        Self::midge_with(shard_count, &[], config)
    }

    /// Starts Midge with more arguments.
    pub fn midge_with(shard_count: usize, arguments: &[&str], config: &str) -> Self {
        let shard_count = shard_count.to_string();
        let mut all = vec!["--shards", &shard_count, "--no-pin"];
        all.extend(arguments);
        match Self::start(Path::new(env!("CARGO_BIN_EXE_midge")), &all, config) {
            Ok(server) => server,
            Err(text) => panic!("{text}"),
        }
    }

    /// Starts a command made by the caller and waits until the server is ready. Its standard error
    /// becomes the log; `directory` lives as long as the server.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_command(command: Command, directory: Directory) -> Result<Self, String> {
        let mut server = Self::spawn(command, directory)?;
        server.address = server
            .log
            .wait_for(0, WAIT_MAX, |line| {
                let text = line.split_once("Listening for client connections on ")?.1;
                // More may follow in a line of JSON.
                text.split('"').next()?.trim().parse().ok()
            })
            .ok_or_else(|| server.complaint("does not say where it listens"))?;
        server
            .log
            .wait_for(0, WAIT_MAX, |line| line.contains("Server is ready").then_some(()))
            .ok_or_else(|| server.complaint("does not become ready"))?;
        Ok(server)
    }

    /// Starts a command whose server may never be ready. Its address stays 127.0.0.1:0.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(mut command: Command, directory: Directory) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
        let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        let log = Arc::new(Log::default());
        let follower = Arc::clone(&log);
        std::thread::spawn(move || follower.follow(stderr));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self { child, address, log, directory })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address for WebSocket clients.
    ///
    /// # Errors
    /// If the server does not name one.
    pub fn web_address(&self) -> Result<SocketAddr, String> {
        let address = self.log.wait_for(0, WAIT_MAX, |line| {
            let (_, url) = line.split_once("Listening for websocket clients on ")?;
            url.split_once("://")?.1.trim().parse().ok()
        });
        address.ok_or_else(|| self.complaint("has no port for WebSocket"))
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Returns the directory of the server's files; it is removed with the server.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the ticks of CPU time that the process has used, user and system.
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.process_id());
        let text = std::fs::read_to_string(path).expect("the server runs");
        // The second field is the name in parentheses, which may hold blanks.
        let fields: Vec<&str> = text[text.rfind(')').expect("a name") + 2..].split(' ').collect();
        // utime and stime are the 14th and 15th of all, so the 12th and 13th of these.
        fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// Returns a value of `/proc/PID/status`, in KiB.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process_id());
        let text = std::fs::read_to_string(path).expect("the server runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).expect("a number of KiB")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).map_err(|e| format!("cannot signal the server: {e}"))
    }

    /// Waits until the process has ended by itself; None if it still runs after `timeout`.
    pub fn wait_for_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        // The log ends when the process closes its standard error: no polling is needed.
        self.log.wait_for_end(timeout).then(|| self.child.wait().ok()).flatten()
    }

    fn complaint(&self, what: &str) -> String {
        format!("the server {what}; its log:\n{}", self.log.lines().join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.state.lock().unwrap().lines.clone()
    }

    pub fn line_count(&self) -> usize {
        self.state.lock().unwrap().lines.len()
    }

    /// Returns the first answer that `find` gives to a line from `start_index` on; waits for more
    /// lines until `timeout` has passed or the log has ended.
    pub fn wait_for<T>(
        &self,
        start_index: usize,
        timeout: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut next_index = start_index;
        let mut state = self.state.lock().unwrap();
        loop {
            for line in &state.lines[next_index..] {
                if let Some(found) = find(line) {
                    return Some(found);
                }
            }
            next_index = state.lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if state.ended {
                return None;
            }
            state = self.grown.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for_end(&self, timeout: Duration) -> bool {
        let state = self.state.lock().unwrap();
        self.grown.wait_timeout_while(state, timeout, |state| !state.ended).unwrap().0.ended
    }

    fn follow(&self, source: impl Read) {
        for line in BufReader::new(source).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            self.state.lock().unwrap().lines.push(line);
            self.grown.notify_all();
        }
        self.state.lock().unwrap().ended = true;
        self.grown.notify_all();
    }
}

/// A new directory under the system's temporary one; dropping it removes it.
pub struct Directory(PathBuf);

impl Directory {
    /// Makes a directory.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self, String> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)
            .map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Files that are left are in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
