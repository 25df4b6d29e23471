//! The limit on open files.

use crate::Failure;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of this process, and of what it starts from now on, to the hard one, which
/// is returned.
///
/// # Errors
/// If the kernel refuses.
pub fn lift_limit() -> Result<u64, Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(std::io::Error::from)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
