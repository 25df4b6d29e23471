//! Where the shards run: the I/O driver and the cores of each.

use std::path::Path;

use crate::config::options::{IoDriver, Options};
use crate::net::runtime::{Driver, RING_ENTRIES, ring_builder};
use crate::server::host::machine::{AvailableCores, probe_io_uring};
use crate::server::host::pinning::{Pinning, exclusive};
use crate::server::run::announce::cores_text;
use crate::server::run::bootstrap::Placement;

/// Chooses the I/O driver and the core of each shard.
pub(super) fn place(options: &Options) -> Result<Placement, String> {
    let available = AvailableCores::read().map_err(|error| error.to_string())?;
    let cores = available.place(&options.shards).map_err(|error| error.to_string())?;
    let driver = match options.shards.io_driver {
        IoDriver::Epoll => Driver::Epoll,
        wanted => match probe_io_uring(&ring_builder(), RING_ENTRIES) {
            Ok(()) => Driver::IoUring,
            Err(error) if wanted == IoDriver::Auto => {
                tracing::warn!("Using epoll: {error}");
                Driver::Epoll
            }
            Err(error) => return Err(error.to_string()),
        },
    };
    let pinning = Pinning::decide(&options.shards, cores.len(), available.cores.len(), || {
        exclusive(Path::new("/"), &available.cores)
    });
    let pin = pinning.is_pinned();
    let text = cores_text(&cores, &pinning, options, driver);
    tracing::info!("  Shards:   {} on {text}", cores.len());
    // A quota is shared by all threads: helpers on more cores would use up the shards' part of it.
    let free_cores = match pin && !available.is_limited_by_quota() {
        true => available.cores.iter().copied().filter(|core| !cores.contains(core)).collect(),
        false => Vec::new(),
    };
    // Not pinned, but still restricted to the cores that were named.
    let named = options.shards.cores.clone().unwrap_or_default();
    let own = |core| if pin { vec![core] } else { named.clone() };
    let cores = cores.into_iter().map(own).collect();
    Ok(Placement { driver, cores, free_cores })
}
