//! From options to running shards: addresses, lanes, threads.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::auth::state::AuthState;
use crate::base::counters::{ServerCounters, ShardLoads};
use crate::base::ids::ShardId;
use crate::config::options::{Balance, Options};
use crate::mesh::{Lanes, lanes};
use crate::net::doorbell::doorbell;
use crate::net::listener::{
    Listener, Purpose, bind_all_families, bind_tcp, bind_tcp_alone, bind_tcp_asleep,
};
use crate::net::runtime::Driver;
use crate::net::tls_config::TlsServer;
use crate::peer::upgrade::WebSocketServer;
use crate::protocol::nats::handshake::Info;
use crate::server::host::error_text::{os_error_text, start_error_text};
use crate::server::run::jetstream::StoreThread;
use crate::shard::system_door::SystemDoor;
use crate::shard::{AskForAccount, Offload, ShardHandle, ShardSeed, run};

/// Time for all shards to come up.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Time for which a port may still be in use by a server that has just ended.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// A running server's shards.
pub(crate) struct Shards {
    pub handles: Vec<ShardHandle>,
    pub threads: Vec<JoinHandle<()>>,
    pub counters: ServerCounters,
    /// The address to which clients connect.
    pub address: SocketAddr,
    /// The ports of single shards, in shard order; empty if there are none.
    pub shard_addresses: Vec<SocketAddr>,
    /// The listener for WebSocket clients, if there is one.
    pub websocket_address: Option<SocketAddr>,
    pub websocket: Option<Arc<WebSocketServer>>,
    pub info: Arc<Info>,
}

/// What the host gives a server to run on.
pub(crate) struct Placement {
    pub driver: Driver,
    /// The cores on which each shard may run: one if it is pinned; empty = those of the process.
    pub cores: Vec<Vec<usize>>,
    /// Cores of this process that no shard is pinned to; empty if shards are not pinned.
    pub free_cores: Vec<usize>,
}

/// What the process has made for its shards.
pub(crate) struct Provisions {
    /// The Unix domain socket, if there is one.
    pub unix: Option<UnixListener>,
    /// TLS of the client port; None = plain.
    pub tls: Option<Arc<TlsServer>>,
    /// TLS of the port for WebSocket clients; None = plain.
    pub websocket_tls: Option<Arc<TlsServer>>,
    /// Congestion control of sockets to peers on this host; None = the host's.
    pub local_congestion: Option<Arc<str>>,
    /// The way to whoever knows the accounts of operator mode.
    pub ask_for_account: AskForAccount,
    /// Each shard's way to the server's own service.
    pub system: Vec<SystemDoor>,
    /// The thread of the first shard, on which JetStream's store was opened; None = there is no
    /// JetStream.
    pub jetstream: Option<StoreThread>,
    /// The server's start, by both clocks.
    pub started: (Instant, SystemTime),
    /// Makes the allocator give back what the calling thread no longer needs.
    pub collect: fn(),
}

/// Binds and starts everything; returns once every shard accepts connections.
///
/// # Errors
/// What could not be had, in words for the operator.
pub(crate) fn start(
    options: &Arc<Options>,
    auth: &Arc<AuthState>,
    placement: Placement,
    info: impl FnOnce(SocketAddr) -> Info,
    provisions: Provisions,
) -> Result<Shards, String> {
    let Provisions {
        unix,
        tls,
        websocket_tls,
        local_congestion,
        ask_for_account,
        system,
        mut jetstream,
        started,
        collect,
    } = provisions;
    let count = placement.cores.len();
    let wanted = resolve(&options.listen.host, options.listen.port)?;
    let refused = |error: io::Error| {
        let reason = start_error_text(&error);
        format!("Error listening on port: {wanted}, \"listen tcp {wanted}: bind: {reason}\"")
    };
    let mut listeners = vec![];
    let first = bind_all_families(wanted, exclusive_first).map_err(refused)?;
    let address = first.local_addr().map_err(refused)?;
    listeners.push(vec![Listener::tcp(first, Purpose::Client)]);
    // A shard that is not needed yet does not listen, and is not woken.
    let wakes_late = options.shards.balance == Balance::Auto;
    let bind = if wakes_late { bind_tcp_asleep } else { bind_tcp };
    for _ in 1..count {
        let next = bind(address).map_err(refused)?;
        listeners.push(vec![Listener::tcp(next, Purpose::Client)]);
    }
    if let Some(unix) = unix {
        // One socket file has one queue; every shard takes connections from it.
        for own in &mut listeners {
            let unix = unix.try_clone().map_err(|error| error.to_string())?;
            own.push(Listener::unix(unix, Purpose::Client));
        }
    }
    let websocket_address = bind_websocket(options, &mut listeners, bind)?;
    let websocket = build_websocket(options, websocket_tls, websocket_address)?;
    let info = Arc::new(info(address));
    let counters = ServerCounters::default();
    let mut bells = Vec::new();
    let mut doorbells = Vec::new();
    for _ in 0..count {
        let (bell, handle) =
            doorbell().map_err(|e| format!("no eventfd for a shard: {}", start_error_text(&e)))?;
        doorbells.push(bell);
        bells.push(handle);
    }
    let lane_ends = lanes(count, Lanes::of(count), |_, to| {
        let bell = bells[to].clone();
        Box::new(move || bell.wake_if_parked())
    });
    let (ready, is_ready) = channel();
    let mut shard_addresses = Vec::new();
    for (index, own) in listeners.iter_mut().enumerate() {
        if let Some(port) = shard_port(options, address, index)? {
            shard_addresses.extend(port.local_address());
            own.push(port);
        }
    }
    let loads = ShardLoads::new(count);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| channel()).unzip();
    let handles: Vec<ShardHandle> = senders
        .into_iter()
        .zip(&bells)
        .map(|(sender, bell)| ShardHandle::new(sender, bell.clone()))
        .collect();
    let offload = Offload::start(&placement.free_cores, &handles)
        .map_err(|error| format!("no helper thread: {}", start_error_text(&error)))?;
    let mut threads = Vec::new();
    let parts = lane_ends
        .into_iter()
        .zip(doorbells)
        .zip(listeners)
        .zip(&placement.cores)
        .zip(receivers)
        .zip(system)
        .zip(offload);
    for (index, ((((((lanes, doorbell), listeners), cores), orders), system), offload)) in
        parts.enumerate()
    {
        let seed = ShardSeed {
            id: ShardId(u16::try_from(index).expect("fewer shards than cores")),
            driver: placement.driver,
            cores: cores.clone(),
            listeners,
            sleeps: wakes_late && index > 0,
            lanes,
            doorbell,
            own_bell: bells[index].clone(),
            orders,
            options: options.clone(),
            auth: auth.clone(),
            offload,
            ask_for_account: ask_for_account.clone(),
            peers: handles.clone(),
            loads: loads.clone(),
            info: info.clone(),
            tls: tls.clone(),
            websocket: websocket.clone(),
            local_congestion: local_congestion.clone(),
            server: counters.clone(),
            system,
            started,
            collect,
            random_seed: fastrand::u64(..),
        };
        let ready = ready.clone();
        let work = move |jetstream| {
            if let Err(error) = run(seed, jetstream, ready.clone()) {
                let text = format!("shard {index}: {}", start_error_text(&error));
                // Fails if another shard's failure was reported first. A shard that has reported
                // ready never gets here.
                let _ = ready.send(Err(text));
            }
        };
        // What was opened on a thread stays there.
        if let Some(store) = jetstream.take() {
            threads.push(store.go_on(work));
            continue;
        }
        let builder = std::thread::Builder::new().name(format!("shard-{index}"));
        let thread = builder.spawn(move || work(None));
        threads.push(thread.map_err(|error| format!("no thread for shard {index}: {error}"))?);
    }
    for _ in 0..count {
        let told = is_ready.recv_timeout(START_DEADLINE);
        told.map_err(|_| "a shard did not come up".to_owned())??;
    }
    Ok(Shards {
        handles,
        threads,
        counters,
        address,
        shard_addresses,
        websocket_address,
        websocket,
        info,
    })
}

/// Binds the port for WebSocket clients on every shard, if there is one: the first shard's as it is,
/// the others' by `bind`. Returns its address.
fn bind_websocket(
    options: &Options,
    listeners: &mut [Vec<Listener>],
    bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> Result<Option<SocketAddr>, String> {
    let own = &options.websocket;
    let Some(port) = own.port else { return Ok(None) };
    let wanted = resolve(own.shown_host(), port)?;
    let refused = |error: io::Error| {
        let reason = start_error_text(&error);
        format!("Unable to listen for websocket connections: listen tcp {wanted}: bind: {reason}")
    };
    let first = bind_all_families(wanted, exclusive_first).map_err(refused)?;
    let address = first.local_addr().map_err(refused)?;
    let mut first = Some(first);
    for own in listeners {
        let listener = match first.take() {
            Some(first) => first,
            None => bind(address).map_err(refused)?,
        };
        own.push(Listener::tcp(listener, Purpose::WebSocket));
    }
    Ok(Some(address))
}

/// Prepares the listener for WebSocket clients, at its address; None = there is none.
///
/// # Errors
/// If an allowed origin cannot be used.
pub(super) fn build_websocket(
    options: &Options,
    tls: Option<Arc<TlsServer>>,
    address: Option<SocketAddr>,
) -> Result<Option<Arc<WebSocketServer>>, String> {
    let Some(address) = address else { return Ok(None) };
    let server = WebSocketServer::new(&options.websocket, tls, address.port())?;
    Ok(Some(Arc::new(server)))
}

/// Returns the port of a single shard, if `shard_ports` asks for them: base, base + 1, and so on.
fn shard_port(
    options: &Options,
    address: SocketAddr,
    index: usize,
) -> Result<Option<Listener>, String> {
    let Some(base) = options.shards.ports_base else { return Ok(None) };
    let port = u16::try_from(usize::from(base) + index)
        .map_err(|_| format!("shard_ports {base}: no port is left for shard {index}"))?;
    let own = SocketAddr::new(address.ip(), port);
    let listener = exclusive_first(own).map_err(|error| {
        format!("Error listening on shard port: {own}, {:?}", os_error_text(&error))
    })?;
    Ok(Some(Listener::tcp(listener, Purpose::ShardPort)))
}

/// Returns the first address of a host name.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = (bare, port).to_socket_addrs().map(|mut all| all.next());
    match found {
        Ok(Some(address)) => Ok(address),
        _ => Err(format!(
            "Error listening on port: {host}:{port}, \"listen tcp: lookup {host}: no such host\""
        )),
    }
}

/// Binds the first listener. With SO_REUSEPORT a second server of the same user could share the
/// port unnoticed; a bind without it, immediately before, finds that out. A server that was killed
/// releases its port only when the kernel has torn down its ring, some milliseconds after its end:
/// hence the patience.
fn exclusive_first(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + PORT_PATIENCE;
    while address.port() != 0 {
        match bind_tcp_alone(address) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
    bind_tcp(address)
}
