//! Starts a server by its command line, pinned, on a free port, and ends it again.

use crate::Failure;
use crate::host::pin;
use crate::units::{CoreList, split_command_line};
use crate::wire::address::Address;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server has this long to answer its first connection.
const START_WAIT_MAX: Duration = Duration::from_secs(15);
/// A server has this long to end after SIGTERM, before it is killed.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A server this process started; ended when dropped.
pub struct StartedServer {
    child: Child,
    pub address: Address,
}

impl StartedServer {
    /// Starts `command_line`, in which `{port}` stands for the port it shall listen on.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or nobody accepts on the port in time.
    pub fn start(command_line: &str, cores: &CoreList) -> Result<StartedServer, Failure> {
        check_command_line(command_line)?;
        let port = free_port()?;
        let words = split_command_line(&command_line.replace("{port}", &port.to_string()))?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if cores.0.len() == 1 {
            // Go would otherwise start more runnable threads than it has cores.
            command.env("GOMAXPROCS", "1");
        }
        let child = spawn_pinned(command, cores, &words[0])?;
        let address = Address::Tcp { host: "127.0.0.1".to_string(), port, tls: false };
        let mut server = StartedServer { child, address };
        server.wait_until_it_accepts(port, &words[0])?;
        Ok(server)
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_accepts(&mut self, port: u16, program: &str) -> Result<(), Failure> {
        let until = Instant::now() + START_WAIT_MAX;
        loop {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure::new(format!("{program} ended at once: {status}")));
            }
            if Instant::now() > until {
                return Err(Failure::new(format!(
                    "{program} does not listen on port {port} after {} s",
                    START_WAIT_MAX.as_secs()
                )));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for StartedServer {
    fn drop(&mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        // An error means that it is gone already; wait() below collects it either way.
        let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::TERM));
        let until = Instant::now() + STOP_WAIT_MAX;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        // Same: nothing can be done about a child that is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// # Errors
/// When the command line has no place for the port, or is no command line.
pub fn check_command_line(command_line: &str) -> Result<(), Failure> {
    if !command_line.contains("{port}") {
        return Err(Failure::new(format!(
            "'{command_line}' does not say where {{port}} goes, as in: nats-server -p {{port}}"
        )));
    }
    split_command_line(command_line).map(|_| ())
}

/// A child inherits the affinity of the thread that starts it: a short-lived thread takes the server's
/// cores first, so that not even the server's first thread runs elsewhere.
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
        command.spawn().map_err(|error| Failure::new(format!("cannot start '{program}': {error}")))
    })
    .join()
    .unwrap_or_else(|_| Err(Failure::new("the starting thread panicked")))
}

/// A port nobody listens on now. Somebody else may take it before the server does; then the start fails
/// with a clear message.
pub fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
