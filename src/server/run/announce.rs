//! What the log says about a starting server, in nats-server's words if it has some.

use std::net::SocketAddr;

use crate::auth::password::is_bcrypt;
use crate::auth::state::AuthState;
use crate::config::auth_options::Secret;
use crate::config::options::Options;
use crate::config::tls_options::HandshakeFirst;
use crate::net::runtime::Driver;
use crate::server::host::files::program_name;
use crate::server::host::identity::{COMMIT, Identity, MIDGE_VERSION, NATS_VERSION};
use crate::server::host::pinning::Pinning;
use crate::system::events;

fn is_nats_server() -> bool {
    program_name() == "nats-server"
}

pub(super) fn announce_start(identity: &Identity, options: &Options, warnings: &[String]) {
    // Under its name tools look for nats-server's lines.
    if is_nats_server() {
        tracing::info!("Starting nats-server");
        tracing::info!("  Version:  {NATS_VERSION}");
        tracing::info!("  Midge:    {MIDGE_VERSION}");
    } else {
        tracing::info!("Starting Midge");
        tracing::info!("  Version:  {MIDGE_VERSION}, in place of nats-server {NATS_VERSION}");
    }
    tracing::info!("  Git:      [{}]", COMMIT.unwrap_or("not set"));
    tracing::info!("  Name:     {}", identity.name);
    tracing::info!("  ID:       {}", identity.id);
    if stores_plain_passwords(options) {
        tracing::warn!("Plaintext passwords detected, use nkeys or bcrypt");
    }
    if let Some(path) = &options.files.config {
        tracing::info!("Using configuration file: {} ({})", path.display(), options.config_digest);
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if options.limits.payload_bytes_max > crate::base::limits::PAYLOAD_BYTES_WARN {
        tracing::warn!(
            "Maximum payloads over 8.00 MB are generally discouraged and could lead to poor performance"
        );
    }
}

/// Warns of account names that nats-server accepts too, and puts into subjects as they are.
pub(super) fn warn_of_account_names(auth: &AuthState) {
    let accounts = auth.authenticator.accounts();
    if accounts.system().is_some() {
        let warnings = accounts.iter().filter_map(|one| events::unsendable_account(&one.name));
        warnings.for_each(|warning| tracing::warn!("{warning}"));
    }
}

/// Returns true if a password is stored in plain text. Source: nats-server checkAuthforWarnings.
fn stores_plain_passwords(options: &Options) -> bool {
    let auth = &options.auth;
    let is_plain =
        |secret: &Option<Secret>| !secret.as_ref().is_some_and(|s| is_bcrypt(s.expose()));
    let by_certificate = options.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
    let is_given =
        |secret: &Option<Secret>| secret.as_ref().is_some_and(|s| !s.expose().is_empty());
    (is_given(&auth.password) && is_plain(&auth.password))
        || auth
            .users
            .iter()
            .any(|user| is_plain(&user.password) && (is_given(&user.password) || !by_certificate))
}

/// Warns about TLS settings. Source: nats-server AcceptLoop.
pub(super) fn announce_tls(options: &Options) {
    let Some(tls) = &options.tls else { return };
    let handshake_first = tls.handshake_first == HandshakeFirst::Always;
    if options.allow_non_tls && !handshake_first {
        tracing::info!("TLS available for client connections");
    } else {
        tracing::info!("TLS required for client connections");
    }
    if handshake_first {
        tracing::warn!(
            "Clients that are not using \"TLS Handshake First\" option will fail to connect"
        );
    }
}

/// Announces the listener for WebSocket clients. Source: nats-server startWebsocketServer.
pub(super) fn announce_websocket(options: &Options, address: SocketAddr) {
    let own = &options.websocket;
    let (host, port) = (own.shown_host(), address.port());
    match own.tls {
        Some(_) => tracing::info!("Listening for websocket clients on wss://{host}:{port}"),
        None => {
            tracing::info!("Listening for websocket clients on ws://{host}:{port}");
            tracing::warn!("Websocket not configured with TLS. DO NOT USE IN PRODUCTION!");
        }
    }
}

pub(super) fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::IoUring => "io_uring",
        Driver::Epoll => "epoll",
    }
}

pub(super) fn cores_text(
    cores: &[usize],
    pinning: &Pinning,
    options: &Options,
    driver: Driver,
) -> String {
    let driver = driver_name(driver);
    let list = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    match &options.shards.cores {
        _ if pinning.is_pinned() => {
            format!("{driver}, pinned to cores {} ({pinning})", list(cores))
        }
        Some(named) => format!("{driver}, not pinned, on cores {} ({pinning})", list(named)),
        None => format!("{driver}, not pinned ({pinning})"),
    }
}

/// Formats the listener's address as nats-server does: the host as given, the actual port.
pub(super) fn listen_text(options: &Options, address: SocketAddr) -> String {
    let host = options.listen.host.trim_matches(['[', ']']);
    if host.contains(':') {
        format!("[{host}]:{}", address.port())
    } else {
        format!("{host}:{}", address.port())
    }
}
