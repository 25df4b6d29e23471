//! Rows: the listener for WebSocket clients.

use super::*;
use crate::config::read_websocket::read_websocket;
use crate::config::tls_options::TlsOptions;
use crate::config::websocket_options::WebSocketOptions;
use Kind::{Part, Structure};

/// A row that documents one option of the block.
macro_rules! part {
    ($key:literal, $shape:literal, $help:literal) => {
        entry_row!($key, Part { shape: $shape, flag: PartFlag::None }, $help)
    };
}

pub(super) static WEBSOCKET: &[Row] = &[
    hidden_row!(
        "websocket",
        "Websocket",
        Structure { shape: "block", read: read_websocket },
        "",
        Restart,
        |options| what_stays(&options.websocket),
        "Listen for WebSocket clients, such as browsers. Its options follow."
    )
    .aliases(&["ws"]),
    part!("websocket.host", "text", "Address or name to listen on.")
        .aliases(&["net"])
        .default("0.0.0.0"),
    part!("websocket.port", "number", "Port; -1 takes any free one; there is no default."),
    part!("websocket.listen", "port or \"host:port\"", "Host and port in one."),
    part!(
        "websocket.advertise",
        "text",
        "`host:port` that other servers tell their clients; shown in monitoring."
    ),
    hidden_row!(
        "websocket.tls",
        "Websocket",
        Part { shape: "block", flag: PartFlag::None },
        "",
        Reconnect,
        |options| options.websocket.tls.clone(),
        "Certificates and the rest of the `tls` options, for this listener. `pinned_certs` and `verify_and_map` need a restart."
    ),
    part!("websocket.no_tls", "true or false", "Listen without TLS, behind a proxy that has it.")
        .default("false"),
    part!(
        "websocket.same_origin",
        "true or false",
        "A page may only connect to the host and port it came from."
    )
    .default("false"),
    part!(
        "websocket.allowed_origins",
        "URL or list of URLs",
        "Origins of the pages that may connect; programs that name no origin always may."
    )
    .aliases(&["allowed_origin", "allow_origins", "allow_origin", "origins", "origin"]),
    part!(
        "websocket.handshake_timeout",
        "seconds or duration",
        "Time for the TLS handshake, and again for the upgrade."
    )
    .default("10s"),
    part!(
        "websocket.compression",
        "true or false",
        "Agree to permessage-deflate where a client offers it."
    )
    .aliases(&["compress"])
    .default("false"),
    part!(
        "websocket.authorization",
        "block",
        "`user` and `password`, or `token`, and `timeout`, in place of the server's."
    )
    .aliases(&["authentication"]),
    part!(
        "websocket.no_auth_user",
        "text",
        "The user that a client without credentials becomes, in place of the server's."
    ),
    part!("websocket.jwt_cookie", "text", "Cookie with the JWT that CONNECT leaves out."),
    part!("websocket.user_cookie", "text", "Cookie with the user that CONNECT leaves out."),
    part!("websocket.pass_cookie", "text", "Cookie with the password that CONNECT leaves out."),
    part!("websocket.token_cookie", "text", "Cookie with the token that CONNECT leaves out."),
    part!("websocket.headers", "block", "Further headers of the answer to an upgrade."),
    part!("websocket.ping_interval", "duration", "Time between PINGs, in place of the server's."),
];

/// Returns the options of which a change needs a restart.
fn what_stays(own: &WebSocketOptions) -> WebSocketOptions {
    let tls = own.tls.as_ref().map(|tls| TlsOptions {
        verify_and_map: tls.verify_and_map,
        pinned_certificates: tls.pinned_certificates.clone(),
        ..TlsOptions::default()
    });
    WebSocketOptions { tls, ..own.clone() }
}
