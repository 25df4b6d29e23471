//! The life of a server: everything is started, events are handled, everything ends.

use std::cell::RefCell;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::auth::state::AuthState;
use crate::base::log;
use crate::config::options::{LocalCongestion, Options};
use crate::server::answers::endpoints::{Fixed, Live, RequestCounts};
use crate::server::answers::http::MonitorPort;
use crate::server::answers::system_queue::{Stopper, SystemQueue};
use crate::server::answers::system_service::SystemService;
use crate::server::command::args::{self, Start};
use crate::server::host::congestion::Congestion;
use crate::server::host::error_text::start_error_text;
use crate::server::host::files::write_pid_file;
use crate::server::host::identity::Identity;
use crate::server::host::log_writer::ServerLog;
use crate::server::host::machine::FileLimit;
use crate::server::host::notify::Notify;
use crate::server::host::unix_socket;
use crate::server::order::Order;
use crate::server::run::account_source::AccountSource;
use crate::server::run::announce::{announce_start, driver_name, warn_of_account_names};
use crate::server::run::bootstrap::{self, Provisions, Shards};
use crate::server::run::heartbeat::Heartbeat;
use crate::server::run::jetstream;
use crate::server::run::placement::place;
use crate::server::run::running::{RunFiles, Server, build_monitor_tls, info};
use crate::server::run::signals;
use crate::shard::ShardOrder;
use crate::shard::system_door::{Bytes, Listener, system_doors};
use crate::system::events;

/// Time for connections to send what they owe when the server stops.
const SHUTDOWN_FLUSH: Duration = Duration::from_millis(500);

/// Longest time for the end of all connections together.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// The exit code after SIGQUIT: that of a Go program.
const EXIT_CODE_QUIT: i32 = 2;

/// Ends the process at once, as SIGQUIT asks, whatever its threads do.
fn quit() {
    crate::fatal!("SIGQUIT: quit");
    log::exit(EXIT_CODE_QUIT)
}

pub(super) fn run(start: Start, log: &ServerLog, collect: fn()) -> Result<(), String> {
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
    let mut auth = AuthState::build(&options, None).map_err(|error| error.to_string())?;
    let mut account_source = AccountSource::default();
    if let Some(trust) = auth.authenticator.trust().cloned() {
        if trust.system_account.is_none() {
            tracing::warn!("Trusted Operators should utilize a System Account");
        }
        account_source = AccountSource::new(&options, &trust)?;
        account_source.begin(&mut auth, &trust)?;
    }
    let auth = Arc::new(auth);
    warn_of_account_names(&auth);
    let limit = FileLimit::raise().map_err(|error| format!("open files limit: {error}"))?;
    if let Some(warning) = limit.shortage(options.limits.connections_max) {
        tracing::warn!("{warning}");
    }
    let tls = args::build_tls(&options)?;
    let certificate_ends = tls.as_ref().and_then(|tls| tls.not_after);
    let tls_fingerprint = tls.as_ref().map(|tls| tls.fingerprint);
    let websocket_tls = args::build_websocket_tls(&options)?;
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
    let jetstream = jetstream::open(&options, &identity, &auth)?;
    let asking = sender.clone();
    let ask_for_account = move |request| {
        // Fails only while the process ends.
        let _ = asking.send(Order::Account(request));
    };
    let shards = bootstrap::start(
        &options,
        &auth,
        placement,
        |at| info(&identity, &options, at),
        Provisions {
            unix,
            tls,
            websocket_tls,
            local_congestion: congestion.local.clone(),
            system,
            jetstream,
            ask_for_account: Arc::new(ask_for_account),
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
        websocket: shards.websocket.clone(),
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
        account_source,
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
