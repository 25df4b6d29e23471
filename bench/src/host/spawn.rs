//! Starts a server by its command line, pinned, on a free port or a Unix socket of its own, with
//! certificates made for it if it asks for them, and ends it again.

use crate::Failure;
use crate::host::certificates::{self, CertificateFiles, TemporaryFolder};
use crate::host::{interrupt, pin};
use crate::units::{CoreList, split_command_line};
use crate::wire::address::{Address, WebSocket};
use crate::wire::connection::ShardPorts;
use crate::wire::stream::Stream;
use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time for a server to accept its first connection.
const START_WAIT_MAX: Duration = Duration::from_secs(15);
/// Time for a server to end after SIGTERM before it is killed.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes kept of the end of a server's output.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Lines of it that are shown if the server fails.
const OUTPUT_LINES_MAX: usize = 10;
/// Time for the output of a server that has ended to arrive; a child of its own may hold it open.
const OUTPUT_WAIT_MAX: Duration = Duration::from_millis(500);

/// Range in which rows of ports are sought: Linux uses 32,768 and above for outgoing connections.
const ROW_PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Placeholders in a command line for the address to listen on.
const PORT: &str = "{port}";
const UNIX: &str = "{unix}";
/// Placeholders for the files of the certificates.
const CERTIFICATE: &str = "{tls_cert}";
const KEY: &str = "{tls_key}";
const AUTHORITY: &str = "{tls_ca}";
/// Placeholders for the first shard's port, to place connections on shards.
const TOGETHER: &str = "{together}";
const APART: &str = "{apart}";
/// Placeholder for a free port for monitoring.
const MONITOR: &str = "{monitor}";
/// Placeholder for an empty folder on a disk.
pub const STORE: &str = "{store}";
/// The kernel's number for file systems that are no disk (`TMPFS_MAGIC`).
const MEMORY_FILE_SYSTEM: i64 = 0x0102_1994;
/// Placeholders for a configuration file with a port for WebSocket: plain, with deflated messages,
/// and with TLS.
const WEBSOCKET: &str = "{websocket}";
const WEBSOCKET_DEFLATE: &str = "{websocket_deflate}";
const WEBSOCKET_TLS: &str = "{websocket_tls}";

/// A server that this process has started; ended when dropped.
pub struct StartedServer {
    child: Child,
    output: Output,
    pub address: Address,
    /// The ports of the shards, if these have ports of their own.
    pub shards: Option<ShardPorts>,
    pub monitor_port: Option<u16>,
    /// Files for the clients of a server that was given certificates.
    pub certificates: Option<CertificateFiles>,
    /// Holds the server's socket and certificates; dropped after the server.
    _folder: TemporaryFolder,
    /// Holds the server's store, if it asked for one.
    _store: Option<TemporaryFolder>,
}

impl StartedServer {
    /// Starts `command_line`. `{port}` and `{unix}` stand for the port and the Unix socket on which
    /// the server is to listen; with `{unix}` the socket is measured, else the port. `{tls_cert}`,
    /// `{tls_key}` and `{tls_ca}` are files made for it; with them TLS is measured. `{monitor}` is
    /// a free port for monitoring. `{websocket}`, `{websocket_deflate}` and `{websocket_tls}` are
    /// configuration files with a port for WebSocket, which is then measured. `{together}` or
    /// `{apart}` is the first of two ports for a Midge's `--shard-ports`, to which connections then
    /// go. `{store}` is an empty folder in `store_root`, or in the system's folder for temporary
    /// files.
    ///
    /// # Errors
    /// If it cannot be started, ends at once, or does not accept a connection in time; if the
    /// folder for its store would be in memory.
    pub fn start(
        command_line: &str,
        cores: &CoreList,
        store_root: Option<&Path>,
    ) -> Result<StartedServer, Failure> {
        check_command_line(command_line)?;
        let folder = TemporaryFolder::new()?;
        let certificates = match wants_certificates(command_line) {
            true => Some(certificates::make(&folder)?),
            false => None,
        };
        let port = free_port()?;
        let socket = folder.file("server.sock");
        let mut replacements = vec![(PORT, port.to_string()), (UNIX, socket.clone())];
        let store = match command_line.contains(STORE) {
            true => Some(store_folder(store_root)?),
            false => None,
        };
        replacements.extend(store.as_ref().map(|folder| (STORE, folder.file("store"))));
        let monitor_port = command_line.contains(MONITOR).then(free_port).transpose()?;
        replacements.extend(monitor_port.map(|port| (MONITOR, port.to_string())));
        let placement = [(TOGETHER, false), (APART, true)];
        let placement = placement.into_iter().find(|(name, _)| command_line.contains(name));
        let mut shards = None;
        if let Some((name, apart)) = placement {
            let first = free_port_run(2)?;
            shards = Some(ShardPorts { first, apart });
            replacements.push((name, first.to_string()));
        }
        if let Some(files) = &certificates {
            replacements.push((CERTIFICATE, files.certificate.clone()));
            replacements.push((KEY, files.key.clone()));
            replacements.push((AUTHORITY, files.authority.clone()));
        }
        let web_port = match web_of(command_line) {
            WebSocket::No => None,
            web => {
                let port = free_port()?;
                let text = web_config(
                    port,
                    web,
                    certificates.as_ref().filter(|_| command_line.contains(WEBSOCKET_TLS)),
                );
                let file = folder.write("websocket.conf", &text)?;
                for name in [WEBSOCKET, WEBSOCKET_DEFLATE, WEBSOCKET_TLS] {
                    replacements.push((name, file.clone()));
                }
                Some(port)
            }
        };
        // Replaced word by word, so that a path with a blank in it stays one word.
        let mut words = split_command_line(command_line)?;
        for word in &mut words {
            for (placeholder, value) in &replacements {
                *word = word.replace(placeholder, value);
            }
        }
        let mut command = Command::new(&words[0]);
        let (reader, writer) = std::io::pipe()?;
        command.args(&words[1..]).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        if cores.0.len() == 1 {
            // Otherwise Go would run more threads than there are cores.
            command.env("GOMAXPROCS", "1");
        }
        let child = spawn_pinned(command, cores, &words[0])?;
        let output = Output::collect(reader);
        let mut address = address_of(command_line);
        match &mut address {
            Address::Unix { path } => *path = socket,
            Address::Tcp { port: place, .. } => *place = web_port.unwrap_or(port),
        }
        let mut server = StartedServer {
            child,
            output,
            address,
            shards,
            monitor_port,
            certificates,
            _folder: folder,
            _store: store,
        };
        server.wait_until_it_accepts(&words[0])?;
        Ok(server)
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server with SIGKILL: it can write nothing more.
    pub fn kill(&mut self) {
        interrupt::disown_child(self.child.id());
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait_until_it_accepts(&mut self, program: &str) -> Result<(), Failure> {
        let until = Instant::now() + START_WAIT_MAX;
        loop {
            if Stream::connect(&self.address, POLL_INTERVAL).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure::new(format!(
                    "{program} ended at once: {status}; {}",
                    self.output.last_lines(OUTPUT_WAIT_MAX)
                )));
            }
            if Instant::now() > until {
                return Err(Failure::new(format!(
                    "{program} does not listen at {} after {} s; {}",
                    self.address,
                    START_WAIT_MAX.as_secs(),
                    self.output.last_lines(Duration::ZERO)
                )));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Appends the server's own last output to a failure, if the server has ended meanwhile.
    pub fn explain(&mut self, failure: Failure) -> Failure {
        match self.child.try_wait() {
            Ok(Some(status)) => Failure::new(format!(
                "{failure}; the server had ended: {status}; {}",
                self.output.last_lines(OUTPUT_WAIT_MAX)
            )),
            _ => failure,
        }
    }
}

/// The end of a server's standard output and error, in the order in which it came.
struct Output {
    tail: Arc<Mutex<VecDeque<u8>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Output {
    /// Reads until every process that can write has ended: a server must never wait for its log to
    /// be read.
    fn collect(mut reader: std::io::PipeReader) -> Output {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&tail);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; OUTPUT_BYTES_MAX];
            while let Ok(count) = reader.read(&mut bytes)
                && count > 0
            {
                let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                kept.extend(&bytes[..count]);
                let surplus = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
                kept.drain(..surplus);
            }
        });
        Output { tail, thread }
    }

    /// Returns a sentence with the last lines, once everything has come or `wait` is over.
    fn last_lines(&self, wait: Duration) -> String {
        let until = Instant::now() + wait;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(POLL_INTERVAL);
        }
        let kept = self.tail.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        drop(kept);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return "it said nothing".to_string();
        }
        let shown = &lines[lines.len().saturating_sub(OUTPUT_LINES_MAX)..];
        format!("its last words:\n  {}", shown.join("\n  "))
    }
}

impl Drop for StartedServer {
    fn drop(&mut self) {
        interrupt::disown_child(self.child.id());
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        // An error means that it has ended already; wait() below collects it either way.
        let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::TERM));
        let until = Instant::now() + STOP_WAIT_MAX;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        // Ignored for the same reason.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a folder for a server's store.
///
/// # Errors
/// If it cannot be made, or its file system is memory: an acknowledgement from there is worth
/// nothing.
pub fn store_folder(root: Option<&Path>) -> Result<TemporaryFolder, Failure> {
    let root = root.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let system = rustix::fs::statfs(&root)
        .map_err(|error| Failure::new(format!("{}: {error}", root.display())))?;
    if system.f_type == MEMORY_FILE_SYSTEM {
        return Err(Failure::new(format!(
            "{} is in memory: give a folder on a disk by --store-root",
            root.display()
        )));
    }
    TemporaryFolder::new_in(&root)
}

/// Returns a configuration file with a port for WebSocket.
fn web_config(port: u16, web: WebSocket, certificates: Option<&CertificateFiles>) -> String {
    let tls = match certificates {
        None => "no_tls: true".to_string(),
        Some(files) => {
            let (certificate, key) = (&files.certificate, &files.key);
            format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}")
        }
    };
    let compression = web == WebSocket::Deflated;
    format!(
        "websocket {{\n  listen: \"127.0.0.1:{port}\"\n  {tls}\n  compression: {compression}\n}}\n"
    )
}

/// Returns the kind of address at which a command line is measured.
pub fn address_of(command_line: &str) -> Address {
    let web = web_of(command_line);
    match command_line.contains(UNIX) {
        true => Address::Unix { path: String::new() },
        false => Address::Tcp {
            host: "127.0.0.1".to_string(),
            port: 0,
            tls: match web {
                WebSocket::No => wants_certificates(command_line),
                _ => command_line.contains(WEBSOCKET_TLS),
            },
            web,
        },
    }
}

fn web_of(command_line: &str) -> WebSocket {
    if command_line.contains(WEBSOCKET_DEFLATE) {
        WebSocket::Deflated
    } else if command_line.contains(WEBSOCKET) || command_line.contains(WEBSOCKET_TLS) {
        WebSocket::Yes
    } else {
        WebSocket::No
    }
}

fn wants_certificates(command_line: &str) -> bool {
    [CERTIFICATE, KEY, AUTHORITY, WEBSOCKET_TLS].iter().any(|name| command_line.contains(name))
}

/// Checks a command line before it is used.
///
/// # Errors
/// If it has no place to listen on, asks for things that do not go together, or cannot be split.
pub fn check_command_line(command_line: &str) -> Result<(), Failure> {
    if !command_line.contains(PORT) && !command_line.contains(UNIX) {
        return Err(Failure::new(format!(
            "'{command_line}' does not say where {PORT} or {UNIX} goes, as in: nats-server -p {PORT}"
        )));
    }
    if wants_certificates(command_line) && !command_line.contains(WEBSOCKET_TLS) {
        if !command_line.contains(CERTIFICATE) || !command_line.contains(KEY) {
            return Err(Failure::new(format!(
                "'{command_line}' needs both {CERTIFICATE} and {KEY} for TLS"
            )));
        }
        if command_line.contains(UNIX) {
            return Err(Failure::new(format!(
                "'{command_line}': TLS is measured over TCP, leave {UNIX} out"
            )));
        }
    }
    split_command_line(command_line).map(|_| ())
}

/// Starts a child on the given cores. It inherits the affinity of the thread that starts it, so a
/// short-lived thread takes the server's cores first, and not even the server's first thread runs
/// elsewhere. It gets a process group of its own: a Ctrl-C at the terminal ends the run, and the
/// run ends the server. Whoever drops the child must disown it.
pub fn spawn_pinned(
    mut command: Command,
    cores: &CoreList,
    program: &str,
) -> Result<Child, Failure> {
    let cores = cores.clone();
    let program = program.to_string();
    std::thread::spawn(move || {
        if !cores.0.is_empty() {
            pin::pin_thread_to_set(&cores)?;
        }
        command.process_group(0);
        let child = command
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start '{program}': {error}")))?;
        interrupt::own_child(child.id());
        Ok(child)
    })
    .join()
    .unwrap_or_else(|_| Err(Failure::new("the starting thread panicked")))
}

/// Returns true if `program` is the path of a file or, without a `/`, the name of one on PATH.
pub fn is_program(program: &str) -> bool {
    if program.contains('/') {
        return std::path::Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Returns a port that is free now. If another process takes it before the server does, the start
/// fails with a clear message.
pub fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Returns the first of `count` free ports in a row. They lie below those that the kernel uses for
/// outgoing connections, of which thousands stay taken for a minute after a run with as many
/// connections.
///
/// # Errors
/// If there is no such row.
pub fn free_port_run(count: u16) -> Result<u16, Failure> {
    for _ in 0..1000 {
        let first = fastrand::u16(ROW_PORTS);
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first.saturating_add(count)).all(free) {
            return Ok(first);
        }
    }
    Err(Failure::new(format!("no {count} free ports in a row")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(command_line: &str) -> String {
        check_command_line(command_line).unwrap_err().to_string()
    }

    #[test]
    fn a_command_line_says_where_to_listen_and_wants_whole_certificates() {
        assert!(check_command_line("nats-server -p {port}").is_ok());
        assert!(check_command_line("midge --unix {unix}").is_ok());
        assert!(check_command_line("x -p {port} --tlscert {tls_cert} --tlskey {tls_key}").is_ok());
        assert!(check_command_line("x -p {port} -c {websocket_tls}").is_ok());
        assert!(matches!(
            address_of("x -p {port} -c {websocket_tls}"),
            Address::Tcp { tls: true, web: WebSocket::Yes, .. }
        ));
        assert!(matches!(
            address_of("x -p {port} -c {websocket_deflate}"),
            Address::Tcp { tls: false, web: WebSocket::Deflated, .. }
        ));
        assert!(refusal("nats-server -p 4222").contains("{port}"));
        assert!(refusal("x -p {port} --tlscert {tls_cert}").contains("{tls_key}"));
        assert!(refusal("x --unix {unix} -c {tls_cert} -k {tls_key}").contains("leave {unix} out"));
    }

    fn start_failure(script: &str) -> String {
        let line = format!("sh -c '{script}' server {{port}}");
        match StartedServer::start(&line, &CoreList::default(), None) {
            Ok(_) => panic!("{script} is no server"),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn a_program_is_a_file_by_its_path_or_one_on_path() {
        assert!(is_program("sh") && is_program("/bin/sh"));
        assert!(!is_program("no-such-program") && !is_program("/bin/no-such-program"));
        assert!(!is_program("/bin") && !is_program(""));
    }

    #[test]
    fn a_server_that_ends_at_once_is_quoted() {
        let said = start_failure("echo usage: none; echo no such flag: --bogus >&2; exit 3");
        assert!(said.contains("exit status: 3"), "{said}");
        assert!(said.contains("usage: none\n  no such flag: --bogus"), "{said}");
        assert!(start_failure("exit 1").contains("it said nothing"));
        // Of a long output the end is kept, in whole lines.
        let said = start_failure("seq 1 100000; exit 1");
        assert!(said.ends_with("\n  99999\n  100000"), "{said}");
        assert_eq!(said.lines().count(), 1 + OUTPUT_LINES_MAX);
    }

    #[test]
    fn a_store_is_an_empty_folder_on_a_disk() {
        let shared_memory = Path::new("/dev/shm");
        if shared_memory.is_dir() {
            let refused = store_folder(Some(shared_memory)).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|text| text.contains("--store-root")));
        }
        assert!(store_folder(Some(Path::new("/no/such/folder"))).is_err());
    }

    #[test]
    fn a_started_program_is_in_a_process_group_of_its_own() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = spawn_pinned(command, &CoreList::default(), "cat").unwrap();
        let id = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        assert_eq!(rustix::process::getpgid(id).ok(), id);
        interrupt::disown_child(child.id());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
