//! Ports and addresses in options.

use crate::config::go_text::{quoted, split_host_port};

/// Stands for any free port.
pub(super) const PORT_MIN: i64 = -1;
pub(super) const PORT_MAX: i64 = 65_535;

/// Splits an address option into host and port. A bare number is a port.
///
/// # Errors
/// nats-server's text for an address that cannot be used.
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
