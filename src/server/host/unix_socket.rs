//! The Unix domain socket's file: made, given its mode, replaced if stale, removed at the end.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::server::host::error_text::os_error_text;

/// Bytes of a socket's path: `sun_path` of sockaddr_un less its terminating zero.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

#[derive(Debug)]
pub(crate) enum UnixSocketError {
    PathTooLong { path: PathBuf, bytes: usize },
    NotASocket(PathBuf),
    InUse(PathBuf),
    System { path: PathBuf, action: &'static str, error: io::Error },
}

impl fmt::Display for UnixSocketError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathTooLong { path, bytes } => write!(
                formatter,
                "Unix socket path is {bytes} bytes long, the system allows {SOCKET_PATH_BYTES_MAX}: {}",
                path.display()
            ),
            Self::NotASocket(path) => write!(
                formatter,
                "{} exists and is not a socket; it is left alone, choose another path",
                path.display()
            ),
            Self::InUse(path) => {
                write!(formatter, "a running server answers on {}; stop it first", path.display())
            }
            Self::System { path, action, error } => {
                write!(formatter, "cannot {action} {}: {}", path.display(), os_error_text(error))
            }
        }
    }
}

impl std::error::Error for UnixSocketError {}

/// The socket's file; dropping it removes the file, unless another server has replaced it.
#[derive(Debug)]
pub(crate) struct UnixSocketFile {
    path: PathBuf,
    /// Device and inode of the file that we made.
    identity: (u64, u64),
}

/// Listens on `path`, with the permission bits `mode`, without blocking. The file's guard must live
/// as long as the server.
///
/// # Errors
/// If the path cannot be used; the text says why. Nothing is ever removed except a socket on which
/// nobody answers.
pub(crate) fn listen(
    path: &Path,
    mode: u32,
) -> Result<(UnixListener, UnixSocketFile), UnixSocketError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(UnixSocketError::PathTooLong { path: path.to_path_buf(), bytes });
    }
    let failed =
        |action| move |error| UnixSocketError::System { path: path.to_path_buf(), action, error };
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
        .map_err(failed("make a socket for"))?;
    let address = SockAddr::unix(path).map_err(failed("use as a socket"))?;
    socket.bind(&address).map_err(failed("bind"))?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed("read"))?;
    let file =
        UnixSocketFile { path: path.to_path_buf(), identity: (metadata.dev(), metadata.ino()) };
    // Before `listen`, so that nobody can connect yet.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(failed("set the mode of"))?;
    socket.listen(BACKLOG).map_err(failed("listen on"))?;
    Ok((socket.into(), file))
}

/// Removes what an earlier server left behind, if nobody answers there any more.
fn remove_stale(path: &Path) -> Result<(), UnixSocketError> {
    let failed =
        |action, error| Err(UnixSocketError::System { path: path.to_path_buf(), action, error });
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return failed("read", error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(UnixSocketError::NotASocket(path.to_path_buf()));
        }
        Ok(_) => {}
    }
    match connect_without_waiting(path) {
        Ok(_) => Err(UnixSocketError::InUse(path.to_path_buf())),
        // A full backlog: somebody listens, though slowly.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(UnixSocketError::InUse(path.to_path_buf()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            match std::fs::remove_file(path) {
                Ok(()) => Ok(()),
                Err(error) => failed("remove the stale socket", error),
            }
        }
        Err(error) => failed("tell whether a server answers on", error),
    }
}

fn connect_without_waiting(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            let text = os_error_text(&error);
            tracing::error!("Error removing Unix socket {}: {text}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::server::host::temporary::TemporaryDirectory;

    fn accept(listener: &UnixListener) -> UnixStream {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match listener.accept() {
                Ok((stream, _)) => return stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(std::time::Instant::now() < deadline, "nobody connected");
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_socket_has_its_mode_serves_and_is_removed() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("s");
        let (listener, file) = listen(&path, 0o620).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hi").unwrap();
        drop(client);
        let mut stream = accept(&listener);
        stream.set_nonblocking(false).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (listener, _file) = listen(&path, 0o600).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        accept(&listener);
    }

    #[test]
    fn a_running_servers_socket_is_left_alone() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("s");
        let (listener, _file) = listen(&path, 0o600).unwrap();
        let error = listen(&path, 0o600).unwrap_err();
        assert!(matches!(error, UnixSocketError::InUse(_)), "{error}");
        let _client = UnixStream::connect(&path).unwrap();
        accept(&listener);
    }

    #[test]
    fn other_files_and_links_are_left_alone() {
        let directory = TemporaryDirectory::new();
        let (path, link) = (directory.path().join("s"), directory.path().join("l"));
        std::fs::write(&path, "mine").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for taken in [&path, &link] {
            let error = listen(taken, 0o600).unwrap_err();
            assert!(matches!(error, UnixSocketError::NotASocket(_)), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn the_path_length_is_checked_at_its_limit() {
        let directory = TemporaryDirectory::new();
        let room = SOCKET_PATH_BYTES_MAX - directory.path().as_os_str().len() - 1;
        let fits = directory.path().join("s".repeat(room));
        listen(&fits, 0o600).unwrap();
        let error = listen(&directory.path().join("s".repeat(room + 1)), 0o600).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("Unix socket path is 108 bytes long, the system allows 107")
        );
    }

    #[test]
    fn a_file_of_a_successor_is_not_removed() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("s");
        let (_listener, file) = listen(&path, 0o600).unwrap();
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        std::fs::write(&path, "another").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_missing_directory_is_reported() {
        let error = listen(Path::new("/nonexistent/s"), 0o600).unwrap_err();
        assert_eq!(error.to_string(), "cannot bind /nonexistent/s: no such file or directory");
    }
}
