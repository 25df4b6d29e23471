//! `--unix PATH`, which nats-server does not have.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

struct UnixClient {
    source: BufReader<UnixStream>,
}

impl UnixClient {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let mut client = Self { source: BufReader::new(stream) };
        assert!(client.line().starts_with("INFO {"));
        client.send("CONNECT {\"verbose\":false}\r\n");
        client
    }

    fn send(&mut self, text: &str) {
        self.source.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.source.read_line(&mut line).unwrap();
        line
    }
}

#[test]
fn a_socket_serves_beside_tcp_with_its_mode_and_is_removed_on_exit() {
    for driver in ["io_uring", "epoll"] {
        let directory = Directory::new().unwrap();
        let path = directory.join("midge.sock");
        // What a killed server leaves behind.
        drop(UnixListener::bind(&path).unwrap());
        let arguments =
            ["--unix", path.to_str().unwrap(), "--unix-mode", "0620", "--io-driver", driver];
        let mut server = Server::midge_with(2, &arguments, "");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        for _ in 0..6 {
            let mut subscriber = UnixClient::connect(&path);
            subscriber.send("SUB foo 1\r\nPING\r\n");
            assert_eq!(subscriber.line(), "PONG\r\n");
            let mut publisher = UnixClient::connect(&path);
            publisher.send("PUB foo 2\r\nhi\r\n");
            assert_eq!(subscriber.line(), "MSG foo 1 2\r\n");
            assert_eq!(subscriber.line(), "hi\r\n");
            let mut other = RawClient::connect(server.address()).unwrap();
            other.send(b"CONNECT {\"verbose\":false}\r\nPUB foo 3\r\ntcp\r\n").unwrap();
            assert_eq!(subscriber.line(), "MSG foo 1 3\r\n");
            assert_eq!(subscriber.line(), "tcp\r\n");
        }
        // A second server does not take the socket away from the first.
        let (code, _, stderr) =
            output(MIDGE, &["-a", "127.0.0.1", "-p", "-1", "--unix", path.to_str().unwrap()]);
        assert_eq!(code, 1, "{stderr}");
        let mut client = UnixClient::connect(&path);
        client.send("PING\r\n");
        assert_eq!(client.line(), "PONG\r\n");
        server.signal(Signal::TERM).unwrap();
        assert_eq!(exit_code(&mut server), Some(0));
        assert_eq!(client.line(), "");
        assert!(!path.exists(), "{driver}");
    }
}
