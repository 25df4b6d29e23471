//! The process from its arguments to its exit code: start, signals, lame duck mode, end.

use std::cell::RefCell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::auth::state::AuthState;
use crate::base::log;
use crate::config::options::{IoDriver, LocalCongestion, Options};
use crate::config::surroundings::SystemSurroundings;
use crate::config::tls_options::{TlsOptions, Verify};
use crate::net::runtime::{Driver, RING_ENTRIES, ring_builder};
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::handshake::Info;
use crate::server::answers::endpoints::{Fixed, Live, RequestCounts};
use crate::server::answers::http::MonitorPort;
use crate::server::answers::system_queue::{Stopper, SystemQueue};
use crate::server::answers::system_service::SystemService;
use crate::server::command::args::{self, Invocation, Start};
use crate::server::command::argv_secrets::{self, Arguments};
use crate::server::command::flags::Flags;
use crate::server::command::signal_command;
use crate::server::command::store_command;
use crate::server::host::congestion::Congestion;
use crate::server::host::error_text::start_error_text;
use crate::server::host::files::{Ports, PortsFile, listener_urls, program_name, write_pid_file};
use crate::server::host::identity::{Identity, MIDGE_VERSION, NATS_VERSION, PROTOCOL_VERSION};
use crate::server::host::log_writer::ServerLog;
use crate::server::host::machine::{AvailableCores, FileLimit, probe_io_uring};
use crate::server::host::notify::Notify;
use crate::server::host::panic_hook;
use crate::server::host::pinning::{Pinning, exclusive};
use crate::server::host::unix_socket::{self, UnixSocketFile};
use crate::server::order::{Order, ServerEvent};
use crate::server::run::announce::{
    announce_start, announce_tls, cores_text, driver_name, listen_text, warn_of_account_names,
};
use crate::server::run::bootstrap::{self, Placement, Provisions, Shards};
use crate::server::run::heartbeat::Heartbeat;
use crate::server::run::reload;
use crate::server::run::signals;
use crate::shard::order::{Pending, Reply};
use crate::shard::system_door::{Bytes, Listener, system_doors};
use crate::shard::{Generation, ShardOrder};
use crate::system::answer;
use crate::system::events;
use crate::system::server_info::ServerInfo;

/// Time for connections to send what they owe when the server stops.
const SHUTDOWN_FLUSH: Duration = Duration::from_millis(500);

/// Time for all shards to carry out an order. Past it a shard is in trouble, and signals must still
/// be handled.
const ORDER_DEADLINE: Duration = Duration::from_secs(10);

/// Longest time for the end of all connections together.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Runs the whole process. `collect` makes the allocator give back what the calling thread no
/// longer needs.
pub fn main(arguments: impl Iterator<Item = OsString>, collect: fn()) -> ExitCode {
    let Arguments { arguments, warning } = argv_secrets::hide(arguments);
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    let mut arguments = arguments.into_iter();
    let argv0 = arguments.next().unwrap_or_default();
    if arguments.as_slice().first().is_some_and(|first| first == store_command::COMMAND) {
        let outcome = store_command::run(&arguments.as_slice()[1..]);
        print!("{}", outcome.stdout);
        eprint!("{}", outcome.stderr);
        return ExitCode::from(outcome.exit_code);
    }
    match args::parse(&argv0, arguments) {
        Invocation::Run(start) => match args::check_usable(&start.options) {
            Ok(()) => serve(*start, collect),
            Err(reason) => {
                eprintln!("{}: {reason}", program_name());
                ExitCode::FAILURE
            }
        },
        Invocation::Version(text) | Invocation::Help(text) | Invocation::HelpTls(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Invocation::TestConfig(text) => {
            eprint!("{text}");
            ExitCode::SUCCESS
        }
        Invocation::Signal { parameters, program } => {
            match signal_command::run(&parameters, &program_name()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(text) => {
                    eprintln!("{program}: {text}");
                    ExitCode::FAILURE
                }
            }
        }
        Invocation::Refused(refusal) => {
            print!("{}", refusal.stdout);
            eprint!("{}", refusal.stderr);
            ExitCode::from(refusal.exit_code)
        }
    }
}

fn serve(start: Start, collect: fn()) -> ExitCode {
    panic_hook::install();
    let log = match ServerLog::start(&start.options.log) {
        Ok(log) => log,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::FAILURE;
        }
    };
    let code = match run(start, &log, collect) {
        Ok(()) => 0,
        Err(text) => {
            crate::fatal!("{text}");
            1
        }
    };
    log::exit(code)
}

/// Files of this run that are removed with it.
#[derive(Default)]
struct RunFiles {
    ports: Option<PortsFile>,
    unix: Option<UnixSocketFile>,
}

/// A running server, with what a reload changes.
struct Server<'a> {
    options: Arc<Options>,
    auth: Arc<AuthState>,
    flags: Flags,
    identity: Identity,
    shards: Shards,
    log: &'a ServerLog,
    live: Arc<Mutex<Live>>,
    /// Scheme and address.
    monitor_address: Option<(&'static str, SocketAddr)>,
    heartbeat: RefCell<Heartbeat>,
    files: RunFiles,
    /// Fingerprint of the certificates in force.
    tls_fingerprint: Option<[u8; 32]>,
    /// Reloads that shards were ordered to take.
    generations: u32,
}

/// The exit code after SIGQUIT: that of a Go program.
const EXIT_CODE_QUIT: i32 = 2;

/// Ends the process at once, as SIGQUIT asks, whatever its threads do.
fn quit() {
    crate::fatal!("SIGQUIT: quit");
    log::exit(EXIT_CODE_QUIT)
}

fn run(start: Start, log: &ServerLog, collect: fn()) -> Result<(), String> {
    let options = Arc::new(start.options);
    // From here on no signal ends the process by itself.
    let (sender, orders) = channel();
    let signal_thread = signals::start(sender.clone(), || log::exit(0), quit)
        .map_err(|error| format!("signals: {}", start_error_text(&error)))?;
    let identity = Identity::new(options.server_name.as_deref());
    announce_start(&identity, &options, &start.warnings);
    if let Some(path) = &options.files.pid {
        write_pid_file(path).map_err(|reason| format!("Could not write pidfile: {reason}"))?;
    }
    let auth = AuthState::build(&options, None).map_err(|error| error.to_string())?;
    let auth = Arc::new(auth);
    warn_of_account_names(&auth);
    let limit = FileLimit::raise().map_err(|error| format!("open files limit: {error}"))?;
    if let Some(warning) = limit.shortage(options.limits.connections_max) {
        tracing::warn!("{warning}");
    }
    let tls = args::build_tls(&options)?;
    let certificate_ends = tls.as_ref().and_then(|tls| tls.not_after);
    let tls_fingerprint = tls.as_ref().map(|tls| tls.fingerprint);
    let started = (Instant::now(), SystemTime::now());
    let placement = place(&options)?;
    let driver = placement.driver;
    let congestion = choose_congestion(&options);
    let port = MonitorPort::bind(&options)
        .map_err(|reason| format!("Can't start monitoring: {reason}"))?;
    let monitor_address = port.as_ref().map(|port| (port.scheme, port.address));
    let mut files = RunFiles::default();
    let unix = match &options.listen.unix {
        Some(unix) => {
            let (listener, file) =
                unix_socket::listen(&unix.path, unix.mode).map_err(|error| error.to_string())?;
            files.unix = Some(file);
            Some(listener)
        }
        None => None,
    };
    let (bytes, listener) = (Bytes::default(), Listener::default());
    let (system, ears) = system_doors(placement.cores.len(), &bytes, &listener);
    let queue = SystemQueue::new(ears, bytes, Stopper::new(listener));
    let shards = bootstrap::start(
        &options,
        &auth,
        placement,
        |at| info(&identity, &options, at),
        Provisions {
            unix,
            tls,
            local_congestion: congestion.local.clone(),
            system,
            started,
            collect,
        },
    )?;
    let live = Live {
        options: options.clone(),
        auth: auth.clone(),
        info: shards.info.clone(),
        config_loaded: started.1,
        tls: build_monitor_tls(&options)?,
        certificate_ends,
        is_leaving: false,
    };
    let live = Arc::new(Mutex::new(live));
    let fixed = Fixed {
        shards: shards.handles.clone(),
        counters: shards.counters.clone(),
        started,
        driver: driver_name(driver),
        congestion,
        port: monitor_address.map_or(0, |(_, address)| address.port()),
        base_path: options.monitor.base_path.clone(),
        requests: RequestCounts::default(),
        stopping: Arc::default(),
    };
    let system = SystemService::start(queue, fixed.clone(), live.clone(), sender)
        .map_err(|e| format!("no thread for the system account: {}", start_error_text(&e)))?;
    let monitor = match port {
        Some(port) => Some(
            port.serve(fixed, live.clone())
                .map_err(|error| format!("monitoring: {}", start_error_text(&error)))?,
        ),
        None => None,
    };
    leave_files_for_clients()?;
    let flags = start.flags;
    let heartbeat = Heartbeat::new(Notify::from_environment(), shards.handles.clone());
    let heartbeat = RefCell::new(heartbeat);
    let mut server = Server {
        options,
        auth,
        flags,
        identity,
        shards,
        log,
        live,
        monitor_address,
        heartbeat,
        files,
        tls_fingerprint,
        generations: 0,
    };
    server.announce_ready();
    signal_thread.serve();
    server.wait(&orders);
    server.heartbeat.borrow().notify.stopping();
    server.tell(events::shutdown_subject);
    // Dropped while the shards still answer.
    drop(monitor);
    drop(system);
    stop(server.shards);
    drop(server.files);
    drop(signal_thread);
    tracing::info!("Server Exiting..");
    Ok(())
}

/// Builds the TLS of the monitoring port, which asks nobody for a certificate. Source: nats-server
/// startMonitoring.
fn build_monitor_tls(options: &Options) -> Result<Option<Arc<TlsServer>>, String> {
    let (Some(_), Some(tls)) = (options.monitor.https_port, &options.tls) else { return Ok(None) };
    let own = TlsOptions { verify: Verify::Never, verify_and_map: false, ..tls.clone() };
    Ok(Some(Arc::new(TlsServer::build(&own, false)?)))
}

fn choose_congestion(options: &Options) -> Congestion {
    let wanted = &options.listen.local_congestion;
    let congestion = Congestion::choose(wanted);
    if let (LocalCongestion::Named(name), None) = (wanted, &congestion.local) {
        tracing::warn!(
            "Congestion control {name} is not to be had; peers on this host keep {}",
            congestion.host
        );
    }
    congestion
}

/// Checks that a descriptor is left to accept a client: a server that says it is ready must be
/// usable.
fn leave_files_for_clients() -> Result<(), String> {
    let spare = std::fs::File::open("/dev/null");
    spare.map(drop).map_err(|error| format!("no file for a client: {}", start_error_text(&error)))
}

/// Chooses the I/O driver and the core of each shard.
fn place(options: &Options) -> Result<Placement, String> {
    let available = AvailableCores::read().map_err(|error| error.to_string())?;
    let cores = available.place(&options.shards).map_err(|error| error.to_string())?;
    let driver = match options.shards.io_driver {
        IoDriver::Epoll => Driver::Epoll,
        wanted => match probe_io_uring(&ring_builder(), RING_ENTRIES) {
            Ok(()) => Driver::IoUring,
            Err(error) if wanted == IoDriver::Auto => {
                tracing::warn!("Using epoll: {error}");
                Driver::Epoll
            }
            Err(error) => return Err(error.to_string()),
        },
    };
    let pinning = Pinning::decide(&options.shards, cores.len(), available.cores.len(), || {
        exclusive(Path::new("/"), &available.cores)
    });
    let pin = pinning.is_pinned();
    let text = cores_text(&cores, &pinning, options, driver);
    tracing::info!("  Shards:   {} on {text}", cores.len());
    // A quota is shared by all threads: helpers on more cores would use up the shards' part of it.
    let free_cores = match pin && !available.is_limited_by_quota() {
        true => available.cores.iter().copied().filter(|core| !cores.contains(core)).collect(),
        false => Vec::new(),
    };
    // Not pinned, but still restricted to the cores that were named.
    let named = options.shards.cores.clone().unwrap_or_default();
    let own = |core| if pin { vec![core] } else { named.clone() };
    let cores = cores.into_iter().map(own).collect();
    Ok(Placement { driver, cores, free_cores })
}

/// Returns INFO without the parts that depend on the connection.
fn info(identity: &Identity, options: &Options, address: SocketAddr) -> Info {
    let (host, port) = match &options.listen.client_advertise {
        Some(told) => (told.host.clone(), told.port.unwrap_or(address.port())),
        None => (options.listen.host.clone(), address.port()),
    };
    Info {
        server_id: identity.id.clone(),
        server_name: identity.name.clone(),
        version: NATS_VERSION.into(),
        proto: PROTOCOL_VERSION,
        go: format!("midge{MIDGE_VERSION}"),
        host,
        port,
        headers: !options.limits.no_header_support,
        max_payload: options.limits.payload_bytes_max,
        ..Info::default()
    }
}

impl Server<'_> {
    /// Announces that clients may come, in the log and in the files that tools read.
    fn announce_ready(&mut self) {
        let options = &self.options;
        let address = self.shards.address;
        tracing::info!("Listening for client connections on {}", listen_text(options, address));
        announce_tls(options);
        if let Some(unix) = &options.listen.unix {
            tracing::info!("Listening for client connections on unix:{}", unix.path.display());
        }
        for (index, address) in self.shards.shard_addresses.iter().enumerate() {
            tracing::info!("Listening for client connections on {address} (shard {index} alone)");
        }
        tracing::info!("Server is ready");
        let options = options.clone();
        self.write_ports_file(&options);
        self.heartbeat.borrow().notify.ready();
    }

    /// Writes the ports file, where `options` name a directory for it.
    fn write_ports_file(&mut self, options: &Options) {
        let Some(directory) = &options.files.ports_dir else { return };
        let scheme = match options.tls.is_some() && !options.allow_non_tls {
            true => "tls",
            false => "nats",
        };
        let monitoring =
            self.monitor_address.map(|(scheme, address)| listener_urls(scheme, address));
        let ports = Ports {
            nats: listener_urls(scheme, self.shards.address),
            monitoring: monitoring.unwrap_or_default(),
            ..Ports::default()
        };
        match PortsFile::write(directory, &program_name(), &ports) {
            Ok(file) => self.files.ports = Some(file),
            Err(text) => tracing::error!("{text}"),
        }
    }

    /// Writes the pid file and the ports file of a reload, where they have another place than
    /// before. A pid file stays where it was, as it does when the process ends; a ports file does
    /// not.
    fn move_files(&mut self, new: &Options) {
        if let Some(path) =
            new.files.pid.as_ref().filter(|_| new.files.pid != self.options.files.pid)
            && let Err(reason) = write_pid_file(path)
        {
            tracing::error!("Failed to write pidfile: {reason}");
        }
        if new.files.ports_dir != self.options.files.ports_dir {
            self.files.ports = None;
            self.write_ports_file(new);
        }
    }

    /// Handles events until the server has to end.
    fn wait(&mut self, orders: &Receiver<Order>) {
        loop {
            let next = self.heartbeat.borrow_mut().beat(Instant::now());
            match orders.recv_timeout(next) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Signal(ServerEvent::Interrupt | ServerEvent::Terminate))
                | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Order::Signal(ServerEvent::ReopenLog)) => self.log.reopen(&self.options.log),
                Ok(Order::Signal(ServerEvent::Reload)) => {
                    // The outcome is in the log.
                    let _ = self.reload_and_say();
                }
                Ok(Order::Reload(asked)) => {
                    let outcome = self.reload_and_say();
                    // The requester may have given up.
                    let _ = asked.send(outcome);
                }
                Ok(Order::Signal(ServerEvent::LameDuck)) => return self.lame_duck(orders),
            }
        }
    }

    fn reload_and_say(&mut self) -> Result<(), String> {
        let outcome = self.reload();
        match &outcome {
            Ok(()) => {
                tracing::info!("Reloaded server configuration ({})", self.options.config_digest);
            }
            Err(text) => {
                let mut lines = text.lines();
                let first = lines.next().unwrap_or_default();
                tracing::error!("Failed to reload server configuration: {first}");
                lines.for_each(|line| tracing::error!("{line}"));
            }
        }
        outcome
    }

    /// Publishes an event that consists of the server's description alone, and waits until every
    /// shard has it: what follows may close its receivers.
    fn tell(&self, subject: impl Fn(&str) -> String) {
        let accounts = self.auth.authenticator.accounts();
        let Some(system) = accounts.system().map(|system| self.auth.id(system)) else { return };
        let info = &self.shards.info;
        let sequence = self.shards.counters.next_system_sequence();
        let server = ServerInfo::new(info, &self.options, sequence, SystemTime::now());
        let (subject, event) = (subject(&info.server_id), answer::json(&server));
        let deadline = Instant::now() + ORDER_DEADLINE;
        let first = &self.shards.handles[0];
        let published = first.ask(|done| ShardOrder::Publish {
            account: system,
            subject,
            payload: event,
            done,
        });
        if published.wait(deadline).is_some() {
            first.ask(ShardOrder::HandOver).wait(deadline);
            order_all(&self.shards, ShardOrder::HandOver);
        }
    }

    /// Reads the configuration again, prepares what has changed once for all shards, and lets each
    /// shard apply it on a turn of its own.
    fn reload(&mut self) -> Result<(), String> {
        let reload =
            reload::prepare(&self.options, &self.flags, &SystemSurroundings::WHILE_RUNNING)?;
        let auth = AuthState::build(&reload.options, Some(&self.auth))
            .map_err(|error| error.to_string())?;
        // Files are read again even if the block is the same, since certificates are renewed in
        // place.
        let tls = args::build_tls(&reload.options)?;
        let certificate_ends = tls.as_ref().and_then(|tls| tls.not_after);
        let fingerprint = tls.as_ref().map(|tls| tls.fingerprint);
        let tls_renewed = fingerprint.is_some() && fingerprint != self.tls_fingerprint;
        let monitor_tls = build_monitor_tls(&reload.options)?;
        reload.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let options = Arc::new(reload.options);
        if options.log != self.options.log {
            self.log.reconfigure(&options.log)?;
        }
        let auth = Arc::new(auth);
        warn_of_account_names(&auth);
        let info = Arc::new(info(&self.identity, &options, self.shards.address));
        self.generations += 1;
        let generation = Arc::new(Generation {
            number: self.generations,
            options: options.clone(),
            auth: auth.clone(),
            info: info.clone(),
            tls,
        });
        let staying = order_all(&self.shards, |done| ShardOrder::Reload(generation.clone(), done));
        let is_lowered = options.limits.connections_max < self.options.limits.connections_max;
        self.close_surplus(staying, &auth, is_lowered.then_some(options.limits.connections_max));
        self.move_files(&options);
        for line in reload::announcements(&reload.plan, &self.options, &options, tls_renewed) {
            tracing::info!("{line}");
        }
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Live {
            options: options.clone(),
            auth: auth.clone(),
            info: info.clone(),
            config_loaded: SystemTime::now(),
            tls: monitor_tls,
            certificate_ends,
            is_leaving: false,
        };
        self.tls_fingerprint = fingerprint;
        self.options = options;
        self.auth = auth;
        self.shards.info = info;
        Ok(())
    }

    /// Closes clients for which a reload's limits leave no room, once every shard has applied it;
    /// `staying` is each shard's number of clients. An account loses the clients that are met
    /// first, the server loses random ones, as in nats-server.
    fn close_surplus(
        &self,
        mut staying: Vec<Option<usize>>,
        auth: &AuthState,
        connections_max: Option<usize>,
    ) {
        let mut accounts = auth.authenticator.accounts().iter();
        if accounts.any(|account| account.limits.connections_max.is_some()) {
            staying = order_all(&self.shards, ShardOrder::CloseSurplusOfAccounts);
        }
        let Some(max) = connections_max else { return };
        let surplus = || self.shards.counters.staying().value().saturating_sub(max);
        if surplus() == 0 {
            return;
        }
        // A shard in trouble has not reported a number: nobody is closed there. Clients that moved
        // meanwhile may have been counted twice, or not at all.
        let counts: Vec<usize> = staying.into_iter().map(Option::unwrap_or_default).collect();
        let mut closed = self.close_shares(&counts, &random_shares(&counts, surplus()), max);
        if surplus() > 0 {
            closed += self.close_shares(&counts, &vec![usize::MAX; counts.len()], max);
        }
        tracing::info!("Closed {closed} connections to fall within max_connections");
    }

    /// Closes on each shard a share of its clients, given by their counts, down to `max` in all.
    /// Returns the number closed.
    fn close_shares(&self, counts: &[usize], shares: &[usize], max: usize) -> usize {
        let each = self.shards.handles.iter().zip(counts).zip(shares);
        let asked = each.map(|((shard, staying), count)| {
            let (staying, count) = (*staying, *count);
            shard.ask(|done| ShardOrder::CloseSurplus { count, staying, max, done })
        });
        wait_for_all(asked.collect()).into_iter().flatten().sum()
    }

    /// Closes the listeners, tells clients, and closes them one by one. Source: nats-server
    /// lameDuckMode.
    fn lame_duck(&self, orders: &Receiver<Order>) {
        tracing::info!("Entering lame duck mode, stop accepting new clients");
        self.live.lock().unwrap_or_else(PoisonError::into_inner).is_leaving = true;
        self.tell(events::lame_duck_subject);
        let shards = &self.shards;
        order_all(shards, ShardOrder::StopListening);
        if shards.counters.connections() == 0 {
            return;
        }
        let info = Arc::new(Info { lame_duck: true, ..Info::clone(&shards.info) });
        order_all(shards, |done| ShardOrder::Announce(info.clone(), done));
        let grace = self.options.lame_duck.grace_period;
        let window = self.options.lame_duck.duration.saturating_sub(grace);
        if !self.pause(orders, Instant::now() + grace, || false) {
            return;
        }
        tracing::info!("Closing existing clients");
        shards.handles.iter().for_each(|shard| shard.give(ShardOrder::CloseAllOver(window)));
        let gone = || shards.counters.connections() == 0;
        self.pause(orders, Instant::now() + window + Duration::from_secs(1), gone);
    }

    /// Waits until `deadline` or `done`; false if SIGINT asks for the end. SIGTERM is ignored here,
    /// as in nats-server.
    fn pause(&self, orders: &Receiver<Order>, deadline: Instant, done: impl Fn() -> bool) -> bool {
        /// Interval at which `done` is checked.
        const LOOK: Duration = Duration::from_millis(100);
        while Instant::now() < deadline && !done() {
            self.heartbeat.borrow_mut().beat(Instant::now());
            let left = deadline.saturating_duration_since(Instant::now());
            match orders.recv_timeout(left.min(LOOK)) {
                Ok(Order::Signal(ServerEvent::Interrupt)) | Err(RecvTimeoutError::Disconnected) => {
                    return false;
                }
                Ok(Order::Signal(ServerEvent::ReopenLog)) => self.log.reopen(&self.options.log),
                Ok(Order::Reload(asked)) => {
                    // The requester may have given up.
                    let _ = asked.send(Err("the server is shutting down".into()));
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        true
    }
}

/// Gives every shard an order and waits until all have carried it out.
fn order_all<T>(shards: &Shards, order: impl Fn(Reply<T>) -> ShardOrder) -> Vec<Option<T>> {
    wait_for_all(shards.handles.iter().map(|shard| shard.ask(&order)).collect())
}

/// Waits for the answers of all shards, in order. A shard that does not answer in time is named in
/// the log; it carries out the order when it is back, as orders keep their sequence.
fn wait_for_all<T>(asked: Vec<Pending<T>>) -> Vec<Option<T>> {
    let deadline = Instant::now() + ORDER_DEADLINE;
    let answers: Vec<Option<T>> = asked.into_iter().map(|pending| pending.wait(deadline)).collect();
    let late = answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
    let late: Vec<usize> = late.map(|(shard, _)| shard).collect();
    if !late.is_empty() {
        tracing::error!("shards do not answer: {late:?}");
    }
    answers
}

/// Returns how many of `wanted` fall on each shard if they are drawn from the clients of all, each
/// with the same probability.
fn random_shares(counts: &[usize], wanted: usize) -> Vec<usize> {
    let mut left: Vec<usize> = counts.to_vec();
    let mut total: usize = counts.iter().sum();
    for _ in 0..wanted.min(total) {
        let mut drawn = fastrand::usize(..total);
        for count in &mut left {
            if drawn < *count {
                *count -= 1;
                break;
            }
            drawn -= *count;
        }
        total -= 1;
    }
    counts.iter().zip(left).map(|(count, left)| count - left).collect()
}

/// Closes every client, gives their last bytes some time, and ends the shards.
fn stop(shards: Shards) {
    tracing::info!("Initiating Shutdown...");
    shards.handles.iter().for_each(|shard| shard.give(ShardOrder::CloseAll));
    // Many clients take more than one turn to close: as long as some go, the others get their time
    // too.
    let last = Instant::now() + SHUTDOWN_MAX;
    let mut deadline = Instant::now() + SHUTDOWN_FLUSH;
    let mut count = shards.counters.connections();
    while count > 0 && Instant::now() < deadline.min(last) {
        std::thread::sleep(Duration::from_millis(2));
        let before = std::mem::replace(&mut count, shards.counters.connections());
        if count < before {
            deadline = Instant::now() + SHUTDOWN_FLUSH;
        }
    }
    shards.handles.iter().for_each(|shard| shard.give(ShardOrder::Stop));
    for thread in shards.threads {
        // A shard that panicked has ended the process already.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_draw_add_up_and_take_no_more_than_there_are() {
        for (counts, wanted) in
            [(&[3, 0, 5][..], 4), (&[3, 0, 5], 8), (&[3, 0, 5], 20), (&[], 3), (&[7], 0)]
        {
            let shares = random_shares(counts, wanted);
            let total: usize = counts.iter().sum();
            assert_eq!(shares.iter().sum::<usize>(), wanted.min(total));
            assert!(shares.iter().zip(counts).all(|(share, count)| share <= count));
        }
        // Each client has the same probability, wherever it is.
        let mut sums = [0, 0];
        for _ in 0..200 {
            let shares = random_shares(&[90, 10], 10);
            sums[0] += shares[0];
            sums[1] += shares[1];
        }
        assert!(sums[0] > 5 * sums[1] && sums[1] > 0, "{sums:?}");
    }
}
