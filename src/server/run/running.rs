//! A running server, with the files that it keeps and the events that it tells the system account
//! of.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use crate::auth::state::AuthState;
use crate::config::options::Options;
use crate::config::tls_options::{TlsOptions, Verify};
use crate::jetstream::API_LEVEL;
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::handshake::Info;
use crate::server::answers::endpoints::Live;
use crate::server::command::flags::Flags;
use crate::server::host::files::{Ports, PortsFile, listener_urls, program_name, write_pid_file};
use crate::server::host::identity::{Identity, MIDGE_VERSION, NATS_VERSION, PROTOCOL_VERSION};
use crate::server::host::log_writer::ServerLog;
use crate::server::host::unix_socket::UnixSocketFile;
use crate::server::run::account_source::AccountSource;
use crate::server::run::all_shards::{ORDER_DEADLINE, order_all};
use crate::server::run::announce::{announce_tls, announce_websocket, listen_text};
use crate::server::run::bootstrap::Shards;
use crate::server::run::heartbeat::Heartbeat;
use crate::shard::ShardOrder;
use crate::system::answer;
use crate::system::server_info::ServerInfo;

/// Files of this run that are removed with it.
#[derive(Default)]
pub(super) struct RunFiles {
    pub(super) ports: Option<PortsFile>,
    pub(super) unix: Option<UnixSocketFile>,
}

/// A running server, with what a reload changes.
pub(super) struct Server<'a> {
    pub(super) options: Arc<Options>,
    pub(super) auth: Arc<AuthState>,
    pub(super) account_source: AccountSource,
    pub(super) flags: Flags,
    pub(super) identity: Identity,
    pub(super) shards: Shards,
    pub(super) log: &'a ServerLog,
    pub(super) live: Arc<Mutex<Live>>,
    /// Scheme and address.
    pub(super) monitor_address: Option<(&'static str, SocketAddr)>,
    pub(super) heartbeat: RefCell<Heartbeat>,
    pub(super) files: RunFiles,
    /// Fingerprint of the certificates in force.
    pub(super) tls_fingerprint: Option<[u8; 32]>,
    /// Reloads that shards were ordered to take.
    pub(super) generations: u32,
}

impl Server<'_> {
    /// Announces that clients may come, in the log and in the files that tools read.
    pub(super) fn announce_ready(&mut self) {
        let options = &self.options;
        let address = self.shards.address;
        if let Some(address) = self.shards.websocket_address {
            announce_websocket(options, address);
        }
        tracing::info!("Listening for client connections on {}", listen_text(options, address));
        if options.listen.proxy_protocol {
            tracing::info!("PROXY protocol enabled for client connections");
        }
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
        let websocket = self.shards.websocket_address;
        let websocket = websocket.map(|address| listener_urls(websocket_scheme(options), address));
        let ports = Ports {
            nats: listener_urls(scheme, self.shards.address),
            monitoring: monitoring.unwrap_or_default(),
            websocket: websocket.unwrap_or_default(),
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
    pub(super) fn move_files(&mut self, new: &Options) {
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

    /// Publishes an event that consists of the server's description alone, and waits until every
    /// shard has it: what follows may close its receivers.
    pub(super) fn tell(&self, subject: impl Fn(&str) -> String) {
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
}

pub(super) fn websocket_scheme(options: &Options) -> &'static str {
    if options.websocket.tls.is_some() { "wss" } else { "ws" }
}

/// Builds the TLS of the monitoring port, which asks nobody for a certificate. Source: nats-server
/// startMonitoring.
pub(super) fn build_monitor_tls(options: &Options) -> Result<Option<Arc<TlsServer>>, String> {
    let (Some(_), Some(tls)) = (options.monitor.https_port, &options.tls) else { return Ok(None) };
    let own = TlsOptions { verify: Verify::Never, verify_and_map: false, ..tls.clone() };
    Ok(Some(Arc::new(TlsServer::build(&own, false)?)))
}

/// Returns INFO without the parts that depend on the connection.
pub(super) fn info(identity: &Identity, options: &Options, address: SocketAddr) -> Info {
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
        jetstream: options.jetstream.is_enabled,
        domain: options.jetstream.domain.clone().filter(|_| options.jetstream.is_enabled),
        api_level: options.jetstream.is_enabled.then_some(API_LEVEL),
        ..Info::default()
    }
}
