//! Opens files of the store's folders, and nothing else that somebody may have put there: a pipe
//! would block the opener for ever.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Opens a file with `options`, and with `flags` added.
///
/// # Errors
/// The error of the system; `InvalidInput` where it is no regular file.
pub(super) fn open(options: &mut OpenOptions, flags: OFlags, path: &Path) -> io::Result<File> {
    // A pipe opens at once, or not at all.
    let flags = (flags | OFlags::NONBLOCK).bits() as i32;
    let file = options.custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    // The ring would take the flag to mean that no write waits for the disk.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Opens a file to be read.
///
/// # Errors
/// The same as those of [`open`].
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().read(true), OFlags::empty(), path)
}

/// Opens a folder, to be synced.
///
/// # Errors
/// The error of the system; `NotADirectory` where it is none.
pub(super) fn open_folder(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits() as i32).open(path)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn pipe_is_refused_at_once_and_a_file_waits_for_the_disk() {
        let root = std::env::temp_dir().join(format!("midge-regular-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("the temporary folder can be written to");
        let (pipe, plain) = (root.join("pipe"), root.join("plain"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("pipes can be made");
        let mut options = OpenOptions::new();
        let read = open_to_read(&pipe).expect_err("it is a pipe");
        assert_eq!(read.kind(), io::ErrorKind::InvalidInput);
        open(options.write(true), OFlags::empty(), &pipe).expect_err("nobody reads it");
        open_folder(&pipe).expect_err("it is no folder");
        assert!(
            open_to_read(&root).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
        );
        let file = open(options.create(true), OFlags::DSYNC, &plain).expect("it is new");
        let flags = fcntl_getfl(&file).expect("it is open");
        assert!(flags.contains(OFlags::DSYNC) && !flags.contains(OFlags::NONBLOCK));
        open_folder(&root).expect("it is one");
        std::fs::remove_dir_all(&root).expect("it is there");
    }
}
