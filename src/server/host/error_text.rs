//! Operating system errors in the words of nats-server's messages.

use std::io;

/// Returns what Go prints for the same errno: the system's text in lower case, without Rust's `(os
/// error N)`.
pub(crate) fn os_error_text(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(number) = error.raw_os_error() {
        let suffix = format!(" (os error {number})");
        text.truncate(text.strip_suffix(&suffix).unwrap_or(&text).len());
    }
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => text,
    }
}

/// Returns the text for an error at start, with what to do about it.
pub(crate) fn start_error_text(error: &io::Error) -> String {
    let text = os_error_text(error);
    match error.raw_os_error() {
        Some(number) if number == rustix::io::Errno::MFILE.raw_os_error() => {
            format!(
                "{text}; raise the limit of open files (ulimit -Hn, LimitNOFILE= of systemd, --ulimit \
                 nofile= of docker)"
            )
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_go() {
        let cases = [
            (rustix::io::Errno::NOENT, "no such file or directory"),
            (rustix::io::Errno::ACCESS, "permission denied"),
            (rustix::io::Errno::ADDRINUSE, "address already in use"),
            (rustix::io::Errno::SRCH, "no such process"),
        ];
        for (errno, expected) in cases {
            assert_eq!(os_error_text(&errno.into()), expected);
        }
        assert_eq!(os_error_text(&io::Error::other("Went wrong")), "went wrong");
    }
}
