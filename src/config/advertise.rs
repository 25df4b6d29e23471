//! The address that clients are told in place of the listener's own.

use crate::config::go_text::{SplitError, split_host_port};

/// An advertised address, as written and as parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    pub text: String,
    pub host: String,
    /// None = the listener's own port.
    pub port: Option<u16>,
}

impl Advertised {
    /// Parses `host:port`, or a host alone; blanks around either are ignored. An IPv6 address must
    /// be in brackets. None if the text is empty.
    ///
    /// # Errors
    /// If the text is not such an address; in nats-server's words.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let refuse =
            |reason: String| format!("invalid ClientAdvertise value of {text}, err={reason}");
        let (host, port) = match split_host_port(text) {
            Ok((host, port)) => (host, parse_port(port.trim()).map_err(refuse)?),
            Err(SplitError::MissingPort) => {
                let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                (bracketed.unwrap_or(text), None)
            }
            Err(error) => return Err(refuse(format!("address {text}: {error}"))),
        };
        Ok(Some(Self { text: text.to_owned(), host: host.trim().to_owned(), port }))
    }
}

/// 0 and -1 mean the listener's own port.
fn parse_port(text: &str) -> Result<Option<u16>, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("strconv.Atoi: parsing \"{text}\": invalid syntax"));
    }
    match text.parse() {
        Ok(-1 | 0) => Ok(None),
        Ok(port) => u16::try_from(port).map(Some).map_err(|_| out_of_range(text)),
        Err(_) => Err(out_of_range(text)),
    }
}

fn out_of_range(text: &str) -> String {
    format!("port {text} is not in 1 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_alone_or_with_port_0_takes_the_listeners_port() {
        for (text, host, port) in [
            ("nats.example.com", "nats.example.com", None),
            ("a:1", "a", Some(1)),
            ("a:0", "a", None),
            ("a:-1", "a", None),
            ("a:+5", "a", Some(5)),
            ("a:05", "a", Some(5)),
            (" a:1 ", "a", Some(1)),
            ("a: 1", "a", Some(1)),
            ("a ", "a", None),
            (":5", "", Some(5)),
            ("[::1]", "::1", None),
            ("[::1]:5", "::1", Some(5)),
            ("[a]:65535", "a", Some(65535)),
        ] {
            let parsed = Advertised::parse(text).expect("it is an address");
            let parsed = parsed.expect("it is not empty");
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
            assert_eq!(parsed.text, text);
        }
        assert_eq!(Advertised::parse(""), Ok(None));
    }

    #[test]
    fn invalid_addresses_are_refused_in_nats_servers_words() {
        for (text, reason) in [
            ("a:b", "strconv.Atoi: parsing \"b\": invalid syntax"),
            ("a:", "strconv.Atoi: parsing \"\": invalid syntax"),
            ("a:0x10", "strconv.Atoi: parsing \"0x10\": invalid syntax"),
            ("::1", "address ::1: too many colons in address"),
            ("::", "address ::: too many colons in address"),
            ("nats://a:4222", "address nats://a:4222: too many colons in address"),
            ("a:1:2", "address a:1:2: too many colons in address"),
            ("fe80::1%eth0", "address fe80::1%eth0: too many colons in address"),
            ("[::1", "address [::1: missing ']' in address"),
            ("a]:1", "address a]:1: unexpected ']' in address"),
            // nats-server accepts such a port and passes it on to clients.
            ("a:99999", "port 99999 is not in 1 to 65535"),
            ("a:-2", "port -2 is not in 1 to 65535"),
            ("a:99999999999999999999", "port 99999999999999999999 is not in 1 to 65535"),
        ] {
            let expected = format!("invalid ClientAdvertise value of {text}, err={reason}");
            assert_eq!(Advertised::parse(text), Err(expected));
        }
    }
}
