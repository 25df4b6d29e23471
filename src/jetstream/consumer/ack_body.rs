//! Bodies of acknowledgements. Source: nats-server server/consumer.go processAck, processNak.

use crate::config::go_text::parse_duration;

/// The request that an acknowledgement makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind<'body> {
    Ack,
    /// Done, and the reply subject asks for more: a pull request follows.
    Next(&'body [u8]),
    Nak(NakDelay<'body>),
    /// The wait begins anew.
    Progress,
    /// Never again, for this reason.
    Term(&'body [u8]),
    /// Changes nothing, but is answered.
    Unknown,
}

/// The time after which a message is to be delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NakDelay<'body> {
    AtOnce,
    Nanoseconds(i64),
    /// A value that is not understood: at once.
    Bad(&'body [u8]),
    /// JSON options, to be decoded.
    Json(&'body [u8]),
}

impl<'body> AckKind<'body> {
    pub(crate) fn parse(body: &'body [u8]) -> Self {
        match body {
            b"" | b"+ACK" | b"+OK" => Self::Ack,
            b"+WPI" => Self::Progress,
            [b'+', b'N', b'X', b'T', rest @ ..] => Self::Next(rest),
            [b'+', b'T', b'E', b'R', b'M', rest @ ..] => Self::Term(rest.trim_ascii()),
            [b'-', b'N', b'A', b'K', rest @ ..] => Self::Nak(delay(rest.trim_ascii())),
            _ => Self::Unknown,
        }
    }
}

fn delay(text: &[u8]) -> NakDelay<'_> {
    match text {
        b"" => NakDelay::AtOnce,
        [b'{', ..] => NakDelay::Json(text),
        _ => {
            let duration =
                std::str::from_utf8(text).ok().and_then(|text| parse_duration(text).ok());
            duration.map_or(NakDelay::Bad(text), |duration| NakDelay::Nanoseconds(duration.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_understood_as_nats_server_does() {
        let cases: [(&[u8], AckKind<'_>); 15] = [
            (b"", AckKind::Ack),
            (b"+ACK", AckKind::Ack),
            (b"+OK", AckKind::Ack),
            (b"+ACK ", AckKind::Unknown),
            (b"+NXT", AckKind::Next(b"")),
            (b"+NXT {\"batch\":5}", AckKind::Next(b" {\"batch\":5}")),
            (b"+NXT5", AckKind::Next(b"5")),
            (b"-NAK", AckKind::Nak(NakDelay::AtOnce)),
            (b"-NAK ", AckKind::Nak(NakDelay::AtOnce)),
            (b"-NAK {\"delay\":5}", AckKind::Nak(NakDelay::Json(b"{\"delay\":5}"))),
            (b"-NAK 300ms", AckKind::Nak(NakDelay::Nanoseconds(300_000_000))),
            (b"-NAK soon", AckKind::Nak(NakDelay::Bad(b"soon"))),
            (b"+WPI", AckKind::Progress),
            (b"+TERM  why not ", AckKind::Term(b"why not")),
            (b"JUNK", AckKind::Unknown),
        ];
        for (body, kind) in cases {
            assert_eq!(AckKind::parse(body), kind, "{}", String::from_utf8_lossy(body));
        }
    }
}
