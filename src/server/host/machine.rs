//! What the machine lets this process use: cores, file descriptors, io_uring.

use std::fmt;
use std::io;

use io_uring::opcode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::base::limits::{CONNECTIONS_MAX, OPEN_FILES_FEW};
use crate::config::options::ShardOptions;
use crate::server::host::error_text::os_error_text;

/// Descriptors in use that do not belong to clients: listeners, rings, doorbells, files. For the
/// warning below.
const FILES_RESERVED: u64 = 64;

/// Why the requested cores cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CoreError {
    NotAvailable { core: usize, available: Vec<usize> },
    MoreShardsThanCores { shards: usize, cores: usize },
    NoShards,
    MaskUnreadable(String),
}

impl fmt::Display for CoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAvailable { core, available } => write!(
                formatter,
                "core {core} is not available to this process; it may use {} (see taskset, or the cpuset of \
                 its container)",
                core_list_text(available)
            ),
            Self::MoreShardsThanCores { shards, cores } => {
                write!(formatter, "{shards} shards asked for, but the core list names {cores}")
            }
            Self::NoShards => write!(formatter, "at least one shard is needed"),
            Self::MaskUnreadable(error) => {
                write!(formatter, "cannot read which cores this process may use: {error}")
            }
        }
    }
}

impl std::error::Error for CoreError {}

/// Formats a list of ascending cores as `0-3,8`.
fn core_list_text(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => ranges.push((core, core)),
        }
    }
    let text = |&(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The cores that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AvailableCores {
    /// The affinity mask, ascending.
    pub cores: Vec<usize>,
    /// The number of cores that the CPU quotas of its cgroups cover (rounded down, at least one);
    /// without a quota the number of cores.
    pub paid_count: usize,
}

impl AvailableCores {
    /// Reads the affinity mask and the quota.
    ///
    /// # Errors
    /// If the kernel does not tell the mask.
    pub(crate) fn read() -> Result<Self, CoreError> {
        let unreadable = |error: io::Error| CoreError::MaskUnreadable(os_error_text(&error));
        let mask = sched_getaffinity(None).map_err(|errno| unreadable(errno.into()))?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| mask.is_set(core)).collect();
        // The standard library reads the quotas of cgroups v1 and v2, up to the root of the
        // hierarchy.
        let parallelism = std::thread::available_parallelism().map_err(unreadable)?.get();
        Ok(Self { paid_count: parallelism.min(cores.len()), cores })
    }

    pub(crate) fn is_limited_by_quota(&self) -> bool {
        self.paid_count < self.cores.len()
    }

    /// Returns the core of each shard. By default there is one shard per core that the quota
    /// covers; if there are more shards than cores they share them, which is for tests.
    ///
    /// # Errors
    /// If a listed core is not available, or the list is shorter than the number of shards.
    pub(crate) fn place(&self, options: &ShardOptions) -> Result<Vec<usize>, CoreError> {
        if options.count == Some(0) {
            return Err(CoreError::NoShards);
        }
        let Some(listed) = &options.cores else {
            let count = options.count.unwrap_or(self.paid_count);
            return Ok(self.cores.iter().copied().cycle().take(count).collect());
        };
        let count = options.count.unwrap_or(listed.len());
        if count == 0 {
            return Err(CoreError::NoShards);
        }
        if count > listed.len() {
            return Err(CoreError::MoreShardsThanCores { shards: count, cores: listed.len() });
        }
        if let Some(&core) = listed.iter().find(|core| !self.cores.contains(core)) {
            return Err(CoreError::NotAvailable { core, available: self.cores.clone() });
        }
        Ok(listed[..count].to_vec())
    }
}

/// The number of files that this process may have open; None = no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileLimit(pub Option<u64>);

impl FileLimit {
    /// Raises the soft limit to the hard one.
    ///
    /// # Errors
    /// If the kernel refuses; the old limit stays in force.
    pub(crate) fn raise() -> io::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
        }
        Ok(Self(limit.maximum))
    }

    /// Returns the warning for a limit that refuses clients before `connections_max` does. If that
    /// number is the default, which nobody asked for, there is a warning only if an ordinary server
    /// may reach the limit.
    pub(crate) fn shortage(self, connections_max: usize) -> Option<String> {
        let limit = self.0?;
        let needed = (connections_max as u64).saturating_add(FILES_RESERVED);
        let may_matter = connections_max != CONNECTIONS_MAX || limit < OPEN_FILES_FEW;
        (limit < needed && may_matter).then(|| {
            format!(
                "The limit of {limit} open files allows fewer than max_connections {connections_max} clients; \
                 raise it to {needed} (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker)"
            )
        })
    }
}

/// Why io_uring cannot be used here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IoUringError {
    /// The value of kernel.io_uring_disabled forbids it.
    DisabledBySysctl(u8),
    /// A seccomp profile or another security module refuses the call.
    Blocked,
    /// The kernel does not have io_uring.
    Unknown,
    /// The kernel has io_uring, but not these operations.
    OperationsMissing(Vec<&'static str>),
    /// The ring does not fit the limit on locked memory, in bytes.
    LockedMemory(Option<u64>),
    /// Too many open files for another ring.
    Files,
    Other(String),
}

impl fmt::Display for IoUringError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DisabledBySysctl(value) => write!(
                formatter,
                "io_uring is disabled on this host (kernel.io_uring_disabled = {value}); run \
                 `sysctl kernel.io_uring_disabled=0`"
            ),
            Self::Blocked => write!(
                formatter,
                "io_uring is blocked by a sandbox; allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile (docker: --security-opt seccomp=FILE)"
            ),
            Self::Unknown => {
                write!(
                    formatter,
                    "this kernel has no io_uring, or a sandbox hides it; use Linux 5.6 or newer"
                )
            }
            Self::OperationsMissing(names) => write!(
                formatter,
                "this kernel's io_uring lacks {}; use a newer Linux kernel",
                names.join(", ")
            ),
            Self::LockedMemory(Some(limit)) => write!(
                formatter,
                "the limit of locked memory ({limit} bytes) is too low for an io_uring ring; raise it (ulimit \
                 -l unlimited, LimitMEMLOCK=infinity of systemd, --ulimit memlock=-1 of docker)"
            ),
            Self::LockedMemory(None) => write!(formatter, "not enough memory for an io_uring ring"),
            Self::Files => write!(
                formatter,
                "too many open files for an io_uring ring; raise the limit (ulimit -Hn, LimitNOFILE= of systemd)"
            ),
            Self::Other(text) => write!(formatter, "cannot set up io_uring: {text}"),
        }?;
        match self {
            Self::Files | Self::Other(_) | Self::LockedMemory(None) => Ok(()),
            _ => write!(formatter, ", or start with --io-driver epoll"),
        }
    }
}

impl std::error::Error for IoUringError {}

/// Makes a ring as a shard would, and drops it.
///
/// # Errors
/// If a shard could not make its ring; the text says what to do.
pub(crate) fn probe_io_uring(
    builder: &io_uring::Builder,
    entries: u32,
) -> Result<(), IoUringError> {
    let ring: io_uring::IoUring = builder.build(entries).map_err(|error| {
        explain(&error, read_io_uring_disabled(), getrlimit(Resource::Memlock).current)
    })?;
    let mut probe = io_uring::Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() {
        // Kernels before 5.6 lack the probe, and also what we need.
        return Err(IoUringError::Unknown);
    }
    let missing = missing_operations(|code| probe.is_supported(code));
    if missing.is_empty() { Ok(()) } else { Err(IoUringError::OperationsMissing(missing)) }
}

fn missing_operations(is_supported: impl Fn(u8) -> bool) -> Vec<&'static str> {
    let needed = [
        ("accept", opcode::Accept::CODE),
        ("cancel", opcode::AsyncCancel::CODE),
        ("close", opcode::Close::CODE),
        ("connect", opcode::Connect::CODE),
        ("poll", opcode::PollAdd::CODE),
        ("read", opcode::Read::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("timeout", opcode::Timeout::CODE),
        ("write", opcode::Write::CODE),
        ("writev", opcode::Writev::CODE),
    ];
    needed.into_iter().filter(|&(_, code)| !is_supported(code)).map(|(name, _)| name).collect()
}

/// Returns the switch's value; None on kernels before 6.6, which do not have it.
fn read_io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn explain(
    error: &io::Error,
    disabled_sysctl: Option<u8>,
    locked_memory_bytes_max: Option<u64>,
) -> IoUringError {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => match disabled_sysctl {
            Some(value) if value > 0 => IoUringError::DisabledBySysctl(value),
            _ => IoUringError::Blocked,
        },
        Some(Errno::NOSYS) => IoUringError::Unknown,
        Some(Errno::NOMEM) => IoUringError::LockedMemory(locked_memory_bytes_max),
        Some(Errno::MFILE | Errno::NFILE) => IoUringError::Files,
        _ => IoUringError::Other(os_error_text(error)),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn core_lists_print_as_ranges() {
        assert_eq!(core_list_text(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(core_list_text(&[]), "");
    }

    fn place(count: Option<usize>, cores: Option<&[usize]>) -> Result<Vec<usize>, CoreError> {
        let available = AvailableCores { cores: vec![2, 3, 6, 7], paid_count: 3 };
        let cores = cores.map(<[usize]>::to_vec);
        available.place(&ShardOptions { count, cores, ..ShardOptions::default() })
    }

    #[test]
    fn shards_are_placed_on_available_cores_that_the_quota_covers() {
        assert_eq!(place(None, None), Ok(vec![2, 3, 6]));
        assert_eq!(place(Some(1), None), Ok(vec![2]));
        assert_eq!(place(Some(4), None), Ok(vec![2, 3, 6, 7]));
        assert_eq!(place(Some(6), None), Ok(vec![2, 3, 6, 7, 2, 3]));
        assert_eq!(place(None, Some(&[7, 2])), Ok(vec![7, 2]));
        assert_eq!(place(Some(1), Some(&[7, 2])), Ok(vec![7]));
        assert_eq!(place(Some(0), None), Err(CoreError::NoShards));
        assert_eq!(place(None, Some(&[])), Err(CoreError::NoShards));
        let error = place(Some(3), Some(&[7, 2])).unwrap_err();
        assert_eq!(error, CoreError::MoreShardsThanCores { shards: 3, cores: 2 });
        let error = place(None, Some(&[2, 5])).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("core 5 is not available to this process; it may use 2-3,6-7 ")
        );
    }

    #[test]
    fn this_process_has_cores() {
        let available = AvailableCores::read().unwrap();
        assert!(!available.cores.is_empty());
        assert!((1..=available.cores.len()).contains(&available.paid_count));
        assert_eq!(available.is_limited_by_quota(), available.paid_count < available.cores.len());
    }

    #[test]
    fn the_soft_file_limit_becomes_the_hard_one() {
        let limit = FileLimit::raise().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(limit, FileLimit(now.maximum));
    }

    #[test]
    fn a_file_limit_below_what_clients_need_is_warned_of() {
        assert_eq!(FileLimit(None).shortage(65_536), None);
        assert_eq!(FileLimit(Some(164)).shortage(100), None);
        assert!(FileLimit(Some(163)).shortage(100).unwrap().contains("raise it to 164 "));
        assert!(FileLimit(Some(1024)).shortage(usize::MAX).is_some());
        // The default, which nobody asked for.
        assert_eq!(FileLimit(Some(OPEN_FILES_FEW)).shortage(CONNECTIONS_MAX), None);
        assert!(FileLimit(Some(OPEN_FILES_FEW - 1)).shortage(CONNECTIONS_MAX).is_some());
        assert!(FileLimit(Some(OPEN_FILES_FEW)).shortage(CONNECTIONS_MAX - 1).is_some());
    }

    #[test]
    fn io_uring_errors_say_what_to_do() {
        let explained = |errno: Errno, sysctl| explain(&errno.into(), sysctl, Some(65_536));
        let cases = [
            (explained(Errno::PERM, Some(2)), "sysctl kernel.io_uring_disabled=0"),
            (explained(Errno::PERM, Some(0)), "seccomp"),
            (explained(Errno::PERM, None), "seccomp"),
            (explained(Errno::ACCESS, None), "seccomp"),
            (explained(Errno::NOSYS, None), "5.6"),
            (explained(Errno::NOMEM, None), "(65536 bytes)"),
            (explained(Errno::MFILE, None), "ulimit -Hn"),
            (explained(Errno::INVAL, None), "invalid argument"),
            (
                IoUringError::OperationsMissing(missing_operations(|_| false)),
                "lacks accept, cancel",
            ),
        ];
        for (error, advice) in &cases {
            assert!(error.to_string().contains(advice), "{error}");
        }
        assert!(cases[0].0.to_string().ends_with(", or start with --io-driver epoll"));
        assert!(missing_operations(|_| true).is_empty());
    }

    #[test]
    fn the_probe_agrees_with_a_ring_made_directly() {
        let builder = io_uring::IoUring::builder();
        let made = io_uring::IoUring::new(1024);
        match probe_io_uring(&builder, 1024) {
            Ok(()) => assert!(made.is_ok()),
            Err(IoUringError::OperationsMissing(_)) => assert!(made.is_ok()),
            Err(error) => assert!(made.is_err(), "{error}"),
        }
        // Larger than the kernel allows, so refused wherever io_uring works at all.
        assert!(probe_io_uring(&builder, 1 << 30).is_err());
    }
}
