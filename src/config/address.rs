//! Ports and addresses as options give them.

use crate::config::go_text::{quoted, split_host_port};

/// Any free port.
pub(super) const PORT_MIN: i64 = -1;
pub(super) const PORT_MAX: i64 = 65_535;

/// Host and port of an address option. A bare number is a port.
///
/// # Errors
/// nats-server's text for an address it cannot use.
pub(super) fn parse_address(text: &str) -> Result<(String, i64), String> {
    let (host, port) = split_host_port(text)
        .map_err(|_| format!("could not parse address string {}", quoted(text)))?;
    let number = port
        .parse::<i64>()
        .ok()
        .filter(|_| !port.is_empty())
        .ok_or_else(|| format!("could not parse port {}", quoted(port)))?;
    Ok((host.to_string(), number))
}
