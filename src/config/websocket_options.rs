//! The `websocket` block as plain data. Source: nats-server server/opts.go (WebsocketOpts).

use std::time::Duration;

use crate::config::advertise::Advertised;
use crate::config::auth_options::Secret;
use crate::config::tls_options::TlsOptions;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebSocketOptions {
    /// None = every address.
    pub host: Option<String>,
    /// None = no listener; 0 = any free port (written `-1`).
    pub port: Option<u16>,
    /// The address that other servers tell their clients; shown in monitoring.
    pub advertise: Option<Advertised>,
    /// None = plain, which `no_tls` must ask for.
    pub tls: Option<TlsOptions>,
    pub no_tls: bool,
    pub same_origin: bool,
    /// Absolute URLs of the pages that may connect; empty = all.
    pub allowed_origins: Vec<String>,
    pub compression: bool,
    /// Time for the TLS handshake and the upgrade.
    pub handshake_timeout: Option<Duration>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    /// None = that of all clients.
    pub auth_timeout: Option<Duration>,
    pub no_auth_user: Option<String>,
    /// Names of the cookies that stand in for what CONNECT leaves out.
    pub jwt_cookie: Option<String>,
    pub user_cookie: Option<String>,
    pub pass_cookie: Option<String>,
    pub token_cookie: Option<String>,
    /// Headers of the answer to an upgrade, in file order.
    pub headers: Vec<(String, String)>,
    /// None = that of all clients.
    pub ping_interval: Option<Duration>,
}

impl WebSocketOptions {
    /// Returns true if the block has a login of its own, which replaces the server's for clients
    /// that come this way.
    pub fn overrides_auth(&self) -> bool {
        self.user.is_some() || self.token.is_some() || self.no_auth_user.is_some()
    }

    /// Returns the host as the operator wrote it.
    pub fn shown_host(&self) -> &str {
        self.host.as_deref().unwrap_or("0.0.0.0")
    }
}
