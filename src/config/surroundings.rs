//! What a configuration needs from outside: files and environment variables.
//!
//! A trait, because tests and fuzzers bring files of their own and no environment.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::base::files::{self, Patience};
use crate::base::limits::CONFIG_FILE_BYTES_MAX;

pub trait Surroundings {
    /// Reads a file.
    ///
    /// # Errors
    /// Those of the file system.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;

    fn variable(&self, name: &str) -> Option<OsString>;
}

/// The process's own file system and environment.
#[derive(Clone, Copy, Debug)]
pub struct SystemSurroundings(Patience);

impl SystemSurroundings {
    /// For a process that is starting: a configuration may come through a pipe.
    pub const AT_START: Self = Self(Patience::Any);

    /// For a running server: reading never blocks.
    pub const WHILE_RUNNING: Self = Self(Patience::None);
}

impl Surroundings for SystemSurroundings {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        files::read(path, CONFIG_FILE_BYTES_MAX, self.0)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        // `var_os` panics on some platforms if a name contains `=` or NUL; no variable has such a
        // name.
        if name.is_empty() || name.contains(['=', '\0']) {
            return None;
        }
        std::env::var_os(name)
    }
}

/// Returns the text that nats-server shows for a file that cannot be read.
pub(crate) fn file_error_text(path: &Path, error: &io::Error) -> String {
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
