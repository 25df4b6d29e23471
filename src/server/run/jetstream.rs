//! Opens JetStream's store before the shards run, and says so in nats-server's words.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::auth::state::AuthState;
use crate::base::limits::JOURNAL_FILE_BYTES;
use crate::config::jetstream_options::{JetStreamOptions, SyncOption};
use crate::config::option_table::Shown;
use crate::config::options::Options;
use crate::jetstream::API_LEVEL;
use crate::jetstream::host::Settings;
use crate::server::host::error_text::start_error_text;
use crate::server::host::identity::{Identity, NATS_VERSION};
use crate::shard::JetStreamSeed;
use crate::storage::check::read_accepted;
use crate::storage::disk::Disk;
use crate::storage::folder::{StoreFolder, StoreSettings};
use crate::storage::replay::{Replayed, replay};
use crate::storage::store::SyncInterval;
use crate::storage::thread_disk::ThreadDisk;

/// The store's folder below `store_dir`.
const FOLDER: &str = "midge";

/// The folder of nats-server's own store there.
const FOLDER_OF_NATS_SERVER: &str = "jetstream";

/// The work of a shard with the store that was opened on its thread.
type Work = Box<dyn FnOnce(Option<JetStreamSeed>) + Send>;

/// The first shard's thread, on which the store was opened and read: its streams stay there. It
/// waits for the rest of the shard.
pub(crate) struct StoreThread {
    thread: JoinHandle<()>,
    work: Sender<Work>,
}

impl StoreThread {
    /// Gives the thread its work as a shard.
    pub(crate) fn go_on(
        self,
        work: impl FnOnce(Option<JetStreamSeed>) + Send + 'static,
    ) -> JoinHandle<()> {
        self.work.send(Box::new(work)).expect("the thread waits for it");
        self.thread
    }
}

/// Opens the store that the options name, and reads it. None = there is to be no JetStream.
///
/// # Errors
/// What an operator has to change, in nats-server's words where it has some.
pub(super) fn open(
    options: &Arc<Options>,
    identity: &Identity,
    auth: &Arc<AuthState>,
) -> Result<Option<StoreThread>, String> {
    if !options.jetstream.is_enabled {
        return Ok(None);
    }
    let cannot = |reason: &str| format!("Can't start JetStream: {reason}");
    let (work, works) = channel::<Work>();
    let (opened, is_opened) = channel();
    let (options, identity, auth) = (options.clone(), identity.clone(), auth.clone());
    let open_and_wait = move || {
        let (seed, result) = match open_store(&options, &identity, &auth) {
            Ok(seed) => (Some(seed), Ok(())),
            Err(reason) => (None, Err(reason)),
        };
        let is_open = seed.is_some();
        // The main thread waits for it.
        let _ = opened.send(result);
        // Fails if the server has given up on starting.
        if is_open && let Ok(work) = works.recv() {
            work(seed);
        }
    };
    let thread = std::thread::Builder::new().name("shard-0".into()).spawn(open_and_wait);
    let thread = thread.map_err(|error| cannot(&start_error_text(&error)))?;
    match is_opened.recv() {
        Ok(Ok(())) => Ok(Some(StoreThread { thread, work })),
        Ok(Err(reason)) => Err(cannot(&reason)),
        Err(_) => Err(cannot("its thread has ended")),
    }
}

fn open_store(
    options: &Options,
    identity: &Identity,
    auth: &AuthState,
) -> Result<JetStreamSeed, String> {
    let started = Instant::now();
    let own = &options.jetstream;
    tracing::info!("Starting JetStream");
    let store_dir = store_dir(own);
    check_store_dir(&store_dir)?;
    let root = store_dir.join(FOLDER);
    let new = StoreSettings { lanes: 1, journal_file_bytes: JOURNAL_FILE_BYTES };
    let folder = StoreFolder::open(&root, new).map_err(|error| error.to_string())?;
    if folder.settings().lanes != 1 {
        return Err(format!("{}: the store has several lanes", root.display()));
    }
    let io = |error: std::io::Error| format!("{}: {error}", root.display());
    let probed = ThreadDisk::probe(&root).map_err(io)?;
    if !probed.is_durable {
        tracing::warn!(
            "JetStream's store lies in memory ({}): nothing of it survives the machine's end",
            root.display()
        );
    }
    let settings = settings(options, identity, &root)?;
    announce(own, &settings, &store_dir);
    let place = folder.journal(0);
    let disk = ThreadDisk::start(&root, probed.write_mode, || {}).map_err(io)?;
    disk.run(disk.make_folder(&place.folder)).map_err(io)?;
    let mut replayed = disk.run(replay(&disk, &place)).map_err(io)?;
    let accepted = read_accepted(&folder, 0).map_err(|error| error.to_string())?;
    replayed.accept(&accepted);
    if !replayed.is_whole() {
        return Err(format!(
            "the store in {0} has lost something: `midge store check {0}` says what, and `midge store \
             repair {0}` accepts it",
            root.display()
        ));
    }
    announce_lost(&replayed);
    check_account_limits(auth, &settings)?;
    let sync_interval = match own.sync {
        SyncOption::Unset | SyncOption::Always => SyncInterval::Always,
        SyncOption::Every(interval) => SyncInterval::Every(interval),
    };
    if let Some(risk) = sync_interval.risk() {
        tracing::warn!("JetStream with a sync_interval: {risk}");
    }
    tracing::info!("Took {} to start JetStream", started.elapsed().shown());
    let write_mode = probed.write_mode;
    Ok(JetStreamSeed { folder, root, write_mode, place, replayed, sync_interval, settings })
}

fn store_dir(options: &JetStreamOptions) -> PathBuf {
    options.store_dir.clone().unwrap_or_else(|| {
        tracing::warn!("Temporary storage directory used, data could be lost on system reboot");
        std::env::temp_dir().join("nats").join("jetstream")
    })
}

/// Refuses a folder that is none, or holds a store of nats-server.
fn check_store_dir(store_dir: &Path) -> Result<(), String> {
    if store_dir.exists() && !store_dir.is_dir() {
        return Err("storage directory is not a directory".into());
    }
    let theirs = store_dir.join(FOLDER_OF_NATS_SERVER);
    let accounts = std::fs::read_dir(&theirs).into_iter().flatten().flatten();
    for account in accounts {
        let mut streams = std::fs::read_dir(account.path().join("streams")).into_iter().flatten();
        if streams.next().is_some() {
            return Err(format!(
                "{} holds streams of a nats-server, which are never read or changed here: name another \
                 store_dir, or copy the streams over by `nats stream backup` and `restore`",
                theirs.display()
            ));
        }
    }
    Ok(())
}

fn settings(options: &Options, identity: &Identity, root: &Path) -> Result<Settings, String> {
    let own = &options.jetstream;
    let limits = &own.limits;
    let memory = own.memory_bytes_max.unwrap_or_else(|| three_quarters(memory_bytes()));
    let store = match own.store_bytes_max {
        Some(bytes) => bytes,
        None => {
            let facts = rustix::fs::statvfs(root).map_err(|error| error.to_string())?;
            three_quarters(facts.f_bavail.saturating_mul(facts.f_frsize))
        }
    };
    let nanoseconds =
        |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    Ok(Settings {
        server_name: identity.name.clone(),
        server_id: identity.id.clone(),
        version: NATS_VERSION.into(),
        domain: own.domain.clone(),
        is_strict: own.is_strict,
        memory_bytes_max: memory,
        store_bytes_max: store,
        duplicate_window_ns_max: limits.duplicate_window.map_or(0, nanoseconds),
        ack_pending_max: limits.ack_pending_max,
        request_batch_max: limits.request_batch_max,
        default_consumers_max: match limits.default_consumers_max {
            0 => DEFAULT_CONSUMERS_MAX,
            other => other,
        },
        payload_bytes_max: options.limits.payload_bytes_max,
        pending_bytes_max: options.limits.pending_bytes_max,
        store_folder: root.display().to_string(),
        sync_interval_ns: match own.sync {
            SyncOption::Every(interval) => u64::try_from(interval.as_nanos()).ok(),
            SyncOption::Unset | SyncOption::Always => None,
        },
        unique_tag: own.unique_tag.clone(),
    })
}

/// Consumers of a stream, unless something else says otherwise. Source: nats-server.
const DEFAULT_CONSUMERS_MAX: i64 = 1000;

fn three_quarters(bytes: u64) -> i64 {
    i64::try_from(bytes / 4 * 3).unwrap_or(i64::MAX)
}

/// Bytes of the machine's memory, or of the part that this process may use.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Refuses limits of accounts that together go past the server's.
fn check_account_limits(auth: &AuthState, settings: &Settings) -> Result<(), String> {
    let (mut memory, mut store) = (0i64, 0i64);
    for account in auth.authenticator.accounts().iter() {
        let Some(limits) = &account.jetstream else { continue };
        memory = memory.saturating_add(limits.memory_bytes_max.max(0));
        store = store.saturating_add(limits.store_bytes_max.max(0));
    }
    let what = match () {
        () if memory > settings.memory_bytes_max => {
            "insufficient memory resources available (10028)"
        }
        () if store > settings.store_bytes_max => {
            "insufficient storage resources available (10047)"
        }
        () => return Ok(()),
    };
    Err(format!("Error enabling jetstream on configured accounts: {what}"))
}

fn announce(options: &JetStreamOptions, settings: &Settings, store_dir: &Path) {
    tracing::info!("---------------- JETSTREAM ----------------");
    tracing::info!("  Strict:          {}", options.is_strict);
    tracing::info!("  Max Memory:      {}", friendly_bytes(settings.memory_bytes_max));
    tracing::info!("  Max Storage:     {}", friendly_bytes(settings.store_bytes_max));
    // Clients' test harnesses read the folder from this line.
    tracing::info!("  Store Directory: {:?}", store_dir.join(FOLDER).display().to_string());
    if let Some(domain) = &options.domain {
        tracing::info!("  Domain:          {domain}");
    }
    tracing::info!("  API Level:       {API_LEVEL}");
    tracing::info!("-------------------------------------------");
}

fn announce_lost(replayed: &Replayed) {
    for (lost, _) in replayed.lost_with_blocks() {
        tracing::error!(
            "JetStream: messages {} to {} of stream {} were lost with a damaged block",
            lost.first,
            lost.last,
            lost.stream.0
        );
    }
}

/// A number of bytes as nats-server shows it.
fn friendly_bytes(bytes: i64) -> String {
    let mut size = bytes as f64;
    if size < 1024.0 {
        return format!("{size} B");
    }
    let mut unit = 0;
    while size >= 1024.0 && unit < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2} {}", UNITS[unit - 1])
}

const UNITS: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::host::temporary::TemporaryDirectory;

    #[test]
    fn sizes_read_as_in_nats_server() {
        for (bytes, text) in
            [(0, "0 B"), (64 << 20, "64.00 MB"), (10240, "10.00 KB"), (1 << 40, "1.00 TB")]
        {
            assert_eq!(friendly_bytes(bytes), text);
        }
    }

    #[test]
    fn a_folder_with_streams_of_a_nats_server_is_refused() {
        let directory = TemporaryDirectory::new();
        let root = directory.path();
        assert_eq!(check_store_dir(root), Ok(()));
        std::fs::create_dir_all(root.join("jetstream/$G/streams")).expect("it can be made");
        assert_eq!(check_store_dir(root), Ok(()), "there is no stream");
        std::fs::create_dir_all(root.join("jetstream/$G/streams/S")).expect("it can be made");
        assert!(check_store_dir(root).is_err_and(|reason| reason.contains("another store_dir")));
        std::fs::write(root.join("file"), "").expect("it can be made");
        let refused = check_store_dir(&root.join("file"));
        assert_eq!(refused, Err("storage directory is not a directory".into()));
    }
}
