//! One server started for one case, with its configuration file, its users, and the probes that
//! time it.

use crate::Failure;
use crate::host::certificates::TemporaryFolder;
use crate::host::clock::now_ns;
use crate::host::interrupt;
use crate::host::spawn::{self, StartedServer};
use crate::stalls::crowd::{self, Crowd};
use crate::stalls::probe::{Probe, Probed};
use crate::units::CoreList;
use crate::wire::address::{Address, WebSocket};
use crate::wire::connection::{Connection, Dialer};
use crate::wire::credentials::Credentials;
use crate::wire::http;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// A provocation that is not over by then has failed.
pub const WAIT_MAX: Duration = Duration::from_secs(180);
/// Interval at which monitoring is asked about the server's state.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The probes continue for this long after the provocation, for its aftermath.
const SETTLE: Duration = Duration::from_millis(750);
/// The password of all users.
const PASSWORD: &str = "stalls";

/// The part of the configuration file that cases choose and reloads change.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A filter to which the user `limited` may not subscribe.
    pub denied: Option<String>,
    /// True if the user `crowd` does not exist.
    pub without_crowd: bool,
    /// `host:port` that INFO advertises.
    pub advertised: Option<String>,
    /// Number of accounts with one user each, in addition to the global one.
    pub account_count: usize,
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Contender {
    pub name: String,
    /// Path of the program, or its name on PATH.
    pub program: String,
    /// Number of a Midge's shards; None for a nats-server.
    pub shard_count: Option<usize>,
}

pub struct Stage {
    server: StartedServer,
    config_path: std::path::PathBuf,
    settings: Settings,
    monitor_port: u16,
    /// The shards' ports, in order; without shards the server's only port.
    ports: Vec<u16>,
    scale: f64,
    began_ns: u64,
    ended_ns: u64,
    /// Holds the configuration file.
    _folder: TemporaryFolder,
}

/// Worst round trips of a run, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Worst {
    /// On the first shard, where the provocation comes from.
    pub near_ns: u64,
    /// On the last shard.
    pub far_ns: u64,
}

impl Stage {
    /// Starts the server. `scale` multiplies the numbers in every case.
    ///
    /// # Errors
    /// If it does not start.
    pub fn open(
        contender: &Contender,
        settings: Settings,
        cores: &CoreList,
        scale: f64,
    ) -> Result<Stage, Failure> {
        let folder = TemporaryFolder::new()?;
        let config_path = std::path::PathBuf::from(folder.file("server.conf"));
        let monitor_port = spawn::free_port()?;
        std::fs::write(&config_path, settings.text(monitor_port))?;
        let config = config_path.display();
        let mut command_line =
            format!("'{}' -a 127.0.0.1 -p {{port}} -c '{config}'", contender.program);
        let mut ports = Vec::new();
        if let Some(count) = contender.shard_count {
            let first = spawn::free_port_run(count as u16)?;
            ports.extend(first..first + count as u16);
            // Infallible: a string grows.
            let _ = write!(command_line, " --shards {count} --no-pin --shard-ports {first}");
        }
        let server = StartedServer::start(&command_line, cores, None)?;
        if let (Address::Tcp { port, .. }, true) = (&server.address, ports.is_empty()) {
            ports.push(*port);
        }
        let mut stage = Stage {
            server,
            config_path,
            settings,
            monitor_port,
            ports,
            scale,
            began_ns: 0,
            ended_ns: 0,
            _folder: folder,
        };
        // A server accepts clients before it serves its monitoring port.
        stage.wait_until("monitoring answers", |stage| Ok(stage.load_time().is_ok()))?;
        Ok(stage)
    }

    /// Lets probes run while `case` prepares, provokes and waits, and returns their worst round
    /// trips.
    ///
    /// # Errors
    /// If the case could not be played, with the server's own output if it ended.
    pub fn play(
        &mut self,
        case: impl FnOnce(&mut Stage) -> Result<(), Failure>,
    ) -> Result<Worst, Failure> {
        let last = self.ports.len() - 1;
        let probes = [0, last].map(|shard| self.connect("probe", shard));
        let [near, far] = probes;
        let probes = [Probe::start(near?), Probe::start(far?)];
        let outcome = case(self);
        let probed = probes.map(Probe::finish);
        if let Err(failure) = outcome {
            return Err(self.server.explain(failure));
        }
        let [near, far] = probed;
        let (from, until) = (self.began_ns, self.ended_ns);
        let worst = |probed: Result<Probed, Failure>| {
            probed?.worst_ns(from, until).ok_or_else(|| Failure::new("no PING in the window"))
        };
        match (worst(near), worst(far)) {
            (Ok(near_ns), Ok(far_ns)) => Ok(Worst { near_ns, far_ns }),
            (Err(failure), _) | (_, Err(failure)) => Err(self.server.explain(failure)),
        }
    }

    /// Runs the provocation. What `provoke` returns is dropped only when the probes' window is
    /// over.
    ///
    /// # Errors
    /// Those of `provoke`.
    pub fn provoke<T>(
        &mut self,
        provoke: impl FnOnce(&mut Stage) -> Result<T, Failure>,
    ) -> Result<(), Failure> {
        self.began_ns = now_ns();
        let kept = provoke(self)?;
        std::thread::sleep(SETTLE);
        self.ended_ns = now_ns();
        drop(kept);
        Ok(())
    }

    /// Returns a case's number at this stage's scale.
    pub fn scaled(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(2)
    }

    pub fn shard_count(&self) -> usize {
        self.ports.len()
    }

    pub fn last_shard(&self) -> usize {
        self.ports.len() - 1
    }

    /// Returns a dialer for a user on a shard.
    pub fn dialer(&self, user: &str, shard: usize) -> Dialer {
        let port = self.ports[shard];
        Dialer {
            address: Address::Tcp {
                host: "127.0.0.1".to_string(),
                port,
                tls: false,
                web: WebSocket::No,
            },
            credentials: Credentials::User {
                user: user.to_string(),
                password: PASSWORD.to_string(),
            },
            subscriber_credentials: None,
            tls: None,
            raw: false,
            shards: None,
            echo: true,
            headers: false,
            congestion: None,
            monitor_port: None,
        }
    }

    /// Connects as a user to a shard.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn connect(&self, user: &str, shard: usize) -> Result<Connection, Failure> {
        self.dialer(user, shard).connect("midge-bench stalls", 0)
    }

    /// Opens connections of a user over all shards in turn, each prepared by `prepare`.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub fn crowd(
        &self,
        user: &str,
        count: usize,
        prepare: impl Fn(&mut Connection) -> Result<(), Failure> + Sync,
    ) -> Result<Crowd, Failure> {
        Crowd::new(crowd::open_many(count, |index| {
            let mut connection = self.connect(user, index % self.ports.len())?;
            prepare(&mut connection)?;
            Ok(connection.stream)
        })?)
    }

    /// Writes the configuration file anew and makes the server read it.
    ///
    /// # Errors
    /// If the server does not apply it in time.
    pub fn reload(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), Failure> {
        let before = self.load_time()?;
        change(&mut self.settings);
        std::fs::write(&self.config_path, self.settings.text(self.monitor_port))?;
        let id = i32::try_from(self.server.process_id()).ok();
        let id = id.and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or_else(|| Failure::new("the server has no process"))?;
        rustix::process::kill_process(id, rustix::process::Signal::HUP)
            .map_err(std::io::Error::from)?;
        self.wait_until("the reload is done", |stage| Ok(stage.load_time()? != before))
    }

    fn load_time(&self) -> Result<String, Failure> {
        Ok(self.varz()?["config_load_time"].as_str().unwrap_or_default().to_string())
    }

    fn varz(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(&self.get("/varz")?)
            .map_err(|error| Failure::new(format!("/varz is not readable: {error}")))
    }

    /// Returns the server's number of subscriptions, including those of its own services.
    ///
    /// # Errors
    /// If monitoring does not answer.
    pub fn subscription_count(&self) -> Result<u64, Failure> {
        Ok(self.varz()?["subscriptions"].as_u64().unwrap_or(0))
    }

    /// Returns the server's number of connections.
    ///
    /// # Errors
    /// If monitoring does not answer.
    pub fn connection_count(&self) -> Result<u64, Failure> {
        Ok(self.varz()?["connections"].as_u64().unwrap_or(0))
    }

    /// Returns the answer of a monitoring endpoint.
    ///
    /// # Errors
    /// If monitoring does not answer with 200.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        http::get(self.monitor_port, path)
    }

    /// Waits until `holds`; `what` describes it in the error.
    ///
    /// # Errors
    /// If `holds` fails, or does not hold within `WAIT_MAX`.
    pub fn wait_until(
        &mut self,
        what: &str,
        holds: impl Fn(&Stage) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let until = Instant::now() + WAIT_MAX;
        while !holds(self)? {
            if interrupt::requested() {
                return Err(Failure::new("interrupted"));
            }
            if Instant::now() > until {
                return Err(Failure::new(format!("not within {} s: {what}", WAIT_MAX.as_secs())));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

impl Settings {
    fn text(&self, monitor_port: u16) -> String {
        let user = |name: &str| format!("{{ user: {name}, password: {PASSWORD}");
        let mut text = format!("http: \"127.0.0.1:{monitor_port}\"\n");
        if let Some(address) = &self.advertised {
            text.push_str(&format!("client_advertise: \"{address}\"\n"));
        }
        text.push_str("authorization { users: [\n");
        text.push_str(&format!("  {} }}\n  {} }}\n", user("probe"), user("load")));
        if !self.without_crowd {
            text.push_str(&format!("  {} }}\n", user("crowd")));
        }
        let limits = match &self.denied {
            Some(filter) => format!(", permissions: {{ subscribe: {{ deny: \"{filter}\" }} }}"),
            None => String::new(),
        };
        text.push_str(&format!("  {}{limits} }}\n] }}\n", user("limited")));
        text.push_str("accounts {\n");
        text.push_str(&format!("  $SYS: {{ users: [ {} }} ] }}\n", user("system")));
        for index in 0..self.account_count {
            let name = format!("user{index}");
            text.push_str(&format!("  ACCOUNT{index}: {{ users: [ {} }} ] }}\n", user(&name)));
        }
        text.push_str("}\n");
        text
    }
}
