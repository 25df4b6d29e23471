//! A GET request to a server's monitoring port.

use crate::Failure;
use std::io::{Read, Write};
use std::time::Duration;

/// Longest time between two pieces of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Returns the body of `path` from the monitoring port of a server on this host.
///
/// # Errors
/// If nobody listens, nothing comes for long, or the answer is not 200.
pub fn get(port: u16, path: &str) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::new(format!("GET {path} of the monitoring port: {why}"));
    let explain = |error: std::io::Error| failed(error.to_string());
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(explain)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(explain)?;
    // HTTP/1.0: the answer ends with the connection and is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(explain)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(explain)?;
    let head_end = memchr::memmem::find(&answer, b"\r\n\r\n")
        .ok_or_else(|| failed("the answer has no end of its head".to_string()))?;
    let status = String::from_utf8_lossy(answer.split(|&byte| byte == b'\r').next().unwrap_or(&[]))
        .into_owned();
    if status.split(' ').nth(1) != Some("200") {
        return Err(failed(format!("'{status}'")));
    }
    Ok(answer.split_off(head_end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the outcome of a request that is answered with `answer`.
    fn outcome(answer: &'static [u8]) -> Result<Vec<u8>, Failure> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            request
        });
        let outcome = get(port, "/varz");
        assert!(server.join().unwrap().starts_with(b"GET /varz HTTP/1.0\r\n"));
        outcome
    }

    #[test]
    fn the_body_of_a_good_answer_is_returned_and_any_other_is_a_failure() {
        let body = outcome(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert_eq!(body, b"{}");
        let failure = outcome(b"HTTP/1.0 404 Not Found\r\n\r\n").unwrap_err().to_string();
        assert!(failure.contains("404 Not Found"), "{failure}");
        assert!(outcome(b"nonsense").unwrap_err().to_string().contains("no end of its head"));
    }
}
