//! The server's identity: its id, its name, and the versions it reports.

use nkeys::KeyPair;

/// The nats-server release whose behaviour Midge has. INFO, `-v` and monitoring report it, because
/// clients enable features by it.
pub(crate) const NATS_VERSION: &str = "2.15.3";

/// Midge's own version.
pub(crate) const MIDGE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of which this is a release, where it was built from a clone.
pub(crate) const COMMIT: Option<&str> = option_env!("MIDGE_COMMIT");

/// The protocol level in INFO.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// A public server nkey, new at each start: 56 characters, the first an N.
    pub id: String,
    /// The configured name, else the id.
    pub name: String,
}

impl Identity {
    pub(crate) fn new(configured_name: Option<&str>) -> Self {
        let id = KeyPair::new_server().public_key();
        let name = configured_name.unwrap_or(&id).to_owned();
        Self { id, name }
    }
}

/// Returns what `-v` prints: under any name but `midge`, the line that tools parse for
/// nats-server's version.
pub(crate) fn version_text(program: &str) -> String {
    if program == "midge" {
        format!("midge: v{MIDGE_VERSION} (nats-server v{NATS_VERSION})")
    } else {
        format!("{program}: v{NATS_VERSION}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_a_public_server_nkey_and_differs_each_time() {
        let first = Identity::new(None);
        assert_eq!(first.id.len(), 56);
        assert!(first.id.starts_with('N'));
        assert!(KeyPair::from_public_key(&first.id).is_ok());
        assert_eq!(first.name, first.id);
        assert_ne!(Identity::new(None).id, first.id);
    }

    #[test]
    fn a_configured_name_is_used() {
        assert_eq!(Identity::new(Some("east")).name, "east");
    }

    #[test]
    fn the_version_under_the_name_of_nats_server_is_the_line_it_prints() {
        assert_eq!(version_text("nats-server"), "nats-server: v2.15.3");
        assert!(version_text("midge").starts_with(&format!("midge: v{MIDGE_VERSION} ")));
    }
}
