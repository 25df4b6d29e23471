//! The host on which figures were measured: without it they cannot be compared with others.

use crate::host::process_finder;
use crate::wire::address::Address;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The host as far as /proc and /sys describe it. What cannot be read is empty, and shown as
/// unknown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub governor: String,
    pub isolated_cores: String,
    pub clock_source: String,
    pub hypervisor: String,
    pub transparent_huge_pages: String,
    /// `1`: every session gets an equal share of a core, whatever its nice value or policy.
    #[serde(default)]
    pub scheduler_autogroups: String,
    /// `bbr` paces what it sends, even over the loopback.
    #[serde(default)]
    pub tcp_congestion_control: String,
    /// Bytes of a socket's receive buffer: minimum, default, maximum.
    #[serde(default)]
    pub tcp_rmem: String,
    #[serde(default)]
    pub tcp_wmem: String,
    pub memory_kib: u64,
    pub load_average: String,
    pub mitigations: BTreeMap<String, String>,
    pub pin_load: String,
    pub pin_server: String,
}

impl Environment {
    pub fn collect(pin_load: &str, pin_server: &str) -> Environment {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or(String::new(), |(_, value)| value.trim().to_string())
        };
        let memory = read("/proc/meminfo");
        let memory_kib = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        Environment {
            cpu: field("model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            isolated_cores: read("/sys/devices/system/cpu/isolated"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            hypervisor: if cpuinfo.contains(" hypervisor") { "yes" } else { "no" }.to_string(),
            transparent_huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            scheduler_autogroups: read("/proc/sys/kernel/sched_autogroup_enabled"),
            tcp_congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            tcp_rmem: words(&read("/proc/sys/net/ipv4/tcp_rmem")),
            tcp_wmem: words(&read("/proc/sys/net/ipv4/tcp_wmem")),
            memory_kib,
            load_average: read("/proc/loadavg"),
            mitigations: mitigations(),
            pin_load: pin_load.to_string(),
            pin_server: pin_server.to_string(),
        }
    }

    /// Returns the effect that this host has on a server at `address`, if readers of the figures
    /// must know of it.
    pub fn warning(&self, address: &Address) -> Option<String> {
        let over_loopback = match address {
            Address::Tcp { host, .. } => process_finder::is_on_this_host(host),
            Address::Unix { .. } => false,
        };
        // There are bbr2, bbr3, and possibly more to come.
        (over_loopback && self.tcp_congestion_control.starts_with("bbr")).then(|| {
            format!(
                "TCP congestion control is {}, which paces the loopback: throughput is up to half as high as with \
                 cubic, and which server is quicker may turn around; scripts/tune-host.sh --apply sets cubic",
                self.tcp_congestion_control
            )
        })
    }

    /// Returns name and value of each line in the reports.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let or = |text: &str, otherwise: &str| {
            if text.is_empty() { otherwise.to_string() } else { text.to_string() }
        };
        let active: Vec<&str> = self
            .mitigations
            .iter()
            .filter(|(_, state)| state.starts_with("Mitigation"))
            .map(|(name, _)| name.as_str())
            .collect();
        vec![
            ("CPU", format!("{}, {} cores usable", or(&self.cpu, "unknown"), self.cores)),
            ("virtual machine", or(&self.hypervisor, "unknown")),
            ("kernel", or(&self.kernel, "unknown")),
            ("governor", or(&self.governor, "not visible")),
            ("isolated cores", or(&self.isolated_cores, "none")),
            ("mitigations on", or(&active.join(", "), "none")),
            ("clock source", or(&self.clock_source, "unknown")),
            ("transparent huge pages", or(&self.transparent_huge_pages, "unknown")),
            (
                "scheduler autogroups",
                match self.scheduler_autogroups.as_str() {
                    "0" => "off",
                    "1" => "on: nice values do not reach across sessions",
                    _ => "unknown",
                }
                .to_string(),
            ),
            ("TCP congestion control", or(&self.tcp_congestion_control, "unknown")),
            ("TCP receive buffer (tcp_rmem)", or(&self.tcp_rmem, "unknown")),
            ("TCP send buffer (tcp_wmem)", or(&self.tcp_wmem, "unknown")),
            ("memory", format!("{} MiB", self.memory_kib / 1024)),
            ("load average at start", or(&self.load_average, "unknown")),
            ("load pinned to", or(&self.pin_load, "not pinned")),
            ("servers pinned to", or(&self.pin_server, "not pinned by the harness")),
        ]
    }
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_string();
            let state = read(entry.path().to_str()?);
            Some((name, state))
        })
        .collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or(String::new(), |content| content.trim().to_string())
}

/// Joins the words by single blanks.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns `madvise` of `always [madvise] never`.
fn chosen(text: &str) -> String {
    let marked = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    marked.map_or(text, |(choice, _)| choice).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::WebSocket;

    #[test]
    fn this_host_has_a_kernel_and_cores() {
        let environment = Environment::collect("1", "");
        assert!(!environment.kernel.is_empty());
        assert!(environment.cores > 0);
        let lines = environment.lines();
        assert!(lines.iter().all(|(_, value)| !value.is_empty()));
    }

    #[test]
    fn bbr_is_warned_of_where_it_paces_the_loopback() {
        let address = |host: &str| Address::Tcp {
            host: host.to_string(),
            port: 1,
            tls: false,
            web: WebSocket::No,
        };
        let mut environment = Environment::collect("", "");
        for (control, host, warned) in [
            ("bbr", "127.0.0.1", true),
            ("bbr", "localhost", true),
            ("bbr", "192.0.2.1", false),
            ("cubic", "127.0.0.1", false),
        ] {
            environment.tcp_congestion_control = control.to_string();
            let warning = environment.warning(&address(host));
            assert_eq!(warning.is_some(), warned, "{control} {host}");
        }
        environment.tcp_congestion_control = "bbr".to_string();
        assert_eq!(environment.warning(&Address::Unix { path: "/x".to_string() }), None);
        let lines = environment.lines();
        assert!(lines.contains(&("TCP congestion control", "bbr".to_string())));
    }

    #[test]
    fn a_stored_environment_without_the_newer_fields_is_read() {
        let mut stored = serde_json::to_value(Environment::default()).unwrap();
        let fields = stored.as_object_mut().unwrap();
        for field in ["tcp_congestion_control", "tcp_rmem", "tcp_wmem"] {
            assert!(fields.remove(field).is_some());
        }
        let environment: Environment = serde_json::from_value(stored).unwrap();
        assert_eq!(environment.tcp_congestion_control, "");
    }

    #[test]
    fn the_marked_choice_is_taken() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
    }
}
