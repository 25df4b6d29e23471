//! Chooses the congestion control of the server's sockets to peers on this host.

use std::sync::Arc;

use crate::config::options::LocalCongestion;
use crate::net::congestion::first_available;

/// Algorithms that do not pace, tried in this order if the host's does; a kernel may lack the
/// first.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// The file with the kernel's default for new sockets.
const HOST_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// The congestion control of new sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Congestion {
    /// The host's; empty = not readable.
    pub host: String,
    /// The one for peers on this host; None = the host's.
    pub local: Option<Arc<str>>,
}

impl Congestion {
    /// Chooses by the option and by what this kernel has.
    pub(crate) fn choose(option: &LocalCongestion) -> Self {
        let host = std::fs::read_to_string(HOST_FILE).unwrap_or_default().trim().to_owned();
        let local = first_available(&wanted(option, &host)).map(Arc::from);
        Self { host, local }
    }

    /// Returns the host's, and that of sockets to peers on this host.
    pub(crate) fn names(&self) -> [String; 2] {
        let local = self.local.as_deref().unwrap_or(&self.host);
        [self.host.clone(), local.to_owned()]
    }
}

/// Returns the names to try; empty = the host's stays.
fn wanted<'a>(option: &'a LocalCongestion, host: &str) -> Vec<&'a str> {
    match option {
        // There are bbr2, bbr3, and possibly more to come.
        LocalCongestion::Auto if host.starts_with("bbr") => UNPACED.to_vec(),
        LocalCongestion::Auto | LocalCongestion::Host => Vec::new(),
        LocalCongestion::Named(name) => vec![name],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpaced_algorithm_is_wanted_only_if_the_host_paces() {
        let auto = LocalCongestion::Auto;
        assert_eq!(wanted(&auto, "bbr"), UNPACED);
        assert_eq!(wanted(&auto, "bbr2"), UNPACED);
        for host in ["cubic", "reno", "dctcp", ""] {
            assert!(wanted(&auto, host).is_empty(), "{host}");
        }
        assert!(wanted(&LocalCongestion::Host, "bbr").is_empty());
        assert_eq!(wanted(&LocalCongestion::Named("dctcp".into()), "bbr"), ["dctcp"]);
    }

    #[test]
    fn an_algorithm_that_the_kernel_lacks_leaves_the_hosts() {
        let chosen = Congestion::choose(&LocalCongestion::Named("no-such".into()));
        assert_eq!(chosen.local, None);
        let chosen = Congestion::choose(&LocalCongestion::Named("reno".into()));
        assert_eq!(chosen.local.as_deref(), Some("reno"));
        assert_eq!(Congestion::choose(&LocalCongestion::Host).local, None);
    }
}
