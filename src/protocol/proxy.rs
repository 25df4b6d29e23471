//! The PROXY protocol, versions 1 and 2: whom a proxy speaks for, in front of everything else.
//!
//! Source of what is accepted and of the words: nats-server server/client_proxyproto.go.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const PREFIX_V1: &[u8] = b"PROXY ";
/// Bytes of a line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a header of version 2 before its addresses.
const FIXED_BYTES: usize = 16;
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxied {
    /// More bytes are needed to tell.
    Incomplete,
    /// No header: the peer speaks for itself.
    No,
    /// A header of `size` bytes, all of which need not be there yet. Without a `source` the proxy
    /// speaks for itself.
    Yes { size: usize, source: Option<SocketAddr> },
}

/// Why a header cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProxyFault {
    Invalid(String),
    Unsupported(String),
    /// In these words alone.
    Other(String),
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) => write!(formatter, "invalid PROXY protocol header: {reason}"),
            Self::Unsupported(reason) => {
                write!(formatter, "unsupported PROXY protocol feature: {reason}")
            }
            Self::Other(reason) => formatter.write_str(reason),
        }
    }
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, ProxyFault> {
    Err(ProxyFault::Invalid(reason.into()))
}

/// Reads what stands at the start of a connection. Needs at most `LINE_BYTES_MAX` bytes to decide.
///
/// # Errors
/// If a header begins there that cannot be used.
pub(crate) fn read(input: &[u8]) -> Result<Proxied, ProxyFault> {
    let begins = |prefix: &[u8]| {
        let size = input.len().min(prefix.len());
        input[..size] == prefix[..size]
    };
    // The first six bytes tell a header from anything else.
    if begins(PREFIX_V1) {
        return if input.len() < PREFIX_V1.len() { Ok(Proxied::Incomplete) } else { line(input) };
    }
    if begins(&SIGNATURE_V2[..PREFIX_V1.len()]) {
        return binary(input);
    }
    Ok(Proxied::No)
}

fn line(input: &[u8]) -> Result<Proxied, ProxyFault> {
    let within = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return match within.len() < LINE_BYTES_MAX {
            true => Ok(Proxied::Incomplete),
            false => invalid("v1 line too long"),
        };
    };
    let size = end + 2;
    let text = String::from_utf8_lossy(&input[PREFIX_V1.len()..end]);
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.first() == Some(&"UNKNOWN") {
        return Ok(Proxied::Yes { size, source: None });
    }
    let &[family, source, target, source_port, target_port] = &parts[..] else {
        return invalid("invalid v1 format");
    };
    let (Ok(address), Ok(_)) = (source.parse::<IpAddr>(), target.parse::<IpAddr>()) else {
        return invalid("invalid address");
    };
    let number = port("source", source_port)?;
    port("dest", target_port)?;
    let is_v6 = [source, target].map(|text| text.contains(':'));
    match family {
        "TCP4" if is_v6.contains(&true) => invalid("TCP4 with IPv6 address"),
        "TCP6" if is_v6.contains(&false) => invalid("TCP6 with IPv4 address"),
        "TCP4" | "TCP6" => {
            Ok(Proxied::Yes { size, source: Some(SocketAddr::new(address, number)) })
        }
        other => invalid(format!("invalid protocol {other}")),
    }
}

fn port(which: &str, text: &str) -> Result<u16, ProxyFault> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fault = |reason: &str| {
        let shown: String = text.escape_debug().collect();
        ProxyFault::Other(format!(
            "invalid {which} port: strconv.ParseUint: parsing \"{shown}\": {reason}"
        ))
    };
    match text.parse() {
        _ if !is_number => Err(fault("invalid syntax")),
        Ok(port) => Ok(port),
        Err(_) => Err(fault("value out of range")),
    }
}

fn binary(input: &[u8]) -> Result<Proxied, ProxyFault> {
    let Some((signature, rest)) = input.split_at_checked(SIGNATURE_V2.len()) else {
        return Ok(Proxied::Incomplete);
    };
    if signature != SIGNATURE_V2 {
        return invalid("invalid signature");
    }
    let Some((&[first, second, high, low], addresses)) = rest.split_first_chunk::<4>() else {
        return Ok(Proxied::Incomplete);
    };
    let (version, command) = (first & 0xf0, first & 0x0f);
    let (family, protocol) = (second & 0xf0, second & 0x0f);
    let length = usize::from(u16::from_be_bytes([high, low]));
    let size = FIXED_BYTES + length;
    if version != 0x20 {
        return invalid(format!("invalid version 0x{version:02x}"));
    }
    match command {
        // A health check of the proxy itself.
        0 => return Ok(Proxied::Yes { size, source: None }),
        1 => {}
        other => {
            let reason = format!("unknown PROXY protocol command: 0x{other:02x}");
            return Err(ProxyFault::Other(reason));
        }
    }
    if protocol != 1 {
        return Err(ProxyFault::Unsupported("only STREAM protocol supported".into()));
    }
    let too_short = |name: &str| {
        Err(ProxyFault::Other(format!("{name} address data too short: {length} bytes")))
    };
    match family {
        0x00 => Ok(Proxied::Yes { size, source: None }),
        0x10 if length < IPV4_BYTES => too_short("IPv4"),
        0x20 if length < IPV6_BYTES => too_short("IPv6"),
        0x10 => match addresses.first_chunk::<IPV4_BYTES>() {
            None => Ok(Proxied::Incomplete),
            Some(&[a, b, c, d, _, _, _, _, high, low, ..]) => {
                let source = ([a, b, c, d], u16::from_be_bytes([high, low])).into();
                Ok(Proxied::Yes { size, source: Some(source) })
            }
        },
        0x20 => match addresses.first_chunk::<IPV6_BYTES>() {
            None => Ok(Proxied::Incomplete),
            Some(bytes) => {
                let address: [u8; 16] = std::array::from_fn(|index| bytes[index]);
                let port = u16::from_be_bytes([bytes[32], bytes[33]]);
                let source = SocketAddr::from((Ipv6Addr::from(address), port));
                Ok(Proxied::Yes { size, source: Some(source) })
            }
        },
        other => Err(ProxyFault::Unsupported(format!("unsupported address family 0x{other:02x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(first: u8, second: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [SIGNATURE_V2, &[first, second], &length, addresses].concat()
    }

    /// Reads the header however much of it is there, and returns what is decided in the end.
    fn decided(input: &[u8]) -> Result<Proxied, ProxyFault> {
        let whole = read(input);
        for end in 0..input.len() {
            match read(&input[..end]) {
                Ok(Proxied::Incomplete) => {}
                early => assert_eq!(early, whole, "after {end} bytes"),
            }
        }
        whole
    }

    fn source(input: &[u8]) -> Option<String> {
        match decided(input) {
            Ok(Proxied::Yes { size, source }) => {
                assert_eq!(size, input.len());
                source.map(|source| source.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_read_from_both_versions() {
        let line = b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 4222\r\n";
        assert_eq!(source(line).as_deref(), Some("1.2.3.4:1000"));
        let line = b"PROXY TCP6 ::ffff:1.2.3.4 ::1 65535 0\r\n";
        assert_eq!(source(line).as_deref(), Some("[::ffff:1.2.3.4]:65535"));
        assert_eq!(source(b"PROXY UNKNOWN whatever this is\r\n"), None);
        let mut addresses = vec![1, 2, 3, 4, 5, 6, 7, 8, 3, 232, 16, 126];
        assert_eq!(source(&v2(0x21, 0x11, &addresses)).as_deref(), Some("1.2.3.4:1000"));
        addresses.extend_from_slice(&[0; 200]);
        assert_eq!(source(&v2(0x21, 0x11, &addresses)).as_deref(), Some("1.2.3.4:1000"));
        let mut addresses = [0; 36];
        (addresses[15], addresses[33]) = (1, 9);
        assert_eq!(source(&v2(0x21, 0x21, &addresses)).as_deref(), Some("[::1]:9"));
        assert_eq!(source(&v2(0x20, 0x00, &[0; 5])), None);
        assert_eq!(source(&v2(0x21, 0x01, &[])), None);
        // No more is waited for than tells the address.
        let long = v2(0x21, 0x11, &[7; 60_000]);
        assert!(matches!(read(&long[..28]), Ok(Proxied::Yes { size: 60_016, source: Some(_) })));
    }

    #[test]
    fn what_is_no_header_is_told_at_the_first_byte_that_differs() {
        for input in [&b"CONNECT {"[..], b"PROXY", b"PROXX ", b"proxy ", b"\x16\x03", b"\r\nPING"] {
            let expected = if input == b"PROXY" { Proxied::Incomplete } else { Proxied::No };
            assert_eq!(read(input), Ok(expected));
        }
    }

    #[test]
    fn headers_that_cannot_be_used_are_refused_in_nats_servers_words() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'x'; 100]].concat();
        let invalid = "invalid PROXY protocol header: ";
        for (input, words) in [
            (b"PROXY TCP4 1.2.3.4\r\n".to_vec(), format!("{invalid}invalid v1 format")),
            (b"PROXY \r\n".to_vec(), format!("{invalid}invalid v1 format")),
            (long, format!("{invalid}v1 line too long")),
            (b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n".to_vec(), format!("{invalid}invalid address")),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), format!("{invalid}TCP4 with IPv6 address")),
            (
                b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n".to_vec(),
                format!("{invalid}TCP6 with IPv4 address"),
            ),
            (
                b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
                format!("{invalid}invalid protocol UDP4"),
            ),
            (
                b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n".to_vec(),
                "invalid source port: strconv.ParseUint: parsing \"65536\": value out of range"
                    .into(),
            ),
            (
                b"PROXY TCP4 1.2.3.4 1.2.3.4 1 +2\r\n".to_vec(),
                "invalid dest port: strconv.ParseUint: parsing \"+2\": invalid syntax".into(),
            ),
            (b"\r\n\r\n\0\r\nQUIX\n".to_vec(), format!("{invalid}invalid signature")),
            (v2(0x11, 0x11, &[0; 12]), format!("{invalid}invalid version 0x10")),
            (v2(0x22, 0x11, &[0; 12]), "unknown PROXY protocol command: 0x02".into()),
            (
                v2(0x21, 0x12, &[0; 12]),
                "unsupported PROXY protocol feature: only STREAM protocol supported".into(),
            ),
            (
                v2(0x21, 0x31, &[0; 216]),
                "unsupported PROXY protocol feature: unsupported address family 0x30".into(),
            ),
            (v2(0x21, 0x11, &[0; 11]), "IPv4 address data too short: 11 bytes".into()),
            (v2(0x21, 0x21, &[0; 35]), "IPv6 address data too short: 35 bytes".into()),
        ] {
            let fault = read(&input).expect_err(&words);
            assert_eq!(fault.to_string(), words);
        }
    }
}
