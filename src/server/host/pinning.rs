//! Decides whether each shard is pinned to a core of its own.
//!
//! A pinned thread waits for whatever else runs on its core, even while other cores are idle:
//! pinning pays only if nothing else may run there. So shards are pinned if the operator says so,
//! or if the kernel keeps other programs off the cores of this process.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::option_table::parse_cores;
use crate::config::options::ShardOptions;

/// What keeps other programs off the cores of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exclusive {
    /// The kernel's parameter `isolcpus`.
    IsolatedCores,
    /// A cgroup whose `cpuset.cpus.partition` is `root` or `isolated`.
    CpusetPartition(PathBuf),
}

/// The decision, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pinning {
    /// `--pin`, or `pin: true`.
    AskedFor,
    /// `--cores` names the cores.
    CoresNamed,
    CoresOwn(Exclusive),
    /// `--no-pin`, or `pin: false`.
    Refused,
    MoreShardsThanCores,
    CoresShared,
}

impl Pinning {
    /// Decides for `shard_count` shards on `core_count` cores; `exclusive` is called last.
    pub(crate) fn decide(
        options: &ShardOptions,
        shard_count: usize,
        core_count: usize,
        exclusive: impl FnOnce() -> Option<Exclusive>,
    ) -> Self {
        if shard_count > core_count {
            return Self::MoreShardsThanCores;
        }
        match options.pin {
            Some(true) => Self::AskedFor,
            Some(false) => Self::Refused,
            None if options.cores.is_some() => Self::CoresNamed,
            None => exclusive().map_or(Self::CoresShared, Self::CoresOwn),
        }
    }

    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self, Self::AskedFor | Self::CoresNamed | Self::CoresOwn(_))
    }
}

/// The reason alone, as part of a log line.
impl fmt::Display for Pinning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AskedFor => formatter.write_str("as asked for"),
            Self::CoresNamed => formatter.write_str("named by --cores"),
            Self::CoresOwn(Exclusive::IsolatedCores) => {
                formatter.write_str("isolated from other programs by isolcpus")
            }
            Self::CoresOwn(Exclusive::CpusetPartition(cgroup)) => {
                write!(formatter, "kept for the cpuset of {}", cgroup.display())
            }
            Self::Refused => formatter.write_str("as asked for"),
            Self::MoreShardsThanCores => formatter.write_str("more shards than cores"),
            Self::CoresShared => formatter
                .write_str("other programs may use the same cores; --pin pins all the same"),
        }
    }
}

/// Finds out what keeps other programs off `cores`, from what the kernel shows below `root`, which
/// is `/` except in tests. If it cannot be read, nothing does.
pub(crate) fn exclusive(root: &Path, cores: &[usize]) -> Option<Exclusive> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let isolated = read(root.join("sys/devices/system/cpu/isolated")).unwrap_or_default();
    let isolated = parse_cores(isolated.trim()).unwrap_or_default();
    if !cores.is_empty() && cores.iter().all(|core| isolated.contains(core)) {
        return Some(Exclusive::IsolatedCores);
    }
    let groups = read(root.join("proc/self/cgroup"))?;
    // The only hierarchy of version 2; those of version 1 have no partitions.
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let hierarchy = root.join("sys/fs/cgroup");
    let own = hierarchy.join(own);
    own.ancestors()
        .take_while(|group| group.starts_with(&hierarchy))
        .find(|group| {
            let state = read(group.join("cpuset.cpus.partition")).unwrap_or_default();
            // An invalid partition reads `root invalid (reason)`.
            matches!(state.trim(), "root" | "isolated")
        })
        .map(|group| {
            let group = group.strip_prefix(root).expect("it was joined to it");
            Exclusive::CpusetPartition(Path::new("/").join(group))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::host::temporary::TemporaryDirectory;

    #[test]
    fn shards_are_pinned_where_asked_for_or_where_cores_are_their_own() {
        let nobody = || None;
        let isolated = || Some(Exclusive::IsolatedCores);
        let options = |pin, cores: Option<&[usize]>| ShardOptions {
            pin,
            cores: cores.map(<[usize]>::to_vec),
            ..ShardOptions::default()
        };
        let cases = [
            (options(None, None), Pinning::CoresShared),
            (options(None, Some(&[1])), Pinning::CoresNamed),
            (options(Some(true), None), Pinning::AskedFor),
            (options(Some(false), None), Pinning::Refused),
            (options(Some(false), Some(&[1])), Pinning::Refused),
        ];
        for (options, expected) in cases {
            assert_eq!(Pinning::decide(&options, 1, 1, nobody), expected, "{options:?}");
        }
        let own = Pinning::decide(&options(None, None), 2, 2, isolated);
        assert_eq!(own, Pinning::CoresOwn(Exclusive::IsolatedCores));
        assert!(own.is_pinned());
        // Two pinned threads on one core would only wait for each other.
        for pin in [None, Some(true)] {
            let decided = Pinning::decide(&options(pin, None), 3, 2, isolated);
            assert_eq!(decided, Pinning::MoreShardsThanCores);
            assert!(!decided.is_pinned());
        }
    }

    #[test]
    fn isolated_cores_count_only_if_all_are_isolated() {
        let root = TemporaryDirectory::new();
        write(root.path(), "sys/devices/system/cpu/isolated", "2-3,6\n");
        let of = |cores: &[usize]| exclusive(root.path(), cores);
        assert_eq!(of(&[2, 6]), Some(Exclusive::IsolatedCores));
        assert_eq!(of(&[1, 2]), None);
        assert_eq!(of(&[]), None);
        write(root.path(), "sys/devices/system/cpu/isolated", "\n");
        assert_eq!(of(&[2]), None);
    }

    #[test]
    fn a_cpuset_partition_counts_even_if_an_ancestor_has_it() {
        let root = TemporaryDirectory::new();
        write(root.path(), "proc/self/cgroup", "4:memory:/x\n0::/nats.slice/midge.service\n");
        let of = || exclusive(root.path(), &[0, 1]);
        assert_eq!(of(), None);
        let own = "sys/fs/cgroup/nats.slice/midge.service/cpuset.cpus.partition";
        write(root.path(), own, "member\n");
        assert_eq!(of(), None);
        let parent = "sys/fs/cgroup/nats.slice/cpuset.cpus.partition";
        write(root.path(), parent, "root invalid (Cpu list in cpuset.cpus not exclusive)\n");
        assert_eq!(of(), None);
        write(root.path(), parent, "isolated\n");
        let group = PathBuf::from("/sys/fs/cgroup/nats.slice");
        assert_eq!(of(), Some(Exclusive::CpusetPartition(group)));
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    }
}
