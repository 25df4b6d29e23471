//! Opens and reads files named by an operator without letting them block the thread that does it.
//!
//! A pipe without a writer, a terminal and an endless device look like files. While the server runs
//! it waits for none of them, and every read has a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// How long an operation may block. A thread that serves others must not; a process that is still
/// starting may, since a signal still ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The file is opened and read at once, or not at all.
    None,
    /// As long as it takes: for a configuration that comes through a pipe while nothing runs yet.
    Any,
}

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// Those of the file system, or if the file is larger. With `Patience::None` also for a pipe, or
/// for a device that has nothing to read now.
pub(crate) fn read(path: &Path, bytes_max: usize, patience: Patience) -> io::Result<Vec<u8>> {
    let file = open(OpenOptions::new().read(true), path, patience)?;
    let kind = file.metadata()?.file_type();
    if patience == Patience::None && kind.is_fifo() {
        // Whatever was written to it was read at the start, or never comes.
        return Err(io::Error::other("is a pipe, which is read only at the start"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::other(format!("is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Opens a file. With `Patience::None`, opening a pipe for writing is an error while nobody reads
/// it; writes to a pipe that has a reader, or to a device, do not block.
///
/// # Errors
/// Those of the file system.
pub(crate) fn open(options: &mut OpenOptions, path: &Path, patience: Patience) -> io::Result<File> {
    match patience {
        Patience::Any => options.open(path),
        Patience::None => {
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
            options.custom_flags(flags.bits() as i32).open(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("midge-files-{}-{name}", std::process::id()));
            // Left behind by an earlier run.
            let _ = std::fs::remove_file(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn pipe(name: &str) -> Scratch {
        let scratch = Scratch::new(name);
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &scratch.0, FileType::Fifo, mode, 0).unwrap();
        scratch
    }

    #[test]
    fn a_file_may_be_exactly_as_large_as_the_bound() {
        let file = Scratch::new("bound");
        std::fs::write(&file.0, "12345").unwrap();
        for patience in [Patience::None, Patience::Any] {
            assert_eq!(read(&file.0, 5, patience).unwrap(), b"12345");
            assert_eq!(read(&file.0, 6, patience).unwrap(), b"12345");
            let error = read(&file.0, 4, patience).unwrap_err();
            assert_eq!(error.to_string(), "is larger than 4 bytes");
        }
    }

    #[test]
    fn reading_an_endless_device_ends_at_the_bound() {
        let zeros = Path::new("/dev/zero");
        let error = read(zeros, 1 << 16, Patience::None).unwrap_err();
        assert_eq!(error.to_string(), "is larger than 65536 bytes");
        assert_eq!(read(Path::new("/dev/null"), 1, Patience::None).unwrap(), b"");
    }

    #[test]
    fn a_directory_is_reported_as_one() {
        let error = read(&std::env::temp_dir(), 10, Patience::None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    /// Without a writer, opening would block; with one, reading would.
    #[test]
    fn a_pipe_is_refused_without_patience_and_read_with_it() {
        let pipe = pipe("read");
        let refused = |error: io::Error| error.to_string().contains("pipe");
        assert!(refused(read(&pipe.0, 10, Patience::None).unwrap_err()));
        let path = pipe.0.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
            pipe.write_all(b"late").unwrap();
        });
        assert_eq!(read(&pipe.0, 10, Patience::Any).unwrap(), b"late");
        writer.join().unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_not_opened_for_writing() {
        let pipe = pipe("write");
        let mut options = OpenOptions::new();
        let error = open(options.write(true), &pipe.0, Patience::None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NXIO.raw_os_error()));
        let reader = open(OpenOptions::new().read(true), &pipe.0, Patience::None).unwrap();
        open(OpenOptions::new().write(true), &pipe.0, Patience::None).unwrap();
        drop(reader);
    }
}
