//! The outside world of a configuration: files and environment variables.
//!
//! A trait, because tests and fuzzers bring their own files and no environment.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::base::files::{self, Patience};
use crate::base::limits::CONFIG_FILE_BYTES_MAX;

pub trait Surroundings {
    /// # Errors
    /// Those of the file system.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;

    fn variable(&self, name: &str) -> Option<OsString>;
}

/// The process's own file system and environment.
#[derive(Clone, Copy, Debug)]
pub struct SystemSurroundings(Patience);

impl SystemSurroundings {
    /// For a process that has only begun: a configuration may come by a pipe.
    pub const AT_START: Self = Self(Patience::Any);

    /// For a server that runs: nothing is waited for.
    pub const WHILE_RUNNING: Self = Self(Patience::None);
}

impl Surroundings for SystemSurroundings {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        files::read(path, CONFIG_FILE_BYTES_MAX, self.0)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        // `var_os` panics on a name with `=` or NUL in it on some platforms; such names do not exist.
        if name.is_empty() || name.contains(['=', '\0']) {
            return None;
        }
        std::env::var_os(name)
    }
}

/// The text nats-server shows for a file that cannot be read.
pub fn file_error_text(path: &Path, error: &io::Error) -> String {
    let verb = if error.kind() == io::ErrorKind::IsADirectory { "read" } else { "open" };
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_string(),
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        io::ErrorKind::IsADirectory => "is a directory".to_string(),
        io::ErrorKind::NotADirectory => "not a directory".to_string(),
        _ => error.to_string(),
    };
    format!("{verb} {}: {reason}", path.display())
}
